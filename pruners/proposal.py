"""What a pruning method is asked, and what it answers: how wide, which units, and sometimes which weights.

Start reading at `Request`, `Proposal` and `Pruner`.

A method makes up to three decisions, and says which. *Allocation*: how many units each group keeps; where a method
leaves it open, one threshold over its scores decides. *Selection*: which units; where it is left open, the L2 norms.
*Weights*: inherited from the full network, trained on the way, merged from several channels, reset in part, or fresh.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeGuard, cast, get_args, runtime_checkable

import torch
from annotated_types import Le
from torch import Tensor, nn

from ..spaces import Candidate, Scores, Space, build, check_scores, within
from ..spaces.checked import AT_LEAST_0, AT_LEAST_1, BELOW_1, FINITE, POSITIVE
from .examples import Examples

Needs = Literal["nothing", "images", "labels", "training"]
Weights = Literal["inherited", "trained", "merged", "reset", "fresh"]
Count = Annotated[int, AT_LEAST_1]
Number = Annotated[float, AT_LEAST_0, FINITE]
Positive = Annotated[float, POSITIVE, FINITE]
Share = Annotated[float, POSITIVE, Le(1)]
"""In (0, 1]."""
Part = Annotated[float, AT_LEAST_0, BELOW_1]
"""In [0, 1)."""


@dataclass(frozen=True)
class Request:
    """What a pruning method is asked for: a network within limits.

    Attributes:
        model: the full network; methods leave it as it was.
        space: its traced space.
        limits: absolute limits by cost name, all of them known to arithmetic.
        examples: what the method may look at.
        seed: of everything random.
        depth: ratio of removable blocks that stay; the method decides about widths.
        resolution: ratio of the full side.
    """

    model: nn.Module
    space: Space
    limits: Mapping[str, float]
    _: KW_ONLY
    examples: Examples | None = None
    seed: int = 0
    depth: float = 1.0
    resolution: float = 1.0

    @property
    def base(self) -> Candidate:
        """The widest network of the depth and resolution that are asked for."""
        return self.space.uniform(1.0, self.depth, self.resolution)


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


class Needing(Protocol):
    """What looks at examples, or at none."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def needs(self) -> Needs:
        """What it reads in addition to the weights."""


@runtime_checkable
class Method(Needing, Protocol):
    """What every pruning method says of itself.

    Attributes:
        name: as in study files and on the command line.
        needs: what it reads in addition to the weights; `"training"` means that it is a `TrainingPruner`.
        allocates: whether it decides by itself how many units each group keeps.
        selects: whether it decides by itself which ones.
        weights: where the weights of its network come from.
    """

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

    def propose(self, request: Request) -> Proposal:
        """A network within the limits.

        Raises:
            ValueError: examples or labels are needed and missing, the scores are of no use, or a limit is out of reach.
        """


class Phase(Protocol):
    """One pruning phase of a training method: callbacks of a training loop, and a proposal at the end.

    Every hook takes the training under way, an object with `model`, `optimizer`, `step`, `steps`, `epoch`, `epochs`
    and `lr`, such as `secateur.evaluators.Loop`. Hooks that a phase does not need are left out.

    Attributes:
        model: what is to be trained, with the phase's hooks on it.
    """

    model: nn.Module

    def prepare(self, loop: Any) -> None:
        """Before the first step: the optimizer is there."""

    def extra_loss(self, loop: Any, outputs: Any, targets: Any) -> Tensor:
        """A scalar that is added to the loss of a batch before the gradients are taken."""

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
    """A method that prunes while the network trains."""

    def start(self, request: Request) -> Phase:
        """The phase, for a copy of the model; examples, depth and resolution are of no use to it.

        Raises:
            ValueError: a limit is out of reach.
        """


def trains(method: Method) -> TypeGuard[TrainingPruner]:
    """Whether the method prunes while the network trains."""
    return method.needs == "training"


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


def inner_groups(space: Space) -> list[int]:
    """Numbers of the groups inside of blocks: nothing is added to them once they were read."""
    inner = []
    for number, group in enumerate(space.groups):
        makers = [place for place, layer in enumerate(space.layers) if group.holds(layer.makes).any()]
        readers = [place for place, layer in enumerate(space.layers) if group.holds(layer.reads).any()]
        if max(makers, default=-1) < min(readers, default=len(space.layers)):
            inner.append(number)
    return inner


def inside_alone(request: Request, least: int) -> list[int]:
    """`inner_groups`, of a request that can be met by narrowing them alone.

    Raises:
        ValueError: it can't.
    """
    inner, narrow = narrowest_inside(request.space, least)
    if not within(request.space, request.space.encode([narrow]), request.limits)[0]:
        raise ValueError(
            f"the groups inside of blocks alone can't meet {dict(request.limits)} with {least} channels or more; "
            "give a higher budget, or internal=false"
        )
    return inner


def narrowest_inside(space: Space, least: int) -> tuple[list[int], Candidate]:
    """`inner_groups`, and the network in which they keep the least legal width of at least `least`, all else whole."""
    inner, narrow = inner_groups(space), list(space.full)
    for number in inner:
        widths = space.groups[number].widths
        narrow[number] = min(width for width in widths if width >= min(least, widths[-1]))
    return inner, space.canonical(narrow)


def examples_for(method: Needing, examples: Examples | None) -> Examples:
    """The examples, if they are what a method or criterion needs.

    Raises:
        ValueError: they are not.
    """
    if examples is None:
        loss = ", loss=loss(outputs, targets)" if method.needs == "labels" else ""
        raise ValueError(
            f"{method.name} needs {method.needs}; give examples=Examples(batches=[(inputs, targets), ...]{loss})"
        )
    if method.needs == "labels" and examples.loss is None:
        raise ValueError(f"{method.name} needs labels; give Examples(..., loss=loss(outputs, targets))")
    return examples


def check_method(method: Any) -> Pruner | TrainingPruner:
    """The method, if it is a `Pruner` or a `TrainingPruner`.

    Raises:
        TypeError: it is neither; what is missing.
    """
    if isinstance(method, type):
        raise TypeError(f"{method.__name__} is a class; give a pruning method made by it, {method.__name__}(...)")
    kind = type(method).__name__
    missing = [name for name in ("name", "needs", "allocates", "selects", "weights") if not hasattr(method, name)]
    call = "start" if getattr(method, "needs", None) == "training" else "propose"
    if not callable(getattr(method, call, None)):
        missing.append(f"{call}(request)")
    if missing:
        raise TypeError(
            f"{kind} is no pruning method, it has no {', '.join(missing)}; expected the attributes name, needs, "
            "allocates, selects and weights, and propose(request), or start(request) where needs is 'training'"
        )
    for name, allowed in (("needs", get_args(Needs)), ("weights", get_args(Weights))):
        if getattr(method, name) not in allowed:
            raise TypeError(f"{kind}.{name} is {getattr(method, name)!r}; expected one of {', '.join(allowed)}")
    try:
        inspect.signature(getattr(method, call)).bind(None)
    except TypeError as error:
        raise TypeError(f"{kind}.{call} does not take one argument, the request: {error}") from None
    return cast("Pruner | TrainingPruner", method)
