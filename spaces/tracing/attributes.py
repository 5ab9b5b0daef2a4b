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
from ..channels.layout import Counter, Group, Layout, full_values
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
    model = forwards[0].model
    modules = dict(model.named_modules())
    found: list[Attribute] = []
    for _ in range(_TRIES):
        for one in _candidates(forwards, _with(model, layout, found), group, node, modules):
            more = [*found, one, *_siblings(one, modules, layout, group)]
            place = _surprise(forwards, whole, _with(model, layout, more), group)
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


def _with(model: nn.Module, layout: Layout, attributes: Sequence[Attribute]) -> Layout:
    more = [
        Counter(one.module, name, layout.unit_of_label[one.labels], 1, full, one.item)
        for one in attributes
        for name, full in full_values(model, one)
    ]
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
