"""What an exported program takes: a network's own inputs, or pictures that it scales and normalises itself.

pictures  (n, *side, c)  uint8, 0..255
inputs    (n, c, *side)  (pictures * scale - mean) / std, by channel
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...spaces import as_call
from ...spaces.graph.network import Examples

Side = tuple[int, ...]
_AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


@dataclass(frozen=True)
class Taking:
    """A network with an example of what it takes.

    Attributes:
        network: in eval mode on the CPU.
        example: its inputs, with a batch of 2.
        side: of those inputs that have one; empty where none has.
        first: the axis where the side begins.
    """

    network: nn.Module
    example: Examples
    side: Side = ()
    first: int = 2

    def axes(self, tensor: Tensor) -> dict[int, str]:
        """The axes of an input that are the side, with their names; none where it is no such input."""
        end = self.first + len(self.side)
        if not self.side or tensor.ndim != 2 + len(self.side) or tuple(tensor.shape[self.first : end]) != self.side:
            return {}
        return dict(zip(range(self.first, end), _AXES.get(len(self.side), ()), strict=False))

    def names(self, inputs: Any) -> tuple[dict[int, str], ...]:
        """Of each tensor among inputs the axes that may be free, with their names."""
        given = rows(inputs)
        batches: list[dict[int, str]] = [
            {0: "batch"} if one.shape[:1] == (given,) else {} for one in tensors_of(inputs)
        ]
        return tuple(own | self.axes(one) for own, one in zip(batches, tensors_of(inputs), strict=True))

    def at(self, side: Side) -> Examples:
        """The example with another side: what it holds, repeated or cut off."""
        found: Examples = pytree.tree_map_only(Tensor, partial(self._at, side), self.example)
        return found

    def _at(self, side: Side, tensor: Tensor) -> Tensor:
        for axis, size in zip(self.axes(tensor), side, strict=False):
            tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
        return tensor


def tensors_of(example: Any) -> list[Tensor]:
    """The tensors among inputs, in order."""
    return [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)]


def rows(example: Any) -> int:
    """How many examples there are: the rows of the first input. Inputs of another number have theirs in every batch."""
    return next((len(tensor) for tensor in tensors_of(example) if tensor.ndim), 0)


def pictured(taking: Taking, preprocessing: Mapping[str, Any]) -> Taking:
    """The same network, taking pictures.

    Raises:
        ValueError: it takes something else, or `preprocessing` does not say how pictures become its inputs.
    """
    tensors = tensors_of(taking.example)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
    if len(tensors) != 1 or not taking.axes(tensors[0]) or not tensors[0].is_floating_point():
        raise ValueError(
            f"pictures=True: this network takes {shapes}; expected one floating input, (batch, channels, *side)"
        )
    (like,) = tensors
    missing = [name for name in ("scale", "mean", "std") if name not in preprocessing]
    if missing:
        raise ValueError(
            f"pictures=True: preprocessing says nothing of {', '.join(missing)}; give scale, mean and std, of which an "
            "input is (picture * scale - mean) / std: Task.preprocessing, or notes={'preprocessing': ...} of sc.save"
        )
    stored = preprocessing.get("stored_dtype", "uint8")
    if stored != "uint8":
        raise ValueError(f"pictures=True: the task's pictures are {stored}; expected those of 0..255, which are uint8")
    channels = like.shape[1]
    means = [_channels(name, preprocessing[name], channels) for name in ("mean", "std")]
    random = torch.Generator().manual_seed(0)
    example = torch.randint(256, (len(like), *like.shape[2:], channels), generator=random, dtype=torch.uint8)
    around = _Pictures(taking.network, taking.example, means, float(preprocessing["scale"]))
    return Taking(around, (example,), taking.side, first=1)


def _channels(name: str, values: Any, channels: int) -> list[float]:
    found = [float(value) for value in (values if isinstance(values, (list, tuple)) else [values] * channels)]
    if len(found) != channels or (name == "std" and min(found) <= 0):
        raise ValueError(
            f"pictures=True: preprocessing has {name}={values!r}; expected {channels} numbers, one a channel"
        )
    return found


@final
class _Pictures(nn.Module):
    """A network that takes pictures."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, example: Examples, means: Sequence[Sequence[float]], scale: float) -> None:
        super().__init__()
        self.network, self._scale, self.training = network, scale, network.training
        self._leaves, self._spec = pytree.tree_flatten(example)
        self._place = next(place for place, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor))
        like = self._leaves[self._place]
        self._dtype, self._leaves[self._place] = like.dtype, None
        for name, values in zip(("mean", "std"), means, strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, -1, *(1,) * (like.ndim - 2)))

    def forward(self, pictures: Tensor) -> Any:
        """The outputs for `(n, *side, c)` pictures."""
        inputs = pictures.movedim(-1, 1).contiguous().to(torch.float32) * self._scale
        leaves = list(self._leaves)
        leaves[self._place] = ((inputs - self.mean) / self.std).to(self._dtype)
        args, kwargs = as_call(pytree.tree_unflatten(leaves, self._spec))
        return self.network(*args, **kwargs)
