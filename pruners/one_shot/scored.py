"""Methods that are a criterion and one threshold, and those that need no criterion at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from ...spaces import NORMALISATIONS, Candidate, Space, threshold_candidate, within
from ..criteria.criteria import Criterion, shuffled
from ..examples import Examples
from ..proposal import Needs, Proposal, Weights, asked_for, checked

_RATIOS = np.linspace(1.0, 0.02, 99)  # widths that `Uniform` tries, widest first


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A criterion, and the widest network within the limits whose units all pass one threshold.

    Attributes:
        criterion: scores every unit.
        normalise: what each group's scores are divided by: `"none"`, `"mean"`, `"max"` or `"macs"`.
        allocation: `"threshold"`, or `"even"`: the same share of every group, as large as the limits allow.
        least: channels that every group keeps at least.
    """

    criterion: Criterion
    normalise: str = "mean"
    allocation: str = "threshold"
    least: int = 1
    allocates: bool = False
    selects: bool = True
    weights: Weights = field(default="inherited", init=False)

    def __post_init__(self) -> None:
        if self.normalise not in NORMALISATIONS:
            raise ValueError(f"normalise={self.normalise!r}: expected one of {', '.join(NORMALISATIONS)}")
        if self.allocation not in ("threshold", "even"):
            raise ValueError(f"allocation={self.allocation!r}: expected 'threshold' or 'even'")

    @property
    def name(self) -> str:
        """The criterion's."""
        return self.criterion.name

    @property
    def needs(self) -> Needs:
        """The criterion's."""
        return self.criterion.needs

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
        """See `Pruner.propose`."""
        if self.needs != "nothing":
            asked_for(self, examples)
        used = shuffled(seed) if self.criterion.name == "random" else self.criterion
        scores = checked(self.name, space, used(model, space, examples))
        if self.allocation == "even":
            even = Even(least=self.least).propose(model, space, limits, depth=depth, resolution=resolution)
            return Proposal(candidate=even.candidate, scores=scores)
        candidate = threshold_candidate(
            space, scores, limits, depth=depth, resolution=resolution, normalise=self.normalise, least=self.least
        )
        return Proposal(candidate=candidate, scores=scores)


@dataclass(frozen=True, kw_only=True)
class Even:
    """The same share of every group, as large as the limits allow; the L2 norms say which units.

    Attributes:
        name: `"uniform"` takes the nearest legal width, `"layer-wise"` keeps `ceil(units * (1 - kappa))` of every
            group, the baseline of Xu 2020 (arXiv 2010.02488).
        least: channels that every group keeps at least.
    """

    name: str = "uniform"
    least: int = 1
    needs: Needs = "nothing"
    allocates: bool = True
    selects: bool = False
    weights: Weights = field(default="inherited", init=False)

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
        """See `Pruner.propose`."""
        family = [self._at(space, float(ratio), depth, resolution) for ratio in _RATIOS]
        family = list(dict.fromkeys(family))
        fine = np.flatnonzero(within(space, space.encode(family), limits))
        if not len(fine) and self.least > 1:
            space.check_limits(limits)
            raise ValueError(
                f"no network with at least {self.least} channels in every group is within {dict(limits)}; lower it"
            )
        candidate = family[fine[0]] if len(fine) else space.repair(family[-1], limits)
        return Proposal(candidate=candidate, scores=dict(space.default_scores))

    def _at(self, space: Space, ratio: float, depth: float, resolution: float) -> Candidate:
        if self.name == "uniform":
            candidate = list(space.uniform(ratio, depth, resolution))
        else:
            candidate = list(space.uniform(1.0, depth, resolution))
        for number, group in enumerate(space.groups):
            want = candidate[number] if self.name == "uniform" else math.ceil(group.units * ratio - 1e-9) * group.unit
            want = max(want, min(self.least, group.width))
            candidate[number] = min(width for width in group.widths if width >= want)
        return space.canonical(candidate)
