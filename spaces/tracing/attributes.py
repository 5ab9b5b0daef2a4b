"""Numbers of channels that modules keep in attributes of any name, such as a `hidden_dim` that a reshape takes.

Which attribute of that value counts which channels is not written anywhere, so it is tried: where a dry run shows that
a group does not follow, the modules that call the operator are given the smaller numbers, and run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn
from torch.fx import Node

from ..channels.labels import Attribute
from ..channels.layout import Counter, Group, Layout
from ..cutting.writer import Kept
from .dryrun import OfModule, at_random

_TRIES = 8  # places of a forward, one after the other, at which a group does not follow


def counting(
    forwards: Sequence[OfModule], whole: frozenset[Node], layout: Layout, group: Group, node: Node
) -> list[Attribute]:
    """Attributes that count a group's channels, with which its forwards follow; none where there are no such.

    Args:
        forwards: the one in eval mode, then that in training where it is another.
        whole: grouped operators that lose whole blocks.
        layout: units and groups.
        group: the one that does not follow.
        node: the operator that shows it.
    """
    order = {one: number for number, one in enumerate(one for forward in forwards for one in forward.network.operators)}
    modules = dict(forwards[0].model.named_modules())
    found: list[Attribute] = []
    for _ in range(_TRIES):
        for one in _candidates(forwards, _with(layout, found), group, node, modules):
            more = [*found, one, *_siblings(one, modules, layout, group)]
            place = _surprise(forwards, whole, _with(layout, more), group)
            if place is None:
                return more
            if order[place] > order[node]:  # it follows up to there
                found, node = more, place
                break
        else:
            return []
    return []


def _candidates(
    forwards: Sequence[OfModule], layout: Layout, group: Group, node: Node, modules: Mapping[str, nn.Module]
) -> Iterator[Attribute]:
    """Attributes around an operator whose value is a number of the group's channels, and that count no others."""
    flow = next((one.flow for one in forwards if node in one.network.calls), None)
    if flow is None:
        return
    sizes = {
        len(ids): flow.slots[name, axis]
        for name, axes in layout.slots.items()
        for axis, ids in axes.items()
        if (name, axis) in flow.slots and len(ids) > 1 and group.holds(ids).all()
    }
    known = {(counter.module, counter.name) for counter in layout.counters}
    for path in dict.fromkeys([*reversed(flow.network.calls[node]), ""]):
        for name, value in vars(modules[path]).items() if path in modules else ():
            if type(value) is int and value in sizes and (path, name) not in known and not name.startswith("_"):
                yield Attribute(path, name, sizes[value])


def _siblings(one: Attribute, modules: Mapping[str, nn.Module], layout: Layout, group: Group) -> Iterator[Attribute]:
    """The same attribute of other modules of that class whose own tensors hold as many channels of the group."""
    size, kind = len(one.labels), type(modules[one.module])
    for path, module in modules.items():
        if path != one.module and type(module) is kind and getattr(module, one.name, None) == size:
            own = [f"{path}.{name}" for name in (*module._parameters, *module._buffers)]
            lines = [ids for name in own for ids in layout.slots.get(name, {}).values()]
            if any(len(ids) == size and group.holds(ids).all() for ids in lines):
                yield Attribute(path, one.name, one.labels)


def _with(layout: Layout, attributes: Sequence[Attribute]) -> Layout:
    more = [Counter(one.module, one.name, layout.unit_of_label[one.labels], 1, len(one.labels)) for one in attributes]
    return replace(layout, counters=(*layout.counters, *more))


def _surprise(forwards: Sequence[OfModule], whole: frozenset[Node], layout: Layout, group: Group) -> Node | None:
    """The first operator that does not behave as predicted when only this group shrinks, or None."""
    least = np.zeros(layout.units, bool)
    least[group.slice][group.widths[0] // group.unit :] = True
    for gone in (at_random(layout), least):
        stays: Kept = np.ones(layout.units, bool)
        stays[group.slice] = ~gone[group.slice]
        for forward in forwards:
            node = forward.surprise(whole)(layout, stays, ())
            if node is not None:
                return node
    return None
