"""Temporary folders of processes that may be killed: the next one that is made removes what they left."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import final

from filelock import FileLock

PREFIX = "secateur-worker-"

_LOCK = ".lock"


@final
class Scratch:
    """A folder among the temporary ones, which is this process's for as long as it lives: a kernel lock says so."""

    def __init__(self, root: Path | None = None) -> None:
        """Make it in `root`, or where temporary files are, and remove those there whose processes are dead."""
        root = root or Path(tempfile.gettempdir())
        sweep(root)
        # `sweep` looks at no such name, so it sees none before it is locked.
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=root))
        self._lock = FileLock(made / _LOCK, blocking=False, thread_local=False)
        self._lock.acquire()
        self.path = made.with_name(made.name.removeprefix("."))
        os.rename(made, self.path)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Temporary files and folders that are made within the block are in it."""
        before, tempfile.tempdir = tempfile.tempdir, str(self.path)
        try:
            yield
        finally:
            tempfile.tempdir = before

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def sweep(root: Path) -> None:
    """Remove the folders in `root` of processes that were killed; those of other users are left."""
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # its process lives, or another one has swept it meanwhile
            if folder.stat().st_uid == os.getuid():
                with FileLock(folder / _LOCK, blocking=False):
                    shutil.rmtree(folder, ignore_errors=True)
