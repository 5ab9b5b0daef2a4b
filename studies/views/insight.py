"""What a search teaches about itself: how it went, what its seeds were worth, how well its sampler predicted errors."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...search import NOTE, hypervolume, non_dominated
from ..trials.trial import Trial

_MOMENTS = 40  # of a history, at most
_LEAST = 3  # predicted errors that a root mean square is computed from, at least


def seeds_worth(trials: Sequence[Trial], objectives: Sequence[str], limits: Mapping[str, float]) -> dict[str, Any]:
    """What the seeds found, beside what was found in all; empty where no seed was evaluated.

    `seeds` trials, their `best_error` within the limits and the `best_error_since` of all other trials (None where
    there is none), and `share`: the hypervolume of the seeds' front over that of the whole front, up to the worst
    value of each objective (None where that is nothing).
    """
    scored = [trial for trial in trials if trial.scored and trial.within(limits)]
    planted = [trial for trial in scored if trial.source.startswith("seed:")]
    others = [trial for trial in scored if not trial.source.startswith("seed:")]
    if not any(trial.scored and trial.source.startswith("seed:") for trial in trials):
        return {}
    return {
        "seeds": len(planted),
        "best_error": _least_error(planted),
        "best_error_since": _least_error(others),
        "share": _share(planted, scored, objectives),
    }


def history(trials: Sequence[Trial], objectives: Sequence[str], limits: Mapping[str, float]) -> dict[str, list[Any]]:
    """How the search went, at moments spread evenly over its told trials; empty before the first one.

    `trials` told at each moment; the `best_error` within the limits until then (None where there was none); and
    `hypervolume` of the front until then, as a share of today's (None where that is nothing), up to the worst value of
    each objective.
    """
    told = [trial for trial in trials if trial.told]
    if not told:
        return {}
    fit = [trial for trial in told if trial.scored and trial.within(limits)]
    values = np.array([trial.values(objectives) for trial in fit]).reshape(len(fit), len(objectives))
    worst = values.max(axis=0, initial=0.0)
    counts = sorted({round(count) for count in np.linspace(1, len(told), min(_MOMENTS, len(told)))})
    front, error, used = values[:0], list(objectives).index("error"), 0
    errors: list[float | None] = []
    volumes: list[float] = []
    for count in counts:
        until = bisect_left(fit, told[count - 1].number + 1, key=lambda trial: trial.number)
        front, used = np.concatenate([front, values[used:until]]), until
        front = front[non_dominated(front)]  # what is beaten once never comes back, so few points are looked at again
        errors.append(float(front[:, error].min()) if len(front) else None)
        volumes.append(hypervolume(front, worst))
    whole = volumes[-1]
    return {"trials": counts, "best_error": errors, "hypervolume": [v / whole if whole else None for v in volumes]}


def foresight(trials: Sequence[Trial]) -> dict[str, Any]:
    """How well the sampler predicted the errors of its own proposals; empty where it predicted none.

    `trials` it predicted and that were measured since, their `rmse`, the `rmse_of_mean` of the mean error so far in its
    place, and `model`: what the sampler last said of its surrogate.
    """
    known = [trial for trial in trials if trial.scored]
    predicted = [trial for trial in known if trial.predicted is not None]
    said = [trial.memory[f"{NOTE}model"] for trial in trials if f"{NOTE}model" in trial.memory]
    if len(predicted) < _LEAST:
        return {"trials": len(predicted), "model": said[-1]} if said else {}
    missed = [trial.measures["error"] - trial.predicted["error"] for trial in predicted if trial.predicted]
    missed_by_mean = [trial.measures["error"] - _mean_before(known, trial.number) for trial in predicted]
    return {
        "trials": len(predicted),
        "rmse": float(np.sqrt(np.mean(np.square(missed)))),
        "rmse_of_mean": float(np.sqrt(np.mean(np.square(missed_by_mean)))),
        "model": said[-1] if said else {},
    }


def _least_error(trials: Sequence[Trial]) -> float | None:
    return min((trial.measures["error"] for trial in trials), default=None)


def _share(some: Sequence[Trial], every: Sequence[Trial], objectives: Sequence[str]) -> float | None:
    if not some:
        return None
    values = np.array([trial.values(objectives) for trial in every])
    worst = values.max(axis=0)
    whole = hypervolume(values, worst)
    return hypervolume(np.array([trial.values(objectives) for trial in some]), worst) / whole if whole > 0 else None


def _mean_before(known: Sequence[Trial], number: int) -> float:
    earlier = [trial.measures["error"] for trial in known if trial.number < number]
    return float(np.mean(earlier)) if earlier else 1.0
