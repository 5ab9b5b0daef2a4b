"""Trials in warm actors of a Ray cluster, one a slot: loaded once, listened to as they go, replaced when they die.

An actor has a thread that does jobs. `take` hands it one, and `listen`, of which one call is always under way, returns
what it says; so a death is noticed whether or not it had a job. (Streaming generators would do the same, but Ray's
client, `ray://`, has none: Ray 2.60.) Ray itself never retries: attempts are counted in `dispatch.py` alone.

**Clusters.** Without an address a Ray that is initialised already is used, and left running; else one is started on
this machine for the length of a run. `"auto"` is the running cluster of this machine, `"HOST:PORT"` that of a head node
this machine belongs to, `"ray://HOST:10001"` one that it does not belong to (which takes `pip install "ray[client]"`).
Python and Ray must be of the same version everywhere. A job of `ray job submit` passes `"auto"`.

**Code.** What the driver can import, actors on this machine can. Other nodes must have secateur installed, and the
modules that model, task and evaluator come from: installed, or in the same folder of a shared disk; or initialise Ray
before the search, with `ray.init(address, runtime_env={"working_dir": "."})`. What was defined in the script itself
travels by value.

**Tokens.** Ray (2.59 and later) asks for a token where a local cluster is started: it makes one in `~/.ray/auth_token`.
A cluster that was started elsewhere with tokens wants the same file here, or `RAY_AUTH_TOKEN`; none is ever read,
written or shown by secateur.

**Ctrl-C.** Ray blocks it in the processes that it starts, so the workers of a local cluster finish what they do.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ...disk.scratch import sweep
from ...outcomes.work import Job, Work, Worker
from ...settings.runner import Ray
from ...trials.events import Begun, JobEnd, Lost, Message, Ready, Said, Unable, WorkerInfo
from ..executor import Executor, Listen
from .cluster import _OBJECTS, Cluster, check_installed

_GRACE_S = 5.0  # how long workers that were asked to leave may take


@dataclass(kw_only=True)
class _ActorHandle:
    """An actor as the driver knows it.

    Attributes:
        actor: Ray's handle.
        saying: the call of `listen` that is under way.
        ready: what it said when it was up; None until then.
    """

    actor: Any
    saying: Any
    ready: Ready | None = None


@final
class RayExecutor(Executor):
    """Does jobs in actors of a Ray cluster.

    There are as many slots as at the start whatever happens to nodes. An actor whose node is gone is made again where
    there is room, at once or when there will be; until then its slot uses any other's actor that has nothing to do.
    """

    def __init__(self, runner: Ray) -> None:
        """Take a runner's settings; nothing is started yet."""
        self.options = self._runner = runner
        self._cluster: Cluster | None = None
        self._work: Any = None
        self._kind: Any = None
        self._actors: list[_ActorHandle] = []
        self._waiting: dict[int, Job] = {}
        self._busy: set[int] = set()
        self._folders: list[Path] = []

    def check(self, *, threads: int, device: str) -> None:
        """Refuse to go on without Ray; a cluster is asked when it is opened."""
        check_installed()

    def open(self, work: Work, listen: Listen) -> None:
        """Connect, or start a cluster, and start an actor a slot."""
        packed = work.pickled()
        self._cluster = Cluster(self._runner.address, objects=_OBJECTS + 2 * len(packed))
        try:
            request, self.slots = self._cluster.plan(self._runner, work)
            self._kind = self._cluster.ray.remote(_Actor).options(
                num_cpus=request.get("CPU", 0),
                num_gpus=request.get("GPU", 0),
                resources={name: amount for name, amount in request.items() if name not in ("CPU", "GPU")},
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=2,  # `take`, and `listen`
            )
            self._work = self._cluster.ray.put(packed)
            self._actors = [self._start() for _ in range(self.slots)]
        except BaseException:
            self.close()
            raise

    def submit(self, slot: int, job: Job) -> None:
        """Hand the job to the slot's actor, or keep it until one is up."""
        self._waiting[slot] = job
        self._give(slot)

    def wait(self, timeout_s: float | None) -> Sequence[Message]:
        """What actors say, or that they died."""
        found = self._share()
        ray, refs = self._ray, {one.saying: slot for slot, one in enumerate(self._actors)}
        ready, _ = ray.wait(list(refs), num_returns=1, timeout=0 if found else timeout_s)
        if ready:
            ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
        for slot in sorted(refs[ref] for ref in ready):
            found += self._messages(slot)
        return [*found, *self._share()]

    def cancel(self, slot: int) -> None:
        """Kill the slot's actor and start another: nothing gentler stops a trial that hangs."""
        self._waiting.pop(slot, None)
        self._replace(slot)

    def close(self) -> None:
        """Have actors that wait leave, and kill those that work; a cluster that was started here ends."""
        cluster, self._cluster = self._cluster, None
        actors, self._actors = self._actors, []
        if cluster is None:
            return
        self._note_folders(actors)
        try:
            with contextlib.suppress(Exception):  # a cluster that is gone has no actors left to end
                idle = [one for slot, one in enumerate(actors) if one.ready is not None and slot not in self._busy]
                for one in idle:
                    one.actor.take.remote(None)
                if idle:
                    cluster.ray.wait([one.saying for one in idle], num_returns=len(idle), timeout=_GRACE_S)
            for one in actors:
                with contextlib.suppress(Exception):
                    cluster.ray.kill(one.actor)
        finally:
            self._waiting, self._busy, self._work, self._kind = {}, set(), None, None
            cluster.close()
        if cluster.own:
            _swept(self._folders)
        self._folders = []

    def describe(self, slot: int) -> WorkerInfo:
        """Process, host and GPUs of a slot; nothing until its actor is up."""
        ready = self._actors[slot].ready if slot < len(self._actors) else None
        return WorkerInfo() if ready is None else ready.worker

    @property
    def _ray(self) -> Any:
        assert self._cluster is not None, "an executor is opened before it is used"
        return self._cluster.ray

    def _start(self) -> _ActorHandle:
        actor = self._kind.remote(self._work, list(sys.path))
        return _ActorHandle(actor=actor, saying=actor.listen.remote())

    def _give(self, slot: int) -> None:
        one = self._actors[slot]
        if slot in self._waiting and one.ready is not None:
            one.actor.take.remote(self._waiting.pop(slot))
            self._busy.add(slot)

    def _share(self) -> list[Message]:
        """Let jobs whose actor is not up have another slot's that has nothing to do.

        That slot is told that its worker is gone: the other one has none of the files it sent there.
        """
        found = []
        for slot in sorted(self._waiting):
            idle = [
                other
                for other, one in enumerate(self._actors)
                if one.ready is not None and other not in self._busy and other not in self._waiting
            ]
            if not idle:
                break
            other = idle[0]
            self._actors[slot], self._actors[other] = self._actors[other], self._actors[slot]
            self._give(slot)
            found.append(Message(slot=other, said=Lost("another slot needed its worker")))
        return found

    def _messages(self, slot: int) -> Iterator[Message]:
        one = self._actors[slot]
        try:
            found = self._ray.get(one.saying)
        except self._ray.exceptions.RayError as error:
            found = [_last_words(error)]
        else:
            one.saying = one.actor.listen.remote()
        for said in found:
            match said:
                case Ready():
                    one.ready = said
                    self._give(slot)
                    continue
                case Lost():
                    self._waiting.pop(slot, None)
                    self._replace(slot)
                case JobEnd():
                    self._busy.discard(slot)
            yield Message(slot=slot, said=said)

    def _replace(self, slot: int) -> None:
        before = self._actors[slot]
        with contextlib.suppress(Exception):  # it may be dead already
            self._ray.kill(before.actor)
        self._busy.discard(slot)
        self._note_folders([before])
        self._actors[slot] = self._start()

    def _note_folders(self, actors: Sequence[_ActorHandle]) -> None:
        self._folders += [Path(one.ready.folder) for one in actors if one.ready is not None]


class _Actor:
    """What runs on a node: a worker in a thread, its jobs and what it says about them."""

    def __init__(self, work: bytes, path: list[str]) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[Said | Ready] = queue.SimpleQueue()
        # One thread for all jobs: each new one would have PyTorch start threads of its own (OpenMP).
        threading.Thread(target=self._serve, args=(work, path), daemon=True).start()

    def take(self, job: Job | None) -> None:
        """Do this job next; None for no more."""
        self._jobs.put(job)

    def listen(self) -> list[Said | Ready]:
        """What was said since the last time, as soon as there is something."""
        found = [self._said.get()]
        while not self._said.empty():
            found.append(self._said.get())
        return found

    def _serve(self, packed: bytes, path: list[str]) -> None:
        try:
            import cloudpickle

            sys.path += [place for place in path if place not in sys.path]
            gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            worker = Worker(cloudpickle.loads(packed), gpus=len(gpus))  # from the driver
        except BaseException as error:
            self._said.put(Unable(f"{type(error).__name__}: {error}"))
            return
        try:
            here = WorkerInfo(pid=os.getpid(), host=platform.node(), gpus=tuple(gpus))
            self._said.put(Ready(worker=here, folder=str(worker.folder)))
            while (job := self._jobs.get()) is not None:
                self._said.put(Begun())
                self._said.put(worker.run(job, self._said.put))
        except BaseException as error:  # a full disk, or an evaluator that wants to leave
            self._said.put(Lost(f"the worker ended with {type(error).__name__}: {error}"))
        finally:
            worker.close()
        self._said.put(Lost("the worker has left"))  # the driver that told it to waits for its last call


def _last_words(error: Exception) -> Lost | Unable:
    """What to say of an actor that can't be reached."""
    said = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
    if "creation task" in said or type(error).__name__ == "RuntimeEnvSetupError":
        # Ours raises nothing there: the node could not import secateur, or not make the runtime environment.
        return Unable(f"an actor can't be made on its node: ...{said[-500:]}")
    if "is unavailable" in said:
        return Lost("the worker died: its node can't be reached")
    for cause in ("its node has died", "its worker process has died", "its owner has died"):
        if cause in said:
            memory = ", for want of memory" if "OutOfMemory" in said or "due to OOM" in said else ""
            return Lost(f"the worker died: {cause}{memory}")
    return Lost(f"the worker died: {said[:300]}")


def _swept(folders: Sequence[Path]) -> None:
    """Have the folders removed of workers on this machine that had no time to do so, as soon as they have ended."""
    until = time.monotonic() + _GRACE_S
    while any(folder.exists() for folder in folders) and time.monotonic() < until:
        sweep(folders[0].parent)
        time.sleep(0.01)
