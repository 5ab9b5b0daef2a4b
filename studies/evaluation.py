"""One trial from proposal to outcome: build, measure the latency where it matters, evaluate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..search import NOTE
from ..spaces import Space
from .artifacts import ROUND, Artifacts
from .latency import Latencies
from .mirror import seed_of
from .rounds import Rounds
from .stopping import Stopping
from .trial import REFERENCE, Outcome, Trial, outcome_of

logger = logging.getLogger("secateur")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A function from a proposed trial to its outcome; holds all that is the same for every trial.

    Attributes:
        model: the full network with the base weights; it is never changed.
        space: its traced space.
        artifacts: turns the names in a trial into a network.
        evaluator: `Ladder` or anything with its call signature.
        seed: the study's; each trial trains with its own, derived from this and its number.
        latencies: measures them.
        latency_limit_ms: a network that is slower is not evaluated; None leaves latency free.
        wants_latency: measure latency even where no limit is set.
        rounds: trains shared weights where a trial names them.
        stopping: ends trials that are not promising at a lower fidelity; None ends none.
        keeps_weights: keep what every trial's network became, because others may start there.
    """

    model: nn.Module
    space: Space
    artifacts: Artifacts
    evaluator: Callable[..., Any]
    seed: int
    latencies: Latencies
    latency_limit_ms: float | None = None
    wants_latency: bool = False
    keeps_weights: bool = False
    rounds: Rounds | None = None
    stopping: Stopping | None = None

    def __call__(self, trial: Trial) -> Outcome:
        """The outcome. Where latency breaks the budget nothing is trained, and there is no error yet."""
        start = time.perf_counter()
        measured = self.wants_latency or self.latency_limit_ms is not None
        latency_ms = self._latency_ms(trial) if measured else None
        limit = self.latency_limit_ms
        reference = trial.candidate == self.space.full or trial.source == REFERENCE
        if limit is not None and latency_ms is not None and latency_ms > limit and not reference:
            return Outcome(
                state="complete",
                evaluated=False,
                latency_ms=latency_ms,
                seconds=time.perf_counter() - start,
                reason=f"latency {latency_ms:.3g} ms is over the budget of {limit:.3g} ms",
            )
        stopping = None if reference else self.stopping
        if latency_ms is not None:
            trial = replace(trial, outcome=Outcome(state="running", latency_ms=latency_ms))
        result = self.evaluator(
            lambda: self.build(trial),
            candidate=trial.candidate,
            resolution=self.space.side(trial.candidate) or None,
            fidelity=trial.fidelity,
            seed=seed_of(self.seed, trial.number),
            report=None if stopping is None else lambda rung, error: stopping.stops(trial, rung, error),
        )
        if stopping is not None and getattr(result, "stopped", False):
            seconds = time.perf_counter() - start
            found = stopping.outcome(trial, result.rung, result.error, seconds, dict(result.attributes))
            return replace(found, latency_ms=latency_ms)
        weights = getattr(result, "weights", None)
        if self.keeps_weights and weights is not None:
            self.artifacts.keep_trained(trial.number, trial.candidate, weights)
        return outcome_of(result, seconds=time.perf_counter() - start, latency_ms=latency_ms)

    def build(self, trial: Trial) -> nn.Module:
        """A fresh small network with the weights the trial names; shared ones are trained now if they are not there."""
        if self.rounds is not None and trial.weights.startswith(ROUND):
            around = trial.memory.get(f"{NOTE}joint", {})
            number = int(trial.weights.removeprefix(ROUND))
            self.rounds.ensure(number, around.get("center"), around.get("limits"))
        return self.artifacts.build(self.model, trial.candidate, trial.ranking, trial.weights)

    def _latency_ms(self, trial: Trial) -> float:
        return self.latencies.measure([trial.candidate], [self.build(trial)])[0].ms
