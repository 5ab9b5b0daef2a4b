"""The runner of one slot: this process, in the study's own folder."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

from ..outcomes.evaluation import Evaluation
from ..outcomes.work import Job, Work, perform
from ..settings.determinism import present
from ..settings.runner import Serial
from ..trials.events import Epoch, Happened, JobEnd, Message, Rung
from ..trials.outcome import Failed
from .executor import Executor, Listen, timed_out

_AGAIN_S = 10.0


class _TimeOut(BaseException):
    """Raised in the middle of a trial; no `except Exception` of a user's takes it for a failure of their own."""


@final
class SerialExecutor(Executor):
    """Does a job when it is waited for.

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

    def check(self, *, threads: int, device: str) -> None:
        """Refuse a device that is not here."""
        present(device)

    def open(self, work: Work, listen: Listen) -> None:
        """Be ready."""
        self._evaluation, self._listen = work.evaluation, listen

    def submit(self, slot: int, job: Job) -> None:
        """Remember the job."""
        self._job = job

    def wait(self, timeout_s: float | None) -> Sequence[Message]:
        """Do the job, however long it takes."""
        assert self._evaluation is not None and self._job is not None, "a job is submitted before it is waited for"
        job, self._job = self._job, None

        def say(event: Epoch | Rung) -> None:
            self._listen(Message(slot=0, said=Happened(event=event)))

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
