"""Numbers of channels that forwards keep or work out: attributes of any name, and what calls must be given.

Which attribute of that value counts which channels is not written anywhere, so it is tried: where a dry run shows that
a group does not follow, the modules that call the operator are given the smaller numbers, and run again. Where no
attribute helps, as with `c // heads`, the call itself is given the numbers that the labels foretell. Start at
`Counting`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from ..channels.flow import Flow
from ..channels.labels import Attribute, Labels, Number, compact, constant, tensors_in
from ..channels.layout import Group, Layout, counted
from ..cutting.surgery import Cut, plan
from ..cutting.writer import SIZED, Kept
from ..graph.modes import quietly
from ..graph.network import BATCH, Network, Side
from ..graph.numbers import may_be_renumbered
from .calls import Hearing, Told, calls_of
from .dryrun import OfModule, at_random, touching
from .probe import run
from .training import Training

_ATTENTION = "scaled_dot_product_attention"
_TRIES = 12  # places of a forward, one after the other, at which a group does not follow


class Counting:
    """Finds what counts a group's channels in its forwards."""

    def __init__(self, training: Training, sides: Sequence[Side]) -> None:
        """Of a network that takes other sides too."""
        self._training, self._sides = training, sides
        self._known: dict[OfModule, _Worked] = {}

    @quietly()
    def __call__(
        self, whole: frozenset[Node], layout: Layout, group: Group, shown: Node | None
    ) -> list[Attribute | Number] | None:
        """Attributes and numbers of calls with which forwards follow a group that they do not follow otherwise.

        Args:
            whole: grouped operators that lose whole blocks.
            layout: units and groups.
            group: the one that does not follow.
            shown: an operator that shows it; nothing is run where nothing can be given there. None to run in any case.

        Returns:
            An empty list where they do follow by itself; None where they do with nothing.
        """
        forwards = self._training.forwards
        order = {one: number for number, one in enumerate(n for f in forwards for n in f.network.operators)}
        modules = dict(forwards[0].model.named_modules())
        found: list[Attribute | Number] = []
        if shown is not None and not any(self._worked(one).may_be_given(shown) for one in forwards):
            if not any(True for _ in _candidates(forwards, layout, group, shown, modules)):
                return None  # else each layer would take some runs
        place = _surprise(forwards, whole, layout, group)
        for _ in range(_TRIES):
            if place is None:
                return found
            node = place.node
            ways: list[Sequence[Attribute | Number]] = [
                [one, *_siblings(one, modules, layout, group)]
                for one in _candidates(forwards, self.known(layout, found), group, node, modules)
            ]
            numbers = self._worked(place.forward).numbers(self.known(layout, found), place)
            for way in [*ways, numbers] if numbers else ways:
                after = _surprise(forwards, whole, self.known(layout, [*found, *way]), group)
                if after is None or order[after.node] > order[node] or (way is numbers and after.node is node):
                    found, place = [*found, *way], after  # it follows up to there
                    break
            else:
                return None
        return None

    def known(self, layout: Layout, found: Sequence[Attribute | Number]) -> Layout:
        """The layout with what was found."""
        return counted(layout, found, self._training.forwards[0].model)

    def _worked(self, forward: OfModule) -> _Worked:
        return self._known.setdefault(forward, _Worked(forward, self._sides))


@dataclass(frozen=True)
class _Place:
    """Where a forward does not follow.

    Attributes:
        forward: which.
        node: the operator that shows it.
        stays: `(u,)` the units that stay.
    """

    forward: OfModule
    node: Node
    stays: Kept


# --- attributes -------------------------------------------------------------------------------------------------------


def _candidates(
    forwards: Sequence[OfModule], layout: Layout, group: Group, node: Node, modules: Mapping[str, nn.Module]
) -> Iterator[Attribute]:
    """Attributes that are read, hold a number of the group's channels and count no others.

    Those around an operator first, then those around the tensors of the group.
    """
    flow = next((one.flow for one in forwards if node in one.network.calls), None)
    if flow is None:
        return
    sizes = {
        len(ids): flow.slots[name, axis]
        for name, axes in layout.slots.items()
        for axis, ids in axes.items()
        if (name, axis) in flow.slots and len(ids) > 1 and group.holds(ids).all()
    }
    read = {one for forward in forwards for one in forward.read}
    known = {(counter.module, counter.name, counter.item) for counter in layout.counters}
    paths = [*reversed(flow.network.calls[node]), ""]
    for name, axes in layout.slots.items():
        if any(group.holds(ids).any() for ids in axes.values()):
            places = name.split(".")[:-1]
            paths += [".".join(places[:end]) for end in range(len(places), 0, -1)]
    for path in dict.fromkeys(paths):
        for name, value in vars(modules[path]).items() if path in modules else ():
            if name.startswith("_") or (path, name) not in read or not isinstance(value, (int, tuple, list)):
                continue
            numbers = [(-1, value)] if isinstance(value, int) else list(enumerate(value, -len(value)))
            for item, number in numbers:
                if type(number) is int and number in sizes and (path, name, item) not in known:
                    yield Attribute(path, name, sizes[number], item=item)


def _siblings(one: Attribute, modules: Mapping[str, nn.Module], layout: Layout, group: Group) -> Iterator[Attribute]:
    """The same attribute of other modules of that class whose own tensors hold as many channels of the group."""
    size, kind = len(one.labels), type(modules[one.module])
    for path, module in modules.items():
        if path != one.module and type(module) is kind:
            own = [f"{path}.{name}" for name in (*module._parameters, *module._buffers)]
            lines = [ids for name in own for ids in layout.slots.get(name, {}).values()]
            if any(len(ids) == size and group.holds(ids).all() for ids in lines):
                yield replace(one, module=path)


# --- numbers of calls -------------------------------------------------------------------------------------------------


class _Worked:
    """What a forward gives the functions that it calls."""

    def __init__(self, forward: OfModule, sides: Sequence[Side]) -> None:
        self._forward, self._sides = forward, sides
        self._modules = dict(forward.model.named_modules())
        self._quick = True

    @cached_property
    def _calls(self) -> dict[Node, Told]:
        """Of the full network, those that give the values of the graph."""
        forward = self._forward
        hearing, steps, failure = self._own
        rehearsal = forward.rehearsed(self._quick) or forward.rehearsal
        return calls_of(forward.network, rehearsal, hearing.told, steps) if failure is None else {}

    @cached_property
    def _own(self) -> Any:
        """What the full network calls."""
        for self._quick in (True, False):  # what runs with the full network runs with smaller ones
            heard = self._heard(Cut({}, {}, ()))
            if heard[2] is None:
                break
        return heard

    @cached_property
    def _with_heads(self) -> set[str]:
        """Modules that make heads."""
        forward = self._forward
        made = [blocks.node for blocks in forward.flow.constraints.blocks if blocks.shared]
        return {forward.network.calls[node][-1] for node in made if forward.network.calls.get(node)}

    @cached_property
    def _moving(self) -> set[tuple[Any, int]]:
        """Calls and places of the numbers that go with the number of examples or with their sides."""
        own, found = _by_key(self._own[0]), set[tuple[Any, int]]()
        sides: Sequence[Side | None] = self._sides or (self._forward.side,)
        for side in sides:
            hearing, _, failure = self._heard(Cut({}, {}, ()), batch=BATCH + 1, side=side)
            others = _by_key(hearing) if failure is None else {}
            for key in own.keys() & others.keys():
                for one, other in zip(own[key], others[key], strict=False):
                    pairs = enumerate(zip(one.operands, other.operands, strict=False))
                    found |= {(key, place) for place, (number, another) in pairs if number != another}
        return found

    def _heard(self, changes: Cut, *, batch: int = BATCH, side: Side | None = None) -> Any:
        """What a run of a smaller network calls, its steps, and what it raised if it did."""
        forward, hearing = self._forward, Hearing()
        steps, failure = run(
            forward.model,
            changes,
            forward.examples,
            side or forward.side,
            quick=self._quick,
            training=forward.training,
            batch=batch,
            watch=hearing.watch,
        )
        return hearing, steps, failure

    def may_be_given(self, node: Node) -> bool:
        """Whether the call which gives an operator's value may be given numbers: of modules around or within heads."""
        told = self._calls.get(node) if self._with_heads else None
        return told is not None and any(
            _inside(told.module, one) or _inside(one, told.module) for one in self._with_heads
        )

    def numbers(self, layout: Layout, place: _Place) -> list[Number]:
        """Those that the call which gives an operator's value must be given, and its like in other modules."""
        if not self.may_be_given(place.node):
            return []
        told = self._calls[place.node]
        small = _by_key(self._heard(plan(layout, place.stays, ()))[0]).get(told.key, [])
        own = self._of(place.node, told)
        found, heads = [], told.module in self._with_heads
        for one in own if heads else [one for one in own if one.lines is not None]:
            right = {one.left(place.stays[layout.unit_of_label])}
            if not heads:  # a size that is written down stays
                right.add(one.full)
            # One with a name is not given: the function works it out.
            if isinstance(one.place, str) or any(other.operands[one.place] not in right for other in small):
                found.append(one)
        wrong = {(one.place, one.lines is None) for one in found}
        for node, other in self._calls.items():
            kinds = {type(self._modules[one.module]) for one in (told, other)}
            if node is not place.node and len(kinds) == 1 and other.key[1:3] == told.key[1:3]:
                found += [one for one in self._of(node, other) if (one.place, one.lines is None) in wrong]
        return found

    def _of(self, node: Node, told: Told) -> list[Number]:
        """The numbers of a call that may be given, with what they count."""
        if not may_be_renumbered(self._modules[told.module]):
            return []
        network, flow = self._forward.network, self._forward.flow
        call = told.module, told.function, len(told.operands), told.earlier
        if told.function == _ATTENTION:
            return [Number(*call, "scale", None, one) for one in _scale(network, node)]
        own = pytree.tree_leaves(_counting(flow, node))
        every = [one if isinstance(one, _Counts) else _Counts(_number(network, one), None) for one in own]
        numbers = [(one.full, one.lines) for one in every if type(one.full) in (int, float)]
        places = [place for place, one in enumerate(told.operands) if one is not None]
        if [one for one, _ in numbers] != [told.operands[place] for place in places]:
            return []
        return [
            Number(*call, place, line, one)
            for place, (one, line) in zip(places, numbers, strict=True)
            if (told.key, place) not in self._moving
        ]


def _number(network: Network, value: Any) -> Any:
    """A plain value, also where the graph calculates it."""
    return network.numbers[-1].get(value, value) if isinstance(value, Node) else value


def _scale(network: Network, node: Node) -> Iterator[float]:
    """The scale of attention that is given none: of the number of features of a head."""
    query = node.args[0] if node.args else node.kwargs["query"]
    if node.kwargs.get("scale") is None and isinstance(query, Node):
        yield network.shapes[-1][query][-1] ** -0.5


def _inside(path: str, other: str) -> bool:
    """Whether a module is another, or within it."""
    return not other or f"{path}.".startswith(f"{other}.")


def _by_key(hearing: Hearing) -> dict[Any, list[Told]]:
    found: dict[Any, list[Told]] = {}
    for one in hearing.told:
        found.setdefault(one.key, []).append(one)
    return found


@dataclass(frozen=True, eq=False)
class _Counts:
    """What an operator is given, and the channels that it counts where it does."""

    full: Any
    lines: Labels | None


def _counting(flow: Flow, node: Node) -> tuple[list[Any], dict[str, Any]]:
    """The operands of an operator of a graph; of sizes that go with channels, which."""
    name, shapes = flow.network.names[node], flow.network.shapes[-1]
    args: list[Any] = list(node.args)
    kwargs: dict[str, Any] = dict(node.kwargs)

    def counts(value: Any, axis: int, size: Any, start: int = 0) -> Any:
        for labels in tensors_in(flow.values[value]):
            if type(size) is int and size > 0 and not constant(labels, axis):
                lines = np.moveaxis(compact(labels), axis, 0).reshape(labels.shape[axis], -1)[start : start + size]
                if len(np.unique(lines, axis=0)) == size:  # else it may count examples or positions too
                    return _Counts(size, lines)
        return size

    if name in SIZED:
        args[SIZED[name]] = [counts(node, axis, size) for axis, size in enumerate(args[SIZED[name]])]
    elif name == "aten.unflatten":
        axis = args[1] % len(shapes[args[0]])
        args[2] = [counts(node, axis + place, size) for place, size in enumerate(args[2])]
    elif name in ("aten.split", "aten.split_with_sizes"):
        axis = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % len(shapes[args[0]])
        if isinstance(args[1], int):
            args[1] = counts(args[0], axis, args[1])
        elif all(isinstance(size, int) for size in args[1]):
            args[1] = [counts(args[0], axis, size, sum(args[1][:n])) for n, size in enumerate(args[1])]
    elif name == "aten.narrow" and all(isinstance(bound, int) for bound in args[2:4]):
        args[2:4] = [counts(args[0], args[1], args[2]), counts(args[0], args[1], args[3], args[2])]
    return args, kwargs


# --- trials -----------------------------------------------------------------------------------------------------------


def _surprise(forwards: Sequence[OfModule], whole: frozenset[Node], layout: Layout, group: Group) -> _Place | None:
    """Where a forward first does not behave as predicted when only this group shrinks, or None."""
    least = np.zeros(layout.units, bool)
    least[group.slice][group.widths[0] // group.unit :] = True
    for gone in (at_random(layout), least):
        stays: Kept = np.ones(layout.units, bool)
        stays[group.slice] = ~gone[group.slice]
        for forward in forwards:
            node = forward.surprise(whole)(layout, stays, ())
            if node is not None:
                return _Place(forward, node, stays)
    return None


def suspects(forward: OfModule, whole: frozenset[Node], layout: Layout, names: Collection[str]) -> set[str]:
    """Which of these groups odd operators touch when all of them shrink; all where the run does not end."""
    stays, gone = np.ones(layout.units, bool), at_random(layout)
    numbers = [number for number, group in enumerate(layout.groups) if group.name in names]
    for number in numbers:
        here = layout.groups[number].slice
        stays[here] = ~gone[here]
    odd, failure = forward.odd(whole, layout, stays) if numbers else ((), None)
    if failure is not None:  # as many as can be told of
        some = [sorted(names)[place::2] for place in (0, 1) if len(names) > 1]
        return set[str]().union(*(suspects(forward, whole, layout, half) for half in some)) if some else set(names)
    return {layout.groups[number].name for node in odd for number in touching(forward.flow, layout, node, numbers)}
