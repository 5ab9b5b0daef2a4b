"""Temporary folders of processes that may be killed: whoever makes the next one removes what they left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import final

PREFIX = "secateur-worker-"

_LOCK = ".lock"


@final
class Scratch:
    """A folder among the temporary ones, which is this process's for as long as it lives: a kernel lock says so."""

    def __init__(self) -> None:
        """Make it, and remove those whose processes are dead."""
        root = Path(tempfile.gettempdir())
        sweep(root)
        # Nobody looks at it under this name, so nobody sees it before it is locked.
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=root))
        self._lock = _locked(made / _LOCK, os.O_CREAT)
        self.path = made.with_name(made.name.removeprefix("."))
        os.rename(made, self.path)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Temporary files and folders that are made within the block lie in it."""
        before, tempfile.tempdir = tempfile.tempdir, str(self.path)
        try:
            yield
        finally:
            tempfile.tempdir = before

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep(root: Path) -> None:
    """Remove the folders in `root` of processes that were killed; those of other users are left."""
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # its process lives, or somebody else has swept it meanwhile
            if folder.stat().st_uid == os.getuid():
                lock = _locked(folder / _LOCK)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _locked(path: Path, flags: int = 0) -> int:
    """A file, open and locked for as long as this process has it open; OSError where another one has."""
    found = os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(found)
        raise
    return found
