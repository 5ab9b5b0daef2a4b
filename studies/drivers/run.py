"""One run of a study: what holds the study, the slots that trials run in, and when it ends. Start at `running`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import final

from ...evaluators.modes import present
from ...pruners.criteria.retained import LEAST, known
from ...spaces import Budget
from ..disk.artifact_mirror import PROPOSALS, ArtifactMirror
from ..outcomes.sides import WRONG_SIDE
from ..runners.dispatch import Dispatcher
from ..runners.executor import Executor, Interrupts, TimeOver
from ..runners.slots import SlotStatus
from ..settings.search import Search
from ..trials.events import Event, Listener, TrialEnded
from ..trials.front import EXPECTED, on_front
from ..trials.ledger import Ledger
from ..trials.trial import Failed, Outcome, Scored, Trial, better
from ..trials.words import first_line
from .ask_tell import AskTell
from .ending import ENDED, NOTHING_LEFT, Clock, Ending
from .engine import Engine
from .retention import Retention

logger = logging.getLogger("secateur")
_of_trials = logging.getLogger("secateur.trials")  # a line a trial; a bar that shows them has it silent

_FAILURES = 10  # so many failed trials in a row end a search
_HOPELESS = 3  # and so many first ones that all raised the same


@contextmanager
def running(
    engine: Engine,
    budget: Budget,
    ending: Ending,
    where: Executor,
    *,
    mirror: ArtifactMirror | None,
    progress: Listener | None,
    keep_gb: float | None,
) -> Iterator[Run]:
    """A run of the study, which is held while the block runs; the arguments and errors are those of `Study.run`.

    Args:
        engine: makes what the search is made of.
        budget: what the networks may cost.
        ending: when the run ends.
        where: an executor, not yet open.
        mirror: where artifacts are kept besides, if anywhere.
        progress: told of every trial.
        keep_gb: how much artifacts may take.
    """
    search, ledger = engine.search, engine.ledger
    if not where.apart:
        present(search.device)
    with engine.held():
        clock = Clock(ledger)
        if "trials" not in ledger.notes and ending.trials is not None:
            ledger.note("trials", ending.trials)  # what `auto` chooses by; a later run changes nothing of it
        if ledger.notes.get(ENDED) is not None:
            ledger.note(ENDED, None)
        absolute = engine.resolve(budget, progress)
        slots = SlotStatus(engine.path, goal=ending.trials)
        with Interrupts(clock.moment(ending.seconds)) as interrupts:
            dispatcher = Dispatcher(
                where,
                engine.work(absolute),
                folder=engine.path,
                gate=engine.gate(absolute),
                timeout_s=where.options.timeout_s,
                retries=where.options.retries,
                interrupts=interrupts,
                status=slots,
            )
            tidy = progress
            if keep_gb is not None or mirror is not None:
                parents = dispatcher.evaluation.keeps_weights
                retention = Retention(
                    engine.path, keep_gb, objectives=search.objectives, ranking=engine.ranking, parents=parents
                )
                tidy = _tidying(retention, ledger, absolute, mirror, progress)
            run = Run(
                ledger,
                partial(AskTell, ledger, partial(engine.proposer, absolute, progress), limits=absolute),
                dispatcher,
                ending=ending,
                clock=clock,
                batch=None if where.options.asynchronous else search.batch,
                watch=Progress(tidy, ending, clock, search, absolute, slots, ledger.trials[: ending.trials]),
            )
            try:
                dispatcher.open()  # what can't be had is refused before anything is proposed
                engine.begin()
                yield run
                run.end()
            except BaseException as error:
                if not run.left(error):
                    raise
            finally:
                slots.close()
                dispatcher.close()
        _conclude(engine, absolute)


def _conclude(engine: Engine, limits: Mapping[str, float]) -> None:
    """Note what the trials say of rankings, and say where nothing was found."""
    ledger, search = engine.ledger, engine.search
    if sum(isinstance(trial.outcome, Scored) for trial in ledger.trials) >= LEAST:  # below it, none has a number
        ledger.note("proxies", known(engine.proxies()))
        told = sum(trial.told for trial in ledger.trials)
        ledger.note(EXPECTED, {"told": told, "errors": engine.expected_errors(limits)})
    failed = [trial.outcome.reason for trial in ledger.trials if isinstance(trial.outcome, Failed)]
    if failed and len(failed) == sum(trial.told for trial in ledger.trials):
        logger.error("all %d trials failed, so nothing was found; the last: %s", len(failed), failed[-1])
    named = ", ".join(f"{name}={limit:g}" for name, limit in limits.items() if name not in engine.space.full_costs)
    if named and not on_front(ledger.trials, search.objectives, limits):
        logger.warning("no network was within %s; the front is empty", named)


@final
class Run:
    """A study that is being run: asks, submits, waits and tells, until something ends it.

    Args:
        ledger: the trials.
        asking: makes the study's `AskTell`, given how it tells.
        dispatcher: turns proposed trials into their outcomes; open.
        ending: when it ends.
        clock: how long all runs took.
        batch: trials that are proposed together, once the last batch is told; None proposes for every free slot.
        watch: told of every trial.
    """

    def __init__(
        self,
        ledger: Ledger,
        asking: Callable[..., AskTell],
        dispatcher: Dispatcher,
        *,
        ending: Ending,
        clock: Clock,
        batch: int | None,
        watch: Progress,
    ) -> None:
        self._ledger, self._dispatcher, self._ending, self._watch = ledger, dispatcher, ending, watch
        self._in_batches, self._batch, self._clock = batch is not None, batch or 1, clock
        self._asking = asking(batch=self._batch, in_order=self._in_batches, told=self._told)
        self._ended: dict[str, str] | None = None

    def unfinished(self) -> Iterator[Trial]:
        """Trials that an earlier run left without an outcome."""
        known = len(self._ledger.trials)
        return self._asking.unfinished(min(known, self._ending.trials or known))

    @property
    def free(self) -> bool:
        """Whether another trial would be taken now; the trials of a batch wait for their slots here."""
        return self._dispatcher.willing if self._in_batches else self._dispatcher.free

    @property
    def busy(self) -> bool:
        """Whether any trial's outcome is still to come.

        Raises:
            KeyboardInterrupt: there is none, and the run was asked to stop before its end.
        """
        if not self._dispatcher.busy and self._ended is None and self._met() is None:
            self._dispatcher.check_interrupt()
        return bool(self._dispatcher.busy)

    def ask(self) -> Trial | None:
        """The next trial; None where the run ends, a batch is not told yet, or nothing is left to try."""
        if self._ended is not None or (self._in_batches and self._asking.batch_is_open()):
            return None
        self._ended = self._met()
        if self._ended is not None:
            return None
        trial = self._asking.ask()
        if trial is None:
            self._ended = NOTHING_LEFT
            logger.warning("every network within the budget was tried: %d trials", len(self._ledger.trials))
        return trial

    def submit(self, trial: Trial) -> None:
        """Have a trial evaluated, now or when a slot is free."""
        self._dispatcher.submit(trial, self._asking.before(trial))

    def next(self) -> tuple[Trial, Outcome]:
        """The next trial that ended, with its outcome.

        Raises:
            KeyboardInterrupt, TimeOver: the run is to stop, and all that was running has ended.
        """
        return self._dispatcher.next()

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Write down what became of a trial.

        Raises:
            RuntimeError: the last ten trials all failed, or every trial so far raised the same.
        """
        self._asking.tell(trial, outcome)
        if not self._in_batches or all(trial.told for trial in self._ledger.trials):
            self._refuse_the_hopeless()

    def end(self) -> None:
        """Write down what ended the run."""
        ended = self._ended or self._now()
        self._clock.keep()
        self._ledger.note(ENDED, ended)
        if ended is not None and ended["by"] != "trials":
            logger.info("the search ends: %s", ended["said"])

    def left(self, error: BaseException) -> bool:
        """Write down what has ended and was not told, and why, where a run is left early; whether the time was over."""
        with suppress(Exception):  # what the run was left for is said, not this
            for trial, outcome in self._dispatcher.rest():
                self._ledger.park(trial, outcome)
            if isinstance(error, TimeOver):
                self.end()
                return True
            stopped = isinstance(error, KeyboardInterrupt)
            said = "someone asked it to stop" if stopped else first_line(error)
            self._ledger.note(ENDED, {"by": "interrupt" if stopped else "error", "said": said})
            self._clock.keep()
        return False

    def _met(self) -> dict[str, str] | None:
        """What ends the run now, if anything."""
        count = len(self._ledger.trials)
        whole = count % self._batch == 0 or self._ending.enough(count)  # a batch that was begun is proposed whole
        return self._now() if whole else None

    def _now(self) -> dict[str, str] | None:
        watch, spent_s = self._watch, self._clock.seconds
        return self._ending.met(
            self._ledger.trials, watch.objectives, watch.limits, max_error=watch.max_error, spent_s=spent_s
        )

    def _told(self, trial: Trial) -> None:
        self._clock.told()
        self._watch.tell(trial)
        if isinstance(trial.outcome, Failed) and trial.outcome.reason.startswith(f"{WRONG_SIDE}:"):
            raise RuntimeError(
                f"trial {trial.number} shows that the search would claim what is not so, and it stops: "
                f"{trial.outcome.reason}"
            )
        last = [one.outcome for one in self._ledger.trials[max(0, trial.number + 1 - _FAILURES) : trial.number + 1]]
        failed = [outcome.reason for outcome in last if isinstance(outcome, Failed)]
        if len(failed) == _FAILURES:
            raise RuntimeError(
                f"the last {_FAILURES} trials all failed, so the search stops; the last one: {failed[-1]}. "
                "Mend the cause (often the learning rate, or memory) and run again"
            )

    def _refuse_the_hopeless(self) -> None:
        """Stop where not one trial ever came through and all raised the same: it is not the networks."""
        outcomes = [trial.outcome for trial in self._ledger.trials if trial.told]
        reasons = {outcome.reason if isinstance(outcome, Failed) else None for outcome in outcomes}
        if len(outcomes) < _HOPELESS or len(reasons) != 1:
            return
        reason = reasons.pop() or ""
        if _raised(reason):
            raise RuntimeError(
                f"all {len(outcomes)} trials so far failed alike, so the search stops: {reason}. Mend the model, the "
                "task or the evaluator, and run again"
            )


class Progress:
    """Tells a listener of every trial that is told, and the log: `TrialEnded`."""

    def __init__(
        self,
        listener: Listener | None,
        ending: Ending,
        clock: Clock,
        search: Search,
        limits: Mapping[str, float],
        slots: SlotStatus,
        trials: Sequence[Trial],
    ) -> None:
        """Know the trials of earlier runs."""
        self._listener = listener
        self._ending, self._clock = ending, clock
        self.objectives, self.max_error, self.limits = search.objectives, search.max_error, limits
        self._slots = slots
        self._best: Trial | None = None
        self._started = time.perf_counter()
        self._done: set[int] = set()
        self._told = 0  # in this run: what an earlier one did says nothing of how fast this one is
        for trial in trials:
            if trial.told:
                self._consider(trial)

    def tell(self, trial: Trial) -> None:
        """Announce a trial that was just told."""
        self._slots.told()
        self._consider(trial)
        self._told += 1
        done = len(self._done)  # not the number: they end in any order where no one waits for a batch
        each = (time.perf_counter() - self._started) / self._told
        total = self._ending.trials
        left = [] if total is None else [each * (total - done)]
        left += [] if self._ending.seconds is None else [max(0.0, self._ending.seconds - self._clock.seconds)]
        event = TrialEnded(
            last=trial,
            best=self._best,
            done=done,
            total=total,
            running=self._slots.running,
            eta=min(left, default=None),
        )
        _of_trials.info("%s", event)
        if self._listener is not None:
            self._listener(event)

    def _consider(self, trial: Trial) -> None:
        self._done.add(trial.number)
        if better(trial, self._best, self.objectives, self.limits):
            self._best = trial


def _raised(reason: str) -> bool:
    """Whether a trial failed by an exception, and not because it diverged, took too long or needed too much memory.

    >>> _raised("ValueError: no such layer"), _raised("timed out: not finished within 3 s"), _raised("diverged: loss")
    (True, False, False)
    """
    name = reason.partition(":")[0]
    return name.isidentifier() and name[0].isupper()


def _tidying(
    retention: Retention,
    ledger: Ledger,
    limits: Mapping[str, float],
    mirror: ArtifactMirror | None,
    progress: Listener | None,
) -> Listener:
    """What happens after every trial: what is new is copied, and what is too much removed."""
    if mirror is not None:
        names = mirror.names()
        proposals = [name for name in names if name.startswith(PROPOSALS)]
        mirror.pull([*retention.needed(ledger.trials, limits, names), *proposals])

    def tidy(event: Event) -> None:
        removed = retention(ledger.trials, limits)
        if mirror is not None:
            mirror.push()
            mirror.remove(removed)
        if progress is not None:
            progress(event)

    return tidy
