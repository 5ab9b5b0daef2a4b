"""One driver a study: a kernel lock that a killed process gives back by dying."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the study in `folder`.

    Raises:
        ValueError: another process holds it, or the folder can't be written.
    """
    lock, holder = FileLock(folder / "lock"), folder / "driver.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder} is being run by process {_describe(holder)}; wait for it, or stop it and try again"
        ) from None
    except OSError as error:
        raise ValueError(f"{folder} can't be written ({error.strerror}); give a folder that can") from error
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text())
        return f"{found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "of unknown number"
