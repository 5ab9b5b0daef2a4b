"""The worker of the runner `processes`: takes the work and one job after another, and says what becomes of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from ..disk.scratch import Scratch
from ..outcomes.work import Job, Worker
from ..trials.events import Begun, JobEnd, Ready, Said, Unable, WorkerInfo

_LOOK_S = 1.0  # how often it looks whether its driver is still its parent


def serve(jobs: Connection, reports: Connection, path: list[str], environment: Mapping[str, str], gpus: int) -> None:
    """What a process does: takes the work, then one job after another, until the driver is gone.

    Args:
        jobs: the work and jobs come in here; it ends with the driver.
        reports: what is said of them goes out here.
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
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def leave() -> None:
        """End this process, and those that it started."""
        scratch.remove()
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(0)

    threading.Thread(target=_take, args=(jobs, inbox, leave), daemon=True).start()
    threading.Thread(target=_watch, args=(parent, leave), daemon=True).start()
    sys.path[:] = path
    os.environ.update(environment)  # before CUDA is: the server has not touched it

    def say(said: Said | Ready) -> None:
        reports.send_bytes(pickled(said))

    try:
        try:
            import cloudpickle

            # From the driver's own pipe.
            worker = Worker(cloudpickle.loads(inbox.get()), gpus=gpus, scratch=scratch)
        except BaseException as error:
            say(Unable(f"{type(error).__name__}: {error}"))
            return
        say(Ready(worker=WorkerInfo(pid=os.getpid())))
        while True:
            job: Job = pickle.loads(inbox.get())  # from the driver's own pipe
            say(Begun())
            reports.send_bytes(_sendable(worker.run(job, say)))
    except BrokenPipeError:
        pass
    finally:
        scratch.remove()


def _take(jobs: Connection, inbox: queue.SimpleQueue[bytes], leave: Callable[[], None]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            inbox.put(jobs.recv_bytes())
    leave()


def _watch(parent: int, leave: Callable[[], None]) -> None:
    """A process that the driver has forked may hold the other end of the pipe open."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    leave()


def _sendable(end: JobEnd) -> bytes:
    """The end as a message; a failure where the evaluator gave back what can't be sent."""
    try:
        return pickled(end)
    except Exception as error:
        return pickled(end.unsendable(error))


def pickled(message: Any) -> bytes:
    """The message as bytes; tensors travel in shared memory."""
    return bytes(ForkingPickler.dumps(message))
