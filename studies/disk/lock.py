"""One process a study: a kernel lock that a killed process gives back by dying."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(folder: Path, *, also: Path | None = None, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the study in `folder`.

    Args:
        folder: of the study.
        also: a file elsewhere that is held too: copies of a folder may share one storage.
        wait_s: how long another process that holds it is waited for.

    Raises:
        ValueError: another process holds it, or the folder can't be written.
    """
    holder = folder / "driver.json"
    with ExitStack() as held:
        _acquire(held, folder / "lock", folder, lambda: f"{folder} is being run by {_describe(holder)}", wait_s)
        if also is not None:
            said = f"another process runs a copy of {folder}, whose trials are in the same storage"
            _acquire(held, also, also, lambda: said, wait_s)
        holder.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
        held.callback(_remove, holder)
        yield


def _acquire(held: ExitStack, path: Path, place: Path, said: Callable[[], str], wait_s: float) -> None:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        raise ValueError(f"{said()}; wait for it, or stop it and try again") from None
    except OSError as error:
        raise ValueError(f"{place} can't be written ({error.strerror}); give a folder that can") from error
    held.callback(lock.release)


def _remove(holder: Path) -> None:
    with suppress(OSError):
        holder.unlink(missing_ok=True)


def _describe(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text())
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process of unknown number"
