"""GraNet for channels: costs fall along a cubic as units close, and others of their group open in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...spaces import Candidate, Scores, copied
from ...spaces.checked import check
from ..criteria.criteria import l2
from ..proposal import Count, Needs, Part, Proposal, Request, Share, Weights, checked
from .masks import Masks, reachable, trained
from .schedules import cosine, cubic

_AJAR = 1e-5  # of a closed gate, so that its gradient is felt behind a ReLU


@dataclass(frozen=True, kw_only=True)
class Granet:
    """GraNet, Liu 2021 (arXiv 2106.10404), carried over from single weights to channels; the paper has no such form.

    Every so many steps the costs fall along the paper's cubic: units of smallest norm close, all groups compared. Then
    a share of each group's open units, smallest first, gives way to as many closed ones with the largest gradient of
    their gates in the present batch; what has just closed may open again. The cost stays. A closed unit keeps its
    weights, or nothing would ever open: with both its sides zero, every gradient of it is zero.

    Deviations from the form for single weights: the schedule is of costs, not of sparsity; a norm is that of all that
    leaves with a unit, as a share of its group's mean; shares are rounded, not up, or the last unit of a group would
    change to the end; what opens has the weights it had when it closed. A unit whose gates lie behind one another (a
    depthwise convolution) is felt less than one just closed.

    Attributes:
        ratio: share of a group's open units that change in the first update.
        last_ratio: the same in the last.
        until: share of the training after which the costs are within the limits.
        every: steps between updates; None: 60 updates in all.
        settled: share of the training after which no unit changes any more.
        least: channels that every group keeps at least.
    """

    ratio: Part = 0.5
    last_ratio: Part = 0.005
    until: Share = 0.5
    every: Count | None = None
    settled: Share = 0.9
    least: Count = 1
    name: str = "granet"
    needs: Needs = "training"
    allocates: bool = True
    selects: bool = True
    weights: Weights = "trained"

    def __post_init__(self) -> None:
        check(self)

    def start(self, request: Request) -> GranetPhase:
        """See `TrainingPruner.start`; nothing is random."""
        reachable(request, self.least)
        return GranetPhase(self, request)


class GranetPhase:
    """See `Phase`."""

    def __init__(self, method: Granet, request: Request) -> None:
        space = request.space
        self.model = model = copied(request.model)
        self._method, self._space, self._limits = method, space, dict(request.limits)
        self._masks = Masks(model, space, ajar=_AJAR)
        self._full = space.full_costs
        self._slopes: Scores = {group.name: torch.zeros(group.units) for group in space.groups}
        self._candidate: Candidate | None = None
        self._scores: Scores = {}
        self._counts = {"updates": 0, "opened_again": 0}

    def prepare(self, loop: Any) -> None:
        """Nothing closes before the first update."""

    def after_backward(self, loop: Any) -> None:
        """Before an update: what every gate, open or closed, is worth to this batch."""
        if self._due(loop.step + 1, loop.steps):
            self._slopes = {name: slope.abs() for name, slope in self._masks.gate_gradients().items()}
        self._masks.still()

    def after_step(self, loop: Any) -> None:
        """Hold what is closed; close and open where it is time."""
        self._masks.hold(loop.optimizer)
        if not self._due(loop.step, loop.steps):
            return
        if loop.step <= self._end(loop.steps):
            self._shrink(loop.step / self._end(loop.steps))
        self._regenerate(cosine(self._method.ratio, self._method.last_ratio, loop.step / loop.steps))
        self._counts["updates"] += 1
        self._masks.hold(loop.optimizer)
        if loop.step >= self._last(loop.steps):
            self._finish()

    def finalise(self, loop: Any) -> None:
        """Where nothing was trained, only the norms decide."""
        if self._candidate is None:
            self._finish()

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        return {
            "masks": self._masks.state(),
            "candidate": None if self._candidate is None else list(self._candidate),
            "scores": {name: values.clone() for name, values in self._scores.items()},
            "counts": dict(self._counts),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Phase`."""
        self._masks.restore(state["masks"])
        self._candidate = None if state["candidate"] is None else Candidate(state["candidate"])
        self._scores = {name: values.clone() for name, values in state["scores"].items()}
        self._counts = dict(state["counts"])

    def proposal(self) -> Proposal:
        """See `Phase`."""
        if self._candidate is None:
            raise ValueError("granet has not been trained to its end; call finalise(loop) after the last epoch")
        return trained(self.model, self._space, self._candidate, self._scores, self._counts)

    def targets(self, progress: float) -> dict[str, float]:
        """The limits when `progress` of the pruning, 0..1, is done: from the full costs down, along the cubic."""
        return {
            name: cubic(max(self._full.get(name, limit), limit), limit, progress)
            for name, limit in self._limits.items()
        }

    def _shrink(self, progress: float) -> None:
        self._masks.shrink(self._importance(), self.targets(progress), least=self._method.least)

    def _importance(self) -> Scores:
        """Norms of open units, as shares of the mean of their group's; gate gradients of closed ones, as shares too."""
        norms = checked("granet", self._space, l2(self.model, self._space))
        found = {}
        for group in self._space.groups:
            closed = torch.from_numpy(self._masks.closed[group.slice])
            norm, slope = norms[group.name].double(), self._slopes[group.name].double()
            found[group.name] = torch.where(
                closed, slope / slope.mean().clamp_min(1e-300), norm / norm[~closed].mean().clamp_min(1e-300)
            )
        return found

    def _regenerate(self, ratio: float) -> None:
        norms, closed = l2(self.model, self._space), self._masks.closed.copy()
        for number, group in enumerate(self._space.groups):
            opened = self._masks.open_units(number)
            count = int(ratio * len(opened) + 0.5)
            if not count or len(opened) == group.units:
                continue
            marks = closed[group.slice]  # a view
            before = marks.copy()
            marks[opened[np.argsort(norms[group.name].numpy()[opened], kind="stable")[:count]]] = True
            shut = np.flatnonzero(marks)
            order = np.argsort(-self._slopes[group.name].numpy()[shut], kind="stable")
            marks[shut[order[:count]]] = False
            self._counts["opened_again"] += int((before & ~marks).sum())
        self._masks.put(closed)

    def _finish(self) -> None:
        """What is open stays, and the closed gates shut."""
        scores = self._importance()
        self._candidate = self._masks.shrink(scores, self._limits, least=self._method.least)
        self._scores = self._masks.ranked(scores)
        self._masks.shut()

    def _end(self, steps: int) -> int:
        return max(1, int(self._method.until * steps))

    def _last(self, steps: int) -> int:
        return max(self._end(steps), int(self._method.settled * steps))

    def _due(self, step: int, steps: int) -> bool:
        every = self._method.every or max(1, round(steps / 60))
        last = self._last(steps)
        return 0 < step <= last and (step % every == 0 or step in (self._end(steps), last))
