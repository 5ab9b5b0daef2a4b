"""Ask and tell: what to try next, and what became of it, written down before anything else happens.

Trials are proposed in batches. A sampler sees a batch's outcomes when the whole of it is told, and until then its
members as running: so a proposal is a function of whole batches, however long each trial took. Everything is in the
ledger: a process may be killed anywhere, and the next one proposes the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import final

from ...spaces import Candidate
from ..proposals.proposer import Proposer
from ..proposals.seeds import Seed
from ..trials.ledger import Ledger
from ..trials.trial import Outcome, Skipped, Stopped, Trial

_ENQUEUED = "enqueued"  # the study's note of candidates that are tried before anything else


@final
class AskTell:
    """Proposes the trials of a ledger and takes their outcomes; the caller holds the study.

    Args:
        ledger: the trials so far, and where new ones go.
        propose: makes a proposer that knows no trial yet.
        batch: trials that are proposed in ignorance of one another's outcomes.
        limits: absolute, by cost name.
        in_order: tell the trials of a batch in the order of their numbers, each when those before it are known: the
            ledger then depends on no timing at all.
        told: called with every trial that was just told.

    Attributes:
        limits: as given.
    """

    def __init__(
        self,
        ledger: Ledger,
        propose: Callable[[], Proposer],
        *,
        batch: int,
        limits: Mapping[str, float],
        in_order: bool = False,
        told: Callable[[Trial], object] = lambda trial: None,
    ) -> None:
        self._ledger, self._propose, self.limits = ledger, propose, limits
        self._batch, self._in_order, self._told = batch, in_order, told
        self._proposer: Proposer | None = None
        self._seen: list[bool] = []  # of each trial that the proposer knows, whether it was told

    def ask(self) -> Trial | None:
        """A new trial, running, already in the ledger; None where every network within the budget was tried."""
        number = len(self._ledger.trials)
        proposed = self._known().propose(number, self._enqueued())
        if proposed is None:
            self._proposer = None  # the sampler was asked for a trial that never came to be
            return None
        self._seen.append(False)
        return self._ledger.add(proposed)

    def tell(self, trial: Trial, outcome: Outcome) -> bool:
        """Keep an outcome, and make it final as soon as its turn comes; returns whether its whole batch is told now."""
        self._ledger.park(trial, outcome)
        if self._in_order:
            return self._tell_ready(self._batch_of(trial.number))
        self._finish(self._ledger.trials[trial.number])
        return self._close(self._batch_of(trial.number))

    def enqueue(self, seed: Seed) -> None:
        """Have a seed tried before anything else; one that waits already is not tried twice."""
        waiting = self._enqueued()
        if seed not in waiting:
            self._ledger.note(_ENQUEUED, [asdict(one) for one in (*waiting, seed)])

    def unfinished(self, trials: int) -> Iterator[Trial]:
        """The first so many trials that still have no outcome; what a killed process had parked is told before."""
        self._known()
        for first in range(0, trials, self._batch):
            numbers = range(first, min(first + self._batch, trials, len(self._ledger.trials)))
            if self._in_order:
                self._tell_ready(numbers)
            for trial in [self._ledger.trials[number] for number in numbers]:
                if trial.outcome is None:
                    yield trial
                elif not trial.told and not self._in_order:
                    self._finish(trial)
                    self._close(self._batch_of(trial.number))

    def batch_is_open(self) -> bool:
        """Whether the next trial begins a batch while one before is not told: a run then waits."""
        number = len(self._ledger.trials)
        return number % self._batch == 0 and not all(trial.told for trial in self._ledger.trials[-self._batch :])

    def before(self, trial: Trial) -> tuple[Trial, ...]:
        """The told trials that a trial may be compared with: those of earlier batches."""
        first = self._batch_of(trial.number).start
        earlier = self._ledger.trials[:first] if self._in_order else self._ledger.trials
        return tuple(one for one in earlier if one.told)

    def _known(self) -> Proposer:
        """A proposer that has seen every trial: this one's, or a new one where another process wrote meanwhile."""
        trials = self._ledger.trials
        if self._proposer is None or self._seen != [trial.told for trial in trials]:
            self._proposer = self._propose()
            for trial in trials:
                self._proposer.recall(trial)
            self._seen = [trial.told for trial in trials]
            for first in range(0, len(trials), self._batch):
                self._close(range(first, first + self._batch))
        return self._proposer

    def _tell_ready(self, numbers: range) -> bool:
        """Tell the trials whose outcome is known, in order, up to the first that is not."""
        fresh = False
        for number in numbers:
            if number >= len(self._ledger.trials) or self._ledger.trials[number].outcome is None:
                return False
            if not self._ledger.trials[number].told:
                fresh = True
                self._finish(self._ledger.trials[number])
        return self._close(self._batch_of(numbers.start)) if fresh else False

    def _finish(self, trial: Trial) -> None:
        match trial.outcome:
            case Skipped(stand_in=None):
                trial = self._ledger.park(trial, replace(trial.outcome, stand_in=self._stand_in(trial.number)))
            case Stopped(predicted=None):
                trial = self._ledger.park(trial, replace(trial.outcome, predicted=self._stand_in(trial.number)))
        memory = self._known().after(trial)
        self._seen[trial.number] = True
        self._told(self._ledger.tell(trial, self.limits, memory))

    def _close(self, numbers: range) -> bool:
        """Let samplers see a batch, if the whole of it is told."""
        batch = self._ledger.trials[numbers.start : numbers.stop]
        if self._proposer is None or len(batch) < self._batch or not all(trial.told for trial in batch):
            return False
        self._proposer.close(batch)
        return True

    def _batch_of(self, number: int) -> range:
        first = number - number % self._batch
        return range(first, first + self._batch)

    def _stand_in(self, number: int) -> float:
        """What a sampler is told for a network that was never trained: the median error so far."""
        known = [trial.measures["error"] for trial in self._ledger.trials[:number] if trial.scored]
        return statistics.median(known) if known else 1.0

    def _enqueued(self) -> list[Seed]:
        found = self._ledger.notes.get(_ENQUEUED, [])
        return [Seed(**one | {"candidate": Candidate(one["candidate"])}) for one in found]
