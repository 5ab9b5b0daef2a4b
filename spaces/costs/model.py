"""What a candidate costs, by arithmetic: closed forms in the units kept, the blocks kept and the side.

Every cost is a sum of *monomials* `factor * form_i * form_j * ... * gate_k`: a form counts the channels of a tensor's
axis (`constant + sum of factor * units kept`), a gate is 1 where a block stays. The factors differ by side only, so a
batch of candidates is a few matrix products. `sizes.py` finds the forms, `formulas.py` the multiply-adds of
each operator, `alive.py` the memory at each moment.

Symbols: `n` candidates, `g` groups, `f` forms, `k` monomials, `t` moments of the forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.fx import Node

from ..budget import COSTS
from ..channels.flow import Flow
from ..channels.layout import Ids, Layout
from ..graph.blocks import Block, Stage, inside
from ..graph.network import Network, Rehearsal
from .alive import Span, Value, dtype, largest, once, owners, spans
from .breakdown import INPUT, SUMS, Part, home, ordered
from .copies import copies
from .counted import counted
from .formulas import Products, Unpriced, products
from .free import TRANSFORMS
from .gates import ALWAYS, Gate, When, where_one_stays
from .sizes import Size, Sizes

Array = npt.NDArray[np.float64]
CHUNK = 512  # candidates evaluated at once, so that all their monomials stay in the processor's cache


@dataclass(frozen=True)
class CostModel:
    """The closed forms; `table` evaluates them.

    Attributes:
        channels: `(g,)` channels of a unit.
        constants: `(f,)` constant of each form; factors: `(f, g)` its factor a unit kept. A form with a negative
            constant is 1 at most: it is 0 where one unit stays.
        forms: `(k, order)` forms of each monomial; form 0 is always 1.
        gate: `(k,)` gate of each monomial.
        gates: gate 0 is always 1.
        sums: `(sides, 4, k)` factors of the costs that are sums, in the order of `COSTS`.
        moments: for each side, `(t, m)` factors of the bytes alive, on the first `m` monomials.
        unknown: operators without a formula that a candidate changes; there are no costs where there is any.
        uncounted: `{module: operators}` that may multiply and are in no sum: transforms, and those that nothing counts
            and no candidate changes.
        parts: every monomial of every cost with the module that it comes from.
        modules: those modules, in the order of the forward.
    """

    channels: Array
    constants: Array
    factors: Array
    forms: Ids
    gate: Ids
    gates: tuple[Gate, ...]
    sums: Array
    moments: tuple[Array, ...]
    unknown: tuple[str, ...] = ()
    uncounted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parts: tuple[Part, ...] = field(default=(), repr=False)
    modules: tuple[str, ...] = field(default=(), repr=False)

    def table(self, encoded: Ids) -> dict[str, npt.NDArray[np.int64]]:
        """Costs by name, `(n,)` each.

        Args:
            encoded: `(n, d)` candidates: widths, blocks kept of each stage, and the index of the side where there are
                several.

        Raises:
            NotImplementedError: an operator that candidates change may multiply and has no formula.
        """
        if self.unknown:
            raise NotImplementedError(
                f"operator {self.unknown[0]} may multiply, has no cost formula, and its channels differ between "
                "candidates; give it one by secateur.costs.register before the network is traced, or name its module "
                "in `ignore`"
            )
        result = np.empty((len(COSTS), len(encoded)), np.int64)
        several = len(self.moments) > 1
        if several and len(encoded) and not 0 <= encoded[:, -1].min() <= encoded[:, -1].max() < len(self.moments):
            raise ValueError(f"resolutions are out of range; the last column is an index below {len(self.moments)}")
        for side in range(len(self.moments)):
            rows = np.flatnonzero(encoded[:, -1] == side) if several else np.arange(len(encoded))
            for start in range(0, len(rows), CHUNK):
                chunk = rows[start : start + CHUNK]
                result[:, chunk] = self._chunk(encoded[chunk], side)
        return dict(zip(COSTS, result, strict=True))

    def _chunk(self, encoded: Ids, side: int) -> Array:
        """`(5, n)` costs at one side."""
        monomials = self.monomials(encoded)
        moments = self.moments[side]
        result = np.empty((len(COSTS), len(encoded)))
        result[:-1] = self.sums[side] @ monomials
        result[-1] = result[COSTS.index("param_bytes")]
        if len(moments):
            result[-1] += (moments @ monomials[: moments.shape[1]]).max(axis=0)
        return np.rint(result, out=result)

    def monomials(self, encoded: Ids) -> Array:
        """`(k, n)` values of all monomials of `(n, d)` candidates."""
        monomials = self._monomials(encoded[:, : len(self.channels)].T / self.channels[:, None])
        gated = np.flatnonzero(self.gate)
        if len(gated):
            depths = encoded[:, len(self.channels) :]
            monomials[gated] *= np.stack([gate.of(depths) for gate in self.gates])[self.gate[gated]]
        return monomials

    def _monomials(self, units: Array) -> Array:
        """`(k, n)` monomials where every gate is 1, of `(g, n)` units kept."""
        forms = self.factors @ units + self.constants[:, None]
        bounded = np.flatnonzero(self.constants < 0)
        forms[bounded] = np.minimum(forms[bounded], 1)
        monomials = forms[self.forms[:, 0]]
        for place in range(1, self.forms.shape[1]):
            more = np.flatnonzero(self.forms[:, place])
            monomials[more] *= forms[self.forms[more, place]]
        return monomials


Found = tuple[int, tuple[float, ...]]
"""A monomial and its factor at each side."""


def cost_model(
    flow: Flow,
    layout: Layout,
    stages: Sequence[Stage],
    blocks: Mapping[str, Block],
    rehearsal: Rehearsal,
    model: nn.Module,
    batched: set[Node],
) -> CostModel:
    """Record the closed forms.

    Args:
        flow: label tensors of each value.
        layout: units and groups.
        stages: the stages of removable blocks.
        blocks: the blocks by name.
        rehearsal: a run of the graph: which values share memory, and the operators that PyTorch runs for each node.
        model: the network; shapes and types of its parameters are read.
        batched: nodes whose size goes with the number of examples.
    """
    network, storages = flow.network, rehearsal.storages
    record = _Record(network, Sizes(flow, layout, batched), stages, inside(blocks))
    several = copies(network, record.sizes, storages)
    lives = record.lives(once(spans(network, stages, blocks, storages), network, storages, several))
    wide = len(record.terms.keys)
    record.activations(owners(network, storages), several)
    record.parameters(model, stages)
    record.operators(rehearsal)
    terms, forms = record.terms, record.sizes.forms
    costs = CostModel(
        channels=np.array([group.unit for group in layout.groups], float),
        constants=np.array([constant for constant, _ in forms]),
        factors=_matrix((dict(pairs) for _, pairs in forms), len(layout.groups)),
        forms=terms.forms(),
        gate=np.array([gate for _, gate in terms.keys], np.int64),
        gates=tuple(Gate(when, terms.stages) for when in terms.gates),
        sums=np.stack([_summed((part for part in record.parts if part.cost == name), terms) for name in SUMS], axis=1),
        moments=(),
        unknown=tuple(record.unknown),
        uncounted={module: tuple(names) for module, names in record.uncounted.items()},
        parts=tuple(record.parts),
        modules=ordered(record.called, record.parts),
    )
    least = np.array([[group.widths[0] / group.unit, group.units] for group in layout.groups]).reshape(-1, 2)
    low, high = costs._monomials(least)[:wide].T
    low[costs.gate[:wide] > 0] = 0
    return replace(costs, moments=tuple(largest(rows, low, high) for rows in _alive(lives, wide, terms.sides)))


class _Record:
    """Collects the parts of all costs.

    Attributes:
        sizes: sizes of all values.
        terms: the monomials so far.
        called: the modules that call the operators, in order.
        parts: what was found.
        unknown: operators without a formula that candidates change.
        uncounted: by module, operators without a formula that they do not change and PyTorch's counter does not know,
            and transforms.
    """

    def __init__(self, network: Network, sizes: Sizes, stages: Sequence[Stage], block_of: Mapping[Node, str]) -> None:
        self.network, self.sizes = network, sizes
        self.terms = _Terms(stages, len(network.sides))
        self.called = [_caller(network, node) for node in network.operators]
        self.parts: list[Part] = []
        self.unknown: dict[str, None] = {}
        self.uncounted: dict[str, dict[str, None]] = {}
        self._block_of = block_of

    def lives(self, alive: Iterable[Span]) -> list[tuple[Found, Span]]:
        """The bytes of each value that is alive for a while."""
        lives = [(self.terms.found([*self._stored(span.value), *span.times], span.when), span) for span in alive]
        for found, span in lives:
            self.parts.append(Part("alive", _caller(self.network, span.value[0]), *found, span.start, span.end))
        return lives

    def activations(self, values: Sequence[Value], several: Mapping[Node, Size]) -> None:
        """The bytes of all results; `several` as `copies` gives it."""
        for value in values:
            times = [several[value[0]]] if value[0] in several else []
            found = self.terms.found([*self._stored(value), *times], self._runs(value[0]))
            self.parts.append(Part("activation_bytes", _caller(self.network, value[0]), *found))

    def parameters(self, model: nn.Module, stages: Sequence[Stage]) -> None:
        """The numbers and bytes of all parameters."""
        called = set(self.called)
        for name, parameter, blocks in _parameters(model, stages):
            axes, owner = self.sizes.of_tensor(name), home(name, called)
            bytes_each = self.terms.scalar(parameter.element_size())
            self.parts.append(Part("params", owner, *self.terms.found(axes, where_one_stays(blocks))))
            self.parts.append(
                Part("param_bytes", owner, *self.terms.found([*axes, bytes_each], where_one_stays(blocks)))
            )

    def operators(self, rehearsal: Rehearsal) -> None:
        """The multiply-adds of all operators."""
        for node, module in zip(self.network.operators, self.called, strict=True):
            share = self.terms.scalar(1 / self.sizes.examples(node))
            for product in self._products(node, module, [step.name for step in rehearsal.steps.get(node, ())]):
                self.parts.append(Part("macs", module, *self.terms.found([*product, share], self._runs(node))))

    def _products(self, node: Node, module: str, steps: Sequence[str]) -> Products:
        """As a formula gives them; those of an operator without one are a constant, or are noted as not known."""
        try:
            return products(node, self.sizes, steps)
        except Unpriced as operator:
            name = str(operator)
            if name not in TRANSFORMS and self.sizes.depend(node):
                self.unknown[name] = None
                return []
            constant = (0.0,) * len(self.network.sides) if name in TRANSFORMS else counted(self.network, node)
            if not any(constant):
                self.uncounted.setdefault(module, {})[name] = None
            return [[Size(0, constant)]]

    def _stored(self, value: Value) -> list[Size]:
        bytes_each = dtype(self.network, value).itemsize / self.sizes.examples(value[0])
        return [*self.sizes.axes(*value), self.terms.scalar(bytes_each)]

    def _runs(self, node: Node) -> When:
        return where_one_stays(frozenset({self._block_of[node]}) if node in self._block_of else frozenset())


class _Terms:
    """Collects monomials; equal ones are one."""

    def __init__(self, stages: Sequence[Stage], sides: int) -> None:
        self.stages, self.sides = tuple(stages), sides
        self.gates: dict[When, int] = {ALWAYS: 0}
        self.keys: dict[tuple[tuple[int, ...], int], int] = {}

    def scalar(self, number: float) -> Size:
        return Size(0, (float(number),) * self.sides)

    def found(self, product: Sequence[Size], when: When) -> Found:
        """The monomial of a product of sizes that counts where a condition is true."""
        forms = tuple(sorted(size.form for size in product if size.form))
        gate = self.gates.setdefault(when, len(self.gates))
        monomial = self.keys.setdefault((forms, gate), len(self.keys))
        return monomial, tuple(math.prod(size.counts[side] for size in product) for side in range(self.sides))

    def forms(self) -> Ids:
        """`(k, order)` forms of the monomials, padded by 0."""
        order = max((len(forms) for forms, _ in self.keys), default=1)
        rows = [[*forms, *[0] * (max(order, 1) - len(forms))] for forms, _ in self.keys]
        return np.array(rows, np.int64).reshape(len(rows), max(order, 1))


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
