"""What a forward does in training beside what it does in eval mode, and the tensors that neither reads.

A network is captured in eval mode. A forward that branches on `self.training` (auxiliary heads, a projector) does more
in training, with parameters and sizes of its own: where a run without arithmetic shows that, it is captured too, and
what both say of a channel holds. Dropouts, stochastic depth and norms are no such branch. Start at `Training`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.fx import Node

from ..channels.components import alike
from ..channels.flow import Flow, Rule, follow_training
from ..channels.labels import Labels, constant, flat, squashed, tensors_in
from ..channels.rules import rule_for
from ..cutting.surgery import Cut, named_tensors
from ..graph.capture import capture
from ..graph.modes import evaluating
from ..graph.network import BATCH, Network, Rehearsal, Side
from ..graph.values import Values
from .dryrun import OfModule
from .probe import rehearse, run


class Training:
    """The forward in training beside that in eval mode.

    Attributes:
        forward: that in training, followed too; None where it calculates nothing that the one in eval mode does not.
        reason: why it cannot be followed, where it cannot.
    """

    def __init__(self, own: OfModule, *, wanted: bool = True) -> None:
        """Of a forward in eval mode, whose labels are known; not looked at where it is not wanted."""
        self.forward: OfModule | None = None
        self.reason = ""
        self._own = own
        self._quick = self._same = False
        self._scales: list[Any] = []
        if not wanted:
            return
        side, failure, said = own.side, None, ""
        for factor in (1, 2, 4):  # an auxiliary head may need a larger side than the network
            side = None if own.side is None else tuple(factor * size for size in own.side)
            failure = self._compare(side)
            if failure is None or side is None or str(failure) == said:  # it says no size
                break
            said = str(failure)
        if failure is not None:
            self.reason = f"it does not run on the example inputs: {type(failure).__name__}: {_brief(failure)}"
        elif not self._same:
            self._follow(side)

    @property
    def forwards(self) -> list[OfModule]:
        """Those that are followed."""
        return [self._own] if self.forward is None else [self._own, self.forward]

    def _compare(self, side: Side | None) -> Exception | None:
        """Find whether the forward calculates nothing in training that it does not in eval mode; what it raises."""
        own, failure = self._own, None
        for quick in (True, False):
            if side == own.side:
                failure, base = own.full(quick)[1], own.values[quick]
            else:
                base = Values()
                failure = run(own.model, Cut({}, {}, ()), own.examples, side, quick=quick, values=base)[1]
            if failure is None:
                values = Values(base)
                failure = run(
                    own.model, Cut({}, {}, ()), own.examples, side, quick=quick, training=True, values=values
                )[1]
            if failure is None:
                self._quick, self._same, self._scales = quick, values.all_known, values.scales
                return None
        return failure

    def differs(self, changes: Cut) -> bool:
        """Whether a smaller network calculates something in training alone, such as with a size that is written there.

        It is followed then, and not asked again.
        """
        if not self._same:
            return False
        own, base = self._own, Values()
        if own.run(changes, self._quick, base)[1] is not None:
            return False
        values = Values(base)
        failure = run(own.model, changes, own.examples, own.side, quick=self._quick, training=True, values=values)[1]
        if failure is None and values.all_known and values.scales == self._scales:
            return False
        self._same = False
        self._follow(own.side)
        return self.forward is not None

    def _follow(self, side: Side | None) -> None:
        own = self._own
        try:
            network = capture(own.model, own.examples, (side or (),), training=True)
        except ValueError as error:
            self.reason = _brief(error)
            return
        with evaluating(own.model, training=True):
            rehearsal = rehearse(network, own.model, own.examples)
        twin = follow_training(own.flow, network, rules(rehearsal))
        self.forward = OfModule(network, rehearsal, twin, own.model, own.examples, training=True)


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
    A single row, such as what masked steps are filled with, is held against what the forward of its module handles;
    where all of that size there are the same channels, it is cut along with them instead.

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
        if name in read or not tensor.is_floating_point():
            continue
        if len(sizes) == 1 and sum(n > 1 for n in tensor.shape) == 1:
            axis = next(axis for axis, size in enumerate(tensor.shape) if size > 1)
            channels = _handled(flow, name.rpartition(".")[0], tensor.shape[axis])
            if channels and alike(flow, channels):
                flow.slots[name, axis] = channels[0]
                continue
        if tensor.ndim > 1 and sum(n > 1 for n in tensor.shape) < 2:
            continue
        for size in sizes:
            for labels in _features(flow, networks, size, anywhere=not trained):
                reader = "a loss" if trained else "the forward in training, which is not followed,"
                flow.freeze(labels, f"{name} is as wide, which no forward uses: {reader} may hold it against them")
                said[name] = "the forward does not use it; it keeps its size, and so do the features of that size"
    return said


def _handled(flow: Flow, owner: str, size: int) -> list[Labels]:
    """Labels of channels, so many of them, of the values that a module's own forward has in its hands."""
    network = flow.network
    depth = owner.count(".") + 1 if owner else 0

    def child(node: Node) -> str | None:
        """In which module that the forward calls, itself where in none; None outside of it."""
        path = max(network.calls.get(node, ()), key=len, default="")
        inside = not owner or f"{path}.".startswith(f"{owner}.")
        return ".".join(path.split(".")[: depth + 1]) if inside else None

    found: dict[bytes, Labels] = {}
    for node in network.operators:
        here = child(node)
        if here is not None and (here == owner or any(child(user) != here for user in node.users)):
            for labels in tensors_in(flow.values[node]):
                axes = [axis for axis in range(labels.ndim) if not constant(labels, axis)]
                if len(axes) == 1 and labels.shape[axes[0]] == size:
                    channels = flat(squashed(labels))
                    found[channels.tobytes()] = channels
    return list(found.values())


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


def _brief(error: Exception) -> str:
    return " ".join(str(error).strip().split("\n", 1)[0].split())[:200]
