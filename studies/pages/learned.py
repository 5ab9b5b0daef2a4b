"""What the trials taught: how the search went on, how well errors were predicted, and which axes mattered.

Symbols: `n` trials, `d` axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from ...pruners.criteria.retained import correlation
from ...search import NOTE, hypervolume
from ...spaces import Axis
from ..trials.trial import Trial

Array = npt.NDArray[np.float64]

LEAST_IMPORTANCE = 20  # trials that importances are computed from, at least
MOST_IMPORTANCE = 1000  # and at most: the newest
_FOLDS, _TREES, _SHUFFLES = 5, 50, 5


def corner(trials: Sequence[Trial], objectives: Sequence[str], limits: Mapping[str, float]) -> list[float]:
    """The worst value of each objective among the trials that count; empty where none does."""
    values = [trial.values(objectives) for trial in _counting(trials, limits)]
    return [max(column) for column in zip(*values, strict=True)]


def growth(
    trials: Sequence[Trial], objectives: Sequence[str], limits: Mapping[str, float], worst: Sequence[float]
) -> list[dict[str, Any]]:
    """The hypervolume after every told trial that moved it, and after the last one.

    Each is `{"done" (trials told by then), "trial", "seconds" (since the first was proposed; None where nobody knows),
    "busy" (seconds of evaluation so far), "volume"}`. Trials are taken in the order in which they ended.

    Args:
        trials: of a study.
        objectives: what is minimised.
        limits: absolute; only trials within them count.
        worst: the corner up to which volume is counted, one number an objective.
    """
    told = [trial for trial in trials if trial.told and trial.outcome is not None]
    told.sort(key=lambda trial: (_ended(trial), trial.number))
    begun = min((trial.started for trial in told if trial.started is not None), default=None)
    kept: list[list[float]] = []
    points: list[dict[str, Any]] = []
    busy, volume = 0.0, 0.0
    for done, trial in enumerate(told, start=1):
        assert trial.outcome is not None
        busy += trial.outcome.seconds
        grown = volume
        if worst and trial.scored and trial.within(limits):
            values = trial.values(objectives)
            if not any(all(a <= b for a, b in zip(one, values, strict=True)) for one in kept):
                kept = [one for one in kept if not all(b <= a for a, b in zip(one, values, strict=True))] + [values]
                grown = hypervolume(np.array(kept), np.array(worst, float))
        if grown != volume or done in (1, len(told)):
            ended = _ended(trial)
            seconds = None if begun is None or not math.isfinite(ended) else max(0.0, ended - begun)
            points.append({"done": done, "trial": trial.number, "seconds": seconds, "busy": busy, "volume": grown})
        volume = grown
    return points


def predicted(trials: Sequence[Trial]) -> list[dict[str, float]]:
    """`{"trial", "predicted", "std", "error"}` of every trial whose error the sampler predicted."""
    return [
        {
            "trial": trial.number,
            "predicted": float(trial.predicted["error"]),
            "std": float(trial.predicted.get("std") or 0.0),
            "error": trial.measures["error"],
        }
        for trial in trials
        if trial.scored and trial.predicted is not None
    ]


def said_of_model(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """What the sampler noted on the model behind each proposal: its own facts, and `trial`."""
    key = f"{NOTE}model"
    return [{"trial": trial.number, **trial.memory[key]} for trial in trials if isinstance(trial.memory.get(key), dict)]


def proxies(trials: Sequence[Trial], noted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`{"proxy", "correlation", "trials"}`, best first: those a run noted at its end, and the costs as of now.

    A method that was asked at several costs is there once, with the best of its rankings.
    """
    found: dict[str, dict[str, Any]] = {}
    scored = [trial for trial in trials if trial.scored]
    better = -np.array([trial.measures["error"] for trial in scored])
    rows = [dict(row) for row in noted if row["proxy"] not in ("macs", "params")]
    for name in ("macs", "params"):
        ranked = correlation(np.array([trial.costs[name] for trial in scored], float), better)
        if not math.isnan(ranked):
            rows.append({"proxy": name, "correlation": ranked, "trials": len(scored)})
    for row in sorted(rows, key=lambda row: -row["correlation"]):
        found.setdefault(row["proxy"].partition(":")[0], row)
    return [row | {"proxy": name} for name, row in found.items()]


def importance(trials: Sequence[Trial], axes: Sequence[Axis]) -> dict[str, Any]:
    """Which axes moved the error: permutation importance in a random forest, on trials that it was not fitted to.

    The forest learns the rank of the error, 0..1, from the positions on the axes in five folds; on the fold left out,
    one axis at a time is shuffled among its trials, and the mean absolute miss of the forest grows by so much (Breiman
    2001, by scikit-learn). Ranks, because a few networks that learned nothing would decide everything else.

    `trials` that were used; `explained`, the share of the variance of left-out ranks that the forest predicts; `axes`:
    `{"axis", "rise", "std" (standard error over folds)}`, largest rise first; or a `reason` why there are none.
    """
    scored = [trial for trial in trials if trial.scored][-MOST_IMPORTANCE:]
    found: dict[str, Any] = {"trials": len(scored), "explained": None, "axes": [], "reason": ""}
    positions = _positions(scored, axes)
    error = np.array([trial.measures["error"] for trial in scored])
    varied = [column for column in range(len(axes)) if len(scored) and np.ptp(positions[:, column]) > 0]
    if len(scored) < LEAST_IMPORTANCE:
        return found | {"reason": f"there are {len(scored)} measured trials; at least {LEAST_IMPORTANCE} are needed"}
    if not varied or np.ptp(error) == 0:
        return found | {"reason": "all trials have the same error, or the same network"}
    explained, rises = _rises(positions[:, varied], rankdata(error) / len(error))
    found["explained"] = explained
    if explained <= 0:
        return found | {"reason": "the errors can't be predicted from the axes yet, so none can be told from another"}
    rows: list[dict[str, Any]] = [
        {"axis": axes[column].name, "rise": float(rise.mean()), "std": float(rise.std(ddof=1) / math.sqrt(_FOLDS))}
        for column, rise in zip(varied, rises, strict=True)
    ]
    return found | {"axes": sorted(rows, key=lambda row: -row["rise"])}


def _rises(positions: Array, target: Array) -> tuple[float, Array]:
    """The share of variance predicted, and `(d, folds)` by how much the absolute miss grows."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    left_out, rises = np.empty(len(target)), []
    for seen, unseen in KFold(_FOLDS, shuffle=True, random_state=0).split(positions):
        forest = RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=0).fit(positions[seen], target[seen])
        left_out[unseen] = forest.predict(positions[unseen])
        shuffled = permutation_importance(
            forest,
            positions[unseen],
            target[unseen],
            scoring="neg_mean_absolute_error",
            n_repeats=_SHUFFLES,
            random_state=0,
        )
        rises.append(shuffled.importances_mean)
    explained = 1 - float(((left_out - target) ** 2).sum() / ((target - target.mean()) ** 2).sum())
    return explained, np.stack(rises, axis=1)


def _positions(trials: Sequence[Trial], axes: Sequence[Axis]) -> Array:
    """`(n, d)` positions on the axes, 0..1."""
    rows = [
        [
            axis.choices.index(value) / max(1, len(axis.choices) - 1)
            for axis, value in zip(axes, trial.candidate, strict=True)
        ]
        for trial in trials
    ]
    return np.array(rows, float).reshape(len(trials), len(axes))


def _counting(trials: Sequence[Trial], limits: Mapping[str, float]) -> list[Trial]:
    return [trial for trial in trials if trial.scored and trial.within(limits)]


def _ended(trial: Trial) -> float:
    return math.inf if trial.started is None or trial.outcome is None else trial.started + trial.outcome.seconds
