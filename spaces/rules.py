"""How each operator moves, joins or makes channels: small rules, registered by operator name.

A rule takes the flow, the node and its operands (label tensors, `Source`s, numbers) and returns the labels of the
result, of the result's full shape. Elementwise operators are recognised by PyTorch's own `pointwise` tag. An operator
without a rule freezes what it touches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from .flow import (
    Attribute,
    Blocks,
    Flow,
    Labels,
    Rule,
    Source,
    Unfollowed,
    along,
    compressed,
    constant,
    flat,
    nothing,
    spread,
    squashed,
)
from .graph import operator_name

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operators by name, without overload."""

    def register(function: Rule) -> Rule:
        for name in names:
            _RULES["getitem" if name == "getitem" else f"aten.{name}"] = function
        return function

    return register


def rule_for(node: Node) -> Rule | None:
    """The rule of a node's operator, or None."""
    found = _RULES.get(operator_name(node))
    if found is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return elementwise
    return found


def _shape(flow: Flow, node: Node) -> tuple[int, ...]:
    shape = flow.network.shapes[flow.side][node]
    if not isinstance(shape, tuple):
        raise Unfollowed(f"operator {operator_name(node)} gives several tensors")
    return shape


def _channels(labels: Any, axis: int) -> Labels:
    """The channel labels of an operand along its channel axis."""
    found = along(labels, axis) if isinstance(labels, Tensor) else None
    if found is None:
        raise Unfollowed("its channels are mixed with positions")
    return found


# --- operators that make channels -------------------------------------------------------------------------------------


@rule("conv1d", "conv2d", "conv3d", "convolution")
def _convolution(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    names = ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
    if operator_name(node) == "aten.convolution":
        names = ["input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups"]
    call = {**dict(zip(names, args, strict=False)), **kwargs}
    if call.get("transposed"):
        return _transposed_from(flow, node, call)
    weight, groups = call["weight"], int(call.get("groups") or 1)
    if not isinstance(weight, Source):
        raise Unfollowed("a convolution's weight is computed")
    given = _channels(call["input"], -(len(weight.shape) - 1))
    made = flow.slot(weight.name, 0)
    _bias(flow, call.get("bias"), made)
    if groups == 1:
        flow.join(flow.slot(weight.name, 1), given)
    else:
        _grouped(flow, node, given, made, flow.slot(weight.name, 1), groups)
    _count(flow, node, "in_channels", given)
    _made(flow, node, "out_channels", made)
    return spread(made, -(len(weight.shape) - 1), _shape(flow, node))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    names = ["input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"]
    return _transposed_from(flow, node, {**dict(zip(names, args, strict=False)), **kwargs})


def _transposed_from(flow: Flow, node: Node, call: dict[str, Any]) -> Tensor:
    weight, groups = call["weight"], int(call.get("groups") or 1)
    if not isinstance(weight, Source):
        raise Unfollowed("a convolution's weight is computed")
    given = _channels(call["input"], -(len(weight.shape) - 1))
    flow.join(flow.slot(weight.name, 0), given)
    if groups == 1:
        made = flow.slot(weight.name, 1)
    else:  # the weight holds the outputs of one group; the bias, or labels of our own, hold all
        bias = call.get("bias")
        n = weight.shape[1] * groups
        made = flow.slot(bias.name, 0) if isinstance(bias, Source) else flow.fresh(n)
        _grouped(flow, node, made, given, flow.slot(weight.name, 1), groups)
    _bias(flow, call.get("bias"), made)
    _count(flow, node, "in_channels", given)
    _made(flow, node, "out_channels", made)
    return spread(made, -(len(weight.shape) - 1), _shape(flow, node))


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
            flow.attributes.append(attribute)
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
    flow.blocks.append(Blocks(node, whole, aligned, inside[:, 0].copy(), attribute))


@rule("linear")
def _linear(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    call = {**dict(zip(["input", "weight", "bias"], args, strict=False)), **kwargs}
    weight = call["weight"]
    if not isinstance(weight, Source):
        raise Unfollowed("a linear layer's weight is computed")
    given = _channels(call["input"], -1)
    flow.join(flow.slot(weight.name, 1), given)
    made = flow.slot(weight.name, 0)
    _bias(flow, call.get("bias"), made)
    _count(flow, node, "in_features", given)
    _made(flow, node, "out_features", made)
    return spread(made, -1, _shape(flow, node))


@rule("embedding")
def _embedding(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    if not isinstance(args[0], Source):
        raise Unfollowed("an embedding's weight is computed")
    made = flow.slot(args[0].name, 1)
    _made(flow, node, "embedding_dim", made)
    return spread(made, -1, _shape(flow, node))


def _bias(flow: Flow, bias: Any, made: Labels) -> None:
    if isinstance(bias, Source):
        flow.join(flow.slot(bias.name, 0), made)
    elif isinstance(bias, Tensor):
        raise Unfollowed("a bias is computed")


# --- norms ------------------------------------------------------------------------------------------------------------


@rule("batch_norm", "instance_norm")
def _per_channel_norm(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels = flow.labels(args[0])
    channels = _channels(labels, 1)
    for tensor in args[1:5]:
        if isinstance(tensor, Source):
            flow.join(flow.slot(tensor.name, 0), channels)
        elif isinstance(tensor, Tensor):
            raise Unfollowed("a norm's parameters are computed")
    _count(flow, node, "num_features", channels)
    return labels


@rule("group_norm")
def _group_norm(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    call = {**dict(zip(["input", "groups", "weight", "bias"], args, strict=False)), **kwargs}
    labels = flow.labels(call["input"])
    channels = _channels(labels, 1)
    groups = int(call["groups"])
    for tensor in (call.get("weight"), call.get("bias")):
        if isinstance(tensor, Source):
            flow.join(flow.slot(tensor.name, 0), channels)
        elif isinstance(tensor, Tensor):
            raise Unfollowed("a norm's parameters are computed")
    _count(flow, node, "num_channels", channels)
    width = len(channels) // groups
    attribute = _attribute(flow, node, "num_groups", channels, groups, divide=width)
    if width == 1:
        if attribute is None:
            raise Unfollowed("the number of groups is written as a constant")
        flow.attributes.append(attribute)
    elif groups > 1:
        rows = channels.reshape(groups, width)
        whole = [(np.repeat(rows[:, :1], width - 1, axis=1).ravel(), rows[:, 1:].ravel())]
        aligned = [(np.tile(rows[0], groups - 1), rows[1:].ravel())]
        flow.blocks.append(Blocks(node, whole, aligned, rows[:, 0].copy(), attribute))
    return labels


@rule("layer_norm", "rms_norm")
def _layer_norm(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    call = {**dict(zip(["input", "shape", "weight", "bias"], args, strict=False)), **kwargs}
    labels = flow.labels(call["input"])
    axes = len(call["shape"])
    others = [tensor for tensor in (call.get("weight"), call.get("bias")) if tensor is not None]
    operands: list[Any] = [labels, *(other for other in others if not isinstance(other, (int, float)))]
    result = _joined(flow, [flow.labels(value) for value in operands], tuple(labels.shape))
    found = along(labels, -1)
    if found is not None:
        path = flow.module(node)
        flow.attributes.append(Attribute(path, "normalized_shape", found))
    elif any(not constant(labels, axis) for axis in range(labels.ndim - axes, labels.ndim)):
        raise Unfollowed("its channels are mixed with positions")
    return result


@rule("prelu")
def _prelu(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels = flow.labels(args[0])
    weight = args[1]
    if isinstance(weight, Source) and weight.shape and weight.shape[0] > 1:
        channels = _channels(labels, 1)
        flow.join(flow.slot(weight.name, 0), channels)
        _count(flow, node, "num_parameters", channels)
    return labels


# --- elementwise ------------------------------------------------------------------------------------------------------


def elementwise(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """Join the labels that meet."""
    operands = [
        flow.labels(value) for value in _flatten([*args, *kwargs.values()]) if isinstance(value, (Tensor, Source))
    ]
    return _joined(flow, operands, _shape(flow, node))


def _flatten(values: Sequence[Any]) -> list[Any]:
    return [item for value in values for item in (_flatten(value) if isinstance(value, (list, tuple)) else [value])]


def _joined(flow: Flow, operands: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    padded = [operand.reshape((1,) * (len(shape) - operand.ndim) + tuple(operand.shape)) for operand in operands]
    varying = [
        [axis for axis in range(len(shape)) if operand.shape[axis] > 1 and not constant(operand, axis)]
        for operand in padded
    ]
    axes = sorted({axis for found in varying for axis in found})
    if not axes:
        return _uniform(flow, padded, shape)
    met: list[Labels] = []
    small = [shape[axis] if axis in axes else 1 for axis in range(len(shape))]
    for operand in padded:
        if any(operand.shape[axis] == 1 and shape[axis] > 1 for axis in axes):  # broadcast over other channels
            flow.freeze(operand, "it is broadcast over the channels of another tensor")
            continue
        met.append(flat(squashed(operand).expand(small)))
    if not met:
        return nothing(shape)
    for other in met[1:]:
        flow.join(met[0], other)
    labels = torch.from_numpy(met[0].astype(np.float64)).reshape(small)
    return labels.expand(shape)


def _uniform(flow: Flow, operands: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Operands that each carry one label only, such as the gate of one channel."""
    ones = [flat(squashed(operand))[:1] for operand in operands if operand.numel()]
    ones = [one for one in ones if one.size and one[0] != 0]
    for other in ones[1:]:
        flow.join(ones[0], other)
    if not ones:
        return nothing(shape)
    return torch.from_numpy(ones[0].astype(np.float64)).reshape((1,) * len(shape)).expand(shape)


@rule("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", "contiguous", "clone")
@rule("alias", "detach", "to", "_to_copy", "type_as", "lift_fresh_copy", "lift_fresh", "detach_copy", "hardtanh")
@rule("relu6", "celu", "selu", "log_sigmoid", "rrelu", "threshold", "softshrink", "hardshrink", "positive", "mish")
@rule("square", "hardswish", "hardsigmoid", "silu", "gelu", "elu", "leaky_relu")
def _same(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    return flow.labels(args[0])


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones")
@rule("zeros", "ones", "full", "arange", "new_full", "scalar_tensor", "eye", "linspace", "empty", "new_empty")
def _constants(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    name = operator_name(node)
    if name.endswith("_like"):
        return flow.labels(args[0])
    return nothing(_shape(flow, node))


# --- space: pooling, interpolation ------------------------------------------------------------------------------------


def _spatial(axes: int) -> Rule:
    def apply(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        labels = flow.labels(args[0])
        for axis in range(labels.ndim - axes, labels.ndim):
            if not constant(labels, axis):
                raise Unfollowed("its channels are mixed with positions")
        kept = labels
        for axis in range(labels.ndim - axes, labels.ndim):
            kept = kept.narrow(axis, 0, 1)
        shape = flow.network.shapes[flow.side][node]
        if isinstance(shape, tuple):
            return kept.expand(shape)
        return [kept.expand(one) if one is not None else None for one in shape]

    return apply


for _axes in (1, 2, 3):
    rule(
        *(f"{kind}_pool{_axes}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp")),
        f"max_pool{_axes}d_with_indices",
        f"fractional_max_pool{_axes}d",
        f"reflection_pad{_axes}d",
        f"replication_pad{_axes}d",
    )(_spatial(_axes))
for _axes, _kinds in ((1, ["nearest1d", "linear1d"]), (2, ["nearest2d", "bilinear2d", "bicubic2d"])):
    rule(*(f"upsample_{kind}" for kind in _kinds), *(f"_upsample_{kind}_aa" for kind in _kinds))(_spatial(_axes))
rule("upsample_nearest3d", "upsample_trilinear3d")(_spatial(3))
rule("_upsample_nearest_exact1d")(_spatial(1))
rule("_upsample_nearest_exact2d")(_spatial(2))
rule("_upsample_nearest_exact3d")(_spatial(3))


@rule("pad", "constant_pad_nd")
def _pad(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels, shape, amounts = flow.labels(args[0]), _shape(flow, node), args[1]
    axes = len(amounts) // 2
    touched = [labels.ndim - 1 - i for i in range(axes) if amounts[2 * i] or amounts[2 * i + 1]]
    if any(not constant(labels, axis) for axis in touched):
        raise Unfollowed("its channels are padded")
    index = tuple(slice(0, 1) if axis in touched else slice(None) for axis in range(labels.ndim))
    return labels[index].expand(shape)


# --- reductions: what is mixed stays or goes together -----------------------------------------------------------------


@rule("mean", "sum", "amax", "amin", "var", "std", "max", "min", "norm", "linalg_vector_norm", "logsumexp", "argmax")
@rule("prod", "any", "all", "argmin", "median", "std_mean", "var_mean", "count_nonzero")
def _reduction(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    labels = flow.labels(args[0])
    name = operator_name(node).removeprefix("aten.")
    schema = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    call = {**dict(zip(schema, args, strict=False)), **kwargs}
    if name in ("max", "min") and "other" in call:
        return elementwise(flow, node, args, kwargs)
    dims = call.get("dim")
    if dims is None or dims == []:
        dims = list(range(labels.ndim))
    axes = sorted({axis % labels.ndim for axis in ([dims] if isinstance(dims, int) else dims)})
    flow.tie(labels, axes, f"{name} mixes its channels")
    result = labels
    for axis in axes:
        result = result.narrow(axis, 0, 1)
    shape = flow.network.shapes[flow.side][node]
    if not call.get("keepdim", False):
        result = result.reshape([size for axis, size in enumerate(result.shape) if axis not in axes])
    if isinstance(shape, tuple):
        return result.expand(shape)
    return [result.expand(one) if one is not None else None for one in shape]


@rule("softmax", "log_softmax", "_softmax", "cumsum", "cumprod", "sort", "topk")
def _mixing(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    labels = flow.labels(args[0])
    axis = int(
        args[1] if len(args) > 1 and operator_name(node) not in ("aten.topk", "aten.sort") else kwargs.get("dim", -1)
    )
    flow.tie(labels, [axis], f"{operator_name(node).removeprefix('aten.')} mixes its channels")
    shape = flow.network.shapes[flow.side][node]
    kept = labels.narrow(axis, 0, 1)
    if isinstance(shape, tuple):
        return kept.expand(shape)
    return [kept.expand(one) if one is not None else None for one in shape]


# --- operators that only move data are run on the labels --------------------------------------------------------------


@rule("cat", "concatenate", "concat", "stack")
def _cat(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    tensors = [flow.labels(value) for value in args[0]]
    shape = _shape(flow, node)
    axis = int(args[1] if len(args) > 1 else kwargs.get("dim", 0)) % len(shape)
    if operator_name(node) == "aten.stack":
        tensors = [tensor.unsqueeze(axis) for tensor in tensors]
    tensors = [tensor for tensor in tensors if tensor.ndim == len(shape)]
    small = [max((t.shape[other] for t in tensors if not constant(t, other)), default=1) for other in range(len(shape))]
    parts = [
        tensor[tuple(slice(None) if o == axis or small[o] > 1 else slice(0, 1) for o in range(len(shape)))].expand(
            [tensor.shape[axis] if o == axis else small[o] for o in range(len(shape))]
        )
        for tensor in tensors
    ]
    return compressed(torch.cat(parts, axis)).expand(shape)


@rule("chunk", "tensor_split")
def _chunk(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return _split(flow, node, args, kwargs)


@rule("split", "split_with_sizes")
def _split(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Parts of equal size keep equal sizes: the same positions go in each."""
    labels = flow.labels(args[0])
    parts = _run(flow, node, [labels, *args[1:]], kwargs)
    axis = int(args[2] if len(args) > 2 else kwargs.get("dim", 0)) % labels.ndim
    if not constant(labels, axis) and len({part.shape[axis] for part in parts}) == 1 and len(parts) > 1:
        first = flat(squashed(parts[0]))
        for part in parts[1:]:
            other = flat(squashed(part))
            if other.shape == first.shape:
                flow.join(first, other)
    return parts


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "mT")
@rule("squeeze", "unsqueeze", "expand", "expand_as", "slice", "select", "narrow", "unbind", "movedim", "swapaxes")
@rule("flip", "pixel_shuffle", "pixel_unshuffle", "unfold", "im2col", "repeat", "tile")
@rule("repeat_interleave", "index_select", "swapdims", "moveaxis", "diagonal", "rot90", "view_as", "ravel", "adjoint")
def _moved(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return _run(flow, node, [flow.labels(args[0]), *args[1:]], kwargs)


@rule("roll")
def _roll(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    labels = flow.labels(args[0])
    dims = args[2] if len(args) > 2 else kwargs.get("dims", [])
    axes = [dims] if isinstance(dims, int) else list(dims) or list(range(labels.ndim))
    if any(not constant(labels, axis % labels.ndim) for axis in axes):
        raise Unfollowed("its channels are rolled by a fixed number")
    return labels


@rule("channel_shuffle")
def _channel_shuffle(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The same positions go in each of the groups that are shuffled."""
    labels = flow.labels(args[0])
    rows = _channels(labels, 1).reshape(int(args[1]), -1)
    flow.join(np.tile(rows[0], len(rows) - 1), rows[1:].ravel())
    return _run(flow, node, [labels, *args[1:]], kwargs)


def _run(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    target: Any = node.target
    name = operator_name(node)
    if name in ("aten.view", "aten._unsafe_view") and not (len(args) > 1 and isinstance(args[1], torch.dtype)):
        target = torch.ops.aten.reshape.default
    if any(isinstance(value, (Tensor, Source)) for value in args[1:]) or name == "aten.index_select":
        raise Unfollowed(f"operator {name} moves data by an index that is computed")
    with torch.no_grad():
        result = target(*args, **kwargs)
    if isinstance(result, Tensor):
        return compressed(result)
    return [compressed(part) for part in result]


@rule("getitem")
def _getitem(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return args[0][args[1]]


# --- module attributes that count channels ----------------------------------------------------------------------------


def _count(flow: Flow, node: Node, name: str, labels: Labels) -> None:
    flow.attributes.append(Attribute(flow.module(node), name, labels))


def _made(flow: Flow, node: Node, name: str, labels: Labels) -> None:
    _count(flow, node, name, labels)
    flow.makers.append((flow.module(node), labels))


def _attribute(flow: Flow, node: Node, name: str, labels: Labels, value: int, divide: int) -> Attribute | None:
    if value != math.prod([len(labels)]) // divide:
        return None
    return Attribute(flow.module(node), name, labels, divide=divide)
