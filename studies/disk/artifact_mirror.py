"""A study's artifacts at any path that fsspec knows, such as `s3://bucket/study`, beside its folder.

What the folder gets is copied there, and what the folder lacks is fetched from there: so a folder that was copied, or a
driver elsewhere, finds the weights and rankings that trials name. Credentials are fsspec's own business (environment,
or files in `~/.config/fsspec`). A path that is away stops no search: it is tried again after the next trial.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import final

from .artifacts import FOLDERS, STATE
from .secrets import hidden

logger = logging.getLogger("secateur")

PROPOSALS = "proposals"

_KINDS = (*FOLDERS, PROPOSALS)
_FILE = re.compile(r"\w[^/\\\x00-\x1f]{0,250}")


@final
class ArtifactMirror:
    """Copies artifacts to and from a path.

    Args:
        folder: of the study.
        url: the path.

    Raises:
        ValueError: fsspec can't use it.
    """

    def __init__(self, folder: Path, url: str) -> None:
        check_mirror(url)
        import fsspec  # type: ignore[import-untyped]

        try:
            self._system, self._root = fsspec.core.url_to_fs(url)
        except Exception as error:  # each kind of path has a library of its own, which raises what it likes
            raise ValueError(f"artifacts={url!r} can't be used ({type(error).__name__}: {error})") from error
        self._folder = folder
        self._url = url
        self._there: dict[str, tuple[int, int]] = {}  # as they were when they were copied
        self._failing = False

    def push(self) -> None:
        """Copy what is new in the folder."""
        here = dict(self._stamps())
        self._each(
            [name for name in here if self._there.get(name) != here[name]], lambda name: self._put(name, here[name])
        )

    def pull(self, names: Iterable[str]) -> None:
        """Fetch what the folder lacks of these paths in the study, where it is there."""
        lacking = [name for name in names if _is_artifact(name) and not (self._folder / name).exists()]
        self._each(lacking, self._get)

    def names(self) -> list[str]:
        """What is there, as paths in the study; nothing where it is away."""
        found: list[str] = []

        def look() -> None:
            for kind in filter(self._system.isdir, map(self._at, _KINDS)):
                paths = self._system.ls(kind, detail=False, refresh=True)
                found.extend("/".join(str(path).rstrip("/").rsplit("/", 2)[1:]) for path in paths)

        self._try(look)
        return sorted(name for name in found if _is_artifact(name))

    def remove(self, names: Iterable[str]) -> None:
        """Remove paths in the study from there."""
        gone = [name for name in names if _is_artifact(name)]
        for name in gone:
            self._there.pop(name, None)
        self._each(gone, self._drop)

    def _stamps(self) -> Iterable[tuple[str, tuple[int, int]]]:
        for kind in _KINDS:
            for path in sorted((self._folder / kind).glob("*")):
                name = f"{kind}/{path.name}"
                if _is_artifact(name) and path.suffix not in (STATE, ".pt"):
                    yield name, _stamp(path)

    def _put(self, name: str, stamp: tuple[int, int]) -> None:
        """Copy a file there, whole or not at all."""
        folder = self._at(name).rpartition("/")[0]
        aside = f"{folder}/.partial-{uuid.uuid4().hex[:12]}"
        self._system.makedirs(folder, exist_ok=True)
        try:
            self._system.put_file(str(self._folder / name), aside)
            self._system.mv(aside, self._at(name))
        except FileNotFoundError:
            if (self._folder / name).exists():
                raise
            return  # the folder lost it meanwhile
        self._there[name] = stamp

    def _drop(self, name: str) -> None:
        if self._system.exists(self._at(name)):
            self._system.rm_file(self._at(name))

    def _get(self, name: str) -> None:
        """Fetch a file from there, whole or not at all."""
        if not self._system.exists(self._at(name)):
            return
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            self._system.get_file(self._at(name), str(aside))
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        self._there[name] = _stamp(path)
        logger.info("%s was fetched from %s", name, self._url)

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _each(self, names: Sequence[str], do: Callable[[str], object]) -> None:
        if names:
            self._try(lambda: [do(name) for name in names])

    def _try(self, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:  # each kind of path has a library of its own, which raises what it likes
            if not self._failing:
                said = " ".join(str(error).split())
                logger.warning(
                    "artifacts can't be exchanged with %s now (%s: %s)", self._url, type(error).__name__, said
                )
            self._failing = True
        else:
            self._failing = False


def check_mirror(url: object) -> None:
    """Refuse what is no path of fsspec's, or holds a password.

    Raises:
        ValueError: it is.
    """
    if not isinstance(url, str) or "://" not in url:
        raise ValueError(
            f"artifacts={hidden(repr(url))}: expected a path such as 's3://bucket/study' or 'file:///mnt/study'"
        )
    if hidden(url) != url:
        raise ValueError(
            f"the path of the artifacts holds a password or a token, {hidden(url)}, which would be written down; leave "
            "it out, and give it to fsspec by the environment or by a file in ~/.config/fsspec"
        )


def _is_artifact(name: str) -> bool:
    kind, _, file = name.partition("/")
    return kind in _KINDS and _FILE.fullmatch(file) is not None


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
