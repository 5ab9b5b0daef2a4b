"""Digests of an export's files, kept in its `config.json`: what was changed, swapped or cut short since is refused."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..disk.files import FormatError, opened, to_json, write

logger = logging.getLogger("secateur")

CONFIG = "config.json"
_FREE = "README.md"  # for people, who may add to it


def seal(folder: Path, config: Mapping[str, Any]) -> None:
    """Write `config.json`: the entries given, a digest of every other file that is there, and one of the whole."""
    files = {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.name != CONFIG}
    whole = {**config, "files": files}
    write(folder / CONFIG, to_json(whole | {"digest": _own(whole)}))


def check(folder: Path, config: Mapping[str, Any]) -> None:
    """Hold the files that are there against their digests; exports of before have none, which is said.

    Raises:
        FormatError: a file is not what was exported.
    """
    files, digest = config.get("files"), config.get("digest")
    if files is None and digest is None:
        logger.warning(
            "%s is of an older secateur, which kept no digests: whether its files are whole is not known", folder
        )
        return
    if not isinstance(files, dict) or digest != _own({name: one for name, one in config.items() if name != "digest"}):
        raise FormatError(
            f"{folder / CONFIG} was edited, or is of another export; restore it from a copy, or export again"
        )
    for name, expected in files.items():
        path = folder / name
        if path.parent != folder or name == _FREE or not path.exists():
            continue
        if _digest(path) != expected:
            raise FormatError(
                f"{path} is truncated, was changed, or is of another export: its digest is not that of {CONFIG}; "
                "restore it from a copy, or export again"
            )


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with opened(path) as file:
        while data := file.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def _own(config: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(config))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
