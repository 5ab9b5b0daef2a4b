"""What a running study says of itself, trial by trial."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..runners.board import Board
from .events import Listener
from .trial import Trial

if TYPE_CHECKING:
    pass


class Progress:
    """Turns told trials into events for a listener.

    An event is `{"event": "trial", "done", "total", "left", "eta" (seconds), "running", "best", "last"}`. `running` is
    how many other trials are on the way; `last` is the trial that was just told, `best` the one with the lowest error
    within the budget, or None: `{"trial", "key", "source", "state", "error", "reason", ...every cost}`.
    """

    def __init__(
        self,
        listener: Listener | None,
        total: int,
        objectives: Sequence[str],
        limits: Mapping[str, float],
        board: Board | None = None,
    ) -> None:
        self._listener = listener
        self._total = total
        self._objectives = objectives
        self._limits = limits
        self._board = board
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
        if self._board is not None:
            self._board.told()
        if self._listener is None:
            return
        done = len(self._done)  # not the number: they end in any order where nobody waits for a batch
        each = (time.perf_counter() - self._started) / self._told
        self._listener(
            {
                "event": "trial",
                "done": done,
                "total": self._total,
                "left": self._total - done,
                "eta": each * (self._total - done),
                "running": 0 if self._board is None else self._board.running,
                "best": None if self._best is None else described(self._best),
                "last": described(trial),
            }
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
