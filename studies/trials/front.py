"""The trials as a table, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...search import hypervolume, non_dominated
from ...spaces import COSTS, Axis
from .trial import Skipped, Trial

if TYPE_CHECKING:
    import pandas as pd

EXPECTED = "expected"  # the note of a study on what errors are taken to be
_GAIN = 1e-3  # of the hypervolume: a front that grew by less stands still
TIMES = ("seconds", "started", "latency_ms", "attempts")  # columns that no two runs share


def trial_table(trials: Sequence[Trial], axes: Sequence[Axis], limits: Mapping[str, float]) -> pd.DataFrame:
    """A row a trial, in number order: everything that is known of it, and whether it meets today's limits."""
    rows = []
    for trial in trials:
        seen = trial if trial.told else replace(trial, outcome=None)
        outcome = seen.outcome
        row: dict[str, object] = {
            "trial": trial.number,
            "key": trial.candidate.key,
            "state": trial.state,
            "source": trial.source,
            "error": seen.error,
            "error_std": seen.error_std,
            "predicted": trial.predicted and trial.predicted["error"],
            "predicted_std": trial.predicted and trial.predicted["std"],
            **trial.costs,
            "latency_ms": seen.latency_ms,
            **seen.own_costs,
            "fidelity": trial.fidelity,
            "ranking": trial.ranking,
            "weights": trial.weights,
            "evaluated": trial.scored,
            "within": trial.told and trial.within(limits),
            "reason": seen.reason,
            "seconds": None if outcome is None else outcome.seconds,
            "started": trial.started,
            "attempts": None if outcome is None else 1 if isinstance(outcome, Skipped) else outcome.attempts,
        }
        extra = {f"evaluator:{name}": value for name, value in seen.attributes.items()}
        chosen = {axis.name: axis.shown(value) for axis, value in zip(axes, trial.candidate, strict=True)}
        rows.append(row | chosen | extra)
    import pandas as pd

    table = pd.DataFrame(rows, columns=None if rows else [*_COLUMNS, *(axis.name for axis in axes)])
    for name in ("error", "error_std", "predicted", "predicted_std", "latency_ms", "seconds", "started", "attempts"):
        table[name] = table[name].astype(float)
    return table


def counting(trials: Sequence[Trial], limits: Mapping[str, float], max_error: float | None) -> dict[str, float]:
    """What a trial must meet to count: the limits, and an error of use where any trial has one."""
    floored = dict(limits) if max_error is None else {**limits, "error": max_error}
    met = any(trial.scored and trial.within(floored) for trial in trials)
    return floored if met else dict(limits)


def expected_of(trials: Sequence[Trial], notes: Mapping[str, Any]) -> dict[int, float]:
    """Errors that the end of the last run noted as expected, by trial number; none where trials came since."""
    noted = notes.get(EXPECTED, {})
    if noted.get("told") != sum(trial.told for trial in trials):
        return {}
    return {int(number): float(error) for number, error in noted["errors"].items()}


def on_front(trials: Sequence[Trial], objectives: Sequence[str], limits: Mapping[str, float]) -> list[Trial]:
    """The evaluated trials within the limits that no other one beats, cheapest first (by the objective after error)."""
    fit = [trial for trial in trials if trial.scored and trial.within(limits)]
    if not fit:
        return []
    kept = non_dominated(np.array([trial.values(objectives) for trial in fit]))
    order = sorted(objectives, key=lambda name: name == "error")
    return sorted(
        (trial for trial, keep in zip(fit, kept, strict=True) if keep),
        key=lambda trial: (*trial.values(order), trial.number),
    )


def stands_still(fit: Sequence[Trial], since: int, objectives: Sequence[str]) -> bool:
    """Whether those of some trials that have this number or a later one added next to nothing to the hypervolume."""
    values = np.array([trial.values(objectives) for trial in fit])
    worst = values.max(axis=0)
    corner = worst + 0.1 * (worst - values.min(axis=0))  # the ends of a front count for something
    before = np.array([trial.number < since for trial in fit])
    if not before.any():
        return False
    whole = hypervolume(values, corner)
    return not math.isfinite(whole) or hypervolume(values[before], corner) >= (1 - _GAIN) * whole


def front_table(front: Sequence[Trial], axes: Sequence[Axis]) -> pd.DataFrame:
    """The front as a table: trial, key, error, error_std, costs, fidelity, ranking, and one column an axis."""
    table = trial_table(front, axes, {})
    own = dict.fromkeys(name for trial in front for name in trial.own_costs)
    costs = [*COSTS, *(["latency_ms"] if table["latency_ms"].notna().any() else []), *own]
    return table[["trial", "key", "error", "error_std", *costs, "fidelity", "ranking", *(axis.name for axis in axes)]]


_COLUMNS = (
    *(
        "trial",
        "key",
        "state",
        "source",
        "error",
        "error_std",
        "predicted",
        "predicted_std",
        *COSTS,
        "latency_ms",
        "fidelity",
        "ranking",
    ),
    *("weights", "evaluated", "within", "reason", "seconds", "started", "attempts"),
)
