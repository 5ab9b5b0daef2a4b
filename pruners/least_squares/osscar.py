"""OSSCAR: units chosen by what the next layers, solved again, lack without the others; and swaps of two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch

from ...spaces import Candidate, Group, Scores, Space, threshold_candidate
from ...spaces.checked import AT_LEAST_0, check
from ...spaces.knapsacks import knapsack
from ..proposal import Count, Needs, Proposal, Request, Weights, examples_for
from .damage import in_order
from .elimination import Elimination, swapped
from .products import Reader, readers_twice


@dataclass(frozen=True, kw_only=True)
class Osscar:
    """Keeps the units from which the layers that read them can be solved best: after Meng 2024 (arXiv 2403.12983).

    For a layer with inputs Z and weights W0, choose the inputs S that stay and weights W on them with the least
    `|| Z W - Z W0 ||^2`. Units go one by one, each the one whose removal adds least once W is solved again; at the
    width that was allocated, units that went are swapped with units that stayed while that lowers it.

    Deviations: a unit that several layers read has the sum of their shares; a constant goes into the reader's bias or
    batch norm, where it has one; a swap is of one unit for one; products of few rows are shrunk (`products.shrunk`).
    How wide each layer is is left open by the paper.

    Attributes:
        allocation: `"knapsack"` over the damages that were measured, or `"threshold"` of them.
        swaps: of each group, at most.
        least: channels that every group keeps at least.
    """

    allocation: Literal["knapsack", "threshold"] = "knapsack"
    swaps: Annotated[int, AT_LEAST_0] = 20
    least: Count = 1
    name: str = "osscar"
    needs: Needs = "images"
    allocates: bool = True
    selects: bool = True
    weights: Weights = field(default="inherited", init=False)

    def __post_init__(self) -> None:
        check(self)

    def propose(self, request: Request) -> Proposal:
        """See `Pruner.propose`; nothing is random."""
        space, examples = request.space, examples_for(self, request.examples)
        space.check_limits(request.limits)
        read = readers_twice(request.model, space, examples)
        scores, table = in_order(self.name, space, read(), lambda group, found: Elimination(group.units, found).order())
        candidate = self._allocated(request, scores, table)
        scores, notes = self._swapped(request.space, candidate, scores, read())
        return Proposal(
            candidate=candidate, scores=scores, notes={"damage": _total(request, candidate, table), **notes}
        )

    def _allocated(self, request: Request, scores: Scores, table: Mapping[str, list[float]]) -> Candidate:
        if self.allocation == "knapsack":
            return knapsack(request.space, table, request.limits, base=request.base, least_width=self.least)
        return threshold_candidate(
            request.space,
            scores,
            request.limits,
            depth=request.depth,
            resolution=request.resolution,
            normalise="none",
            least=self.least,
        )

    def _swapped(
        self, space: Space, candidate: Candidate, scores: Scores, read: Iterable[tuple[Group, list[Reader]]]
    ) -> tuple[Scores, dict[str, Any]]:
        """The scores with units swapped at the candidate's widths, and how many were."""
        if not self.swaps:
            return scores, {}
        changed, counts = dict(scores), dict[str, int]()
        ranking = {group.name: ranks for group, ranks in zip(space.groups, space.ranking(scores), strict=True)}
        cut = {group.name: number for group, number in _kept(space.groups, candidate).items() if number < group.units}
        for group, found in read:
            if not found or group.name not in cut:
                continue
            kept = torch.zeros(group.units, dtype=torch.bool)
            kept[torch.from_numpy(ranking[group.name][: cut[group.name]].copy())] = True
            after, counts[group.name] = swapped(found, kept, self.swaps)
            top = float(scores[group.name].max())
            changed[group.name] = scores[group.name] + 2 * top * after.float()
        return changed, {"swaps": {name: count for name, count in counts.items() if count}}


def _kept(groups: tuple[Group, ...], candidate: Candidate) -> dict[Group, int]:
    return {group: candidate[number] // group.unit for number, group in enumerate(groups)}


def _total(request: Request, candidate: Candidate, table: Mapping[str, list[float]]) -> float:
    return sum(
        table[group.name][group.widths.index(candidate[number])] for number, group in enumerate(request.space.groups)
    )
