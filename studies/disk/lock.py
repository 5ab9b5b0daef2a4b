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
def locked(folder: Path, *, shared: bool = False, also: Path | None = None) -> Iterator[None]:
    """Hold the study in `folder`.

    Args:
        folder: of the study.
        shared: together with others that hold it so.
        also: a file elsewhere that is held too: copies of a folder may share one storage.

    Raises:
        ValueError: another process holds it, or the folder can't be written.
    """
    lock, holder = folder / "lock", folder / "driver.json"
    with (_shared if shared else _alone)(folder, lock, holder):
        if also is None:
            held: FileLock | None = None
        else:
            held = FileLock(also)
            _acquire(held, also, f"another process runs a copy of {folder}, whose trials are in the same storage")
        try:
            if not shared:
                holder.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
            yield
        finally:
            if not shared:
                with suppress(OSError):
                    holder.unlink(missing_ok=True)
            if held is not None:
                held.release()


@contextmanager
def _alone(folder: Path, path: Path, holder: Path) -> Iterator[None]:
    lock = FileLock(path)
    _acquire(lock, folder, f"{folder} is being run by {_describe(holder)}")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _shared(folder: Path, path: Path, holder: Path) -> Iterator[None]:
    import fcntl

    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(
            f"{folder} is being run by {_describe(holder)}, which does not share it; wait for it, or stop it and "
            "start it again with join"
        ) from None
    with suppress(OSError):
        holder.unlink(missing_ok=True)  # left by one that was killed
    try:
        yield
    finally:
        os.close(handle)  # which gives the lock back


def _acquire(lock: FileLock, place: Path, said: str) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{said}; wait for it, or stop it and try again") from None
    except OSError as error:
        raise _unwritable(place, error) from error


def _unwritable(place: Path, error: OSError) -> ValueError:
    return ValueError(f"{place} can't be written ({error.strerror}); give a folder that can")


def _describe(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text())
        return f"process {found['pid']} on {found['host']}"
    except FileNotFoundError:
        return "drivers that share it"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process of unknown number"
