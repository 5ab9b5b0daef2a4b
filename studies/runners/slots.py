"""What the slots of a running search do, in a file that others may look at: `slots.json` in the study's folder.

Nothing of a search depends on it: what can't be written is left out. `SlotStatus` writes, `drivers` reads.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from ..disk.files import alive, read_whole
from ..trials.events import STATES, SlotChanged

logger = logging.getLogger("secateur")

DRIVER_JSON, SLOTS = "driver.json", "slots"  # who holds the study (see files.py); how the files of drivers begin

_EVERY_S = 1.0  # the file is written no more often
_ALIVE_S = 5.0  # and no more seldom: who reads it elsewhere sees that the driver lives
_SILENT_S = 120.0  # a driver that wrote nothing for so long may be gone; network file systems show files late


@final
class SlotStatus:
    """Takes the dispatcher's events and keeps what every slot does now.

    A thread of its own writes the file, so that no event waits for a disk, and the last one is seen also when none
    follows.
    """

    def __init__(self, folder: Path, *, goal: int | None = None) -> None:
        """Write into this folder.

        Args:
            folder: of the study.
            goal: the number of trials in all at which the run ends.
        """
        self._path = folder / f"{SLOTS}.json"
        self._goal = goal
        self._began = time.monotonic()
        self._told = 0
        self._slots: dict[int, tuple[SlotChanged, float]] = {}  # with when it began
        self._lock = threading.Lock()
        self._changed = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._complained = False

    def __call__(self, event: SlotChanged) -> None:
        """Note what a slot does."""
        now = time.monotonic()
        with self._lock:
            before, since = self._slots.get(event.slot, (None, now))
            # A trial's time begins with its attempt, and goes on from epoch to epoch.
            goes_on = event.change == "epoch" and before is not None and STATES[before.change] == "busy"
            self._slots[event.slot] = event, since if goes_on else now
            self._changed = True
        if self._thread is None:
            self._start()

    def told(self) -> int:
        """Count one trial more whose outcome is final; how many slots do something now."""
        with self._lock:
            self._told += 1
            self._changed = True
            return sum(STATES[event.change] == "busy" for event, _ in self._slots.values())

    def close(self) -> None:
        """Nothing runs any more."""
        self._closing.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(_ALIVE_S)  # a disk that hangs holds nothing up
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._keep, name="secateur-slots", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has no room for a thread
            self._complain(error)

    def _keep(self) -> None:
        self._sweep()
        written = -math.inf
        while not self._closing.wait(_EVERY_S):
            if self._changed or time.monotonic() - written >= _ALIVE_S:
                written = time.monotonic()
                self._write()

    def _sweep(self) -> None:
        """Remove what killed drivers left."""
        with suppress(OSError):
            for path in self._path.parent.glob(f".{self._path.name}.partial-*"):
                path.unlink(missing_ok=True)

    def _write(self) -> None:
        with self._lock:
            self._changed = False
            slots, told = [self._slots[slot] for slot in sorted(self._slots)], self._told
        aside = self._path.with_name(f".{self._path.name}.partial-{os.getpid()}")
        try:
            now = time.monotonic()
            said = {
                "pid": os.getpid(),
                "host": platform.node(),
                "written": time.time(),
                "goal": self._goal,
                "told": told,
                "elapsed_s": round(now - self._began, 3),
                # Ages instead of moments: they stay right when the clock is set.
                "slots": [_plain(event, now - since) for event, since in slots],
            }
            # Not flushed to the disk: it is worth nothing after a power cut, and written once a second.
            aside.write_text(json.dumps(said, default=str), encoding="utf-8")
            os.replace(aside, self._path)
        except (OSError, ValueError, TypeError) as error:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("%s is not kept (%s); the search goes on without it", self._path.name, error)


def drivers(folder: Path) -> list[dict[str, Any]]:
    """Who runs the study in a folder, and what their slots do, as far as can be seen from this machine.

    Each is `{"pid", "host", "state", "heard_s", "elapsed_s", "goal", "told", "slots"}`. `state` is `"running"`;
    `"silent"` where it wrote nothing for two minutes; or `"gone"`: the process is no more. `heard_s` seconds ago it
    wrote last, `elapsed_s` after its run began, having told `told` trials of the `goal`; all None, and no slots, where
    it wrote nothing yet. A slot is `{"slot", "state", "seconds", ...}`: `"free"`, `"busy"` or `"lost"` (its worker
    died) for so long, with `"trial"`, `"training"`, `"attempt"`, `"epoch"`, `"epochs"`, `"loss"`, `"pid"`, `"host"`
    and `"gpus"` where they are known.
    """
    holder = _read(folder / DRIVER_JSON)
    if holder is None:
        return []
    own = _read(folder / f"{SLOTS}.json")
    # The file of an earlier driver, which was killed, says nothing of this one.
    fits = own is not None and (own["pid"], own["host"]) == (holder["pid"], holder["host"])
    return [_driver(own if own is not None and fits else holder)]


def _driver(note: Mapping[str, Any]) -> dict[str, Any]:
    written = note.get("written")
    # A clock that is set back, or another machine's, must not make times negative.
    heard_s = max(0.0, time.time() - written) if isinstance(written, int | float) else None
    gone = note["host"] == platform.node() and not alive(note["pid"])
    silent = heard_s is not None and heard_s > _SILENT_S
    slots = [slot for slot in note.get("slots", []) if isinstance(slot, dict) and "slot" in slot]
    return {
        "pid": note["pid"],
        "host": note["host"],
        "state": "gone" if gone else "silent" if silent else "running",
        "heard_s": heard_s,
        "elapsed_s": note.get("elapsed_s"),
        "goal": note.get("goal"),
        "told": note.get("told"),
        "slots": [] if gone else [slot | {"seconds": slot.get("seconds", 0.0) + (heard_s or 0.0)} for slot in slots],
    }


def _plain(event: SlotChanged, seconds: float) -> dict[str, Any]:
    """What the file says of a slot; see `drivers`."""
    found: dict[str, Any] = {"slot": event.slot, "state": event.state}
    if event.doing is not None and event.state != "free":
        doing, epoch = event.doing, event.doing.epoch
        found |= {"trial": doing.trial, "training": doing.training, "attempt": doing.attempt}
        if epoch is not None:  # JSON knows no NaN
            loss = epoch.loss if math.isfinite(epoch.loss) else None
            found |= {"epoch": epoch.done, "epochs": epoch.total, "loss": loss}
    known = {name: value for name, value in asdict(event.worker).items() if value is not None}
    return found | known | {"seconds": round(seconds, 3)}


def _read(path: Path) -> dict[str, Any] | None:
    """The file's object; None where it is missing, being made, or was left half by a power cut."""
    try:
        found = json.loads(read_whole(path))
    except (OSError, ValueError, RecursionError):
        return None
    fits = isinstance(found, dict) and isinstance(found.get("pid"), int) and isinstance(found.get("host"), str)
    return found if fits else None
