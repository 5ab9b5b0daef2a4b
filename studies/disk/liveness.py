"""Whether a process of this machine runs. A zombie, which ended and nobody waited for, does not."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def began(process: int) -> str | None:
    """When a process began, in the kernel's own time: with its number, what tells it from all later ones.

    None where it has ended, or on a system without `/proc`.
    """
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    return None


def alive(process: int) -> bool:
    """Whether a process runs, or may: another user's, on a system without `/proc`."""
    if Path("/proc/self/stat").exists():
        return began(process) is not None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
