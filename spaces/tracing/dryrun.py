"""Dry runs of shrunken networks, held against what the labels predict: which groups and blocks cannot shrink so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.utils import _pytree as pytree

from ..channels.flow import Flow
from ..channels.labels import constant, tensors_in
from ..channels.layout import Group, Ids, Layout
from ..cutting.surgery import Cut, plan
from ..cutting.writer import GraphWriter, Kept, shrunk
from ..graph.blocks import Block
from ..graph.capture import capture
from ..graph.modes import evaluating, quietly
from ..graph.network import BATCH, Examples, Network, Rehearsal, Side, Step, as_call, resized
from ..graph.values import Values
from .calls import reading
from .probe import Around, Watch, empty_like, rehearse, run, sketch, sketched
from .surprises import Foreseen, Going, first_difference, first_surprise

logger = logging.getLogger("secateur")

Surprise = Callable[[Layout, Kept, Sequence[Block]], Node | None]
"""The first operator that does not behave as predicted when only some units and blocks stay, or None."""

Oddities = Callable[[Layout, Kept], tuple[Collection[Node], Exception | None]]
"""All operators that do not behave as predicted when only some units stay, as far as one run can tell, and what ended
the run too soon."""


@quietly()
def culprits(
    network: Network, flow: Flow, layout: Layout, surprise: Surprise, oddities: Oddities
) -> list[tuple[Group, Node]]:
    """Groups that cannot shrink as predicted, each with the operator that shows it.

    Args:
        network: the captured graph.
        flow: the labels of its values.
        layout: units and groups.
        surprise: a dry run; it says in the end that all others can.
        oddities: one that tells of many groups at a time.
    """
    found: dict[int, Node] = {}
    ended: Exception | None = None

    def left(gone: Kept, numbers: Sequence[int]) -> Kept:
        stays = np.ones(layout.units, bool)
        for number in numbers:
            group = layout.groups[number]
            stays[group.slice] = ~gone[group.slice]
        return stays

    def without(gone: Kept, numbers: Sequence[int]) -> Node | None:
        stays = left(gone, numbers)
        return None if stays.all() else surprise(layout, stays, ())

    def apart(gone: Kept, numbers: Sequence[int]) -> bool:
        """Find groups that odd operators touch alone, of those that each touches one at a time; are there any?"""
        nonlocal ended
        before = len(found)
        seen, ended = oddities(layout, left(gone, numbers))
        suspects = {node: touching(flow, layout, node, numbers)[:3] for node in seen}
        for place in range(3):
            waiting = {node: some[place] for node, some in suspects.items() if len(some) > place}
            waiting = {node: one for node, one in waiting.items() if found.keys().isdisjoint(suspects[node])}
            odd = oddities(layout, left(gone, sorted(set(waiting.values()))))[0] if len(waiting) > 1 else ()
            for node in odd:
                if node in waiting and touching(flow, layout, node, sorted(set(waiting.values()))) == [waiting[node]]:
                    found.setdefault(waiting[node], node)
        return len(found) > before

    for gone in _scenarios(network, flow, layout):
        numbers = [n for n, group in enumerate(layout.groups) if gone[group.slice].any()]
        together = True
        while True:
            numbers = [number for number in numbers if number not in found]
            node = without(gone, numbers)
            if node is None:
                break
            together = together and apart(gone, numbers)
            if together:
                continue
            near = ((number, without(gone, [number])) for number in _near(network, flow, layout, node, numbers))
            alone = next(((number, own) for number, own in near if own is not None), None)
            if alone is not None:
                found[alone[0]] = alone[1]
                together = ended is not None  # without this one a run may go on
                continue
            fine, bad = 0, len(numbers)  # the shortest run of groups that surprises ends with a culprit
            while bad - fine > 1:
                middle = (fine + bad) // 2
                sooner = without(gone, numbers[:middle])
                fine, bad, node = (fine, middle, sooner) if sooner is not None else (middle, bad, node)
            found[numbers[bad - 1]] = node
    return [(layout.groups[number], node) for number, node in found.items()]


def nothing_odd(layout: Layout, stays: Kept) -> tuple[Collection[Node], Exception | None]:
    """Of a network of which a run tells one oddity at a time."""
    return (), None


def touching(flow: Flow, layout: Layout, node: Node, numbers: Sequence[int]) -> list[int]:
    """Which of these groups an operator's operands or results carry."""
    values = [flow.values.get(source) for source in (node, *node.all_input_nodes)]
    units = np.concatenate([np.zeros(1, np.int64), *(_units(layout, la) for v in values for la in tensors_in(v))])
    return [number for number in numbers if layout.groups[number].holds(units).any()]


def _near(network: Network, flow: Flow, layout: Layout, node: Node, numbers: Sequence[int]) -> list[int]:
    """A few groups that an operator touches; where it touches none, those that others of its module do, nearest first.

    A size may be taken from channels that the operator is not given.
    """
    found = touching(flow, layout, node, numbers)
    if not found:
        here = network.calls.get(node)
        order = {one: place for place, one in enumerate(network.operators) if network.calls.get(one) == here}
        for other in sorted(order, key=lambda one: abs(order[one] - order.get(node, 0))):
            found += touching(flow, layout, other, numbers)
    return list(dict.fromkeys(found))[:3]


def at_random(layout: Layout, seed: int = 0) -> Kept:
    """`(u,)` units to remove: between a third and two thirds of each group, and of groups as large not as many.

    What counts one group shows itself where it is taken for what counts another. Of groups of two units every other one
    is left whole, with another seed those between.
    """
    random = np.random.default_rng(seed)
    gone = np.zeros(layout.units, bool)
    before = {2: seed % 2}  # by size, how many stay of the group before
    for group in layout.groups:
        most = max(2, group.units - 1)
        count = int(np.clip(round(group.units * random.uniform(0.3, 0.7)), 1, most))
        before[group.units] = count = count % most + 1 if count == before.get(group.units) else count
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


@dataclass(frozen=True, eq=False)
class OfModule:
    """The user's own module with fewer channels.

    Attributes:
        network: the captured graph.
        rehearsal: its run.
        flow: the labels of its values.
        model: the full network.
        examples: example inputs.
        training: whether it runs in training mode.
        runs: of the full network, kept.
        rehearsals: what runs are held against, kept.
        values: of the runs of the full network.
        said: what a smaller network did at the operator that showed that it cannot be so, last.
    """

    network: Network
    rehearsal: Rehearsal
    flow: Flow
    model: nn.Module
    examples: Examples
    training: bool = False
    runs: dict[bool, tuple[list[Step], Exception | None]] = field(default_factory=dict)
    rehearsals: dict[bool, Rehearsal | None] = field(default_factory=dict)
    values: dict[bool, Values] = field(default_factory=dict)
    said: dict[Node, str] = field(default_factory=dict)

    @cached_property
    def constants(self) -> frozenset[Node]:
        """Nodes whose values do not depend on the inputs."""
        return frozenset(node for node in self.network.operators if node not in self.flow.moving)

    @cached_property
    def foreseen(self) -> Foreseen:
        """Tells the shapes of what each operator gives in a smaller network."""
        return Foreseen(self.network, self.flow)

    @cached_property
    def read(self) -> set[tuple[str, str]]:
        """Attributes of modules that the forward reads, `(module, name)`; all where that is not known."""
        seen, quick = set[tuple[str, str]](), self.full(True)[1] is None
        again, failure = self.run(Cut({}, {}, ()), quick, watch=reading(seen))
        if failure is None and [step.name for step in again] == [step.name for step in self.full(quick)[0]]:
            return seen
        modules = self.model.named_modules(remove_duplicate=False)
        return {(path, name) for path, module in modules for name in vars(module)}

    def full(self, quick: bool) -> tuple[list[Step], Exception | None]:
        """A run of the full network; where it fails on the meta device, others cannot be run there either."""
        if quick not in self.runs:
            values = self.values[quick] = Values()
            self.runs[quick] = self.run(Cut({}, {}, ()), quick, values)
        return self.runs[quick]

    def rehearsed(self, quick: bool) -> Rehearsal | None:
        """The run of the graph that the module's runs can be held against; None where they cannot be."""
        if quick not in self.rehearsals:
            self.rehearsals[quick] = self._on_meta() if quick else self.rehearsal
        return self.rehearsals[quick]

    def _on_meta(self) -> Rehearsal | None:
        """Of the meta device, where PyTorch may split other operators than on fake tensors."""
        if self.full(True)[1] is not None:
            return None
        if self._fits(self.rehearsal):
            return self.rehearsal
        try:
            with evaluating(self.model, training=self.training):
                found = rehearse(self.network, self.model, self.examples, quick=True)
        except Exception as error:  # noqa: BLE001 - operators may know nothing of the meta device
            logger.debug("the graph does not run on the meta device: %s", error)
            return None
        return found if self._fits(found) else None

    def _fits(self, rehearsal: Rehearsal) -> bool:
        """Whether the full network takes the operators of a run of the graph."""
        steps, none = self.full(True)[0], frozenset[Node]()
        try:
            return first_surprise(self.network, rehearsal, steps, None, {}, none, self.constants) is None
        except LookupError:
            return False

    def run(
        self,
        changes: Cut,
        quick: bool,
        values: Values | None = None,
        watch: Watch | None = None,
        around: Around | None = None,
        batch: int = BATCH,
    ) -> tuple[list[Step], Exception | None]:
        """A run of a smaller network; arguments as of `probe.run`."""
        mode: Any = {"quick": quick, "training": self.training, "values": values, "watch": watch, "around": around}
        return run(self.model, changes, self.examples, self.side, batch=batch, **mode)

    def runs_without(self, removed: Sequence[Block]) -> bool:
        """Whether the full network runs without some blocks."""
        gives = {block.name: block.gives for block in removed if block.gives is not None}
        changes = Cut({}, {}, tuple(block.name for block in removed), gives=gives)
        return any(self.run(changes, quick)[1] is None for quick in (True, False))

    @property
    def side(self) -> Side | None:
        """The largest side."""
        return self.network.sides[-1] or None

    def oddities(self, whole: frozenset[Node]) -> Oddities:
        """All that it does not do as predicted; `whole` as of `surprise`."""
        return partial(self.odd, whole)

    def odd(self, whole: frozenset[Node], layout: Layout, stays: Kept) -> tuple[Collection[Node], Exception | None]:
        """All that it does not do as predicted, and what ended the run too soon."""
        quick = self.rehearsed(True) is not None
        rehearsal = self.rehearsed(quick)
        if rehearsal is None:
            return (), None
        predicted, found = self.foreseen(layout, whole, stays), dict[Node, str]()
        around = partial(Going, self.network, rehearsal, predicted, self.full(quick)[0], found)
        failure = self.run(plan(layout, stays, ()), quick, around=around)[1]
        self.said.update(found)
        return found, failure

    def surprise(self, whole: frozenset[Node]) -> Surprise:
        """What it does not do as predicted.

        Args:
            whole: grouped operators that lose whole blocks.
        """

        def surprise(layout: Layout, stays: Kept, removed: Sequence[Block]) -> Node | None:
            changes = plan(layout, stays, tuple(block.name for block in removed))
            predicted = self.foreseen(layout, whole, stays)
            skipped = frozenset(node for block in removed for node in block.nodes)
            failure: Exception | None = None
            for quick in (True, False):
                rehearsal = self.rehearsed(quick)
                if rehearsal is None:
                    continue
                steps, failure = self.run(changes, quick)
                try:
                    full = () if removed else self.full(quick)[0]
                    found = first_surprise(
                        self.network, rehearsal, steps, failure, predicted, skipped, self.constants, full
                    )
                    self.said.update([found] if found else [])
                    return found[0] if found else None
                except LookupError as error:
                    logger.debug("the dry run cannot be compared: %s", error)
                    parting: Node = error.args[1]
            if failure is not None:
                return parting
            try:
                small, sides = sketch(self.model, changes, None), self.network.sides[-1:]
                other = capture(small, self.examples, sides, training=self.training)
            except ValueError:
                return parting
            return first_difference(self.network, other, predicted, skipped)

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
