"""The database behind a study, opened with settings that survive a kill and never wait long.

SQLite with a write-ahead log and `synchronous=NORMAL`: a killed process loses nothing that was committed, readers never
block the writer, and a commit costs no disk flush. Journals of network file systems are in `journal.py`.

A storage that is away raises a `ConnectionError`, one that is full another `OSError`; neither shows a password.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ...search.problem import quiet
from ..disk.files import FormatError
from .journal import JournalFile
from .urls import SERVERS, file_of, is_journal, is_server, journal_path, masked, parsed, without_password
from .words import first_line

_TIMEOUT_S = 60  # how long one connection waits for another's transaction
_CONNECT_S = 10  # how long a server may take to answer

# A server whose machine is gone never says so: these find out within half a minute.
_LIVELY = {
    "postgresql": {
        "connect_timeout": _CONNECT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    },
    "mysql": {"connect_timeout": _CONNECT_S, "read_timeout": 30, "write_timeout": 30},
}
_READING = {  # sessions that can only read
    "postgresql": {"options": "-c default_transaction_read_only=on"},
    "mysql": {"init_command": "SET SESSION TRANSACTION READ ONLY"},
}
_FULL = {"53100", 1021, 1114, "SQLITE_FULL"}  # PostgreSQL, MySQL twice, SQLite
_AWAY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PROTOCOL")


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite file at `path`, whatever characters the path holds."""
    return sqlalchemy.URL.create("sqlite", database=str(path.absolute())).render_as_string()


def check_file(url: str, folder: Path | None = None) -> None:
    """Raise a ValueError where what lies at the place of a storage's file is none; nothing is opened."""
    file = file_of(url, folder)
    if file is not None and file.exists() and not file.is_file():
        raise ValueError(f"storage {file} is a folder, a pipe or a device; give a file, or one that is not there yet")


def connect(url: str, folder: Path | None = None, *, only_look: bool = False) -> BaseStorage:
    """The Optuna storage at `url`; tables, or the journal, are made where they are missing.

    Args:
        url: see `urls.py`.
        folder: where the relative path of a journal starts; the working directory when None.
        only_look: whether sessions of a server can only read, and no tables are made.

    Raises:
        ValueError: the storage can't be reached or read.
    """
    check_file(url, folder)
    if is_journal(url):
        path = journal_path(url, folder)
        try:
            return JournalStorage(JournalFile(path))
        except OSError as error:
            raise ValueError(f"storage {path} can't be opened ({error.strerror}); give a file that can") from error
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError) as error:
            raise FormatError(f"{path} is no journal of trials, or damaged; give another file") from error
    place = parsed(url)
    if place.password is None and place.get_backend_name() in ("mysql", "mariadb"):
        place = place.set(password=os.environ.get("MYSQL_PWD"))  # which MySQL's own library reads, and PyMySQL does not
    named = place.render_as_string(hide_password=False)
    try:
        with quiet():
            storage = RDBStorage(named, engine_kwargs=_options(url, only_look), skip_table_creation=only_look)
    except ImportError:
        raise ValueError(f"storage {without_password(url)!r} can't be opened: {_driver_missing(url)}") from None
    except (SQLAlchemyError, RuntimeError) as error:
        said = masked(first_line(error), url) + _password_missing(url, str(error))
        # What is raised from something shows it in tracebacks, password and all.
        raise ValueError(f"storage {without_password(url)!r} can't be opened: {said}") from None
    if parsed(url).get_backend_name() == "sqlite":
        # A pragma belongs to a connection: this sets it on each that the pool opens from now on.
        sqlalchemy.event.listen(storage.engine, "connect", _relax)
        storage.engine.dispose()
    sqlalchemy.event.listen(storage.engine, "handle_error", _Translation(url))
    weakref.finalize(storage, _close, storage.engine, os.getpid())
    return storage


def is_shared(storage: BaseStorage) -> bool:
    """Whether it is a database server, which drivers on several machines can use at once."""
    return isinstance(storage, RDBStorage) and storage.engine.dialect.name in SERVERS


def disconnect(storage: BaseStorage) -> None:
    """Close every connection, so that the files behind it may be moved."""
    storage.remove_session()
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


def make_sqlite(path: Path) -> None:
    """An empty SQLite file that keeps a write-ahead log."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def check_sqlite(path: Path, *, said: Path | None = None) -> None:
    """Read the whole file.

    Args:
        path: the file.
        said: what a message calls it, where it is a copy.

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
        raise ValueError(f"{said or path} is damaged ({found}); restore it from a copy or start a new study")


class _Translation:
    """Says what went wrong in a database by built-in exceptions, so that it is known what may be tried again.

    Optuna would take a broken connection for bad data, and write a trial a second time whose first writing may have
    been carried out (5.0): it tries again where it meets an error of SQLAlchemy's.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, context: Any) -> None:
        """Called by SQLAlchemy with every error; what it raises takes that one's place."""
        error = context.original_exception
        code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
        code = error.args[0] if code is None and error.args else code
        said = masked(first_line(error), self._url)
        if code in _FULL:
            place = without_password(self._url)
            raise OSError(errno.ENOSPC, f"the disk of the storage {place} is full ({said}); free some space and go on")
        kind = context.sqlalchemy_exception
        if isinstance(error, sqlite3.Error):
            if code == "SQLITE_READONLY":
                raise PermissionError(errno.EROFS, f"the storage {without_password(self._url)} is read-only ({said})")
            if not str(code).startswith(_AWAY):
                return
        elif not (context.is_disconnect or isinstance(kind, OperationalError | InterfaceError | PoolTimeoutError)):
            return
        raise ConnectionError(said)


def _options(url: str, only_look: bool) -> dict[str, Any]:
    # A message of SQLAlchemy's would otherwise hold all that a statement was to write.
    options: dict[str, Any] = {"hide_parameters": True}
    backend = parsed(url).get_backend_name()
    if backend == "sqlite":
        return options | {"connect_args": {"timeout": _TIMEOUT_S}}
    kind = "mysql" if backend == "mariadb" else backend
    lively, given = _LIVELY.get(kind, {}), parsed(url).query
    settings: dict[str, Any] = {name: value for name, value in lively.items() if name not in given}
    return options | {"connect_args": settings | (_READING.get(kind, {}) if only_look else {})}


def _close(engine: sqlalchemy.Engine, process: int) -> None:
    """Say goodbye to the server; not from a process that was forked, whose connections are the parent's."""
    if os.getpid() == process:
        engine.dispose()


def _relax(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def _password_missing(url: str, said: str) -> str:
    if parsed(url).get_backend_name() != "postgresql" or "no password supplied" not in said:
        return ""
    return "; set PGPASSWORD, or write the password to ~/.pgpass (in Python: give the URL with the password)"


def _driver_missing(url: str) -> str:
    extra = "postgresql" if parsed(url).get_backend_name() == "postgresql" else "mysql"
    if not is_server(url):
        return "its driver is not installed"
    return f"its driver is not installed; pip install 'secateur[{extra}]'"
