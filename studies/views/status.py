"""Where a study stands, as a value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...spaces import Budget
from ..trials.front import on_front
from ..trials.trial import Failed, Skipped, Stopped, Trial, better, described
from .insight import foresight, history, seeds_worth

_LAST = 5  # trials that are named beside a reason


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
        best: the trial with the lowest error within the budget; None where there is none.
        budget: as it was asked for; `limits` is the same in absolute numbers.
        objectives: what is minimised, by the `sampler`, each trial trained to the `fidelity`.
        history: see `insight.history`; `seeds` and `foresight` by the functions of such names there.
        proxies: rank correlations with the errors, best first, as at the end of the last run.
        seconds: spent evaluating.
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
    goal: int | None = None
    left_s: float | None = None
    drivers: list[dict[str, Any]] | None = None
    gpus: list[dict[str, Any]] = field(default_factory=list)

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
    settings: Mapping[str, Any],
    proxies: Sequence[Mapping[str, Any]],
) -> Status:
    """Where a study stands; `settings` as in study.json, `proxies` as at the end of its last run."""
    objectives = settings["objectives"]
    best: Trial | None = None
    for trial in trials:
        best = trial if better(trial, best, objectives, limits) else best
    outcomes = [trial.outcome for trial in trials if trial.told and trial.outcome is not None]
    return Status(
        path=str(path),
        trials=len(trials),
        told=len(outcomes),
        running=len(trials) - len(outcomes),
        failed=sum(isinstance(outcome, Failed) for outcome in outcomes),
        failures=failures(trials),
        skipped=sum(isinstance(outcome, Skipped | Stopped) for outcome in outcomes),
        front=len(on_front(trials, objectives, limits)),
        best=best,
        budget=budget.given(),
        limits=dict(limits),
        objectives=list(objectives),
        sampler=settings["sampler"],
        fidelity=settings["fidelity"],
        history=history(trials, objectives, limits),
        seeds=seeds_worth(trials, objectives, limits),
        foresight=foresight(trials),
        proxies=[dict(proxy) for proxy in proxies],
        seconds=sum(outcome.seconds for outcome in outcomes),
    )


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
