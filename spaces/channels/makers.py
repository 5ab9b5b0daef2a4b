"""Rules of the operators that make, weigh or mix channels: convolutions, linear layers, norms, recurrence.

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
from .flow import MIXED, Flow, Unfollowed
from .labels import Attribute, Blocks, Labels, Layers, Source, constant, is_blank, packed, spread
from .rules import arguments, joined, result_shape, rule, varying


@rule("conv1d", "conv2d", "conv3d", "convolution")
def _convolution(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    call = arguments(node, args, kwargs)
    if call.get("transposed"):
        result: Tensor = _transposed(flow, node, args, kwargs)
        return result
    weight, groups = call["weight"], int(call.get("groups") or 1)
    axis = 1 - rank(weight)
    given = _given(flow, call["input"], axis)
    made = flow.axis(weight, 0)
    _bias(flow, call.get("bias"), made)
    if groups == 1:
        flow.join(flow.axis(weight, 1), given)
        _fed(flow, node.args[0], flow.axis(weight, 1), axis)
    else:
        _grouped(flow, node, given, made, flow.axis(weight, 1), groups)
    count(flow, node, "in_channels", given)
    make(flow, node, "out_channels", made, weight)
    return spread(made, axis, result_shape(flow, node))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    call = arguments(node, args, kwargs)
    weight, groups = call["weight"], int(call.get("groups") or 1)
    axis = 1 - rank(weight)
    given = _given(flow, call["input"], axis)
    flow.join(flow.axis(weight, 0), given)
    _fed(flow, node.args[0], flow.axis(weight, 0), axis)
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


def rank(weight: Any) -> int:
    """Axes of an operand."""
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
    _fed(flow, node.args[0], flow.axis(weight, 1), -1)
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


def _fed(flow: Flow, source: Any, labels: Labels, axis: int) -> None:
    """Give a constant filling, such as a first state, the channels that are taken of it along an axis."""
    value = flow.values.get(source) if isinstance(source, Node) else None
    if is_blank(value) and isinstance(value, Tensor):
        flow.fill(source, spread(labels, axis, value.shape))


def _bias(flow: Flow, bias: Any, made: Labels) -> None:
    if bias is not None:
        flow.join(flow.axis(bias, 0), made)


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
    if rank(weight) and flow.axis(weight, 0).size > 1:
        channels = flow.axis(args[0], 1)
        flow.join(flow.axis(weight, 0), channels)
        count(flow, node, "num_parameters", channels)
    return packed(flow.layers(args[0]), result_shape(flow, node))


@rule("_weight_norm")
def _weight_norm(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """`g v / |v|`: the norm is taken over the channels that stay."""
    return joined(flow, args[:2], result_shape(flow, node))


# --- recurrence -------------------------------------------------------------------------------------------------------


_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@rule(*_RECURRENT)
def _recurrent(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The units of a state go together in all gates, layers and directions: a module has one hidden size."""
    call = arguments(node, args, kwargs)
    if "params" not in call or "input" not in call:
        raise Unfollowed("packed sequences are not followed")
    directions = 2 if call["bidirectional"] else 1
    params, cells = call["params"], directions * int(call["num_layers"])
    per = len(params) // cells  # weights, biases, and the projection of states where there is one
    given = _given(flow, call["input"], -1)
    count(flow, node, "input_size", given)
    hidden, state = _gated(flow, node, params[:per])
    for number in range(cells):
        own = params[number * per : (number + 1) * per]
        for line, other in zip((hidden, state), _gated(flow, node, own), strict=True):
            flow.join(line, other)
        flow.join(flow.axis(own[0], 1), given if number < directions else np.tile(state, directions))
    return _states(flow, node, call["hx"], [np.tile(state, directions), state, hidden])


@rule(*(f"{name}_cell" for name in _RECURRENT))
def _cell(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """As a recurrent layer of one step; a loop gives the state back."""
    call = arguments(node, args, kwargs)
    given = _given(flow, call["input"], -1)
    flow.join(flow.axis(call["w_ih"], 1), given)
    count(flow, node, "input_size", given)
    params = [call[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if call.get(name) is not None]
    hidden, state = _gated(flow, node, params)
    return _states(flow, node, call["hx"], [state, hidden])


def _gated(flow: Flow, node: Node, params: Sequence[Any]) -> tuple[Labels, Labels]:
    """Labels of the units of a recurrent layer and of the state it hands on, which may be a projection of them."""
    weights, biases = [one for one in params if rank(one) == 2], [one for one in params if rank(one) == 1]
    rows, state = flow.axis(weights[0], 0), flow.axis(weights[1], 1)
    hidden = state
    if len(weights) > 2:
        hidden = flow.axis(weights[2], 1)
        flow.join(flow.axis(weights[2], 0), state)
        count(flow, node, "proj_size", state)
        flow.constraints.makers.append((flow.module(node), state))
        flow.freeze(hidden, "a projected state must be smaller than what it is projected from")
    for value in (*weights[:2], *biases):
        flow.join(flow.axis(value, 0), np.tile(hidden, len(rows) // len(hidden)))
    count(flow, node, "hidden_size", hidden)
    flow.constraints.makers.append((flow.module(node), hidden))
    return hidden, state


def _states(flow: Flow, node: Node, given: Any, lines: Sequence[Labels]) -> Any:
    """The results of a recurrent operator; the first states it is given have the units of the last ones."""
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    sources: Any = node.args[1]
    for value, source, line in zip(
        values, sources if isinstance(sources, (list, tuple)) else [sources], lines[-len(values) :], strict=True
    ):
        flow.join(flow.axis(value, -1), line)
        _fed(flow, source, line, -1)
    shapes = flow.network.shapes[flow.side][node]
    if isinstance(shapes, tuple):
        return spread(lines[0], -1, shapes)
    return [spread(line, -1, shape) for line, shape in zip(lines, shapes, strict=False)]


# --- module attributes that count channels ----------------------------------------------------------------------------


def count(flow: Flow, node: Node, name: str, labels: Labels) -> None:
    """Say that an attribute of the calling module counts these channels."""
    flow.constraints.attributes.append(Attribute(flow.module(node), name, labels))


def make(flow: Flow, node: Node, name: str, labels: Labels, weight: Any) -> None:
    """Say that the calling module makes these channels."""
    count(flow, node, name, labels)
    flow.constraints.makers.append((maker(flow, node, weight.name if isinstance(weight, Source) else ""), labels))


def maker(flow: Flow, node: Node, weight: str) -> str:
    """The calling module, or the weight where the network itself calls the operator."""
    path = flow.module(node)
    owner = weight.rpartition(".")[0]
    return weight if weight and owner == path and not weight.endswith("weight") else path or weight


def _attribute(flow: Flow, node: Node, name: str, labels: Labels, value: int, divide: int) -> Attribute | None:
    if value != len(labels) // divide:
        return None
    return Attribute(flow.module(node), name, labels, divide=divide)
