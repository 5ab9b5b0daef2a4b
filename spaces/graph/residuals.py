"""Which modules look like a residual block, by the graph alone: a path leads around what they calculate.

The path starts at what a module gives and goes back over sums (`x + f(x)`, `x - f(x)`), scalings, norms, activations
and moves of elements to something that the module takes, its *stream*. The module may take more than that. A module
without such a path says where it ends.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.fx import Node

from .network import Network, operator_name

_PASSES = {
    f"aten.{name}"
    for name in (
        "relu relu6 hardtanh gelu silu mish elu celu selu leaky_relu hardswish sigmoid tanh softplus hardsigmoid clamp "
        "dropout feature_dropout clone contiguous alias detach to _to_copy type_as masked_fill "
        "batch_norm layer_norm group_norm instance_norm rms_norm "
        "view view_as _unsafe_view reshape reshape_as flatten unflatten transpose permute squeeze unsqueeze movedim"
    ).split()
}
_SCALES = {"aten.mul", "aten.div"}


@dataclass(frozen=True, eq=False)
class Called:
    """A module in the graph.

    Attributes:
        network: the captured graph.
        name: the module's.
        nodes: what it calls, in order.
        places: the place of every operator in the graph.
    """

    network: Network
    name: str
    nodes: tuple[Node, ...]
    places: Mapping[Node, int]

    @cached_property
    def members(self) -> frozenset[Node]:
        """Its nodes."""
        return frozenset(self.nodes)

    @cached_property
    def entries(self) -> tuple[Node, ...]:
        """The tensors that it takes, but for parameters and buffers, in the order in which it uses them."""
        sources, tensors = self.network.sources, self.network.shapes[-1]
        return tuple(
            dict.fromkeys(
                source
                for node in self.nodes
                for source in node.all_input_nodes
                if source not in self.members and source not in sources and source in tensors
            )
        )

    @cached_property
    def exits(self) -> tuple[Node, ...]:
        """What is used after it."""
        return tuple(node for node in self.nodes if any(user not in self.members for user in node.users))

    @cached_property
    def streams(self) -> tuple[tuple[Node, Node], ...]:
        """What it takes and gives with a path around all that it calculates of it: pairs of an entry and an exit."""
        tensors = self.network.shapes[-1]
        pairs = [(entry, end) for end in self.exits if end in tensors for entry in self.entries]
        return tuple(
            (entry, end)
            for entry, end in pairs
            if _elements(tensors[entry]) == _elements(tensors[end]) and self.leads_around(entry, end)
        )

    def leads_around(self, entry: Node, end: Node, jumps: Mapping[Node, Node] | None = None) -> bool:
        """Whether a path from `end` back to `entry` goes over a sum with something made of `entry`.

        Args:
            entry: what the module takes.
            end: what it gives.
            jumps: by what blocks in it give, what they take: whether a path needs no other sums than theirs.
        """
        made = self._made_of(entry)
        inner = made & {entry, *self.nodes}
        waiting, seen = [(end, False)], set[tuple[Node, bool]]()
        while waiting:
            node, added = waiting.pop()
            if node is entry and (added or jumps is not None):
                return True
            if (node, added) in seen or node not in self.members:
                continue
            seen.add((node, added))
            if jumps and node in jumps:
                waiting.append((jumps[node], added))
            else:
                more = ((source, added or sums) for source, sums in _back(node, made, inner))
                waiting += [one for one in more if jumps is None or not one[1]]
        return False

    def parting(self) -> Node:
        """Where the way back from what it gives ends: an operator that is not passed."""
        node = self.exits[-1]
        while True:
            before = [source for source, _ in _back(node, self.members, self.members) if source in self.members]
            if not before:
                return node
            node = before[0]

    def made_before(self, entry: Node) -> Node | None:
        """A value that is made of `entry` outside of the module and for it alone: half of its branch is there."""
        after = self._before(entry)
        halves = [one for one in self.entries if one in after and one is not entry]
        whole = {half: _sources(half, after) for half in halves}
        mine = self.members.union(*whole.values())
        alone = (half for half in halves if all(mine.issuperset(node.users) for node in whole[half]))
        return next(alone, None)

    def _before(self, entry: Node) -> set[Node]:
        """What is made of `entry` before the module; nothing where the module takes nothing else."""
        waiting, seen, first = [entry], set[Node](), self.places[self.nodes[0]]
        while waiting and len(self.entries) > 1:
            for user in waiting.pop().users:
                if user not in seen and self.places[user] < first:
                    seen.add(user)
                    waiting.append(user)
        return seen

    def _made_of(self, entry: Node) -> set[Node]:
        """What is made of a tensor that the module takes: of its own nodes, and of what else it takes."""
        made = {entry, *self._before(entry).intersection(self.entries)}
        for node in self.nodes:
            if not made.isdisjoint(node.all_input_nodes):
                made.add(node)
        return made


def _sources(node: Node, among: Collection[Node]) -> set[Node]:
    """What a value is made of, with itself, among some nodes."""
    waiting, found = [node], {node}
    while waiting:
        more = {one for one in waiting.pop().all_input_nodes if one in among} - found
        found |= more
        waiting += more
    return found


def _elements(shape: Any) -> int:
    """How many a tensor has; 0 for several tensors."""
    return math.prod(shape) if isinstance(shape, tuple) else 0


def _back(node: Node, made: Collection[Node], inner: Collection[Node]) -> Iterator[tuple[Node, bool]]:
    """The operands that an operator passes on, and whether it adds to them something that was made of the stream.

    Args:
        node: the operator.
        made: what was made of the stream.
        inner: of that, what the module made, and the stream.
    """
    name, args = operator_name(node), node.args
    first = args[0] if args else None
    if name == "aten.add":
        for place, arg in enumerate(args[:2]):
            if isinstance(arg, Node):
                yield arg, args[1 - place] in made
    elif name in _SCALES:
        for place, arg in enumerate(args[: 1 if name == "aten.div" else 2]):
            if isinstance(arg, Node) and args[1 - place] not in inner:
                yield arg, False
    elif isinstance(first, Node):
        if name == "aten.sub":  # x - f(x), not f(x) - x
            yield first, args[1] in made
        elif name == "aten.addcmul":
            yield first, any(arg in made for arg in args[1:3])
        elif name in _PASSES:
            yield first, False
