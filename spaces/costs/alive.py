"""The bytes alive at each moment of a forward that frees every value at its last use.

A moment is one operator: its operands and results are alive together. Views and in-place operators share the memory of
the value they change. A removed block's output *is* its input, so its bytes must not count twice while both would be
alive: then the output counts only where a block between them stays. What several blocks read, such as a mask, is alive
until the last of them that stays.

Symbols: `t` moments, `k` monomials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Node

from ..graph.blocks import Block, Stage, inside
from ..graph.network import Network
from .gates import ALWAYS, Clause, When, where_one_stays
from .sizes import Size

Array = npt.NDArray[np.float64]
Value = tuple[Node, int | None]
"""A node, or one of the several tensors it gives."""


@dataclass(frozen=True)
class Span:
    """Memory that is alive from one moment to another, both included, where a condition is true.

    Its bytes are those of a value, times some sizes.
    """

    value: Value
    start: int
    end: int
    when: When
    times: tuple[Size, ...] = ()


Piece = tuple[int, int, When]
"""From one moment to another, both included, where a condition is true."""


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

    def root(node: Node) -> Value:
        parent = _parent(network, storages.get(node, node))
        return (storages.get(node, node), None) if parent is None else parent

    order = {node: moment for moment, node in enumerate([*network.inputs, *network.operators])}
    block_of = inside(blocks)
    streams = {name: root(block.entry) for name, block in blocks.items()}
    lives = _lives(network, root, order, block_of, streams)
    chains: dict[Value, tuple[Stage, list[Value], int]] = {}
    for stage in stages:
        chain = [streams[stage.blocks[0]], *[root(blocks[name].exit) for name in stage.blocks]]
        for position in range(1, len(chain)):
            chains.setdefault(chain[position], (stage, chain, position))

    found: list[Span] = []
    inputs: list[Value] = [(node, None) for node in network.inputs if node in network.shapes[0]]
    for value in [*inputs, *owners(network, storages)]:
        if value in chains:
            stage, chain, position = chains[value]
            first, last = lives[value][0][0], lives[value][-1][1]
            others = ((place, lives[chain[place]]) for place in range(position - 1, -1, -1) if chain[place] != value)
            earlier = [
                (frozenset(stage.blocks[place:position]), life)
                for place, life in others
                if life[0][0] <= last and first <= life[-1][1]
            ]
            found += (Span(value, *piece) for piece in _counted(lives[value], earlier))
        else:
            own = where_one_stays(frozenset({block_of[value[0]]}) if value[0] in block_of else frozenset())
            found += (Span(value, start, end, own | when) for start, end, when in lives[value])
    return found


def once(
    alive: Sequence[Span], network: Network, storages: Mapping[Node, Node], several: Mapping[Node, Size]
) -> Iterator[Span]:
    """The same where some operators may give views: those count beside what they view where they are copies alone.

    Args:
        alive: as `spans` gives it.
        network: the captured graph.
        storages: for each tensor node, the node that owns its memory.
        several: as `copies` gives it.
    """
    for span in alive:
        node = span.value[0]
        if node not in several:
            yield span
            continue
        source = node.all_input_nodes[0]
        owner = storages.get(source, source)
        value = _parent(network, owner) or (owner, None)
        last = max((other.end for other in alive if other.value == value and other.when == ALWAYS), default=-1)
        if span.start <= last:
            yield replace(span, end=min(span.end, last), times=(several[node],))
        if span.end > last:
            yield replace(span, start=max(span.start, last + 1))


def _lives(
    network: Network,
    root: Callable[[Node], Value],
    order: Mapping[Node, int],
    block_of: Mapping[Node, str],
    streams: Mapping[str, Value],
) -> dict[Value, list[Piece]]:
    """When each value is needed: until its last use, of those in blocks that stay.

    What a block takes as its stream is always needed up to the block: without it, its output is that very value.
    """
    uses: dict[Value, dict[int, str | None]] = {}
    for node, moment in order.items():
        users = {order.get(user, moment): user for user in node.users if user.op != "output"}
        held = [(node, item) for item in range(len(network.shapes[0][node]))] if _is_fresh(node) else []
        for value in [root(node), *held]:
            own = uses.setdefault(value, {order.get(value[0], moment): None})
            for at, user in users.items():
                block = block_of.get(user)
                free = block is None or block == block_of.get(value[0]) or streams[block] == value
                if free or at not in own:
                    own[at] = None if free else block
            if any(user.op == "output" for user in node.users):
                own[len(order)] = None
    found: dict[Value, list[Piece]] = {}
    for value, of in uses.items():
        start, last = order.get(value[0], min(of)), max(at for at, block in of.items() if block is None)
        found[value] = [(start, last, ALWAYS)]
        later = sorted(at for at in of if at > last)
        for place, at in enumerate(later):
            readers = frozenset(str(of[more]) for more in later[place:])
            found[value].append((found[value][-1][1] + 1, at, where_one_stays(readers)))
    return found


def _counted(own: Sequence[Piece], earlier: Sequence[tuple[frozenset[str], Sequence[Piece]]]) -> Iterator[Piece]:
    """When what a block gives has memory of its own beside that of what it may be the same as.

    Args:
        own: when it is needed.
        earlier: values that it is the same as, nearest first, where none of some blocks stays, and when those are
            needed.
    """
    for first, last, needed in own:
        pieces = [piece for _, life in earlier for piece in life]
        edges = {first, *(start for start, _, _ in pieces), *(end + 1 for _, end, _ in pieces)}
        starts = sorted(edge for edge in edges if first <= edge <= last)
        for start, end in zip(starts, [*(edge - 1 for edge in starts[1:]), last], strict=True):
            when = needed
            for blocks, life in earlier:
                here = next((piece[2] for piece in life if piece[0] <= start and end <= piece[1]), None)
                if here is not None:
                    (readers,) = [clause.stays for clause in here] or [frozenset[str]()]
                    when |= {Clause(blocks, readers)}
                    if not readers:  # it is needed in any case
                        break
            yield start, end, when


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
