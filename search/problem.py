"""What a sampler of ours knows of a search, apart from its trials: the space, what is minimised, what is allowed.

An Optuna study of a search has one integer parameter an axis, its position among the axis's choices, and one value an
objective. Users' attributes of its trials say what Optuna has no word for: `evaluated` (false: the error is a stand-in
and counts for nothing), `error_std`, and `measured` (costs that were measured, by name).

Symbols: `n` candidates, `d` axes, `m` objectives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..spaces import Axis, Candidate, repair, within

if TYPE_CHECKING:
    from ..spaces import Encoded, Scores, Space

Array = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]

NOTE = "secateur:"
"""How the system attributes begin that samplers of ours write on a trial."""


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """A cost that `Space.cost_table` does not know.

    Attributes:
        predict: `(n, d)` candidates to `(n,)` costs.
        margin: how far below its limit a predicted cost must lie to be tried, as a share of itself.
        exact: whether it is arithmetic, and not learned from what was measured.
    """

    predict: Callable[[Encoded], Array]
    margin: float = 0.0
    exact: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """One search, as samplers see it.

    Attributes:
        space: what may be chosen.
        objectives: names of what is minimised, in order: `"error"` and costs.
        limits: absolute, by cost name; all hard.
        scores: the ranking by which channels are cut; the space's own when None.
        batch: trials that are proposed together, in ignorance of one another's outcomes.
        seed: the study's; one for all proposals.
        trials: how many there will be in all.
        seconds: says how long a trial takes; infinite while that is unknown.
        foretold: further costs by name: `latency_ms` where it is predicted, and those of the user's own.
    """

    space: Space
    objectives: tuple[str, ...] = ("error", "macs")
    limits: Mapping[str, float] = field(default_factory=dict)
    scores: Scores | None = None
    batch: int = 1
    seed: int = 0
    trials: int = 100
    seconds: Callable[[], float] = lambda: math.inf
    foretold: Mapping[str, Foretold] = field(default_factory=dict)

    def costs(self, encoded: Encoded) -> dict[str, Array]:
        """Costs by name, `(n,)` each, of `(n, d)` candidates, those that are foretold among them."""
        table = {name: column.astype(np.float64) for name, column in self.space.cost_table(encoded).items()}
        return table | {name: one.predict(encoded) for name, one in self.foretold.items()}

    def within(self, encoded: Encoded) -> npt.NDArray[np.bool_]:
        """`(n,)` whether each candidate meets every limit that is known before anything is built."""
        return within(self.space, encoded, self.limits, self._feared)

    def values(self, encoded: Encoded, error: Array) -> Array:
        """`(n, m)` objectives, given the `(n,)` errors."""
        costs = self.costs(encoded) | {"error": error}
        return np.stack([costs[name] for name in self.objectives], axis=1)

    def repair(self, candidate: Sequence[int]) -> Candidate:
        """The candidate in its canonical form, or the nearest smaller one within the limits."""
        return repair(self.space, candidate, self.limits, self._feared if self.foretold else None)

    def positions(self, encoded: Encoded) -> Positions:
        """`(n, d)` positions among the choices, from 0, of `(n, d)` candidates."""
        columns = [np.searchsorted(choices, encoded[:, i]) for i, choices in enumerate(self._choices)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(encoded), 0), np.int64)

    def encoded(self, positions: Positions) -> Encoded:
        """`(n, d)` candidates of `(n, d)` positions."""
        columns = [choices[positions[:, i]] for i, choices in enumerate(self._choices)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(positions), 0), np.int64)

    def params(self, candidate: Sequence[int]) -> dict[str, int]:
        """The Optuna parameters of a candidate."""
        return positions(self.space.axes, candidate)

    def candidate(self, params: Mapping[str, int]) -> Candidate:
        """The candidate of Optuna parameters."""
        return Candidate(axis.choices[int(params[axis.name])] for axis in self.space.axes)

    def _feared(self, encoded: Encoded) -> dict[str, Array]:
        """Costs as they are held against the limits: what is only predicted, with its margin."""
        costs = self.costs(encoded)
        return costs | {name: costs[name] * (1 + one.margin) for name, one in self.foretold.items()}

    @cached_property
    def _choices(self) -> list[Positions]:
        return [np.array(axis.choices, np.int64) for axis in self.space.axes]


@dataclass(frozen=True, eq=False, kw_only=True)
class Told:
    """The trials that count: complete and evaluated, in number order.

    Attributes:
        numbers: `(n,)` of the trials.
        encoded: `(n, d)` candidates.
        values: `(n, m)` objectives, as they were told.
        error: `(n,)` errors.
        error_std: `(n,)` their standard errors; NaN where unknown.
        feasible: `(n,)` whether each meets the limits.
        pending: `(p, d)` candidates that are running now.
    """

    numbers: Positions
    encoded: Encoded
    values: Array
    error: Array
    error_std: Array
    feasible: npt.NDArray[np.bool_]
    pending: Encoded


def told(study: Study, problem: Problem) -> Told:
    """What an Optuna study knows of a problem."""
    trials = _of(study, problem, (TrialState.COMPLETE, TrialState.RUNNING))
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.user_attrs.get("evaluated", True)]
    running = [trial for trial in trials if trial.state is TrialState.RUNNING]
    values = np.array([trial.values for trial in done], float).reshape(len(done), len(problem.objectives))
    return Told(
        numbers=np.array([trial.number for trial in done], np.int64),
        encoded=_encoded(done, problem),
        values=values,
        error=values[:, problem.objectives.index("error")],
        error_std=np.array([trial.user_attrs.get("error_std", np.nan) for trial in done], float),
        feasible=np.array([all(value <= 0 for value in trial.constraints.values()) for trial in done], bool),
        pending=_encoded(running, problem),
    )


def note(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Remember a JSON value on a trial that is being proposed; see `NOTE` for where it is found again."""
    study._storage.set_trial_system_attr(trial._trial_id, NOTE + key, value)  # as Optuna's own samplers do


def distributions(axes: Sequence[Axis]) -> dict[str, BaseDistribution]:
    """An integer from 0 for each axis: the position among its choices, which keeps them ordered and evenly spaced."""
    return {axis.name: IntDistribution(0, len(axis.choices) - 1) for axis in axes}


def positions(axes: Sequence[Axis], candidate: Sequence[int]) -> dict[str, int]:
    """Where the candidate stands on each axis, by axis name."""
    return {axis.name: axis.choices.index(value) for axis, value in zip(axes, candidate, strict=True)}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from announcing on the terminal that a study was made; nothing here prints."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def tried(study: Study, problem: Problem) -> Encoded:
    """`(n, d)` candidates of all trials, whatever became of them."""
    return _encoded(_of(study, problem, None), problem)


def _of(study: Study, problem: Problem, states: tuple[TrialState, ...] | None) -> list[FrozenTrial]:
    """Trials in such a state, or in any, that have a place on every axis."""
    names = {axis.name for axis in problem.space.axes}
    return [trial for trial in study.get_trials(deepcopy=False, states=states) if names <= trial.params.keys()]


def _encoded(trials: Sequence[FrozenTrial], problem: Problem) -> Encoded:
    names = [axis.name for axis in problem.space.axes]
    places = [[params[name] for name in names] for params in (trial.params for trial in trials)]
    return problem.encoded(np.array(places, np.int64).reshape(len(trials), len(names)))
