"""What every kind of runner can do: slots that take jobs, and the messages that come back.

`dispatch.py` gives them jobs, and counts attempts and time.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from ..outcomes.work import Job, Work
from ..settings.runner import Runner, Serial
from ..trials.events import Message, WorkerInfo

Listen = Callable[[Message], object]


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
