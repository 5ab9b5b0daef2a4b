"""The worker of Ray Tune's trials: the class that Tune calls, and the thread that does its jobs."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import platform
import queue
import sys
import threading
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from ...outcomes.work import Job, Work, Worker
from ...trials.events import Epoch, Happened, JobEnd, Rung, Unable
from ...trials.trial import Failed

SAID = "secateur"  # what a result of Tune's carries to the driver; taken out before it is logged


@dataclass(frozen=True)
class Broken:
    """What would have ended a process."""

    why: str


class _Abandoned(BaseException):
    """Raised in the middle of a trial that was stopped; no `except Exception` of a user's takes it for a failure."""


def mailbox(ray: Any, name: str, work: Any) -> Any:
    """An actor between the driver and the workers, which Tune alone starts: jobs one way, workers the other.

    It imports nothing of ours.

    Args:
        ray: the module.
        name: that workers find it by.
        work: the pickled `Work`, in Ray's object store.
    """

    class Mailbox:
        def __init__(self, work: list[Any], path: list[str]) -> None:
            self.work, self.path = work, path
            self.jobs: dict[str, bytes] = {}
            self.workers: dict[str, Any] = {}

        def post(self, name: str, job: bytes) -> None:
            self.jobs[name] = job

        def take(self, name: str) -> tuple[bytes, list[Any], list[str]]:
            return self.jobs[name], self.work, self.path  # Tune may give a trial to another worker than at first

        def forget(self, name: str) -> None:
            self.jobs.pop(name, None)

        def begin(self, name: str, *worker: Any) -> None:
            self.workers[name] = worker

        def begun(self) -> dict[str, Any]:
            found, self.workers = self.workers, {}
            return found

    return ray.remote(Mailbox).options(name=name, num_cpus=0).remote([work], list(sys.path))


def trainable(mailbox: str) -> Any:
    """The class of Tune's trials, whose jobs are in a mailbox of this name."""
    from ray import tune

    class Secateur(tune.Trainable):  # type: ignore[misc,unused-ignore]
        """A warm worker."""

        def setup(self, config: dict[str, Any]) -> None:
            self.thread: WorkerThread | None = None
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.problem: Unable | None = None
            try:
                self._take(new_config["name"])
            except Exception as error:
                self.problem = Unable(f"{type(error).__name__}: {error}")
            return True

        def step(self) -> dict[str, Any]:
            if self.problem is not None or self.thread is None:
                return {SAID: (self.problem, None), "done": True}
            return self.thread.step()

        def cleanup(self) -> None:
            if self.thread is not None:
                self.thread.close()

        def _take(self, name: str) -> None:
            import cloudpickle

            ray: Any = importlib.import_module("ray")
            box = ray.get_actor(mailbox)
            job, work, path = ray.get(box.take.remote(name))
            gpus = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
            if self.thread is None:
                sys.path += [entry for entry in path if entry not in sys.path]
                self.thread = WorkerThread(cloudpickle.loads(ray.get(work[0])), gpus=len(gpus))  # from the driver
            self.thread.take(cloudpickle.loads(job))
            actor = ray.get_runtime_context().current_actor
            ray.get(box.begin.remote(name, actor, os.getpid(), platform.node(), gpus))

    return Secateur


@final
class WorkerThread:
    """Does jobs in a thread, at most one event ahead of the one that asks for them."""

    def __init__(self, work: Work, *, gpus: int) -> None:
        self._worker = Worker(work, gpus=gpus)
        self._jobs: queue.SimpleQueue[tuple[Job, Outbox]] = queue.SimpleQueue()
        self._outbox = Outbox()
        self._next: Job | None = None
        self._costs: dict[str, float] = {}
        # One thread for all jobs: each new one would have PyTorch start threads of its own (OpenMP).
        threading.Thread(target=self._serve, daemon=True).start()

    def take(self, job: Job) -> None:
        """Keep a job, which begins with the first step: the one that gave it knows by then that it was taken."""
        self.abandon()
        self._outbox, self._next = Outbox(), job
        self._costs = {name: float(cost) for name, cost in job.trial.costs.items()}

    def step(self) -> dict[str, Any]:
        """The next thing that happens, as a result of Tune's."""
        if self._next is not None:
            self._jobs.put((self._next, self._outbox))  # as soon as the last one has ended
            self._next = None
        rung: Rung | None = None
        files: dict[str, bytes | None] = {}
        said = self._outbox.said.get()
        while isinstance(said, Happened) and isinstance(said.event, Rung):
            # Part of the next result: schedulers count results as epochs.
            rung, files = said.event, {**files, **said.files}
            said = self._outbox.said.get()
        if isinstance(said, Broken):
            raise RuntimeError(said.why)
        said = replace(said, files={**files, **said.files})
        return _numbers(said, rung) | {SAID: (said, rung), "done": isinstance(said, JobEnd), "costs": self._costs}

    def abandon(self) -> None:
        """Let the job end at its next event."""
        self._outbox.shut.set()
        with contextlib.suppress(queue.Empty):
            self._outbox.said.get_nowait()

    def close(self) -> None:
        """Remove the worker's folder."""
        self._worker.close()

    def _serve(self) -> None:
        while True:
            job, outbox = self._jobs.get()
            try:
                end = _sendable(self._worker.run(job, outbox.say))
            except _Abandoned:
                continue
            except BaseException as error:  # what ends a process elsewhere, such as SystemExit
                outbox.said.put(Broken(f"{type(error).__name__}: {error}"))
            else:
                outbox.said.put(end)


@final
class Outbox:
    """What one job says, until no one listens."""

    def __init__(self) -> None:
        self.said: queue.Queue[Happened | JobEnd | Broken] = queue.Queue(maxsize=1)
        self.shut = threading.Event()

    def say(self, happened: Happened) -> None:
        """Put it in; ends the job where no one takes it any more."""
        if not self.shut.is_set():
            self.said.put(happened)
        if self.shut.is_set():
            raise _Abandoned


def _sendable(end: JobEnd) -> JobEnd:
    """The end; a failure where the evaluator gave back what can't be sent."""
    import cloudpickle

    try:
        cloudpickle.dumps(end.outcome)
    except Exception as error:
        return end.unsendable(error)
    return end


def _numbers(said: Happened | JobEnd, rung: Rung | None) -> dict[str, Any]:
    """What Tune logs; the same columns every time, because its CSV keeps to the first ones."""
    found: dict[str, Any] = dict.fromkeys(("epoch", "loss", "error", "error_std", "seconds"), math.nan)
    if isinstance(said, Happened):
        found |= {} if rung is None else {"error": rung.error}
        return found | ({"epoch": said.event.done, "loss": said.event.loss} if isinstance(said.event, Epoch) else {})
    given = {} if said.outcome is None else asdict(said.outcome)
    found |= {name: given[name] for name in (*found, "latency_ms") if given.get(name) is not None}
    state = "failed" if isinstance(said.outcome, Failed) else "complete"
    return found | {"state": state, "attributes": given.get("attributes", {})}
