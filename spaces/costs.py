"""What a candidate costs, by arithmetic: closed forms in the units kept, the blocks kept and the side.

Every cost is a sum of *monomials* `factor * form_i * form_j * gate_k`: a form counts the channels of a tensor's axis
(`constant + sum of factor * units kept`), a gate is 1 where a block stays. The factors differ by side only, so a batch
of candidates is a few matrix products.

Symbols: `n` candidates, `g` groups, `k` monomials, `t` moments of the forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.fx import Node

from .depth import Stage
from .flow import Flow, along, flat, squashed
from .graph import BATCH, Network, operator_name
from .layout import Ids, Layout

Array = npt.NDArray[np.float64]
COSTS = ("macs", "params", "param_bytes", "activation_bytes", "peak_bytes")


@dataclass(frozen=True)
class Gate:
    """1 where any of some blocks of a stage stays: `table[blocks kept]`."""

    stage: int
    blocks: frozenset[str]
    table: tuple[bool, ...]

    def under(self, stages: Sequence[Stage]) -> Gate:
        """The same gate when the blocks go in another order."""
        return _gate(stages, set(self.blocks))


class _Terms:
    """Collects monomials; equal ones are summed."""

    def __init__(self, sides: int) -> None:
        self.sides = sides
        self.forms: dict[tuple[float, tuple[tuple[int, float], ...]], int] = {(1.0, ()): 0}
        self.gates: dict[Gate | None, int] = {None: 0}
        self.keys: dict[tuple[int, int, int], int] = {}

    def form(self, constant: float, factors: Mapping[int, float]) -> int:
        key = (constant, tuple(sorted(factors.items())))
        return self.forms.setdefault(key, len(self.forms))

    def gate(self, gate: Gate | None) -> int:
        return self.gates.setdefault(gate, len(self.gates))

    def monomial(self, forms: Sequence[int], gate: int) -> int:
        varying = sorted(form for form in forms if form)
        if len(varying) > 2:
            raise AssertionError("a cost has three varying axes")
        left, right = [*([0] * (2 - len(varying))), *varying]
        return self.keys.setdefault((left, right, gate), len(self.keys))


@dataclass(frozen=True)
class CostModel:
    """The closed forms; `table` evaluates them.

    Attributes:
        constants: `(f,)` constant of each form; factors: `(g, f)` its factor a unit kept.
        left, right, gate: `(k,)` form, form and gate of each monomial.
        gates: stage and table of each gate; None is always 1.
        linear: for each cost that is a sum, `(sides, k)` factors.
        moments: for each side, `(t, k)` factors of the bytes alive.
    """

    constants: Array
    factors: Array
    left: Ids
    right: Ids
    gate: Ids
    gates: tuple[Gate | None, ...]
    linear: dict[str, Array]
    moments: tuple[Array, ...]

    def table(self, units: Array, depths: Ids, sides: Ids) -> dict[str, npt.NDArray[np.int64]]:
        """Costs by name, `(n,)` each.

        Args:
            units: `(n, g)` units kept of each group.
            depths: `(n, stages)` blocks kept.
            sides: `(n,)` index of the side.
        """
        forms = units @ self.factors + self.constants
        gates = np.ones((len(units), len(self.gates)))
        for number, gate in enumerate(self.gates):
            if gate is not None:
                gates[:, number] = np.asarray(gate.table, float)[depths[:, gate.stage]]
        one = np.flatnonzero(self.left)
        monomials = forms[:, self.right]
        monomials[:, one] *= forms[:, self.left[one]]
        gated = np.flatnonzero(self.gate)
        monomials[:, gated] *= gates[:, self.gate[gated]]
        result = {name: np.zeros(len(units), np.int64) for name in COSTS}
        for side in np.unique(sides):
            rows = slice(None) if len(self.moments) == 1 else np.flatnonzero(sides == side)
            here = monomials[rows]
            for name, factors in self.linear.items():
                result[name][rows] = np.rint(here @ factors[side]).astype(np.int64)
            alive = (here @ self.moments[side].T).max(axis=1) if len(self.moments[side]) else np.zeros(len(here))
            result["peak_bytes"][rows] = np.rint(alive).astype(np.int64) + result["param_bytes"][rows]
        return result


def cost_model(
    network: Network,
    flow: Flow,
    layout: Layout,
    stages: Sequence[Stage],
    model: nn.Module,
    storages: Mapping[Node, Node],
    block_of: Mapping[Node, str],
    entries: Mapping[str, tuple[Node, Node]],
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

    Raises:
        NotImplementedError: an operator multiplies and has no formula; its name is given.
    """
    terms = _Terms(len(network.sides))
    gate_of = {name: terms.gate(_gate(stages, {name})) for stage in stages for name in stage.blocks}
    sums: dict[str, list[tuple[int, list[float]]]] = {name: [] for name in COSTS[:-1]}
    slots = layout.slots

    def weight_forms(name: str) -> tuple[list[int], float]:
        shape = flow.shapes[name]
        axes = slots.get(name, {})
        forms = [terms.form(*layout.form(ids)) for ids in axes.values()]
        return forms, float(math.prod(size for axis, size in enumerate(shape) if axis not in axes))

    seen: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        block = next((b for b in gate_of if name.startswith(f"{b}.")), None)
        forms, rest = weight_forms(name)
        monomial = terms.monomial(forms, gate_of.get(block, 0) if block else 0)
        sums["params"].append((monomial, [rest] * terms.sides))
        sums["param_bytes"].append((monomial, [rest * parameter.element_size()] * terms.sides))

    scaled = _depends_on_input(network)
    sizes: dict[Node, tuple[int, list[float]]] = {}
    for node in [*network.inputs, *network.operators]:
        if isinstance(network.shapes[0].get(node), tuple):
            sizes[node] = _size(network, flow, layout, terms, node, scaled)
    for node in network.operators:
        gate = gate_of.get(block_of.get(node, ""), 0)
        for found_forms, by_side in _macs(network, flow, layout, terms, node, sizes, weight_forms, scaled):
            sums["macs"].append((terms.monomial(found_forms, gate), by_side))
        if storages.get(node) is node and node in sizes:
            form, factors = sizes[node]
            width = network.dtypes[node].itemsize
            sums["activation_bytes"].append((terms.monomial([form], gate), [f * width for f in factors]))

    moments = _moments(network, terms, stages, storages, block_of, entries, sizes, gate_of)
    keys = list(terms.keys)
    all_forms = list(terms.forms)
    matrix_of_factors = np.zeros((len(layout.groups), len(all_forms)))
    for column, (_, pairs) in enumerate(all_forms):
        for group, factor in pairs:
            matrix_of_factors[group, column] = factor
    linear = {}
    for name, found in sums.items():
        matrix = np.zeros((terms.sides, len(keys)))
        for monomial, by_side in found:
            matrix[:, monomial] += by_side
        linear[name] = matrix
    return CostModel(
        constants=np.array([constant for constant, _ in all_forms]),
        factors=matrix_of_factors,
        left=np.array([key[0] for key in keys], np.int64),
        right=np.array([key[1] for key in keys], np.int64),
        gate=np.array([key[2] for key in keys], np.int64),
        gates=tuple(terms.gates),
        linear=linear,
        moments=tuple(_undominated(_dense(rows, len(keys))) for rows in moments),
    )


def _gate(stages: Sequence[Stage], blocks: set[str]) -> Gate:
    """1 where any of `blocks` (of one stage) stays."""
    for number, stage in enumerate(stages):
        if blocks <= set(stage.blocks):
            kept = range(len(stage.blocks) + 1)
            return Gate(number, frozenset(blocks), tuple(not blocks <= set(stage.removed(k)) for k in kept))
    raise AssertionError(blocks)


def _depends_on_input(network: Network) -> set[Node]:
    found = set(network.inputs)
    for node in network.graph.nodes:
        if any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _size(
    network: Network, flow: Flow, layout: Layout, terms: _Terms, node: Node, scaled: set[Node]
) -> tuple[int, list[float]]:
    """Elements of a value for one example: a form, and its factor a side."""
    labels = flow.values[node]
    form, count = 0, 1.0
    if hasattr(labels, "stride"):
        ids = layout.unit_of_label[flat(squashed(labels))]
        if ids.any():
            form, count = terms.form(*layout.form(ids)), float(len(ids))
    batch = BATCH if node in scaled else 1
    return form, [math.prod(shapes[node]) / batch / count for shapes in network.shapes]


# --- multiply-adds ----------------------------------------------------------------------------------------------------

_WEIGHTED = {f"aten.{name}" for name in ("conv1d", "conv2d", "conv3d", "convolution", "linear")}
_TRANSPOSED = {f"aten.conv_transpose{axes}d" for axes in (1, 2, 3)}
_PRODUCTS = {f"aten.{name}" for name in ("matmul", "mm", "bmm", "addmm", "baddbmm", "mv", "dot", "addmv", "addbmm")}
_ATTENTION = "aten.scaled_dot_product_attention"
_COMPOSITE = {"aten.einsum", "aten.bilinear", "aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu"}
_COMPOSITE |= {"aten.multi_head_attention_forward", "aten.tensordot", "aten.chain_matmul", "aten.cdist", "aten.kron"}


Monomials = list[tuple[list[int], list[float]]]


def _macs(
    network: Network,
    flow: Flow,
    layout: Layout,
    terms: _Terms,
    node: Node,
    sizes: Mapping[Node, tuple[int, list[float]]],
    weight_forms: Callable[[str], tuple[list[int], float]],
    scaled: set[Node],
) -> Monomials:
    """An operator's multiply-adds for one example: forms, and the factor a side."""
    name = operator_name(node)
    batch = BATCH if node in scaled else 1
    transposed = name in _TRANSPOSED or (name == "aten.convolution" and bool(node.args[6]))
    if name in _WEIGHTED or transposed:
        data, weight = node.args[0] if transposed else node, node.args[1]
        assert isinstance(data, Node) and isinstance(weight, Node)
        axis = -1 if name == "aten.linear" else 1 - len(network.shapes[0][weight])
        positions = [math.prod(shapes[data]) / shapes[data][axis] / batch for shapes in network.shapes]
        source = network.sources.get(weight)
        if source is None:
            return [([], [p * math.prod(s[weight]) for p, s in zip(positions, network.shapes, strict=True)])]
        forms, rest = weight_forms(source)
        return [(forms, [rest * p for p in positions])]
    if name in _PRODUCTS:
        left = [arg for arg in node.args if isinstance(arg, Node)][-2]
        form, by_side = sizes[node]
        inner, count = 0, 1.0
        labels = flow.values.get(left)
        found = along(labels, -1) if isinstance(labels, Tensor) else None
        if found is not None:
            ids = layout.unit_of_label[found]
            if ids.any():
                inner, count = terms.form(*layout.form(ids)), float(len(ids))
        return [([form, inner], [f * s[left][-1] / count for f, s in zip(by_side, network.shapes, strict=True)])]
    if name == _ATTENTION:
        query, key, value = (arg for arg in node.args[:3] if isinstance(arg, Node))
        return [
            (
                [],
                [math.prod(s[query][:-1]) * s[key][-2] * (s[query][-1] + s[value][-1]) / batch for s in network.shapes],
            )
        ]
    if name in _COMPOSITE:
        raise NotImplementedError(
            f"operator {name} multiplies and has no cost formula; write it with convolutions, linear layers or matmul"
        )
    return []


# --- memory alive -----------------------------------------------------------------------------------------------------


def _moments(  # noqa: D417
    network: Network,
    terms: _Terms,
    stages: Sequence[Stage],
    storages: Mapping[Node, Node],
    block_of: Mapping[Node, str],
    entries: Mapping[str, tuple[Node, Node]],
    sizes: Mapping[Node, tuple[int, list[float]]],
    gate_of: Mapping[str, int],
) -> list[list[dict[int, float]]]:
    """For each side and moment, the monomials of the bytes alive.

    A removed block's output is its input, so its bytes must not count twice while both would be alive: at such a moment
    the output counts only where a block between them stays. The nearest earlier output of the stage that is alive
    decides.
    """
    order = {node: moment for moment, node in enumerate([*network.inputs, *network.operators])}
    last: dict[Node, int] = {}
    for node, moment in order.items():
        root = storages.get(node, node)
        end = max((order.get(user, moment) for user in node.users), default=moment)
        if any(user.op == "output" for user in node.users):
            end = len(order)
        for user in node.users:  # integers and tuples pass the value on
            if user not in order and user.op != "output":
                end = max(end, moment)
        last[root] = max(last.get(root, 0), end, moment)
    owners = [node for node in order if storages.get(node, node) is node and node in sizes]
    chain_of: dict[Node, tuple[int, int]] = {}
    chains: list[list[Node]] = []
    names: list[tuple[str, ...]] = []
    for stage in stages:
        ends = [entries[name] for name in stage.blocks]
        values = [storages.get(ends[0][0], ends[0][0])] + [storages.get(end, end) for _, end in ends]
        for position, value in enumerate(values):
            if position:
                chain_of.setdefault(value, (len(chains), position))
        chains.append(values)
        names.append(stage.blocks)

    def gate_at(node: Node, moment: int) -> int:
        if node in chain_of:
            number, position = chain_of[node]
            for earlier in range(position - 1, -1, -1):
                value = chains[number][earlier]
                if value is not node and order[value] <= moment <= last[value]:
                    return terms.gate(_gate(stages, set(names[number][earlier:position])))
            return 0
        return gate_of.get(block_of.get(node, ""), 0)

    result: list[list[dict[int, float]]] = [[] for _ in network.sides]
    spans = [(node, order[node], last[node]) for node in owners]
    for moment in range(len(order)):
        rows: list[dict[int, float]] = [{} for _ in network.sides]
        for node, start, end in spans:
            if start <= moment <= end:
                form, factors = sizes[node]
                monomial = terms.monomial([form], gate_at(node, moment))
                width = network.dtypes[node].itemsize
                for row, factor in zip(rows, factors, strict=True):
                    row[monomial] = row.get(monomial, 0.0) + factor * width
        for rows_of_side, row in zip(result, rows, strict=True):
            rows_of_side.append(row)
    return result


def _dense(rows: list[dict[int, float]], width: int) -> Array:
    matrix = np.zeros((len(rows), width))
    for number, row in enumerate(rows):
        for monomial, factor in row.items():
            matrix[number, monomial] = factor
    return matrix


def _undominated(rows: Array) -> Array:
    """The rows that are not below another one everywhere; the largest product is the same without them."""
    rows = np.unique(rows, axis=0)
    rows = rows[np.argsort(-rows.sum(axis=1), kind="stable")]
    kept: list[Array] = []
    for row in rows:
        if not any((other >= row).all() for other in kept):
            kept.append(row)
    return np.array(kept).reshape(len(kept), rows.shape[1])
