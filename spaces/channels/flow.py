"""How channels flow: one label a channel, carried through the graph.

A label is a number that names a channel of some tensor; 0 stands for "always there". Each value of the graph holds a
tensor of labels of the value's own shape, with stride 0 along every axis on which the label does not change, so it
stays small; a value whose axes count different channels (a weight, the tokens and features of a mixer) holds one such
*layer* for each. Operators that only move data are run on the labels; elementwise ones *join* the labels that meet;
operators that make channels give new ones (`rules.py`). What an operator cannot follow is *frozen*, with a reason.

Start at `follow`, which walks the graph once; `Flow` holds what it found; `components.py` finds which labels are
together in the end.

Symbols: a *slot* is a pair (tensor name, axis) of the model with one label an index.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from ..graph.network import Network, depending, is_mutable, operator_name, unread
from .labels import (
    BLANK,
    Constraints,
    Labels,
    Layers,
    Source,
    compressed,
    constant,
    flat,
    is_uniform,
    nothing,
    operands,
    packed,
    spread,
    squashed,
    tensors_in,
)

logger = logging.getLogger("secateur")
DENSE = 2_000_000  # a parameter of more elements is not labelled element by element
MIXED = "its channels are mixed with positions"
VIEWS = {f"aten.{name}" for name in "slice select narrow unsqueeze squeeze permute transpose".split()}
_RESHAPES = {f"aten.{name}" for name in "view reshape _unsafe_view flatten unflatten expand expand_as repeat".split()}
_SILENCE = {  # operators that turn zeros into zeros
    f"aten.{name}"
    for name in (
        "relu relu6 gelu silu mish elu celu selu leaky_relu prelu hardswish tanh sin asinh erf abs neg square "
        "sign softshrink hardshrink tanhshrink softsign sqrt dropout feature_dropout clone contiguous alias detach to "
        "_to_copy batch_norm group_norm layer_norm rms_norm view reshape _unsafe_view flatten unflatten squeeze "
        "unsqueeze permute transpose t expand slice select narrow unbind chunk split split_with_sizes movedim "
        "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum "
        "norm linalg_vector_norm var std amax amin "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
        "upsample_trilinear3d pixel_shuffle pixel_unshuffle channel_shuffle im2col flip roll"
    ).split()
} | {"getitem"}
HELD = "it meets {}, a tensor that is no parameter and no buffer; with register_buffer it may be cut along"
_WEIGHED = {f"aten.{name}" for name in "conv1d conv2d conv3d convolution linear embedding".split()}
_WEIGHED |= {f"aten.conv_transpose{axes}d" for axes in (1, 2, 3)}


@dataclass
class Flow:
    """What is known of the graph's values while it is walked, and the constraints on their labels.

    Attributes:
        network: the captured graph.
        shapes: of all parameters and buffers.
        literals: whether numbers written in the forward will follow the channels.
        moving: nodes whose values depend on the inputs.
        weighed: nodes whose values depend on parameters or buffers.
        unread: nodes of which no output is made.
        side: index of the side that is walked.
        count: labels in use.
        slots: labels of the indices of an axis of a parameter or buffer.
        dense: labels of parameters that are followed element by element.
        values: of every node: label tensors, a `Source`, a list of label tensors of several results, or a number.
        weights: parameters that an operator takes.
        silent: nodes whose values are zero wherever a channel's weights are zero.
        statistics: nodes that a norm over channels makes of statistics alone; they hold no channel.
        filled: values that got the labels of what was written into them or met them.
        node: the operator that is followed.
        grids: labels that change along two axes: those of each axis, by shape and contents (`heads.py`).
        constraints: what the rules found of labels.
        trained: the first label that only the forward in training has; None where nothing is known of that.
    """

    network: Network
    shapes: dict[str, tuple[int, ...]]
    literals: bool
    moving: set[Node]
    weighed: set[Node]
    unread: set[Node] = field(default_factory=set)
    side: int = 0
    count: int = BLANK + 1
    slots: dict[tuple[str, int], Labels] = field(default_factory=dict)
    dense: dict[str, Tensor] = field(default_factory=dict)
    values: dict[Node, Any] = field(default_factory=dict)
    weights: dict[Node, list[str]] = field(default_factory=dict)
    silent: set[Node] = field(default_factory=set)
    statistics: set[Node] = field(default_factory=set)
    filled: set[Node] = field(default_factory=set)
    node: Node | None = None
    grids: dict[tuple[tuple[int, ...], bytes], tuple[Labels, Labels]] = field(default_factory=dict)
    constraints: Constraints = field(default_factory=Constraints)
    trained: int | None = None

    def fill(self, node: Node, value: Tensor | Layers) -> None:
        """Give a constant filling, or the whole of a part that was assigned, its labels, and what it is a view of."""
        self.values[node] = value
        self.filled.add(node)
        for base in node.all_input_nodes:
            if is_uniform(self.values.get(base)) and (whole := _unviewed(node, value, self.values[base])) is not None:
                self.fill(base, whole)

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
        differ = (left != right) & (left != BLANK) & (right != BLANK)
        if differ.any():
            self.constraints.joins.append((left[differ], right[differ]))
        frozen = differ & ((left == 0) | (right == 0))
        if frozen.any() and self.network.held and (path := self._held()):
            self.constraints.told.append((np.maximum(left, right)[frozen], HELD.format(path)))

    def _held(self) -> str | None:
        """The tensor attribute of a module of which alone an operand of the operator is made."""
        for node in (waiting := list(self.node.all_input_nodes if self.node else ())):  # grows while it is walked
            if node in self.network.held:
                return self.network.held[node]
            new = () if node in self.moving or node in self.weighed else node.all_input_nodes
            waiting += [one for one in new if one not in waiting]
        return None

    def tie(self, labels: Tensor, axes: Sequence[int], reason: str) -> None:
        """Join all labels that lie on one line along `axes`, unless nothing is made of the result."""
        if all(constant(labels, axis) for axis in axes) or self.node in self.unread:
            return
        moved = labels.movedim(tuple(axes), tuple(range(len(axes))))
        small = squashed(moved)
        lines = flat(small).reshape(int(np.prod(small.shape[: len(axes)])), -1)
        if (lines == BLANK).any():
            self.freeze(lines, reason)
            return
        self.join(np.repeat(lines[:1], len(lines) - 1, axis=0).ravel(), lines[1:].ravel())
        self.constraints.ties.append((lines[0], reason))  # said where no unit is left to go

    def freeze(self, labels: Tensor | Labels, reason: str) -> None:
        """Keep these channels always, and say why."""
        array = flat(squashed(labels)) if isinstance(labels, Tensor) else labels.ravel()
        array = array[array > BLANK]
        if array.size:
            self.constraints.frozen.append((np.unique(array), reason))

    def leave_whole(self, chosen: Callable[[str], bool], reason: str) -> None:
        """Keep all of the tensors that are chosen by name; this reason is given before any other."""
        self.constraints.frozen[:0] = [(labels, reason) for (name, _), labels in self.slots.items() if chosen(name)]

    def layers(self, value: Any) -> list[Tensor]:
        """The label tensors of an operand: a value of the graph, a parameter, or a plain number; at least one."""
        if isinstance(value, Layers):
            return list(value)
        if isinstance(value, Tensor):
            return [value]
        if not isinstance(value, Source):
            return [nothing(())]
        if value.name in self.dense:
            return [self.dense[value.name]]
        axes = [axis for axis, size in enumerate(value.shape) if size > 1]
        return [spread(self.slot(value.name, axis), axis, value.shape) for axis in axes] or [nothing(value.shape)]

    def axis(self, value: Any, axis: int) -> Labels:
        """The labels along one axis of an operand; zeros where its labels do not change along it.

        Labels that change along other axes at the same time are tied along those, so that whole channels go.
        """
        shape = value.shape if isinstance(value, (Tensor, Source)) else value[0].shape
        if isinstance(value, Source) and value.name not in self.dense:
            return self.slot(value.name, axis % len(shape))
        layers = self.layers(value)
        found = [layer for layer in layers if not constant(layer, axis)]
        if not found:
            one = flat(squashed(layers[0]))[:1] if len(layers) == 1 and squashed(layers[0]).numel() == 1 else [0]
            return np.repeat(np.asarray(one, np.int64), shape[axis])
        for layer in found[1:]:
            self.freeze(layer, MIXED)
        layer = found[0]
        others = [other for other in range(layer.ndim) if other != axis % layer.ndim and not constant(layer, other)]
        if others:
            self.tie(layer, others, MIXED)
        return flat(layer[tuple(slice(None) if other == axis % layer.ndim else 0 for other in range(layer.ndim))])

    def elements(self, source: Source) -> Tensor:
        """One label an element of a parameter."""
        if source.name not in self.dense:
            size = int(np.prod(source.shape))
            if size > DENSE:
                self.constraints.fixed[source.name] = "is used element by element and too large to follow"
                return nothing(source.shape)
            self.dense[source.name] = torch.from_numpy(self.fresh(size).astype(np.float64)).reshape(source.shape)
        return self.dense[source.name]

    def module(self, node: Node) -> str:
        """Path of the innermost module that called the operator."""
        calls = self.network.calls[node]
        return calls[-1] if calls else ""


Rule = Callable[[Flow, Node, list[Any], dict[str, Any]], Any]
"""From the flow, a node and its operands to the labels of its result."""


def follow(
    network: Network,
    shapes: dict[str, tuple[int, ...]],
    rule_for: Callable[[Node], Rule | None],
    literals: bool = False,
) -> Flow:
    """Walk the graph once and gather joins, slots and what is frozen.

    Args:
        network: the captured graph.
        shapes: shape of each parameter and buffer by name.
        rule_for: the rule of a node's operator, or None.
        literals: whether numbers written in the forward will follow the channels.
    """
    sources = set(network.sources)
    moving, weighed = depending(network, network.inputs), depending(network, sources)
    flow = Flow(network, shapes, literals, moving, weighed, unread(network))
    _walk(flow, rule_for)
    return flow


def follow_training(flow: Flow, network: Network, rule_for: Callable[[Node], Rule | None]) -> Flow:
    """Walk what the forward does in training too: parameters have the same labels. A view of the flow on that graph."""
    flow.trained = flow.count
    sources = set(network.sources)
    moving, weighed = depending(network, network.inputs), depending(network, sources)
    twin = replace(  # all that was found is shared
        flow, network=network, moving=moving, weighed=weighed, unread=unread(network), side=0
    )
    _walk(twin, rule_for)
    flow.count = twin.count
    return twin


def _walk(flow: Flow, rule_for: Callable[[Node], Rule | None]) -> None:
    network, shapes = flow.network, flow.shapes
    flow.silent |= set(network.sources)
    for node in network.graph.nodes:
        if node in network.sources:
            flow.values[node] = Source(network.sources[node], shapes[network.sources[node]])
        elif node.op == "call_function":
            flow.values[node] = _call(flow, node, rule_for(node))
        elif node.op in ("placeholder", "get_attr"):
            shape = network.shapes[flow.side].get(node)
            flow.values[node] = nothing(shape) if isinstance(shape, tuple) else None
    changed = set(flow.filled)
    for node in network.graph.nodes if changed else ():  # views taken before
        if network.names[node] in VIEWS and node.args[0] in changed:
            flow.values[node] = _call(flow, node, rule_for(node))
            changed.add(node)
    for node in network.outputs:
        _freeze_all(flow, flow.values[node], "its channels are the network's output")


def _call(flow: Flow, node: Node, rule: Rule | None) -> Any:
    shape = flow.network.shapes[flow.side].get(node)
    if shape is None:
        return flow.network.numbers[flow.side].get(node)

    def look(arg: Any) -> Any:
        return flow.values[arg] if isinstance(arg, Node) else arg

    args = [torch.fx.node.map_arg(arg, look) for arg in node.args]
    kwargs = {name: torch.fx.node.map_arg(arg, look) for name, arg in node.kwargs.items()}
    names = [value.name for value in operands([*args, *kwargs.values()]) if isinstance(value, Source)]
    if names:
        flow.weights[node] = names
    result = None
    name = flow.network.names[node]
    reason = f"operator {name} has no rule"
    if rule is not None:
        flow.node = node
        try:
            result = rule(flow, node, args, kwargs)
        except Unfollowed as unfollowed:
            reason = str(unfollowed)
        except (RuntimeError, ValueError, IndexError, KeyError) as error:
            reason = f"operator {name} is used in a way that is not followed"
            logger.debug("%s: %s", node, error)
    if result is not None:
        _note_silence(flow, node, result)
        return result
    for value in operands([*args, *kwargs.values()]):
        _freeze_all(flow, value, reason)
    return nothing(shape) if isinstance(shape, tuple) else [nothing(s) if s is not None else None for s in shape]


def _note_silence(flow: Flow, node: Node, result: Any) -> None:
    """Note whether a value is silent, or made of statistics alone; one that is written over no longer is silent."""
    given = [source for source in node.all_input_nodes if source in flow.moving]
    if given and flow.statistics.issuperset(given) and not _axes_of(result):
        flow.statistics.add(node)
    if _is_silent(flow, node, result):
        flow.silent.add(node)
        return
    base = node.args[0] if node.args and is_mutable(node) else None
    while isinstance(base, Node):
        flow.silent.discard(base)
        base = base.args[0] if flow.network.names[base] in VIEWS else None


def _is_silent(flow: Flow, node: Node, result: Any) -> bool:
    """Whether the value is zero in every channel whose weights are zero.

    An operand that is broadcast over the result's channels, such as a gate, decides nothing about them.
    """
    name = flow.network.names[node]
    if name in _WEIGHED:
        return True
    carried = _axes_of(result)
    data = [one for one in node.all_input_nodes if one in (flow.moving if node in flow.moving else flow.weighed)]
    quiet = [source in flow.silent and carried <= _axes_of(flow.values[source]) for source in data]
    if name in ("aten.add", "aten.sub", "aten.cat", "aten.stack"):
        scalars = [value for value in node.args[:2] if isinstance(value, (int, float)) and value]
        there = [silent or source in flow.statistics for silent, source in zip(quiet, data, strict=True)]
        return any(quiet) and all(there) and len(data) == len(node.all_input_nodes) and not scalars
    if name in ("aten.addmm", "aten.mm", "aten.matmul"):  # by weights on the right, whose columns make the channels
        weights = [source for source in node.all_input_nodes if source is not node.args[name == "aten.addmm"]]
        real = _axes_of([compressed(labels) for labels in tensors_in(result)])
        return real <= {-1} and flow.silent.issuperset(weights) and flow.moving.isdisjoint(weights)
    if name == "aten.mul":
        return any(quiet)
    if name == "aten.div":
        return bool(data) and data[0] is node.args[0] and quiet[0]
    if name == "aten.pow":
        return bool(data) and quiet[0] and isinstance(node.args[1], (int, float)) and node.args[1] > 0
    return name in _SILENCE and bool(data) and node.args[0] in flow.silent


def _axes_of(value: Any) -> set[int]:
    """The axes along which a value's labels change, counted from the last."""
    return {
        axis - labels.ndim for labels in tensors_in(value) for axis in range(labels.ndim) if not constant(labels, axis)
    }


def _unviewed(node: Node, value: Tensor | Layers, base: Tensor) -> Tensor | Layers | None:
    """Labels of a filling, from those of what an operator makes of it; None where its shape is another by no view."""
    layers, name = value if isinstance(value, Layers) else [value], operator_name(node)
    if name not in VIEWS | _RESHAPES:
        return value if layers[0].shape == base.shape else None
    plain = not any(isinstance(one, Node) for one in pytree.tree_leaves((node.args[1:], node.kwargs)))
    if base.numel() > DENSE or not (plain or name == "aten.expand_as"):
        return None
    index = torch.arange(base.numel()).reshape(base.shape)
    moved = node.target(index, *node.args[1:], **node.kwargs) if plain else index.expand(layers[0].shape)  # type: ignore[operator]
    places = moved.reshape(-1)
    found = []
    for layer in layers:
        labels = torch.full((base.numel(),), float(BLANK), dtype=torch.float64)
        labels[places] = layer.reshape(-1)
        if not torch.equal(labels[places], layer.reshape(-1)):  # it is repeated along its channels
            return None
        found.append(compressed(labels.reshape(base.shape)))
    return packed(found, base.shape)


class Unfollowed(Exception):
    """A rule cannot follow its operands; the text becomes the reason of what is frozen."""


def _freeze_all(flow: Flow, value: Any, reason: str) -> None:
    for tensor in operands([value]):
        if isinstance(tensor, Source):
            flow.constraints.fixed.setdefault(tensor.name, reason)
        else:
            flow.freeze(tensor, reason)
