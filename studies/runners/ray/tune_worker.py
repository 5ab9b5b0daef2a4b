"""What Ray runs for Tune: a trial, which is a function to Tune, and the mailbox between trials and the driver."""

from __future__ import annotations

import atexit
import importlib
import math
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

import cloudpickle

from ...outcomes.work import Asked, Job, Worker
from ...trials.events import Epoch, Happened, JobEnd, Ready, Said, Unable, WorkerInfo
from ...trials.trial import Failed

# What Tune logs; the same columns every time, because its CSV keeps to the first ones.
_EMPTY: Mapping[str, Any] = dict.fromkeys(("epoch", "epochs", "loss", "error", "error_std", "seconds"), math.nan)


def mailbox(ray: Any, name: str, work: Any) -> Any:
    """An actor between the driver and trials, whose processes Tune alone starts: jobs one way, what is said the other.

    It imports nothing of ours.

    Args:
        ray: the module.
        name: that trials find it by.
        work: the pickled `Work`, in Ray's object store.
    """

    class Mailbox:
        def __init__(self, work: list[Any], path: list[str]) -> None:
            import asyncio

            self.same = work, path
            self.jobs: dict[str, bytes] = {}
            self.said: Any = asyncio.Queue()

        async def work(self) -> tuple[list[Any], list[str]]:
            return self.same

        async def post(self, name: str, job: bytes) -> None:
            self.jobs[name] = job

        async def take(self, name: str) -> bytes:
            return self.jobs.pop(name)

        async def say(self, *said: Any) -> None:
            await self.said.put(said)

        async def hear(self) -> list[Any]:
            found = [await self.said.get()]
            while not self.said.empty():
                found.append(self.said.get_nowait())
            return found

    return ray.remote(Mailbox).options(name=name, num_cpus=0).remote([work], list(sys.path))


def trial(config: Mapping[str, Any], *, mailbox: str) -> None:
    """A trial of Tune's: does the job that is in the mailbox under the trial's name.

    Tune calls this in a thread of a process that it uses again, and a report waits until Tune has decided: where a
    scheduler stops the trial, `report` ends the thread with a SystemExit, told from a user's by its class.
    """
    ray: Any = importlib.import_module("ray")
    report: Any = importlib.import_module("ray.tune").report
    box, name = ray.get_actor(mailbox), config["name"]

    def say(said: Said | Ready, *actor: Any) -> None:
        ray.get(box.say.remote(name, cloudpickle.dumps(said), *actor))

    try:
        worker = _worker(mailbox)
        job: Job = cloudpickle.loads(ray.get(box.take.remote(name)))  # from the driver
    except Exception as error:
        say(Unable(f"{type(error).__name__}: {error}"))
        return
    here = WorkerInfo(pid=os.getpid(), host=platform.node(), gpus=_gpus())
    say(Ready(worker=here), ray.get_runtime_context().current_actor)
    empty = {**_EMPTY, "costs": config["costs"]}
    row = dict(empty)

    def tell(happened: Happened) -> None:
        nonlocal row
        say(happened)
        event = happened.event
        if isinstance(event, Epoch):
            try:
                report({**row, "epoch": event.done, "epochs": event.total, "loss": event.loss})
            except SystemExit as stop:
                raise Asked(stop.code) from None
            row = dict(empty)
        else:
            row["error"] = event.error  # part of the next result: schedulers count results as epochs

    end = _sendable(worker.run(job, tell))
    say(end)  # before Tune knows: a trial that ends without it was stopped
    report({**empty, **_last(end), "done": True})


@cache
def _worker(mailbox: str) -> Worker:
    """This process's own: model and data are loaded once."""
    ray: Any = importlib.import_module("ray")
    (work,), path = ray.get(ray.get_actor(mailbox).work.remote())
    sys.path += [entry for entry in path if entry not in sys.path]
    worker = Worker(cloudpickle.loads(ray.get(work)), gpus=len(_gpus()))  # from the driver
    atexit.register(worker.close)
    return worker


def _gpus() -> tuple[str, ...]:
    return tuple(name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name)


def _sendable(end: JobEnd) -> JobEnd:
    """The end; a failure where the evaluator gave back what can't be sent."""
    try:
        cloudpickle.dumps(end)
    except Exception as error:
        return end.unsendable(error)
    return end


def _last(end: JobEnd) -> dict[str, Any]:
    """What Tune's last result of a trial says."""
    given = {} if end.outcome is None else asdict(end.outcome)
    known = {name: given[name] for name in (*_EMPTY, "latency_ms") if given.get(name) is not None}
    state = "failed" if isinstance(end.outcome, Failed) else "complete"
    return {**known, "state": state, "attributes": given.get("attributes", {})}
