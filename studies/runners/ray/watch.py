"""Ends what is left of a Ray when the process that started it was killed: two of its agents wait a minute otherwise.

    python -I -S watch.py FOLDER SECONDS

runs beside that process, and takes nothing but Python's own modules. Its standard input is a pipe whose other end the
process alone has, so that the kernel says when it has died. Processes of that Ray are known by their name and their
open files in FOLDER, since they hide how they were started.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_AFTER_S = 10  # what Ray itself needs, to end what it can


def watched(folder: Path) -> subprocess.Popen[bytes]:
    """Have what is left of the Ray whose files are in a folder ended, and the folder removed, once we have died."""
    command = [sys.executable, "-I", "-S", __file__, str(folder), str(_AFTER_S)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def dismiss(watcher: subprocess.Popen[bytes]) -> None:
    """Have it end: nothing is left."""
    watcher.kill()
    watcher.communicate()


def holding(folder: Path) -> list[int]:
    """The processes of Ray's that have a file of a folder open."""
    within = f"{os.path.realpath(folder)}/"
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # another user's, or closed meanwhile
            if os.readlink(link).startswith(within) and (link.parents[1] / "cmdline").read_bytes().startswith(b"ray::"):
                found.add(int(link.parts[2]))
    return sorted(found)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    time.sleep(float(sys.argv[2]))
    for pid in holding(Path(sys.argv[1])):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
