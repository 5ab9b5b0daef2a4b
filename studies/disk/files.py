"""Files that are whole or not there, and the lock of the one process that writes a study's.

What is written goes to the side, is flushed to the disk, then renamed. The lock is the kernel's: a killed process gives
it back by dying.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

# EFBIG is what a quota by `ulimit -f` says.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
_NUMBERED = re.compile(r"(trial|round):(0|[1-9][0-9]{0,8})")
_NAME = re.compile(r"\w[^/\\\x00-\x1f]{0,199}")  # of one folder, and no hidden file


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


def write(path: Path, data: bytes | str) -> None:
    """Write `data` and flush it to the disk; never through a link."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666)) as file:
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
    read = read_whole(Path(path))
    try:
        data = json.loads(read)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON ({error}): it was truncated or edited") from error
    if not isinstance(data, dict):
        raise FormatError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return data


def read_whole(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: what the file system says.
        FormatError: as of `opened`.
    """
    with opened(path) as file:
        return file.read()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A plain file to read: a pipe is not waited for, and a device that never ends is not read.

    Raises:
        OSError: what the file system says.
        FormatError: it is no plain file, or larger than this machine's memory.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise FormatError(
                f"{path} is a pipe, a device or a link to one; expected a plain file: restore it from a copy"
            )
        if found.st_size > _MEMORY:
            raise FormatError(f"{path} says it holds {found.st_size:,} bytes, more than this machine's memory")
        yield file


def copy(path: Path, to: Path) -> None:
    """Copy a plain file; the errors are those of `opened`."""
    with opened(path) as source, open(to, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


@contextmanager
def as_written(place: Path) -> Iterator[None]:
    """Say of an error that only a damaged or edited file can cause that `place` is damaged.

    Raises:
        FormatError: such an error; those that say themselves what is wrong come through.
    """
    try:
        yield
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{place} is damaged or was edited ({type(error).__name__}: {said}); restore it from a copy"
        ) from error


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


@contextmanager
def locked(folder: Path, *, also: Path | None = None, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the study in `folder`.

    Args:
        folder: of the study.
        also: a file elsewhere that is held too: copies of a folder may share one storage.
        wait_s: how long another process that holds it is waited for.

    Raises:
        ValueError: another process holds it, or the folder can't be written.
    """
    holder = folder / "driver.json"
    with ExitStack() as held:
        _acquire(held, folder / "lock", folder, lambda: f"{folder} is being run by {_describe(holder)}", wait_s)
        if also is not None:
            said = f"another process runs a copy of {folder}, whose trials are in the same storage"
            _acquire(held, also, also, lambda: said, wait_s)
        _remove(holder)  # a link would be written through
        holder.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
        held.callback(_remove, holder)
        yield


def _acquire(held: ExitStack, path: Path, place: Path, said: Callable[[], str], wait_s: float) -> None:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        raise ValueError(f"{said()}; wait for it, or stop it and try again") from None
    except OSError as error:
        raise ValueError(f"{place} can't be written ({error.strerror}); give a folder that can") from error
    held.callback(lock.release)


def _remove(holder: Path) -> None:
    with suppress(OSError):
        holder.unlink(missing_ok=True)


def _describe(holder: Path) -> str:
    try:
        found = json.loads(read_whole(holder))
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process of unknown number"


def path_of(kind: str, named: str) -> str:
    """The file, as a path in the study, of a name in a trial.

    Raises:
        FormatError: it is no name.
    """
    check_name(named)
    return f"{kind}/{named.replace(':', '-')}.safetensors"


def check_name(named: object) -> None:
    """Refuse what cannot name a ranking or weights, above all what would lead out of their folder.

    Raises:
        FormatError: it is no name, so nothing of ours wrote it.
    """
    numbered = isinstance(named, str) and named.startswith(("trial:", "round:"))
    if not isinstance(named, str) or not (_NUMBERED if numbered else _NAME).fullmatch(named):
        raise FormatError(
            f"{named!r:.80} in the study names no ranking or weights; expected such as 'inherited', 'trial:3' or "
            "'l1:0123abcd': restore the trials from a copy"
        )
