"""Ask and tell: what to try next, and what became of it, written down before anything else happens.

Trials are proposed in batches. A sampler sees a batch's outcomes when the whole of it is told, and until then its
members as running: so a proposal is a function of whole batches, however long each trial took. Everything is in the
ledger: a process may be killed anywhere, and the next one proposes the same.

`OwnLoop` is for a loop of the caller's own: each call holds the study for a moment, so several processes may share it.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import SupportsFloat, final

from ...evaluators.modes import reproducible
from ...spaces import Budget, Candidate
from ..outcomes.latency import CostGate
from ..outcomes.work import Job, perform
from ..proposals.proposer import Proposer
from ..proposals.seeds import Seed
from ..runners.slots import SlotStatus
from ..trials.events import Listener, TrialEnded
from ..trials.ledger import Ledger
from ..trials.trial import Failed, Outcome, Scored, Skipped, Stopped, Trial, best_within
from .engine import Engine

_of_trials = logging.getLogger("secateur.trials")  # a line a trial; a bar that shows them has it silent

_ENQUEUED = "enqueued"  # the study's note of candidates that are tried before anything else
WAIT_S = 60.0  # how long a call waits for another process that holds the study


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
            self._seen = [trial.told for trial in trials]
            told: list[Trial] = []
            for first in range(0, len(trials) - self._batch + 1, self._batch):
                if all(self._seen[first : first + self._batch]):
                    told += trials[first : first + self._batch]
            self._proposer = self._propose()
            self._proposer.recall(trials, told)
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


@final
class Progress:
    """Tells a listener of every trial that is told, and the log: `TrialEnded`.

    Args:
        listener: told of it.
        trials: those of earlier runs.
        objectives: what is minimised, by which one trial is the best.
        limits: absolute, by cost name.
        slots: counts them too, and knows how many run.
        goal: the number of trials that ends the run, if one does.
        seconds_left: until the time is over, where that ends the run.
    """

    def __init__(
        self,
        listener: Listener | None,
        trials: Sequence[Trial],
        *,
        objectives: Sequence[str],
        limits: Mapping[str, float],
        slots: SlotStatus,
        goal: int | None,
        seconds_left: Callable[[], float] | None,
    ) -> None:
        self._listener, self._slots, self._goal, self._seconds_left = listener, slots, goal, seconds_left
        self._objectives, self._limits = objectives, limits
        self._before, self._told = sum(trial.told for trial in trials), 0
        self._best = best_within(trials, objectives, limits)
        self._started = time.perf_counter()

    def tell(self, trial: Trial) -> None:
        """Announce a trial that was just told."""
        running = self._slots.told()
        self._best = best_within([trial, *([] if self._best is None else [self._best])], self._objectives, self._limits)
        self._told += 1
        done = self._before + self._told  # not the number: they end in any order where no one waits for a batch
        each = (time.perf_counter() - self._started) / self._told  # of this run alone: an earlier one says nothing
        left = [] if self._goal is None else [each * (self._goal - done)]
        left += [] if self._seconds_left is None else [self._seconds_left()]
        eta = min(left, default=None)
        event = TrialEnded(last=trial, best=self._best, done=done, total=self._goal, running=running, eta=eta)
        _of_trials.info("%s", event)
        if self._listener is not None:
            self._listener(event)


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
            running, gate = self._running(trial), None
            if isinstance(found, Scored) and found.latency_ms is None and not found.measured:
                gate = self._engine.gate(asking.limits)
            if gate is None:
                return self._told(asking, running, found)
        found = self._with_costs(running, found, gate)  # not while the study is held: it takes its time
        with self._held() as asking:
            return self._told(asking, self._running(running), found)

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

    def _told(self, asking: AskTell, trial: Trial, outcome: Outcome) -> Trial:
        asking.tell(trial, outcome)
        return self._ledger.trials[trial.number]

    def _with_costs(self, trial: Trial, outcome: Outcome, gate: CostGate) -> Outcome:
        """The outcome with the costs that only a built network has, which a loop of the user's own knows nothing of."""
        with reproducible(self._engine.search.threads, self._engine.device):
            found = replace(gate, limits={})(trial)  # over a limit or not: it was evaluated
        if found.outcome is not None or not isinstance(outcome, Scored):
            return found.outcome or outcome
        return replace(outcome, latency_ms=found.latency_ms, measured=dict(found.own_costs))

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
