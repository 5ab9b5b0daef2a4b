"""EPruner: the filters that represent others stay. Needs the weights only, and seconds on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Candidate, Scores, Space, build, threshold_family
from ...spaces.checked import check
from ..criteria.filters import filters, first_within, layers_of, legal_widths
from ..proposal import Count, Needs, Positive, Proposal, Request, Weights
from .exemplars import DAMPINGS, Exemplars, Floats, exemplars, merits, similarities

logger = logging.getLogger("secateur")

Row = npt.NDArray[np.int64]
_WITHOUT_LIMITS = 0.73  # the paper's most frequent beta
_LARGEST = 64.0


@dataclass(frozen=True, kw_only=True)
class EPruner:
    """Keeps the exemplars of each group's filters: Lin 2021 (arXiv 2101.07985), after its published code.

    Filters are clustered by affinity propagation; how many exemplars there are is how wide the layer becomes. Kept
    convolutions have their original weights; the rest of a pruned layer is reset, so fine-tuning is needed.

    Deviations: a unit that several layers make, as on a residual stream, is one point, its filters of all dense layers
    side by side (the paper leaves such layers whole: `coupled=False`); depthwise filters are not looked at; linear
    layers are clustered too; a budget is met by bisection of beta.

    Attributes:
        beta: the larger, the fewer exemplars; None: the one whose network comes nearest to the limits from below, 0.73
            where there are none. A network that is over a limit all the same loses the exemplars of the smallest
            clusters, which the notes say.
        betas: betas of single layers or groups, by name; they are not bisected.
        coupled: whether groups that several layers make are pruned.
        reinitialise: whether batch norms (scale 1, shift 0, mean 0, variance 1) and biases (0) of pruned layers are
            reset, as in the paper; otherwise they are inherited.
        least: channels that every group keeps at least.
        steps: of the bisection; each clusters every group once.
        iterations: of the messages, at most.
    """

    beta: Positive | None = None
    betas: Mapping[str, Positive] | None = None
    coupled: bool = True
    reinitialise: bool = True
    least: Count = 1
    steps: Count = 10
    iterations: Count = 200
    name: str = "epruner"
    needs: Needs = "nothing"
    allocates: bool = True
    selects: bool = True

    def __post_init__(self) -> None:
        check(self)

    @property
    def weights(self) -> Weights:
        """Reset in part, unless `reinitialise` is off."""
        return "reset" if self.reinitialise else "inherited"

    def propose(self, request: Request) -> Proposal:
        """See `Pruner.propose`; nothing is random."""
        model, space, limits = request.model, request.space, request.limits
        space.check_limits(limits)
        clustering = _Clustering(model, space, self._fixed(space), self.coupled, self.iterations)

        def row(beta: float) -> Row:
            kept = np.array([[len(found.kept) for found in clustering(beta)]])
            tried: Row = legal_widths(request, kept, least=self.least)[0]
            return tried

        beta, chosen = self._chosen(space, limits, row)
        found = clustering(beta)
        scores = clustering.scores(found)
        over = first_within(space, chosen[None], limits) is None
        if over:
            family = threshold_family(
                space, scores, depth=request.depth, resolution=request.resolution, least=self.least
            )
            smaller = first_within(space, np.minimum(family, chosen), limits)
            candidate = space.repair((chosen if smaller is None else smaller).tolist(), limits)
            logger.info("epruner: beta=%.4g keeps too much; exemplars of the smallest clusters went too", beta)
        else:
            candidate = space.canonical(chosen.tolist())
        weights = _restarted(model, space, candidate, scores) if self.reinitialise else None
        notes = {"beta": beta, "over_budget": over, **clustering.notes(found, candidate)}
        return Proposal(candidate=candidate, scores=scores, weights=weights, notes=notes)

    def _fixed(self, space: Space) -> dict[str, float]:
        """The betas by group."""
        found = {}
        for name, beta in (self.betas or {}).items():
            groups = [group.name for group in space.groups if name == group.name or name in group.members]
            if not groups:
                raise ValueError(f"betas name {name!r}; the groups are {[group.name for group in space.groups]}")
            found.update(dict.fromkeys(groups, beta))
        return found

    def _chosen(self, space: Space, limits: Mapping[str, float], row: Callable[[float], Row]) -> tuple[float, Row]:
        """A beta and its network; of those within the limits that were tried, the one nearest to them."""
        if self.beta is not None or not limits:
            beta = self.beta or _WITHOUT_LIMITS
            return beta, row(beta)

        def use(tried: Row) -> float:
            """Largest cost by its limit."""
            costs = space.cost_table(tried[None])
            return max((float(costs[name][0]) / limit for name, limit in limits.items() if name in costs), default=0.0)

        low, high = 0.0, 1.0
        if use(row(low)) <= 1:
            return low, row(low)
        while use(row(high)) > 1 and high < _LARGEST:
            low, high = high, 2 * high
        best = high
        for _ in range(self.steps if use(row(high)) <= 1 else 0):
            middle = (low + high) / 2
            if use(row(middle)) > 1:
                low = middle
            else:  # not always the wider one: exemplars are not monotone in beta
                high = middle
                best = max(best, middle, key=lambda beta: use(row(beta)))
        return best, row(best)


class _Clustering:
    """The clusters of every group at any beta; similarities are computed once."""

    def __init__(
        self, model: nn.Module, space: Space, fixed: Mapping[str, float], coupled: bool, iterations: int
    ) -> None:
        self.space, self.fixed, self.iterations = space, fixed, iterations
        self.whole: dict[str, str] = {}
        self.similar: dict[str, Floats] = {}
        self.done: dict[tuple[str, float], Exemplars] = {}
        for group in space.groups:
            dense = [layer for layer in layers_of(space, group) if not layer.depthwise]
            rows = filters(model, space, group)
            if not coupled and len(dense) > 1:
                self.whole[group.name] = f"{len(dense)} layers make it"
            elif not rows.shape[1]:
                self.whole[group.name] = "it has no filters"
            elif not bool(rows.isfinite().all()):
                raise ValueError(f"filters of {group.name} are not all finite; train or load the network first")
            else:
                self.similar[group.name] = similarities(rows)
        if self.whole:
            logger.info("epruner leaves whole: %s", self.whole)

    def __call__(self, beta: float) -> list[Exemplars]:
        """The exemplars of each group; every filter where beta is 0 or the group is left whole."""
        result = []
        for group in self.space.groups:
            key = group.name, self.fixed.get(group.name, beta)
            if key not in self.done:
                if group.name in self.whole or key[1] == 0:
                    self.done[key] = Exemplars(np.arange(group.units), DAMPINGS[0])
                else:
                    self.done[key] = exemplars(self.similar[group.name], key[1], self.iterations)
            result.append(self.done[key])
        return result

    def scores(self, found: list[Exemplars]) -> Scores:
        """Exemplars first, on one scale for all groups."""
        return {
            group.name: torch.from_numpy(merits(self.similar[group.name], one)).float()
            if group.name in self.similar
            else 2 + self.space.default_scores[group.name].float()
            for group, one in zip(self.space.groups, found, strict=True)
        }

    def notes(self, found: list[Exemplars], candidate: Candidate) -> dict[str, Any]:
        """How many exemplars, how many other units fill up to a legal width, what did not converge."""
        pairs = list(zip(self.space.groups, found, strict=True))
        counts = {group.name: len(one.kept) for group, one in pairs}
        added = {
            group.name: candidate[number] // group.unit - counts[group.name]
            for number, group in enumerate(self.space.groups)
        }
        restless = [group.name for group, one in pairs if one.damping is None]
        if restless:
            logger.info("epruner: the messages of %s do not converge; all their filters are exemplars", restless)
        return {
            "exemplars": counts,
            "added": {name: number for name, number in added.items() if number > 0},
            "not_converged": restless,
            "whole": self.whole,
        }


def _restarted(model: nn.Module, space: Space, candidate: Candidate, scores: Scores) -> dict[str, Tensor]:
    """State dict of the small network; batch norms and biases of pruned layers as when they were new."""
    state = build(model, space, candidate, scores).state_dict()
    for number, group in enumerate(space.groups):
        if candidate[number] == group.width:
            continue
        for layer in layers_of(space, group):
            values = {layer.bias: 0.0}
            if layer.norm is not None:
                norm = layer.norm
                values |= {norm.weight: 1.0, norm.bias: 0.0, norm.mean: 0.0, norm.var: 1.0}
                values[f"{(norm.mean or '').rpartition('.')[0]}.num_batches_tracked"] = 0.0
            for name, value in values.items():
                if name in state:
                    state[name] = torch.full_like(state[name], value)
    return state
