"""What a pruning method says: how wide, which units, and sometimes which weights. Start at `Proposal`.

A method makes up to three decisions, and says which. *Allocation*: how many units each group keeps; where a method
leaves it open, one threshold over its scores decides. *Selection*: which units; where it is left open, the L2 norms.
*Weights*: inherited from the full network, trained on the way, merged from several channels, reset in part, or fresh.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..spaces import Candidate, Scores, Space, build, check_scores
from .examples import Examples

logger = logging.getLogger("secateur")

Needs = Literal["nothing", "images", "labels", "training"]
Weights = Literal["inherited", "trained", "merged", "reset", "fresh"]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A network that a method proposes.

    Attributes:
        candidate: how wide each group is.
        scores: which units stay: the best of each group.
        weights: state dict of `build(model, space, candidate, scores)` where it is not what that inherits; else None.
        notes: what the method found on its way, as JSON.
    """

    candidate: Candidate
    scores: Scores
    weights: dict[str, Tensor] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Method(Protocol):
    """What every pruning method says of itself.

    Attributes:
        name: as in study files and on the command line.
        needs: what it reads beside the weights; `"training"` means that it is a `TrainingPruner`.
        allocates: whether it decides by itself how many units each group keeps.
        selects: whether it decides by itself which ones.
        weights: where the weights of its network come from.
    """

    @property
    def name(self) -> str:
        """As above."""

    @property
    def needs(self) -> Needs:
        """As above."""

    @property
    def allocates(self) -> bool:
        """As above."""

    @property
    def selects(self) -> bool:
        """As above."""

    @property
    def weights(self) -> Weights:
        """As above."""


@runtime_checkable
class Pruner(Method, Protocol):
    """A method that answers at once."""

    def propose(
        self,
        model: nn.Module,
        space: Space,
        limits: Mapping[str, float],
        *,
        examples: Examples | None = None,
        seed: int = 0,
        depth: float = 1.0,
        resolution: float = 1.0,
    ) -> Proposal:
        """A network within the limits; `model` is left as it was.

        Args:
            model: the full network.
            space: its traced space.
            limits: absolute limits by cost name, all of them known to arithmetic.
            examples: what the method may look at.
            seed: of everything random.
            depth: ratio of removable blocks that stay; the method decides about widths.
            resolution: ratio of the full side.

        Raises:
            ValueError: examples or labels are needed and missing, the scores are of no use, or a limit is out of reach.
        """


class Phase(Protocol):
    """One pruning phase of a training method: callbacks of whoever trains, and a proposal at the end.

    Every hook takes the training under way, an object with `model`, `optimizer`, `step`, `steps`, `epoch`, `epochs`
    and `lr`, such as `secateur.evaluators.Loop`. Hooks that a phase does not need are left out.

    Attributes:
        model: what is to be trained, with the phase's hooks on it.
    """

    model: nn.Module

    def prepare(self, loop: Any) -> None:
        """Before the first step: the optimizer is there."""

    def after_backward(self, loop: Any) -> None:
        """The gradients are there."""

    def after_step(self, loop: Any) -> None:
        """The weights have moved."""

    def after_epoch(self, loop: Any) -> None:
        """An epoch is over."""

    def finalise(self, loop: Any) -> None:
        """All epochs are over."""

    def state(self) -> dict[str, Any]:
        """What of the phase is not in the model and the optimizer: tensors, numbers, strings, lists, dicts."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""

    def proposal(self) -> Proposal:
        """The network found, within the limits; after `finalise`."""


@runtime_checkable
class TrainingPruner(Method, Protocol):
    """A method that prunes while somebody trains."""

    def start(self, model: nn.Module, space: Space, limits: Mapping[str, float], *, seed: int = 0) -> Phase:
        """The phase, for a copy of `model`, which is left as it was. Arguments and errors as of `Pruner.propose`."""


def realised(model: nn.Module, space: Space, proposal: Proposal) -> nn.Module:
    """The proposed network with its weights; `model` is the full network it was proposed for."""
    small = build(model, space, proposal.candidate, proposal.scores)
    if proposal.weights is not None:
        small.load_state_dict(proposal.weights)
    return small


def checked(name: str, space: Space, scores: Scores) -> Scores:
    """The scores, if they can rank: one a unit, finite, and not all the same.

    Raises:
        ValueError: they can't.
    """
    try:
        check_scores(space, scores)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    everything = torch.cat(
        [scores[group.name].detach().double().flatten().cpu() for group in space.groups] or [torch.zeros(0)]
    )
    if len(everything) > 1 and bool((everything == everything[0]).all()):
        raise ValueError(
            f"{name} gives every unit the same score, {float(everything[0]):g}, so it can't say which go; "
            "is the network trained, and do its outputs depend on the examples? Choose another method otherwise"
        )
    return {group.name: scores[group.name].detach().float().cpu() for group in space.groups}


def asked_for(method: Method, examples: Examples | None) -> Examples:
    """The examples, if there are what the method needs.

    Raises:
        ValueError: there are not.
    """
    if examples is None:
        raise ValueError(
            f"{method.name} needs {method.needs}; give examples=Examples(batches=[(inputs, targets), ...])"
        )
    if method.needs == "labels" and examples.loss is None:
        raise ValueError(f"{method.name} needs labels; give Examples(..., loss=loss(outputs, targets))")
    return examples
