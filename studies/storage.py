"""The database behind a study, opened with settings that survive a kill and never wait long.

SQLite with a write-ahead log and `synchronous=NORMAL`: a killed process loses nothing that was committed, readers never
block the writer, and a commit costs no disk flush.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage

_TIMEOUT_S = 60  # how long one connection waits for another's transaction


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite file at `path`, whatever characters the path holds."""
    return sqlalchemy.URL.create("sqlite", database=str(path.absolute())).render_as_string()


def connect(url: str) -> BaseStorage:
    """The Optuna storage at `url`; tables are made where they are missing.

    Raises:
        ValueError: the storage can't be reached or read.
    """
    engine: dict[str, Any] = {"connect_args": {"timeout": _TIMEOUT_S}} if url.startswith("sqlite") else {}
    with quiet():
        try:
            storage = RDBStorage(url, engine_kwargs=engine)
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError) as error:
            raise ValueError(f"storage {url!r} can't be opened: {_first_line(error)}") from error
    if url.startswith("sqlite"):
        # A pragma belongs to a connection: this sets it on each that the pool opens from now on.
        sqlalchemy.event.listen(storage.engine, "connect", _relax)
        storage.engine.dispose()
    return storage


def disconnect(storage: BaseStorage) -> None:
    """Close every connection, so that the files behind it may be moved."""
    storage.remove_session()
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


def make_sqlite(path: Path) -> None:
    """An empty SQLite file that keeps a write-ahead log."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def check_sqlite(path: Path) -> None:
    """Read the whole file.

    Raises:
        ValueError: it is missing, truncated or no database.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: the study's trials are gone; restore the file or start a new study")
    try:
        with closing(sqlite3.connect(path, timeout=_TIMEOUT_S)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            connection.execute("SELECT COUNT(*) FROM trials").fetchone()
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise ValueError(f"{path} is damaged ({found}); restore it from a copy or start a new study")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from announcing on the terminal that a study was made; nothing here prints."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _relax(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
