"""A trial whose code ends its whole process (a segmentation fault): written down as it happens, told by the next run.

Nothing runs in a process any more that was ended so; Python's `faulthandler` still writes where it stood. Otherwise the
next run would try the same trial again, and end the same way, for ever.
"""

from __future__ import annotations

import faulthandler
import os
import re
from pathlib import Path
from typing import IO

NAME = "fault.log"  # the trial that runs, and where the process stood when it ended


class Faults:
    """Which trials of a study ended their process; watches this process from `open` to `close`."""

    def __init__(self) -> None:
        self._found: dict[int, str] = {}
        self._file: IO[str] | None = None

    def open(self, folder: Path) -> None:
        """Read what the process before left, and watch this one; not where somebody else watches it already."""
        path = folder / NAME
        self._found = _read(path)
        path.unlink(missing_ok=True)
        if not faulthandler.is_enabled():
            self._file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - open as long as this process is watched
            faulthandler.enable(self._file, all_threads=False)

    def about(self, number: int) -> str | None:
        """Remember that this trial runs now; why it ended an earlier process, if it did."""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(f"trial {number}\n")
            self._file.flush()
        return self._found.pop(number, None)

    def close(self) -> None:
        """Nothing happened."""
        if self._file is not None:
            faulthandler.disable()
            self._file.close()
            os.unlink(self._file.name)
            self._file = None


def _read(path: Path) -> dict[int, str]:
    """The trial and the reason in a file; none where the process was ended by something else, as by `kill`."""
    text = path.read_text(encoding="utf-8", errors="replace")[:100_000] if path.is_file() else ""
    found = re.match(r"trial (\d{1,9})\nFatal Python error: (.+)\n", text)
    if found is None:
        return {}
    where = re.search(r'^  File "(.+)", line (\d+) in (\S+)$', text, re.MULTILINE)
    at = "" if where is None else f", in {where[3]} ({Path(where[1]).name}, line {where[2]})"
    return {int(found[1]): f"it ended its process: {found[2]}{at}"}
