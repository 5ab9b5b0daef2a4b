"""A built network held against the masked one, and how much of the network that could see. Start at `compared`.

Where an output does not depend on a group, a comparison proves nothing of it. So both networks hold other numbers where
a head or a residual branch is all zero, and where all channels of a tensor are alike (`prepared`); what the outputs
still do not react to is counted. Where they react to nothing, activations leak in both (`Leaking`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..channels.layout import Layout
from ..examples import of_graph
from ..graph.modes import DrawnAlike, keeping
from ..graph.network import Examples
from ..graph.standin import in_place_of
from .masked import masked_outputs, outputs_of, relative_error
from .surgery import copied, named_tensors

Stays = npt.NDArray[np.bool_]
Build = Callable[[nn.Module], nn.Module]


class Difference(float):
    """A relative error that says what it saw; NaN where it saw nothing.

    Attributes:
        groups: how many groups of channels were cut.
        reached: how many of them the outputs react to; None where that is unknown, because outputs have no gradient.
    """

    groups: int
    reached: int | None

    def __new__(cls, error: float, groups: int, reached: int | None) -> Self:
        """The error, unless no group of those that were cut reaches an output."""
        found = super().__new__(cls, math.nan if groups and reached == 0 else error)
        found.groups, found.reached = groups, reached
        return found

    def __getnewargs__(self) -> tuple[float, int, int | None]:  # type: ignore[override]
        """For copies."""
        return float(self), self.groups, self.reached

    def __str__(self) -> str:
        """The error, and of how many groups."""
        return f"{float(self):.1e} ({self.seen})"

    __repr__ = __str__

    @property
    def seen(self) -> str:
        """How much of the network an output reacts to."""
        if not self.groups:
            return "no channels are cut"
        if self.reached is None:
            return "outputs have no gradient, so how much of the network they see is unknown"
        return f"{self.reached} of {self.groups} groups that are cut reach an output"


def prepared(model: nn.Module, layout: Layout, *, double: bool = False) -> nn.Module:
    """A copy in eval mode whose zeros and equal channels are made unequal: those would hide a difference.

    Parameters that are all zero get small seeded noise; what is cut and all equal is varied by up to a tenth.

    Args:
        model: the full network.
        layout: its units.
        double: whether floating tensors are turned to float64.
    """
    twin = copied(model).eval()
    twin = twin.double() if double else twin
    random = torch.Generator().manual_seed(0)
    parameters = {id(parameter) for parameter in twin.parameters()}
    tensors = {id(tensor): (name, tensor) for name, tensor in reversed(named_tensors(twin).items())}
    with torch.no_grad():
        for name, tensor in tensors.values():
            inside = id(tensor) in parameters
            if not tensor.is_floating_point() or not tensor.numel() or not (inside or name in layout.slots):
                continue
            first, last = tensor.flatten()[[0, -1]]
            if first != last or not bool((tensor == first).all()) or (first != 0 and name not in layout.slots):
                continue
            noise = torch.rand(tensor.shape, generator=random, dtype=torch.float64).to(tensor)
            if first == 0:
                tensor.copy_((noise - 0.5) * 2 / math.sqrt(max(1, math.prod(tensor.shape[1:]))))
            else:
                tensor.mul_(1 + noise / 10)
    return twin


def compared(
    whole: nn.Module,
    layout: Layout,
    stays: Stays,
    removed: Sequence[str],
    examples: Examples,
    build: Build,
    *,
    as_graph: bool = False,
    look: bool = True,
) -> Difference:
    """Relative error of a built network: largest difference / largest output, the worst of all floating outputs.

    Args:
        whole: the full network, as of `prepared`; it is put back as it was.
        layout: its units.
        stays: `(u,)` whether each unit stays.
        removed: modules that become the identity.
        examples: inputs of the forward.
        build: makes the small network from the full one.
        as_graph: whether it is a graph, which takes its inputs as one does.
        look: whether to count what reaches an output; that takes a backward pass.

    Raises:
        ValueError: the built network gives other tensors or other shapes than the full one.
    """
    cut = [number for number, group in enumerate(layout.groups) if not stays[group.slice].all()]
    with own_randomness(whole), keeping(whole):
        with torch.no_grad():
            got = outputs_of(build(whole).eval(), of_graph(examples) if as_graph else examples)
        with _without(whole, layout, removed):
            reached = _reached(whole, layout, cut, examples) if look and cut else None
            kept = {
                name: {axis: torch.from_numpy(np.flatnonzero(stays[ids])) for axis, ids in layout.slots[name].items()}
                for name in named_tensors(whole)
                if name in layout.slots
            }
            return Difference(relative_error(got, masked_outputs(whole, kept, examples)), len(cut), reached)


@contextlib.contextmanager
def _without(model: nn.Module, layout: Layout, removed: Sequence[str]) -> Iterator[None]:
    """While some blocks are skipped."""
    blocks = [(name, model.get_submodule(name)) for name in removed]
    try:
        for name, block in blocks:
            model.set_submodule(name, in_place_of(block, layout.gives.get(name)))
        yield
    finally:
        for name, block in blocks:
            model.set_submodule(name, block)


def _reached(model: nn.Module, layout: Layout, numbers: Sequence[int], examples: Examples) -> int | None:
    """How many of these groups have a parameter with a gradient; None where outputs have no gradients."""
    parameters = {
        name: parameter.requires_grad_()
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and name in layout.slots
    }
    with torch.enable_grad():
        outputs = [one for one in outputs_of(model, examples) if one.is_floating_point() and one.requires_grad]
        if not outputs:
            return None
        random = np.random.default_rng(0)  # PyTorch's numbers are all alike here, and a norm or a softmax has one sum
        unlike = [torch.from_numpy(np.asarray(random.normal(size=one.shape))).to(one) for one in outputs]
        total: Tensor = sum((one * other).sum() for one, other in zip(outputs, unlike, strict=True))  # type: ignore[assignment]
        vectors = [name for name, parameter in parameters.items() if parameter.ndim == 1]
        others = [name for name in parameters if name not in set(vectors)]
        reacts = np.zeros(layout.units, bool)
        for names in (vectors, others):  # gradients of biases and norms take half the time, and mostly tell
            try:
                some = [parameters[name] for name in names]
                gradients = torch.autograd.grad(total, some, allow_unused=True, retain_graph=True) if some else ()
            except RuntimeError:  # what a forward overwrites in place has none
                return None
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    for axis, ids in layout.slots[name].items():
                        lines = gradient.movedim(axis, 0).reshape(len(ids), -1)
                        reacts[ids[(lines != 0).any(1).cpu().numpy()]] = True
            count = sum(bool(reacts[layout.groups[number].slice].any()) for number in numbers)
            if count == len(numbers):
                break
    return count


@contextlib.contextmanager
def own_randomness(model: nn.Module) -> Iterator[None]:
    """What forwards draw does not move the global generators, and is the same in networks of other widths."""
    tensors = (*model.parameters(), *model.buffers())
    devices = sorted({tensor.device for tensor in tensors if tensor.device.type == "cuda"}, key=str)
    with torch.random.fork_rng(devices=devices), DrawnAlike(devices):
        yield
