"""The full network's side: what its layers give at some places of some pictures, and what it answers.

Start at `observed`. It knows of no candidate, so one is enough for all candidates of the same pictures.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...spaces import Layer, named_tensors, plain
from ...spaces.networks.patches import Call, by_places, drawn, inputs_at, outputs_at
from ...spaces.networks.watching import Watching
from ..modes import derived_seed, modes_restored
from ..tasks.batches import mapped
from ..training.training import Diverged
from .clock import Clock
from .pictures import Pictures
from .staging import Alive, Enough

Key = tuple[str, int]
"""A layer's weight, and which of its calls."""
_ANSWERS = 2**18  # numbers of an output that are compared, a batch
_ODD = 8.0  # how many times a batch norm's variance its input's may be, or the other way round
_SAME = 32  # pictures that may all have one answer by chance


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What one call of a layer gave.

    Attributes:
        given: spatial sides of its input.
        sides: spatial sides of its output.
        rows: places that are looked at, a batch; fewer where there are no more.
        batches: how many of the batches are looked at.
        values: `(r, c)` outputs of each of these.
        unknowns: inputs of one output.
    """

    given: tuple[int, ...]
    sides: tuple[int, ...]
    rows: int
    batches: int
    values: list[Tensor]
    unknowns: int

    def places(self, key: Key, number: int, examples: int) -> Tensor:
        """The places of a batch, of so many examples, as the layer sees them."""
        seed = derived_seed(zlib.crc32(key[0].encode()), key[1], number)
        return drawn(examples * math.prod(self.sides), self.rows, seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What the small network is to give.

    Attributes:
        calls: of layers, in order.
        counts: calls of each layer.
        answers: parts of the outputs for each batch that is not solved on, `(r, c)` each.
        doubts: sentences on pictures that seem to be of another kind than those the network was trained on.
    """

    calls: dict[Key, Seen]
    counts: dict[str, int]
    answers: dict[int, list[Tensor]]
    doubts: tuple[str, ...]


def observed(
    model: nn.Module,
    pictures: Pictures,
    layers: Sequence[Layer],
    *,
    memory: int,
    rows: int,
    clock: Clock | None = None,
) -> Targets:
    """What the full network gives for the pictures, in one forward each.

    Args:
        model: the full network, where it is to compute.
        pictures: at least two batches.
        layers: of the space.
        memory: bytes that what is kept may take; as many again may be used by forwards that wait.
        rows: places of all pictures together that a layer is solved on, or so many as its unknowns ask for: a quarter
            suffices for few, as of depthwise convolutions, whose rows cost most.
        clock: counts "full", the forwards, and "gather".

    Raises:
        Diverged: an output is not finite.
    """
    clock = clock or Clock()
    tensors = named_tensors(model)
    names = {id(tensors[layer.weight]): layer.weight for layer in layers}
    with modes_restored(model), torch.no_grad(), clock("full"):
        model.eval()
        calls = _planned(model, pictures, names, memory, rows)
        answers = {}
        for number in range(max([one.batches for one in calls.values()] + [max(pictures.judges) + 1])):
            found = _watched(model, pictures, number, names, calls, clock)
            flat = any(not one.given and number < one.batches for one in calls.values())
            if pictures.originals is not None and (flat or pictures.held_out(number)):
                found = _beside(model, pictures, pictures.originals[number], number, names, calls)
            if pictures.held_out(number):
                answers[number] = found
    counts = Counter(name for name, _ in calls)
    return Targets(calls=calls, counts=dict(counts), answers=answers, doubts=_doubts(calls, answers, layers, tensors))


@dataclass(frozen=True, kw_only=True)
class _Fact:
    """One call of a layer, of the first batch: sides as of `Seen`, places and channels of its output, bytes of one."""

    given: tuple[int, ...]
    sides: tuple[int, ...]
    places: int
    channels: int
    itemsize: int
    unknowns: int
    waiting: int


def _planned(model: nn.Module, pictures: Pictures, names: Mapping[int, str], memory: int, rows: int) -> dict[Key, Seen]:
    """Every call of a layer, of how many batches it is looked at, and at how many places: as fits into memory.

    The first batch tells what waits in memory when a layer is called, and thus how many batches may wait there.
    """
    own = list(named_tensors(model).values())

    def remembered(tensor: Tensor) -> Tensor:
        own.append(tensor)
        return tensor

    mapped(pictures.batches[0], remembered)
    alive, counts = Alive(own), Counter[str]()
    facts, waiting = dict[Key, _Fact](), dict[str, int]()

    def before(name: str, call: Call) -> None:
        waiting[name] = alive.bytes()

    def after(name: str, call: Call, output: Tensor) -> None:
        values = by_places(output, call)
        facts[name, counts[name]] = _Fact(
            given=tuple(call.input.shape[2:]),
            sides=tuple(output.shape[output.ndim - len(call.kernel) :]),
            places=len(values) * values.shape[2],
            channels=values.shape[1],
            itemsize=values.element_size(),
            unknowns=call.unknowns,
            waiting=waiting[name],
        )
        counts[name] += 1

    with Watching(names, before=before, after=after, given=alive.add):
        pictures.forward(model, pictures.batches[0])
    asked = {key: max(rows // 4, min(rows, 32 * one.unknowns), 2 * one.unknowns) for key, one in facts.items()}
    fits = [min(len(pictures.batches), max(2, memory // max(1, one.waiting))) for one in facts.values()]
    many = dict(zip(facts, with_one_rise(fits, [asked[key] / one.places for key, one in facts.items()]), strict=True))
    few = {key: min(one.places, -(-asked[key] // many[key])) for key, one in facts.items()}
    needed = sum(many[key] * few[key] * one.channels * one.itemsize for key, one in facts.items())
    share = min(1.0, memory / max(1, needed))
    return {
        key: Seen(
            given=one.given,
            sides=one.sides,
            rows=max(1, int(share * few[key])),
            batches=many[key],
            values=[],
            unknowns=one.unknowns,
        )
        for key, one in facts.items()
    }


def with_one_rise(most: Sequence[int], wanted: Sequence[float]) -> list[int]:
    """Numbers of batches that rise and then fall: a batch that left would have to begin anew for the layers behind.

    Args:
        most: for each layer.
        wanted: batches that have all the places that each asks for; the best share of these is chosen.
    """
    limits, asked = np.asarray(most), np.asarray(wanted)
    ways = [
        np.concatenate([np.minimum.accumulate(limits[: top + 1][::-1])[::-1], np.minimum.accumulate(limits[top:])[1:]])
        for top in range(len(limits))
    ]
    best = max(ways, key=lambda one: (float(np.minimum(one / asked, 1).sum()), int(one.sum())), default=limits)
    return [int(one) for one in best]


def _watched(
    model: nn.Module,
    pictures: Pictures,
    number: int,
    names: Mapping[int, str],
    calls: Mapping[Key, Seen],
    clock: Clock,
) -> list[Tensor]:
    """The outputs for a batch, while what its layers give is kept; nothing where they were not needed."""
    counts = Counter[str]()
    left = sum(number < one.batches for one in calls.values())

    def after(name: str, call: Call, output: Tensor) -> None:
        nonlocal left
        key = name, counts[name]
        counts[name] += 1
        seen = calls.get(key)
        if seen is None or number >= seen.batches:
            return
        with clock("gather"):
            found = by_places(output, call)
            seen.values.append(outputs_at(found, seen.places(key, number, len(call.input))).clone())
        left -= 1
        if left == 0 and not pictures.held_out(number):
            raise Enough

    try:
        with Watching(names, after=after):
            outputs = pictures.forward(model, pictures.batches[number])
    except Enough:
        return []
    return answered(outputs, number)


def _beside(
    model: nn.Module,
    pictures: Pictures,
    batch: Any,
    number: int,
    names: Mapping[int, str],
    calls: Mapping[Key, Seen],
) -> list[Tensor]:
    """The outputs for a batch at the full network's own side; layers with one place a picture are to give what they do.

    What other layers give has another side there; their targets stay those of the side that the small network takes.
    """
    counts = Counter[str]()

    def after(name: str, call: Call, output: Tensor) -> None:
        seen = calls.get((name, counts[name]))
        key, counts[name] = (name, counts[name]), counts[name] + 1
        if seen is not None and number < seen.batches and output.ndim == 2 and call.weight.ndim == 2:
            seen.values[number] = outputs_at(by_places(output, call), seen.places(key, number, len(call.input))).clone()

    with Watching(names, after=after):
        return answered(pictures.forward(model, batch), number)


def answered(outputs: Any, number: int) -> list[Tensor]:
    """`(r, c)` of every floating output, at places that are the same for all networks.

    Raises:
        Diverged: one is not finite.
    """
    found = []
    for leaf in pytree.tree_leaves(plain(outputs)):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.numel():
            continue
        values = by_places(leaf.reshape(-1, 1) if leaf.ndim < 2 else leaf)
        places = drawn(len(values) * values.shape[2], max(1, _ANSWERS // values.shape[1]), number)
        found.append(outputs_at(values, places).clone())
    if not all(bool(one.isfinite().all()) for one in found):
        raise Diverged(
            "the network's outputs for the pictures are not finite; look for NaN or infinite numbers in the pictures "
            "and in its weights"
        )
    return found


def rows_of(call: Call, seen: Seen, key: Key, number: int) -> Tensor:
    """`(r, g, d)` of what the small network's layer sees of a batch, at the places of the targets."""
    return inputs_at(call, seen.sides, seen.places(key, number, len(call.input)))


def _doubts(
    calls: Mapping[Key, Seen],
    answers: Mapping[int, list[Tensor]],
    layers: Sequence[Layer],
    tensors: Mapping[str, Tensor],
) -> tuple[str, ...]:
    """Whether the pictures are like those that the network was trained on, by its first batch norm and its answers."""
    doubts = []
    first = next((layer for layer in layers if layer.norm is not None and layer.norm.var is not None), None)
    if first is not None and (first.weight, 0) in calls:
        assert first.norm is not None and first.norm.var is not None
        values = torch.cat(calls[first.weight, 0].values).double()
        ratio = float((values.var(0) / (tensors[first.norm.var].double() + first.norm.eps)).median())
        if not 1 / _ODD < ratio < _ODD:
            doubts.append(
                f"the pictures are unlike those that the network was trained on: behind {first.name} their variance is "
                f"{ratio:.3g} times what its batch norm remembers; give them as the network takes them: scale, mean, "
                "order of channels"
            )
    given = [found[0] for found in answers.values() if found and found[0].shape[1] > 1]
    tops = torch.cat([one.argmax(1) for one in given]) if given else torch.zeros(0)
    if len(tops) >= _SAME and bool((tops == tops[0]).all()):
        doubts.append(
            f"the full network gives one answer, {int(tops[0])}, wherever it was asked ({len(tops)} times): its "
            "outputs look like chance; look at the pictures' scale, mean and order of channels"
        )
    return tuple(doubts)
