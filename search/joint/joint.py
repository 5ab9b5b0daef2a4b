"""JointPruning: one vector of ratios, moved along a numerical gradient of the error, at the budget.

v          (d,)    the pruning vector: what each axis keeps of its full choice, 0..1; also `center`
sigma      (d,)    how far each axis is moved to be compared, by kind of axis
e          (p, d)  directions in units of sigma, one a pair: v + sigma e is compared with v - sigma e
above      (p,)    losses at v + sigma e
below      (p,)    losses at v - sigma e

The estimators are plain functions; `JointSampler` below applies them to the trials of an Optuna study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ...spaces import Candidate
from ...spaces.allocation import Draw
from ..axes import AxesSampler
from ..problem import NOTE, Array, Problem, note, told
from .ratios import Ratios

_KEY = "joint"
_STRETCHES = (1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8)  # sigmas from the center, where everything nearer was tried
_GOLDEN = (5**0.5 - 1) / 2  # multiples of it, wrapped at 1, spread evenly whatever their number


def paired_gradient(above: Array, below: Array, e: Array, sigma: Array) -> Array:
    """`(d,)` mean over pairs of (L(v + sigma e) - L(v - sigma e)) e / (2 sigma); 0 where sigma is.

    With e ~ Normal(0, I) its mean is the gradient of E[L(v + sigma e)], the smoothed loss.
    """
    return _per_sigma(((above - below)[:, None] / 2 * e).mean(axis=0), sigma)


def one_sided_gradient(losses: Array, e: Array, sigma: Array, baseline: float = 0.0) -> Array:
    """`(d,)` mean of (L(v + sigma e) - baseline) e / sigma: the same mean as in pairs, a larger variance."""
    return _per_sigma(((losses - baseline)[:, None] * e).mean(axis=0), sigma)


def standardised(losses: Array) -> Array:
    """Losses with mean 0 and standard deviation 1; zeros where they are all alike."""
    centred = losses - losses.mean()
    std = float(centred.std())
    return centred / std if std > 1e-12 else np.zeros_like(centred)


def moved(v: Array, gradient: Array, sigma: Array, rate: float) -> Array:
    """`(d,)` point after a step against the gradient, taken where every axis is measured in its sigma."""
    return np.asarray(v - rate * sigma**2 * gradient)


@final
class JointSampler(AxesSampler):
    """Moves a center along the budget, a generation of antithetic pairs at a time.

    Liu 2021 (arXiv 2005.08931). A generation's pairs are told, their error differences give the gradient, the center
    takes a step, and the next generation is drawn around it. The error alone is minimised, at the budget: the tightest
    limit is held with equality. Without a limit that can be predicted, every generation has its own budget of
    multiply-adds, spread over the whole range, and the center is carried from one to the next: the trials form a front.

    Where the paper is silent or this departs from it: errors are standardised within the generation; both networks of a
    pair are brought onto the budget before they are compared (so the step stays on it, and it ends where no exchange
    between axes helps; scaling the channels only after the step would drive depth and resolution to their full); ratios
    are rounded at random, and the directions used are those between the two networks that were really tried; a step
    counts in sigmas, and shrinks with the square root of the generations.

    Args:
        seed: of directions and rounding.
        problem: what is searched.
        generation: trials between two steps, an even number; None takes the problem's batch, rounded down to even, at
            least 2.
        rate: sigmas that the first step is long, in an axis whose error decides all.
        rounds: note on every trial the round of shared weights it is evaluated with, one a generation.
    """

    def __init__(
        self,
        *,
        seed: int,
        problem: Problem,
        generation: int | None = None,
        rate: float = 1.0,
        rounds: bool = False,
    ) -> None:
        """Refuse what could not be followed."""
        size = max(2, problem.batch - problem.batch % 2) if generation is None else generation
        if size < 2 or size % 2:
            raise ValueError(f"generation={generation!r}: expected an even number of trials, at least 2")
        if not rate > 0:
            raise ValueError(f"rate={rate!r}: expected a number above 0")
        super().__init__(problem, seed)
        self.generation, self.rate, self.rounds = size, rate, rounds
        self._random = np.random.default_rng(seed)

    def propose(self, study: Study, trial: FrozenTrial) -> Mapping[str, int]:
        """One network of a pair; the trial notes generation, center, budget, pair, sign and direction."""
        if not self.problem.space.axes:
            return {}
        members = _members(study, self.problem, trial.number)
        latest = max((member.generation for member in members), default=-1)
        now = [member for member in members if member.generation == latest]
        if not now or (len(now) >= self.generation and not any(member.running for member in now)):
            latest, now, ratios, center = latest + 1, [], *self._next(study, now, latest + 1)
        else:
            ratios, center = Ratios(self.problem, now[0].limits), now[0].center
        pair, sign, e = self._slot(now, len(center))
        candidate = self._tried(ratios, center, sign * e, self._taken(study, trial, now))
        said = {"generation": latest, "center": center.tolist(), "limits": ratios.limits}
        note(study, trial, _KEY, said | {"pair": pair, "sign": sign, "e": e.tolist()})
        if self.rounds:
            note(study, trial, "weights", f"round:{latest}")
        return self.problem.params(candidate)

    def _slot(self, now: Sequence[_Member], axes: int) -> tuple[int, int, Array]:
        """Number, sign and direction of the next network: the other half of a pair, or the first of a new one."""
        halves = {member.pair: member for member in now if member.sign > 0}
        for member in now:
            if member.sign < 0:
                halves.pop(member.pair, None)
        if halves:
            other = min(halves.values(), key=lambda member: member.pair)
            return other.pair, -1, other.e
        return max((member.pair for member in now), default=-1) + 1, 1, self._random.standard_normal(axes)

    def _tried(self, ratios: Ratios, center: Array, e: Array, taken: set[Candidate]) -> Candidate:
        """The network in a direction from the center; where that was tried, in another, further and further off."""
        space, costs = self.problem.space, self.problem.costs
        for stretch in _STRETCHES:
            v = ratios.projected(center + stretch * ratios.sigma * e)
            candidate = ratios.rounded(v, self._random, taken, nearly=0.9 / stretch)
            if candidate is not None:
                return candidate
            e = self._random.standard_normal(len(center))
        return space.repair(ratios.nearest(center), ratios.limits, costs=costs)

    def _taken(self, study: Study, trial: FrozenTrial, now: Sequence[_Member]) -> set[Candidate]:
        """What is not to be tried again: with other weights anything may be."""
        if self.rounds:
            return {member.candidate for member in now}
        others = [other.params for other in study.get_trials(deepcopy=False) if other.number < trial.number]
        names = [axis.name for axis in self.problem.space.axes]
        return {self.problem.candidate(params) for params in others if all(name in params for name in names)}

    def _next(self, study: Study, before: Sequence[_Member], generation: int) -> tuple[Ratios, Array]:
        """The budget and the center of a new generation."""
        ratios = Ratios(self.problem, self._limits(generation))
        if not before:
            return ratios, ratios.projected(self._start(study, ratios))
        rate = self.rate / (1 + before[0].generation) ** 0.5
        return ratios, ratios.projected(_stepped(before, Ratios(self.problem, before[0].limits), rate))

    def _start(self, study: Study, ratios: Ratios) -> Array:
        """The best that is known, which is a seed's as a rule; else all axes alike."""
        known = told(study, self.problem)
        if not known.feasible.any():
            return ratios.uniform()
        best = int(np.argmin(np.where(known.feasible, known.error, np.inf)))
        return ratios.of(known.encoded[best].tolist())

    def _limits(self, generation: int) -> dict[str, float]:
        space = self.problem.space
        least, full = self.problem.costs(space.encode([space.smallest, space.full]))["macs"].tolist()
        known = Ratios(self.problem, self.problem.limits).limits
        return known or {"macs": full * (least / full) ** (((generation + 1) * _GOLDEN) % 1.0)}


def around(problem: Problem, center: Sequence[float], limits: Mapping[str, float], spread: float = 1.0) -> Draw:
    """A function that draws candidates on the budget around a center, as a generation does: for shared weights.

    Args:
        problem: what is searched.
        center: `(d,)` ratios, as noted on a trial.
        limits: the generation's, as noted.
        spread: how many sigmas they stand apart.
    """
    ratios, middle = Ratios(problem, limits), np.array(center, float)

    def draw(random: np.random.Generator) -> Candidate:
        e = random.standard_normal(len(middle))
        found = ratios.rounded(ratios.projected(middle + spread * ratios.sigma * e), random)
        assert found is not None  # nothing is taken
        return found

    return draw


@dataclass(frozen=True, eq=False, kw_only=True)
class _Member:
    """A trial of a generation, and what came of it: no loss where it runs, failed, or was not evaluated."""

    generation: int
    center: Array
    limits: dict[str, float]
    pair: int
    sign: int
    e: Array
    candidate: Candidate
    running: bool
    loss: float | None


def _members(study: Study, problem: Problem, before: int) -> list[_Member]:
    """All trials below a number that this sampler proposed."""
    names, index, found = [axis.name for axis in problem.space.axes], problem.objectives.index("error"), []
    for trial in study.get_trials(deepcopy=False):
        said = trial.system_attrs.get(NOTE + _KEY)
        if said is None or trial.number >= before or not all(name in trial.params for name in names):
            continue
        done = trial.state is TrialState.COMPLETE and trial.user_attrs.get("evaluated", True)
        found.append(
            _Member(
                generation=said["generation"],
                center=np.array(said["center"], float),
                limits=dict(said["limits"]),
                pair=said["pair"],
                sign=said["sign"],
                e=np.array(said["e"], float),
                candidate=problem.candidate(trial.params),
                running=not trial.state.is_finished(),
                loss=trial.values[index] if done else None,
            )
        )
    return found


def _stepped(members: Sequence[_Member], ratios: Ratios, rate: float) -> Array:
    """The center after the step that a whole generation tells; where it was, when no pair is whole."""
    center, known = members[0].center, [member for member in members if member.loss is not None]
    losses = standardised(np.array([member.loss for member in known])) if known else np.zeros(0)
    halves = {(member.pair, member.sign): i for i, member in enumerate(known)}
    pairs = [(halves[pair, 1], halves[pair, -1]) for pair, sign in sorted(halves) if sign > 0 and (pair, -1) in halves]
    if not pairs:
        return center
    tried = np.stack([ratios.of(member.candidate) for member in known])
    up, down = (np.array(side) for side in zip(*pairs, strict=True))
    e = _per_sigma((tried[up] - tried[down]) / 2, ratios.sigma)
    return moved(center, paired_gradient(losses[up], losses[down], e, ratios.sigma), ratios.sigma, rate)


def _per_sigma(values: Array, sigma: Array) -> Array:
    """Values divided by sigma along their last axis; 0 where it is 0."""
    return np.asarray(np.divide(values, sigma, out=np.zeros_like(values), where=sigma > 0), np.float64)
