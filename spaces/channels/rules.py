"""How channels flow through operators: the register of rules, and the rules of elementwise operators.

A rule takes the flow, the node and its operands (labels, `Source`s, numbers) and returns the labels of the result, of
the result's full shape. Elementwise operators are recognised by PyTorch's own `pointwise` tag; operators that make,
mix or weigh channels are in `makers.py`, those that move data in `movement.py` and `shuffles.py`. An operator without a
rule freezes what it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from ..graph.network import is_pointwise, operator_name
from .flow import MIXED, Flow, Rule, Unfollowed
from .heads import apart, together
from .labels import (
    BLANK,
    Labels,
    Layers,
    Source,
    blank,
    constant,
    flat,
    is_blank,
    is_uniform,
    narrowed,
    nothing,
    packed,
    spread,
    squashed,
)
from .statistics import is_statistic

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operators by name, without overload."""

    def register(function: Rule) -> Rule:
        for name in names:
            _RULES["getitem" if name == "getitem" else f"aten.{name}"] = function
        return function

    return register


def rule_for(node: Node, steps: Sequence[str] = ()) -> Rule | None:
    """The rule of a node's operator, or None.

    Args:
        node: the call.
        steps: the operators that PyTorch runs for it, where that is known.
    """
    found = _RULES.get(operator_name(node))
    tags = getattr(node.target, "tags", ())
    if found is None and (torch.Tag.pointwise in tags or (steps and all(is_pointwise(step) for step in steps))):
        return elementwise
    return found


def result_shape(flow: Flow, node: Node) -> tuple[int, ...]:
    """Shape of an operator's only result."""
    shape = flow.network.shapes[flow.side][node]
    if not isinstance(shape, tuple):
        raise Unfollowed(f"operator {operator_name(node)} gives several tensors")
    return shape


def arguments(node: Node, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The operands by the names of the operator's schema."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def a_layer(function: Rule) -> Rule:
    """A rule of the first operand's labels that holds for each of its layers alone; one it cannot follow is frozen."""

    def apply(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        shape = flow.network.shapes[flow.side][node]
        results = []
        for layer in flow.layers(args[0]):
            try:
                results.append(function(flow, node, [layer, *args[1:]], kwargs))
            except Unfollowed as reason:
                flow.freeze(layer, str(reason))
        if isinstance(shape, tuple):
            return packed(_apart(flow, results), shape)
        return [
            None if one is None else packed(_apart(flow, [result[number] for result in results]), one)
            for number, one in enumerate(shape)
        ]

    return apply


def _apart(flow: Flow, layers: list[Tensor]) -> list[Tensor]:
    """The layers that change along axes of their own; two that were merged into one axis are one of both."""
    kept: list[Tensor] = []
    for layer in layers:
        near = [number for number, other in enumerate(kept) if varying(layer) & varying(other)]
        if len(near) == 1 and len(varying(layer)) == 1 and varying(layer) == varying(kept[near[0]]):
            kept[near[0]] = together(flow, kept[near[0]], layer, *varying(layer))
        elif near:
            flow.freeze(layer, MIXED)
        else:
            kept.append(layer)
    return kept


def varying(labels: Tensor) -> set[int]:
    """The axes along which the labels change."""
    return {axis for axis in range(labels.ndim) if not constant(labels, axis)}


def single(labels: Tensor, axis: int) -> bool:
    """Whether the labels change along no other axis."""
    return varying(labels) <= {axis % labels.ndim}


# --- elementwise ------------------------------------------------------------------------------------------------------


def elementwise(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    """Join the labels that meet; a constant filling, or one channel that is repeated, takes those it meets."""
    values = _operands([*args, *kwargs.values()])
    shape = result_shape(flow, node)
    result = joined(flow, values, shape)
    if not is_blank(result):
        for source in node.all_input_nodes:
            value = flow.values.get(source)
            if is_uniform(value) and isinstance(value, Tensor):
                part = packed([narrowed(layer, value.shape) for layer in flow.layers(result)], value.shape)
                if isinstance(part, Layers) or varying(part):
                    flow.fill(source, part)
    return result


rule("floor_divide")(elementwise)  # it lacks the tag


@rule("broadcast_tensors")
def _broadcast(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> list[Tensor | Layers]:
    """Values that are brought to one shape, which something elementwise is made of."""
    shapes = flow.network.shapes[flow.side][node]
    return [joined(flow, _operands(args), shapes[0])] * len(shapes)


def _operands(values: Sequence[Any]) -> list[Any]:
    found = []
    for value in values:
        if isinstance(value, (Tensor, Layers, Source)):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _operands(value)
    return found


def joined(flow: Flow, values: Sequence[Any], shape: tuple[int, ...]) -> Tensor | Layers:
    """Labels of the result of an elementwise operator on `values`, which are broadcast to `shape`."""
    operands = [[_padded(layer, len(shape)) for layer in flow.layers(value)] for value in values]
    operands = [_heads_apart(flow, number, operands) for number in range(len(operands))]
    results = []
    for axes in _connected([varying(layer) for layers in operands for layer in layers]):
        small = [size if axis in axes else 1 for axis, size in enumerate(shape)]
        met: list[Labels] = []
        for value, layers in zip(values, operands, strict=True):
            inside = [layer for layer in layers if varying(layer) & axes]
            if len(inside) > 1 and isinstance(value, Source):
                inside = [_padded(flow.elements(value), len(shape))]
            if len(inside) > 1:
                for layer in inside:
                    flow.freeze(layer, MIXED)
                continue
            base = inside[0] if inside else layers[0] if not varying(layers[0]) else nothing(layers[0].shape)
            narrow = [axis for axis in axes if base.shape[axis] == 1 and shape[axis] > 1]
            if narrow and inside:
                flow.freeze(base, "it is broadcast over the channels of another tensor")
            if inside or len(narrow) < len(axes):
                if not inside and int(squashed(base).max()) > BLANK:
                    flow.freeze(base, "it is broadcast over the channels of another tensor")
                    base = blank(base.shape)
                met.append(np.zeros(int(np.prod(small)), np.int64) if narrow else flat(squashed(base).expand(small)))
        if not met:
            continue
        labels = met[0]
        for other in met[1:]:
            flow.join(labels, other)
            labels = np.where(labels == BLANK, other, labels)
        results.append(torch.from_numpy(labels.astype(np.float64)).reshape(small).expand(shape))
    return packed(results, shape) if results else _uniform(flow, operands, shape)


def _heads_apart(flow: Flow, number: int, operands: Sequence[list[Tensor]]) -> list[Tensor]:
    """An operand's layers; channels in two axes apart where another operand has one of the two only."""
    found: list[Tensor] = []
    others = [other for place, layers in enumerate(operands) if place != number for other in layers]
    for layer in operands[number]:
        axes = varying(layer)
        narrow = [[axis for axis in axes if other.shape[axis] == 1] for other in others]
        met = any(
            0 < len(along) < len(axes) or 0 < len(axes & varying(other)) < len(axes)
            for along, other in zip(narrow, others, strict=True)
        )
        one = apart(flow, layer) if len(axes) == 2 and met else layer
        found += list(one) if isinstance(one, Layers) else [one]
    return found


def _padded(labels: Tensor, rank: int) -> Tensor:
    return labels.reshape((1,) * (rank - labels.ndim) + tuple(labels.shape))


def _connected(sets: Sequence[set[int]]) -> list[set[int]]:
    """The sets, those that overlap united."""
    found: list[set[int]] = []
    for one in sets:
        if one:
            apart = [other for other in found if not other & one]
            found = [*apart, one.union(*(other for other in found if other & one))]
    return sorted(found, key=min)


def _uniform(flow: Flow, operands: list[list[Tensor]], shape: tuple[int, ...]) -> Tensor:
    """Operands that each carry one label only, such as the gate of one channel."""
    firsts = [flat(squashed(layer))[:1] for layers in operands for layer in layers if layer.ndim and layer.numel()]
    ones = [one for one in firsts if one.size and one[0] > BLANK]
    for other in ones[1:]:
        flow.join(ones[0], other)
    if ones:
        return torch.from_numpy(ones[0].astype(np.float64)).reshape((1,) * len(shape)).expand(shape)
    return blank(shape) if firsts and all(one.size and one[0] == BLANK for one in firsts) else nothing(shape)


@rule("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", "contiguous", "clone")
@rule("alias", "detach", "to", "_to_copy", "type_as", "lift_fresh_copy", "lift_fresh", "detach_copy", "hardtanh")
@rule("relu6", "celu", "selu", "log_sigmoid", "rrelu", "threshold", "softshrink", "hardshrink", "positive", "mish")
@rule("square", "hardswish", "hardsigmoid", "silu", "gelu", "elu", "leaky_relu", "bernoulli")
@a_layer
def _same(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels: Tensor = args[0]
    return labels


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
@a_layer
def _like(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels: Tensor = args[0]
    return labels


_FILLS = "zeros ones full scalar_tensor empty new_zeros new_ones new_full new_empty rand randn randint".split()
FILLINGS = {f"aten.{name}" for name in _FILLS}


@rule(*_FILLS)
def _filling(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """The same of each channel; noise is as good as any other."""
    return blank(result_shape(flow, node))


@rule("arange", "eye", "linspace", "affine_grid_generator", "triu_indices", "tril_indices")
def _constants(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    return nothing(result_shape(flow, node))


@rule("fill", "zero", "fill_diagonal", "normal", "uniform", "exponential", "log_normal", "cauchy", "geometric")
@a_layer
def _filled(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels: Tensor = args[0]
    return labels


# --- space: pooling, interpolation ------------------------------------------------------------------------------------


def _spatial(axes: int) -> Rule:
    """Operators that mix positions along the last axes."""

    @a_layer
    def apply(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        labels: Tensor = args[0]
        kept = labels
        flow.tie(labels, range(labels.ndim - axes, labels.ndim), MIXED)
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
        f"_upsample_nearest_exact{_axes}d",
        f"upsample_nearest{_axes}d",
    )(_spatial(_axes))


@rule("max_unpool2d", "max_unpool3d")
def _unpool(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    joined(flow, args[:2], tuple(flow.layers(args[0])[0].shape))
    return _spatial(2 if operator_name(node) == "aten.max_unpool2d" else 3)(flow, node, args[:1], {})


@rule("avg_pool3d")
def _average(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Also the window over neighbouring channels of a local response norm, which keeps its size."""
    call, shape = arguments(node, args, kwargs), result_shape(flow, node)
    layers = flow.layers(args[0])
    window, stride = list(call["kernel_size"]), list(call.get("stride") or call["kernel_size"])
    if (
        len(layers) == 1
        and varying(layers[0]) == {len(shape) - 3}
        and stride[0] == 1
        and not any(call.get("padding") or [0])
    ):
        line = flow.axis(layers[0], -3)
        ends = (window[0] - 1) // 2, window[0] // 2
        inner = line[window[0] // 2 : len(line) - ends[0]]
        if not line[: window[0] // 2].any() and not line[len(line) - ends[0] :].any():
            return spread(inner, -3, shape)
    return _spatial(3)(flow, node, args, kwargs)


rule("upsample_linear1d")(_spatial(1))
rule("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")(_spatial(2))
rule("upsample_trilinear3d")(_spatial(3))


# --- reductions: what is mixed stays or goes together -----------------------------------------------------------------


@rule("mean", "sum", "amax", "amin", "var", "std", "max", "min", "norm", "linalg_vector_norm", "logsumexp", "argmax")
@rule("prod", "any", "all", "argmin", "median", "std_mean", "var_mean", "count_nonzero", "aminmax", "nanmean", "nansum")
@rule("nanmedian", "frobenius_norm", "linalg_norm")
def _reduction(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    call = arguments(node, args, kwargs)
    if "other" in call:
        return elementwise(flow, node, args, kwargs)
    name = operator_name(node).removeprefix("aten.")
    dims = call.get("dim")
    if name == "linalg_norm" and not isinstance(dims, int) and (dims is None or len(dims) > 1):
        raise Unfollowed("a norm of matrices mixes its channels")
    return _reduced(flow, node, args, {"dims": dims, "keepdim": call.get("keepdim", False), "name": name})


@a_layer
def _reduced(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    labels: Tensor = args[0]
    dims = kwargs["dims"]
    if dims is None or dims == []:
        dims = list(range(labels.ndim))
    axes = sorted({axis % labels.ndim for axis in ([dims] if isinstance(dims, int) else dims)}) if labels.ndim else []
    shape = flow.network.shapes[flow.side][node]
    lost = any(not constant(labels, axis) for axis in axes)
    if lost and node in flow.moving and is_statistic(flow, node, labels, axes, kwargs["name"]):
        flow.statistics.add(node)
        return nothing(shape) if isinstance(shape, tuple) else [nothing(one) for one in shape]
    if lost and node not in flow.moving and node.args[0] in flow.silent:  # of weights: computed again from the rest
        return nothing(shape) if isinstance(shape, tuple) else [nothing(one) for one in shape]
    flow.tie(labels, axes, f"{kwargs['name']} mixes its channels")
    result = labels
    for axis in axes:
        result = result.narrow(axis, 0, 1)
    if not kwargs["keepdim"]:
        result = result[tuple(0 if axis in axes else slice(None) for axis in range(result.ndim))]
    if isinstance(shape, tuple):
        return result.expand(shape)
    return [result.expand(one) if one is not None else None for one in shape]


@rule("softmax", "log_softmax", "_softmax", "cumsum", "cumprod", "cummax", "cummin", "sort", "argsort", "topk")
@rule("logcumsumexp", "kthvalue", "mode")
@a_layer
def _mixing(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    labels: Tensor = args[0]
    axis = int(arguments(node, args, kwargs).get("dim", -1))
    flow.tie(labels, [axis], f"{operator_name(node).removeprefix('aten.')} mixes its channels")
    shape = flow.network.shapes[flow.side][node]
    kept = labels if isinstance(shape, tuple) and shape == tuple(labels.shape) else labels.narrow(axis, 0, 1)
    if isinstance(shape, tuple):
        return kept.expand(shape)
    return [kept.expand(one) if one is not None else None for one in shape]
