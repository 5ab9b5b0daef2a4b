"""What a running study says of itself, trial by trial."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .events import Listener, TrialEnded
from .trial import Trial


class Slots(Protocol):
    """What trials run in: says how many of them are busy, and counts the trials that are told."""

    @property
    def running(self) -> int:
        """How many slots do something."""

    def told(self) -> None:
        """Count one trial more whose outcome is final."""


class Progress:
    """Tells a listener of every trial that is told: `TrialEnded`."""

    def __init__(
        self,
        listener: Listener | None,
        total: int,
        objectives: Sequence[str],
        limits: Mapping[str, float],
        slots: Slots | None = None,
    ) -> None:
        self._listener = listener
        self._total = total
        self._objectives = objectives
        self._limits = limits
        self._slots = slots
        self._best: Trial | None = None
        self._started = time.perf_counter()
        self._done: set[int] = set()
        self._told = 0  # in this run: what an earlier one did says nothing of how fast this one is

    def recall(self, trial: Trial) -> None:
        """Take note of a trial that is told already; again and again does no harm."""
        self._consider(trial)

    def tell(self, trial: Trial) -> None:
        """Announce a trial that was just told."""
        self._consider(trial)
        self._told += 1
        if self._slots is not None:
            self._slots.told()
        if self._listener is None:
            return
        done = len(self._done)  # not the number: they end in any order where no one waits for a batch
        each = (time.perf_counter() - self._started) / self._told
        self._listener(
            TrialEnded(
                last=trial,
                best=self._best,
                done=done,
                total=self._total,
                running=0 if self._slots is None else self._slots.running,
                eta=each * (self._total - done),
            )
        )

    def _consider(self, trial: Trial) -> None:
        self._done.add(trial.number)
        if better(trial, self._best, self._objectives, self._limits):
            self._best = trial


def better(trial: Trial, best: Trial | None, objectives: Sequence[str], limits: Mapping[str, float]) -> bool:
    """Whether the trial is within the limits and better than the best so far: by error, and by cost among equals."""
    if not trial.scored or not trial.within(limits):
        return False
    return best is None or trial.merit(objectives) < best.merit(objectives)


def described(trial: Trial) -> dict[str, Any]:
    """A trial as plain values."""
    return {
        "trial": trial.number,
        "key": trial.candidate.key,
        "source": trial.source,
        "state": trial.state,
        "error": trial.error if trial.scored else None,
        "reason": trial.reason,
        **{name: value for name, value in trial.measures.items() if name != "error"},
    }
