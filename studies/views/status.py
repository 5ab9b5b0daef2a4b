"""Where a study stands, as a value; how it went, what its seeds were worth, how well its sampler predicted errors."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...search import NOTE, hypervolume, non_dominated
from ...spaces import Budget
from ..trials.front import counting, expected_of, on_front
from ..trials.trial import Failed, Skipped, Stopped, Trial, best_within, described

_LAST = 5  # trials that are named beside a reason
_MOMENTS = 40  # of a history, at most
_LEAST = 3  # predicted errors that a root mean square is computed from, at least


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why trials failed: how many, and the numbers of the last five."""

    reason: str
    count: int
    trials: list[int]


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a study stands.

    Counts are of trials: all, `told` (ended), `running` (not ended), `failed` (ended without an error), `skipped` (not
    trained to the end, because they were too slow or not promising), and those on the `front`.

    Attributes:
        path: the study's folder.
        failures: why trials failed, the reason of the newest one first; reasons that differ in numbers only are one.
        best: the trial within the budget with the lowest error, or the lowest that is expected of it (`best_expected`),
            where a run that ended noted that; None where there is none.
        best_expected: its error, as all trials have it; None where nothing is expected of it.
        budget: as it was asked for; `limits` is the same in absolute numbers.
        objectives: what is minimised, by the `sampler`, each trial trained to the `fidelity`.
        history: see `insight.history`; `seeds` and `foresight` by the functions of such names there.
        proxies: rank correlations with the errors, best first, as at the end of the last run.
        seconds: spent evaluating.
        foretold: measured costs that are limited or minimised, by name: networks measured in advance (`rows`), median
            `error` of the model on those left out, its `margin`, and the median `spread` when measured again.
        full: the full network as it was given: its validation `error`, `error_std`, the `size` of the split, what was
            `expected`, or the `reason` why it could not be measured; and the `preprocessing` of its inputs. Empty for
            studies of before.
        max_error: the error above which a trial does not count, and how many within the budget are `useless` so.
        ended: what ended the last run: `by` an argument of `Study.run`, `"space"`, `"interrupt"` or `"error"`, and
            `said` in words; None where it runs, was killed, or there was none.
        goal: trials in all that the run, or the study file, asks for; None where no one asked.
        left_s: seconds that the run may still take; None where that is not known.
        drivers: who runs it, and what their slots do, see `slots.drivers`; None where the study did not look.
        gpus: those that slots of this machine use; see `gpus.gpu_use`.
    """

    path: str
    trials: int
    told: int
    running: int
    failed: int
    failures: list[Reason]
    skipped: int
    front: int
    best: Trial | None
    best_expected: float | None = None
    budget: dict[str, Any]
    limits: dict[str, float]
    objectives: list[str]
    sampler: str
    fidelity: str
    history: dict[str, list[Any]]
    seeds: dict[str, Any]
    foresight: dict[str, Any]
    proxies: list[dict[str, Any]]
    seconds: float
    max_error: float | None = None
    useless: int = 0
    ended: dict[str, str] | None = None
    goal: int | None = None
    left_s: float | None = None
    drivers: list[dict[str, Any]] | None = None
    gpus: list[dict[str, Any]] = field(default_factory=list)
    full: dict[str, Any] = field(default_factory=dict)
    foretold: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name: what `secateur status --json` writes."""
        return asdict(replace(self, best=None)) | {"best": None if self.best is None else described(self.best)}

    @property
    def active(self) -> list[dict[str, Any]]:
        """The drivers that run."""
        return [driver for driver in self.drivers or () if driver["state"] == "running"]


def status_of(
    path: Path,
    trials: Sequence[Trial],
    budget: Budget,
    limits: Mapping[str, float],
    found: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> Status:
    """Where a study stands; `found` is its study.json, `notes` what it noted of its runs."""
    settings = found["settings"]
    objectives = settings["objectives"]
    fit = [trial for trial in trials if trial.scored and trial.within(limits)]
    counts, expected = counting(trials, limits, settings.get("max_error")), expected_of(trials, notes)
    best = best_within(trials, objectives, counts, expected)
    outcomes = [trial.outcome for trial in trials if trial.told and trial.outcome is not None]
    return Status(
        path=str(path),
        trials=len(trials),
        told=len(outcomes),
        running=len(trials) - len(outcomes),
        failed=sum(isinstance(outcome, Failed) for outcome in outcomes),
        failures=failures(trials),
        skipped=sum(isinstance(outcome, Skipped | Stopped) for outcome in outcomes),
        front=len(on_front(trials, objectives, counts)),
        best=best,
        best_expected=None if best is None else expected.get(best.number),
        budget=budget.given(),
        limits=dict(limits),
        objectives=list(objectives),
        sampler=settings["sampler"],
        fidelity=settings["fidelity"],
        history=history(trials, objectives, counts),
        seeds=seeds_worth(trials, objectives, counts),
        foresight=foresight(trials),
        proxies=[dict(proxy) for proxy in notes.get("proxies", [])],
        seconds=sum(outcome.seconds for outcome in outcomes),
        full=_full(found),
        ended=notes.get("ended"),
        foretold=dict(notes.get("foretold", {})),
        max_error=settings.get("max_error"),
        useless=sum(not trial.within(counts) for trial in fit),
    )


def _full(found: Mapping[str, Any]) -> dict[str, Any]:
    """What study.json says of the full network, as far as it is of the expected kind."""
    said, preprocessing = found.get("full"), found.get("preprocessing")
    kinds = {"error": float, "error_std": float, "size": int, "expected": float | str, "reason": str}
    said = said if isinstance(said, dict) else {}
    full = {name: said[name] for name, kind in kinds.items() if isinstance(said.get(name), kind)}
    return full | ({"preprocessing": preprocessing} if isinstance(preprocessing, dict) else {})


def failures(trials: Sequence[Trial]) -> list[Reason]:
    """Why trials failed, the reason of the newest one first.

    Reasons that differ in numbers only are one, told in the newest one's words.
    """
    failed: dict[str, list[Trial]] = {}
    for trial in reversed(trials):
        if trial.told and isinstance(trial.outcome, Failed):
            failed.setdefault(re.sub(r"\d+(\.\d+)?", "#", trial.outcome.reason), []).append(trial)
    return [
        Reason(reason=some[0].reason or "", count=len(some), trials=[one.number for one in reversed(some[:_LAST])])
        for some in failed.values()
    ]


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
    numbers, errors = [trial.number for trial in known], [trial.measures["error"] for trial in known]
    sums = np.concatenate([[0.0], np.cumsum(errors)])
    earlier = [bisect_left(numbers, trial.number) for trial in predicted]
    missed_by_mean = [
        trial.measures["error"] - (sums[count] / count if count else 1.0)
        for trial, count in zip(predicted, earlier, strict=True)
    ]
    return {
        "trials": len(predicted),
        "rmse": float(np.sqrt(np.mean(np.square(missed)))),
        "rmse_of_mean": float(np.sqrt(np.mean(np.square(missed_by_mean)))),
        "model": said[-1] if said else {},
    }


def verdict(found: Mapping[str, Any]) -> str:
    """How good the forecasts were, in a plain sentence, of what `foresight` gave; empty where too few were made."""
    if "rmse" not in found:
        return ""
    rmse, by_mean = 100 * found["rmse"], 100 * found["rmse_of_mean"]
    held = "better than" if rmse < 0.95 * by_mean else "no better than" if rmse < 1.05 * by_mean else "worse than"
    return (
        f"Forecasts of {found['trials']} errors missed by {rmse:.2f} points, {held} the mean of the errors so far, "
        f"which missed by {by_mean:.2f}."
    )


def _least_error(trials: Sequence[Trial]) -> float | None:
    return min((trial.measures["error"] for trial in trials), default=None)


def _share(some: Sequence[Trial], every: Sequence[Trial], objectives: Sequence[str]) -> float | None:
    if not some:
        return None
    values = np.array([trial.values(objectives) for trial in every])
    worst = values.max(axis=0)
    whole = hypervolume(values, worst)
    return hypervolume(np.array([trial.values(objectives) for trial in some]), worst) / whole if whole > 0 else None
