"""ResRep: channels are compacted while the network trains, those that fade are cut, and the rest merges exactly.

Ding 2021 (arXiv 2007.03260). `Compacted` inserts the compactors, `mask_walk` says which rows are given up, `lasso`
changes their gradient, `merged` and `folded` make the smaller network. Start at `ResRep`.

Symbols: `g` groups with a compactor, `u` units of one, `k` steps of a walk.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Candidate, Scores, copied, stays, within
from ...spaces.checked import check
from ..proposal import Count, Needs, Number, Part, Proposal, Request, Weights, checked, inner_groups, inside_alone
from .compactors import Compacted, row_norms
from .folding import folded
from .insertion import Plan, planned
from .merging import merged
from .walk import Widths, mask_walk, walk_path

logger = logging.getLogger("secateur")

Ids = npt.NDArray[np.int64]
_TINY = 1e-12  # the least norm that a gradient is divided by
_DEADLINE = 0.5  # share of the training at which the limits should be met by the mask
_AFTER = 0.25 - 1 / (2 * math.pi)  # integral of a cosine schedule over what is left then, of its peak and length
_STRENGTHS = (1e-4, 1e-2)  # the published one, and the most that pulls, by itself, at rows that are to stay
_WATCHED = 50  # steps before the end over which variances are followed, or a tenth of the training
_LAGS = 20.0  # time constants of the compactors' momentum that a training must have room for


@dataclass(frozen=True, kw_only=True)
class ResRep:
    """Ding 2021 (arXiv 2007.03260): "gradient resetting" and exact merging.

    Every row of a compactor gets `mask * dL/dQ + strength * Q / |Q|`. The mask gives up the rows of least norm until
    the network without them is within the limits; what has faded at the end is cut, and the compactors are merged.

    Deviations: one compactor serves a coupled group, residual outputs included; costs are the space's exact ones, all
    limits count, and the widths compared with them are legal ones; in short trainings momentum, strength and the rhythm
    of the mask are derived from the number of steps; a masked row loses its momentum and stays at zero when it is
    there, instead of circling around it (`settle`); batch norms stay, with the statistics that their new inputs have.

    Attributes:
        strength: of the lasso; None: so that a row masked half-way dies under a cosine schedule, at least 1e-4; at rows
            that stay it then pulls with 1e-2 at most.
        momentum: of the compactors; None: 0.99, less where fewer than 2,000 steps leave it no room.
        theta: rows given up at each update of the mask; None: 4, more where there are too few steps.
        interval: steps between updates; None: 200, fewer where they would not be done half-way.
        mask_start: epochs without a mask; None: 5, at most a tenth of the training.
        epsilon: rows of less norm are cut at the end.
        least: channels that every group keeps at least.
        settle: whether a masked row starts from rest and stops at zero.
        internal: whether only groups inside of blocks are pruned, as in the paper; what blocks add to stays whole.
    """

    strength: Number | None = None
    momentum: Part | None = None
    theta: Count | None = None
    interval: Count | None = None
    mask_start: Number | None = None
    epsilon: Number = 1e-5
    least: Count = 1
    settle: bool = True
    internal: bool = False
    name: str = "resrep"
    needs: Needs = "training"
    allocates: bool = True
    selects: bool = True
    weights: Weights = "merged"

    def __post_init__(self) -> None:
        check(self)

    def start(self, request: Request) -> ResRepPhase:
        """See `TrainingPruner.start`; nothing here is random."""
        request.space.check_limits(request.limits)
        if self.internal:
            inside_alone(request, self.least)
        return ResRepPhase(self, request)


class ResRepPhase:
    """See `Phase`."""

    def __init__(self, method: ResRep, request: Request) -> None:
        """Insert the compactors into a copy."""
        model, space = request.model, request.space
        self.method, self.space, self.limits = method, space, dict(request.limits)
        self.plain = copied(model)
        self.plan: Plan = planned(model, space)
        if method.internal:
            inner = inner_groups(space)
            self.plan.kinds = [kind if number in inner else "whole" for number, kind in enumerate(self.plan.kinds)]
        self.compacted = Compacted(copied(model), space, self.plan.kinds, self.plan.gated)
        self.model = self.compacted.model
        numbers = range(len(space.groups))
        self.numbers = [number for number in numbers if self.plan.kinds[number] != "whole"]
        self.widths = Widths(space, self.numbers, method.least)
        self.masks = [torch.ones(space.groups[number].units, dtype=torch.bool) for number in self.numbers]
        self.updates, self.watching = 0, False
        self.schedule: dict[str, Any] = {}
        self._before: list[Tensor] = []

    def prepare(self, loop: Any) -> None:
        """Choose the schedule; give the compactors a momentum of their own and no weight decay."""
        rate = max((float(group["lr"]) for group in loop.optimizer.param_groups), default=float(loop.lr))
        self.schedule = schedule(self.method, self._to_go(), steps=loop.steps, epochs=loop.epochs, rate=rate)
        logger.info("resrep: schedule %s", self.schedule)
        own_group(loop.optimizer, self._compactors(), self.schedule["momentum"])
        self._watch(loop)

    def after_backward(self, loop: Any) -> None:
        """Reset the masked rows' gradients and add the lasso."""
        self._before = []
        for q, mask in zip(self._compactors(), self.masks, strict=True):
            self._before.append(q.detach().clone() if self.method.settle else q.detach())
            gradient = torch.zeros_like(q) if q.grad is None else q.grad
            q.grad = lasso(q.detach(), gradient, mask.to(q.device), *self._strengths())

    def after_step(self, loop: Any) -> None:
        """Stop masked rows at zero; update the mask when it is time."""
        if self.method.settle:
            for q, mask, before in zip(self._compactors(), self.masks, self._before, strict=True):
                _settle(q, mask.to(q.device), before, loop.optimizer)
        self._watch(loop)
        since = loop.step - self.schedule["start"]
        if since >= 0 and since % self.schedule["interval"] == 0:
            self._update(loop.optimizer)

    def state(self) -> dict[str, Any]:
        """The masks, and where in the training they are; everything else is in the model and the optimizer."""
        masks = [mask.clone() for mask in self.masks]
        return {"masks": masks, "updates": self.updates, "watching": self.watching}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Phase.restore`."""
        self.masks = [torch.as_tensor(mask).bool().cpu().clone() for mask in state["masks"]]
        self.updates = int(state["updates"])
        self.compacted.watch(bool(state["watching"]))
        self.watching = bool(state["watching"])

    def proposal(self) -> Proposal:
        """The rows that have not faded, as far as the limits allow them; merged."""
        scores, notes = self._scores(), self._notes()
        candidate, above = self._cut(scores)
        if len(above):
            notes["cut_above_epsilon"] = {"rows": len(above), "largest_norm": float(above.max())}
            logger.info("resrep: %d rows cut for the budget, of norms up to %g", len(above), float(above.max()))
        stay = stays(self.space, candidate, scores)
        small, constants, error = folded(merged(self.compacted, self.plain, stay), self.space, candidate, scores)
        for note in constants:
            logger.info("resrep: constants of %s into %s: %s", note["groups"], note["reader"], note["why"])
        notes |= {"constants": constants, "merge_error": error}
        weights = {name: tensor.detach().clone() for name, tensor in small.state_dict().items()}
        return Proposal(candidate=candidate, scores=scores, weights=weights, notes=notes)

    def _watch(self, loop: Any) -> None:
        """Follow the variances behind the compactors towards the end only: that takes a fifth of a step."""
        self.watching = bool(loop.step >= loop.steps - max(_WATCHED, loop.steps // 10))
        self.compacted.watch(self.watching)

    def _strengths(self) -> tuple[float, float]:
        """Of the pull at masked rows, and at the others."""
        strength = float(self.schedule["strength"])
        return strength, strength if self.method.strength is not None else min(strength, _STRENGTHS[1])

    def _compactors(self) -> list[nn.Parameter]:
        found = [self.compacted.compactor(number) for number in self.numbers]
        return [q for q in found if q is not None]

    def _norms(self) -> list[npt.NDArray[np.float64]]:
        return [row_norms(q.detach()).double().cpu().numpy() for q in self._compactors()]

    def _fits(self, kept: Ids) -> npt.NDArray[np.bool_]:
        return within(self.space, self.widths.legal(kept), self.limits)

    def _update(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Choose the masked rows again; those that are new lose their momentum, so that they fall straight to zero."""
        norms = self._norms()
        kept = np.array([[int(mask.sum()) for mask in self.masks]], np.int64)
        masked = sum(int((~mask).sum()) for mask in self.masks)
        cap = None if bool(self._fits(kept)[0]) else masked + self.schedule["theta"]
        old, self.masks = (
            self.masks,
            [torch.from_numpy(m) for m in mask_walk(norms, self._fits, cap, self.widths.least)],
        )
        self.updates += 1
        if self.method.settle and optimizer is not None:
            for q, before, mask in zip(self._compactors(), old, self.masks, strict=True):
                _forget(q, (before & ~mask).to(q.device), optimizer)

    def _to_go(self) -> int:
        """How many rows go where all groups shrink alike."""
        full = np.array([self.space.groups[number].units for number in self.numbers], np.int64)
        ratios = np.linspace(1.0, 0.0, 101)
        kept = np.maximum(np.ceil(ratios[:, None] * full).astype(np.int64), self.widths.least)
        fine = np.flatnonzero(self._fits(kept)) if len(full) else np.zeros(0, np.int64)
        return int((full - kept[fine[0] if len(fine) else -1]).sum())

    def _scores(self) -> Scores:
        scores = dict(self.space.default_scores)
        for number, q in zip(self.numbers, self._compactors(), strict=True):
            scores[self.space.groups[number].name] = row_norms(q.detach())
        return checked(self.method.name, self.space, scores)

    def _cut(self, scores: Scores) -> tuple[Candidate, npt.NDArray[np.float64]]:
        """The network without the faded rows, and within the limits; the norms of rows that go for the limits alone."""
        norms = [scores[self.space.groups[number].name].double().numpy() for number in self.numbers]
        alive = [n >= self.method.epsilon for n in norms]
        start = np.array([max(int(a.sum()), low) for a, low in zip(alive, self.widths.least, strict=True)], np.int64)
        path, _ = walk_path(norms, start, self.widths.least)
        family = self.widths.legal(path)
        fine = np.flatnonzero(within(self.space, family, self.limits))
        if len(fine):
            candidate = self.space.canonical(family[fine[0]].tolist())
        else:
            candidate = self.space.repair(family[-1].tolist(), self.limits)
        kept = stays(self.space, candidate, scores)
        gone = [
            n[a & ~kept[group.slice]]
            for n, a, group in zip(norms, alive, (self.space.groups[i] for i in self.numbers), strict=True)
        ]
        return candidate, np.concatenate([*gone, np.zeros(0)])

    def _notes(self) -> dict[str, Any]:
        norms = self._norms()
        masked = [~mask.numpy() for mask in self.masks]
        faded = [n < self.method.epsilon for n in norms]
        return {
            "schedule": self.schedule,
            "updates": self.updates,
            "masked": int(sum(m.sum() for m in masked)),
            "faded": int(sum(f.sum() for f in faded)),
            "masked_and_not_faded": int(sum((m & ~f).sum() for m, f in zip(masked, faded, strict=True))),
            "groups": dict(self.plan.reasons),
            "gated": sorted(self.plan.gated),
        }


def lasso(
    compactor: Tensor, gradient: Tensor, mask: Tensor, strength: float, kept_strength: float | None = None
) -> Tensor:
    """The gradient of every row: the objective's where the mask is 1, and the pull to zero everywhere.

    Args:
        compactor: `(u, u)` or `(u,)`.
        gradient: of the objective, of the same shape.
        mask: `(u,)` 0 where a row is given up.
        strength: of the pull.
        kept_strength: of the pull at rows that are not given up, where it is another.
    """
    rows = [-1] + [1] * (compactor.ndim - 1)
    kept = mask.bool().view(rows)
    pull = compactor / row_norms(compactor).clamp(min=_TINY).view(rows)
    strengths = torch.where(kept, strength if kept_strength is None else kept_strength, strength).to(pull)
    return torch.where(kept, gradient, torch.zeros_like(gradient)) + strengths * pull


def schedule(method: ResRep, to_go: int, *, steps: int, epochs: int, rate: float) -> dict[str, Any]:
    """Momentum, strength, first step, interval and theta: the method's own, else chosen from the number of steps.

    A masked row moves by `rate * strength / (1 - momentum)` a step. Under a cosine schedule the second half of the
    training has `0.091 * steps` steps' worth of the peak rate, so that
    `strength = (1 - momentum) / (0.091 * rate * steps)` brings a row that is masked half-way from norm 1 to zero.

    Args:
        method: its settings that are not None stay.
        to_go: rows that must go, about.
        steps: of the whole training.
        epochs: of the whole training.
        rate: its highest learning rate.
    """
    steps, epochs = max(1, steps), max(1, epochs)
    momentum, strength = method.momentum, method.strength
    if momentum is None:
        momentum = min(0.99, max(0.0, 1 - _LAGS / steps))
    if strength is None:
        wanted = (1 - momentum) / (_AFTER * max(rate, _TINY) * steps)
        strength = max(wanted, _STRENGTHS[0])
    before = min(5.0, 0.1 * epochs) if method.mask_start is None else method.mask_start
    start = max(1, round(before * steps / epochs))
    window = max(1, round(_DEADLINE * steps) - start)
    theta, interval = method.theta, method.interval
    if interval is None:
        interval = min(200, max(1, window // max(1, math.ceil(to_go / (theta or 4)))))
    if theta is None:
        theta = max(4, math.ceil(to_go / max(1, window // interval)))
    return {
        "steps": steps,
        "momentum": momentum,
        "strength": strength,
        "start": start,
        "interval": interval,
        "theta": theta,
    }


def own_group(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], momentum: float) -> None:
    """Move parameters into an optimizer group without weight decay, with a momentum of their own under SGD."""
    if not parameters:
        return
    ours = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ours]
    settings: dict[str, Any] = {"weight_decay": 0.0, "lr": optimizer.param_groups[0]["lr"]}
    if isinstance(optimizer, torch.optim.SGD):
        settings |= {"momentum": momentum, "nesterov": False, "dampening": 0.0}
    optimizer.add_param_group({"params": list(parameters), **settings})


@torch.no_grad()
def _settle(compactor: Tensor, mask: Tensor, before: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Zero the masked rows that moved farther than they are from zero, and their momentum."""
    arrived = ~mask & (row_norms(compactor) <= row_norms(compactor - before))
    compactor[arrived] = 0
    _forget(compactor, arrived, optimizer)


def _forget(compactor: Tensor, rows: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Zero the momentum of some rows."""
    for key in ("momentum_buffer", "exp_avg"):
        kept = optimizer.state.get(compactor, {}).get(key)
        if isinstance(kept, Tensor):
            kept[rows] = 0
