"""The worker of Ray Tune's trials: the class that Tune calls, and the thread that does its jobs."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from dataclasses import asdict, replace
from typing import Any, final

from ...outcomes.work import Job, JobEnd, Work, Worker
from ...trials.outcome import Evaluated, Failed

_SAID = "secateur"  # what a result of Tune's carries to the driver; taken out before anybody logs it


class _Abandoned(BaseException):
    """Raised in the middle of a trial that was stopped; no `except Exception` of a user's takes it for a failure."""


@final
class _Bench:
    """Does jobs in a thread, at most one event ahead of whoever asks for them."""

    def __init__(self, work: Work, *, gpus: int) -> None:
        self._worker = Worker(work, gpus=gpus)
        self._jobs: queue.SimpleQueue[tuple[Job, _Mouth]] = queue.SimpleQueue()
        self._mouth = _Mouth()
        self._next: Job | None = None
        # One thread for all jobs: each new one would have PyTorch start threads of its own (OpenMP).
        threading.Thread(target=self._serve, daemon=True).start()

    def take(self, job: Job) -> None:
        """Keep a job, which begins with the first step: whoever gave it knows by then that it was taken."""
        self.abandon()
        self._mouth, self._next = _Mouth(), job

    def step(self) -> dict[str, Any]:
        """The next thing that happens, as a result of Tune's."""
        if self._next is not None:
            self._jobs.put((self._next, self._mouth))  # as soon as the last one has ended
            self._next = None
        kind, payload = self._mouth.said.get()
        rung: dict[str, Any] = {}
        while kind == "event" and "rung" in payload:  # part of the next result: schedulers count results as epochs
            rung = {**payload, "files": {**rung.get("files", {}), **payload.get("files", {})}}
            kind, payload = self._mouth.said.get()
        if kind == "event" and rung:
            payload = {**rung, **payload, "files": {**rung["files"], **payload.get("files", {})}}
        if kind == "done" and rung:
            payload = replace(payload, files={**rung["files"], **payload.files})
        if kind == "broken":
            raise RuntimeError(payload)
        return _numbers(kind, payload) | {_SAID: (kind, payload), "done": kind == "done"}

    def abandon(self) -> None:
        """Let the job end at its next event."""
        self._mouth.shut.set()
        with contextlib.suppress(queue.Empty):
            self._mouth.said.get_nowait()

    def close(self) -> None:
        """Remove the worker's folder."""
        self._worker.close()

    def _serve(self) -> None:
        while True:
            job, mouth = self._jobs.get()
            try:
                report = _sendable(self._worker.run(job, mouth.say))
            except _Abandoned:
                continue
            except BaseException as error:  # what ends a process elsewhere, such as SystemExit
                mouth.said.put(("broken", f"{type(error).__name__}: {error}"))
            else:
                mouth.said.put(("done", report))


@final
class _Mouth:
    """What one job says, until nobody listens."""

    def __init__(self) -> None:
        self.said: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
        self.shut = threading.Event()

    def say(self, event: dict[str, Any]) -> None:
        if not self.shut.is_set():
            self.said.put(("event", event))
        if self.shut.is_set():
            raise _Abandoned


def _sendable(report: JobEnd) -> JobEnd:
    """The report; a failure where the evaluator gave back what can't be sent."""
    import cloudpickle

    try:
        cloudpickle.dumps(report.outcome)
    except Exception as error:
        return report.unsendable(error)
    return report


def _numbers(kind: str, payload: Any) -> dict[str, Any]:
    """What Tune logs of an event or a report; the same columns every time, because its CSV keeps to the first ones."""
    found: dict[str, Any] = dict.fromkeys(("epoch", "loss", "error", "error_std", "seconds"), math.nan)
    if kind == "event":
        return found | {name: payload[name] for name in found if isinstance(payload.get(name), int | float)}
    outcome: Evaluated | None = payload.outcome
    given = {} if outcome is None else asdict(outcome)
    found |= {name: given[name] for name in (*found, "latency_ms") if given.get(name) is not None}
    state = "failed" if isinstance(outcome, Failed) else "complete"
    return found | {"state": state, "attributes": given.get("attributes", {})}
