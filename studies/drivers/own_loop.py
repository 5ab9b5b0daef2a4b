"""A loop of the caller's own: each call holds the study for a moment, so that several processes may share it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import SupportsFloat, final

from ...evaluators.modes import reproducible
from ...spaces import Budget
from ..outcomes.work import Job, perform
from ..proposals.seeds import Seed
from ..trials.trial import Failed, Outcome, Scored, Trial
from .ask_tell import AskTell
from .engine import Engine

WAIT_S = 60.0  # how long a call waits for another process that holds the study


@final
class OwnLoop:
    """What `Study.ask`, `tell`, `enqueue` and `evaluate` do; see there.

    Args:
        engine: makes what the search is made of.
        budget: of this study.
    """

    def __init__(self, engine: Engine, budget: Budget) -> None:
        self.budget = budget
        self._engine, self._ledger = engine, engine.ledger
        self._asking: AskTell | None = None

    def ask(self) -> Trial | None:
        """As `Study.ask`."""
        with self._held() as asking:
            return asking.ask()

    def tell(self, trial: Trial | int, outcome: Outcome | float) -> Trial:
        """As `Study.tell`."""
        found = outcome if isinstance(outcome, Outcome) else _scored(outcome)
        with self._held() as asking:
            trial = self._running(trial)
            asking.tell(trial, found)
            return self._ledger.trials[trial.number]

    def enqueue(self, wanted: Seed | Sequence[int]) -> None:
        """As `Study.enqueue`."""
        space = self._engine.space
        seed = wanted if isinstance(wanted, Seed) else Seed(name="enqueued", candidate=space.canonical(wanted))
        with self._held() as asking:
            space.check_within(seed.candidate, asking.limits)
            asking.enqueue(seed)

    def evaluate(self, trial: Trial | int) -> Outcome:
        """As `Study.evaluate`."""
        with self._held() as asking:
            trial, earlier = self._running(trial), asking.before(self._running(trial))
        with reproducible(self._engine.search.threads, self._engine.device):
            gate = self._engine.gate(asking.limits)
            trial = trial if gate is None else gate(trial)
            if trial.outcome is not None:
                return trial.outcome
            evaluation = self._engine.work(asking.limits).evaluation
            ended = perform(evaluation, Job(trial=trial, earlier=earlier), lambda event: None)
            assert ended.outcome is not None, "a trial that ended has an outcome"
            return ended.outcome

    @contextmanager
    def _held(self) -> Iterator[AskTell]:
        """What asks and tells, once it knows what other processes wrote; the study is held while the block runs."""
        with self._engine.held(wait_s=WAIT_S):
            if self._asking is None:
                limits = self._engine.resolve(self.budget, None)
                self._asking = AskTell(
                    self._ledger,
                    lambda: self._engine.proposer(limits, None),
                    batch=self._engine.search.batch,
                    limits=limits,
                )
                for _ in self._asking.unfinished(len(self._ledger.trials)):
                    pass  # a killed run's outcomes are told by this; what has none is the caller's to evaluate
            yield self._asking

    def _running(self, trial: Trial | int) -> Trial:
        """The trial as the ledger has it, without an outcome.

        Raises:
            ValueError: there is none of this number, or it has an outcome already.
        """
        number = trial.number if isinstance(trial, Trial) else trial
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self._ledger.trials):
            raise ValueError(f"trial {number!r}: expected a Trial, or a number below {len(self._ledger.trials)}")
        found = self._ledger.trials[number]
        if found.outcome is not None:
            raise ValueError(f"trial {number} has an outcome already, which is final; ask for another trial")
        return found


def _scored(error: object) -> Outcome:
    """The outcome that a bare error stands for."""
    if not isinstance(error, SupportsFloat):
        raise TypeError(f"outcome is a {type(error).__name__}; expected an error to minimise, or an Outcome")
    value = float(error)
    if not math.isfinite(value):
        return Failed(reason=f"the error is {value}, not a finite number")
    return Scored(error=value)
