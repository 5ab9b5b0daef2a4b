"""Rules of products of tensors: matrix products, sums over named axes, attention."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from .flow import MIXED, Flow, Unfollowed
from .heads import apart
from .labels import BLANK, Labels, Layers, Source, constant, is_blank, is_uniform, packed, spread
from .makers import maker, rank
from .rules import arguments, joined, result_shape, rule, varying

# --- products ---------------------------------------------------------------------------------------------------------


@rule("einsum")
def _einsum(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    values = list(args[1])
    inputs, _, output = str(args[0]).replace(" ", "").partition("->")
    terms = inputs.split(",")
    rest = [rank(value) - len(term.replace("...", "")) for term, value in zip(terms, values, strict=True)]
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
    left, right = (rank(value) for value in values)
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
        value = _heads_apart(flow, term, value, {one for one in out if sum(one in other for other in letters) > 1})
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
    for term, source in zip(letters, nodes, strict=True):
        if is_blank(value := flow.values[source]):  # such as a first state
            met = [
                [labels for labels, _ in found[letter] if len(labels) > 1 and labels.max() > BLANK] for letter in term
            ]
            lines = [spread(some[0], axis, value.shape) for axis, some in enumerate(met) if some]
            if lines:
                flow.fill(source, packed(lines, value.shape))
    layers = []
    for axis, letter in enumerate(out):
        if shape[axis] > 1:
            labels, _ = max(found[letter], key=lambda side: (len(side[0]), bool(side[0].any())))
            layers.append(spread(labels, axis, shape))
            if all(source in flow.weighed - flow.moving for _, source in found[letter]):
                flow.constraints.makers.append((maker(flow, node, next(iter(flow.weights.get(node, [])), "")), labels))
    return packed(layers, shape)


def _heads_apart(flow: Flow, term: list[str], value: Any, batch: set[str]) -> Any:
    """A factor whose channels are in heads, of one product each, and in features of a head."""
    if isinstance(value, Source):
        return value
    layers: list[Tensor] = []
    for layer in flow.layers(value):
        outer = [axis for axis in varying(layer) if term[axis] in batch]
        one = apart(flow, layer, outer[0]) if len(outer) == 1 else layer
        layers += list(one) if isinstance(one, Layers) else [one]
    return packed(layers, tuple(layers[0].shape))


# --- attention --------------------------------------------------------------------------------------------------------


@rule("scaled_dot_product_attention")
def _attention(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor | Layers:
    """Heads go together in queries, keys, values and mask; features of values follow, and those of queries and keys.

    The scale is that of the full head: a call that makes it of the number of features is given it (`numbers.py`).
    """
    call, shape = arguments(node, args, kwargs), result_shape(flow, node)
    query, key, value = (_headed(flow, call[name]) for name in ("query", "key", "value"))
    for one in (query, key, value):
        for layer in flow.layers(one):
            if not constant(layer, -2):
                flow.freeze(layer, MIXED)
    if {node.args[0], node.args[1]} & flow.silent:
        flow.join(flow.axis(query, -1), flow.axis(key, -1))
    else:
        for one in (query, key):
            flow.freeze(flow.axis(one, -1), "it is summed over in a product of two activations")
    layers = [spread(flow.axis(value, -1), -1, shape)]
    for axis in range(-len(shape), -2):
        line = flow.axis(query, axis)
        for name, other in (("key", key), ("value", value), ("attn_mask", call.get("attn_mask"))):
            if not isinstance(other, (Tensor, Layers, Source)) or rank(other) < -axis:
                continue
            labels = flow.axis(other, axis)
            if name == "attn_mask" and len(labels) > 1 and line.max() > BLANK and is_uniform(other):
                flow.freeze(flow.layers(other)[0], "it is attention's mask")
                mask = arguments(node, list(node.args), dict(node.kwargs))[name]
                flow.fill(mask, spread(line, axis, flow.layers(other)[0].shape))  # one that was made as large
                continue
            if 1 < len(labels) and name != "attn_mask":  # several heads of queries may share keys and values
                labels = np.repeat(labels, len(line) // len(labels))
            if 1 < len(labels):
                flow.join(line, labels)
        layers.append(spread(line, axis, shape))
    for layer in flow.layers(call["attn_mask"]) if call.get("attn_mask") is not None else ():
        if varying(layer) & {layer.ndim - 1, layer.ndim - 2}:
            flow.freeze(layer, "it is attention's mask")
    return packed(layers, shape)


def _headed(flow: Flow, value: Any) -> Any:
    """Queries, keys or values whose channels are in heads and in features of a head."""
    layers: list[Tensor] = []
    for layer in flow.layers(value):
        one = apart(flow, layer) if -1 % layer.ndim in varying(layer) else layer
        layers += list(one) if isinstance(one, Layers) else [one]
    return packed(layers, tuple(layers[0].shape))
