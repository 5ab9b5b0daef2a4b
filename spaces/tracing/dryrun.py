"""Dry runs of shrunken networks, held against what the labels predict: which groups and blocks cannot shrink so."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.utils import _pytree as pytree

from ..channels.flow import Flow
from ..channels.labels import constant, tensors_in
from ..channels.layout import Group, Ids, Layout
from ..cutting.surgery import Cut, assemble, named_tensors, plan
from ..cutting.writer import GraphWriter, Kept, shrunk
from ..graph.blocks import Block
from ..graph.capture import capture
from ..graph.modes import quietly
from ..graph.network import BATCH, Examples, Network, Rehearsal, Side, as_call, resized
from .probe import empty_like, first_difference, first_surprise, run

logger = logging.getLogger("secateur")

Surprise = Callable[[Layout, Kept, Sequence[Block]], Node | None]
"""The first operator that does not behave as predicted when only some units and blocks stay, or None."""


def culprits(network: Network, flow: Flow, layout: Layout, surprise: Surprise) -> list[tuple[Group, Node]]:
    """Groups that cannot shrink as predicted, each with the operator that shows it."""
    found: dict[int, Node] = {}

    def without(gone: Kept, numbers: Sequence[int]) -> Node | None:
        stays = np.ones(layout.units, bool)
        for number in numbers:
            group = layout.groups[number]
            stays[group.slice] = ~gone[group.slice]
        return None if stays.all() else surprise(layout, stays, ())

    for gone in _scenarios(network, flow, layout):
        numbers = [n for n, group in enumerate(layout.groups) if gone[group.slice].any()]
        while True:
            numbers = [number for number in numbers if number not in found]
            node = without(gone, numbers)
            if node is None:
                break
            near = next((n for n in _touching(flow, layout, node, numbers)[:3] if without(gone, [n]) is not None), None)
            if near is not None:
                found[near] = node
                continue
            fine, bad = 0, len(numbers)  # the shortest run of groups that surprises ends with a culprit
            while bad - fine > 1:
                middle = (fine + bad) // 2
                sooner = without(gone, numbers[:middle])
                fine, bad, node = (fine, middle, sooner) if sooner is not None else (middle, bad, node)
            found[numbers[bad - 1]] = node
    return [(layout.groups[number], node) for number, node in found.items()]


def _touching(flow: Flow, layout: Layout, node: Node, numbers: Sequence[int]) -> list[int]:
    """Which of these groups an operator's operands or results carry."""
    values = [flow.values.get(source) for source in (node, *node.all_input_nodes)]
    units = np.concatenate([np.zeros(1, np.int64), *(_units(layout, la) for v in values for la in tensors_in(v))])
    return [number for number in numbers if layout.groups[number].holds(units).any()]


def at_random(layout: Layout) -> Kept:
    """`(u,)` units to remove: between a third and two thirds of each group."""
    random = np.random.default_rng(0)
    gone = np.zeros(layout.units, bool)
    for group in layout.groups:
        count = int(np.clip(round(group.units * random.uniform(0.3, 0.7)), 1, group.units - 1))
        gone[group.first + random.permutation(group.units)[count:]] = True
    return gone


def _scenarios(network: Network, flow: Flow, layout: Layout) -> Iterator[Kept]:
    """Units to remove: at random, as many as can go, then within and without each slice of channels.

    A forward may branch on the number of channels; a slice written with constants may give the right size by chance,
    but not in both of its scenarios.
    """
    yield at_random(layout)
    least = np.zeros(layout.units, bool)
    for group in layout.groups:
        least[group.slice][group.widths[0] // group.unit :] = True
    yield least
    inside: list[Ids] = []
    outside: list[Ids] = []
    for node in network.operators:
        if network.names[node] not in ("aten.slice", "aten.narrow"):
            continue
        axis = node.args[1] if len(node.args) > 1 else 0
        taken = [_units(layout, labels) for labels in tensors_in(flow.values[node])]
        part = np.unique(np.concatenate([np.zeros(1, np.int64), *taken]))
        for labels in tensors_in(flow.values.get(node.all_input_nodes[0])):
            if isinstance(axis, int) and not constant(labels, axis):
                inside.append(part[part > 0])
                outside.append(np.setdiff1d(_units(layout, labels), [0, *part]))
    for waiting in (inside, outside):
        waiting = [units for units in {units.tobytes(): units for units in waiting}.values() if len(units)]
        while waiting:  # slices of different groups share a run
            gone, used, later = np.zeros(layout.units, bool), set[int](), []
            for units in waiting:
                groups = set(layout.group_of_unit[units].tolist())
                if groups & used:
                    later.append(units)
                else:
                    used |= groups
                    gone[units[: max(1, len(units) // 2)]] = True
            for group in layout.groups:
                if gone[group.slice].all():
                    gone[group.first + group.units - 1] = False
            if gone.any():
                yield gone
            waiting = later


def _units(layout: Layout, labels: torch.Tensor) -> Ids:
    return np.unique(layout.ids(labels))


# --- what is run ------------------------------------------------------------------------------------------------------


def of_module(network: Network, rehearsal: Rehearsal, flow: Flow, model: nn.Module, examples: Examples) -> Surprise:
    """The user's own module with fewer channels."""
    constants = frozenset(node for node in network.operators if node not in flow.moving)

    @functools.cache
    def works_quickly(side: Side | None) -> bool:
        """Whether the whole network can be run on the meta device, so that a smaller one that fails there fails."""
        return run(lambda device: sketch(model, Cut({}, {}, ()), device), examples, side, quick=True)[1] is None

    def surprise(layout: Layout, stays: Kept, removed: Sequence[Block]) -> Node | None:
        changes = plan(layout, stays, tuple(block.name for block in removed))
        full = network.shapes[-1]
        predicted = {
            node: shrunk(layout, stays, full[node], flow.values[node])
            for node in network.operators
            if isinstance(full[node], tuple)
        }
        skipped = frozenset(node for block in removed for node in block.nodes)
        side = network.sides[-1] or None
        failure: Exception | None = None
        for quick in (True, False):
            steps, failure = run(lambda device: sketch(model, changes, device), examples, side, quick=quick)
            if failure is not None and quick and not works_quickly(side):
                continue
            try:
                return first_surprise(network, rehearsal, steps, failure, predicted, skipped, constants)
            except LookupError as error:
                logger.debug("the dry run cannot be compared: %s", error)
                parting: Node = error.args[1]
        if failure is not None:
            return parting
        try:
            other = capture(sketch(model, changes, None), examples, network.sides[-1:])
        except ValueError:
            return parting
        return first_difference(network, other, predicted, skipped)

    return surprise


def of_graph(
    network: Network, flow: Flow, whole: frozenset[Node], blocks: Sequence[Block], model: nn.Module, examples: Examples
) -> Surprise:
    """The graph whose constants follow."""
    leaves = pytree.tree_leaves(as_call(resized(examples, network.sides[-1] or None, BATCH)))
    by_name = {block.name: block for block in blocks}

    def surprise(layout: Layout, stays: Kept, removed: Sequence[Block]) -> Node | None:
        names = tuple(block.name for block in removed)
        writer = GraphWriter(network, flow, layout, whole, by_name)
        graph, copies = writer.graph(stays, names)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake:
            tensors = sketched(model, plan(layout, stays, names), None)
            inputs = [empty_like(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
        module = writer.written(model, tensors, graph, copies).eval()
        with quietly(), torch.no_grad(), fake:
            shapes, failed = writer.run(module, copies, inputs)
        full = network.shapes[-1]
        for node in network.operators:
            if node is failed:
                return node
            if node in shapes and isinstance(full[node], tuple) and not any(node in block.nodes for block in removed):
                if shapes[node] != shrunk(layout, stays, full[node], flow.values[node]):
                    return node
        return failed

    return surprise


def sketch(model: nn.Module, changes: Cut, device: str | None) -> nn.Module:
    """The smaller network with tensors of the right shapes and no contents."""
    return assemble(model, sketched(model, changes, device), changes.attributes, changes.removed)


def sketched(model: nn.Module, changes: Cut, device: str | None) -> dict[str, torch.Tensor]:
    """Tensors of the right shapes and no contents, by name."""
    prefixes = tuple(f"{name}." for name in changes.removed)
    sketches: dict[int, torch.Tensor] = {}
    tensors = {}
    for name, tensor in named_tensors(model).items():
        if not name.startswith(prefixes):
            shape = list(tensor.shape)
            for axis, indices in changes.kept.get(name, {}).items():
                shape[axis] = len(indices)
            if id(tensor) not in sketches:
                sketches[id(tensor)] = torch.empty(shape, dtype=tensor.dtype, device=device or tensor.device)
            tensors[name] = sketches[id(tensor)]
    return tensors
