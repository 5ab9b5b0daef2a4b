"""From a module to the facts of its space: capture, follow, check by dry runs, and do again what a run disproves."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from torch import nn
from torch.fx import Node

from ..candidate import Axis
from ..channels import makers, movement, picking, positions, products  # noqa: F401 - their rules are registered
from ..channels.components import Components, components
from ..channels.flow import Flow, follow
from ..channels.layout import Group, Layout, arrange, contested
from ..channels.rules import joined
from ..costs.model import CostModel, cost_model
from ..costs.sizes import batched
from ..cutting.surgery import Cut, named_tensors, plan
from ..cutting.writer import GraphWriter
from ..graph.blocks import Block, Stage, chain, find_blocks
from ..graph.capture import capture
from ..graph.modes import evaluating, quietly
from ..graph.network import BATCH, Examples, Network, Rehearsal, Side, Step, spatial_side, where
from .attributes import Counting, suspects
from .caches import made_again
from .calls import followed
from .dryrun import OfModule, Surprise, at_random, culprits, nothing_odd, of_graph
from .layers import Layer, find_layers
from .options import Options
from .probe import rehearse, run
from .proof import MIXED, REASON, WITHOUT, Proof
from .surprises import ODD, first_surprise
from .training import Training, freeze_unread, rules, unread

logger = logging.getLogger("secateur")


@dataclass(frozen=True)
class Traced:
    """What tracing found."""

    layout: Layout
    stages: tuple[Stage, ...]
    layers: tuple[Layer, ...]
    costs: CostModel
    shapes: dict[str, tuple[int, ...]]
    frozen: dict[str, str]
    whole_blocks: dict[str, str]
    ruled: dict[str, str]
    side_multiple: int
    writer: GraphWriter | None
    proof: dict[str, Any]

    def axes(self, sides: Sequence[Side]) -> tuple[Axis, ...]:
        """One for each group, then one for each stage, then the resolution where there are several."""
        axes = [Axis(f"width:{group.name}", group.widths) for group in self.layout.groups]
        axes += [Axis(f"depth:{stage.name}", tuple(range(len(stage.blocks) + 1))) for stage in self.stages]
        return (*axes, *([Axis("resolution", tuple(range(len(sides))), tuple(sides))] if len(sides) > 1 else []))


def traced(model: nn.Module, examples: Examples, options: Options) -> Traced:
    """Trace `model` once and find groups, stages and costs.

    Raises:
        ValueError: a side that the network cannot take, a network that cannot be exported, a plain block that changes
            the shape.
    """
    with made_again(model, examples, options.sides[-1]) as kept:
        found = _traced(model, examples, options)
    keeping = tuple(place for place, value in kept.items() if isinstance(value, dict))
    return replace(found, layout=replace(found.layout, keeping=keeping))


def _traced(model: nn.Module, examples: Examples, options: Options) -> Traced:
    progress = _Progress()
    network, rehearsal = _captured(model, examples, options)
    progress(f"traced {len(network.operators)} operators; following channels")
    every, stay = find_blocks(network, model, followed(network, rehearsal, model, examples), options.plain_blocks)
    flow = _followed(network, rehearsal, model, options)
    blocks = [block for block in every if not options.parts.kept(block.name)]
    stay |= {block.name: "ignore or the rules keep it" for block in every if block not in blocks}
    own = OfModule(network, rehearsal, flow, model, examples)
    training = Training(own, wanted=not options.as_graph)  # a graph is of the forward in eval mode
    networks = [one.network for one in training.forwards]
    _leave_whole(flow, blocks, options)
    loose = freeze_unread(networks, flow, model, trained=not training.reason)
    multiple = _multiple(own)
    proof = Proof(model, examples, sides=options.sides, multiple=multiple, found=options.proof)
    counting = Counting(training, _other_sides(options.sides, multiple))
    layout, whole, surprise = _grouped(training, options, blocks, progress, proof, counting)
    unused = {name: why for name, why in unread(networks, model).items() if name not in layout.slots}
    frozen = {**layout.frozen, **unused, **loose}
    if training.reason:
        frozen["forward in training"] = f"it is not followed, only the one in eval mode is: {training.reason}"
    if proof.to_json().get("mixed"):
        frozen["first axis of the inputs"] = MIXED
    blocks = _removable(surprise, training.forward, layout, blocks, stay)
    writer = _writer(flow, layout, whole, blocks, options)
    wrong = dict.fromkeys(proof.wrong_blocks(layout, writer, [block.name for block in blocks]), WITHOUT)
    stay, blocks = stay | wrong, [block for block in blocks if block.name not in wrong]
    stages, by_name = tuple(chain(blocks)), {block.name: block for block in blocks}
    examples_of = batched(network, rehearsal.storages, lambda: _with_examples(own))
    return Traced(
        layout=layout,
        stages=stages,
        layers=find_layers(network, examples_of, layout.slots),
        costs=cost_model(flow, layout, stages, by_name, rehearsal, model, examples_of),
        shapes=flow.shapes,
        frozen=frozen,
        whole_blocks=stay,
        ruled=options.parts.told(layout.groups, layout.frozen, every),
        side_multiple=multiple,
        writer=_writer(flow, layout, whole, blocks, options),
        proof=proof.to_json(),
    )


# --- the steps --------------------------------------------------------------------------------------------------------


def _captured(model: nn.Module, examples: Examples, options: Options) -> tuple[Network, Rehearsal]:
    """The graph, and a run of it on fake tensors."""
    sides = options.sides
    runs = _check_sides(model, examples, sides) if len(sides) > 1 else []
    for each in (False, True):
        network = capture(model, examples, sides, any_batch=options.as_graph, each=each)
        with evaluating(model):
            rehearsal = rehearse(network, model, examples)
        if _holds_at_all_sides(network, rehearsal, runs):  # one export for all sides may hold at the largest only
            break
    return network, rehearsal


def _followed(network: Network, rehearsal: Rehearsal, model: nn.Module, options: Options) -> Flow:
    """The labels of all values."""
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    return follow(network, shapes, rules(rehearsal), literals=options.as_graph)


def _leave_whole(flow: Flow, blocks: Sequence[Block], options: Options) -> None:
    """What the options leave whole, and what blocks that may be dropped join."""
    network = flow.network
    flow.leave_whole(options.parts.ignored, "it is named in ignore")
    for block in blocks:  # without it, its input takes the place of its output
        flow.node = block.exit
        joined(flow, [flow.values[block.entry], flow.values[block.exit]], network.shapes[flow.side][block.exit])


def _grouped(
    training: Training,
    options: Options,
    blocks: Sequence[Block],
    progress: _Progress,
    proof: Proof,
    counting: Counting,
) -> tuple[Layout, frozenset[Node], Surprise]:
    """Units and groups that nothing disproves, the grouped operators that lose whole blocks, and the dry run.

    What a dry run or the proof by numbers disproves is frozen, or must keep all its blocks, and everything is grouped
    again.

    Args:
        training: the forward in training, beside that in eval mode.
        options: of the trace.
        blocks: that may be dropped.
        progress: told what goes on.
        proof: by numbers.
        counting: finds what counts channels of groups that do not follow.
    """
    own = training.forwards[0]
    network, flow, model = own.network, own.flow, own.model
    aliases = _aliases(model)
    aligned = _of_whole_heads(training, options)
    while True:
        found = components(flow, aligned)
        layout = arrange(flow, found, widths=options.parts.widths, aliases=aliases, model=model)
        layout = replace(layout, gives={block.name: block.gives for block in blocks if block.gives is not None})
        if not options.as_graph and _tied(training, found, layout):
            continue
        whole = frozenset(block.node for block in found.whole)
        surprise, oddities = own.surprise(whole), own.oddities(whole)
        if options.as_graph:
            surprise, oddities = of_graph(network, flow, whole, blocks, model, own.examples), nothing_odd
        disproved = culprits(network, flow, layout, surprise, oddities)
        for other in training.forwards[1:] if not disproved else ():  # of what is left
            disproved += culprits(other.network, other.flow, layout, other.surprise(whole), other.oddities(whole))
        if not disproved:
            if training.differs(plan(layout, ~at_random(layout), ())):
                continue
            wrong = proof.culprits(layout, _writer(flow, layout, whole, blocks, options))
            if not wrong:
                return layout, whole, surprise
            for group in wrong:
                flow.freeze(np.flatnonzero(group.holds(layout.unit_of_label)), REASON)
        progress(f"{len(disproved)} groups do not follow their forward; following channels again")
        learnt = False
        left = {group.name: (group, node) for group, node in reversed(disproved)}
        while left:
            group, node = left.pop(next(iter(left)))
            counted = [] if options.as_graph else counting(whole, layout, group, None if learnt else node)
            if counted:
                flow.constraints.counts.extend(counted)
                layout = counting.known(layout, counted)
                learnt = True
                odd = {name for one in training.forwards for name in suspects(one, whole, layout, left)}
                left = {name: one for name, one in left.items() if name in odd}  # others follow now, or are seen again
            elif counted is None or not learnt:
                said = next((one.said[node] for one in training.forwards if node in one.said), ODD)
                aligned |= _held(flow, found, layout, group, node, said)


def _tied(training: Training, found: Components, layout: Layout) -> bool:
    """Tie what one attribute counts that the forward reads: it cannot shrink unlike; is there any?"""
    own = training.forwards[0]
    both = list(contested(layout, [*found.attributes, *own.flow.constraints.counts], own.model))
    read = {place for one in training.forwards for place in one.read} if both else set()
    joins = [(one, other) for module, name, one, other in both if (module, name) in read]
    own.flow.constraints.joins.extend(joins)
    return bool(joins)


def _of_whole_heads(training: Training, options: Options) -> frozenset[Node]:
    """The operators of attention that loses features of its heads and no heads, as the rules say."""
    calls = {node: paths for one in training.forwards for node, paths in one.network.calls.items()}
    every = [blocks.node for blocks in training.forwards[0].flow.constraints.blocks if blocks.shared]
    return frozenset(node for node in every if options.parts.keeps_heads(calls.get(node, ())))


def _writer(
    flow: Flow, layout: Layout, whole: frozenset[Node], blocks: Sequence[Block], options: Options
) -> GraphWriter | None:
    """What writes graphs, where networks are graphs."""
    if not options.as_graph:
        return None
    return GraphWriter(flow.network, flow, layout, whole, {block.name: block for block in blocks})


class _Progress:
    """Logs what goes on once it takes more than five seconds."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def __call__(self, text: str) -> None:
        seconds = time.monotonic() - self.started
        if seconds > 5:
            logger.info("%s (%.0f s)", text, seconds)


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """All names of each tensor, by each of them."""
    tensors = named_tensors(model)
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    return {name: names[id(tensor)] for name, tensor in tensors.items()}


def _held(flow: Flow, found: Components, layout: Layout, group: Group, node: Node, said: str) -> frozenset[Node]:
    """Freeze a group that does not follow its forward; or grouped operators of it that must keep all their blocks."""
    labels, place = np.flatnonzero(group.holds(layout.unit_of_label)), where(node)
    whole, reason = found.whole_blocks(labels), f"{said}{f' at {place}' if place else ''}"
    if not whole:  # a reshape may count the groups, so their number is kept before anything is frozen
        flow.freeze(labels, reason)
    elif any(blocks.shared for blocks in found.whole if blocks.node in whole):
        flow.constraints.told.append((labels, f"its heads cannot go: {reason}"))
    return frozenset(whole)


@quietly()
def _multiple(own: OfModule) -> int:
    """The least step by which sides may be smaller, as tried near the side, at about 3/4 and at half; 0 for none."""
    model, examples, side = own.model, own.examples, spatial_side(own.examples)
    quick = side == own.side and own.full(True)[1] is None  # then it runs so at all sides that it takes

    @cache
    def takes(side: Side) -> bool:
        ways = (True,) if quick else (True, False)
        return any(run(model, Cut({}, {}, ()), examples, side, quick=way)[1] is None for way in ways)

    for step in (1, 2, 4, 8, 16, 32, 64):
        if not side or min(side) <= step:
            break
        most = max(1, min(side) // 2 // step)  # steps down to half
        counts = dict.fromkeys((max(1, most // 2), most, 1, min(2, most)))  # sides far away are refused soonest
        if all(takes(tuple(size - count * step for size in side)) for count in counts):
            return step
    return 0


def _with_examples(own: OfModule) -> dict[Node, bool]:
    """Whether what each operator gives grows with the number of examples; nothing where no run tells."""
    for quick in (True, False):
        rehearsal = own.rehearsed(quick)
        if rehearsal is None:
            continue
        more, failure = own.run(Cut({}, {}, ()), quick, batch=BATCH + 1)
        nodes = [node for node in own.network.operators for _ in rehearsal.steps.get(node, ())]
        names = [step.name for node in own.network.operators for step in rehearsal.steps.get(node, ())]
        pair = own.full(quick)[0], more
        if failure is None and all([step.name for step in steps] == names for steps in pair):
            return {node: one.shapes != other.shapes for node, one, other in zip(nodes, *pair, strict=True)}
    return {}


def _other_sides(sides: Sequence[Side], multiple: int) -> list[Side]:
    """Sides that the network takes beside its largest."""
    shares = (1, 4) if multiple else ()  # a step, and down to about a quarter
    steps = [[max(1, (size - size // share) // multiple) * multiple for size in sides[-1]] for share in shares]
    smaller = [tuple(size - step for size, step in zip(sides[-1], less, strict=True)) for less in steps]
    return [*sides[:-1], *smaller]


def _holds_at_all_sides(network: Network, rehearsal: Rehearsal, runs: Sequence[list[Step]]) -> bool:
    """Whether runs at the network's sides take the operators and shapes that were captured."""
    for shapes, steps in zip(network.shapes, runs, strict=False):
        predicted = {node: (shapes[node],) for node in network.operators if isinstance(shapes[node], tuple)}
        try:
            if first_surprise(network, rehearsal, steps, None, predicted, frozenset(), full=runs[-1]) is not None:
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
        steps, failure = run(model, whole, examples, side)
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


def _removable(
    surprise: Surprise, trained: OfModule | None, layout: Layout, blocks: list[Block], stay: dict[str, str]
) -> list[Block]:
    """The blocks that the network runs without, as a dry run shows; the others are noted in `stay`."""
    stays = ~at_random(layout)

    def runs_without(removed: list[Block]) -> bool:
        try:
            if surprise(layout, stays, removed) is not None:
                return False
        except LookupError:
            return False
        return trained is None or trained.runs_without(removed)

    if not blocks or runs_without(blocks):
        return blocks
    good = []
    for block in blocks:
        if runs_without([block]):
            good.append(block)
        else:
            stay[block.name] = "the network does not run as predicted without it"
    return good
