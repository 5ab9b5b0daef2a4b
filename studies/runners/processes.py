"""Trials in processes of this machine: one a slot, kept warm, replaced when it dies.

They are forked from a server that has imported all there is to import and done nothing else: a worker that dies is
replaced in milliseconds, where a fresh Python takes seconds. Nothing is forked from the driver, which has threads and
perhaps a GPU.

Each slot has two pipes, for jobs and for what is said of them. The driver's ends have a thread each, because a pipe
blocks: while a worker starts, is stopped, or sends something large. The worker's end for jobs has one too, so it
notices at once when the driver is gone, in the middle of a training too, and leaves. `ProcessPoolExecutor` won't do:
one worker that dies fails all others' jobs. Each worker leads a session of its own: processes that it starts end with
it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import pickle
import platform
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import ForkServerProcess
from typing import final

import torch

from ..disk.process_state import interrupts_held, without_main
from ..disk.scratch import Scratch
from ..outcomes.work import Job, Work
from ..settings.runner import Processes
from ..trials.events import Lost, Message, Ready, Said, WorkerInfo
from .executor import Executor, Listen, cores
from .process_worker import pickled, serve

logger = logging.getLogger("secateur")

_GRACE_S = 5.0  # how long a worker that was asked to leave may take
_START_S = 600.0  # how long one may take to start: packages may come from a slow network
_folder: Scratch | None = None  # of this process's server, which serves one run after another

_COMPILER = "torch._inductor.config"  # imported by PyTorch where algorithms are made deterministic: seconds (2.13)
_LOOK_S = 1.0  # how often it is looked whether workers are still there


@final
class ProcessExecutor(Executor):
    """Does jobs in processes, forked from a server of this one's; each sees the GPUs of its slot only."""

    def __init__(self, runner: Processes) -> None:
        """Take a runner's settings; nothing is started yet."""
        self.options = self._runner = runner
        self._context = multiprocessing.get_context("forkserver")
        self._work = b""
        self._gpus: list[list[str]] = []
        self._slots: list[_Process | None] = []
        # What was said, and by which process: of one that was given up nothing counts any more.
        self._said: queue.SimpleQueue[tuple[_Process | None, Message]] = queue.SimpleQueue()

    def check(self, *, threads: int, device: str) -> None:
        """Refuse more GPUs than there are."""
        room(self._runner, threads=threads, cuda=device.startswith("cuda"))

    def open(self, work: Work, listen: Listen) -> None:
        """Start a process a slot."""
        cuda = torch.device(work.device).type == "cuda"
        count, self._gpus = room(self._runner, threads=work.threads, cuda=cuda)
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
                said = f"no worker could be started: {error}"
                self._said.put((None, Message(slot=slot, said=Lost(said))))
                return
        one.post(pickled(job))

    def wait(self, timeout_s: float | None) -> Sequence[Message]:
        """What processes say, or that they died."""
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not (found := self._heard(min(_LOOK_S, max(0.0, until - time.monotonic())))):
            self._end_groups()
            found = self._late()
            if found or time.monotonic() >= until:
                break
        return found

    def cancel(self, slot: int) -> None:
        """Kill the slot's process; the next job starts another."""
        one, self._slots[slot] = self._slots[slot], None
        if one is not None:
            one.end(patience_s=0.0)

    def close(self) -> None:
        """Ask the processes to leave, which they do within a training too, and kill those that don't."""
        slots, self._slots = [one for one in self._slots if one is not None], []
        for one in slots:
            one.post(None)
        until = time.monotonic() + _GRACE_S
        for one in slots:
            one.end(patience_s=max(0.0, until - time.monotonic()))

    def describe(self, slot: int) -> WorkerInfo:
        """Process, host and GPUs of a slot."""
        one = self._slots[slot] if slot < len(self._slots) else None
        gpus = self._gpus[slot] if slot < len(self._gpus) else []
        return WorkerInfo(pid=None if one is None else one.process.pid, host=platform.node(), gpus=tuple(gpus))

    def _start(self, slot: int) -> _Process:
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus[slot])
        job_reader, jobs = self._context.Pipe(duplex=False)
        reports, report_writer = self._context.Pipe(duplex=False)
        gpus = len(self._gpus[slot]) if self._gpus else 0
        process = self._context.Process(
            target=serve,
            args=(job_reader, report_writer, list(sys.path), environment, gpus),
            name=f"secateur-{slot}",
            daemon=True,
        )
        try:
            with _server(), without_main(), interrupts_held():
                process.start()
        except BaseException as error:
            jobs.close()
            reports.close()
            if isinstance(error, EOFError):
                raise OSError("the process that workers are forked from has died") from error
            if isinstance(error, ChildProcessError):
                raise OSError(
                    "this process was forked from one that had workers, and can't have any; spawn it, or use the "
                    "runner 'serial'"
                ) from error
            raise
        finally:
            job_reader.close()
            report_writer.close()

        def say(one: _Process, said: Said) -> None:
            self._said.put((one, Message(slot=slot, said=said)))

        one = _Process(process, jobs, reports, say)
        one.post(self._work)
        return one

    def _heard(self, timeout_s: float) -> list[Message]:
        """What has been said, as soon as there is something."""
        found: list[Message] = []
        with contextlib.suppress(queue.Empty):
            while True:
                one, message = self._said.get(timeout=0 if found else timeout_s)
                if one is None:
                    found.append(message)
                elif self._slots[message.slot] is one:
                    said = message.said
                    said = self._lost(one, message.slot, said.why) if isinstance(said, Lost) else said
                    found.append(replace(message, said=said))
        return found

    def _lost(self, one: _Process, slot: int, why: str) -> Lost:
        """What is told of a process that says no more, and why it does where that is known."""
        self._slots[slot] = None
        code = one.end(patience_s=0.0 if why else _GRACE_S)
        return Lost(why or _cause(code))

    def _end_groups(self) -> None:
        """End what dead workers have started.

        One that was killed while it said something is waited for until nothing has its end of the pipe open.
        """
        for one in self._slots:
            if one is not None and not one.process.is_alive():
                one.kill()

    def _late(self) -> list[Message]:
        """Workers that never came up."""
        found, now = [], time.monotonic()
        for slot, one in enumerate(self._slots):
            if one is not None and not one.ready and now - one.started > _START_S:
                self.cancel(slot)
                said = f"the worker did not start within {_START_S:g} s"
                found.append(Message(slot=slot, said=Lost(said)))
        return found


@final
class _Process:
    """A worker as the driver knows it, with two threads that may wait for it.

    Attributes:
        process: it itself.
        started: when, by the monotonic clock.
        ready: whether it has come up.
    """

    def __init__(
        self,
        process: ForkServerProcess,
        jobs: Connection,
        reports: Connection,
        say: Callable[[_Process, Said], object],
    ) -> None:
        """Begin to listen to a process that was started.

        Args:
            process: of the worker.
            jobs: where it is sent to; closed here, as is the next.
            reports: where it sends to.
            say: told what it says, from another thread, and at last `"lost"`, with the reason if it is known.
        """
        self.process, self.started, self.ready = process, time.monotonic(), False
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._send, args=(jobs,), daemon=True),
            threading.Thread(target=self._receive, args=(reports, say), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def post(self, message: bytes | None) -> None:
        """Have a message sent; None asks the process to leave."""
        self._outbox.put(message)

    def kill(self) -> None:
        """Kill it, and what it has started."""
        assert self.process.pid, "a process that was started has a number"
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it may be gone, and processes that it started still be there
        self.process.kill()  # it may not lead a group yet

    def end(self, *, patience_s: float) -> int | None:
        """The exit code of the process, which has so many seconds to leave by itself."""
        if patience_s:
            self.process.join(patience_s)
        self.kill()
        self.process.join(_GRACE_S)
        code = self.process.exitcode
        self.post(None)
        for thread in self._threads:
            thread.join(_GRACE_S)
        if code is None:
            logger.warning("process %s was killed and does not end; it waits for a device or a disk", self.process.pid)
        else:
            self.process.close()
        return code

    def _send(self, jobs: Connection) -> None:
        with jobs, contextlib.suppress(OSError):  # that it is gone, the other thread tells
            while (message := self._outbox.get()) is not None:
                jobs.send_bytes(message)

    def _receive(self, reports: Connection, say: Callable[[_Process, Said], object]) -> None:
        why = ""
        with reports, contextlib.suppress(EOFError, OSError):
            # Its own children may have its end of the pipe open, and no end comes when it dies.
            while reports in wait_for([reports, self.process.sentinel]):
                message = reports.recv_bytes()
                try:
                    said = pickle.loads(message)  # from our own worker, over our own pipe
                except Exception as error:  # classes of the user's run here
                    why = f"the worker said what can't be read ({type(error).__name__}: {error})"
                    break
                if isinstance(said, Ready):
                    self.ready = True
                else:
                    say(self, said)
        say(self, Lost(why))


def layout(
    runner: Processes, *, threads: int, cpus: int, gpus: Sequence[str], cuda: bool
) -> tuple[int, list[list[str]]]:
    """How many slots there are, and the GPUs that each one sees; no list where GPUs do not matter.

    Args:
        runner: what is asked.
        threads: of a trial.
        cpus: cores of this machine.
        gpus: GPUs of this machine, as `CUDA_VISIBLE_DEVICES` names them.
        cuda: whether the study runs on CUDA.

    Raises:
        ValueError: more is asked than there is.

    >>> layout(Processes(gpus_per_trial=0.5), threads=1, cpus=8, gpus=["0", "1"], cuda=True)
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


def room(runner: Processes, *, threads: int, cuda: bool) -> tuple[int, list[list[str]]]:
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


@contextlib.contextmanager
def _server() -> Iterator[None]:
    """Have the server that is started within, if there is none yet, know what workers will need."""
    global _folder
    if _folder is None:
        multiprocessing.set_forkserver_preload([serve.__module__, _COMPILER])
        _folder = Scratch()
        util.Finalize(None, _folder.remove, exitpriority=-200)  # after -100, which removes the address
    with _folder.used():  # its address is a file, which a killed driver would leave behind
        yield
