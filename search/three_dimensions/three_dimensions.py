"""Few networks along each dimension, a polynomial through them, its best point at the budget; again with each new one.

Start reading at `ThreeDimensionsSampler.propose`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.spatial import KDTree

from ...spaces import Candidate, Encoded, Space, within
from ..axes import AxesSampler
from ..problem import Problem, note
from .dimensions import Fitted, fit, optimum
from .seen import Seen, axis_of, seen_trials
from .shrinking import Array, Shrinking, shrinking_of

TARGETS = (1.0, 0.85, 0.7, 0.5, 0.35)
POLYNOMIALS = ("product", "full")

_APART = 0.03  # a new proposal differs by so much in some ratio from all tried ones, where one does
_WALK = 256  # steps of a walk from the full network to the smallest
_REACH = 0.7  # samples of a dimension go down to this ratio at least, as far as it has it
_FREE = "macs"


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A planned sample: how far along which dimension."""

    dimension: str
    number: int
    candidate: Candidate


@dataclass(frozen=True, kw_only=True)
class _Proposal:
    """A candidate and what is noted with it."""

    candidate: Candidate
    notes: Mapping[str, Any]


@final
class ThreeDimensionsSampler(AxesSampler):
    """Depth, width and resolution in ratios to the full network, as Wang et al. 2021 (arXiv 2010.04879) choose them.

    First the full network, then a few networks along each dimension alone, each pruned from the last one and trained on
    with its weights. Then a polynomial in the ratios is fitted to one less the errors, and the network is proposed that
    it predicts to be best within the limits, by looking at every combination of depth, width and resolution with its
    exact costs; the fit is repeated with each new outcome. With several objectives the limits are cut down in turn, so
    that a front comes out.

    Deviations from the paper: costs are exact, not d w^2 r^2, whose best point (`dimensions.optimum`) is only noted;
    the best point is looked for between the ratios that were sampled; proposals after the samples start from the full
    network's weights, as all other trials do; where mates of a batch keep every dimension waiting, networks that shrink
    along several at once are sampled. Trials of others count where ratios name their networks.

    It has no state and draws nothing: the same trials give the same proposal.
    """

    def __init__(
        self,
        *,
        problem: Problem,
        degree: int = 3,
        rank: int = 1,
        polynomial: str = "product",
        width: str = "threshold",
        normalise: str = "mean",
        samples: int = 4,
        references: bool = True,
        targets: Sequence[float] = TARGETS,
        exponents: Mapping[str, float] | None = None,
    ) -> None:
        """Options of the method.

        Args:
            problem: what is searched.
            degree: K, of the polynomial in each ratio.
            rank: R, the number of products of polynomials of one ratio that are added.
            polynomial: `"product"`, or `"full"` for all terms up to the degree by ridge regression.
            width: `"threshold"` over all scores, or `"uniform"`.
            normalise: how scores of different groups compare; see `spaces.normalised`.
            samples: ratios of each dimension, the full one included.
            references: sample each dimension alone, beyond the limits too: such a proposal carries the note
                `"reference"`, which asks that it be left as it is. Otherwise all others shrink until it is within them.
            targets: shares of the limits (of the full network's costs where nothing is limited) that proposals are for,
                in turn, where something else than the error is minimised; the first one only where nothing is.
            exponents: of the cost by dimension, for the noted optimum: `depth` 1, `width` 2, `resolution` the number of
                input axes (2 for images, 3 for volumes; of a video 1 for `resolution:0`, 2 for `resolution:1,2`).
        """
        if polynomial not in POLYNOMIALS:
            raise ValueError(f"polynomial={polynomial!r}: expected one of {', '.join(POLYNOMIALS)}")
        if degree < 1 or rank < 1 or samples < 2:
            raise ValueError(
                f"degree={degree!r}, rank={rank!r}, samples={samples!r}: expected integers of at least 1, 1 and 2"
            )
        if not targets or not all(0 < target <= 1 for target in targets):
            raise ValueError(f"targets={tuple(targets)!r}: expected shares in (0, 1]")
        super().__init__(problem, problem.seed)
        self.degree = degree
        self.rank = rank
        self.polynomial = polynomial
        self.width = width
        self.normalise = normalise
        self.samples = samples
        self.references = references
        self.targets = tuple(targets)
        self.exponents = exponents

    @property
    def names_parents(self) -> bool:
        """Whether proposals may start from the trained weights of earlier trials, so that these must be kept."""
        return self.references

    takes_parts = False

    def propose(self, study: Study, trial: FrozenTrial) -> Mapping[str, int]:
        """The full network, a sample along a dimension, or the best there is by the polynomial."""
        search = _Search(self, seen_trials(study, trial, self.problem))
        proposal = search.sample() or search.best() or search.between() or search.last()
        for key, value in proposal.notes.items():
            note(study, trial, key, value)
        return self.problem.params(proposal.candidate)


class _Search:
    """What one proposal is made from."""

    def __init__(self, settings: ThreeDimensionsSampler, seen: Sequence[Seen]) -> None:
        self._settings = settings
        self._problem = settings.problem
        self._space: Space = settings.problem.space
        self._ratios: Shrinking = shrinking_of(
            self._space,
            settings.problem.scores,
            width=settings.width,
            normalise=settings.normalise,
            exponents=settings.exponents,
        )
        self._seen = seen
        self._tried = {one.candidate for one in seen}
        places = {one: self._ratios.of(one) for one in sorted(self._tried)}
        self._named = {one: place for one, place in places.items() if self._ratios.candidate(place) == one}
        self._full = self._space.encode([self._space.full])
        self._targets = self._reachable()

    # --- along the dimensions -----------------------------------------------------------------------------------------

    def sample(self) -> _Proposal | None:
        """The first planned sample that nothing keeps waiting; None when all are taken.

        A sample waits while the one before it is running. Where that one failed, the last good one is its parent.
        """
        if self._space.full not in self._tried:
            reference = {} if self._within(self._space.full, self._problem.limits) else {"reference": True}
            return _Proposal(candidate=self._space.full, notes=reference | self._where(self._space.full, "full", 0))
        waiting = False
        plan = self._plan()
        for step in plan:
            if self._found(step):
                continue
            before = [one for one in plan if one.dimension == step.dimension and one.number < step.number]
            found = [self._found(one) for one in before]
            if any(trial is None or trial.running for trial in found):
                waiting = True
                continue
            notes = self._where(step.candidate, step.dimension, step.number)
            if self._settings.references:
                if not self._within(step.candidate, self._problem.limits):
                    notes |= {"reference": True}
                parents = [
                    trial.number
                    for trial, one in zip(found, before, strict=True)
                    if trial is not None
                    and trial.error is not None
                    and trial.candidate == one.candidate
                    # Of others' networks it is not known which channels stayed.
                    and axis_of(trial) == step.dimension
                ]
                if parents:
                    notes |= {"weights": f"trial:{parents[-1]}"}
            return _Proposal(candidate=step.candidate, notes=notes)
        return self.between() if waiting else None

    def _plan(self) -> list[_Step]:
        """All samples but the full network: the first of each dimension, then the second of each."""
        lines = {name: self._line(number) for number, name in enumerate(self._ratios.names)}
        steps: dict[Candidate, _Step] = {}
        for number in range(1, self._settings.samples):
            for name, line in lines.items():
                if number < len(line) and line[number] != self._space.full:
                    steps.setdefault(line[number], _Step(dimension=name, number=number, candidate=line[number]))
        return list(steps.values())

    def _line(self, dimension: int) -> list[Candidate]:
        """Networks along a dimension, from the full ratio to the one that meets the least target by itself."""
        ratios = self._ratios
        levels = ratios.along(ratios.names[dimension])
        points = np.ones((len(levels), len(ratios.names)))
        points[:, dimension] = levels
        candidates = [ratios.candidate(point) for point in points]
        fine = np.flatnonzero(self._fits(self._space.encode(candidates), self._limits(self._targets[-1])))
        last = int(fine[0]) if len(fine) else len(levels) - 1
        # Samples that lie close together tell noise from shape no more, even where the budget asks for little.
        last = max(
            last, int(np.argmax(levels <= max(_REACH, levels[-1]))), min(self._settings.samples, len(levels)) - 1
        )
        chosen = _spread(levels[: last + 1], self._settings.samples)
        if self._settings.references:
            return [candidates[i] for i in chosen]
        found = [self._walked(points[i], np.arange(len(ratios.names)) != dimension) for i in chosen]
        return [one if one is not None else candidates[i] for i, one in zip(chosen, found, strict=True)]

    def _walked(self, start: Array, free: npt.NDArray[np.bool_]) -> Candidate | None:
        """The first network within the limits as the free dimensions shrink by equal parts of the cost."""
        line = self._walk(start, free / np.array(self._ratios.exponents))
        fine = np.flatnonzero(self._fits(self._space.encode(line), self._problem.limits))
        return line[fine[0]] if len(fine) else None

    def _walk(self, start: Array, speed: Array) -> list[Candidate]:
        """Networks on the way down from these ratios, whose logarithms fall at these speeds to the least there are."""
        floor = np.log(np.maximum(self._ratios.least, 1e-2))
        far = max((float(-low / v) for low, v in zip(floor, speed, strict=True) if v > 0), default=0.0)
        points = start * np.exp(np.maximum(-np.linspace(0.0, far, _WALK)[:, None] * speed, floor))
        return list(dict.fromkeys(self._ratios.candidate(point) for point in points))

    def _found(self, step: _Step) -> Seen | None:
        """The trial that took a planned sample; a good one where there are several."""
        own = [
            one
            for one in self._seen
            if one.candidate == step.candidate
            or (axis_of(one) == step.dimension and one.notes["dimensions"]["step"] == step.number)
        ]
        good = [one for one in own if one.error is not None and one.candidate == step.candidate]
        return next(iter([*good, *own]), None)

    # --- between them -------------------------------------------------------------------------------------------------

    def between(self) -> _Proposal | None:
        """A new network at the limits that shrinks along several dimensions at once, each time in other parts."""
        count = sum("mix" in one.notes.get("dimensions", {}) for one in self._seen)
        names = self._ratios.names
        for mix in range(count, count + 16):
            # First in equal parts, then in others, no dimension ever without a tenth of its own.
            parts = np.random.default_rng(mix).dirichlet(np.ones(len(names))) if mix and names else np.ones(len(names))
            parts = parts / max(parts.sum(), 1e-9) + 0.1
            line = self._walk(np.ones(len(names)), parts / np.array(self._ratios.exponents))
            fine = self._fits(self._space.encode(line), self._limits(self._targets[mix % len(self._targets)]))
            for candidate, good in zip(line, fine, strict=True):
                if good and candidate not in self._tried:
                    return _Proposal(candidate=candidate, notes=self._where(candidate, "several", 0, mix=mix))
        return None

    # --- by the polynomial --------------------------------------------------------------------------------------------

    def best(self) -> _Proposal | None:
        """The best new network by the fit, for the next target that has one; None where nothing is told or left."""
        names = self._ratios.names
        told = [one for one in self._seen if one.error is not None and one.candidate in self._named]
        if not names or len(told) < 2:
            return None
        x = np.stack([self._named[one.candidate] for one in told])
        y = np.array([1 - one.error for one in told if one.error is not None])
        full = self._settings.polynomial == "full"
        fitted = fit(x, y, degree=self._settings.degree, rank=self._settings.rank, full=full)
        if not any(fitted.polynomial.degrees):
            return None
        count = sum("target" in one.notes.get("dimensions", {}) for one in self._seen)
        grid, encoded = self._ratios.grid()
        predicted = fitted.polynomial(grid)
        inside = (grid >= x.min(axis=0) - 1e-9).all(axis=1)
        for turn in range(count, count + len(self._targets)):
            target = self._targets[turn % len(self._targets)]
            allowed = np.flatnonzero(self._fits(encoded, self._limits(target)))
            if inside[allowed].any():
                allowed = allowed[inside[allowed]]
            # Of equal ones the largest.
            ranked = allowed[np.lexsort((-grid[allowed].sum(axis=1), -predicted[allowed]))]
            place = self._first_new(ranked, grid, encoded)
            if place is not None:
                candidate = self._space.canonical(encoded[place].tolist())
                notes = self._where(candidate, "several", 0, target=target)
                error = max(0.0, 1 - float(predicted[place]))
                notes |= {"predicted": {"error": error, "std": fitted.rmse}, "model": self._model(fitted, x, target)}
                return _Proposal(candidate=candidate, notes=notes)
        return None

    def last(self) -> _Proposal:
        """Where nothing is left: the largest network along the dimensions that is within the limits."""
        candidate = self._walked(np.ones(len(self._ratios.names)), np.ones(len(self._ratios.names), bool))
        return _Proposal(candidate=self._problem.repair(candidate or self._space.smallest), notes={})

    def _first_new(self, ranked: Encoded, grid: Array, encoded: Encoded) -> int | None:
        """The first that is far from all tried ones; nearer and nearer ones where there is none."""
        near = KDTree(np.stack(list(self._named.values()))).query(grid[ranked], p=np.inf)[0]
        for apart in (_APART, _APART / 2, _APART / 4, 0.0):
            for place in ranked[near >= apart]:
                if self._space.canonical(encoded[place].tolist()) not in self._tried:
                    return int(place)
        return None

    def _model(self, fitted: Fitted, x: Array, target: float) -> dict[str, Any]:
        names = self._ratios.names
        degrees = dict(zip(names, fitted.polynomial.degrees, strict=True))
        facts: dict[str, Any] = {
            "kind": "three-dimensions",
            "polynomial": self._settings.polynomial,
            "K": self._settings.degree,
            "R": self._settings.rank,
            "samples": len(x),
            "rmse": fitted.rmse,
            "mean_rmse": fitted.mean_rmse,
        }
        lowered = {name: degree for name, degree in degrees.items() if degree < self._settings.degree}
        if 0 < fitted.rank < self._settings.rank:
            lowered["R"] = fitted.rank
        if lowered:
            facts["lowered"] = lowered
        share = self._share(target)
        if share is not None:
            lower = np.clip(x.min(axis=0), 0.05, 1.0)
            try:
                found = optimum(fitted.polynomial, self._ratios.exponents, share, lower)
            except ValueError:
                return facts  # the ratios sampled do not reach the target by this rule; real costs may
            facts["optimum"] = dict(zip(names, found.tolist(), strict=True))
        return facts

    # --- limits -------------------------------------------------------------------------------------------------------

    def _share(self, target: float) -> float | None:
        """Multiply-adds of a target, as a share of the full network's."""
        limits = self._limits(target)
        full = self._problem.costs(self._full)
        return float(limits[_FREE] / full[_FREE][0]) if _FREE in limits else None

    def _limits(self, target: float) -> dict[str, float]:
        """The limits cut down to a target; of the full network's multiply-adds where nothing known is limited."""
        full = {name: float(cost[0]) for name, cost in self._problem.costs(self._full).items()}
        known = {name: min(limit, full[name]) for name, limit in self._problem.limits.items() if name in full}
        if not known and target < 1:
            known = {name: full[name] for name in self._problem.objectives if name in full} or {_FREE: full[_FREE]}
        return {name: target * limit for name, limit in known.items()}

    def _reachable(self) -> tuple[float, ...]:
        """Targets that some network meets, the first one always; without a limit those below the full network."""
        if self._problem.objectives == ("error",):
            return self._settings.targets[:1]
        limited = any(name in self._problem.costs(self._full) for name in self._problem.limits)
        targets = self._settings.targets
        if not limited:
            targets = tuple(target for target in targets if target < 1) or targets
        least = self._space.encode([self._space.smallest])
        rest = tuple(target for target in targets[1:] if self._fits(least, self._limits(target))[0])
        return targets[:1] + rest

    def _fits(self, encoded: Encoded, limits: Mapping[str, float]) -> npt.NDArray[np.bool_]:
        """`(n,)` whether each of the `(n, d)` candidates is within known limits."""
        return within(self._space, encoded, limits, self._problem.costs)

    def _within(self, candidate: Candidate, limits: Mapping[str, float]) -> bool:
        return bool(self._fits(self._space.encode([candidate]), limits)[0])

    def _where(self, candidate: Candidate, axis: str, step: int, **more: float) -> dict[str, Any]:
        ratios = dict(zip(self._ratios.names, self._ratios.of(candidate).tolist(), strict=True))
        return {"dimensions": {"axis": axis, "step": step, "ratios": ratios} | more}


def _spread(levels: Array, samples: int) -> list[int]:
    """Places of different levels, the first and the last among them, as evenly spread as they are there."""
    if len(levels) <= samples:
        return list(range(len(levels)))
    chosen: list[int] = []
    for number, mark in enumerate(np.linspace(levels[0], levels[-1], samples)):
        least, most = (chosen[-1] + 1 if chosen else 0), len(levels) - samples + number
        chosen.append(least + int(np.argmin(np.abs(levels[least : most + 1] - mark))))
    return chosen
