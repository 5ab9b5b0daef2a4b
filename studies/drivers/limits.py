"""A budget in absolute numbers: what is a share of the full network is measured where it must be, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from ...spaces import Budget
from ..settings.determinism import reproducible
from ..trials.events import Calibrated, Listener
from .engine import Engine


@final
class Limits:
    """Turns budgets of one study into limits."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._ledger = engine, engine.ledger
        self._full_latency_ms: float | None = engine.ledger.notes().get("full_latency_ms")

    def of(self, budget: Budget) -> dict[str, float]:
        """Absolute limits, by name; measures the full network where only its latency can tell."""
        if budget.needs_full("latency_ms") and self._full_latency_ms is None:
            search = self._engine.search
            with reproducible(search.threads, search.torch_device):
                self._full_latency_ms = self._engine.latencies.measure([self._engine.space.full])[0].ms
        return budget.limits(self._engine.space, self._full_latency_ms)

    def resolve(self, budget: Budget, progress: Listener | None) -> dict[str, float]:
        """The same for the run that begins: remembers the budget, and measures what only now is limited."""
        notes, limits = self._ledger.notes(), self.of(budget)
        if notes.get("budget") != budget.given():
            self._ledger.note("budget", budget.given())
        if self._full_latency_ms is not None and "full_latency_ms" not in notes:
            self._ledger.note("full_latency_ms", self._full_latency_ms)
        if self._engine.wants_latency(limits):
            self._engine.latencies.calibrate(seed=self._engine.search.seed, progress=_calibration(progress))
        if "latency_ms" in limits:
            self._engine.latencies.check_limit(limits["latency_ms"])
            for trial in self._ledger.trials:
                if trial.scored and "latency_ms" not in trial.measures:
                    [timing] = self._engine.latencies.measure([trial.candidate])
                    self._ledger.note_latency(trial, timing.ms)
        return limits


def _calibration(progress: Listener | None) -> Callable[[int, int], None]:
    def say(done: int, total: int) -> None:
        if progress is not None:
            progress(Calibrated(done=done, total=total))

    return say
