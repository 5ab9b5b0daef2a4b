"""How channels flow: one label a channel, carried through the graph.

A label is a number that names a channel of some tensor; 0 stands for "always there". Each value of the graph holds a
tensor of labels of the value's own shape, with stride 0 along every axis on which the label does not change, so it
stays small. Operators that only move data are run on the labels; elementwise ones *join* the labels that meet;
operators that make channels give new ones (`spaces.rules`). What an operator cannot follow is *frozen*, with a reason.

`follow` walks the graph once; `Flow` holds what was found; `components` says which labels ended up together.

Symbols: a *slot* is a pair (tensor name, axis) of the model with one label an index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.fx import Node

from .graph import Network, operator_name, where

Labels = npt.NDArray[np.int64]
DENSE = 2_000_000  # a parameter of more elements is not labelled element by element


@dataclass(frozen=True)
class Source:
    """A parameter or buffer of the model, as a value of the graph."""

    name: str
    shape: tuple[int, ...]


@dataclass
class Blocks:
    """Channels that come in `count` consecutive blocks: a grouped convolution or a group norm.

    Either whole blocks go, or the same positions go in every block; the choice is made once all joins are known.

    Attributes:
        node: the operator.
        whole: pairs to join when whole blocks go.
        aligned: pairs to join when the same positions go in every block.
        first: one label of each block; distinct and free ones allow whole blocks.
        attribute: module attribute that counts the blocks, set when whole blocks go.
    """

    node: Node
    whole: list[tuple[Labels, Labels]]
    aligned: list[tuple[Labels, Labels]]
    first: Labels
    attribute: Attribute | None


@dataclass(frozen=True)
class Attribute:
    """A module attribute that counts channels: `how many of labels stay // divide`."""

    module: str
    name: str
    labels: Labels
    divide: int = 1


@dataclass
class Flow:
    """What the walk has found so far."""

    network: Network
    side: int = 0
    count: int = 1
    slots: dict[tuple[str, int], Labels] = field(default_factory=dict)
    dense: dict[str, Tensor] = field(default_factory=dict)
    joins: list[tuple[Labels, Labels]] = field(default_factory=list)
    frozen: list[tuple[Labels, str]] = field(default_factory=list)
    fixed_sources: dict[str, str] = field(default_factory=dict)
    blocks: list[Blocks] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    values: dict[Node, Any] = field(default_factory=dict)
    weights: dict[Node, list[str]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    blocked: frozenset[Node] = frozenset()
    makers: list[tuple[str, Labels]] = field(default_factory=list)
    reasons_of_ties: list[tuple[Labels, str]] = field(default_factory=list)

    def fresh(self, n: int) -> Labels:
        """`n` labels never used before."""
        labels = np.arange(self.count, self.count + n, dtype=np.int64)
        self.count += n
        return labels

    def slot(self, name: str, axis: int) -> Labels:
        """The labels of the indices of one axis of a tensor of the model."""
        key = (name, axis)
        if key not in self.slots:
            self.slots[key] = self.fresh(self.shapes[name][axis])
        return self.slots[key]

    def join(self, left: Labels, right: Labels) -> None:
        """Say that labels at the same places go together; 0 among them freezes the other."""
        differ = left != right
        if differ.any():
            self.joins.append((left[differ], right[differ]))

    def tie(self, labels: Tensor, axes: Sequence[int], reason: str) -> None:
        """Join all labels that lie on one line along `axes`."""
        if all(constant(labels, axis) for axis in axes):
            return
        moved = labels.movedim(tuple(axes), tuple(range(len(axes))))
        small = squashed(moved)
        lines = flat(small).reshape(int(np.prod(small.shape[: len(axes)])), -1)
        self.join(np.repeat(lines[:1], len(lines) - 1, axis=0).ravel(), lines[1:].ravel())
        self.reasons_of_ties.append((lines[0], reason))

    def freeze(self, labels: Tensor | Labels, reason: str) -> None:
        """Keep these channels always, and say why."""
        array = flat(squashed(labels)) if isinstance(labels, Tensor) else labels.ravel()
        array = array[array != 0]
        if array.size:
            self.frozen.append((np.unique(array), reason))

    def labels(self, value: Any) -> Tensor:
        """The label tensor of an operand: a value of the graph, a parameter, or a plain number."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Source):
            return self._of_source(value)
        return torch.zeros((), dtype=torch.float64)

    def _of_source(self, source: Source) -> Tensor:
        axes = [axis for axis, size in enumerate(source.shape) if size > 1]
        if not axes:
            return torch.zeros((1,) * len(source.shape), dtype=torch.float64).expand(source.shape)
        if len(axes) == 1:
            labels = torch.from_numpy(self.slot(source.name, axes[0]).astype(np.float64))
            return labels.reshape([-1 if axis == axes[0] else 1 for axis in range(len(source.shape))])
        if source.name not in self.dense:
            size = int(np.prod(source.shape))
            if size > DENSE:
                self.fixed_sources[source.name] = "is used element by element and too large to follow"
                return nothing(source.shape)
            self.dense[source.name] = torch.from_numpy(self.fresh(size).astype(np.float64)).reshape(source.shape)
        return self.dense[source.name]

    def module(self, node: Node) -> str:
        """Path of the innermost module that called the operator."""
        calls = self.network.calls[node]
        return calls[-1] if calls else ""


def nothing(shape: Sequence[int]) -> Tensor:
    """Labels of a value that carries no channel."""
    return torch.zeros((1,) * len(shape), dtype=torch.float64).expand(tuple(shape))


def constant(labels: Tensor, axis: int) -> bool:
    """Whether the label does not change along an axis (after `compressed`)."""
    return labels.shape[axis] <= 1 or labels.stride(axis) == 0


def squashed(labels: Tensor) -> Tensor:
    """The labels with each axis along which they do not change cut to one."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1 and labels.stride(axis) == 0:
            labels = labels.narrow(axis, 0, 1)
    return labels


def compressed(labels: Tensor) -> Tensor:
    """Equal labels, with stride 0 along each axis on which they do not change."""
    shape = labels.shape
    if 0 in shape:
        return nothing(shape)
    small = squashed(labels)
    for axis in range(small.ndim):
        if small.shape[axis] > 1:
            head = small.narrow(axis, 0, 1)
            if bool((small == head).all()):
                small = head
    return small.expand(shape)


def flat(labels: Tensor) -> Labels:
    """All labels in order, as integers."""
    array: Labels = labels.reshape(-1).numpy().astype(np.int64)
    return array


def along(labels: Tensor, axis: int) -> Labels | None:
    """The labels along one axis where nothing changes along the others, else None."""
    axis %= labels.ndim
    if any(not constant(labels, other) for other in range(labels.ndim) if other != axis):
        return None
    index = tuple(slice(None) if other == axis else 0 for other in range(labels.ndim))
    return flat(labels[index])


def spread(labels: Labels, axis: int, shape: Sequence[int]) -> Tensor:
    """A label tensor of `shape` that changes along one axis."""
    axis %= len(shape)
    tensor = torch.from_numpy(labels.astype(np.float64))
    return tensor.reshape([-1 if other == axis else 1 for other in range(len(shape))]).expand(tuple(shape))


Rule = Callable[[Flow, Node, list[Any], dict[str, Any]], Any]


def follow(
    network: Network,
    shapes: dict[str, tuple[int, ...]],
    rule_for: Callable[[Node], Rule | None],
    blocked: frozenset[Node] = frozenset(),
) -> Flow:
    """Walk the graph once and gather joins, slots and what is frozen.

    Args:
        network: the captured graph.
        shapes: shape of each parameter and buffer by name.
        rule_for: the rule of a node's operator, or None.
        blocked: nodes whose operands and results are frozen, because a run showed that sizes there are written in.
    """
    flow = Flow(network, shapes=shapes, blocked=blocked)
    for node in network.graph.nodes:
        if node.op == "placeholder":
            name = network.sources.get(node)
            if name is not None:
                flow.values[node] = Source(name, shapes[name])
            else:
                shape = network.shapes[flow.side].get(node)
                flow.values[node] = nothing(shape) if isinstance(shape, tuple) else None
        elif node.op == "call_function":
            flow.values[node] = _call(flow, node, rule_for(node))
        elif node.op == "get_attr":
            shape = network.shapes[flow.side].get(node)
            flow.values[node] = nothing(shape) if isinstance(shape, tuple) else None
    for node in network.outputs:
        _freeze_all(flow, flow.values[node], "its channels are the network's output")
    return flow


def _call(flow: Flow, node: Node, rule: Rule | None) -> Any:
    shape = flow.network.shapes[flow.side].get(node)
    if shape is None:
        return flow.network.numbers[flow.side].get(node)

    def look(arg: Any) -> Any:
        return flow.values[arg] if isinstance(arg, Node) else arg

    args = [torch.fx.node.map_arg(arg, look) for arg in node.args]
    kwargs = {name: torch.fx.node.map_arg(arg, look) for name, arg in node.kwargs.items()}
    names = [value.name for value in _tensors([*args, *kwargs.values()]) if isinstance(value, Source)]
    if names:
        flow.weights[node] = names
    result = None
    reason = f"operator {operator_name(node)} has no rule"
    if rule is not None:
        try:
            result = rule(flow, node, args, kwargs)
        except Unfollowed as unfollowed:
            reason = str(unfollowed)
    if node in flow.blocked:
        place = where(node)
        reason = f"a size is written as a constant{f' at {place}' if place else ''}"
        for value in (*_tensors([*args, *kwargs.values()]), *_tensors([result])):
            _freeze_all(flow, value, reason)
    if result is not None:
        return result
    for value in _tensors([*args, *kwargs.values()]):
        _freeze_all(flow, value, reason)
    return nothing(shape) if isinstance(shape, tuple) else [nothing(s) if s is not None else None for s in shape]


class Unfollowed(Exception):
    """Raised by a rule that cannot follow its operands; the text becomes the reason of what is frozen."""


def _tensors(values: Any) -> list[Any]:
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in _tensors(value)]
    return [values] if isinstance(values, (Tensor, Source)) else []


def _freeze_all(flow: Flow, value: Any, reason: str) -> None:
    for tensor in _tensors([value]):
        if isinstance(tensor, Source):
            flow.fixed_sources.setdefault(tensor.name, reason)
        else:
            flow.freeze(tensor, reason)


@dataclass(frozen=True)
class Components:
    """Which labels go together.

    Attributes:
        of: for each label the number of its component.
        frozen: the component that always stays.
        reasons: why, for each label that was frozen directly, by component before freezing.
        attributes: module attributes that count channels.
        whole: grouped operators of which whole blocks go.
    """

    of: Labels
    frozen: int
    reasons: dict[int, str]
    attributes: list[Attribute]
    whole: list[Blocks]

    def meet(self, flow: Flow, node: Node) -> list[Node]:
        """The grouped operators that lose whole blocks of channels which a node's operands or results carry."""
        touched: set[int] = set()
        for source in (node, *node.all_input_nodes):
            for tensor in _tensors([flow.values.get(source)]):
                if isinstance(tensor, Tensor):
                    labels = flat(squashed(tensor))
                    touched.update(self.of[labels[labels != 0]].tolist())
        return [blocks.node for blocks in self.whole if touched & set(self.of[blocks.first].tolist())]


def components(flow: Flow, aligned: frozenset[Node] = frozenset()) -> Components:
    """Join what meets; decide for each grouped operator whether whole blocks go; make every value a box of channels.

    Args:
        flow: the walk over the graph.
        aligned: grouped operators that must keep all their blocks.
    """
    for name, reason in flow.fixed_sources.items():
        for (other, _), labels in flow.slots.items():
            if other == name:
                flow.frozen.append((labels, reason))
        if name in flow.dense:
            flow.frozen.append((flat(flow.dense[name]), reason))
    for (name, _), labels in flow.slots.items():
        if name in flow.dense:
            reason = "is used both as a weight and element by element"
            flow.frozen.append((labels, reason))
            flow.frozen.append((flat(flow.dense[name]), reason))
    joins = list(flow.joins)
    for single in _singles(flow):
        flow.frozen.append((single, "it is used by itself, apart from its neighbours"))
    chosen = _choose_blocks(flow, joins, aligned)
    joins += [pair for blocks, whole in chosen for pair in (blocks.whole if whole else blocks.aligned)]
    values = _distinct(flow)
    for _ in range(20):
        of = _connect(flow.count, joins, flow.frozen)
        more = _boxes(values, of)
        if not more:
            break
        joins += more
    else:
        flow.freeze(np.concatenate([left for left, _ in more]), "its channels do not stay a box")
        of = _connect(flow.count, joins, flow.frozen)
    loose = _connect(flow.count, joins, [])
    reasons: dict[int, str] = {}
    for labels, reason in flow.frozen:
        for component in np.unique(loose[labels]):
            reasons.setdefault(int(component), reason)
    for labels, reason in flow.reasons_of_ties:
        for component in np.unique(loose[labels]):
            reasons.setdefault(int(component), reason)
    attributes = flow.attributes + [b.attribute for b, whole in chosen if whole and b.attribute is not None]
    named = {int(label): reasons[int(component)] for label, component in enumerate(loose) if int(component) in reasons}
    return Components(of, int(of[0]), named, attributes, [blocks for blocks, whole in chosen if whole])


def _connect(count: int, joins: list[tuple[Labels, Labels]], frozen: list[tuple[Labels, str]]) -> Labels:
    left = [a for a, _ in joins] + [labels for labels, _ in frozen]
    right = [b for _, b in joins] + [np.zeros_like(labels) for labels, _ in frozen]
    rows = np.concatenate(left) if left else np.zeros(0, np.int64)
    columns = np.concatenate(right) if right else np.zeros(0, np.int64)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _choose_blocks(
    flow: Flow, joins: list[tuple[Labels, Labels]], forced: frozenset[Node]
) -> list[tuple[Blocks, bool]]:
    """Whole blocks for as many operators as allow it, tried together and then one by one."""
    aligned = [blocks for blocks in flow.blocks if blocks.node in forced]
    asked = [blocks for blocks in flow.blocks if blocks.node not in forced]

    def free(kept: list[Blocks]) -> bool:
        pairs = joins + [p for b in kept for p in b.whole] + [p for b in aligned for p in b.aligned]
        of = _connect(flow.count, pairs, flow.frozen)
        return all(len(np.unique(of[b.first])) == len(b.first) and of[0] not in of[b.first] for b in kept)

    whole: list[Blocks] = asked if free(asked) else []
    if not whole:
        for blocks in asked:
            if free([*whole, blocks]):
                whole = [*whole, blocks]
            else:
                aligned.append(blocks)
    return [(blocks, any(blocks is other for other in whole)) for blocks in flow.blocks]


def _singles(flow: Flow) -> list[Labels]:
    """Labels of values that are one channel only: such a value cannot become smaller."""
    found = []
    for value in flow.values.values():
        for tensor in _tensors([value]):
            if isinstance(tensor, Tensor) and tensor.numel():
                small = squashed(tensor)
                if small.numel() == 1 and float(small.reshape(())) != 0:
                    found.append(flat(small))
    return found


def _distinct(flow: Flow) -> list[Tensor]:
    seen: dict[int, Tensor] = {}
    for value in (*flow.values.values(), *flow.dense.values()):
        for tensor in _tensors([value]):
            if isinstance(tensor, Tensor):
                small = squashed(tensor)
                if small.numel() > 1:
                    seen.setdefault(hash((small.data_ptr(), tuple(small.shape), small.stride())), small)
    return list(seen.values())


def _boxes(values: list[Tensor], of: Labels) -> list[tuple[Labels, Labels]]:
    """Joins that make the channels of each value change along one axis only: positions of the last are kept alike."""
    more = []
    for value in values:
        if sum(size > 1 for size in value.shape) < 2:
            continue
        found = of[flat(value)].reshape(value.shape)
        varying = [axis for axis in range(found.ndim) if (found != found.take([0], axis=axis)).any()]
        if len(varying) > 1:
            labels = flat(value).reshape(value.shape)
            moved = np.moveaxis(labels, varying[-1], -1).reshape(-1, labels.shape[varying[-1]])
            more.append((np.repeat(moved[:1], len(moved) - 1, axis=0).ravel(), moved[1:].ravel()))
    return more
