"""Pictures in batches small enough to wait for one another. Start at `given`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ...spaces import Candidate, Space, as_call, device_of
from ...spaces.examples import fitted, nested, of_graph
from ..tasks.batches import in_parts, joined
from ..tasks.sources import resized
from ..tasks.task import Side, Task

_HELD = 8  # one batch of so many is not solved on: it judges
_BATCHES = 24  # that wait for one another
_MOST = 256  # where memory asks for smaller ones
_SHARE = 8  # a batch's forward takes up to this part of the memory
_CPU = 2**26  # bytes of a batch's forward on a CPU: larger tensors are new memory every time, which takes as long again


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Batches of pictures, and how a network is called with one.

    Attributes:
        batches: of any kind.
        sizes: pictures in each.
        forward: gives a network's outputs for a batch.
        originals: the same batches as the full network takes them, where the small one takes a shorter side.
    """

    batches: tuple[Any, ...]
    sizes: tuple[int, ...]
    forward: Callable[[nn.Module, Any], Any]
    originals: tuple[Any, ...] | None = None

    def held_out(self, number: int) -> bool:
        """Whether a batch is not solved on; the second of every eight is not."""
        return number % _HELD == 1

    @property
    def judges(self) -> list[int]:
        """The batches that are not solved on."""
        return [number for number in range(len(self.batches)) if self.held_out(number)]


def given(
    network: nn.Module, space: Space, candidate: Candidate, images: Tensor | Iterable[Any], *, most: int, memory: int
) -> Pictures:
    """Pictures that a user gave, checked.

    Args:
        network: that will see them.
        space: knows what it takes.
        candidate: whose side they have.
        images: as `reconstruct` takes them.
        most: how many are used.
        memory: bytes.

    Raises:
        ValueError: they do not fit the network, are not finite, or are fewer than two.
    """
    inputs, found, count = space.settings["inputs"], list[tuple[Tensor, ...]](), 0
    sides, seen = (space.side(candidate), space.side(space.full)), space.side(candidate)
    for batch in [images] if isinstance(images, Tensor) else images:
        tensors = _tensors(batch, space)
        if not found:
            seen = next((side for side in sides if _fits(tensors, space, side)), sides[0])
        _check(tensors, space, seen)
        tensors = tuple(one[: most - count] for one in tensors)
        found.append(tensors)
        count += len(tensors[0])
        if count >= most:
            break
    if count < 2:
        raise ValueError(f"images holds {count} pictures; give at least 2, better some hundreds")

    def forward(model: nn.Module, batch: tuple[Tensor, ...]) -> Any:
        call = nested(fitted(batch, model), space.settings)
        args, kwargs = as_call(of_graph(call) if space.as_graph and isinstance(model, GraphModule) else call)
        return model(*args, **kwargs)

    assert len(found[0]) == len(inputs)
    larger = seen != sides[0]
    size = batch_size(space, Candidate(space.full) if larger else candidate, count, memory, device_of(network))
    batches = tuple(itertools.islice(_regrouped(found, size), _MOST))
    shown = tuple(_resized(batch, space, sides[0]) for batch in batches) if larger else batches
    sizes = tuple(len(batch[0]) for batch in batches)
    return Pictures(batches=shown, sizes=sizes, forward=forward, originals=batches if larger else None)


def of_task(
    task: Task, space: Space, candidate: Candidate, *, most: int, memory: int, device: torch.device
) -> Pictures:
    """The first of a task's training pictures, not augmented, at the candidate's side.

    Raises:
        ValueError: they are fewer than two.
    """
    side: Side | None = space.side(candidate) or None
    found, count = list[tuple[Any, int]](), 0
    for whole in task.loader("train", side, None):
        size = batch_size(space, candidate, most, memory, device)
        [(_, examples)] = in_parts(task, whole, 1)
        found += in_parts(task, whole, -(-examples // size))
        count += examples
        if count >= most or len(found) >= _MOST:
            break
    if len(found) < 2:
        raise ValueError(f"the task's training split gives {count} pictures; reconstruction needs at least 2")
    batches, sizes = zip(*found, strict=True)
    return Pictures(batches=batches, sizes=sizes, forward=lambda model, batch: task.forward(model, batch)[0])


def batch_size(space: Space, candidate: Candidate, count: int, memory: int, device: torch.device) -> int:
    """Pictures a batch: of so many, that a batch's forward fits into a part of the memory, as arithmetic knows it."""
    full = list(space.full)
    if space.resolutions:
        full[-1] = candidate[-1]
    fits, bound = 16, memory // _SHARE if device.type == "cuda" else min(memory // _SHARE, _CPU)
    if not space.unpriced:
        costs = space.cost_table([Candidate(full)])
        fits = bound // max(1, int(costs["peak_bytes"][0] - costs["param_bytes"][0]))
    return max(1, min(fits, -(-count // _BATCHES) if count > _BATCHES * _HELD else -(-count // _HELD)))


def _tensors(batch: Any, space: Space) -> tuple[Tensor, ...]:
    """The inputs of a batch, in order."""
    names, inputs = space.settings["names"], space.settings["inputs"]
    if isinstance(batch, Mapping):
        held = [batch.get(name) for name in names or list(batch)]
    else:
        held = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    found = [one for one in held[: len(inputs)] if isinstance(one, Tensor) and one.ndim]
    if len(found) < len(inputs):
        what = ", ".join(type(one).__name__ for one in held)
        raise ValueError(
            f"a batch of images holds {what or 'nothing'}; the network takes {len(inputs)} tensors"
            f"{' named ' + ', '.join(names) if names else ''}, the batch first"
        )
    return tuple(found)


def _expected(one: Mapping[str, Any], space: Space, side: Side) -> list[int]:
    """The shape of an input without the batch."""
    shape: list[int] = list(one["shape"])
    if one["spatial"]:
        shape[-len(space.traced_side) :] = side
    return shape[1:]


def _fits(tensors: tuple[Tensor, ...], space: Space, side: Side) -> bool:
    inputs = space.settings["inputs"]
    return all(list(one.shape[1:]) == _expected(each, space, side) for one, each in zip(tensors, inputs, strict=True))


def _resized(batch: tuple[Tensor, ...], space: Space, side: Side) -> tuple[Tensor, ...]:
    """The batch as a network of another side takes it."""
    each = zip(batch, space.settings["inputs"], strict=True)
    return tuple(resized(tensor, side) if one["spatial"] else tensor for tensor, one in each)


def _check(tensors: tuple[Tensor, ...], space: Space, side: Side) -> None:
    for tensor, one in zip(tensors, space.settings["inputs"], strict=True):
        expected = _expected(one, space, side)
        if list(tensor.shape[1:]) != expected:
            raise ValueError(
                f"images are {tuple(tensor.shape)}; the network takes (n, {', '.join(map(str, expected))})"
            )
        if tensor.is_floating_point() != getattr(torch, one["dtype"]).is_floating_point:
            raise ValueError(
                f"images are {str(tensor.dtype).removeprefix('torch.')}; the network takes {one['dtype']}: scale and "
                "normalise them as for its training"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError("images hold NaN or infinite numbers; leave those pictures out")


def _regrouped(batches: Iterable[tuple[Tensor, ...]], size: int) -> Iterator[tuple[Tensor, ...]]:
    """The same pictures, so many a batch; the last may have fewer."""
    held, count = list[tuple[Tensor, ...]](), 0
    for batch in batches:
        held.append(batch)
        count += len(batch[0])
        while count >= size:
            whole = joined(held)
            yield tuple(one[:size] for one in whole)
            held, count = ([tuple(one[size:] for one in whole)], count - size) if count > size else ([], 0)
    if held:
        yield tuple(joined(held))
