"""The trials of a study in files that may be read and not written: an archive, a colleague's study, a read-only disk.

SQLite can't read a write-ahead log where it may not write beside it, and a journal is opened for writing. So a copy is
looked at, which goes when the storage does.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from .folder import DATABASE, storage_url
from .storage import check_sqlite, connect, sqlite_url
from .urls import JOURNAL, file_of, is_journal


def open_to_look(folder: Path, found: Mapping[str, Any], given: str | None = None) -> tuple[BaseStorage, bool]:
    """The storage of a study, and whether it is a copy as of now.

    Args:
        folder: of the study.
        found: what its study.json holds.
        given: see `storage_url`.

    Raises:
        ValueError: the trials are gone or damaged, or another storage was given.
    """
    kept = found["storage"]
    file = folder / DATABASE if kept is None else file_of(kept, folder)
    if file is None or not file.is_file() or all(os.access(place, os.W_OK) for place in (file, file.parent)):
        return connect(storage_url(folder, found, given), folder), False
    if kept is not None or given is not None:
        storage_url(folder, found, given)  # refuses another one
    aside = Path(tempfile.mkdtemp(prefix="secateur-look-"))
    try:
        if kept is not None and is_journal(kept):
            shutil.copyfile(file, aside / file.name)
            storage = connect(f"{JOURNAL}{aside / file.name}")
        else:
            _copy(file, aside / DATABASE)
            check_sqlite(aside / DATABASE, said=file)
            storage = connect(sqlite_url(aside / DATABASE))
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    weakref.finalize(storage, shutil.rmtree, aside, ignore_errors=True)
    return storage, True


def _copy(file: Path, to: Path) -> None:
    """Copy an SQLite file as it is at one moment, what stands in its log included."""
    try:
        with (
            closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(to)) as target,
        ):
            source.backup(target)
    except sqlite3.Error:  # damaged; or not to be read in its place, because nobody has it open: so nothing changes
        for end in ("", "-wal"):
            if Path(f"{file}{end}").exists():
                shutil.copyfile(f"{file}{end}", f"{to}{end}")
