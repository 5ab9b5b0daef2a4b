"""AOFP: while the network trains, each group searches the largest set of units whose loss its followers don't feel.

Start at `Aofp`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from ...spaces import Candidate, Scores, copied, normalised
from ...spaces.checked import AT_LEAST_0, check
from ..proposal import Count, Needs, Positive, Proposal, Request, Share, Weights, checked, inner_groups, inside_alone
from .followers import Followers
from .masks import Masks, reachable, trained

logger = logging.getLogger("secateur")

_LEAST_THRESHOLD, _LAST_THRESHOLD = 0.01, 1.0  # the paper's, and all of the followers' output
_HALVES = 40  # that a group can search through in a training, where nothing is given
_ITERATIONS = 1000  # a half, at most, where nothing is given: the repository's


@dataclass(frozen=True, kw_only=True)
class Aofp:
    """Approximated oracle filter pruning, Ding 2019 (arXiv 1905.04748).

    The damage of dropping a random half of a group is measured at the layers that read it, on the very batches of the
    training. The halves are halved until one does little enough; those units close, and the training of what is left
    goes on. It ends where the costs are within the limits.

    Deviations: several followers' damages are summed; the followers' second run leaves their statistics alone; the
    units of a move close one by one, best first, until the limits are met, while the paper looks after every epoch;
    moves end at a share of the training, and what is then over the limits goes by the single damages that the halves
    let estimate; what is None follows from the length of the training.

    Attributes:
        threshold: a group's loss at its followers, as a share of their squared output, that is little enough; None
            rises geometrically from 0.01, the paper's, to 1 over the moves.
        iterations: steps over which a half is scored; None: as many as leave each group 40 halves, at most 1,000.
        warmup: steps before the first half; None: half of `iterations`.
        until: share of the training after which the limits are met in any case.
        least: channels that every group keeps at least.
        internal: whether only groups inside of blocks are pruned, as in the paper; what blocks add to stays whole.
    """

    threshold: Positive | None = None
    iterations: Count | None = None
    warmup: Annotated[int, AT_LEAST_0] | None = None
    until: Share = 0.7
    least: Count = 1
    internal: bool = False
    name: str = "aofp"
    needs: Needs = "training"
    allocates: bool = True
    selects: bool = True
    weights: Weights = "trained"

    def __post_init__(self) -> None:
        check(self)

    def start(self, request: Request) -> AofpPhase:
        """See `TrainingPruner.start`."""
        reachable(request, self.least)
        if self.internal:
            inside_alone(request, self.least)
        return AofpPhase(self, request)


class AofpPhase:
    """See `Phase`."""

    def __init__(self, method: Aofp, request: Request) -> None:
        space = request.space
        self.model = model = copied(request.model)
        self._method, self._space, self._limits = method, space, dict(request.limits)
        self._masks = Masks(model, space)
        self._followers = Followers(model, space)
        inner = inner_groups(space) if method.internal else range(len(space.groups))
        pruned = [space.groups[number] for number in inner]
        self._whole = {group.name for group in space.groups} - {group.name for group in pruned}
        self._searches = {group.name: Search(group.units) for group in pruned if group.name in self._followers.of}
        self._rest: list[str] = []
        self._give_up([group.name for group in pruned if group.name not in self._searches])
        self._slopes = {name: torch.zeros(units) for name, units in ((g.name, g.units) for g in space.groups)}
        self._prior = normalised(space, space.default_scores, "mean")
        self._generator = torch.Generator().manual_seed(request.seed)
        self._least = {
            group.name: min(width for width in group.widths if width >= min(method.least, group.width)) // group.unit
            for group in space.groups
        }
        self._warmup = self._iterations = self._end = 0
        self._candidate: Candidate | None = None
        self._scores: Scores = {}
        self._counts = {"moves": 0, "by_moves": 0, "by_scores": 0, "met_at_step": -1}

    def prepare(self, loop: Any) -> None:
        """Divide the training."""
        self._end = max(1, int(self._method.until * loop.steps))
        own = min(_ITERATIONS, max(1, round(self._end / _HALVES)))
        self._iterations = own if self._method.iterations is None else self._method.iterations
        self._warmup = self._iterations // 2 if self._method.warmup is None else self._method.warmup
        if self._candidate is None and self._masks.meets(self._limits):
            self._finish(0)

    def after_backward(self, loop: Any) -> None:
        """Measure what a random half of each group is worth."""
        if self._candidate is None:
            self._measure(loop.step)
        self._masks.still()
        self._followers.clear()

    def after_step(self, loop: Any) -> None:
        """Hold what is closed; decide where a half is over."""
        self._masks.hold(loop.optimizer)
        if self._candidate is None:
            self._move(loop.step)
        if self._candidate is None and loop.step >= self._end:
            self._force(loop.step)
        self._masks.hold(loop.optimizer)

    def finalise(self, loop: Any) -> None:
        """Meet the limits where the training was too short, and take the hooks off."""
        if self._candidate is None:
            self._force(loop.step)
        self._followers.remove()

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        return {
            "masks": self._masks.state(),
            "searches": {name: search.state() for name, search in self._searches.items()},
            "slopes": {name: slope.clone() for name, slope in self._slopes.items()},
            "generator": self._generator.get_state(),
            "candidate": None if self._candidate is None else list(self._candidate),
            "scores": {name: values.clone() for name, values in self._scores.items()},
            "counts": dict(self._counts),
            "rest": list(self._rest),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Phase`."""
        self._masks.restore(state["masks"])
        self._rest = list(state["rest"])
        self._searches = {name: search for name, search in self._searches.items() if name not in self._rest}
        for name, search in self._searches.items():
            search.restore(state["searches"][name])
        self._slopes = {name: slope.clone() for name, slope in state["slopes"].items()}
        self._generator.set_state(state["generator"])
        self._candidate = None if state["candidate"] is None else Candidate(state["candidate"])
        self._scores = {name: values.clone() for name, values in state["scores"].items()}
        self._counts = dict(state["counts"])

    def proposal(self) -> Proposal:
        """See `Phase`."""
        if self._candidate is None:
            raise ValueError("aofp has not been trained to its end; call finalise(loop) after the last epoch")
        reasons = {name: "no module that reads it can be run again; ranked by gate gradients" for name in self._rest}
        notes = {**self._counts, "iterations": self._iterations, "by_gates": reasons}
        return trained(self.model, self._space, self._candidate, self._scores, notes)

    def _measure(self, step: int) -> None:
        running = {}
        for place, (name, search) in enumerate(self._searches.items()):
            first = self._warmup + place * self._iterations / len(self._searches)  # staggered
            if step >= first and len(search.open) > max(1, self._least[name]):
                running[name] = search.drop(self._generator)
        firsts = {group.name: group.first for group in self._space.groups}
        dropped = {name: firsts[name] + units.numpy() for name, units in running.items()}
        damages = self._followers.damages(self._masks.closed, dropped)
        for name, damage in damages.items():
            if math.isfinite(damage):
                self._searches[name].add(running[name], damage)
        self._give_up([name for name in running if name not in damages])
        if self._rest:
            for name, slope in self._masks.gate_gradients().items():
                self._slopes[name] += slope.abs().float()

    def _give_up(self, names: list[str]) -> None:
        if names:
            logger.info("aofp: no module that reads %s can be run again; gate gradients rank them", names)
        for name in names:
            self._rest.append(name)
            self._searches.pop(name, None)

    def _move(self, step: int) -> None:
        """End the halves that are over; close what they found, until the limits are met."""
        for group in self._space.groups:
            search = self._searches.get(group.name)
            if search is None or search.iteration < self._iterations:
                continue
            found = search.decide(self._threshold(step))
            found = found[: max(0, len(search.open) - self._least[group.name])]
            if not len(found):
                continue
            closed, done = self._masks.closed.copy(), 0
            while done < len(found) and not self._masks.meets(self._limits, closed):
                closed[group.first + int(found[done])] = True
                done += 1
            self._masks.put(closed)
            search.close(found[:done])
            self._counts["moves"] += 1
            self._counts["by_moves"] += done
            logger.debug("aofp: step %d, %d units of %s", step, done, group.name)
            if self._masks.meets(self._limits):
                self._finish(step)
                return

    def _threshold(self, step: int) -> float:
        if self._method.threshold is not None:
            return self._method.threshold
        share = min(1.0, max(0.0, (step - self._warmup) / max(1, self._end - self._warmup)))
        return float(_LEAST_THRESHOLD * (_LAST_THRESHOLD / _LEAST_THRESHOLD) ** share)

    def _force(self, step: int) -> None:
        """The training is over, or nearly: what is still too much goes by the damages."""
        before = int(self._masks.closed.sum())
        scores = checked("aofp", self._space, self._damages())
        self._candidate = self._masks.shrink(scores, self._limits, least=self._method.least)
        self._scores = self._masks.ranked(scores)
        self._counts["by_scores"] = max(0, int(self._masks.closed.sum()) - before)
        self._counts["met_at_step"] = step
        logger.info("aofp: %d units went by moves, %d by scores", before, self._counts["by_scores"])

    def _finish(self, step: int) -> None:
        """The limits are met: train on with exactly what stays."""
        self._candidate = self._masks.candidate()
        scores = self._damages()
        self._masks.settle(self._candidate, self._masks.ranked(scores))
        self._scores = self._masks.ranked(scores)
        self._counts["met_at_step"] = step

    def _damages(self) -> Scores:
        """Damage of each unit alone; where none was measured, gate gradients or norms at the scale of the others."""
        found = {}
        for name, search in self._searches.items():
            if search.damage.isnan().any():
                search.learn()
            found[name] = search.damage.clone()
        known = torch.cat([*found.values(), torch.zeros(0, dtype=torch.float64)])
        known = known[~known.isnan()]
        scale = float(known.mean()) if len(known) and float(known.mean()) > 0 else 1.0
        for name in self._slopes:
            values, slope = found.get(name), self._slopes[name].double()
            other = self._prior[name].double() if not slope.any() else slope / slope.mean()
            found[name] = scale * other if values is None else torch.where(values.isnan(), scale * other, values)
        most = max((float(values.max()) for values in found.values()), default=0.0)
        return {name: values + most + scale if name in self._whole else values for name, values in found.items()}


class Search:
    """The search of one group for its largest harmless set of units, Ding 2019 (arXiv 1905.04748).

    Attributes:
        open: units that are left.
        space: those among which is searched.
        damage: `(units,)` damage of each unit alone, estimated; NaN where it was never dropped.
        iteration: steps of the present half that are done.
    """

    def __init__(self, units: int) -> None:
        self.open = torch.arange(units)
        self.space = self.open.clone()
        self.damage = torch.full((units,), torch.nan, dtype=torch.float64)
        self.iteration = 0
        self._total = torch.zeros(units, dtype=torch.float64)
        self._count = torch.zeros(units, dtype=torch.float64)

    def drop(self, generator: torch.Generator) -> Tensor:
        """A random half of the units searched."""
        order = torch.randperm(len(self.space), generator=generator)
        return self.space[order[: len(self.space) // 2]]

    def add(self, dropped: Tensor, damage: float) -> None:
        """Note what dropping these units did."""
        self._total[dropped] += damage
        self._count[dropped] += 1
        self.iteration += 1

    def decide(self, threshold: float) -> Tensor:
        """End the half: the units to close, best first; none where the search goes on.

        The caller that closes them says so by `close`.
        """
        half = len(self.space) // 2
        found = self._scores()[self.space]
        self.learn()
        order = torch.argsort(found, stable=True)
        best, enough = self.space[order[:half]], bool(found[order[half - 1]] < threshold) if half else False
        self._restart(best if half > 1 and not enough else self.open)
        return best if enough else best[:0]

    def close(self, units: Tensor) -> None:
        """These units are closed; the search begins again among the others."""
        self.open = self.open[~torch.isin(self.open, units)]
        self._restart(self.open)

    def learn(self) -> None:
        """Estimate each unit's own damage from what the present half has seen.

        Where damages `d` add up, a unit of `n` that is dropped with `h - 1` random others sees on average
        `T = d (n - h) / (n - 1) + D (h - 1) / (n - 1)`, with `D` the sum of all `d`; the mean of `T` is `D h / n`.
        """
        n, half = len(self.space), len(self.space) // 2
        seen = self.space[self._count[self.space] > 0]
        if not half or not len(seen):
            return
        found = self._scores()[seen]
        everything = found.mean() * n / half
        own = (found * (n - 1) - everything * (half - 1)) / (n - half)
        self.damage[seen] = own.clamp_min(0)

    def state(self) -> dict[str, Any]:
        """All of it, as copies."""
        tensors = {name: getattr(self, name).clone() for name in _TENSORS}
        return tensors | {"iteration": self.iteration}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        for name in _TENSORS:
            setattr(self, name, state[name].clone())
        self.iteration = int(state["iteration"])

    def _scores(self) -> Tensor:
        mean = self._total / self._count.clamp_min(1)
        return torch.where(self._count > 0, mean, torch.inf)

    def _restart(self, space: Tensor) -> None:
        self.space, self.iteration = space.clone(), 0
        self._total.zero_()
        self._count.zero_()


_TENSORS = ("open", "space", "damage", "_total", "_count")
