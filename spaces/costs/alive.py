"""The bytes alive at each moment of a forward that frees every value at its last use.

A moment is one operator: its operands and results are alive together. Views and in-place operators share the memory of
the value they change. A removed block's output *is* its input, so its bytes must not count twice while both would be
alive: then the output counts only where a block between them stays.

Symbols: `t` moments, `k` monomials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Node

from ..graph.blocks import Block, Stage, inside
from ..graph.network import Network

Array = npt.NDArray[np.float64]
Value = tuple[Node, int | None]
"""A node, or one of the several tensors it gives."""


@dataclass(frozen=True)
class Span:
    """Memory that is alive from one moment to another, both included; only where one of `blocks` stays, if any."""

    value: Value
    start: int
    end: int
    blocks: frozenset[str]


def owners(network: Network, storages: Mapping[Node, Node]) -> list[Value]:
    """The results of operators that have memory of their own, in order."""
    found: list[Value] = []
    for node in network.operators:
        shapes = network.shapes[0][node]
        if isinstance(shapes, tuple):
            if storages.get(node) is node and _parent(network, node) is None:
                found.append((node, None))
        elif _is_fresh(node):
            found += [(node, item) for item, shape in enumerate(shapes) if shape is not None]
    return found


def dtype(network: Network, value: Value) -> torch.dtype:
    """Element type of a value."""
    node, item = value
    if item is None:
        return network.dtypes[node]
    found = node.meta["val"][item]
    assert isinstance(found, Tensor)
    return found.dtype


def spans(
    network: Network, stages: Sequence[Stage], blocks: Mapping[str, Block], storages: Mapping[Node, Node]
) -> list[Span]:
    """When the memory of each input and operator is alive.

    Args:
        network: the captured graph.
        stages: the stages of removable blocks.
        blocks: the blocks by name.
        storages: for each tensor node, the node that owns its memory.
    """
    found: list[Span] = []
    block_of = inside(blocks)
    order = {node: moment for moment, node in enumerate([*network.inputs, *network.operators])}

    def root(node: Node) -> Value:
        parent = _parent(network, storages.get(node, node))
        return (storages.get(node, node), None) if parent is None else parent

    last: dict[Value, int] = {}
    for node, moment in order.items():
        end = max((order.get(user, moment) for user in node.users), default=moment)
        if any(user.op == "output" for user in node.users):
            end = len(order)
        held = [(node, item) for item in range(len(network.shapes[0][node]))] if _is_fresh(node) else []
        for value in [root(node), *held]:
            last[value] = max(last.get(value, 0), end)

    chains: dict[Value, tuple[Stage, list[Value], int]] = {}
    for stage in stages:
        chain = [root(blocks[stage.blocks[0]].entry), *[root(blocks[name].exit) for name in stage.blocks]]
        for position in range(1, len(chain)):
            chains.setdefault(chain[position], (stage, chain, position))

    inputs: list[Value] = [(node, None) for node in network.inputs if node in network.shapes[0]]
    for value in [*inputs, *owners(network, storages)]:
        start, end = order[value[0]], last[value]
        if value not in chains:
            block = block_of.get(value[0])
            found.append(Span(value, start, end, frozenset() if block is None else frozenset({block})))
            continue
        stage, chain, position = chains[value]
        for earlier in range(position - 1, -1, -1):  # the nearest earlier output that is alive decides
            until = min(end, last[chain[earlier]])
            if start <= until and chain[earlier] != value:
                found.append(Span(value, start, until, frozenset(stage.blocks[earlier:position])))
                start = until + 1
        if start <= end:
            found.append(Span(value, start, end, frozenset()))
    return found


def _is_fresh(node: Node) -> bool:
    """Whether an operator gives several tensors with memory of their own, not views."""
    target = node.target
    return (
        isinstance(node.meta.get("val"), (list, tuple))
        and isinstance(target, torch._ops.OpOverload)
        and all(result.alias_info is None for result in target._schema.returns)
    )


def _parent(network: Network, node: Node) -> Value | None:
    """The operator and item that a node takes out of several new tensors."""
    if node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem":
        source, item = node.args[0], node.args[1]
        if isinstance(source, Node) and isinstance(item, int) and _is_fresh(source):
            return source, item % len(network.shapes[0][source])
    return None


def largest(rows: Array, low: Array, high: Array) -> Array:
    """The rows whose product can be the largest; the others never exceed one of them.

    Args:
        rows: `(t, k)` bytes alive, by monomial.
        low: `(k,)` the least value of each monomial.
        high: `(k,)` its greatest.
    """
    rows = rows[rows.any(axis=1)]
    kept = np.ones(len(rows), bool)
    kept[:-1] &= (rows[:-1] > rows[1:]).any(axis=1)  # nothing dies before the next moment
    kept[1:] &= (rows[1:] > rows[:-1]).any(axis=1) | (rows[1:] == rows[:-1]).all(axis=1)  # something is born
    rows = np.unique(rows[kept], axis=0)
    rows = rows[np.argsort(-(rows @ high), kind="stable")]
    best: list[int] = []
    for number, row in enumerate(rows):
        more = rows[best] - row
        least = np.maximum(more, 0) @ low + np.minimum(more, 0) @ high
        if not (least >= 0).any():
            best.append(number)
    return rows[best]
