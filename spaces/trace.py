"""From a module to the facts of its space: capture, follow, check by a dry run, and do again what the run disproves."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.fx import Node

from .costs import CostModel, cost_model
from .depth import Block, Stage, chain, find_blocks
from .flow import Flow, components, constant, flat, follow, squashed
from .graph import Examples, Network, Side, capture, evaluating, operator_name, where
from .layout import Layout, arrange
from .probe import Rehearsal, first_difference, first_surprise, rehearse, run
from .rules import rule_for
from .surgery import Cut, assemble, named_tensors, plan

_log = logging.getLogger("secateur")


@dataclass(frozen=True)
class Facts:
    """What tracing found."""

    layout: Layout
    stages: tuple[Stage, ...]
    costs: CostModel
    shapes: dict[str, tuple[int, ...]]
    frozen: dict[str, str]


def facts(model: nn.Module, examples: Examples, sides: Sequence[Side], *, divisor: int, ignore: Sequence[str]) -> Facts:
    """Trace `model` once and find groups, stages and costs.

    Raises:
        ValueError: a side that the network cannot take, a network that cannot be exported, an unknown name in `ignore`.
        NotImplementedError: an operator multiplies and has no cost formula.
    """
    started = time.monotonic()
    known = dict(model.named_modules())
    for name in ignore:
        if name not in known:
            raise ValueError(
                f"ignore names {name!r}, which is no module of {type(model).__name__}; see named_modules()"
            )
    if len(sides) > 1:
        _check_sides(model, examples, sides)
    network = capture(model, examples, sides)
    if time.monotonic() - started > 5:
        _log.info(
            "traced %d operators in %.0f s; following channels", len(network.operators), time.monotonic() - started
        )
    tensors = named_tensors(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    aliases = {name: names[id(tensor)] for name, tensor in tensors.items()}
    with evaluating(model):
        rehearsal = rehearse(network, model, examples)
    left_whole = tuple(f"{name}." for name in ignore)
    blocks = [
        block
        for block in find_blocks(network)
        if not any(f"{block.name}.".startswith(one) or one.startswith(f"{block.name}.") for one in left_whole)
    ]
    blocked: frozenset[Node] = frozenset()
    aligned: frozenset[Node] = frozenset()
    while True:
        flow = follow(network, shapes, rule_for, blocked)
        for (name, _), labels in flow.slots.items():
            if name.startswith(left_whole):
                flow.frozen.insert(0, (labels, "it is named in ignore"))
        found = components(flow, aligned)
        layout = arrange(flow, found, divisor=divisor, aliases=aliases, model=model)
        tries = 4 if _slices_channels(network, flow) else 1
        surprise = None
        for seed in range(tries):
            surprise = surprise or _surprise(network, rehearsal, flow, layout, model, examples, (), seed)
        if surprise is None:
            break
        whole = found.meet(flow, surprise)
        if whole:  # a reshape may count the groups, so keep their number before freezing anything
            aligned = aligned | set(whole)
        else:  # kept whole already: what surrounds it must stay too
            near = {surprise} if surprise not in blocked else _around(network, blocked)
            if near <= blocked:
                break
            blocked = blocked | near
    if surprise is not None:
        raise ValueError(
            f"{type(model).__name__} does not run when its channels shrink, at {operator_name(surprise)} "
            f"({where(surprise)}), though those channels are kept whole; name the module in ignore"
        )
    frozen = dict(layout.frozen)
    blocks = _removable(network, rehearsal, flow, layout, model, examples, blocks, frozen)
    stages = tuple(chain(blocks))
    costs = cost_model(
        network,
        flow,
        layout,
        stages,
        model,
        rehearsal.storages,
        {node: block.name for block in blocks for node in block.nodes},
        {block.name: (block.entry, block.exit) for block in blocks},
    )
    return Facts(layout, stages, costs, shapes, frozen)


def _check_sides(model: nn.Module, examples: Examples, sides: Sequence[Side]) -> None:
    works: list[Side] = []
    fails: list[tuple[Side, Exception]] = []
    whole = Cut({}, {}, ())
    for side in sides:
        _, failure = run(lambda device: _sketch(model, whole, device), examples, side)
        if failure is None:
            works.append(side)
        else:
            fails.append((side, failure))
    if fails:
        side, failure = fails[0]
        text = str(failure).strip().splitlines()
        raise ValueError(
            f"{type(model).__name__} cannot take the resolution {'x'.join(map(str, side))}: "
            f"{text[0] if text else type(failure).__name__}. Of those asked, it takes "
            f"{works or 'none'}; ask for those, or make the network independent of its input size"
        )


def _around(network: Network, nodes: frozenset[Node]) -> set[Node]:
    """The operators that feed these nodes or read them."""
    found = {other for node in nodes for other in (*node.all_input_nodes, *node.users)}
    return {node for node in network.operators if node in found} | set(nodes)


def _slices_channels(network: Network, flow: Flow) -> bool:
    """Whether a slice along channels occurs: written with constants, it may give the right size by chance."""
    for node in network.operators:
        if operator_name(node) in ("aten.slice", "aten.narrow"):
            labels = flow.values.get(node.all_input_nodes[0])
            axis = node.args[1] if len(node.args) > 1 else 0
            if isinstance(labels, torch.Tensor) and isinstance(axis, int) and not constant(labels, axis):
                return True
    return False


def _surprise(
    network: Network,
    rehearsal: Rehearsal,
    flow: Flow,
    layout: Layout,
    model: nn.Module,
    examples: Examples,
    removed: tuple[Block, ...],
    seed: int = 0,
) -> Node | None:
    """Run a shrunken network without arithmetic; the first operator that does not behave as predicted, or None."""
    random = np.random.default_rng([seed, len(removed)])
    stays = np.ones(layout.units, bool)
    for group in layout.groups:
        count = int(np.clip(round(group.units * random.uniform(0.3, 0.7)), 1, group.units - 1))
        gone = group.first + random.permutation(group.units)[count:]
        stays[gone] = False
    if stays.all() and not removed:
        return None
    changes = plan(layout, stays, tuple(block.name for block in removed))
    predicted = {
        node: shape
        for node in network.operators
        if (shape := _predicted(network, flow, layout, stays, node)) is not None
    }
    skipped = frozenset(node for block in removed for node in block.nodes)
    side = network.sides[-1] or None
    failure: Exception | None = None
    for quick in (True, False):
        steps, failure = run(lambda device: _sketch(model, changes, device), examples, side, quick=quick)
        if failure is not None and quick:
            continue
        try:
            return first_surprise(network, rehearsal, steps, failure, predicted, skipped)
        except LookupError as error:
            _log.debug("the dry run cannot be compared: %s", error)
            parting: Node = error.args[1]
    if failure is not None:
        return parting
    try:
        other = capture(_sketch(model, changes, None), examples, network.sides[-1:])
    except ValueError:
        return parting
    return first_difference(network, other, predicted, skipped)


def _sketch(model: nn.Module, changes: Cut, device: str | None) -> nn.Module:
    """The smaller network with tensors of the right shapes and no contents."""
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
    return assemble(model, tensors, changes.attributes, changes.removed)


def _predicted(
    network: Network, flow: Flow, layout: Layout, stays: npt.NDArray[np.bool_], node: Node
) -> tuple[int, ...] | None:
    """The shape of a value when only some units stay."""
    shape = network.shapes[-1][node]
    labels = flow.values[node]
    if not isinstance(shape, tuple) or not hasattr(labels, "stride"):
        return None
    small = squashed(labels)
    kept = stays[layout.unit_of_label[flat(small)]].reshape(small.shape)
    if kept.all():
        return shape
    result = list(shape)
    for axis in range(kept.ndim):
        lines = kept.any(axis=tuple(other for other in range(kept.ndim) if other != axis))
        if kept.shape[axis] > 1 and not lines.all():
            result[axis] = int(lines.sum())
    return tuple(result)


def _removable(
    network: Network,
    rehearsal: Rehearsal,
    flow: Flow,
    layout: Layout,
    model: nn.Module,
    examples: Examples,
    blocks: list[Block],
    frozen: dict[str, str],
) -> list[Block]:
    """The blocks whose removal the network bears, checked by a dry run."""

    def bears(removed: tuple[Block, ...]) -> bool:
        try:
            return _surprise(network, rehearsal, flow, layout, model, examples, removed) is None
        except LookupError:
            return False

    if not blocks or bears(tuple(blocks)):
        return blocks
    good = []
    for block in blocks:
        if bears((block,)):
            good.append(block)
        else:
            frozen[block.name] = "the network does not run as predicted without this block"
    return good
