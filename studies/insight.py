"""What a search teaches about itself: what its seeds were worth, and how well its sampler foretold errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..search import NOTE, hypervolume
from .trial import Trial

_LEAST = 3  # foretold errors that a root mean square is computed from, at least


def seeds_worth(trials: Sequence[Trial], objectives: Sequence[str], limits: Mapping[str, float]) -> dict[str, Any]:
    """What the seeds found, beside what was found in all; empty where no seed was evaluated.

    `seeds` trials, their `best_error` within the limits and the `best_error_since` of all other trials (None where
    there is none), and `share`: the hypervolume of the seeds' front over that of the whole front, up to the worst
    value of each objective (None where that is nothing).
    """
    scored = [trial for trial in trials if trial.told and trial.scored and trial.within(limits)]
    planted = [trial for trial in scored if trial.source.startswith("seed:")]
    others = [trial for trial in scored if not trial.source.startswith("seed:")]
    if not any(trial.told and trial.scored and trial.source.startswith("seed:") for trial in trials):
        return {}
    return {
        "seeds": len(planted),
        "best_error": _least_error(planted),
        "best_error_since": _least_error(others),
        "share": _share(planted, scored, objectives),
    }


def foresight(trials: Sequence[Trial]) -> dict[str, Any]:
    """How well the sampler foretold the errors of its own proposals; empty where it foretold none.

    `trials` it foretold and that were measured since, their `rmse`, the `rmse_of_mean` of the mean error so far in its
    place, and `model`: what the sampler last said of its surrogate.
    """
    known = [trial for trial in trials if trial.told and trial.scored]
    foretold = [trial for trial in known if trial.predicted is not None]
    said = [trial.memory[f"{NOTE}model"] for trial in trials if f"{NOTE}model" in trial.memory]
    if len(foretold) < _LEAST:
        return {"trials": len(foretold), "model": said[-1]} if said else {}
    missed = [trial.measures["error"] - trial.predicted["error"] for trial in foretold if trial.predicted]
    missed_by_mean = [trial.measures["error"] - _mean_before(known, trial.number) for trial in foretold]
    return {
        "trials": len(foretold),
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
