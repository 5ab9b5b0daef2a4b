"""From the folder of a study to files that can be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from ..disk.files import FULL, as_written, read_whole, write_atomic
from .facts import Facts, facts

_NEEDED = ("plotly", "jinja2", "matplotlib")
_MINE = '<meta name="generator" content="secateur report">'


@dataclass(frozen=True, eq=False)
class Report:
    """What was written.

    Attributes:
        page: the HTML file.
        pictures: the PNG files.
        studies: what they say, study by study.
    """

    page: Path
    pictures: tuple[Path, ...]
    studies: tuple[Facts, ...]


def report(
    folder: str | Path,
    to: str | Path | None = None,
    *,
    beside: str | Path | None = None,
    pictures: str | Path | None = None,
    model: nn.Module | None = None,
    timed: bool = True,
    storage: str | None = None,
    connect: bool = False,
    remake: bool = False,
) -> Report:
    """The report of a study as one HTML file, which replaces an earlier one; nothing of the study changes or runs.

    Args:
        folder: the study's.
        to: the file, whose name ends in .html; `report.html` in the study's folder when None.
        beside: the folder of another study, laid beside it.
        pictures: a folder for PNG files of the charts, made where it is missing.
        model: the full network, from which its layers are known; weights do not matter.
        timed: whether networks are timed layer by layer, for a few seconds.
        storage: the URL of the study's storage again, with the password that it needs; see `Study.open`.
        connect: whether a database server that only a folder names may be connected to.
        remake: whether the network is made as the study file says where no `model` is given, which runs its code.

    Raises:
        FileNotFoundError: there is no study.
        FileExistsError: `to` is something else than a report.
        ValueError: a study is damaged, or `to` is no name of a page.
        ImportError: a library is missing.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(f"a report needs {' and '.join(missing)}: pip install 'secateur[report]'")
    path = Path(folder) / "report.html" if to is None else Path(to)
    _check(path)
    if pictures is not None and Path(pictures).exists() and not Path(pictures).is_dir():
        raise FileExistsError(f"{pictures} is a file; give a folder for the pictures")
    with as_written(Path(folder)):
        studies = [facts(folder, model=model, storage=storage, timed=timed, connect=connect, remake=remake)]
    if beside is not None:
        with as_written(Path(beside)):
            other = facts(beside, timed=timed, connect=connect, remake=remake)
        studies = list(_named_apart(studies[0], other))
    from . import page as made  # needs plotly and Jinja

    with as_written(Path(folder)):
        text = made.page(studies)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise OSError(error.errno, f"{path} can't be written ({error.strerror}); give another file") from error
    return Report(path, () if pictures is None else _write(made.pictures(studies), Path(pictures)), tuple(studies))


def _check(path: Path) -> None:
    """Refuse a place where no page is expected, before anything is read."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"a report is written to a file that ends in .html; got {path}")
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder; give a file that ends in .html")
    if path.exists() and _MINE not in read_whole(path).decode(errors="replace")[:1000]:
        raise FileExistsError(f"{path} exists and is no report; remove it or choose another file")


def _named_apart(one: Facts, two: Facts) -> tuple[Facts, Facts]:
    """Two studies whose folders have one name, named by the path from where they part."""
    if one.name != two.name:
        return one, two
    paths = [Path(study.status.path).resolve().parts for study in (one, two)]
    alike = next((n for n, (a, b) in enumerate(zip(*paths, strict=False)) if a != b), 0)
    first, second = (str(Path(*parts[alike:])) if parts[alike:] else one.name for parts in paths)
    return replace(one, name=first), replace(two, name=second)


def _write(pictures: Mapping[str, bytes], folder: Path) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        write_atomic(folder / name, data)
    return tuple(folder / name for name in pictures)
