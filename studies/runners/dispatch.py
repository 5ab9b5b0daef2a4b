"""From trials to outcomes: gives slots their jobs, counts attempts and seconds, and takes what comes back.

Start reading at `Dispatcher.next`. All clocks here are monotonic: nothing happens when the time is set.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import final

from ..disk.artifacts import FOLDERS, STATE, place_artifact
from ..disk.files import sweep_files, write_atomic
from ..outcomes.work import Job, Work
from ..settings.runner import Runner, runner_of
from ..trials.events import (
    Begun,
    Change,
    Doing,
    Epoch,
    Happened,
    JobEnd,
    Lost,
    Message,
    SlotChanged,
    Unable,
    WorkerInfo,
)
from ..trials.trial import Evaluated, Failed, Outcome, Trial
from .executor import Executor, Interrupts, TimeOver, timed_out

logger = logging.getLogger("secateur")

_PATIENCE_S = 1.0  # how long at most nothing is looked at but messages
_STILLBORN = 3  # so many workers a slot, in a row, that died before they began anything: there is no use in another
_SLOW_S = 60.0  # a slot that takes longer to begin is worth a word
_PROBE = ".probe"
_NEWS: tuple[Change, ...] = ("open", "begun")  # when a slot may have another worker


EXECUTORS = {
    "serial": ("executor", "SerialExecutor"),
    "processes": ("processes", "ProcessExecutor"),
    "ray": ("ray.actors", "RayExecutor"),
    "tune": ("ray.tune", "TuneExecutor"),
}  # by the kind: its module, which is imported when it is needed, and its name there


@dataclass(kw_only=True)
class _Task:
    """A job, and how often it was begun."""

    job: Job
    attempts: int = 0


@dataclass(kw_only=True)
class _Running:
    task: _Task
    submitted: float
    begun: bool = False
    slow: bool = False
    deadline: float | None = None
    epoch: Epoch | None = None


@final
class Dispatcher:
    """Runs trials on an executor; the caller holds the study's lock.

    Args:
        executor: not yet open; closed by `close`.
        work: what is the same for every trial.
        folder: of the study, where artifacts go.
        gate: the trial with its latency measured, or with a final outcome; None measures nothing.
        timeout_s: seconds that a trial may take.
        retries: how often a trial is tried again whose worker died.
        interrupts: says when to stop.
        status: told what each slot does.

    Attributes:
        evaluation: what turns trials into outcomes.
        interrupts: as given.
    """

    def __init__(
        self,
        executor: Executor,
        work: Work,
        *,
        folder: Path,
        gate: Callable[[Trial], Trial] | None = None,
        timeout_s: float | None = None,
        retries: int = 2,
        interrupts: Interrupts,
        status: Callable[[SlotChanged], object] = lambda event: None,
    ) -> None:
        self._executor, self._work, self._folder, self._gate = executor, work, folder, gate
        self.evaluation = work.evaluation
        self._timeout_s, self._retries = timeout_s, retries
        self.interrupts, self._status = interrupts, status
        self._waiting: deque[_Task] = deque()
        self._running: dict[int, _Running] = {}
        self._ended: deque[tuple[Trial, Outcome]] = deque()
        self._trained: deque[Failed | None] = deque()
        self._held: dict[int, set[str]] = {}
        self._workers: dict[int, WorkerInfo] = {}
        self._proven: set[int] = set()  # slots whose worker has begun something
        self._stillborn = 0
        self._open = False
        self._status_fails = False

    @property
    def busy(self) -> int:
        """Trials whose outcome was not taken yet."""
        return len(self._waiting) + len(self._running) + len(self._ended)

    @property
    def slots(self) -> int:
        """How many trials can run at a time; known once it is open."""
        return self._executor.slots

    def open(self) -> None:
        """Have slots for trials; once is enough.

        Raises:
            ValueError: what was asked for can never be had.
        """
        if self._open:
            return
        sweep_files(self._folder, *(self._folder / name for name in FOLDERS))
        self._executor.open(self._work, self._on_message)
        self._open = True
        for slot in range(self._executor.slots):
            self._tell("open", slot)

    def submit(self, trial: Trial, earlier: Sequence[Trial] = ()) -> None:
        """Have a trial evaluated; waits for its shared weights where they are still to be trained.

        Raises:
            RuntimeError: the shared weights can't be trained.
        """
        trial = trial if self._gate is None else self._gate(trial)
        if trial.outcome is not None:
            self._ended.append((trial, trial.outcome))
            return
        if self.evaluation.lacks_round(trial):
            self._train(trial)
        self._waiting.append(_Task(job=Job(trial=trial, earlier=tuple(earlier))))

    def next(self) -> tuple[Trial, Outcome]:
        """The next trial that ended, with its outcome.

        Raises:
            KeyboardInterrupt: the user asked to stop, and all that was running has ended.
            TimeOver: the same, because the time is over.
            RuntimeError: workers can't even start.
        """
        while not self._ended:
            self._step()
        return self._ended.popleft()

    def check_interrupt(self) -> None:
        """Go on only where no one asked to stop.

        Raises:
            KeyboardInterrupt: the user did, and nothing runs.
        """
        if self.interrupts.asked and not self.busy:
            raise KeyboardInterrupt

    def rest(self) -> list[tuple[Trial, Outcome]]:
        """Trials that ended and were not taken, with their outcomes; waits for nothing."""
        found, self._ended = list(self._ended), deque()
        return found

    def close(self) -> None:
        """End whatever still runs."""
        self._executor.close()

    def _train(self, trial: Trial) -> None:
        self._waiting.appendleft(_Task(job=Job(trial=trial, training=True)))
        while not self._trained:
            self._step()
        if (failure := self._trained.popleft()) is not None:
            raise RuntimeError(f"the shared weights {trial.weights} can't be trained: {failure.reason}")

    def _step(self) -> None:
        """Give free slots something to do, and take what running ones say."""
        if self.interrupts.stopping:
            if not self._running:
                raise KeyboardInterrupt if self.interrupts.asked else TimeOver
        else:
            self._fill()
        for message in self._executor.wait(self._patience()):
            self._on_message(message)
        self._give_up_late_ones()

    def _fill(self) -> None:
        for slot in range(self.slots):
            if slot not in self._running and self._waiting:
                task = self._waiting.popleft()
                task.attempts += 1
                self._running[slot] = _Running(task=task, submitted=time.monotonic())
                self._executor.submit(slot, self._supplied(slot, task.job))
                if slot not in self._proven:
                    self._workers.pop(slot, None)  # it may have another worker than when this was last asked
                self._tell("started", slot)

    def _supplied(self, slot: int, job: Job) -> Job:
        """The job with the artifacts that the slot's worker has not got; a worker keeps those of its last job."""
        if not self._executor.apart:
            return job
        needs = self.evaluation.needs(job.trial, training=job.training)
        held = self._held.get(slot, set())
        paths = {name: self._folder / name for name in needs if name not in held}
        # A training that never began has no state; anything else that is missing the worker itself complains of.
        files = {name: path.read_bytes() for name, path in paths.items() if path.exists()}
        self._held[slot] = {name for name in needs if (name in held or name in files) and not name.endswith(STATE)}
        return replace(job, needs=tuple(needs), files=files)

    def _holds(self, slot: int, files: Mapping[str, bytes | None]) -> None:
        """Put into the study what a slot's worker made, and remember that it has it."""
        for name, data in files.items():
            place_artifact(self._folder, name, data)
            if self._executor.apart and data is not None and not name.endswith(STATE):
                self._held.setdefault(slot, set()).add(name)
            else:
                self._held.get(slot, set()).discard(name)

    def _patience(self) -> float:
        deadlines = [one.deadline for one in self._running.values() if one.deadline is not None]
        return max(0.0, min([_PATIENCE_S, *(deadline - time.monotonic() for deadline in deadlines)]))

    def _on_message(self, message: Message) -> None:
        slot, running = message.slot, self._running.get(message.slot)
        match message.said:
            case Unable(why):
                raise RuntimeError(f"workers can't do these trials: {why}")
            case Lost(why):
                self._worker_died(slot, running, why)
            case _ if running is None:
                return
            case Happened(event=event, files=files):
                self._holds(slot, files)
                if isinstance(event, Epoch):
                    running.epoch = event
                    self._tell("epoch", slot)
            case Begun():
                # Not before: a worker that is only just starting takes nothing of a trial's time.
                timed = self._timeout_s is not None and not running.task.job.training
                running.deadline = time.monotonic() + (self._timeout_s or 0.0) if timed else None
                running.begun = True
                self._proven.add(slot)
                self._stillborn = 0
                self._tell("begun", slot)  # now its worker is known on every runner
            case JobEnd() as end:
                self._take(slot, running, end)

    def _take(self, slot: int, running: _Running, end: JobEnd) -> None:
        self._holds(slot, end.files)
        outcome = end.outcome
        if end.transient and isinstance(outcome, Failed) and running.task.attempts <= self._retries:
            self._again(slot, running.task, outcome.reason)
            return
        if end.transient:
            self._probe(running.task.job.trial)
        self._end(slot, running.task, outcome)

    def _probe(self, trial: Trial) -> None:
        """Write into the study, and read what the trial starts from; where that fails, it is not the trial that does.

        Raises:
            OSError: the disk is full, or the folder is gone.
            FormatError: what it starts from is lost or damaged.
        """
        self.evaluation.artifacts.check(trial.ranking, trial.weights)
        write_atomic(self._folder / _PROBE, bytes(2**16))
        (self._folder / _PROBE).unlink(missing_ok=True)

    def _worker_died(self, slot: int, running: _Running | None, why: str) -> None:
        """A worker died."""
        self._workers.pop(slot, None)
        self._held.pop(slot, None)
        if slot in self._proven:
            self._proven.discard(slot)
        else:
            self._stillborn += 1
        if self._stillborn >= _STILLBORN * max(1, self.slots):
            raise RuntimeError(
                f"{self._stillborn} workers died one after another before they began a trial, the last one so: {why}; "
                "mend the cause, or use the runner 'serial' to see it"
            )
        if running is None:
            return
        if not running.begun:
            running.task.attempts -= 1
        if running.task.attempts <= self._retries:
            self._again(slot, running.task, why)
        else:
            self._end(slot, running.task, Failed(reason=f"its worker died {running.task.attempts} times: {why}"))

    def _again(self, slot: int, task: _Task, why: str) -> None:
        logger.warning("%s is tried again after %d attempts: %s", _named(task.job), task.attempts, why)
        self._tell("lost", slot)
        del self._running[slot]
        self._waiting.appendleft(task)

    def _end(self, slot: int, task: _Task, outcome: Evaluated | None) -> None:
        self._tell("ended", slot)
        del self._running[slot]
        if task.job.training:
            self._trained.append(outcome if isinstance(outcome, Failed) else None)
        else:
            assert outcome is not None, "a trial that ended has an outcome"
            self._ended.append((task.job.trial, replace(outcome, attempts=task.attempts)))

    def _give_up_late_ones(self) -> None:
        now = time.monotonic()
        for slot, running in list(self._running.items()):
            if running.deadline is not None and now >= running.deadline:
                self._executor.cancel(slot)
                self._workers.pop(slot, None)
                self._held.pop(slot, None)
                self._proven.discard(slot)
                self._end(slot, running.task, Failed(reason=timed_out(self._timeout_s), seconds=self._timeout_s or 0.0))
            elif not running.begun and not running.slow and now >= running.submitted + _SLOW_S:
                running.slow = True
                logger.warning(
                    "slot %d has not begun %s in %g s: its worker is still starting, or waits for room",
                    slot,
                    _named(running.task.job),
                    _SLOW_S,
                )

    def _tell(self, change: Change, slot: int) -> None:
        running, doing = self._running.get(slot), None
        if running is not None:
            doing = Doing(
                trial=running.task.job.trial.number,
                training=running.task.job.training,
                attempt=running.task.attempts,
                epoch=running.epoch,
            )
        if change in _NEWS or slot not in self._workers:
            self._workers[slot] = self._executor.describe(slot)
        said = SlotChanged(slot=slot, change=change, worker=self._workers[slot], doing=doing)
        try:
            self._status(said)
        except OSError as error:  # a search does not end because it can't be looked at
            if not self._status_fails:
                logger.warning("what the slots do can't be shown: %s", error)
            self._status_fails = True


def executor(runner: str | Runner | Executor) -> Executor:
    """An executor for a runner, not yet open.

    Raises:
        ValueError: a kind that is not known.
        TypeError: what is given is no runner.
    """
    if isinstance(runner, Executor):
        return runner
    runner = _usual(runner) if isinstance(runner, str) else runner
    if not isinstance(runner, Runner) or type(runner) is Runner:
        raise TypeError(
            f"runner is a {type(runner).__name__}; expected one of {', '.join(map(repr, EXECUTORS))}, or one with "
            "settings, such as Processes(workers=4)"
        )
    module, name = EXECUTORS[runner.kind]
    found: Executor = getattr(import_module(f".{module}", __package__), name)(runner)
    return found


@cache
def _usual(kind: str) -> Runner:
    return runner_of(kind)


def _named(job: Job) -> str:
    return f"the training of {job.trial.weights}" if job.training else f"trial {job.trial.number}"
