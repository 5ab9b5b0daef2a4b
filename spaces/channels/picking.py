"""Rules of the operators that pick or place data by an index that is a tensor.

Channels follow where the index picks among positions; where it picks among channels, they stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .flow import Flow, Unfollowed
from .labels import Layers, Source, compressed, constant, is_blank, nothing, packed, squashed
from .rules import a_layer, arguments, joined, result_shape, rule, varying

_PICKED = "its channels are picked by an index that does not follow them"


@rule("index_select")
@a_layer
def _index_select(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels: Tensor = args[0]
    axis = int(arguments(node, args, kwargs)["dim"]) % labels.ndim
    if not constant(labels, axis):
        raise Unfollowed(_PICKED)
    return labels.narrow(axis, 0, 1).expand(result_shape(flow, node))


@rule("index")
@a_layer
def _index(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels, indices = args[0], args[1]
    picked = [axis for axis, index in enumerate(indices) if index is not None]
    if any(not constant(labels, axis) for axis in picked):
        raise Unfollowed(_PICKED)
    small = squashed(labels)
    ranks = [len((index[0] if isinstance(index, Layers) else index).shape) for index in indices if index is not None]
    zeros = torch.zeros((1,) * max(ranks), dtype=torch.long)
    return small[tuple(slice(None) if index is None else zeros for index in indices)].expand(result_shape(flow, node))


@rule("gather")
def _gather(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    """One position of each line: what is taken and the index that takes it go together along all other axes."""
    call = arguments(node, args, kwargs)
    return _at_index(flow, call, [call["self"], call["index"]], result_shape(flow, node))


@rule("take_along_dim")
def _take_along_dim(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    call = arguments(node, args, kwargs)
    if call.get("dim") is None or len(_shape(call["self"])) != len(_shape(call["indices"])):
        raise Unfollowed(_PICKED)
    return _at_index(flow, call, [call["self"], call["indices"]], result_shape(flow, node))


@rule("scatter", "scatter_add", "scatter_reduce")
def _scatter(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    call = arguments(node, args, kwargs)
    values = [value for value in (call["self"], call["index"], call.get("src")) if _is_value(value)]
    reached = _at_index(flow, call, values, _shape(call["index"]))
    return _written(flow, node, call["self"], reached, int(call["dim"]))


def _at_index(flow: Flow, call: dict[str, Any], values: Sequence[Any], shape: Sequence[int]) -> Tensor | Layers:
    """Labels of what an index of this shape reaches, one position along an axis at a time."""
    axis = int(call["dim"]) % max(1, len(shape))
    inner = [size for other, size in enumerate(shape) if other != axis]
    lines = []
    for value in values:
        if _shape(value)[:axis] + _shape(value)[axis + 1 :] != tuple(inner) and any(
            varying(layer) for layer in flow.layers(value)
        ):
            raise Unfollowed("an index reaches some of its channels only")
        lines.append(_cut(_unpicked(flow, value, [axis]), axis, shape))
    small = [1 if other == axis else size for other, size in enumerate(shape)]
    met = joined(flow, lines, tuple(small))
    if isinstance(met, Layers):
        return Layers(layer.expand(tuple(shape)) for layer in met)
    found = met.expand(tuple(shape))
    for source in flow.node.all_input_nodes if flow.node and not is_blank(met) else ():
        if is_blank(flow.values[source]) and _shape(flow.values[source]) == tuple(shape):
            flow.fill(source, found)  # an index that picks the same of each channel
    return found


def _unpicked(flow: Flow, value: Any, axes: Sequence[int]) -> Any:
    """A value without what counts positions along axes that an index picks from, such as of a table: that stays."""
    apart: list[list[Tensor]] = [[], []]
    for layer in flow.layers(value):
        apart[bool(varying(layer) & set(axes))].append(layer)
    for layer in apart[True]:
        if varying(layer) - set(axes):
            raise Unfollowed(_PICKED)
        flow.freeze(layer, _PICKED)
    return packed(apart[False], _shape(value)) if apart[True] else value


def _written(flow: Flow, node: Node, target: Any, met: Tensor | Layers, axis: int) -> Tensor | Layers:
    """Labels of what was written into along an axis; a constant filling has the channels that were written."""
    if not is_blank(target) or is_blank(met):
        return _whole(target)
    shape = _shape(target)
    layers = [layer.narrow(axis, 0, 1) for layer in flow.layers(met)]
    if any(size not in (1, whole) for layer in layers for size, whole in zip(layer.shape, shape, strict=True)):
        raise Unfollowed("a part of it is assigned")
    found = packed([layer.expand(shape) for layer in layers], shape)
    base: Any = node.args[0]
    flow.fill(base, found)
    return found


def _cut(value: Any, axis: int, shape: Sequence[int]) -> Any:
    """The labels at the first position of an axis; of a value without channels, none in that shape."""
    if isinstance(value, Layers):
        return Layers(layer.narrow(axis, 0, 1) for layer in value)
    if isinstance(value, Tensor) and value.ndim == len(shape):
        small = [1 if other == axis else size for other, size in enumerate(shape)]
        return value.narrow(axis, 0, 1) if varying(value) or is_blank(value) else value.narrow(axis, 0, 1).expand(small)
    raise Unfollowed(_PICKED)


@rule("index_put")
def _index_put(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    """Positions are written: the values have the channels of what is written into."""
    target, indices, values = args[0], args[1], args[2]
    given: Any = node.args[1]
    if any(isinstance(index, Node) and flow.network.dtypes.get(index) == torch.bool for index in given):
        return _masked_put(flow, target, indices, values)
    reached = []
    target = _unpicked(flow, target, [axis for axis, index in enumerate(indices) if index is not None])
    for layer in flow.layers(target):
        zeros = [None if index is None else torch.zeros(_shape(index), dtype=torch.long) for index in indices]
        reached.append(layer[tuple(slice(None) if zero is None else zero for zero in zeros)])
    reached = [compressed(layer) for layer in reached]
    met = joined(flow, [Layers(reached) if len(reached) > 1 else reached[0], values], tuple(reached[0].shape))
    picked = [axis for axis, index in enumerate(indices) if index is not None]
    if is_blank(target) and not is_blank(met):
        if len(picked) > 1 or len(_shape(indices[picked[0]])) != 1:
            raise Unfollowed("a part of it is assigned")
        return _written(flow, node, target, met, picked[0])
    return _whole(target)


def _masked_put(flow: Flow, target: Any, indices: Sequence[Any], values: Any) -> Tensor | Layers:
    """One number where a mask of the leading axes says so: elementwise."""
    [mask] = indices if len(indices) == 1 else [None]
    if mask is None or squashed(flow.layers(values)[0]).numel() != 1:
        raise Unfollowed(_PICKED)
    shape = _shape(target)
    rest = (1,) * (len(shape) - len(_shape(mask)))
    joined(flow, [target, *(layer.reshape(*layer.shape, *rest) for layer in flow.layers(mask))], shape)
    return _whole(target)


@rule("index_add", "index_copy", "index_fill", "index_reduce")
def _index_written(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    """Positions along one axis are written."""
    call = arguments(node, args, kwargs)
    rank = len(_shape(call["self"]))
    axis, source = int(call["dim"]) % rank, call.get("source")
    values = [value for value in (call["self"], source) if _is_value(value)]
    values = [_unpicked(flow, value, [axis]) for value in values]
    shape = [1 if other == axis else size for other, size in enumerate(_shape(call["self"]))]
    met = joined(flow, [_cut(value, axis, _shape(value)) for value in values], tuple(shape))
    return _written(flow, node, call["self"], met, axis)


@rule("one_hot", "view_as_real")
@a_layer
def _with_new_axis(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """One more axis at the end, on which no label changes."""
    labels: Tensor = args[0]
    return labels.unsqueeze(-1).expand(result_shape(flow, node))


@rule("view_as_complex")
@a_layer
def _without_last_axis(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels: Tensor = args[0]
    if not constant(labels, -1):
        raise Unfollowed("its channels are read as parts of complex numbers")
    return labels.select(-1, 0)


@rule("bucketize", "isin")
@a_layer
def _looked_up(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """Each element by itself, in a table."""
    labels: Tensor = args[0]
    for table in args[1:2]:
        for layer in flow.layers(table) if _is_value(table) else ():
            flow.freeze(layer, "it is a table to look up in")
    return labels


@rule("searchsorted")
def _searchsorted(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if len(_shape(args[0])) != 1 or not _is_value(args[1]):
        raise Unfollowed("it is looked up in a table of its own")
    return _looked_up(flow, node, [args[1], args[0]], {})


@rule("diff")
@a_layer
def _diff(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    call, labels = arguments(node, args, kwargs), args[0]
    axis = int(call.get("dim", -1)) % labels.ndim
    if not constant(labels, axis) or call.get("prepend") is not None or call.get("append") is not None:
        raise Unfollowed("diff mixes its channels")
    result: Tensor = labels.narrow(axis, 0, 1).expand(result_shape(flow, node))
    return result


@rule("tril", "triu")
@a_layer
def _triangle(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels: Tensor = args[0]
    if any(not constant(labels, axis) for axis in (-2, -1)):
        raise Unfollowed("a triangle is cut out of its channels")
    return labels


def _is_value(value: Any) -> bool:
    return isinstance(value, (Tensor, Layers, Source))


def _shape(value: Any) -> tuple[int, ...]:
    return tuple((value[0] if isinstance(value, Layers) else value).shape)


def _whole(value: Any) -> Tensor | Layers:
    return value if isinstance(value, (Tensor, Layers)) else nothing(value.shape)
