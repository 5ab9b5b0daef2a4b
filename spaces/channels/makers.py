"""Rules of the operators that make, weigh or mix channels: convolutions, linear layers, products, norms, recurrence.

A weight may be a parameter or computed from parameters (weight norm, weight standardisation); either way the labels
along its axes say what it makes and what it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from ..graph.network import operator_name
from .flow import MIXED, Attribute, Blocks, Flow, Unfollowed
from .labels import Labels, Layers, Source, constant, nothing, packed, spread
from .rules import arguments, joined, result_shape, rule, varying


@rule("conv1d", "conv2d", "conv3d", "convolution")
def _convolution(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    call = arguments(node, args, kwargs)
    if call.get("transposed"):
        result: Tensor = _transposed(flow, node, args, kwargs)
        return result
    weight, groups = call["weight"], int(call.get("groups") or 1)
    axis = 1 - _rank(weight)
    given = _given(flow, call["input"], axis)
    made = flow.axis(weight, 0)
    _bias(flow, call.get("bias"), made)
    if groups == 1:
        flow.join(flow.axis(weight, 1), given)
    else:
        _grouped(flow, node, given, made, flow.axis(weight, 1), groups)
    count(flow, node, "in_channels", given)
    make(flow, node, "out_channels", made, weight)
    return spread(made, axis, result_shape(flow, node))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    call = arguments(node, args, kwargs)
    weight, groups = call["weight"], int(call.get("groups") or 1)
    axis = 1 - _rank(weight)
    given = _given(flow, call["input"], axis)
    flow.join(flow.axis(weight, 0), given)
    if groups == 1:
        made = flow.axis(weight, 1)
    else:  # the weight holds the outputs of one group; the bias, or labels of our own, hold all
        bias = call.get("bias")
        inner = flow.axis(weight, 1)
        made = flow.fresh(len(inner) * groups) if bias is None else flow.axis(bias, 0)
        _grouped(flow, node, made, given, inner, groups)
    _bias(flow, call.get("bias"), made)
    count(flow, node, "in_channels", given)
    make(flow, node, "out_channels", made, weight)
    return spread(made, axis, result_shape(flow, node))


def _rank(weight: Any) -> int:
    return len(weight[0].shape if isinstance(weight, Layers) else weight.shape)


def _given(flow: Flow, value: Any, axis: int) -> Labels:
    """Channel labels of an operand of which every position is mixed with others."""
    given = flow.axis(value, axis)
    for layer in flow.layers(value):
        if constant(layer, axis):
            flow.freeze(layer, MIXED)
    return given


def _grouped(flow: Flow, node: Node, sliced: Labels, rowed: Labels, slot: Labels, groups: int) -> None:
    """Couple the channels of a grouped convolution.

    Args:
        flow: the walk.
        node: the convolution.
        sliced: `(c,)` labels of the side whose channels the weight holds for one group only.
        rowed: labels of the other side, all of which the weight holds.
        slot: `(c / groups,)` labels of the weight's axis for one group.
        groups: number of groups.
    """
    width = len(slot)
    per = len(rowed) // groups
    attribute = _attribute(flow, node, "groups", sliced, groups, divide=width)
    if width == 1:
        flow.join(rowed, np.repeat(sliced, per))
        if attribute is not None:
            flow.constraints.attributes.append(attribute)
        return
    inside, outside = sliced.reshape(groups, width), rowed.reshape(groups, per)
    whole = [
        (np.repeat(inside[:, :1], width - 1, axis=1).ravel(), inside[:, 1:].ravel()),
        (np.repeat(inside[:, :1], per, axis=1).ravel(), outside.ravel()),
        (slot, np.zeros_like(slot)),
    ]
    aligned = [
        (np.tile(slot, groups), sliced),
        (np.tile(outside[0], groups - 1), outside[1:].ravel()),
    ]
    flow.constraints.blocks.append(Blocks(node, whole, aligned, inside[:, 0].copy(), attribute))


@rule("linear")
def _linear(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    call = arguments(node, args, kwargs)
    weight, shape = call["weight"], result_shape(flow, node)
    given = flow.axis(call["input"], -1)
    flow.join(flow.axis(weight, 1), given)
    made = flow.axis(weight, 0)
    _bias(flow, call.get("bias"), made)
    count(flow, node, "in_features", given)
    make(flow, node, "out_features", made, weight)
    others = [layer for layer in flow.layers(call["input"]) if constant(layer, -1)]
    return packed([spread(made, -1, shape), *(layer.narrow(-1, 0, 1).expand(shape) for layer in others)], shape)


@rule("embedding")
def _embedding(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    made = flow.axis(args[0], 1)
    make(flow, node, "embedding_dim", made, args[0])
    return spread(made, -1, result_shape(flow, node))


def _bias(flow: Flow, bias: Any, made: Labels) -> None:
    if bias is not None:
        flow.join(flow.axis(bias, 0), made)


# --- products ---------------------------------------------------------------------------------------------------------


@rule("einsum")
def _einsum(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    values = list(args[1])
    inputs, _, output = str(args[0]).replace(" ", "").partition("->")
    terms = inputs.split(",")
    rest = [_rank(value) - len(term.replace("...", "")) for term, value in zip(terms, values, strict=True)]
    dots = [f"\x00{number}" for number in range(max(rest), 0, -1)]
    letters = [_letters(term, dots[len(dots) - n :]) for term, n in zip(terms, rest, strict=True)]
    if "->" in str(args[0]):
        out = _letters(output, dots)
    else:
        every = [letter for term in letters for letter in term]
        out = (dots if "..." in inputs else []) + sorted(
            {letter for letter in every if every.count(letter) == 1 and letter not in dots}
        )
    return _product(flow, node, letters, out, values, _nodes(node.args[1]))


def _letters(term: str, dots: list[str]) -> list[str]:
    before, ellipsis, after = term.partition("...")
    return [*before, *(dots if ellipsis else []), *after]


def _nodes(values: Any) -> list[Node]:
    return [value for value in values if isinstance(value, Node)]


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def _matmul(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    return _multiplied(flow, node, list(args[:2]), _nodes(node.args[:2]))


@rule("addmm", "baddbmm", "addmv")
def _added_matmul(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    product = _multiplied(flow, node, list(args[1:3]), _nodes(node.args[1:3]))
    return joined(flow, [product, args[0]], result_shape(flow, node))


def _multiplied(flow: Flow, node: Node, values: list[Any], nodes: list[Node]) -> Tensor | Layers:
    left, right = (_rank(value) for value in values)
    batch = [f"\x00{number}" for number in range(max(left, right) - 2, 0, -1)]
    first = [*batch[len(batch) - max(left - 2, 0) :], *(["i"] if left > 1 else []), "k"]
    second = [*batch[len(batch) - max(right - 2, 0) :], "k", *(["j"] if right > 1 else [])]
    out = [*batch, *(["i"] if left > 1 else []), *(["j"] if right > 1 else [])]
    return _product(flow, node, [first, second], out, values, nodes)


def _product(
    flow: Flow, node: Node, letters: list[list[str]], out: list[str], values: list[Any], nodes: list[Node]
) -> Tensor | Layers:
    """A sum of products over axes named by letters.

    Channels that are summed over may go where one of the factors is zero for them.
    """
    shape = result_shape(flow, node)
    if any(len(set(term)) != len(term) for term in letters):
        raise Unfollowed("a diagonal is taken of its channels")
    found: dict[str, list[tuple[Labels, Node]]] = {}
    for term, value, source in zip(letters, values, nodes, strict=True):
        for axis, letter in enumerate(term):
            found.setdefault(letter, []).append((flow.axis(value, axis), source))
    for letter, sides in found.items():
        size = max(len(labels) for labels, _ in sides)
        full = [(labels, source) for labels, source in sides if len(labels) == size]
        if letter in out or any(source in flow.weighed - flow.moving or source in flow.silent for _, source in full):
            for labels, _ in full[1:]:
                flow.join(full[0][0], labels)
        else:
            for labels, _ in full:
                flow.freeze(labels, "it is summed over in a product of two activations")
    layers = []
    for axis, letter in enumerate(out):
        if shape[axis] > 1:
            labels, _ = max(found[letter], key=lambda side: (len(side[0]), bool(side[0].any())))
            layers.append(spread(labels, axis, shape))
            if all(source not in flow.moving for _, source in found[letter]):
                flow.constraints.makers.append((_maker(flow, node, next(iter(flow.weights.get(node, [])), "")), labels))
    return packed(layers, shape)


@rule("scaled_dot_product_attention")
def _attention(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """The features of the values follow; those of queries and keys scale the attention, so they stay."""
    for value in args[:2]:
        for layer in flow.layers(value):
            flow.freeze(layer, "attention's heads stay whole")
    for value in args[3:4]:
        for layer in flow.layers(value):
            flow.freeze(layer, "it is attention's mask")
    return spread(_given(flow, args[2], -1), -1, result_shape(flow, node))


# --- norms ------------------------------------------------------------------------------------------------------------


@rule("batch_norm", "instance_norm")
def _per_channel_norm(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    channels = flow.axis(args[0], 1)
    for value in args[1:5]:
        if isinstance(value, (Tensor, Layers, Source)):
            flow.join(flow.axis(value, 0), channels)
    count(flow, node, "num_features", channels)
    if operator_name(node) == "aten.instance_norm":
        _given(flow, args[0], 1)
    return packed(flow.layers(args[0]), result_shape(flow, node))


@rule("group_norm")
def _group_norm(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    call = arguments(node, args, kwargs)
    channels = _given(flow, call["input"], 1)
    groups = int(call["num_groups"])
    for value in (call.get("weight"), call.get("bias")):
        if value is not None:
            flow.join(flow.axis(value, 0), channels)
    count(flow, node, "num_channels", channels)
    width = len(channels) // groups
    attribute = _attribute(flow, node, "num_groups", channels, groups, divide=width)
    if width == 1:
        if attribute is None:
            raise Unfollowed("the number of groups is written as a constant")
        flow.constraints.attributes.append(attribute)
    elif groups > 1:
        rows = channels.reshape(groups, width)
        whole = [(np.repeat(rows[:, :1], width - 1, axis=1).ravel(), rows[:, 1:].ravel())]
        aligned = [(np.tile(rows[0], groups - 1), rows[1:].ravel())]
        flow.constraints.blocks.append(Blocks(node, whole, aligned, rows[:, 0].copy(), attribute))
    return spread(channels, 1, result_shape(flow, node))


@rule("layer_norm", "rms_norm")
def _layer_norm(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    call = arguments(node, args, kwargs)
    axes = len(call["normalized_shape"])
    values = [call["input"], call.get("weight"), call.get("bias")]
    shape = result_shape(flow, node)
    result = joined(flow, [value for value in values if isinstance(value, (Tensor, Layers, Source))], shape)
    for layer in flow.layers(result):
        along = varying(layer)
        if not along or max(along) < len(shape) - axes:
            continue
        if len(along) > 1:
            flow.freeze(layer, MIXED)
            continue
        [axis] = along
        line = flow.axis(layer, axis)
        flow.constraints.attributes.append(
            Attribute(flow.module(node), "normalized_shape", line, item=axis - len(shape))
        )
    return result


@rule("prelu")
def _prelu(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    weight = args[1]
    if _rank(weight) and flow.axis(weight, 0).size > 1:
        channels = flow.axis(args[0], 1)
        flow.join(flow.axis(weight, 0), channels)
        count(flow, node, "num_parameters", channels)
    return packed(flow.layers(args[0]), result_shape(flow, node))


@rule("_weight_norm")
def _weight_norm(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """`g v / |v|`: the norm is taken over the channels that stay."""
    return joined(flow, args[:2], result_shape(flow, node))


# --- recurrence -------------------------------------------------------------------------------------------------------


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The input size follows; the hidden size stays."""
    call = arguments(node, args, kwargs)
    if "params" not in call or "input" not in call:
        raise Unfollowed("packed sequences are not followed")
    given = _given(flow, call["input"], -1)
    params, per = call["params"], 4 if call["has_biases"] else 2
    for first in params[: 2 * per if call["bidirectional"] else per : per]:
        flow.join(flow.axis(first, 1), given)
    _state_stays(flow, node, params[::per])
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    for state in states:
        for layer in flow.layers(state):
            flow.freeze(layer, "it is the state of a recurrent layer")
    count(flow, node, "input_size", given)
    shapes = flow.network.shapes[flow.side][node]
    return [nothing(shape) for shape in shapes]


def _state_stays(flow: Flow, node: Node, weights: Sequence[Any]) -> None:
    """Keep what a recurrent layer makes, which is the state that it takes back, and say so of the layer."""
    for weight in weights:
        made = flow.axis(weight, 0)
        flow.freeze(made, "the hidden size of a recurrent layer stays")
        flow.constraints.makers.append((flow.module(node), made))


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cell(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    call = arguments(node, args, kwargs)
    given = _given(flow, call["input"], -1)
    flow.join(flow.axis(call["w_ih"], 1), given)
    _state_stays(flow, node, [call["w_ih"]])
    for state in call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]:
        for layer in flow.layers(state):
            flow.freeze(layer, "it is the state of a recurrent layer")
    count(flow, node, "input_size", given)
    shapes = flow.network.shapes[flow.side][node]
    return nothing(shapes) if isinstance(shapes, tuple) else [nothing(shape) for shape in shapes]


# --- module attributes that count channels ----------------------------------------------------------------------------


def count(flow: Flow, node: Node, name: str, labels: Labels) -> None:
    """Say that an attribute of the calling module counts these channels."""
    flow.constraints.attributes.append(Attribute(flow.module(node), name, labels))


def make(flow: Flow, node: Node, name: str, labels: Labels, weight: Any) -> None:
    """Say that the calling module makes these channels."""
    count(flow, node, name, labels)
    flow.constraints.makers.append((_maker(flow, node, weight.name if isinstance(weight, Source) else ""), labels))


def _maker(flow: Flow, node: Node, weight: str) -> str:
    """The calling module, or the weight where the network itself calls the operator."""
    path = flow.module(node)
    owner = weight.rpartition(".")[0]
    return weight if weight and owner == path and not weight.endswith("weight") else path or weight


def _attribute(flow: Flow, node: Node, name: str, labels: Labels, value: int, divide: int) -> Attribute | None:
    if value != len(labels) // divide:
        return None
    return Attribute(flow.module(node), name, labels, divide=divide)
