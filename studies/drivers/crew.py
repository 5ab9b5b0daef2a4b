"""The drivers of a study whose trials are on a database server: one alone, or several that joined.

A folder's lock says nothing to a driver on another machine, so each driver has a note on the study in the database: who
it is, and a number that it counts up every few seconds. Whoever sees that number stand still, while it could count up
its own so many times, takes that driver for gone. No clock is read: nothing happens when somebody sets one, when a
machine sleeps, or while the database is away from all of them.

A driver that is taken for gone though it lives (its network failed) finds out at its next count. One that was alone
then stops; one that joined drops the trials that others adopted meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, final

from optuna.storages import RDBStorage
from sqlalchemy import Connection, text

from ..disk.liveness import began
from ..trials.ledger import Ledger

logger = logging.getLogger("secateur")

BEAT_S = 5.0  # how often a driver counts
LEASE_S = 60.0  # how long it may fail to before others take it for gone

_NOTE = "driver:"  # how the names of the drivers' notes begin; their places are used again and again
_HERE: set[str] = set()  # drivers in this process
_TURN_S = 600  # the server takes a turn back from a driver that does nothing with it for so long


@final
class Crew:
    """Who else runs a study, and a place among them while the block runs.

    Args:
        ledger: of the study, on a database server.
        joined: together with others that joined, or alone.
        beat_s: seconds from one count to the next.
        lease_s: seconds without a count after which a driver is taken for gone.

    Attributes:
        id: what tells this driver from all others.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        joined: bool,
        beat_s: float | None = None,
        lease_s: float | None = None,
    ) -> None:
        assert isinstance(ledger.storage, RDBStorage), "only a database server is shared"
        self.id = uuid.uuid4().hex[:12]
        self._ledger = ledger
        self._storage: RDBStorage = ledger.storage
        self._joined = joined
        self._patiently = ledger.patience
        self._beat_s = BEAT_S if beat_s is None else beat_s
        self._misses = max(1, round((LEASE_S if lease_s is None else lease_s) / self._beat_s))
        self._place = -1
        self._beat = 0
        self._seen: dict[str, tuple[int, int]] = {}  # by id: the last count, and how often it was the same
        self._notes: dict[int, dict[str, Any]] = {}  # as of the last count
        self._lost: str | None = None
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="secateur-driver", daemon=True)

    def __enter__(self) -> Crew:
        """Take a place.

        Raises:
            ValueError: another driver is there that shares it not, or with whom it must not be shared.
        """
        before: dict[str, int] = {}
        said = False
        while True:
            with self.turn():
                notes = self._patiently(self._look)
                rivals = [one for one in notes.values() if self._rivals(one)]
                if not rivals:
                    self._patiently(partial(self._register, notes))
                    break
            for one in rivals:
                if _lives(one) or before.get(one["id"], one["beat"]) != one["beat"]:
                    raise ValueError(self._taken(one))
                before[one["id"]] = one["beat"]
            if not said:
                said = True
                logger.warning("%s; waiting for up to %.0f s", _silent(rivals[0]), self._misses * self._beat_s)
            time.sleep(self._beat_s)
        _HERE.add(self.id)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave it."""
        self._leaving.set()
        self._thread.join()
        _HERE.discard(self.id)
        with suppress(Exception):  # whoever comes next will see that the process is gone, or wait
            if self._lost is None:
                self._write(ended=True)

    def check(self) -> None:
        """Refuse to go on where another driver has taken this one's place.

        Raises:
            RuntimeError: it has.
        """
        if self._lost is not None:
            raise RuntimeError(self._lost)

    def others(self) -> int:
        """How many other drivers are there."""
        return sum(one["id"] != self.id and self._present(one) for one in _notes(self._ledger.notes()).values())

    def gone(self, owner: str | None) -> bool:
        """Whether the driver of this id runs no more."""
        if owner == self.id:
            return False
        theirs = [one for one in self._notes.values() if one["id"] == owner and self._present(one)]
        if not theirs:  # it may have come after the last count
            theirs = [one for one in _notes(self._ledger.notes()).values() if one["id"] == owner]
        return not any(self._present(one) for one in theirs)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only one that proposes or adopts trials while the block runs."""
        connection = self._patiently(self._open)
        try:
            yield
        finally:
            with suppress(OSError):  # a server that went away gave the turn back by itself
                self._close(connection)

    # --- turns --------------------------------------------------------------------------------------------------------

    def _open(self) -> Connection:
        connection = self._storage.engine.connect()
        try:
            ask = self._asking(connection)
            wait = 0.002
            while not ask():
                time.sleep(wait)
                wait = min(2 * wait, 0.1)
        except BaseException:
            with suppress(OSError):
                connection.close()
            raise
        return connection

    def _asking(self, connection: Connection) -> Callable[[], bool]:
        """Asks whether it is our turn now."""
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {_TURN_S * 1000}"))
            key = int.from_bytes(hashlib.sha256(self._name.encode()).digest()[:8], signed=True)
            return lambda: bool(
                connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}).scalar()
            )
        return lambda: connection.execute(text("SELECT GET_LOCK(:name, 0)"), {"name": self._name}).scalar() == 1

    def _close(self, connection: Connection) -> None:
        try:
            if connection.dialect.name != "postgresql":
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": self._name})
            connection.commit()
        finally:
            connection.close()

    @property
    def _name(self) -> str:
        return f"secateur-{self._ledger.study_id}"

    # --- notes --------------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """What the thread does: counts, and looks how far others have counted."""
        try:
            while not self._leaving.wait(self._beat_s) and self._lost is None:
                with suppress(OSError):  # it is away; nobody's count goes on
                    self._count()
        except Exception as error:
            self._lost = f"this driver can't say any more that it lives ({type(error).__name__}: {error})"
        finally:
            with suppress(Exception):
                self._storage.remove_session()

    def _count(self) -> None:
        notes = self._look()
        if notes.get(self._place, {}).get("id") == self.id:
            self._write()
        elif self._joined:
            with self.turn():
                self._register(self._read())
        else:
            self._lost = (
                "another driver runs this study now, because this one was not heard of for so long; what it had "
                "finished is kept"
            )

    def _read(self) -> dict[int, dict[str, Any]]:
        """The drivers' notes, by place."""
        return _notes(self._storage.get_study_user_attrs(self._ledger.study_id))

    def _look(self) -> dict[int, dict[str, Any]]:
        """The same; each look counts as a miss for those that stand still."""
        notes = self._read()
        seen = {}
        for one in notes.values():
            beat, misses = self._seen.get(one["id"], (one["beat"], -1))
            seen[one["id"]] = (one["beat"], misses + 1 if beat == one["beat"] else 0)
        self._seen, self._notes = seen, notes
        return notes

    def _present(self, one: Mapping[str, Any]) -> bool:
        """Whether a driver may still be there."""
        _, misses = self._seen.get(one["id"], (0, 0))
        return not one["ended"] and not _died(one) and misses < self._misses

    def _rivals(self, one: Mapping[str, Any]) -> bool:
        return self._present(one) and not (self._joined and one["joined"])

    def _register(self, notes: Mapping[int, Mapping[str, Any]]) -> None:
        """Take the first place that nobody has; in a turn."""
        place = 0
        while place in notes and self._present(notes[place]) and notes[place]["id"] != self.id:
            place += 1
        self._place = place
        self._write()

    def _write(self, *, ended: bool = False) -> None:
        self._beat += 1
        note = {"id": self.id, "beat": self._beat, "joined": self._joined, "ended": ended, **_place()}
        self._storage.set_study_user_attr(self._ledger.study_id, f"{_NOTE}{self._place}", note)

    def _taken(self, one: Mapping[str, Any]) -> str:
        said = f"the study is being run by process {one['pid']} on {one['host']}"
        if self._joined:
            return f"{said}, which does not share it; wait for it, or stop it and start it again with join"
        if one["joined"]:
            return f"{said}, which shares it; join it, or wait until it has ended"
        return f"{said}; wait for it, or stop it and try again"


def _notes(notes: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    found = {}
    for name, value in notes.items():
        place = name.removeprefix(_NOTE)
        if name.startswith(_NOTE) and place.isdecimal() and _is_note(value):
            found[int(place)] = value
    return found


def _place() -> dict[str, Any]:
    """Where this process is."""
    return {"pid": os.getpid(), "host": platform.node(), "machine": _machine(), "began": began(os.getpid())}


def _lives(one: Mapping[str, Any]) -> bool:
    """Whether a driver is a process of this machine that runs, and goes on driving."""
    if one["pid"] == os.getpid() and one["began"] == began(os.getpid()) and one["id"] not in _HERE:
        return False  # it could not even say that it ended
    return one["machine"] is not None and one["machine"] == _machine() and began(one["pid"]) == one["began"]


def _died(one: Mapping[str, Any]) -> bool:
    """Whether a driver was a process of this machine and runs no more."""
    return one["machine"] is not None and one["machine"] == _machine() and not _lives(one)


def _machine() -> str | None:
    """What tells process numbers here from those elsewhere: host, its last start, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _silent(one: Mapping[str, Any]) -> str:
    return f"process {one['pid']} on {one['host']} ran this study and did not say that it ended"


def _is_note(value: Any) -> bool:
    kinds = {"id": str, "beat": int, "joined": bool, "ended": bool, "pid": int, "host": str}
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), kind) for name, kind in kinds.items())
        and {"machine", "began"} <= value.keys()
    )
