"""Units and groups: which indices of which tensors go together, and how wide each group may be.

A *unit* is all indices that must go together; units that appear in the same places equally often are interchangeable
and form a *group*. A `Layout` says, for every axis of every tensor that is cut, which unit each index belongs to: unit
0 always stays. Everything else (surgery, costs, masks) is a loop over its slots.

Symbols: `ids` is `(size of the axis,)` unit numbers of the indices of one axis; `u` units of all groups.
"""

from __future__ import annotations

import builtins
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ..graph.standin import Gives
from .descriptions import descriptions
from .labels import Attribute, Labels, Number, compact, flat, squashed, tensors_in

if TYPE_CHECKING:
    from .components import Components
    from .flow import Flow

Ids = npt.NDArray[np.int64]
Slots = dict[str, dict[int, Ids]]
"""Which unit each index belongs to: `{parameter or buffer: {axis: (size of the axis,) unit numbers}}`."""
Widths = Callable[[Sequence[tuple[str, int]], int], tuple[tuple[int, ...], str]]
"""From the modules that make a group's channels, each with the channels of a unit, and its units to the legal widths,
ascending, in channels of the first one; and a reason, empty for none of its own, where there is one width only."""


@dataclass(frozen=True)
class Group:
    """Units of one width axis.

    Attributes:
        name: the first module that makes its channels.
        members: all modules that make its channels, in the order of the network.
        units: how many units there are.
        unit: channels of a unit in the first member.
        first: number of its first unit; they are consecutive.
        widths: legal widths, ascending, in channels of the first member.
        heads: how many heads of attention a unit is; 0 for channels of no heads.
    """

    name: str
    members: tuple[str, ...]
    units: int
    unit: int
    first: int
    widths: tuple[int, ...]
    heads: int = 0

    @property
    def width(self) -> int:
        """Channels of the first member in the full network."""
        return self.units * self.unit

    @property
    def slice(self) -> builtins.slice:
        """Its units, among all: `array[group.slice]` of a `(u,)` array."""
        return builtins.slice(self.first, self.first + self.units)

    def holds(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of these unit numbers are its own, as an array of the same shape."""
        return (ids >= self.first) & (ids < self.first + self.units)


@dataclass(frozen=True)
class Counter:
    """A module attribute that counts channels, `how many of ids stay // divide`; `item` of it where it is a tuple."""

    module: str
    name: str
    ids: Ids
    divide: int
    full: int | tuple[int, ...]
    item: int = -1


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the units of all groups are.

    Attributes:
        groups: units that are cut together.
        slots: which unit each index belongs to.
        counters: module attributes that count channels.
        numbers: that calls of smaller networks must be given.
        frozen: `{module: reason}` of what is left whole.
        unit_of_label: unit number of each label of the walk.
        gives: by block, what takes its place gives, where that is not all that the block takes.
        keeping: dictionaries that a forward keeps tensors in for the next call: module and attribute.
    """

    groups: tuple[Group, ...]
    slots: Slots
    counters: tuple[Counter, ...]
    frozen: dict[str, str]
    unit_of_label: Ids = field(repr=False)
    gives: dict[str, Gives] = field(default_factory=dict, repr=False)
    numbers: tuple[Number, ...] = field(default=(), repr=False)
    keeping: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @cached_property
    def units(self) -> int:
        """Units of all groups, and the one that always stays."""
        return 1 + sum([group.units for group in self.groups])

    @cached_property
    def group_of_unit(self) -> Ids:
        """`(u,)` number of each unit's group, counted from 1; 0 for the unit that always stays."""
        return np.repeat(np.arange(1 + len(self.groups)), [1, *[group.units for group in self.groups]])

    @cached_property
    def tensors_of_groups(self) -> list[list[str]]:
        """For each group, the parameters and buffers that hold its units."""
        names: list[list[str]] = [[] for _ in range(1 + len(self.groups))]
        for name, axes in self.slots.items():
            for ids in axes.values():
                for number in np.unique(self.group_of_unit[ids]):
                    names[number].append(name)
        return names[1:]

    def ids(self, labels: Tensor) -> Ids:
        """The unit numbers of labels, each axis along which the labels do not change cut to one."""
        found: Ids = self.unit_of_label[compact(labels)]
        return found


def arrange(
    flow: Flow, found: Components, *, widths: Widths, aliases: Mapping[str, Sequence[str]], model: nn.Module
) -> Layout:
    """Number the units, form the groups and say what is frozen.

    Args:
        flow: the walk over the graph.
        found: which labels go together.
        widths: gives the legal widths of a group.
        aliases: all names of each tensor that has several (tied weights).
        model: the network; its modules' attributes are read.
    """
    labels_of = _slots(flow, found.of)
    groups, unit_of_label, reasons = _groups(flow, found, labels_of, widths)
    slots: Slots = {}
    for name, axes in labels_of.items():
        for axis, labels in axes.items():
            ids = unit_of_label[labels]
            if ids.any():
                for alias in aliases.get(name, (name,)):
                    slots.setdefault(alias, {})[axis] = ids
    frozen = _frozen(flow, found, unit_of_label, reasons)
    layout = Layout(tuple(groups), slots, tuple(_described(model, slots)), frozen, unit_of_label)
    return counted(layout, [*found.attributes, *flow.constraints.counts], model)


def counted(layout: Layout, counts: Sequence[Attribute | Number], model: nn.Module) -> Layout:
    """The layout with attributes and numbers of calls that count channels."""
    of = layout.unit_of_label
    counters, numbers = [], []
    for one in counts:
        if isinstance(one, Number):
            numbers.append(one if one.lines is None else replace(one, lines=of[one.lines]))
        elif of[one.labels].any():
            counters += [
                Counter(one.module, name, of[one.labels], one.divide, full, one.item)
                for name, full in full_values(model, one)
            ]
    return replace(layout, counters=(*layout.counters, *counters), numbers=(*layout.numbers, *numbers))


def contested(
    layout: Layout, attributes: Sequence[Attribute | Number], model: nn.Module
) -> Iterator[tuple[str, str, Labels, Labels]]:
    """Module attributes that would count two things, which need not shrink alike: module, name, labels of both."""
    counts: dict[tuple[str, str, int], Attribute] = {}
    for other in [one for one in attributes if isinstance(one, Attribute)]:
        for name, _ in full_values(model, other):
            one = counts.setdefault((other.module, name, other.item), other)
            mine, its = (np.sort(layout.unit_of_label[labels]) for labels in (one.labels, other.labels))
            if mine.any() and its.any() and len(mine) == len(its) and (mine != its).any():
                yield other.module, name, one.labels, other.labels


def _described(model: nn.Module, slots: Slots) -> Iterator[Counter]:
    """Counters of what libraries keep beside the layers."""
    for one in descriptions(model):
        ids = slots.get(one.tensor, {}).get(one.axis)
        value = getattr(model.get_submodule(one.module), one.name, None)
        if ids is not None and type(value) is int and value > 0 and len(ids) % value == 0:
            yield Counter(one.module, one.name, ids, len(ids) // value, value)


def _groups(
    flow: Flow, found: Components, slots: Mapping[str, Mapping[int, Labels]], widths: Widths
) -> tuple[list[Group], Ids, dict[int, str]]:
    """The groups, the unit number of each label, and why components that could be units are none."""
    of = found.of
    signature = _signatures(flow, found, slots)
    first_label = np.full(len(signature), np.iinfo(np.int64).max)
    np.minimum.at(first_label, of, np.arange(len(of)))
    together: dict[int, list[int]] = {}
    for component in _in_slots(found, slots, first_label):
        together.setdefault(int(signature[component]), []).append(component)
    number_of = np.zeros(len(signature), np.int64)
    heads = [of[blocks.first] for blocks in found.whole if blocks.shared]
    groups: list[Group] = []
    reasons: dict[int, str] = {}
    names: dict[str, int] = {}
    first = 1
    for members in together.values():
        makers = _makers(flow, found, members[0])
        if not makers:
            continue
        name, unit = makers[0]
        units = len(members)
        legal, why = widths(makers, units)
        if len(legal) < 2:
            for component in members:
                known = found.reasons.get(
                    int(first_label[component]), "it is a single unit: all of it must stay together"
                )
                reasons[component] = why or known
            continue
        names[name] = names.get(name, 0) + 1
        title = name if names[name] == 1 else f"{name}#{names[name]}"
        made = tuple(dict.fromkeys(module for module, _ in makers))
        count = max([int((one == members[0]).sum()) for one in heads], default=0)
        groups.append(Group(title, made, units, unit, first, legal, count))
        number_of[members] = np.arange(first, first + units)
        first += units
    return groups, number_of[of], reasons


def _in_slots(found: Components, slots: Mapping[str, Mapping[int, Labels]], first_label: Labels) -> list[int]:
    """The components that are in slots and may go, in the order of their first labels."""
    inside = np.zeros(len(first_label), bool)
    for axes in slots.values():
        for labels in axes.values():
            inside[found.of[labels]] = True
    inside[found.frozen] = False
    components = np.flatnonzero(inside)
    ordered: list[int] = components[np.argsort(first_label[components], kind="stable")].tolist()
    return ordered


def full_values(model: nn.Module, attribute: Attribute) -> Iterator[tuple[str, int | tuple[int, ...]]]:
    """The attributes of that name or pattern which are the count, with their values; none that are something else."""
    try:
        module = model.get_submodule(attribute.module)
    except AttributeError:  # a plain function that the forward calls as if it were a module
        return
    count = len(attribute.labels) // attribute.divide
    names = [attribute.name]
    if "*" in attribute.name:  # a size of heads is not their number
        names = [name for name in fnmatch.filter(vars(module), attribute.name) if not re.search("dim|size", name)]
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, (tuple, list)) and len(value) >= -attribute.item and value[attribute.item] == count:
            yield name, tuple(int(item) for item in value)
        elif isinstance(value, int) and value == count:
            yield name, count


def _slots(flow: Flow, of: Labels) -> dict[str, dict[int, Labels]]:
    slots: dict[str, dict[int, Labels]] = {}
    for (name, axis), labels in flow.slots.items():
        slots.setdefault(name, {})[axis] = labels
    for name, tensor in flow.dense.items():
        labels = flat(tensor).reshape(tensor.shape)
        values = of[labels]
        for axis in range(values.ndim):
            if (values != values.take([0], axis=axis)).any():
                slots.setdefault(name, {})[axis] = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]
    return slots


def _signatures(flow: Flow, found: Components, slots: Mapping[str, Mapping[int, Labels]]) -> npt.NDArray[np.uint64]:
    """A number for each component that two share only if they appear in the same places equally often."""
    random = np.random.default_rng(0)
    size = int(found.of.max()) + 1
    signature = np.zeros(size, np.uint64)
    seen: set[int] = set()

    def add(labels: Labels) -> None:
        counts = np.bincount(found.of[labels], minlength=size)
        here = np.flatnonzero(counts)
        factor = random.integers(1, 2**63, dtype=np.uint64) | np.uint64(1)
        signature[here] += counts[here].astype(np.uint64) * factor

    for axes in slots.values():
        for labels in axes.values():
            add(labels)
    for value in flow.values.values():
        for tensor in tensors_in(value):
            small = squashed(tensor)
            key = hash((small.data_ptr(), tuple(small.shape), small.stride()))
            if small.numel() > 1 and key not in seen:
                seen.add(key)
                add(flat(small))
    return signature


def _makers(flow: Flow, found: Components, component: int) -> list[tuple[str, int]]:
    """What makes channels of a component, each with how many."""
    makers = [*flow.constraints.makers, *found.springs]
    counts = [(module, int((found.of[labels] == component).sum())) for module, labels in makers]
    return [(module, count) for module, count in counts if count]


def _frozen(flow: Flow, found: Components, unit_of_label: Ids, reasons: Mapping[int, str]) -> dict[str, str]:
    frozen: dict[str, str] = {}
    for module, labels in (*flow.constraints.makers, *found.springs):
        stays = labels[unit_of_label[labels] == 0]
        if not len(stays):
            continue
        known = [found.reasons[int(label)] for label in stays if int(label) in found.reasons]
        known += [reasons[int(c)] for c in found.of[stays] if int(c) in reasons]
        reason = known[0] if known else "it is tied to channels that must stay"
        part = "" if len(stays) == len(labels) else f"{len(stays)} of {len(labels)} channels: "
        frozen.setdefault(module, part + reason)
    for blocks in found.held:  # features of the heads go, so it is said why heads do not
        why = [found.reasons[int(label)] for label in blocks.first if int(label) in found.reasons]
        if why and unit_of_label[blocks.whole[0][0]].any() and blocks.node in flow.network.calls:
            frozen.setdefault(f"heads of {flow.network.calls[blocks.node][-1]}", why[0])
    return frozen
