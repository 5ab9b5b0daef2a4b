"""MLPruning: heads and rows go by scores and thresholds that are learned with the weights, towards a cost.

Start at `MLPruning`; `tiles.py` has the method's second step, blocks of single matrices.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...spaces import Candidate, Scores, Space, copied, device_of, normalised, within
from ...spaces.checked import check
from ..proposal import Count, Needs, Part, Positive, Proposal, Request, Share, Weights, narrowest_inside
from .masks import Masks, reachable, trained
from .teaching import Teaching
from .thresholds import Thresholds, rate_for, slope

logger = logging.getLogger("secateur")

_AJAR = 1e-5  # of a closed gate, so that its gradient is felt behind a ReLU


@dataclass(frozen=True, kw_only=True)
class MLPruning:
    """MLPruning, Yao 2021 (arXiv 2105.14636): learned scores and thresholds for heads and rows.

    Every group has a score a unit and a threshold. The gradient of a unit's mask, the sum of weight times gradient over
    what makes it, moves its score; with the gradient of a penalty on the cost it moves the threshold. The full network
    teaches: its outputs by the task's own distance, what each of its blocks gives and each map of attention by the mean
    squared difference.

    A head is a unit of queries, keys and values at once; a row is a unit of the layer inside an MLP, or a filter: a
    network without attention has rows only. What blocks add to (a stream of embeddings, a residual sum) stays whole,
    as in the paper, unless the limits can't be met without it; then it learns like the rest.

    Deviations: the penalty is on the space's exact costs, between legal widths by interpolation, and on the limit that
    is exceeded most; biases go with their rows; rows of the matrices that add to a stream stay, which would need a
    scatter; equal scores go by norms; the thresholds stop at a share of the
    training, and are then moved together so that the limits are met and used up; the rate rises in short trainings.

    Attributes:
        rate: of scores and thresholds, falling to zero; None: 0.01, higher where there are too few steps for it.
        pressure: of the penalty.
        until: share of the training after which what stays is settled.
        teaching: the full network's part in the loss; 0: no teacher.
        temperature: what outputs are divided by before they are compared.
        least: channels that every group keeps at least.
    """

    rate: Positive | None = None
    pressure: Positive = 20_000.0
    until: Share = 0.6
    teaching: Part = 0.9
    temperature: Positive = 2.0
    least: Count = 1
    name: str = "mlpruning"
    needs: Needs = "training"
    allocates: bool = True
    selects: bool = True
    weights: Weights = "trained"

    def __post_init__(self) -> None:
        check(self)

    def start(self, request: Request) -> MLPruningPhase:
        """See `TrainingPruner.start`; nothing is random."""
        reachable(request, self.least)
        return MLPruningPhase(self, request)


class MLPruningPhase:
    """See `Phase`."""

    def __init__(self, method: MLPruning, request: Request) -> None:
        space = request.space
        self.model = model = copied(request.model)
        self._method, self._space, self._limits = method, space, dict(request.limits)
        self._masks = Masks(model, space, ajar=_AJAR)
        self._numbers, streams = _learned(space, self._limits, method.least)
        groups = [space.groups[number] for number in self._numbers]
        self._least = [-(-_least_width(group.widths, method.least) // group.unit) for group in groups]
        self._learned = Thresholds([space.default_scores[group.name] for group in groups])
        self._teaching: Teaching | None = None
        if method.teaching:
            blocks = [name for stage in space.stages for name in stage.blocks]
            self._teaching = Teaching(
                model, copied(request.model), blocks, weight=method.teaching, temperature=method.temperature
            )
        self._candidate: Candidate | None = None
        self._scores: Scores = {}
        self._notes: dict[str, Any] = {"learned": len(groups), "streams": streams}

    def prepare(self, loop: Any) -> None:
        """Have the task say how outputs compare."""
        if self._teaching is None:
            return
        if len(getattr(loop, "devices", ())) > 1:
            logger.info("mlpruning: a training on several devices has no teacher")
            self._teaching.remove()
            self._teaching = None
            return
        self._teaching.to(device_of(self.model))
        self._teaching.distil = getattr(getattr(loop, "task", None), "distill", None)
        parts, scaler = getattr(loop, "accumulate", 1), getattr(loop, "scaler", None)
        self._teaching.scale = lambda: (1.0 if scaler is None else float(scaler.get_scale())) / parts

    def after_backward(self, loop: Any) -> None:
        """Move scores and thresholds by what the masks are worth to this batch."""
        end = self._end(loop.steps)
        if self._candidate is None and loop.step < end and self._numbers:
            found = self._masks.gate_gradients()
            gradients = [found[self._space.groups[number].name] for number in self._numbers]
            rate = self._method.rate or rate_for(end)
            self._learned.step(gradients, self._slopes(), rate * (1 - loop.step / end))
        self._masks.still()

    def after_step(self, loop: Any) -> None:
        """Hold what is closed; close and open what the scores say, and settle it where it is time."""
        self._masks.hold(loop.optimizer)
        if self._candidate is not None:
            return
        if loop.step >= self._end(loop.steps):
            self._settle()
        else:
            self._masks.put(self._closed(self._learned.kept(least=self._least)))
        self._masks.hold(loop.optimizer)

    def finalise(self, loop: Any) -> None:
        """Where nothing was trained, only the norms decide; the teacher goes."""
        if self._candidate is None:
            self._settle()
        if self._teaching is not None:
            self._teaching.remove()

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        return {
            "masks": self._masks.state(),
            "learned": self._learned.state(),
            "candidate": None if self._candidate is None else list(self._candidate),
            "scores": {name: values.clone() for name, values in self._scores.items()},
            "notes": dict(self._notes),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Phase`."""
        self._masks.restore(state["masks"])
        self._learned.restore(state["learned"])
        self._candidate = None if state["candidate"] is None else Candidate(state["candidate"])
        self._scores = {name: values.clone() for name, values in state["scores"].items()}
        self._notes = dict(state["notes"])

    def proposal(self) -> Proposal:
        """See `Phase`."""
        if self._candidate is None:
            raise ValueError("mlpruning has not been trained to its end; call finalise(loop) after the last epoch")
        return trained(self.model, self._space, self._candidate, self._scores, self._notes)

    def _end(self, steps: int) -> int:
        return max(1, int(self._method.until * steps))

    def _closed(self, kept: Sequence[Tensor]) -> npt.NDArray[np.bool_]:
        closed = np.zeros(self._space.units, bool)
        for number, stays in zip(self._numbers, kept, strict=True):
            closed[self._space.groups[number].slice] = ~stays.numpy()
        return closed

    def _slopes(self) -> Tensor:
        """`(s,)` of the penalty by each group's share, for the limit that is exceeded most."""
        costs, slopes = densities(self._space, self._numbers, self._learned.shares.numpy())
        full = self._space.full_costs
        excess = {name: costs[name] - limit / full[name] for name, limit in self._limits.items() if full.get(name)}
        worst = max(excess, key=lambda name: excess[name], default=None)
        if worst is None or excess[worst] <= 0 or self._limits[worst] >= full[worst]:
            return torch.zeros(len(self._numbers), dtype=torch.float64)
        by_density = slope(costs[worst], self._limits[worst] / full[worst], self._method.pressure)
        return by_density * torch.from_numpy(slopes[worst])

    def _settle(self) -> None:
        """Move all thresholds together until the limits are just met; that stays."""
        shift = self._learned.settled(lambda kept: self._masks.meets(self._limits, self._closed(kept)), self._least)
        self._notes["shift"] = round(shift, 3)
        self._masks.put(self._closed(self._learned.kept(shift, self._least)))
        scores = normalised(self._space, self._space.default_scores, "max")
        for number, ranks in zip(self._numbers, self._learned.ranks(), strict=True):
            scores[self._space.groups[number].name] = (1 + ranks.float()) / len(ranks)
        self._candidate, self._scores = self._masks.candidate(), self._masks.ranked(scores)
        self._masks.settle(self._candidate, self._scores)
        self._masks.shut()


def densities(
    space: Space, numbers: list[int], shares: npt.NDArray[np.float64]
) -> tuple[dict[str, float], dict[str, npt.NDArray[np.float64]]]:
    """Each cost as a share of the full network's, and its slopes by the shares `(s,)` of units that stay.

    Between two legal widths a cost is taken as linear; below the least width nothing is left to gain.

    Args:
        space: the traced space.
        numbers: of the groups that have a share; all others are whole.
        shares: `(s,)` of each of them, 0..1.
    """
    rows = np.repeat(np.array([space.full], np.int64), len(numbers) + 1, axis=0)
    steps, rest, free = np.ones(len(numbers)), np.zeros(len(numbers)), np.zeros(len(numbers))
    for place, number in enumerate(numbers):
        group = space.groups[number]
        wanted = float(shares[place]) * group.width
        if wanted > group.widths[0] and len(group.widths) > 1:
            at = min(int(np.searchsorted(group.widths, wanted, side="right")) - 1, len(group.widths) - 2)
            rows[:, number], steps[place] = group.widths[at], group.widths[at + 1] - group.widths[at]
            rows[place, number], rest[place], free[place] = group.widths[at + 1], wanted - group.widths[at], group.width
        else:
            rows[:, number] = group.widths[0]
    found, slopes = {}, {}
    for name, column in space.cost_table(rows).items():
        full = space.full_costs[name]
        if full:
            one = (column[:-1] - column[-1]) / steps / full  # a channel more
            found[name] = float(column[-1] / full + (one * rest).sum())
            slopes[name] = one * free
    return found, slopes


def _learned(space: Space, limits: Mapping[str, float], least: int) -> tuple[list[int], bool]:
    """Numbers of the groups that learn, and whether streams are among them."""
    inner, narrow = narrowest_inside(space, least)
    if within(space, space.encode([narrow]), limits)[0]:
        return inner, False
    return list(range(len(space.groups))), True


def _least_width(widths: tuple[int, ...], least: int) -> int:
    return min(width for width in widths if width >= min(least, widths[-1]))
