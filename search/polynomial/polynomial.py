"""`PolynomialSampler`: a Bayesian polynomial of the error, a Gaussian process beside it, exact costs, and candidates.

One proposal, start to end: read the trials (`problem.told`), fit the error (`models.learned`), make candidates within
the limits (`pool.Pool`), and take the one that is expected to add most to the front (`improvement`). In a space of up
to 100,000 networks every one is judged; in a larger one the best of a pool become parents of more candidates, which
the model judges again: a search on the surrogate, at microseconds a candidate. The front is one of what errors are
taken to be, given all trials, not of measurements that were lucky. All state is the trials; the same seed, problem
and trials give the same proposal.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial

from ...spaces import Encoded
from ..axes import AxesSampler
from ..pareto import non_dominated
from ..problem import Array, Problem, Told, note, told, tried
from .features import Features
from .improvement import expected_hypervolume_improvement, hypervolume_improvement
from .models import Model, learned
from .pool import Pool
from .scales import by_ratio

logger = logging.getLogger("secateur")

_JUDGED = 512  # candidates of a pool whose variance is computed
_CHUNK = 8192  # candidates that are judged at once
_PARENTS = 64  # of the next wave
_SIZES = (1.0, 0.1, 0.35, 0.03)  # of the first trials, as shares of the greatest cost within the limits
_NEAR = 64  # candidates of about one size
_FRONT = 20  # so many trials look for the whole front
_ALONE = 4  # of those after, one in so many looks for the least error alone
_ALIKE = 0.2  # sizes whose logarithms differ by less are one size
_LUCK = 0.5  # how much better than predicted errors are taken to be where candidates are sorted out
_MARGIN = 0.1  # how far beyond the worst that counts the reference lies, as a share of its range


class PolynomialSampler(AxesSampler):
    """Proposes what its model of the error expects to add most to the front, within all limits.

    The model is a low-order polynomial, and on up to 24 axes a Gaussian process with a length scale an axis, each
    weighing as much as trials left out say. Proposals are new, canonical and affordable. Where the model predicts
    trials left out no better than their mean does, it says so and searches by the mean and the distance from all
    trials instead. On every trial it notes `"model"`, `{"kind", "trials", "degree", "coefficients", "transform",
    "r2", "rmse", "mean_rmse", "process"}`, of kind `"start"` (without the rest), `"polynomial"` or `"mean"`;
    `process` is the share that the process has; and once there is a model `"predicted"`, `{"error", "std"}`. All
    figures are of trials left out: `r2` on the scale of the fit, where it is decided by; both root mean squares in
    errors.

    With several objectives proposals maximise the expected hypervolume improvement, where errors count by ratio: a gain
    from 4 to 2 % at the budget is worth one from 80 to 40 % of as wide a range of costs among the smallest networks.
    From the 21st trial on every fourth one maximises the expected improvement of the error alone: at the budget itself
    a front has almost no volume to gain, yet there lies the network that is wanted most often.

    Args:
        seed: of the candidates drawn.
        problem: what is searched; see `Problem`.
        start: trials that are spread over the sizes of the network before a first fit; seeds count among them.
        candidates: about how many are considered for a proposal.
        waves: how many of them in succession descend from the best so far.
    """

    def __init__(
        self, *, seed: int, problem: Problem, start: int = 4, candidates: int = 20_000, waves: int = 4
    ) -> None:
        if start < 2 or candidates < 100 or waves < 0:
            raise ValueError(f"start={start}, candidates={candidates}, waves={waves}: expected at least 2, 100 and 0")
        super().__init__(problem, seed)
        self.seed = seed
        self.start = start
        self.candidates = candidates
        self.waves = waves

    def propose(self, study: Study, trial: FrozenTrial) -> Mapping[str, int]:
        """The next candidate's position on every axis."""
        if not self.problem.space.axes:
            return {}
        return self.problem.params(self._proposal(study, trial).tolist())

    def _proposal(self, study: Study, trial: FrozenTrial) -> Encoded:
        """`(d,)` candidate."""
        seen = told(study, self.problem)
        taken = tried(study, self.problem)
        pool = Pool(self.problem, taken, np.random.default_rng(self.seed))
        if len(seen.error) < self.start:
            note(study, trial, "model", {"kind": "start", "trials": len(seen.error)})
            first = _spread(self.problem, pool, len(taken))
            return self._anything() if first is None else first
        features = Features(self.problem)
        model, facts = learned(features, seen)
        note(study, trial, "model", facts)
        if facts["kind"] == "mean":
            logger.info(
                "trial %d: the polynomial predicts trials left out no better than their mean does (R2 %.2g); "
                "searching by the mean and the distance from all trials instead",
                trial.number,
                facts["r2"],
            )
        alone = len(taken) >= _FRONT and len(taken) % _ALONE == _ALONE - 1
        search = _Search(self.problem, model, seen, ["error"] if alone else self.problem.objectives)
        best = search.best(pool, self.candidates, self.waves)
        if best is None:
            return self._anything()
        error, std = model.predict_with_std(best[None])
        note(study, trial, "predicted", {"error": float(error[0]), "std": float(std[0])})
        return best

    def _anything(self) -> Encoded:
        """`(d,)` what is left to say where nothing new is: something legal."""
        return np.array(self.problem.repair(self.problem.space.smallest), np.int64)


class _Search:
    """Looks for the candidate that adds most to the front of the trials told, by what a model foresees.

    Points have the error first, by ratio (see `surrogate.by_ratio`), and then the costs.
    """

    def __init__(self, problem: Problem, model: Model, seen: Told, objectives: Sequence[str]) -> None:
        self._problem = problem
        self._model = model
        known = problem.costs(seen.encoded[:0])
        self._costs = [name for name in objectives if name in known]
        rows = seen.encoded[seen.feasible]
        errors = model.means(rows, seen.error[seen.feasible])
        if len(seen.pending):
            rows, errors = np.concatenate([rows, seen.pending]), np.append(errors, model.predict(seen.pending))
        self._scale = by_ratio(seen.error)
        self._rows = rows
        self._points = np.column_stack([self._scale.forward(errors), self._exact(problem.costs(rows))])
        self._front = self._points[non_dominated(self._points)]
        self._reference = self._worst(seen)

    def best(self, pool: Pool, candidates: int, waves: int) -> Encoded | None:
        """`(d,)` the candidate of the pool with the greatest expected improvement; None where nothing is new."""
        kept = pool.whole
        if kept is None:
            share = candidates // (waves + 2)
            parents = self._rows[np.argsort(self._rank(), kind="stable")][:_PARENTS]
            kept = pool.start(share if len(parents) else 2 * share)
            if len(parents):
                kept = np.concatenate([kept, pool.children(parents, share)])
            gain = self._gain(kept)
            for _ in range(waves):
                if not len(kept):
                    break
                order = np.argsort(-gain, kind="stable")[:_JUDGED]
                kept, gain = kept[order], gain[order]
                new = pool.children(kept[:_PARENTS], share)
                kept, gain = np.concatenate([kept, new]), np.concatenate([gain, self._gain(new)])
            kept = kept[np.argsort(-gain, kind="stable")[:_JUDGED]]
        if not len(kept):
            return None
        value = np.concatenate([self._value(kept[i : i + _CHUNK]) for i in range(0, len(kept), _CHUNK)])
        return np.asarray(kept[int(np.argmax(value))])

    def _value(self, encoded: Encoded) -> Array:
        """`(n,)` expected improvement."""
        costs = self._problem.costs(encoded)
        error, std = self._model.predict_with_std(encoded)
        return expected_hypervolume_improvement(
            self._scale.forward(error),
            std * self._scale.slope(error),
            self._exact(costs),
            self._front,
            self._reference,
        )

    def _gain(self, encoded: Encoded) -> Array:
        """`(n,)` improvement if errors turn out a little better than predicted."""
        costs = self._problem.costs(encoded)
        error = self._scale.forward(self._model.predict(encoded, _LUCK))
        return hypervolume_improvement(error, self._exact(costs), self._front, self._reference)

    def _exact(self, costs: Mapping[str, Array]) -> Array:
        """`(n, m - 1)` costs that are minimised."""
        n = len(next(iter(costs.values())))
        return np.stack([costs[name] for name in self._costs], axis=1) if self._costs else np.zeros((n, 0))

    def _rank(self) -> Array:
        """`(n,)` 0 for trials on the front, else how much their error is above the staircase's."""
        cheaper = (self._front[None, :, 1:] <= self._points[:, None, 1:]).all(axis=2)
        least = np.where(cheaper, self._front[:, 0], np.inf).min(axis=1, initial=np.inf)
        return np.asarray(self._points[:, 0] - least)

    def _worst(self, seen: Told) -> Array:
        """`(m,)` a little beyond the worst error told, and beyond the limits or the full network's costs."""
        errors = seen.error[seen.feasible] if seen.feasible.any() else seen.error
        beyond = errors.max() + _MARGIN * max(float(np.ptp(errors)), 1e-3 * abs(errors.max()), 1e-9)
        worst = [float(self._scale.forward(beyond))]
        full = self._problem.costs(self._problem.space.encode([self._problem.space.full]))
        for name in self._costs:
            worst.append(min(self._problem.limits.get(name, np.inf), float(full[name][0])) * (1 + _MARGIN))
        return np.array(worst)


def _spread(problem: Problem, pool: Pool, number: int) -> Encoded | None:
    """`(d,)` a candidate for a first look: uniformly scaled, at one of several shares of what may be spent."""
    new = pool.whole
    if new is None:
        new = pool.new(pool.uniform())
        new = new if len(new) else pool.start(1000)
    if not len(new):
        return None
    costs = problem.costs(new)
    name = next((name for name in problem.objectives if name in costs), next(iter(costs)))
    sizes = np.log(np.maximum(costs[name], 1e-9))
    wanted = max(sizes.max() + np.log(_SIZES[number % len(_SIZES)]), sizes.min())
    away = np.abs(sizes - wanted)
    order = np.argsort(away, kind="stable")[:_NEAR]
    near = new[order[away[order] < away.min() + _ALIKE]]
    shares = problem.positions(near) / [max(len(axis.choices) - 1, 1) for axis in problem.space.axes]
    evenly = np.lexsort((shares.std(axis=1), -shares.min(axis=1)))  # the narrowest as wide as can be, then all alike
    return np.asarray(near[evenly[0]])
