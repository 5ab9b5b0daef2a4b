"""Methods that are a criterion and one threshold, and those that need no criterion at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, PlainValidator

from ...spaces import NORMALISATIONS, Candidate, threshold_candidate, within
from ...spaces.checked import check, one_of
from ...spaces.knapsacks import knapsack
from ..criteria.criteria import Criterion, check_criterion, l2, shuffled
from ..criteria.synflow import synaptic_flow, synflow
from ..least_squares.damage import damages
from ..proposal import Count, Needs, Proposal, Request, Share, Weights, checked, examples_for

_RATIOS = np.linspace(1.0, 0.02, 99)  # widths that `Even` tries, widest first


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A criterion, and the widest network within the limits whose units all pass one threshold.

    Attributes:
        criterion: scores every unit.
        normalise: how scores of different groups compare, one of `spaces.NORMALISATIONS`, as `spaces.normalised` says.
        allocation: `"threshold"`; `"even"`: the same share of every group, as large as the limits allow; or
            `"knapsack"`: the least damage to the layers that read the groups, measured on images (`damages`).
        least: channels that every group keeps at least.
    """

    criterion: Annotated[Criterion, PlainValidator(check_criterion)]
    normalise: Annotated[str, AfterValidator(one_of(*NORMALISATIONS))] = "mean"
    allocation: Literal["threshold", "even", "knapsack"] = "threshold"
    least: Count = 1
    allocates: bool = False
    selects: bool = True
    weights: Weights = field(default="inherited", init=False)

    def __post_init__(self) -> None:
        check(self)

    @property
    def name(self) -> str:
        """The criterion's."""
        return self.criterion.name

    @property
    def needs(self) -> Needs:
        """The criterion's; images at least where damages are measured."""
        needs = self.criterion.needs
        return "images" if self.allocation == "knapsack" and needs == "nothing" else needs

    def propose(self, request: Request) -> Proposal:
        """See `Pruner.propose`."""
        used = shuffled(request.seed) if self.criterion.name == "random" else self.criterion
        scores = checked(self.name, request.space, used(request.model, request.space, request.examples))
        if self.allocation == "even":
            return replace(Even(least=self.least).propose(request), scores=scores)
        if self.allocation == "knapsack":
            table = damages(request.model, request.space, examples_for(self, request.examples), scores)
            candidate = knapsack(request.space, table, request.limits, base=request.base, least_width=self.least)
            return Proposal(candidate=candidate, scores=scores)
        candidate = threshold_candidate(
            request.space,
            scores,
            request.limits,
            depth=request.depth,
            resolution=request.resolution,
            normalise=self.normalise,
            least=self.least,
        )
        return Proposal(candidate=candidate, scores=scores)


@dataclass(frozen=True, kw_only=True)
class SynFlow(Scored):
    """Iterative synaptic flow (Tanaka 2020, arXiv 2006.05467): the order in which units go, over all groups at once.

    Attributes:
        rounds: as of `synaptic_flow`; each costs a forward and a backward pass of one input.
        keep: as of `synaptic_flow`.
    """

    rounds: Count = 100
    keep: Share = 0.1
    normalise: Annotated[str, AfterValidator(one_of(*NORMALISATIONS))] = "none"
    criterion: Annotated[Criterion, PlainValidator(check_criterion)] = field(default=synflow, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "criterion", synaptic_flow(self.rounds, self.keep))


@dataclass(frozen=True, kw_only=True)
class Lamp(Scored):
    """Layer-adaptive magnitude (Lee 2021, arXiv 2010.07611), of units: L2 norms, each among those of its own group."""

    normalise: Annotated[str, AfterValidator(one_of(*NORMALISATIONS))] = "lamp"
    criterion: Annotated[Criterion, PlainValidator(check_criterion)] = field(
        default=replace(l2, name="lamp"), init=False
    )


@dataclass(frozen=True, kw_only=True)
class Even:
    """The same share of every group, as large as the limits allow; the L2 norms say which units.

    Attributes:
        name: `"uniform"` takes the nearest legal width, `"layer-wise"` keeps `ceil(units * (1 - kappa))` of every
            group, the baseline of Xu 2020 (arXiv 2010.02488).
        least: channels that every group keeps at least.
    """

    name: Literal["uniform", "layer-wise"] = "uniform"
    least: Count = 1
    needs: Needs = "nothing"
    allocates: bool = True
    selects: bool = False
    weights: Weights = field(default="inherited", init=False)

    def __post_init__(self) -> None:
        check(self)

    def propose(self, request: Request) -> Proposal:
        """See `Pruner.propose`."""
        space, limits = request.space, request.limits
        family = list(dict.fromkeys(self._at(request, float(ratio)) for ratio in _RATIOS))
        fine = np.flatnonzero(within(space, space.encode(family), limits))
        if not len(fine) and self.least > 1:
            space.check_limits(limits)
            raise ValueError(
                f"no network with at least {self.least} channels in every group is within {dict(limits)}; lower it"
            )
        candidate = family[fine[0]] if len(fine) else space.repair(family[-1], limits)
        return Proposal(candidate=candidate, scores=dict(space.default_scores))

    def _at(self, request: Request, ratio: float) -> Candidate:
        space = request.space
        width = ratio if self.name == "uniform" else 1.0
        candidate = list(space.uniform(width, request.depth, request.resolution))
        for number, group in enumerate(space.groups):
            want = candidate[number] if self.name == "uniform" else math.ceil(group.units * ratio - 1e-9) * group.unit
            want = max(want, min(self.least, group.width))
            candidate[number] = min(width for width in group.widths if width >= want)
        return space.canonical(candidate)
