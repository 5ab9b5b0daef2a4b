"""Trials in processes of this machine: one a slot, kept warm, replaced when it dies.

They are forked from a server that has imported all there is to import and done nothing else: a worker that dies is
replaced in milliseconds, where a fresh Python takes seconds. Nothing is forked from the driver, which has threads and
perhaps a GPU.

Each slot has a pair of sockets for jobs and a second one that only breaks: a worker notices at once when the driver is
gone, in the middle of a training too, and leaves. `ProcessPoolExecutor` won't do: one worker that dies fails all
others' jobs. Each worker leads a session of its own: processes that it starts end with it.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import platform
import selectors
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker, util
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, final

import torch

from ..disk.scratch import Scratch
from ..outcomes.work import Job, JobEnd, Work, Worker
from ..settings.runner import Runner
from .channel import Channel, receive, send
from .executor import Executor, Listen, Message, cores

logger = logging.getLogger("secateur")

_GRACE_S = 5.0  # how long a worker that was asked to leave may take
_START_S = 600.0  # how long one may take to start: packages may come from a slow network
_folder: Scratch | None = None  # of this process's server, which serves one run after another

_LOOK_S = 1.0  # how often a worker looks whether its driver is still its parent


@dataclass(kw_only=True)
class _Slot:
    process: ForkServerProcess
    jobs: Channel
    life: socket.socket
    started: float = field(default_factory=time.monotonic)
    ready: bool = False


@final
class Processes(Executor):
    """Does jobs in processes, forked from a server of this one's; each sees the GPUs of its slot only."""

    def __init__(self, runner: Runner) -> None:
        """Take a runner's settings; nothing is started yet."""
        self.options = runner
        self._context = multiprocessing.get_context("forkserver")
        self._work = b""
        self._gpus: list[list[str]] = []
        self._slots: list[_Slot | None] = []
        self._lost: list[Message] = []

    def open(self, work: Work, listen: Listen) -> None:
        """Start a process a slot."""
        cuda = torch.device(work.device).type == "cuda"
        count, self._gpus = room(self.options, threads=work.threads, cuda=cuda)
        self._work, self.slots = work.pickled(), count
        self._slots = [None] * count
        for slot in range(count):
            self._slots[slot] = self._start(slot)

    def submit(self, slot: int, job: Job) -> None:
        """Send the job to the slot's process; a dead one, or one that can't be started, is found out by `wait`."""
        one = self._slots[slot]
        if one is None:
            try:
                one = self._slots[slot] = self._start(slot)
            except OSError as error:
                self._lost.append(Message(slot=slot, kind="lost", payload=f"no worker could be started: {error}"))
                return
        one.jobs.post(_pickled(job))

    def wait(self, timeout_s: float | None) -> Sequence[Message]:
        """What processes say, or that they died."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            found, self._lost = self._lost, []
            left = None if end is None else max(0.0, end - time.monotonic())
            for slot in self._stirring(0.0 if found else left):
                found += self._hear(slot)
            found += self._late()
            if found or (end is not None and time.monotonic() >= end):
                return found

    def cancel(self, slot: int) -> None:
        """Kill the slot's process; the next job starts another."""
        one, self._slots[slot] = self._slots[slot], None
        if one is not None:
            _end(one, patience_s=0.0)

    def close(self) -> None:
        """Ask the processes to leave, which they do within a training too, and kill those that don't."""
        slots, self._slots = [one for one in self._slots if one is not None], []
        for one in slots:
            one.life.close()
        end = time.monotonic() + _GRACE_S
        for one in slots:
            _end(one, patience_s=max(0.0, end - time.monotonic()))

    def describe(self, slot: int) -> dict[str, Any]:
        """Process, host and GPUs of a slot."""
        one = self._slots[slot] if slot < len(self._slots) else None
        gpus = self._gpus[slot] if slot < len(self._gpus) else []
        return {"pid": None if one is None else one.process.pid, "host": platform.node(), "gpus": list(gpus)}

    def _start(self, slot: int) -> _Slot:
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus[slot])
        mine, theirs = socket.socketpair()
        life, watched = socket.socketpair()
        process = self._context.Process(
            target=serve,
            args=(theirs, watched, list(sys.path), environment, len(self._gpus[slot]) if self._gpus else 0),
            name=f"secateur-{slot}",
            daemon=True,
        )
        try:
            with _server(), _without_main(), _interrupts_held():
                process.start()
        except BaseException as error:
            mine.close()
            life.close()
            if isinstance(error, EOFError):
                raise OSError("the process that workers are forked from has died") from error
            if isinstance(error, ChildProcessError):
                raise OSError(
                    "this process was forked from one that had workers, and can't have any; spawn it, or use the "
                    "runner 'serial'"
                ) from error
            raise
        finally:
            theirs.close()
            watched.close()
        one = _Slot(process=process, jobs=Channel(mine), life=life)
        one.jobs.post(self._work)
        return one

    def _stirring(self, timeout_s: float | None) -> list[int]:
        """The slots whose process says something, takes more of what it is sent, or has ended."""
        with selectors.DefaultSelector() as selector:
            for slot, one in enumerate(self._slots):
                if one is not None:
                    both = selectors.EVENT_READ | (selectors.EVENT_WRITE if one.jobs.behind else 0)
                    selector.register(one.jobs, both, slot)
                    selector.register(one.process.sentinel, selectors.EVENT_READ, slot)
            return sorted({key.data for key, _ in selector.select(timeout_s)})

    def _hear(self, slot: int) -> Iterator[Message]:
        one = self._slots[slot]
        assert one is not None, "only a slot that was started says anything"
        one.jobs.push()
        alive = one.process.is_alive()  # before the last look: nothing that it said is missed
        arrived, more = one.jobs.pull()
        why = None
        for message in arrived:
            try:
                kind, payload = pickle.loads(message)  # from our own worker, over our own socket
            except Exception as error:  # classes of the user's run here
                why = f"the worker said what can't be read ({type(error).__name__}: {error})"
                break
            if kind == "ready":
                one.ready = True
            else:
                yield Message(slot=slot, kind=kind, payload=payload)
        if why is None and alive and more:
            return
        self._slots[slot] = None
        code = _end(one, patience_s=_GRACE_S if why is None else 0.0)
        yield Message(slot=slot, kind="lost", payload=why or _cause(code))

    def _late(self) -> Iterator[Message]:
        """Workers that never came up."""
        now = time.monotonic()
        for slot, one in enumerate(self._slots):
            if one is not None and not one.ready and now - one.started > _START_S:
                self.cancel(slot)
                yield Message(slot=slot, kind="lost", payload=f"the worker did not start within {_START_S:g} s")


def serve(jobs: socket.socket, life: socket.socket, path: list[str], environment: Mapping[str, str], gpus: int) -> None:
    """What a process does: takes the work, then one job after another, until the driver is gone.

    Args:
        jobs: jobs come in here, and reports go out.
        life: ends with the driver.
        path: where modules are found.
        environment: the driver's, with the GPUs of the slot.
        gpus: how many this process has; it trains over all of them where there are several.
    """
    parent = os.getppid()  # ends with the driver, too
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C in the terminal reaches the driver alone, which says what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # Daemonic, it ends with a driver that forgets to close; but Python (3.11) would then refuse it the children that
    # data loaders are made of, and those end with its session.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    scratch = Scratch()
    threading.Thread(target=_leave_with, args=(life, parent, scratch), daemon=True).start()
    sys.path[:] = path
    os.environ.update(environment)  # before CUDA is: the server has not touched it
    try:
        try:
            import cloudpickle

            # From the driver's own socket.
            worker = Worker(cloudpickle.loads(receive(jobs)), gpus=gpus, scratch=scratch)
        except EOFError:
            return
        except BaseException as error:
            send(jobs, _pickled(("unable", f"{type(error).__name__}: {error}")))
            return
        send(jobs, _pickled(("ready", None)))
        while True:
            job: Job = pickle.loads(receive(jobs))  # from the driver's own socket
            send(jobs, _pickled(("begun", None)))
            report = worker.run(job, lambda event: send(jobs, _pickled(("event", event))))
            send(jobs, _said(report))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        scratch.remove()


def _leave_with(life: socket.socket, parent: int, scratch: Scratch) -> None:
    """End this process, and those that it started, when the driver is gone."""
    life.settimeout(_LOOK_S)
    while os.getppid() == parent:  # a process that the driver has forked may hold the other end open
        try:
            life.recv(1)
        except TimeoutError:
            continue
        except OSError:
            pass
        break
    scratch.remove()
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


def _said(report: JobEnd) -> bytes:
    """The report as a message; a failure where the evaluator gave back what can't be sent."""
    try:
        return _pickled(("done", report))
    except Exception as error:
        return _pickled(("done", report.unsendable(error)))


def _pickled(message: Any) -> bytes:
    return bytes(ForkingPickler.dumps(message))


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


def room(runner: Runner, *, threads: int, cuda: bool) -> tuple[int, list[list[str]]]:
    """`layout` on this machine."""
    return layout(runner, threads=threads, cpus=cores(), gpus=_visible_gpus(), cuda=cuda)


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in {one.value for one in signal.Signals} else str(-code)
        hint = ", perhaps by the system for want of memory" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{hint}"
    return f"the worker ended with exit code {code}"


def _end(one: _Slot, *, patience_s: float) -> int | None:
    """The exit code of a slot's process, which has so many seconds to leave by itself."""
    if patience_s:
        one.process.join(patience_s)
    assert one.process.pid, "only a process that was started has a slot"
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(one.process.pid, signal.SIGKILL)  # it may be gone, and processes that it started still be there
    one.process.kill()  # it may not lead a group yet
    one.process.join(_GRACE_S)
    code = one.process.exitcode
    one.jobs.close()
    one.life.close()
    if code is None:
        logger.warning("process %s was killed and does not end; it waits for a device or a disk", one.process.pid)
    else:
        one.process.close()
    return code


@contextlib.contextmanager
def _server() -> Iterator[None]:
    """Have the server that is started within, if there is none yet, know what workers will need."""
    global _folder
    if _folder is None:
        multiprocessing.set_forkserver_preload([__name__])
        _folder = Scratch()
        util.Finalize(None, _folder.remove, exitpriority=-200)  # after -100, which removes the address
    with _folder.used():  # its address is a file, which a killed driver would leave behind
        yield


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep the processes started within from running the user's script once more.

    Workers import the main module (Python 3.11), and run it all where it has no guard. Ours have no use for
    it: what the user defined there travels by value.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep an interrupt from ending the processes started within before they can ignore it; it comes afterwards."""
    resource_tracker.ensure_running()  # otherwise started within, which lets interrupts through (Python 3.11)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
