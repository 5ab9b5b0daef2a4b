"""What every kind of runner can do: slots that take jobs, and the messages that come back.

`SerialExecutor`, this process, is the plainest; `Interrupts` hears Ctrl-C. `dispatch.py` gives them jobs, and counts
attempts and time.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import re
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, final

from ...evaluators.modes import present
from ..outcomes.work import Asked, Evaluation, Interrupted, Job, Work, perform
from ..settings.runner import Runner, Serial
from ..trials.events import Epoch, Happened, JobEnd, Message, Rung, WorkerInfo
from ..trials.trial import Failed

logger = logging.getLogger("secateur")

Listen = Callable[[Message], object]

_AGAIN_S = 10.0  # between two alarms of a trial that takes too long
FAULTS = "fault.log"  # the trial that runs in this process, and where it stood when it ended


class Executor(ABC):
    """Does jobs in slots. Called by one thread; nothing blocks but `open`, `wait` and `close`.

    Attributes:
        slots: how many there are; known once it is open.
        apart: whether workers have a folder of their own, so that files must travel with the jobs.
        options: the settings it was made from; the dispatcher keeps to their time-out, retries and `asynchronous`.
    """

    slots: int
    apart: bool = True
    options: Runner = Serial()

    def check(self, *, threads: int, device: str) -> None:
        """Refuse what can't be had, where that shows before anything is made.

        Args:
            threads: of a trial.
            device: of the study.

        Raises:
            ValueError: there is no such device, or not so many.
            ImportError: a package is not installed.
        """
        return None

    @abstractmethod
    def open(self, work: Work, listen: Listen) -> None:
        """Have slots that are ready for jobs of this work, or soon will be.

        Args:
            work: what is the same for every job.
            listen: for events of a job that `wait` does itself; all others are returned.

        Raises:
            ValueError: what was asked for can never be had here.
        """

    @abstractmethod
    def submit(self, slot: int, job: Job) -> None:
        """Begin a job in a slot that does nothing."""

    @abstractmethod
    def wait(self, timeout_s: float | None) -> Sequence[Message]:
        """What slots say, in order, as soon as one says something; nothing when so many seconds have passed."""

    @abstractmethod
    def cancel(self, slot: int) -> None:
        """End the job of a slot, whatever it does; it says nothing more, and the slot takes another."""

    @abstractmethod
    def close(self) -> None:
        """End whatever runs; no process of ours is left. May be called twice."""

    def describe(self, slot: int) -> WorkerInfo:
        """What is known of a slot's worker."""
        return WorkerInfo()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed_out(limit_s: float | None) -> str:
    """Why a trial failed that took too long; the same on every runner."""
    return f"timed out: not finished within {limit_s:g} s"


class _TimeOut(Interrupted):
    """The trial takes too long."""


class TimeOver(Exception):
    """Raised where the deadline has passed and nothing runs any more."""


@final
class SerialExecutor(Executor):
    """Does a job when it is waited for, in the study's own folder.

    A trial that takes too long is interrupted by a signal: in the main thread of a process on Unix only, and not before
    Python gets its turn. Elsewhere time is not limited.
    """

    slots = 1
    apart = False

    def __init__(self, runner: Serial = Serial()) -> None:  # noqa: B008
        """Give up a trial after the settings' time-out."""
        self.options = runner
        self._evaluation: Evaluation | None = None
        self._listen: Listen = lambda message: None
        self._job: Job | None = None
        self._faults = Faults()

    def check(self, *, threads: int, device: str) -> None:
        """Refuse a device that is not here."""
        present(device)

    def open(self, work: Work, listen: Listen) -> None:
        """Be ready."""
        self._evaluation, self._listen = work.evaluation, listen
        self._faults.open(work.evaluation.artifacts.folder)

    def submit(self, slot: int, job: Job) -> None:
        """Remember the job."""
        self._job = job

    def wait(self, timeout_s: float | None) -> Sequence[Message]:
        """Do the job, however long it takes."""
        assert self._evaluation is not None and self._job is not None, "a job is submitted before it is waited for"
        job, self._job = self._job, None

        def say(event: Epoch | Rung) -> None:
            self._listen(Message(slot=0, said=Happened(event=event)))

        if (why := self._faults.about(job.trial.number)) is not None:
            return [Message(slot=0, said=JobEnd(outcome=Failed(reason=why)))]
        limit = None if job.training else self.options.timeout_s
        try:
            with _alarm(limit):
                end = perform(self._evaluation, job, say)
        except _TimeOut:
            end = JobEnd(outcome=Failed(reason=timed_out(limit), seconds=limit or 0.0))
        return [Message(slot=0, said=end)]

    def cancel(self, slot: int) -> None:
        """Forget the job."""
        self._job = None

    def close(self) -> None:
        """Nothing is left to end."""
        self._faults.close()


class Faults:
    """Trials whose code ended their whole process (a segmentation fault): written down then, told by the next run.

    Nothing runs in a process any more that was ended so; Python's `faulthandler` still writes where it stood. Otherwise
    the next run would try the same trial again, and end the same way, for ever. Watches from `open` to `close`.
    """

    def __init__(self) -> None:
        self._found: dict[int, str] = {}
        self._file: IO[str] | None = None

    def open(self, folder: Path) -> None:
        """Read what the process before left, and watch this one; not where somebody else watches it already."""
        path = folder / FAULTS
        self._found = _fallen(path)
        path.unlink(missing_ok=True)
        if not faulthandler.is_enabled():
            self._file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - open as long as this process is watched
            faulthandler.enable(self._file, all_threads=False)

    def about(self, number: int) -> str | None:
        """Remember that this trial runs now; why it ended an earlier process, if it did."""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(f"trial {number}\n")
            self._file.flush()
        return self._found.pop(number, None)

    def close(self) -> None:
        """Nothing happened."""
        if self._file is not None:
            faulthandler.disable()
            self._file.close()
            os.unlink(self._file.name)
            self._file = None


def _fallen(path: Path) -> dict[int, str]:
    """The trial and the reason in a file; none where the process was ended by something else, as by `kill`."""
    text = path.read_text(encoding="utf-8", errors="replace")[:100_000] if path.is_file() else ""
    found = re.match(r"trial (\d{1,9})\nFatal Python error: (.+)\n", text)
    if found is None:
        return {}
    where = re.search(r'^  File "(.+)", line (\d+) in (\S+)$', text, re.MULTILINE)
    at = "" if where is None else f", in {where[3]} ({Path(where[1]).name}, line {where[2]})"
    return {int(found[1]): f"it ended its process: {found[2]}{at}"}


@contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    """Raise within the block when it takes too long; an alarm that was set before is put back with what is left."""
    if seconds is None or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return
    armed = True

    def ring(_number: int, _frame: object) -> None:
        if armed:
            raise _TimeOut

    start = time.monotonic()
    before = signal.signal(signal.SIGALRM, ring)
    # Again and again: Python drops what is raised while it collects garbage, and so does a bare `except`.
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        try:
            yield
        finally:
            armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - (time.monotonic() - start)), interval)


@final
class Interrupts:
    """Ctrl-C once finishes what runs, twice leaves at once; SIGTERM, which a scheduler sends, leaves at once.

    While the block runs, the first interrupt only sets `asked`; the next one is a KeyboardInterrupt.

    SIGTERM is a SystemExit, so that workers are ended and locks given back before the time of grace is over, and the
    exit code is 143. Trials that ran are redone when the study goes on.

    Outside the main thread nothing changes, nor for signals that are ignored or that the caller handles: SIGINT is
    left alone where it is ignored, SIGTERM wherever it does not have its default meaning.

    Attributes:
        asked: whether the user asked to stop.
        deadline: when no trial begins any more, of `time.monotonic`.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        self.asked, self.deadline = False, deadline
        self._before: dict[int, Any] = {}

    @property
    def stopping(self) -> bool:
        """Whether no trial begins any more."""
        return self.asked or time.monotonic() >= self.deadline

    def __enter__(self) -> Interrupts:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._hear)
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put things back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        _say("finishing the trials that run; interrupt once more to leave at once, and they are redone")

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not strike while workers are ended
        _say("asked to end: leaving at once; the trials that run are redone when the study goes on")
        raise Asked(128 + number)


def _say(text: str) -> None:
    with contextlib.suppress(RuntimeError):  # Python's, where the signal came while something else was being written
        logger.warning(text)
