"""Trials in processes of this machine: one a slot, spawned once, kept warm, replaced when it dies.

Each slot has a pipe for jobs and a second one that only breaks: a worker notices at once when the driver is gone, in
the middle of a training too, and leaves. `ProcessPoolExecutor` won't do: one worker that dies fails all others' jobs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import signal
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, final

import torch

from .runner import Executor, Listen, Message, Runner
from .work import Job, Work, Worker

_GRACE_S = 5.0  # how long a worker that was asked to leave may take


@dataclass(frozen=True, kw_only=True)
class _Slot:
    process: SpawnProcess
    jobs: Connection
    life: Connection


@final
class Processes(Executor):
    """Does jobs in spawned processes, each of which sees the GPUs of its slot only."""

    def __init__(self, runner: Runner) -> None:
        """Take a runner's settings; nothing is started yet."""
        self._runner = runner
        self._context = multiprocessing.get_context("spawn")
        self._work = b""
        self._gpus: list[list[str]] = []
        self._slots: list[_Slot | None] = []

    def open(self, work: Work, listen: Listen) -> None:
        """Start a process a slot."""
        cuda = torch.device(work.device).type == "cuda"
        count, self._gpus = layout(self._runner, threads=work.threads, cpus=_cpus(), gpus=_visible_gpus(), cuda=cuda)
        self._work, self.slots = work.pickled(), count
        self._slots = [None] * count
        for slot in range(count):
            self._slots[slot] = self._start(slot)

    def submit(self, slot: int, job: Job) -> None:
        """Send the job to the slot's process; a dead one is found out by `wait`."""
        if self._slots[slot] is None:
            self._slots[slot] = self._start(slot)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._alive(slot).jobs.send(job)

    def wait(self, timeout_s: float | None) -> Sequence[Message]:
        """What processes say, or that they died."""
        watched: dict[Any, int] = {}
        for slot, one in enumerate(self._slots):
            if one is not None:
                watched |= {one.jobs: slot, one.process.sentinel: slot}
        found: list[Message] = []
        for slot in sorted({watched[ready] for ready in wait(list(watched), timeout_s)}):
            found += self._hear(slot)
        return found

    def cancel(self, slot: int) -> None:
        """Kill the slot's process; the next job starts another."""
        one, self._slots[slot] = self._slots[slot], None
        if one is not None:
            _end(one, kill=True)

    def close(self) -> None:
        """Ask the processes that wait to leave, and kill those that work."""
        slots, self._slots = [one for one in self._slots if one is not None], []
        for one in slots:
            one.life.close()
            one.jobs.close()
        for one in slots:
            _end(one, kill=False)

    def describe(self, slot: int) -> dict[str, Any]:
        """Process, host and GPUs of a slot."""
        one = self._slots[slot] if slot < len(self._slots) else None
        gpus = self._gpus[slot] if slot < len(self._gpus) else []
        return {"pid": None if one is None else one.process.pid, "host": platform.node(), "gpus": list(gpus)}

    def _start(self, slot: int) -> _Slot:
        mine, theirs = self._context.Pipe()
        watched, life = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=serve, args=(theirs, watched, list(sys.path)), name=f"secateur-{slot}", daemon=True
        )
        with _environment(self._gpus[slot] if self._gpus else None), _without_main():
            process.start()
        theirs.close()
        watched.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            mine.send_bytes(self._work)
        return _Slot(process=process, jobs=mine, life=life)

    def _hear(self, slot: int) -> Iterator[Message]:
        one = self._alive(slot)
        try:
            while one.jobs.poll():
                kind, payload = one.jobs.recv()
                yield Message(slot=slot, kind=kind, payload=payload)
        except (EOFError, OSError):
            pass
        else:
            if one.process.is_alive():
                return
        self._slots[slot] = None
        _end(one, kill=True)
        yield Message(slot=slot, kind="lost", payload=_cause(one.process.exitcode))

    def _alive(self, slot: int) -> _Slot:
        one = self._slots[slot]
        assert one is not None, "a slot is started before it is used"
        return one


def serve(jobs: Connection, life: Connection, path: list[str]) -> None:
    """What a process does: takes the work, then one job after another, until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver says what it means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    worker: Worker | None = None

    def leave() -> None:
        with contextlib.suppress(EOFError, OSError):
            life.recv()
        if worker is not None:
            worker.close()
        os._exit(0)

    threading.Thread(target=leave, daemon=True).start()
    sys.path[:] = path
    try:
        import cloudpickle

        work: Work = cloudpickle.loads(jobs.recv_bytes())  # from the driver's own pipe
        worker = Worker(work)
    except EOFError:
        return
    except BaseException as error:
        jobs.send(("unable", f"{type(error).__name__}: {error}"))
        return
    try:
        while True:
            job: Job = jobs.recv()
            jobs.send(("begun", None))
            report = worker.run(job, lambda event: jobs.send(("event", event)))
            jobs.send(("done", report))
    except (EOFError, OSError):
        pass
    finally:
        worker.close()


def layout(runner: Runner, *, threads: int, cpus: int, gpus: Sequence[str], cuda: bool) -> tuple[int, list[list[str]]]:
    """How many slots there are, and the GPUs that each one sees; no list where GPUs do not matter.

    Args:
        runner: what is asked.
        threads: of a trial.
        cpus: cores of this machine.
        gpus: GPUs of this machine, as `CUDA_VISIBLE_DEVICES` names them.
        cuda: whether the study runs on CUDA.

    Raises:
        ValueError: more is asked than there is.

    >>> layout(Runner(kind="processes", gpus_per_trial=0.5), threads=1, cpus=8, gpus=["0", "1"], cuda=True)
    (4, [['0'], ['0'], ['1'], ['1']])
    """
    share = runner.gpus_per_trial if runner.gpus_per_trial is not None else float(cuda)
    if not share:
        each = runner.cpus_per_trial or threads
        return runner.workers or max(1, int(cpus / each)), []
    room = int(len(gpus) / share + 1e-9) if share >= 1 else len(gpus) * int(1 / share + 1e-9)
    count = runner.workers or room
    if count > room or not room:
        raise ValueError(
            f"{count or 1} workers with gpus_per_trial={share:g} ask for {(count or 1) * share:g} GPUs, and this "
            f"machine has {len(gpus)}; lower workers or gpus_per_trial"
        )
    if share >= 1:
        whole = int(share)
        return count, [list(gpus[slot * whole : (slot + 1) * whole]) for slot in range(count)]
    on_one = int(1 / share + 1e-9)
    return count, [[gpus[slot // on_one]] for slot in range(count)]


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in {one.value for one in signal.Signals} else str(-code)
        hint = ", perhaps by the system for want of memory" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{hint}"
    return f"the worker ended with exit code {code}"


def _end(one: _Slot, *, kill: bool) -> None:
    if not kill:
        one.process.join(_GRACE_S)
    if one.process.is_alive():
        one.process.kill()
    one.process.join()
    one.jobs.close()
    one.life.close()


@contextlib.contextmanager
def _environment(gpus: Sequence[str] | None) -> Iterator[None]:
    """Show the processes started within only these GPUs."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    try:
        yield
    finally:
        if gpus is not None:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep the processes started within from running the user's script once more.

    Spawned processes import the main module (Python 3.11), and run it all where it has no guard. Ours have no use for
    it: what the user defined there travels by value.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
