"""The search itself: propose a batch, evaluate it, tell it; again. Start reading at `Search.run`."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from ..proposals.proposer import Proposer
from ..runners.dispatch import Dispatcher
from ..trials.ledger import Ledger
from ..trials.outcome import Failed, Skipped, Stopped
from ..trials.progress import Progress
from ..trials.trial import Trial

logger = logging.getLogger("secateur")

_FAILURES = 10  # so many failed trials in a row end a search
_HOPELESS = 3  # and so many first ones that all raised the same


@dataclass(frozen=True, kw_only=True)
class Search:
    """Brings a ledger to a number of trials; whoever runs it holds the study's lock.

    Attributes:
        ledger: the trials so far, and where the new ones go.
        proposer: says what to try.
        dispatcher: turns proposed trials into their outcomes.
        limits: the budget in absolute numbers.
        watch: told of every trial.
    """

    ledger: Ledger
    proposer: Proposer
    dispatcher: Dispatcher
    limits: Mapping[str, float]
    watch: Progress

    def run(self, trials: int, batch_size: int) -> None:
        """Go on until there are so many trials in all, or nothing new within the budget.

        Raises:
            RuntimeError: the last ten trials all failed, or every trial so far raised the same.
            KeyboardInterrupt: somebody asked to stop; what was running has ended and is kept.
        """
        self.dispatcher.open()  # what can't be had is refused before anything is proposed
        for numbers in _batches(trials, batch_size):
            batch = self._batch(numbers)
            fresh = any(not trial.told for trial in batch)
            self._tell(batch)  # what a killed run had evaluated and not yet told
            with self._parked():
                for trial in batch:
                    if trial.outcome is None:
                        self.dispatcher.submit(trial, self.ledger.trials[: numbers.start])
                while self.dispatcher.busy:
                    self.ledger.park(*self.dispatcher.next())
                    self._tell(batch)
            self.proposer.close(self.ledger.trials[trial.number] for trial in batch)
            if len(batch) < len(numbers):
                self.exhausted()
                return
            if fresh:
                self._refuse_the_hopeless()
            if numbers.stop < trials:
                self.dispatcher.heed()

    def run_asynchronous(self, trials: int) -> None:
        """The same without batches: a slot that is free gets a new proposal, made from all that is told by then.

        Raises:
            RuntimeError: the last ten trials all failed, or every trial so far raised the same.
            KeyboardInterrupt: somebody asked to stop; what was running has ended and is kept.
        """
        self.dispatcher.open()
        known = [self.proposer.recall(trial) for trial in self.ledger.trials[:trials]]
        exhausted = False
        with self._parked():
            for trial in known:
                self.take(trial)
                if trial.outcome is None:
                    self.dispatcher.submit(trial, [other for other in known if other.told])
            while True:
                while not exhausted and self.dispatcher.free and len(self.ledger.trials) < trials:
                    proposed = self.proposer.propose(len(self.ledger.trials))
                    if proposed is None:
                        self.exhausted()
                        exhausted = True
                    else:
                        told = [trial for trial in self.ledger.trials if trial.told]
                        self.dispatcher.submit(self.ledger.add(proposed), told)
                if not self.dispatcher.busy:
                    if not exhausted and len(self.ledger.trials) < trials:
                        self.dispatcher.heed()
                    return
                self.take(self.ledger.park(*self.dispatcher.next()))

    def take(self, trial: Trial) -> None:
        """Tell one trial whose outcome is known, and let samplers see it at once."""
        if trial.outcome is not None:
            self._tell([trial])
            self.proposer.close([self.ledger.trials[trial.number]])
            if not trial.told:
                self._refuse_the_hopeless()

    def exhausted(self) -> None:
        """Say that nothing is left to try."""
        logger.warning("every network within the budget was tried: %d trials", len(self.ledger.trials))

    def _batch(self, numbers: range) -> list[Trial]:
        """The trials with these numbers: from the ledger, or proposed now; fewer where the space is exhausted."""
        batch = []
        for number in numbers:
            if number < len(self.ledger.trials):
                batch.append(self.proposer.recall(self.ledger.trials[number]))
            elif (proposed := self.proposer.propose(number)) is not None:
                batch.append(self.ledger.add(proposed))
            else:
                break
        return batch

    def _tell(self, batch: Sequence[Trial]) -> None:
        """Tell every trial of the batch whose outcome is known, in number order, up to the first that is not."""
        for number in (trial.number for trial in batch):
            trial = self.ledger.trials[number]
            if trial.outcome is None:
                return
            if trial.told:
                self.watch.recall(trial)
                continue
            match trial.outcome:
                case Skipped(stand_in=None):
                    trial = self.ledger.park(trial, replace(trial.outcome, stand_in=self._stand_in(number)))
                case Stopped(predicted=None):
                    trial = self.ledger.park(trial, replace(trial.outcome, predicted=self._stand_in(number)))
            self.watch.tell(self.ledger.tell(trial, self.limits, self.proposer.after(trial)))
            self._refuse_to_fail_on(number)

    def _stand_in(self, number: int) -> float:
        """What a sampler is told for a network that was never trained: the median error so far."""
        known = [trial.measures["error"] for trial in self.ledger.trials[:number] if trial.scored]
        return statistics.median(known) if known else 1.0

    def _refuse_to_fail_on(self, number: int) -> None:
        last = [trial.outcome for trial in self.ledger.trials[max(0, number + 1 - _FAILURES) : number + 1]]
        failed = [outcome.reason for outcome in last if isinstance(outcome, Failed)]
        if len(failed) == _FAILURES:
            raise RuntimeError(
                f"the last {_FAILURES} trials all failed, so the search stops; the last one: {failed[-1]}. "
                "Mend the cause (often the learning rate, or memory) and run again"
            )

    def _refuse_the_hopeless(self) -> None:
        """Stop where not one trial ever came through and all raised the same: it is not the networks."""
        outcomes = [trial.outcome for trial in self.ledger.trials if trial.told]
        reasons = {outcome.reason if isinstance(outcome, Failed) else None for outcome in outcomes}
        if len(outcomes) < _HOPELESS or len(reasons) != 1:
            return
        reason = reasons.pop() or ""
        if _raised(reason):
            raise RuntimeError(
                f"all {len(outcomes)} trials so far failed alike, so the search stops: {reason}. Mend the model, the "
                "task or the evaluator, and run again"
            )

    @contextmanager
    def _parked(self) -> Iterator[None]:
        """Keep what has ended, where the block is left early too."""
        try:
            yield
        except BaseException:
            with suppress(Exception):  # what the block was left for is said, not this
                for trial, outcome in self.dispatcher.rest():
                    self.ledger.park(trial, outcome)
            raise


def _raised(reason: str) -> bool:
    """Whether a trial failed by an exception, and not because it diverged, took too long or needed too much memory.

    >>> _raised("ValueError: no such layer"), _raised("timed out: not finished within 3 s"), _raised("diverged: loss")
    (True, False, False)
    """
    name = reason.partition(":")[0]
    return name.isidentifier() and name[0].isupper()


def _batches(trials: int, size: int) -> Iterator[range]:
    """Numbers of the trials that are proposed together; the last batch may be cut short, and filled by a later run."""
    for first in range(0, trials, size):
        yield range(first, min(first + size, trials))
