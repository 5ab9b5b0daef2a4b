"""What a forward does in training beside what it does in eval mode, and the tensors that neither reads.

A network is captured in eval mode. A forward that branches on `self.training` (auxiliary heads, a projector) does more
in training, with parameters and sizes of its own: where a run without arithmetic shows that, it is captured too, and
what both say of a channel holds. Dropouts and norms are no such branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn
from torch.fx import Node

from ..channels.flow import Flow, Rule, follow_training
from ..channels.labels import Labels, constant, flat, squashed, tensors_in
from ..channels.rules import rule_for
from ..cutting.surgery import Cut, named_tensors
from ..graph.capture import capture
from ..graph.modes import evaluating
from ..graph.network import BATCH, Network, Rehearsal, Side, Step
from .dryrun import OfModule
from .probe import rehearse, run


def in_training(own: OfModule) -> tuple[OfModule | None, str]:
    """The forward in training, where it is another one, followed too; and why it cannot be, where it cannot.

    Args:
        own: the forward in eval mode, whose labels are known.
    """
    model, examples, flow = own.model, own.examples, own.flow
    side, failure = own.side, None
    for factor in (1, 2, 4):  # an auxiliary head may need a larger side than the network
        side = None if own.side is None else tuple(factor * size for size in own.side)
        same, failure = _compared(own, side)
        if same:
            return None, ""
        if failure is None or side is None:
            break
    if failure is not None:
        return None, f"it does not run on the example inputs: {type(failure).__name__}: {_brief(failure)}"
    try:
        network = capture(model, examples, (side or (),), training=True)
    except ValueError as error:
        return None, _brief(error)
    with evaluating(model, training=True):
        rehearsal = rehearse(network, model, examples)
    twin = follow_training(flow, network, rules(rehearsal))
    return OfModule(network, rehearsal, twin, model, examples, training=True), ""


def _compared(own: OfModule, side: Side | None) -> tuple[bool, Exception | None]:
    """Whether the forward takes the same operators in training as in eval mode at a side, or what it raises there."""
    failure: Exception | None = None
    for quick in (True, False):
        whole, at_own = Cut({}, {}, ()), side == own.side
        steps, failure = own.full(quick) if at_own else run(own.model, whole, own.examples, side, quick=quick)
        if failure is None:
            others, failure = run(own.model, whole, own.examples, side, quick=quick, training=True)
        if failure is None:
            return _same(steps, others), None
    return False, failure


def unread(networks: Sequence[Network], model: nn.Module) -> dict[str, str]:
    """Modules of which no forward takes a parameter, and the parameters that none takes of others."""
    used, found = _read(networks, model), {}
    for name, _ in model.named_parameters():
        module = name.rpartition(".")[0]
        if name not in used:
            in_use = not module or any(other.startswith(f"{module}.") for other in used)
            found[name if in_use else module] = "the forward does not use it"
    return dict(sorted(found.items()))


def _read(networks: Sequence[Network], model: nn.Module) -> set[str]:
    """All names of the tensors that a forward takes."""
    tensors = named_tensors(model)
    taken = {id(tensors[name]) for one in networks for node, name in one.sources.items() if node.users}
    return {name for name, tensor in tensors.items() if id(tensor) in taken}


def freeze_unread(networks: Sequence[Network], flow: Flow, model: nn.Module, *, trained: bool) -> dict[str, str]:
    """Keep the features that a tensor which no forward takes counts, and say which: a loss may read both.

    Centres of classes, prototypes and projectors that a method of the user's calls keep their size, so the features
    they are held against must too: those of its size in values that are one row an example, as losses take them.

    Args:
        networks: what is known of the forward.
        flow: the labels of its values.
        model: the network.
        trained: whether the forward in training is among them; where it is not, it may read values of any rank.

    Returns:
        The tensors by name, each with what is said of it.
    """
    read, said = _read(networks, model), {}
    for name, tensor in named_tensors(model).items():
        sizes = {size for size in tensor.shape if size > 1}
        if name in read or not tensor.is_floating_point() or (tensor.ndim > 1 and sum(n > 1 for n in tensor.shape) < 2):
            continue
        for size in sizes:
            for labels in _features(flow, networks, size, anywhere=not trained):
                reader = "a loss" if trained else "the forward in training, which is not followed,"
                flow.freeze(labels, f"{name} is as wide, which no forward uses: {reader} may hold it against them")
                said[name] = "the forward does not use it; it keeps its size, and so do the features of that size"
    return said


def _features(flow: Flow, networks: Sequence[Network], size: int, *, anywhere: bool) -> list[Labels]:
    """Labels of channels, so many of them, of the values that are one row an example, or of all values."""
    found: dict[bytes, Labels] = {}
    for network in networks:
        for node in network.operators:
            for labels in tensors_in(flow.values[node]):
                if labels.ndim and labels.shape[0] == BATCH and (anywhere or labels.ndim == 2):
                    axes = [axis for axis in range(labels.ndim) if not constant(labels, axis)]
                    if len(axes) == 1 and labels.shape[axes[0]] == size:
                        channels = flat(squashed(labels))
                        found[channels.tobytes()] = channels
    return list(found.values())


def rules(rehearsal: Rehearsal) -> Callable[[Node], Rule | None]:
    """The rule of each node's operator, from what it runs."""
    names = {node: [step.name for step in steps] for node, steps in rehearsal.steps.items()}
    return lambda node: rule_for(node, names.get(node, ()))


def _same(steps: Sequence[Step], others: Sequence[Step]) -> bool:
    return [(step.name, step.shapes) for step in steps] == [(step.name, step.shapes) for step in others]


def _brief(error: Exception) -> str:
    return " ".join(str(error).strip().split("\n", 1)[0].split())[:200]
