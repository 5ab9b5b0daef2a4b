"""A journal of trials in one file, for network file systems: every change is a line of JSON at its end.

A writer holds a kernel lock on `FILE.lock` for as long as it appends, so a killed one leaves nothing locked. Over NFS
such locks need version 4, or version 3 with its lock manager, and no `nolock` or `local_lock` among the mount options.
A line that a killed writer, a full disk or a power cut left half-written is cut off before the next one is appended.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, final

from filelock import FileLock
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from ..disk.files import FULL

logger = logging.getLogger("secateur")

_BLOCK = 1 << 16
_BEGIN = b'{"op_code":'  # of every line that Optuna writes


@final
class JournalFile(JournalFileBackend):
    """The lines of a journal, for Optuna's `JournalStorage`.

    Optuna's own locks are left behind by a killed writer, which costs the next one half a minute, and what is appended
    to a torn line can never be read again (Optuna 5.0).
    """

    def __init__(self, path: Path) -> None:
        """Open the journal at `path`; an empty one is made where there is none.

        Raises:
            OSError: it can't be read or written.
            ValueError: it is no journal.
        """
        self._path = path
        self._whole = _WholeLines(path)
        super().__init__(str(path), self._whole)
        self._whole.acquire()
        self._whole.release()

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The whole lines from a number on; a torn one at the end is left out."""
        number = log_number_from
        try:
            for found in super().read_logs(log_number_from):
                number += 1
                yield found
        except ValueError as error:
            raise ValueError(f"{self._path} is damaged in line {number + 1}; restore it from a copy") from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines at the end, on the disk when this returns: all of them or none.

        Raises:
            OSError: what the file system says.
        """
        self._whole.acquire()  # twice in one process is once
        before = os.stat(self._path).st_size
        try:
            super().append_logs(logs)
        except BaseException as error:
            os.truncate(self._path, before)
            if isinstance(error, OSError) and error.errno in FULL:
                said = f"the disk is full: {self._path} could not be written; free some space and go on"
                raise OSError(error.errno, said) from error
            raise
        finally:
            self._whole.release()


@final
class _WholeLines(JournalFileOpenLock):
    """A kernel lock; the file has no torn line at its end when it is acquired."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._lock = FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self._lock.acquire(poll_interval=0.002)
        if self._lock.lock_counter > 1:
            return True
        try:
            # Nothing is made where the file is gone: a file system that is not mounted would get a journal of its own.
            handle = os.open(self._path, os.O_RDWR)
            try:
                self._mend(handle)
            finally:
                os.close(handle)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()

    def _mend(self, handle: int) -> None:
        """Cut off the last line if it is torn.

        Raises:
            ValueError: more than that is wrong; the file is left as it is.
        """
        size = os.fstat(handle).st_size
        if not size:
            return
        start = _start(handle, size)
        last = os.pread(handle, size - start, start)
        if _read(last) is not None:
            return
        before = os.pread(handle, start - _start(handle, start), _start(handle, start)) if start else b""
        if _read(before) is None if start else not last.startswith(_BEGIN[: len(last)]):
            raise ValueError(f"{self._path} is no journal, or damaged; restore it from a copy or name another file")
        logger.warning("%s ended in a torn line of %d bytes, which is cut off", self._path, size - start)
        os.ftruncate(handle, start)
        os.fsync(handle)


def _start(handle: int, end: int) -> int:
    """Where the last line before `end` starts."""
    at = end - 1  # the newline that ends it, if there is one, does not count
    while at > 0:
        begin = max(0, at - _BLOCK)
        found = os.pread(handle, at - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        at = begin
    return 0


def _read(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
