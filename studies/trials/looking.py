"""The trials of a study to look at: a copy as of now, so that nothing is written or locked where they are kept.

SQLite writes beside a database that it only reads, and Optuna makes its tables in one that has none; so files are
copied into a temporary folder first, and that copy is opened. A server is asked only where the user says so, in
sessions that can only read.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from optuna.storages import BaseStorage

from ..disk.files import FormatError, copy, opened, read_whole
from ..disk.scratch import Scratch
from .folder import DATABASE, STUDY_JSON, described_storage
from .storage import check_sqlite, connect, sqlite_url
from .urls import JOURNAL, completed, file_of, is_journal, is_server

_BESIDE = ("-journal", "-wal")  # what SQLite has not moved into the file yet
_HEADER = 32  # bytes, of a write-ahead log; another one begins where all that stood there was moved
_ATTEMPTS, _FIRST_S = 12, 0.002


@final
class Glimpse:
    """Where the trials of a study can be read, again and again."""

    def __init__(self, folder: Path, found: Mapping[str, Any], *, given: str | None = None, ask: bool = False) -> None:
        """Know where they are kept.

        Args:
            folder: of the study.
            found: what its study.json holds.
            given: the URL of a server's storage again, with the password that it needs.
            ask: whether a server that study.json names may be connected to.

        Raises:
            ValueError: another storage was given, or trials are on a server that no one named.
        """
        kept = found["storage"]
        self._said = described_storage(folder, kept)
        if kept is None and given is not None:
            raise ValueError(
                f"the study's trials are kept in {folder}, not in the storage given; leave the storage out"
            )
        self._url = None if kept is None else completed(kept, given)
        self._file = folder / DATABASE if self._url is None else file_of(self._url, folder)
        if self._file is None and (self._url is None or not is_server(self._url)):
            raise FormatError(f"{folder / STUDY_JSON} keeps the trials nowhere; restore it from a copy")
        if self._file is None and given is None and not ask:
            raise ValueError(
                f"the trials of {folder} are kept in {self._said}, and looking connects to no server that only the "
                "folder names; add --connect, or connect=True in Python, if you know that server"
            )
        self._lock = threading.Lock()
        self._stamps: tuple[object, ...] = ()
        self._storage: BaseStorage | None = None

    def storage(self) -> BaseStorage:
        """The storage as of now: another copy where the file changed since.

        Raises:
            ValueError: the trials are gone, damaged, or can't be reached.
            ConnectionError: they change too fast to be copied.
        """
        with self._lock:  # a dashboard asks from several threads
            if self._file is None:
                assert self._url is not None
                self._storage = self._storage or connect(self._url, only_look=True)
            elif self._storage is None or self._stamps != _stamps(self._file):
                self._stamps = _stamps(self._file)
                self._storage = self._copied(self._file)
            return self._storage

    def _copied(self, file: Path) -> BaseStorage:
        if not file.exists():
            raise ValueError(
                f"{file} is missing: the study's trials are gone; restore the file, or see that its file system is "
                "mounted"
            )
        scratch = Scratch()
        try:
            if self._url is not None and is_journal(self._url):
                data = read_whole(file)
                whole = data.rfind(b"\n") + 1 or len(data)  # a line that is being written is none yet
                (scratch.path / file.name).write_bytes(data[:whole])
                storage = connect(f"{JOURNAL}{scratch.path / file.name}")
            else:
                _copy(file, scratch.path / DATABASE)
                check_sqlite(scratch.path / DATABASE, said=file)
                storage = connect(sqlite_url(scratch.path / DATABASE))
        except BaseException as error:
            scratch.remove()
            if isinstance(error, ValueError):  # it is no copy that the user knows
                raise ValueError(str(error).replace(str(scratch.path / file.name), str(file))) from error
            raise
        weakref.finalize(storage, scratch.remove)
        return storage


def _copy(file: Path, to: Path) -> None:
    """Copy an SQLite file as it is at one moment, with what stands in its log."""
    for attempt in range(_ATTEMPTS):
        before = _moment(file)
        for end in ("", *_BESIDE):
            Path(f"{to}{end}").unlink(missing_ok=True)
            try:
                copy(Path(f"{file}{end}"), Path(f"{to}{end}"))
            except FileNotFoundError:
                if not end:
                    raise
                Path(f"{to}{end}").unlink(missing_ok=True)
        if _moment(file) == before:
            return
        time.sleep(_FIRST_S * 2**attempt)
    raise ConnectionError(f"{file} changes faster than it can be copied; look again later")


def _moment(file: Path) -> object:
    """What is the same before and after a file was copied whole.

    While there is a log with a header, all that is moved into the file stands in the log too, which is copied after it.
    """
    try:
        with opened(Path(f"{file}-wal")) as log:
            header = log.read(_HEADER)
    except FileNotFoundError:
        header = b""
    return header or _stamps(file)


def _stamps(file: Path) -> tuple[object, ...]:
    found: list[object] = []
    for end in ("", *_BESIDE):
        try:
            stat = Path(f"{file}{end}").stat()
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)
