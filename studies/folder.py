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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import FormatError, read_json
from .storage import check_sqlite, sqlite_url
from .urls import completed, file_of, is_journal, journal_path, without_password

FORMAT, VERSION = "secateur-study", 1
STUDY_JSON, DATABASE, BASE, SCORES, EXPORTS = (
    "study.json",
    "study.db",
    "base.safetensors",
    "scores.safetensors",
    "exports",
)


def read_study_json(folder: Path) -> dict[str, Any]:
    """The settings and fingerprint of the study in `folder`.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: the file is truncated or of another format version, or the folder can't be written.
    """
    path = folder / STUDY_JSON
    try:
        found = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{folder} holds no study ({STUDY_JSON} is missing); create one there first") from None
    if found.get("format") != FORMAT or not all(
        isinstance(found.get(name), dict) for name in ("settings", "fingerprint")
    ):
        raise FormatError(f"{path} is not of a study, or was edited; restore it from a copy or start a new study")
    if found.get("format_version") != VERSION:
        raise FormatError(
            f"{path} has format version {found.get('format_version')}; this secateur reads version {VERSION}: "
            "use the one that made it"
        )
    for place in (folder, folder / DATABASE):
        if place.exists() and not os.access(place, os.W_OK):
            raise ValueError(f"{place} is read-only; make it writable, or copy the study to where you may write")
    return found


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
