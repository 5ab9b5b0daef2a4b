"""One run of a study: what holds the study, the slots that trials run in, and when it ends. Start at `running`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import final

from ..disk.artifact_mirror import PROPOSALS, ArtifactMirror
from ..proposals.proxies import known
from ..runners.dispatch import Dispatcher
from ..runners.executor import Executor
from ..runners.interrupts import Interrupts
from ..runners.slots import SlotStatus
from ..settings.determinism import reproducible
from ..trials.events import Event, Listener
from ..trials.front import on_front
from ..trials.ledger import Ledger
from ..trials.outcome import Failed, Outcome
from ..trials.progress import Progress
from ..trials.trial import Trial
from .ask_tell import AskTell
from .engine import Engine
from .lease import held
from .retention import Retention

logger = logging.getLogger("secateur")

_FAILURES = 10  # so many failed trials in a row end a search
_HOPELESS = 3  # and so many first ones that all raised the same


@contextmanager
def running(
    engine: Engine,
    limits: Callable[[], Mapping[str, float]],
    trials: int,
    where: Executor,
    *,
    mirror: ArtifactMirror | None,
    progress: Listener | None,
    keep_gb: float | None,
) -> Iterator[Run]:
    """A run of the study, which is held while the block runs; the arguments and errors are those of `Study.run`.

    Args:
        engine: makes what the search is made of.
        limits: gives the budget in absolute numbers, once the study is held.
        trials: the number of trials in all at which the run ends.
        where: an executor, not yet open.
        mirror: where artifacts are kept besides, if anywhere.
        progress: told of every trial.
        keep_gb: how much artifacts may take.
    """
    search, ledger = engine.search, engine.ledger
    if not where.apart:
        _ = search.here
    with held(engine.path, ledger), reproducible(search.threads, search.torch_device):
        ledger.refresh()
        if "trials" not in ledger.notes():
            ledger.note("trials", trials)  # what `auto` chooses by; a later run changes nothing of it
        absolute = limits()
        slots = SlotStatus(engine.path, goal=trials)
        with Interrupts() as interrupts:
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
            retention = Retention(
                engine.path,
                keep_gb,
                objectives=search.objectives,
                ranking=engine.ranking,
                parents=dispatcher.evaluation.keeps_weights,
            )
            tidy = _tidying(retention, ledger, absolute, mirror, progress)
            run = Run(
                ledger,
                partial(AskTell, ledger, partial(engine.proposer, absolute, progress), limits=absolute),
                dispatcher,
                trials=trials,
                batch=None if where.options.asynchronous else search.batch,
                watch=Progress(tidy, trials, search.objectives, absolute, slots),
            )
            try:
                dispatcher.open()  # what can't be had is refused before anything is proposed
                yield run
            except BaseException:
                run.keep_what_ended()
                raise
            finally:
                slots.close()
                dispatcher.close()
        ledger.note("proxies", known(engine.proxies()))
        if "latency_ms" in absolute and not on_front(ledger.trials, search.objectives, absolute):
            logger.warning("no network was within latency_ms=%g; the front is empty", absolute["latency_ms"])


@final
class Run:
    """A study that is being run: asks, submits, waits and tells, until there are so many trials in all.

    Args:
        ledger: the trials.
        asking: makes the study's `AskTell`, given how it tells.
        dispatcher: turns proposed trials into their outcomes; open.
        trials: the number at which it ends.
        batch: trials that are proposed together, once the last batch is told; None proposes for every free slot.
        watch: told of every trial.
    """

    def __init__(
        self,
        ledger: Ledger,
        asking: Callable[..., AskTell],
        dispatcher: Dispatcher,
        *,
        trials: int,
        batch: int | None,
        watch: Progress,
    ) -> None:
        self._ledger, self._dispatcher, self._trials, self._watch = ledger, dispatcher, trials, watch
        self._in_batches = batch is not None
        self._asking = asking(batch=batch or 1, in_order=self._in_batches, told=self._told)
        self._exhausted = False
        for trial in ledger.trials[:trials]:
            if trial.told:
                watch.recall(trial)

    def unfinished(self) -> Iterator[Trial]:
        """Trials that an earlier run left without an outcome."""
        return self._asking.unfinished(self._trials)

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
        if not self._dispatcher.busy and not self._exhausted and len(self._ledger.trials) < self._trials:
            self._dispatcher.check_interrupt()
        return bool(self._dispatcher.busy)

    def ask(self) -> Trial | None:
        """The next trial; None where there are enough, a batch is not told yet, or nothing is left to try."""
        if self._exhausted or len(self._ledger.trials) >= self._trials:
            return None
        if self._in_batches and self._asking.batch_is_open():
            return None
        trial = self._asking.ask()
        if trial is None:
            self._exhausted = True
            logger.warning("every network within the budget was tried: %d trials", len(self._ledger.trials))
        return trial

    def submit(self, trial: Trial) -> None:
        """Have a trial evaluated, now or when a slot is free."""
        self._dispatcher.submit(trial, self._asking.before(trial))

    def next(self) -> tuple[Trial, Outcome]:
        """The next trial that ended, with its outcome.

        Raises:
            KeyboardInterrupt: the run was asked to stop, and all that was running has ended.
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

    def keep_what_ended(self) -> None:
        """Write down what has ended and was not told, where a run is left early."""
        with suppress(Exception):  # what the run was left for is said, not this
            for trial, outcome in self._dispatcher.rest():
                self._ledger.park(trial, outcome)

    def _told(self, trial: Trial) -> None:
        self._watch.tell(trial)
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
