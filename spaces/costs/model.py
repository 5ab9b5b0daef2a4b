"""What a candidate costs, by arithmetic: closed forms in the units kept, the blocks kept and the side.

Every cost is a sum of *monomials* `factor * form_i * form_j * ... * gate_k`: a form counts the channels of a tensor's
axis (`constant + sum of factor * units kept`), a gate is 1 where a block stays. The factors differ by side only, so a
batch of candidates is a few matrix products. `spaces.sizes` finds the forms, `spaces.formulas` the multiply-adds of
each operator, `spaces.alive` the memory at each moment.

Symbols: `n` candidates, `g` groups, `f` forms, `k` monomials, `t` moments of the forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.fx import Node

from ..budget import COSTS
from ..channels.flow import Flow
from ..channels.layout import Ids, Layout
from ..graph.blocks import Stage
from ..graph.network import Network
from .alive import Span, Value, dtype, largest, owners, spans
from .breakdown import INPUT, SUMS, Part, home, ordered
from .formulas import products
from .sizes import Size, Sizes, batched

Array = npt.NDArray[np.float64]
CostTable = Callable[[Ids], Mapping[str, npt.NDArray[Any]]]
"""`(n, d)` candidates to `(n,)` costs by name."""
CHUNK = 512  # candidates evaluated at once, so that all their monomials stay in the processor's cache


@dataclass(frozen=True)
class Gate:
    """1 where any of some blocks of a stage stays: `table[blocks kept]`."""

    stage: int
    blocks: frozenset[str]
    table: tuple[bool, ...]

    def under(self, stages: Sequence[Stage]) -> Gate:
        """The same gate when the blocks go in another order."""
        return _gate(stages, self.blocks)


@dataclass(frozen=True)
class CostModel:
    """The closed forms; `table` evaluates them.

    Attributes:
        channels: `(g,)` channels of a unit.
        constants: `(f,)` constant of each form; factors: `(f, g)` its factor a unit kept.
        forms: `(k, order)` forms of each monomial; form 0 is always 1.
        gate: `(k,)` gate of each monomial.
        gates: stage and table of each gate; None is always 1.
        sums: `(sides, 4, k)` factors of the costs that are sums, in the order of `COSTS`.
        moments: for each side, `(t, m)` factors of the bytes alive, on the first `m` monomials.
        unknown: operators without a formula; there are no costs where there is any.
        parts: every monomial of every cost with the module that it comes from.
        modules: those modules, in the order of the forward.
    """

    channels: Array
    constants: Array
    factors: Array
    forms: Ids
    gate: Ids
    gates: tuple[Gate | None, ...]
    sums: Array
    moments: tuple[Array, ...]
    unknown: tuple[str, ...] = ()
    parts: tuple[Part, ...] = field(default=(), repr=False)
    modules: tuple[str, ...] = field(default=(), repr=False)

    def table(self, encoded: Ids) -> dict[str, npt.NDArray[np.int64]]:
        """Costs by name, `(n,)` each.

        Args:
            encoded: `(n, d)` candidates: widths, blocks kept of each stage, and the index of the side where there are
                several.

        Raises:
            NotImplementedError: an operator multiplies and has no formula.
        """
        if self.unknown:
            raise NotImplementedError(
                f"operator {self.unknown[0]} may multiply and has no cost formula; write it with convolutions, linear "
                "layers, matmul, einsum or attention"
            )
        result = np.empty((len(COSTS), len(encoded)), np.int64)
        gates = [np.array([1.0] if gate is None else gate.table, float) for gate in self.gates]
        several = len(self.moments) > 1
        if several and len(encoded) and not 0 <= encoded[:, -1].min() <= encoded[:, -1].max() < len(self.moments):
            raise ValueError(f"resolutions are out of range; the last column is an index below {len(self.moments)}")
        for side in range(len(self.moments)):
            rows = np.flatnonzero(encoded[:, -1] == side) if several else np.arange(len(encoded))
            for start in range(0, len(rows), CHUNK):
                chunk = rows[start : start + CHUNK]
                result[:, chunk] = self._chunk(encoded[chunk], side, gates)
        return dict(zip(COSTS, result, strict=True))

    def _chunk(self, encoded: Ids, side: int, gates: Sequence[Array]) -> Array:
        """`(5, n)` costs at one side."""
        monomials = self._gated(encoded, gates)
        moments = self.moments[side]
        result = np.empty((len(COSTS), len(encoded)))
        result[:-1] = self.sums[side] @ monomials
        result[-1] = result[COSTS.index("param_bytes")]
        if len(moments):
            result[-1] += (moments @ monomials[: moments.shape[1]]).max(axis=0)
        return np.rint(result, out=result)

    def monomials(self, encoded: Ids) -> Array:
        """`(k, n)` values of all monomials of `(n, d)` candidates."""
        return self._gated(encoded, [np.array([1.0] if gate is None else gate.table, float) for gate in self.gates])

    def _gated(self, encoded: Ids, gates: Sequence[Array]) -> Array:
        monomials = self._monomials(encoded[:, : len(self.channels)].T / self.channels[:, None])
        gated = np.flatnonzero(self.gate)
        if len(gated):
            stays = np.ones((len(gates), len(encoded)))
            for number, gate in enumerate(self.gates):
                if gate is not None:
                    stays[number] = gates[number][encoded[:, len(self.channels) + gate.stage]]
            monomials[gated] *= stays[self.gate[gated]]
        return monomials

    def _monomials(self, units: Array) -> Array:
        """`(k, n)` monomials where every gate is 1, of `(g, n)` units kept."""
        forms = self.factors @ units + self.constants[:, None]
        monomials = forms[self.forms[:, 0]]
        for place in range(1, self.forms.shape[1]):
            more = np.flatnonzero(self.forms[:, place])
            monomials[more] *= forms[self.forms[more, place]]
        return monomials


def cost_model(
    network: Network,
    flow: Flow,
    layout: Layout,
    stages: Sequence[Stage],
    model: nn.Module,
    storages: Mapping[Node, Node],
    block_of: Mapping[Node, str],
    entries: Mapping[str, tuple[Node, Node]],
    steps: Mapping[Node, Sequence[str]] | None = None,
) -> CostModel:
    """Record the closed forms.

    Args:
        network: the captured graph.
        flow: label tensors of each value.
        layout: units and groups.
        stages: removable blocks.
        model: the network; shapes and types of its parameters are read.
        storages: for each tensor node, the node that owns its memory (views and in-place operators share).
        block_of: the removable block a node is in.
        entries: input and output node of each removable block.
        steps: the operators that PyTorch runs for a node, where that is known.
    """
    sizes = Sizes(network, flow, layout, batched(network, storages))
    terms = _Terms(stages, len(network.sides))

    def stored(value: Value) -> list[Size]:
        bytes_each = dtype(network, value).itemsize / sizes.examples(value[0])
        return [*sizes.axes(*value), terms.scalar(bytes_each)]

    called = [_caller(network, node) for node in network.operators]
    parts: list[Part] = []

    def note(cost: str, module: str, found: Found, start: int = 0, end: int = 0) -> None:
        parts.append(Part(cost, module, *found, start, end))

    lives = [
        (terms.found(stored(span.value), span.blocks), span)
        for span in spans(network, stages, storages, block_of, entries)
    ]
    wide = len(terms.keys)
    for found, span in lives:
        note("alive", _caller(network, span.value[0]), found, span.start, span.end)
    for value in owners(network, storages):
        found = terms.found(stored(value), _block(block_of.get(value[0])))
        note("activation_bytes", _caller(network, value[0]), found)
    for name, parameter, inside in _parameters(model, stages):
        axes, owner = sizes.of_tensor(name), home(name, set(called))
        note("params", owner, terms.found(axes, inside))
        note("param_bytes", owner, terms.found([*axes, terms.scalar(parameter.element_size())], inside))
    unknown: dict[str, None] = {}
    for node in network.operators:
        try:
            for product in products(node, sizes, (steps or {}).get(node, ())):
                share = terms.scalar(1 / sizes.examples(node))
                note("macs", _caller(network, node), terms.found([*product, share], _block(block_of.get(node))))
        except NotImplementedError as error:
            unknown[str(error)] = None

    costs = CostModel(
        channels=np.array([group.unit for group in layout.groups], float),
        constants=np.array([constant for constant, _ in sizes.forms]),
        factors=_matrix((dict(pairs) for _, pairs in sizes.forms), len(layout.groups)),
        forms=terms.forms(),
        gate=np.array([gate for _, gate in terms.keys], np.int64),
        gates=tuple(terms.gates),
        sums=np.stack([_summed((part for part in parts if part.cost == name), terms) for name in SUMS], axis=1),
        moments=(),
        unknown=tuple(unknown),
        parts=tuple(parts),
        modules=ordered(called, parts),
    )
    least = np.array([[group.widths[0] / group.unit, group.units] for group in layout.groups]).reshape(-1, 2)
    low, high = costs._monomials(least)[:wide].T
    low[costs.gate[:wide] > 0] = 0
    return replace(costs, moments=tuple(largest(rows, low, high) for rows in _alive(lives, wide, terms.sides)))


Found = tuple[int, tuple[float, ...]]
"""A monomial and its factor at each side."""


class _Terms:
    """Collects monomials; equal ones are one."""

    def __init__(self, stages: Sequence[Stage], sides: int) -> None:
        self.stages, self.sides = stages, sides
        self.gates: dict[Gate | None, int] = {None: 0}
        self.gate_of: dict[frozenset[str], int] = {frozenset(): 0}
        self.keys: dict[tuple[tuple[int, ...], int], int] = {}

    def scalar(self, number: float) -> Size:
        return Size(0, (float(number),) * self.sides)

    def found(self, product: Sequence[Size], blocks: frozenset[str]) -> Found:
        """The monomial of a product of sizes that counts where one of `blocks` stays, always if there is none."""
        forms = tuple(sorted(size.form for size in product if size.form))
        if blocks not in self.gate_of:
            self.gate_of[blocks] = self.gates.setdefault(_gate(self.stages, blocks), len(self.gates))
        gate = self.gate_of[blocks]
        monomial = self.keys.setdefault((forms, gate), len(self.keys))
        return monomial, tuple(math.prod(size.counts[side] for size in product) for side in range(self.sides))

    def forms(self) -> Ids:
        """`(k, order)` forms of the monomials, padded by 0."""
        order = max((len(forms) for forms, _ in self.keys), default=1)
        rows = [[*forms, *[0] * (max(order, 1) - len(forms))] for forms, _ in self.keys]
        return np.array(rows, np.int64).reshape(len(rows), max(order, 1))


def _gate(stages: Sequence[Stage], blocks: frozenset[str]) -> Gate:
    """1 where any of `blocks` (of one stage) stays."""
    for number, stage in enumerate(stages):
        if blocks <= set(stage.blocks):
            last = max(stage.order.index(block) for block in blocks)  # of them to go
            return Gate(
                number, blocks, tuple(kept >= len(stage.blocks) - last for kept in range(len(stage.blocks) + 1))
            )
    raise AssertionError(blocks)


def _block(name: str | None) -> frozenset[str]:
    return frozenset() if name is None else frozenset({name})


def _parameters(model: nn.Module, stages: Sequence[Stage]) -> Iterator[tuple[str, nn.Parameter, frozenset[str]]]:
    """Each parameter once: its first name, and the blocks of a stage with which it goes, if it goes at all."""
    stage_of = {block: stage for stage in stages for block in stage.blocks}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for name, parameter in model.named_parameters():
        places = [path for alias in names[id(parameter)] for path in _paths(alias) if path in stage_of]
        whole = len(places) == len(names[id(parameter)]) and len({stage_of[block].name for block in places}) == 1
        yield name, parameter, frozenset(places) if whole else frozenset()


def _paths(name: str) -> Iterator[str]:
    """The modules that a tensor is in, outermost first."""
    parts = name.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts)))


def _matrix(rows: Iterable[Mapping[int, float]], width: int) -> Array:
    listed = list(rows)
    matrix = np.zeros((len(listed), width))
    for number, row in enumerate(listed):
        for column, value in row.items():
            matrix[number, column] = value
    return matrix


def _summed(parts: Iterable[Part], terms: _Terms) -> Array:
    """`(sides, k)` factors."""
    matrix = np.zeros((terms.sides, len(terms.keys)))
    for part in parts:
        matrix[:, part.monomial] += part.factors
    return matrix


def _caller(network: Network, node: Node) -> str:
    """The innermost module that calls an operator; what the network is given has none."""
    if node.op == "placeholder":
        return INPUT
    calls = network.calls.get(node)
    return calls[-1] if calls else ""


def _alive(lives: Sequence[tuple[Found, Span]], width: int, sides: int) -> Iterator[Array]:
    """For each side, `(t, m)` bytes alive at each moment, by monomial."""
    moments = max((span.end for _, span in lives), default=-1) + 1
    for side in range(sides):
        changes = np.zeros((moments + 1, width))
        for (monomial, by_side), span in lives:
            changes[span.start, monomial] += by_side[side]
            changes[span.end + 1, monomial] -= by_side[side]
        yield changes.cumsum(axis=0)[:-1]
