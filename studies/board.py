"""What every slot of a running search does, in a file that others may read: `slots.json` in the study's folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, final

from .files import to_json, write_atomic

SLOTS_JSON = "slots.json"

_EVERY_S = 1.0  # it is written no more often


@final
class Board:
    """Takes the dispatcher's events and keeps the last one of every slot."""

    def __init__(self, folder: Path) -> None:
        """Write into this folder."""
        self._path = folder / SLOTS_JSON
        self._slots: dict[int, dict[str, Any]] = {}
        self._written = float("-inf")

    def __call__(self, event: dict[str, Any]) -> None:
        """Note what a slot does."""
        self._slots[event["slot"]] = event | {"since": time.time()}
        if time.monotonic() - self._written >= _EVERY_S:
            write_atomic(self._path, to_json({"slots": [self._slots[slot] for slot in sorted(self._slots)]}))
            self._written = time.monotonic()

    def close(self) -> None:
        """Nothing runs any more."""
        self._path.unlink(missing_ok=True)
