"""From a module to the facts of its space: capture, follow, check by dry runs, and do again what a run disproves."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.fx import Node

from ..channels import makers, movement  # noqa: F401 - their rules are registered
from ..channels.components import Components, components
from ..channels.flow import Flow, follow
from ..channels.layout import Layout, arrange
from ..channels.rules import joined, rule_for
from ..costs.model import CostModel, cost_model
from ..cutting.program import Program
from ..cutting.surgery import Cut
from ..cutting.tensors import named_tensors
from ..graph.blocks import Block, Stage, chain, find_blocks
from ..graph.capture import capture
from ..graph.modes import evaluating
from ..graph.network import Examples, Network, Side, spatial_side, where
from .dryrun import Surprise, at_random, culprits, of_module, of_program, sketch
from .layers import Layer, find_layers
from .probe import Rehearsal, Step, first_surprise, rehearse, run

_log = logging.getLogger("secateur")


DIMENSIONS = ("width", "depth")


@dataclass(frozen=True)
class Facts:
    """What tracing found."""

    layout: Layout
    stages: tuple[Stage, ...]
    layers: tuple[Layer, ...]
    costs: CostModel
    shapes: dict[str, tuple[int, ...]]
    frozen: dict[str, str]
    side_multiple: int
    program: Program | None


def facts(
    model: nn.Module,
    examples: Examples,
    sides: Sequence[Side],
    *,
    divisor: int,
    ignore: Sequence[str],
    plain_blocks: Sequence[str] = (),
    as_graph: bool = False,
    dimensions: Sequence[str] = DIMENSIONS,
) -> Facts:
    """Trace `model` once and find groups, stages and costs.

    Raises:
        ValueError: a side that the network cannot take, a network that cannot be exported, an unknown name in `ignore`
            or `plain_blocks`, a plain block that changes the shape.
    """
    progress = _Progress()
    known = dict(model.named_modules())
    for argument, names in (("ignore", ignore), ("plain_blocks", plain_blocks)):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                mend = f"did you mean {near[0]!r}?" if near else "see named_modules()"
                raise ValueError(f"{argument} names {name!r}, which is no module of {type(model).__name__}; {mend}")
    runs = _check_sides(model, examples, sides) if len(sides) > 1 else []
    network = capture(model, examples, sides, any_batch=as_graph)
    progress(f"traced {len(network.operators)} operators; following channels")
    tensors = named_tensors(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with evaluating(model):
        rehearsal = rehearse(network, model, examples)
    if not _holds_at_all_sides(network, rehearsal, runs):  # one export for all sides may hold at the largest only
        network = capture(model, examples, sides, any_batch=as_graph, each=True)
        with evaluating(model):
            rehearsal = rehearse(network, model, examples)
    left_whole = tuple(f"{name}." for name in ignore)
    blocks = [
        block
        for block in find_blocks(network, plain_blocks)
        if "depth" in dimensions
        and not any(f"{block.name}.".startswith(one) or one.startswith(f"{block.name}.") for one in left_whole)
    ]
    flow = follow(network, shapes, rule_for, literals=as_graph)
    for (name, _), labels in flow.slots.items():
        if name.startswith(left_whole):
            flow.frozen.insert(0, (labels, "it is named in ignore"))
        elif "width" not in dimensions:
            flow.frozen.insert(0, (labels, "widths are not searched"))
    for block in blocks:
        if block.name in plain_blocks:  # without it, its input takes the place of its output
            joined(flow, [flow.values[block.entry], flow.values[block.exit]], network.shapes[flow.side][block.exit])
    own = of_module(network, rehearsal, flow, model, examples)
    aliases = _aliases(model)
    aligned: frozenset[Node] = frozenset()
    while True:
        found = components(flow, aligned)
        layout = arrange(flow, found, divisor=divisor, aliases=aliases, model=model)
        whole = frozenset(block.node for block in found.whole)
        surprise = of_program(network, flow, whole, blocks, model, examples) if as_graph else own
        disproved = culprits(network, flow, layout, surprise)
        if not disproved:
            break
        progress(f"{len(disproved)} groups do not follow their forward; following channels again")
        for group, node in disproved:
            aligned |= _held(flow, found, layout, group.first, group.units, node)
    frozen = {**layout.frozen, **_unused(network)}
    blocks = _removable(surprise, layout, blocks, frozen)
    stages = tuple(chain(blocks))
    by_name = {block.name: block for block in blocks}
    costs = cost_model(
        network,
        flow,
        layout,
        stages,
        model,
        rehearsal.storages,
        {node: block.name for block in blocks for node in block.nodes},
        {block.name: (block.entry, block.exit) for block in blocks},
        {node: [step.name for step in steps] for node, steps in rehearsal.steps.items()},
    )
    program = Program(network, flow, layout, whole, by_name) if as_graph else None
    layers = find_layers(network, rehearsal.storages, layout.slots)
    return Facts(layout, stages, layers, costs, shapes, frozen, _multiple(model, examples), program)


class _Progress:
    """Says what goes on once it takes more than five seconds."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def __call__(self, text: str) -> None:
        seconds = time.monotonic() - self.started
        if seconds > 5:
            _log.info("%s (%.0f s)", text, seconds)


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """All names of each tensor, by each of them."""
    tensors = named_tensors(model)
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    return {name: names[id(tensor)] for name, tensor in tensors.items()}


def _held(flow: Flow, found: Components, layout: Layout, first: int, units: int, node: Node) -> frozenset[Node]:
    """Freeze a group that does not follow its forward; or grouped operators of it that must keep all their blocks."""
    labels = np.flatnonzero((layout.unit_of_label >= first) & (layout.unit_of_label < first + units))
    whole = found.whole_blocks(labels)
    if not whole:  # a reshape may count the groups, so their number is kept before anything is frozen
        place = where(node)
        flow.freeze(labels, f"a size is written as a constant{f' at {place}' if place else ''}")
    return frozenset(whole)


def _multiple(model: nn.Module, examples: Examples) -> int:
    """The least number such that the network also takes sides that are smaller by it; 0 where there is none."""
    own, whole = spatial_side(examples), Cut({}, {}, ())
    for multiple in (1, 2, 4, 8, 16, 32, 64):
        side = tuple(size - multiple for size in own)
        if not own or min(side) < 1:
            break
        for quick in (True, False):
            _, failure = run(lambda device: sketch(model, whole, device), examples, side, quick=quick, record=False)
            if failure is None:
                return multiple
    return 0


def _unused(network: Network) -> dict[str, str]:
    """Modules of which the forward takes no parameter."""
    used = {name.rpartition(".")[0] for node, name in network.sources.items() if node.users}
    every = {name.rpartition(".")[0] for name in network.sources.values()}
    return {name: "the forward does not use it" for name in sorted(every - used) if name}


def _holds_at_all_sides(network: Network, rehearsal: Rehearsal, runs: Sequence[list[Step]]) -> bool:
    """Whether runs at the network's sides take the operators and shapes that were captured."""
    for shapes, steps in zip(network.shapes, runs, strict=False):
        predicted = {node: shapes[node] for node in network.operators if isinstance(shapes[node], tuple)}
        try:
            if first_surprise(network, rehearsal, steps, None, predicted, frozenset()) is not None:
                return False
        except LookupError:
            return False
    return True


def _check_sides(model: nn.Module, examples: Examples, sides: Sequence[Side]) -> list[list[Step]]:
    """What a run without arithmetic takes at each side.

    Raises:
        ValueError: the network cannot take a side.
    """
    runs: list[list[Step]] = []
    works: list[Side] = []
    fails: list[tuple[Side, Exception]] = []
    whole = Cut({}, {}, ())
    for side in sides:
        steps, failure = run(lambda device: sketch(model, whole, device), examples, side)
        runs.append(steps)
        if failure is None:
            works.append(side)
        else:
            fails.append((side, failure))
    if fails:
        side, failure = fails[0]
        text = str(failure).strip().splitlines()
        raise ValueError(
            f"{type(model).__name__} cannot take the resolution {'x'.join(map(str, side))}: "
            f"{text[0].rstrip('.') if text else type(failure).__name__}. Of those asked, it takes "
            f"{works or 'none'}; ask for those, or make the network independent of its input size"
        )
    return runs


def _removable(surprise: Surprise, layout: Layout, blocks: list[Block], frozen: dict[str, str]) -> list[Block]:
    """The blocks whose removal the network bears, checked by a dry run."""
    stays = ~at_random(layout)

    def bears(removed: list[Block]) -> bool:
        try:
            return surprise(layout, stays, removed) is None
        except LookupError:
            return False

    if not blocks or bears(blocks):
        return blocks
    good = []
    for block in blocks:
        if bears([block]):
            good.append(block)
        else:
            frozen[block.name] = "the network does not run as predicted without this block"
    return good
