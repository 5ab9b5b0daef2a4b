"""Rules of the operators that only move data: they are run on the labels themselves, along the axes that matter.

Axes along which the labels do not change are never written out, so the labels of a large network stay small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from ..graph.network import operator_name
from .flow import MIXED, VIEWS, Flow, Unfollowed
from .heads import apart
from .labels import (
    BLANK,
    Labels,
    Layers,
    Source,
    blank,
    compressed,
    constant,
    flat,
    is_blank,
    nothing,
    packed,
    spread,
    squashed,
)
from .rules import FILLINGS, a_layer, arguments, joined, result_shape, rule, single, varying

# --- shapes -----------------------------------------------------------------------------------------------------------


@rule("reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "ravel", "reshape_as")
@a_layer
def _reshape(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    return reshaped(args[0], result_shape(flow, node))


@rule("view")
@a_layer
def _view(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    if isinstance(args[1], torch.dtype) and tuple(args[0].shape) != result_shape(flow, node):
        raise Unfollowed("its bits are read as another type")
    return reshaped(args[0], result_shape(flow, node))


def reshaped(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """The labels in another shape; runs of axes that keep their product and do not change are not written out."""
    if 0 in shape:
        return nothing(shape)
    old, new = list(labels.shape), list(shape)
    index: list[slice] = []
    small: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first, start = i, j
        left = right = 1
        while True:
            if i < len(old) and (i == first or left < right or old[i] == 1):
                left *= old[i]
                i += 1
            elif j < len(new) and (j == start or right < left or new[j] == 1):
                right *= new[j]
                j += 1
            else:
                break
        moves = any(not constant(labels, axis) for axis in range(first, i))
        index += [slice(None) if moves else slice(0, 1)] * (i - first)
        small += new[start:j] if moves else [1] * (j - start)
    return compressed(labels[tuple(index)].reshape(small)).expand(tuple(shape))


@rule("permute", "transpose", "t", "numpy_T", "mT", "movedim", "swapaxes", "swapdims", "moveaxis", "adjoint")
@rule("select", "unbind", "diagonal", "unfold")
@a_layer
def _moved(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return _run(node, args, kwargs)


@rule("expand", "expand_as", "broadcast_to")
@a_layer
def _expand(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels: Tensor = args[0]
    if _is_index(flow, node, labels) or (
        not varying(labels) and (node.args[0] in flow.statistics or _is_repeated(flow, node))
    ):
        return blank(result_shape(flow, node))
    return labels.expand(result_shape(flow, node))


@rule("repeat", "tile")
@a_layer
def _repeat(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels, shape = args[0], result_shape(flow, node)
    labels = labels.reshape((1,) * (len(shape) - labels.ndim) + tuple(labels.shape))
    if _is_index(flow, node, labels) or (not varying(labels) and _is_repeated(flow, node)):
        return blank(shape)
    times = [1 if constant(labels, axis) else size // labels.shape[axis] for axis, size in enumerate(shape)]
    return squashed(labels).repeat(times).expand(shape)


def _is_repeated(flow: Flow, node: Node) -> bool:
    """Whether a value without channels is the same of each: one number, or a mask of positions made as large.

    What its other axes count meets the channels of no other value, or does not go with fewer of them.
    """
    source, shape = node.args[0], result_shape(flow, node)
    assert isinstance(source, Node)
    found = flow.network.shapes[flow.side][source]
    whole = (1,) * (len(shape) - len(found)) + tuple(found)
    larger = any(size == 1 < made for size, made in zip(whole, shape, strict=True))
    free = all(float(squashed(layer).max()) == 0 for layer in flow.layers(flow.values[source]))
    return larger and free and (source in flow.moving or max(whole) == 1)


def _is_index(flow: Flow, node: Node, labels: Tensor) -> bool:
    """Whether an index is made as large along an axis as what it picks of; it picks the same of each channel.

    One that is a buffer stays as it is.
    """
    source = node.args[0]
    assert isinstance(source, Node)
    if varying(labels) and source in flow.moving:
        return False
    before, after = (flow.network.shapes[flow.side].get(one) for one in (source, node))
    if flow.network.dtypes.get(node) != torch.int64 or not isinstance(before, tuple) or not isinstance(after, tuple):
        return False
    grown = [(old, new) for old, new in zip(before, after[len(after) - len(before) :], strict=True) if old != new]
    if not grown or any(old != 1 for old, _ in grown):
        return False
    flow.freeze(labels, "it is an index")
    return True


@rule("flip", "flipud", "fliplr", "rot90", "repeat_interleave", "atleast_1d", "atleast_2d", "atleast_3d")
@a_layer
def _copied(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    return _run(node, args, kwargs)  # type: ignore[no-any-return]


def _run(node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The operator itself, on labels."""
    if any(isinstance(value, (Tensor, Source, Layers)) for value in args[1:]):
        raise Unfollowed(f"operator {operator_name(node)} moves data by an index that is computed")
    target: Any = node.target
    with torch.no_grad():
        result = target(*args, **kwargs)
    return compressed(result) if isinstance(result, Tensor) else [compressed(part) for part in result]


@rule("roll")
@a_layer
def _roll(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels: Tensor = args[0]
    dims = arguments(node, args, kwargs).get("dims") or list(range(labels.ndim))
    if any(not constant(labels, axis) for axis in ([dims] if isinstance(dims, int) else dims)):
        raise Unfollowed("its channels are rolled by a fixed number")
    return labels


@rule("getitem")
def _getitem(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return args[0][args[1]]


# --- parts and wholes -------------------------------------------------------------------------------------------------


_STACKED = {"aten.hstack": 1, "aten.vstack": 0, "aten.row_stack": 0, "aten.dstack": 2}


@rule("cat", "concatenate", "concat", "stack", "hstack", "vstack", "row_stack", "dstack")
def _cat(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    shape = result_shape(flow, node)
    call = arguments(node, args, kwargs)
    axis = int(call.get("dim", _STACKED.get(operator_name(node), 0))) % len(shape)
    if operator_name(node) != "aten.stack" and not all(is_blank(value) for value in args[0]):
        args = [[_labelled(flow, source, axis) for source in node.args[0]], *args[1:]]  # type: ignore[union-attr]
    parts = [flow.layers(value) for value in args[0]]
    if operator_name(node) == "aten.stack":
        parts = [[layer.unsqueeze(axis) for layer in layers] for layers in parts]
    parts = [layers for layers in parts if layers[0].ndim == len(shape)]
    crossing = [[layer for layer in layers if not constant(layer, axis)] for layers in parts]
    if any(len(layers) > 1 for layers in crossing):
        raise Unfollowed(MIXED)
    whole = [layers[0] if layers else one[0] for layers, one in zip(crossing, parts, strict=True)]
    bare = all(squashed(layer).numel() <= 1 for layers in parts for layer in layers)
    results = []
    if any(crossing) or bare:
        whole = [
            layer if crosses or bare or squashed(layer).numel() <= 1 else nothing(layer.shape)
            for layer, crosses in zip(whole, crossing, strict=True)
        ]
        results.append(_concatenated(whole, axis, shape))
    beside = [[layer for layer in layers if constant(layer, axis)] for layers in parts]
    if any(squashed(layer).numel() > 1 for layers in beside for layer in layers):
        ends = [size if other != axis else 1 for other, size in enumerate(shape)]
        values = [
            packed([layer.narrow(axis, 0, 1) for layer in layers], ends) if layers else nothing(ends)
            for layers in beside
        ]
        met = joined(flow, values, tuple(ends))
        results += [layer.expand(shape) for layer in flow.layers(met)]
    axes = [axis for layer in results for axis in varying(layer)]
    if len(axes) != len(set(axes)):
        raise Unfollowed(MIXED)
    return packed(results, shape)


def _labelled(flow: Flow, source: Any, axis: int) -> Any:
    """A value of the graph; a constant filling becomes channels of its own along an axis."""
    value = flow.values[source]
    if is_blank(value) and operator_name(source) in FILLINGS:
        value = spread(flow.fresh(value.shape[axis]), axis, value.shape)
        flow.fill(source, value)
    return value


def _concatenated(parts: list[Tensor], axis: int, shape: tuple[int, ...]) -> Tensor:
    size = [max((t.shape[other] for t in parts if not constant(t, other)), default=1) for other in range(len(shape))]
    narrowed = [
        part[tuple(slice(None) if o == axis or size[o] > 1 else slice(0, 1) for o in range(len(shape)))].expand(
            [part.shape[axis] if o == axis else size[o] for o in range(len(shape))]
        )
        for part in parts
    ]
    return compressed(torch.cat(narrowed, axis)).expand(shape)


@rule("chunk", "tensor_split", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes")
@a_layer
def _split(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Parts of equal size keep equal sizes, the same positions in each, unless the numbers in the forward follow."""
    labels: Tensor = args[0]
    parts = _run(node, args, kwargs)
    axis = int(arguments(node, args, kwargs).get("dim", 0)) % labels.ndim
    if not constant(labels, axis) and len({part.shape[axis] for part in parts}) == 1 and not flow.literals:
        first = flat(squashed(parts[0]))
        for part in parts[1:]:
            other = flat(squashed(part))
            if other.shape == first.shape:
                flow.join(first, other)
    return parts


@rule("slice", "narrow")
@a_layer
def _slice(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """Parts between slices keep in proportion, unless the numbers in the forward follow.

    All slices of a value are seen together: where their bounds are multiples of a size, the same positions go in every
    run of that size, so that bounds computed from the number of channels stay right.
    """
    labels: Tensor = args[0]
    axis = int(arguments(node, args, kwargs).get("dim", 0)) % labels.ndim
    part: Tensor = _run(node, args, kwargs)
    if constant(labels, axis) or flow.literals or tuple(part.shape) == tuple(labels.shape):
        return part
    size = labels.shape[axis]
    places = spread(np.arange(size), axis, labels.shape)
    bounds = {size}
    for user in node.all_input_nodes[0].users:
        if operator_name(user) == operator_name(node):
            call = arguments(user, _plain(flow, user.args), dict(user.kwargs))
            if int(call.get("dim", 0)) % labels.ndim == axis and all(not isinstance(v, Node) for v in call.values()):
                taken = flat(squashed(_run(user, [places, *_plain(flow, user.args[1:])], dict(user.kwargs))))
                bounds |= {int(taken[0]), int(taken[-1]) + 1} if len(taken) else set()
    step = math.gcd(*bounds)
    rows = labels.movedim(axis, 0)
    runs = [flat(squashed(rows[start : start + step])) for start in range(0, size, step)]
    for run in runs[1:]:
        flow.join(runs[0], run)
    return part


@rule("glu")
@a_layer
def _glu(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels: Tensor = args[0]
    axis = int(arguments(node, args, kwargs).get("dim", -1)) % labels.ndim
    if constant(labels, axis):
        return labels.narrow(axis, 0, 1).expand(result_shape(flow, node))
    first, second = (flat(squashed(part)) for part in labels.chunk(2, axis))
    flow.join(first, second)
    return compressed(labels.chunk(2, axis)[0])


@rule("pad", "constant_pad_nd")
def _pad(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Features that are added to each head leave heads as they are."""
    layers: list[Tensor] = []
    for layer in flow.layers(args[0]):
        added = {layer.ndim - 1 - place // 2 for place, amount in enumerate(args[1]) if amount}
        one = apart(flow, layer) if added & varying(layer) else layer
        layers += list(one) if isinstance(one, Layers) else [one]
    return _padded(flow, node, [packed(layers, tuple(layers[0].shape)), *args[1:]], kwargs)


@a_layer
def _padded(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """Channels that are added are constants: they stay, or have labels of their own where the numbers follow."""
    labels, shape, amounts = args[0], result_shape(flow, node), list(args[1])
    result: Tensor = labels
    for place in range(len(amounts) // 2):
        before, after = int(amounts[2 * place]), int(amounts[2 * place + 1])
        axis = labels.ndim - 1 - place
        if not before and not after:
            continue
        if constant(result, axis):
            result = result.narrow(axis, 0, 1).expand(
                [shape[axis] if o == axis else n for o, n in enumerate(result.shape)]
            )
            continue
        if not single(result, axis) or min(before, after) < 0:
            raise Unfollowed("its channels are padded")
        if len(args) > 2 and args[2] not in ("constant", 0, 0.0, None):
            raise Unfollowed("its channels are padded with others")
        line = flat(squashed(result))
        ends = [flow.fresh(n) if flow.literals else np.zeros(n, np.int64) for n in (before, after)]
        result = spread(
            np.concatenate([ends[0], line, ends[1]]),
            axis,
            [*result.shape[:axis], shape[axis], *result.shape[axis + 1 :]],
        )
    return result


@rule("copy")
def _copy(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    """Assignment to a part: the labels are written into those of the whole, which later operators read."""
    views: list[Node] = []
    base = node.args[0]
    while isinstance(base, Node) and operator_name(base) in VIEWS:
        views.insert(0, base)
        base = base.args[0]
    shape = result_shape(flow, node)
    value = args[1] if isinstance(args[1], (Tensor, Layers, Source)) else nothing(())
    written = flow.layers(joined(flow, [value, blank(shape)], shape))
    if not isinstance(base, Node):
        raise Unfollowed("a part of it is assigned")
    old = flow.layers(flow.values[base])
    size = tuple(old[0].shape)
    fresh = is_blank(flow.values[base])
    lines: dict[int, Labels] = {}
    for layer in written:
        if squashed(layer).numel() <= 1:
            continue
        for axis, n in enumerate(size):
            place = spread(np.arange(n), axis, size)
            for view in views:
                place = _run(view, [place, *_plain(flow, view.args[1:])], dict(view.kwargs))
            moved = varying(place)
            if moved != varying(layer) or len(moved) != 1:
                continue
            [here] = moved
            index, labels = flow.axis(place, here), flow.axis(layer, here)
            line = lines.setdefault(axis, np.full(n, BLANK) if fresh else flow.axis(packed(old, size), axis).copy())
            flow.join(line[index], labels)
            line[index] = np.where(line[index] == BLANK, labels, line[index])
            break
        else:
            raise Unfollowed("a part of it is assigned")
    if lines:
        kept = [] if fresh else [layer for layer in old if not varying(layer) & set(lines)]
        fill = packed([*kept, *(spread(line, axis, size) for axis, line in lines.items())], size)
        flow.fill(base, fill)
    return packed(written, shape)


def _plain(flow: Flow, values: Sequence[Any]) -> list[Any]:
    return [flow.values[value] if isinstance(value, Node) else value for value in values]
