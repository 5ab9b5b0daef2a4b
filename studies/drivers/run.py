"""One run of a study: what holds the study, the slots that trials run in, and when it ends. Start at `running`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, final

from ...evaluators.modes import present
from ...pruners.criteria.retained import LEAST, known
from ...spaces import Budget
from ...spaces.checked import AT_LEAST_1, FINITE, POSITIVE, check
from ..disk.artifact_mirror import ArtifactMirror
from ..outcomes.sides import WRONG_SIDE
from ..proposals.proposer import Proposer
from ..runners.dispatch import Dispatcher
from ..runners.executor import Executor, Interrupts, TimeOver
from ..runners.slots import SlotStatus
from ..settings.search import Search
from ..trials.events import Listener
from ..trials.front import EXPECTED, counting, on_front, stands_still
from ..trials.ledger import Ledger
from ..trials.trial import Failed, Outcome, Scored, Trial, best_within
from ..trials.words import Hopeless, duration, first_line, percent
from .ask_tell import AskTell, Progress
from .engine import Engine
from .retention import Retention, tidying

logger = logging.getLogger("secateur")

_FAILURES = 10  # so many failed trials in a row end a search
_HOPELESS = 3  # and so many first ones that all raised the same

_ENDED = "ended"  # the study's note of what ended its last run
_NOTHING_LEFT = {"by": "space", "said": "every network within the budget was tried"}
_SPENT, _EVERY_S = "run_seconds", 5.0  # the note of how long all runs took; it is written no more often


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
        clock, slots = Clock(ledger), SlotStatus(engine.path, goal=ending.trials)
        if "trials" not in ledger.notes and ending.trials is not None:
            ledger.note("trials", ending.trials)  # what `auto` chooses by; a later run changes nothing of it
        if ledger.notes.get(_ENDED) is not None:
            ledger.note(_ENDED, None)
        absolute = engine.resolve(budget, progress)
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
            tidy, parents = progress, dispatcher.evaluation.keeps_weights
            if keep_gb is not None or mirror is not None:
                kept = Retention(
                    engine.path, keep_gb, objectives=search.objectives, ranking=engine.ranking, parents=parents
                )
                tidy = tidying(kept, ledger, absolute, mirror, progress)
            run = Run(
                engine,
                absolute,
                partial(engine.proposer, absolute, progress),
                dispatcher,
                ending=ending,
                clock=clock,
                slots=slots,
                listener=tidy,
                in_batches=not where.options.asynchronous,
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


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What ends a run, whichever comes first; at least one is given. See `Study.run`.

    Trials that were begun are told. What ends a batch of trials is looked at when the whole of it is told, so that a
    study has the same trials on every runner and after every kill; `seconds` alone depend on the clock.
    """

    trials: Annotated[int, AT_LEAST_1] | None = None
    seconds: Annotated[float, POSITIVE, FINITE] | None = None
    until: Annotated[float, FINITE] | None = None
    patience: Annotated[int, AT_LEAST_1] | None = None

    def __post_init__(self) -> None:
        """Refuse what ends nothing."""
        for name in ("seconds", "until"):
            given = getattr(self, name)
            if isinstance(given, int) and not isinstance(given, bool):
                object.__setattr__(self, name, float(given))
        check(self)
        if (self.trials, self.seconds, self.until, self.patience) == (None,) * 4:
            raise ValueError("nothing says when the run ends; expected trials, seconds, until or patience")

    def enough(self, count: int) -> bool:
        """Whether there are as many trials as were asked for."""
        return self.trials is not None and count >= self.trials

    def met(
        self, trials: Sequence[Trial], search: Search, limits: Mapping[str, float], *, spent_s: float
    ) -> dict[str, str] | None:
        """What ends the run now, `by` which argument and `said` in words; None where it goes on.

        Args:
            trials: so far, those of earlier runs included.
            search: what is minimised, and which errors are of use.
            limits: absolute, by cost name.
            spent_s: seconds that all runs took so far.
        """
        if self.enough(len(trials)):
            return {"by": "trials", "said": f"{len(trials)} trials were asked for"}
        if self.until is not None and (best := best_within(trials, search.objectives, limits)) is not None:
            if (found := best.measures["error"]) <= self.until:
                said = f"trial {best.number} has an error of {percent(found)}, and {percent(self.until)} was asked for"
                return {"by": "until", "said": said}
        if self.patience is not None:
            told = [trial.number for trial in trials if trial.told]
            counts = counting(trials, limits, search.max_error)
            fit = [trial for trial in trials if trial.scored and trial.within(counts)]
            if fit and len(told) > self.patience and stands_still(fit, told[-self.patience], search.objectives):
                return {"by": "patience", "said": f"{self.patience} trials in a row brought the front no further"}
        if self.seconds is not None and spent_s >= self.seconds:
            return {"by": "seconds", "said": f"{duration(self.seconds)} were asked for, all runs together"}
        return None


class Clock:
    """How long all runs of a study took, this one included; after a kill, up to its last trial or five seconds less.

    Args:
        ledger: remembers it.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._before = float(ledger.notes.get(_SPENT, 0.0))
        self._began = self._kept = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return self._before + time.monotonic() - self._began

    def left(self, seconds: float) -> float:
        """How many are left of these."""
        return max(0.0, seconds - self.seconds)

    def moment(self, seconds: float | None) -> float:
        """When so many have passed, of `time.monotonic`."""
        return math.inf if seconds is None else self._began + seconds - self._before

    def told(self) -> None:
        """Remember it, where the last time is a while ago."""
        if time.monotonic() - self._kept >= _EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Remember it."""
        self._kept = time.monotonic()
        self._ledger.note(_SPENT, round(self.seconds, 3))


@final
class Run:
    """A study that is being run: asks, submits, waits and tells, until something ends it.

    Args:
        engine: has the trials, and what is searched with.
        limits: absolute, by cost name.
        propose: makes a proposer.
        dispatcher: turns proposed trials into their outcomes; open.
        ending: when it ends.
        clock: how long all runs took.
        slots: what they do.
        listener: told of every trial that is told.
        in_batches: propose a batch of trials together, once the last is told; else one for every free slot.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Mapping[str, float],
        propose: Callable[[], Proposer],
        dispatcher: Dispatcher,
        *,
        ending: Ending,
        clock: Clock,
        slots: SlotStatus,
        listener: Listener | None,
        in_batches: bool,
    ) -> None:
        self._ledger, self._search, self._limits = engine.ledger, engine.search, limits
        self._dispatcher, self._ending, self._clock, self._in_batches = dispatcher, ending, clock, in_batches
        self._batch = self._search.batch if in_batches else 1
        self._asking = AskTell(
            self._ledger, propose, batch=self._batch, limits=limits, in_order=in_batches, told=self._told
        )
        self._progress = Progress(
            listener,
            self._ledger.trials[: ending.trials],
            objectives=self._search.objectives,
            limits=limits,
            slots=slots,
            goal=ending.trials,
            seconds_left=None if ending.seconds is None else partial(clock.left, ending.seconds),
        )
        self._ended: dict[str, str] | None = None

    def unfinished(self) -> Iterator[Trial]:
        """Trials that an earlier run left without an outcome."""
        known = len(self._ledger.trials)
        return self._asking.unfinished(min(known, self._ending.trials or known))

    @property
    def free(self) -> bool:
        """Whether another trial would be taken now; the trials of a batch wait for their slots here."""
        dispatcher = self._dispatcher
        return not dispatcher.interrupts.stopping and (self._in_batches or dispatcher.busy < dispatcher.slots)

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
            self._ended = _NOTHING_LEFT
            logger.warning("every network within the budget was tried: %d trials", len(self._ledger.trials))
        return trial

    def submit(self, trial: Trial) -> None:
        """Have a trial evaluated, now or when a slot is free."""
        compared = self._dispatcher.evaluation.stopping is not None
        self._dispatcher.submit(trial, self._asking.before(trial) if compared else ())

    def next(self) -> tuple[Trial, Outcome]:
        """The next trial that ended, with its outcome.

        Raises:
            KeyboardInterrupt, TimeOver: the run is to stop, and all that was running has ended.
        """
        return self._dispatcher.next()

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Write down what became of a trial.

        Raises:
            Hopeless: the last ten trials all failed, or every trial so far raised the same.
        """
        self._asking.tell(trial, outcome)
        if not self._in_batches or all(trial.told for trial in self._ledger.trials):
            self._refuse_the_hopeless()

    def end(self) -> None:
        """Write down what ended the run."""
        ended = self._ended or self._now()
        self._clock.keep()
        self._ledger.note(_ENDED, ended)
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
            self._ledger.note(_ENDED, {"by": "interrupt" if stopped else "error", "said": said})
            self._clock.keep()
        return False

    def _met(self) -> dict[str, str] | None:
        """What ends the run now, if anything."""
        count = len(self._ledger.trials)
        whole = count % self._batch == 0 or self._ending.enough(count)  # a batch that was begun is proposed whole
        return self._now() if whole else None

    def _now(self) -> dict[str, str] | None:
        return self._ending.met(self._ledger.trials, self._search, self._limits, spent_s=self._clock.seconds)

    def _told(self, trial: Trial) -> None:
        self._clock.told()
        self._progress.tell(trial)
        if isinstance(trial.outcome, Failed) and trial.outcome.reason.startswith(f"{WRONG_SIDE}:"):
            raise Hopeless(
                f"trial {trial.number} shows that the search would claim what is not so, and it stops: "
                f"{trial.outcome.reason}"
            )
        last = [one.outcome for one in self._ledger.trials[max(0, trial.number + 1 - _FAILURES) : trial.number + 1]]
        failed = [outcome.reason for outcome in last if isinstance(outcome, Failed)]
        if len(failed) == _FAILURES:
            raise Hopeless(
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
            raise Hopeless(
                f"all {len(outcomes)} trials so far failed alike, so the search stops: {reason}. Mend the model, the "
                "task or the evaluator, and run again"
            )


def _raised(reason: str) -> bool:
    """Whether a trial failed by an exception, and not because it diverged, took too long or needed too much memory.

    >>> _raised("ValueError: no such layer"), _raised("timed out: not finished within 3 s"), _raised("diverged: loss")
    (True, False, False)
    """
    name = reason.partition(":")[0]
    return name.isidentifier() and name[0].isupper()
