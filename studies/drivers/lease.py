"""One process at a time proposes and tells.

The folder's lock keeps other processes of this machine away. It says nothing to one on another machine with a copy of
the folder, so a study on a database server also holds a lock of the server's. That lock belongs to a connection: a
process that dies loses it at once, and one whose machine or network is gone as soon as the server's keep-alive probes
find out (`_PROBES`). No clocks are compared, and no heartbeat is written.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, final

from optuna.storages import RDBStorage
from sqlalchemy import Connection, text

from ..trials.ledger import Ledger

_NOTE = "driver"  # the study's note of the process that holds the lock, for messages
_ASK_S = 0.05  # between two attempts to get the lock
_GRACE_S = 2.0  # how long it is asked for at least: a server takes a moment to see that a process has died

# After so many seconds of silence PostgreSQL asks whether the other end is still there: gone within 40 s. MySQL's
# sessions have no such setting; there the server's own (`net_read_timeout` and the system's) decide.
_PROBES = {"tcp_keepalives_idle": 20, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 4}


@final
class Lease:
    """The database server's lock of one study.

    Args:
        ledger: of the study, on a database server.
        wait_s: how long another process that has it is waited for.
    """

    def __init__(self, ledger: Ledger, *, wait_s: float = 0.0) -> None:
        assert isinstance(ledger.storage, RDBStorage), "only a database server is shared"
        self._ledger = ledger
        self._engine = ledger.storage.engine
        self._wait_s = wait_s
        self._name = f"secateur-{ledger.study_id}"
        self._connection: Connection | None = None
        self._session: Any = None

    def __enter__(self) -> Lease:
        """Get the lock.

        Raises:
            ValueError: another process has it.
        """
        end = time.monotonic() + max(_GRACE_S, self._wait_s)
        while not self._ledger.retry(self._get):
            if time.monotonic() > end:
                raise ValueError(self._taken())
            time.sleep(_ASK_S)
        self._ledger.note(_NOTE, {"pid": os.getpid(), "host": platform.node()})
        self._ledger.guard = self.check
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self._ledger.guard = lambda: None
        self._drop()

    def check(self) -> None:
        """Refuse to go on where another process has the lock now; get it again where only the connection broke.

        Raises:
            RuntimeError: another process has it.
        """
        with suppress(OSError):
            if self._connection is not None and self._session_of(self._connection) == self._session:
                return
        if not self._ledger.retry(self._get):
            raise RuntimeError(
                f"{self._taken()}. This process could not reach the database for a while, and lost the study; what it "
                "had finished is kept"
            )

    def _get(self) -> bool:
        """Whether the lock is ours, on a new connection."""
        self._drop()
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            if connection.dialect.name == "postgresql":
                for name, value in _PROBES.items():
                    connection.execute(text(f"SET {name} = {value}"))
                key = int.from_bytes(hashlib.sha256(self._name.encode()).digest()[:8], signed=True)
                got = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar()
            else:
                got = connection.execute(text("SELECT GET_LOCK(:name, 0)"), {"name": self._name}).scalar()
            if got:
                self._connection, self._session = connection, self._session_of(connection)
                return True
        except BaseException:
            _end(connection)
            raise
        _end(connection)
        return False

    def _session_of(self, connection: Connection) -> Any:
        """What tells this connection from one that SQLAlchemy opened again in its place, which has no lock."""
        asked = "pg_backend_pid()" if connection.dialect.name == "postgresql" else "CONNECTION_ID()"
        return connection.execute(text(f"SELECT {asked}")).scalar()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _end(connection)

    def _taken(self) -> str:
        self._ledger.refresh()
        noted = self._ledger.notes.get(_NOTE) or {}
        place = f"process {noted.get('pid', '?')} on {noted.get('host', 'another machine')}"
        return f"the study is being run by {place}; wait for it, or stop it and try again"


def _end(connection: Connection) -> None:
    """Give the lock back, and close the connection itself, not only its place in the pool."""
    with suppress(Exception):  # of a server that is away; it ended the lock itself
        postgresql = connection.dialect.name == "postgresql"
        connection.execute(text("SELECT pg_advisory_unlock_all()" if postgresql else "SELECT RELEASE_ALL_LOCKS()"))
    with suppress(Exception):
        connection.invalidate()
    with suppress(Exception):
        connection.close()
