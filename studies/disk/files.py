"""Writing that leaves a whole file or folder, or nothing: to the side, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .liveness import alive

# EFBIG is what a quota by `ulimit -f` says.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FormatError(ValueError):
    """A file or folder that is not what secateur wrote: another format, a newer version, truncated or edited."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data`, so that a reader sees the old file or the new one, never a part.

    Raises:
        OSError: what the file system says; a full disk is said so, and the old file stays.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}@{platform.node()}")
    try:
        write(aside, data)
        os.replace(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        raise _explained(error, path) from error
    _flush_folder(path.parent)


def sweep_files(*folders: Path) -> None:
    """Remove what `write_atomic` left in these folders when its process was killed, if that was on this machine."""
    for folder in folders:
        for entry in folder.glob(f".*.partial-*@{platform.node()}") if folder.is_dir() else ():
            process = entry.name.rpartition(".partial-")[2].partition("@")[0]
            if process.isdigit() and _is_left(int(process)):
                entry.unlink(missing_ok=True)


def write(path: Path, data: bytes | memoryview | str) -> None:
    """Write `data` and flush it to the disk."""
    with open(path, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into, renamed to `path` when the block ends well and removed when it does not.

    What a killed process left beside the same `path` is removed first.

    Raises:
        FileExistsError: `path` exists, before anything is written.
        OSError: what the file system says; a full disk is said so, and nothing stays.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already; remove it or choose another folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
        aside.mkdir()
        try:
            yield aside
            _flush_folder(aside)
            if os.path.lexists(path):  # os.rename would replace an empty folder
                raise FileExistsError(f"{path} appeared meanwhile; remove it or choose another folder")
            os.rename(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    except OSError as error:
        raise _explained(error, path) from error
    _flush_folder(path.parent)


def to_json(data: Any) -> str:
    """Indented JSON with every list of numbers on one line.

    >>> print(to_json({"kept": [0, 2, 5], "name": "conv"}), end="")
    {
      "kept": [0, 2, 5],
      "name": "conv"
    }
    """
    text = json.dumps(data, indent=2, allow_nan=False)
    # A raw newline cannot stand inside a JSON text, so texts are left alone.
    return re.sub(r"\[\n([\d\s,.eE+-]+)\n\s*\]", lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        FileNotFoundError: no such file.
        FormatError: truncated, or not a JSON object.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON ({error}): it was truncated or edited") from error
    if not isinstance(data, dict):
        raise FormatError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return data


def _explained(error: BaseException, path: Path) -> BaseException:
    if isinstance(error, OSError) and error.errno in FULL:
        return OSError(
            error.errno, f"the disk is full: {path} could not be written and nothing of it was left; free some space"
        )
    return error


def _flush_folder(path: Path) -> None:
    """Make names and renames in `path` survive a power cut (systems that cannot open a folder have no need)."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sweep(path: Path) -> None:
    prefix = f".{path.name}.partial-"
    for entry in path.parent.iterdir():
        process = entry.name.removeprefix(prefix)
        if entry.name.startswith(prefix) and process.isdigit() and _is_left(int(process)):
            shutil.rmtree(entry, ignore_errors=True)


def _is_left(process: int) -> bool:
    """Whether nobody writes any more what has this process's number."""
    return process == os.getpid() or not alive(process)  # ours was left by an earlier process of that number
