"""What secateur changes for a whole process, listed in one place; every change is put back when its block ends.

    without_main       the main module, while a worker is forked
    interrupts_held    whether SIGINT comes through, while a worker is forked
    environment        environment variables and the level of a logger, while Ray is imported and Ray Tune runs
    importable         where modules are found: for good, because a user's code may import late

Elsewhere, and put back as well: handlers of SIGINT and SIGTERM (`runners/executor.py`), the alarm of a time-out
(`runners/executor.py`), threads and deterministic algorithms of PyTorch (`evaluators/modes.py`), where temporary
files go (`scratch.py`). The server that workers are forked from stays for the next run (`runners/processes.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import types
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from pathlib import Path


@contextlib.contextmanager
def without_main() -> Iterator[None]:
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
def interrupts_held() -> Iterator[None]:
    """Keep an interrupt from ending the processes started within before they can ignore it; it comes afterwards."""
    resource_tracker.ensure_running()  # otherwise started within, which lets interrupts through (Python 3.11)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def environment(variables: Mapping[str, str], *, quiet: str) -> Iterator[None]:
    """Have environment variables set, and the logger named `quiet` say nothing but what is critical."""
    before = {name: os.environ.get(name) for name in variables}
    log = logging.getLogger(quiet)
    level = log.level
    os.environ |= variables
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def importable(folder: Path) -> None:
    """Have modules found in a folder too, at the end: a user's random.py takes no other module's place."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
