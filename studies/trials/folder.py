"""What a study keeps on disk, and how it is recognised.

    study.json           format version, settings, and the fingerprint: what must be the same to go on
    study.db             the trials (Optuna, SQLite), unless the study has another storage; its URL is in study.json
    base.safetensors     the weights the study starts from
    scores.safetensors   the scores it was given, if any
    exports/             networks that are being trained to the end
    lock, driver.json    who runs it, where one driver does

The folder appears whole or not at all. `study.json` never changes afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...spaces import Axis
from ..disk.files import FormatError, locked, read_json
from .storage import check_sqlite, sqlite_url
from .urls import completed, file_of, is_journal, journal_path, without_password

FORMAT, VERSION = "secateur-study", 3
_READ = (1, 2, VERSION)  # 1 has outcomes of another form; both have positions for parameters
STUDY_JSON, DATABASE, BASE, SCORES, EXPORTS = (
    "study.json",
    "study.db",
    "base.safetensors",
    "scores.safetensors",
    "exports",
)


def axes_of(found: Mapping[str, Any]) -> tuple[Axis, ...]:
    """The axes of the space, as study.json has them."""
    sides = tuple(map(tuple, found["space"]["resolutions"]))
    return tuple(Axis(name, tuple(choices), sides if name == "resolution" else ()) for name, choices in found["axes"])


def read_study_json(folder: Path, *, to_write: bool = True) -> dict[str, Any]:
    """The settings and fingerprint of the study in `folder`.

    Args:
        folder: of the study.
        to_write: whether it must be writable; false for who only looks.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: the file is truncated or of another format version, or the folder can't be written.
    """
    path = folder / STUDY_JSON
    try:
        found = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        said = f"{folder} holds no study: {STUDY_JSON} is missing" if folder.is_dir() else f"{folder} is no folder"
        raise FileNotFoundError(f"{said}; give the folder of a study, as `secateur search` makes it") from None
    if found.get("format") != FORMAT:
        raise FormatError(f"{path} is not of a study; restore it from a copy or start a new study")
    version = found.get("format_version")
    if version not in _READ:
        newer = isinstance(version, int) and version > VERSION
        mend = f"{'upgrade secateur' if newer else 'restore it from a copy'}, or use the one that made it"
        raise FormatError(f"{path} has format version {version!r}; this secateur reads up to version {VERSION}: {mend}")
    wrong = [name for name, fits in _KEYS.items() if not (name in found and fits(found[name]))]
    if wrong:
        raise FormatError(
            f"{path} was edited: {wrong[0]!r} is missing or malformed; restore it from a copy or start a new study"
        )
    for place in (folder, folder / DATABASE) if to_write else ():
        if place.exists() and not os.access(place, os.W_OK):
            raise ValueError(f"{place} is read-only; make it writable, or copy the study to where you may write")
    return found


def _are_axes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(axis, list) and len(axis) == 2 and isinstance(axis[0], str) and isinstance(axis[1], list)
        for axis in value
    )


_KEYS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "storage": lambda value: value is None or isinstance(value, str),
    "settings": lambda value: isinstance(value, dict) and isinstance(value.get("objectives"), list),
    "space": lambda value: isinstance(value, dict) and isinstance(value.get("resolutions"), list),
    "axes": _are_axes,
    "full_costs": lambda value: isinstance(value, dict),
    "fingerprint": lambda value: isinstance(value, dict),
}


def part_of(folder: Path) -> Path:
    """Where all lies that belongs to a folder until it is made."""
    whole = Path(os.path.abspath(folder)) if folder.name in ("", "..") else folder  # where one stands has no name
    return whole.parent / f"{whole.name}.part"


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """Where all lies that belongs to a folder until it is made, held: of several processes only one makes it.

    Raises:
        OSError: it can't be made, or the folder is there: another process has just made it.
        ValueError: another process makes it.
    """
    part = part_of(folder)
    try:
        part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"{folder} can't be made ({error.strerror}); choose a folder that can") from error
    with locked(part):
        if os.path.lexists(folder):
            if {one.name for one in part.iterdir()} <= {"lock", "driver.json"}:
                shutil.rmtree(part)
            raise FileExistsError(f"{folder} exists already; remove it or choose another folder")
        yield part


def check_free(path: Path) -> None:
    """Refuse a new folder where something is, or where none can be made: before minutes of work that are to go there.

    Raises:
        OSError: what the file system says, and where.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already; remove it or choose another folder")
    place = next(parent for parent in Path(os.path.abspath(path)).parents if os.path.lexists(parent))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".secateur-", dir=place))
    except OSError as error:
        raise OSError(
            error.errno, f"{path} can't be made in {place} ({error.strerror}); choose another folder"
        ) from error


def storage_url(folder: Path, found: Mapping[str, Any], given: str | None = None) -> str:
    """The URL of the storage that holds a study's trials.

    Args:
        folder: of the study.
        found: what its study.json holds.
        given: the same again, with a password, which is written down nowhere; None where the database knows the user
            without, or from its own places: PostgreSQL from `PGPASSWORD` or `~/.pgpass`.

    Raises:
        ValueError: the trials are gone, or another storage was given.
    """
    kept = found["storage"]
    if kept is None:
        if given is not None:
            raise ValueError(
                f"the study's trials are kept in {folder}, not in the storage given; leave the storage out"
            )
        check_sqlite(folder / DATABASE)
        return sqlite_url(folder / DATABASE)
    if not isinstance(kept, str):
        raise FormatError(f"{folder / STUDY_JSON} was edited; restore it from a copy or start a new study")
    url = completed(kept, given)
    if is_journal(url) and not journal_path(url, folder).is_file():
        raise ValueError(
            f"{journal_path(url, folder)} is missing: the study's trials are gone; restore the file, or see that its "
            "file system is mounted"
        )
    return url


def storage_lock(folder: Path, found: Mapping[str, Any]) -> Path | None:
    """A file beside a storage outside the folder, whose lock keeps drivers of copies of the folder apart."""
    url = found["storage"]
    file = None if url is None else file_of(url, folder)
    return (
        None
        if file is None or file.parent == folder.absolute()
        else file.with_name(f"{file.name}.{found['name']}.lock")
    )


def described_storage(folder: Path, url: str | None) -> str:
    """The storage as messages name it."""
    if url is None:
        return str(folder / DATABASE)
    return str(journal_path(url, folder)) if is_journal(url) else without_password(url)


def check_same(kept: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with what would make other trials than those in the folder.

    Args:
        kept: the study's fingerprint.
        given: the parts of a fingerprint that are known now.
        folder: the study's, for the message.

    Raises:
        ValueError: some part differs; each is named, as given and as kept.
    """
    different = [name for name in given if given[name] != kept.get(name)]
    if different:
        said = "; ".join(f"{name} is {_brief(given[name])}, there it is {_brief(kept.get(name))}" for name in different)
        raise ValueError(f"{folder} is another study: {said}; give what it was made with, or start a new study")


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}..."
