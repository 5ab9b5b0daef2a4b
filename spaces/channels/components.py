"""Which labels go together: the components of everything that was joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.fx import Node

from .flow import MIXED, Flow
from .labels import BLANK, Attribute, Blocks, Labels, flat, operands, squashed

ALONE = "it is used by itself, apart from its neighbours"


@dataclass(frozen=True)
class Components:
    """Which labels go together.

    Attributes:
        of: for each label the number of its component.
        frozen: the component that always stays.
        reasons: why, for each label that was frozen directly, by component before freezing.
        attributes: module attributes that count channels.
        whole: grouped operators of which whole blocks go.
        held: operators of heads of which none go.
        springs: tensors whose channels no module makes, such as a table of positions that is projected, each with the
            labels of these channels.
    """

    of: Labels
    frozen: int
    reasons: dict[int, str]
    attributes: list[Attribute]
    whole: list[Blocks]
    held: list[Blocks]
    springs: list[tuple[str, Labels]]

    def whole_blocks(self, labels: Labels) -> list[Node]:
        """The grouped operators that lose whole blocks of these channels."""
        touched = set(self.of[labels].tolist())
        return [blocks.node for blocks in self.whole if touched & set(self.of[blocks.first].tolist())]


def components(flow: Flow, aligned: frozenset[Node] = frozenset()) -> Components:
    """Join what meets; decide for each grouped operator whether whole blocks go; make every value a box of channels.

    Args:
        flow: the walk over the graph.
        aligned: grouped operators that must keep all their blocks.
    """
    constraints, frozen = flow.constraints, _frozen(flow)
    joins = list(constraints.joins)
    if flow.trained is not None:
        of = _connect(flow.count, joins, frozen)
        alone = ~np.isin(of, of[: flow.trained])
        frozen.append((np.flatnonzero(alone), "the forward uses it in training only"))
    chosen = _choose_blocks(flow, joins, frozen, aligned)
    joins += [pair for blocks, whole in chosen for pair in (blocks.whole if whole else blocks.aligned)]
    values = _distinct(flow)
    for _ in range(20):
        of = _connect(flow.count, joins, frozen)
        more = _boxes(values, of)
        if not more:
            break
        joins += more
    else:
        labels = np.concatenate([left for left, _ in more])
        frozen.append((labels[labels > BLANK], "its channels do not stay a box"))
        of = _connect(flow.count, joins, frozen)
    loose = _connect(flow.count, joins, [])
    reasons: dict[int, str] = {}
    told = [*constraints.told, *frozen, *constraints.ties]
    for labels, reason in sorted(told, key=lambda one: one[1] in (MIXED, ALONE)):  # what led to those says more
        for component in np.unique(loose[labels]):
            reasons.setdefault(int(component), reason)
    attributes = constraints.attributes + [b.attribute for b, whole in chosen if whole and b.attribute is not None]
    named = {int(label): reasons[int(component)] for label, component in enumerate(loose) if int(component) in reasons}
    held = [blocks for blocks, whole in chosen if blocks.shared and not whole]
    whole = [blocks for blocks, whole in chosen if whole]
    return Components(of, int(of[0]), named, attributes, whole, held, _springs(flow, loose))


def _springs(flow: Flow, loose: Labels) -> list[tuple[str, Labels]]:
    """The axes of tensors that a layer reads and none makes, nor any other axis of these."""
    made = np.isin(loose, loose[np.concatenate([flow.fresh(0), *(labels for _, labels in flow.constraints.makers)])])
    layers = {name for (name, _), labels in flow.slots.items() if made[labels].any()}
    given = [labels for (name, _), labels in flow.slots.items() if name in layers]
    read = np.isin(loose, loose[np.concatenate([flow.fresh(0), *given])]) & (loose != loose[0])
    return [(name, one) for (name, _), one in flow.slots.items() if name not in layers and read[one].any()]


def alike(flow: Flow, lines: Sequence[Labels]) -> bool:
    """Whether lines of labels are the same channels in the same order, as far as what was joined says."""
    of = _connect(flow.count, flow.constraints.joins, [])
    return all((line > BLANK).all() and (of[line] == of[lines[0]]).all() for line in lines)


def _frozen(flow: Flow) -> list[tuple[Labels, str]]:
    """All labels that stay, and why."""
    frozen = list(flow.constraints.frozen)
    for name, reason in flow.constraints.fixed.items():
        frozen += [(labels, reason) for (other, _), labels in flow.slots.items() if other == name]
        if name in flow.dense:
            frozen.append((flat(flow.dense[name]), reason))
    for (name, _), labels in flow.slots.items():
        if name in flow.dense:
            reason = "is used both as a weight and element by element"
            frozen += [(labels, reason), (flat(flow.dense[name]), reason)]
    return frozen + [(single, ALONE) for single in _singles(flow)]


def _connect(count: int, joins: list[tuple[Labels, Labels]], frozen: list[tuple[Labels, str]]) -> Labels:
    left = [a for a, _ in joins] + [labels for labels, _ in frozen]
    right = [b for _, b in joins] + [np.zeros_like(labels) for labels, _ in frozen]
    rows = np.concatenate(left) if left else np.zeros(0, np.int64)
    columns = np.concatenate(right) if right else np.zeros(0, np.int64)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _choose_blocks(
    flow: Flow, joins: list[tuple[Labels, Labels]], frozen: list[tuple[Labels, str]], forced: frozenset[Node]
) -> list[tuple[Blocks, bool]]:
    """Whole blocks for as many operators as allow it, tried together, then those that hang together, then one by one.

    Heads that hang together, such as those of queries, keys and values, go whole together or not at all, and with them
    what is grouped of their channels, of which several groups may then go together.
    """
    every, near = flow.constraints.blocks, _near(flow, joins)
    asked = [number for number, blocks in enumerate(every) if blocks.node not in forced]
    before = _connect(flow.count, joins, frozen)  # of many labels; what is tried joins few of their components
    whole_of = [_within(before, blocks.whole) for blocks in every]
    aligned = [_within(before, blocks.aligned) for blocks in every if blocks.node in forced]

    def free(kept: Iterable[int]) -> bool:
        some = list(kept)
        of = _connect(int(before.max()) + 1, [whole_of[number] for number in some] + aligned, [])
        stay = int(of[before[0]])
        return all(_go_apart(of[before[every[number].first]], stay, near[number] is not None) for number in some)

    hanging: dict[int, list[int]] = {}
    for number in asked:
        key = near[number]
        hanging.setdefault(-1 - number if key is None else key, []).append(number)
    whole: set[int] = set(asked) if free(asked) else set()
    for together in hanging.values() if not whole else ():
        for numbers in (together, *([number] for number in together if not every[number].shared)):
            if not whole.issuperset(numbers) and free([*whole, *numbers]):
                whole.update(numbers)
        aligned += [_within(before, every[number].aligned) for number in together if number not in whole]
    return [(blocks, number in whole) for number, blocks in enumerate(every)]


def _within(of: Labels, pairs: Sequence[tuple[Labels, Labels]]) -> tuple[Labels, Labels]:
    """The components that pairs of labels join, each pair once."""
    count = int(of.max()) + 1
    found = [np.zeros(0, np.int64), *(of[left] * count + of[right] for left, right in pairs)]
    left, right = np.divmod(np.unique(np.concatenate(found)), count)
    return left, right


def _go_apart(firsts: Labels, stay: int, several: bool) -> bool:
    """Whether blocks may go, by the components of their first channels: each by itself, or some of them together."""
    found = np.unique(firsts)
    return stay not in found and (len(found) > 1 if several else len(found) == len(firsts))


def _near(flow: Flow, joins: list[tuple[Labels, Labels]]) -> list[int | None]:
    """For each grouped operator the heads that its channels are in, which go with it, as a number; None for none."""
    of = _connect(flow.count, joins, [])
    found: list[int | None] = []
    heads: dict[int, int] = {}
    for blocks in flow.constraints.blocks:
        if blocks.shared:
            heads |= dict.fromkeys(np.unique(of[blocks.whole[0][0]]).tolist(), int(of[blocks.first[0]]))
    for blocks in flow.constraints.blocks:
        own = np.unique(of[np.concatenate([left for left, _ in blocks.whole])]).tolist()
        beside = next((heads[component] for component in own if component in heads), None)
        found.append(int(of[blocks.first[0]]) if blocks.shared else beside)
    return found


def _singles(flow: Flow) -> list[Labels]:
    """Labels of values that are one channel only: such a value cannot become smaller."""
    found = []
    for tensor in operands(flow.values.values()):
        if isinstance(tensor, Tensor) and tensor.numel():
            small = squashed(tensor)
            if small.numel() == 1 and float(small.reshape(())) > BLANK:
                found.append(flat(small))
    return found


def _distinct(flow: Flow) -> list[Tensor]:
    seen: dict[int, Tensor] = {}
    for tensor in operands((*flow.values.values(), *flow.dense.values())):
        if isinstance(tensor, Tensor):
            small = squashed(tensor)
            if small.numel() > 1:
                seen.setdefault(hash((small.data_ptr(), tuple(small.shape), small.stride())), small)
    return list(seen.values())


def _boxes(values: list[Tensor], of: Labels) -> list[tuple[Labels, Labels]]:
    """Joins that make the channels of each value change along one axis only, the longest one."""
    more = []
    for value in values:
        if sum(size > 1 for size in value.shape) < 2:
            continue
        found = of[flat(value)].reshape(value.shape)
        varying = [axis for axis in range(found.ndim) if (found != found.take([0], axis=axis)).any()]
        if len(varying) > 1:
            labels = flat(value).reshape(value.shape)
            longest = max(varying, key=lambda axis: (labels.shape[axis], axis))
            moved = np.moveaxis(labels, longest, -1).reshape(-1, labels.shape[longest])
            left, right = np.repeat(moved[:1], len(moved) - 1, axis=0).ravel(), moved[1:].ravel()
            real = (left != BLANK) & (right != BLANK)
            more.append((left[real], right[real]))
    return more
