"""A study file as plain tables: TOML whose numbers can be numbers of anything, and what older versions wrote."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...spaces.checked import LARGEST
from ..disk.files import read_whole

_NAMES = {"model": "factory", "data": "factory", "runner": "kind"}  # what a table may be that is just a text
FROM_HERE = "folder_from_here"  # where the folder lay, seen from the file of a study within it
_DEEPEST = 50


def tables_of(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The tables in a file, some keys changed as `changed` says.

    Raises:
        ValueError: it is no TOML, a change is none, a number is too large or none, or a text is of no use.
    """
    try:
        tables = changed(tomllib.loads(read_whole(path).decode()), changes)
        found = list(_leaves((), tables))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no valid TOML: {error}") from None
    except ValueError as error:  # Python reads no number of thousands of digits
        raise ValueError(f"{path}: {error}") from None
    for place, value in found:
        if isinstance(value, str):
            if "\0" in value:
                raise ValueError(f"{path}: {place}: given {value!r:.80}; no name, path or word holds a zero byte")
        elif isinstance(value, int) and not -LARGEST <= value < LARGEST:
            raise ValueError(f"{path}: {place}: given a number of {len(str(abs(value)))} digits; expected 64 bits")
        elif not math.isfinite(value) and "arguments" not in place:
            raise ValueError(f"{path}: {place}: given {value}; expected a finite number")
    if "dimensions" in (table := tables.get("space", {})):
        tables["space"] = _without_dimensions(path, table)
    if isinstance(data := tables.get("data"), dict) and "seed" in data:  # of 0.1, where it was the split's
        data["split_seed"] = data.pop("seed")
    return tables


def base_of(tables: dict[str, Any], path: Path, base: Path | None) -> Path:
    """The folder that relative paths of the file at `path` begin at, taken out of its tables; `base` where it is given.

    What a study's file says it was is taken where it is still there; else the folder around the study, which was moved
    with it. A copy of the whole, with all that the tables name in the folder, is one of its own: its study does not
    reach for the code and data that it was copied from.

    Raises:
        FileNotFoundError: `base` is no folder.
    """
    said, moved = str(tables.pop("folder", ".")), tables.pop(FROM_HERE, None)
    folder = path.parent / said
    if base is not None and not base.is_dir():
        raise FileNotFoundError(f"--base {base} is no folder; give the one that the study's code and data lie in")
    around = path.parent / str(moved)
    if moved is not None and not (
        folder.is_dir() and (_within(path, folder) or _named_in(folder, tables) - _named_in(around, tables))
    ):
        folder = around
    return Path(os.path.abspath(folder if base is None else base))


def _within(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _named_in(folder: Path, tables: Any) -> set[str]:
    """The modules, files and folders that texts of the tables name and `folder` has."""
    if isinstance(tables, str):
        module = tables.partition(":")[0].partition(".")[0]
        return {one for one in (tables, module, f"{module}.py") if one and os.path.lexists(folder / one)}
    inner = tables.values() if isinstance(tables, Mapping) else tables if isinstance(tables, list) else ()
    return set[str]().union(*(_named_in(folder, one) for one in inner))


def changed(tables: Mapping[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """The tables of a file with other values for some keys.

    >>> changed({"training": {"lr": 0.1}, "runner": "serial"}, ["training.lr=1e-2", "study.device=cuda"])
    {'training': {'lr': 0.01}, 'runner': 'serial', 'study': {'device': 'cuda'}}

    Args:
        tables: as TOML gives them.
        texts: `TABLE.NAME=VALUE`, each key once; a value that is no TOML is a text.

    Raises:
        ValueError: a text is none of that kind, or a key is given twice.
    """
    found, seen = dict(tables), set[str]()
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or "." not in name.strip(".") or name in seen:
            raise ValueError(f"--set {text!r}: expected TABLE.NAME=VALUE such as training.lr=0.01, every key once")
        seen.add(name)
        found = _merged("", found, _parsed(text, name, value.strip()))
    return found


def _parsed(text: str, name: str, value: str) -> dict[str, Any]:
    for written in (value, json.dumps(value)):
        try:
            return tomllib.loads(f"{name} = {written}")
        except (ValueError, RecursionError):
            continue
    raise ValueError(f'--set {text!r}: {name!r} is no key; names with other signs go in quotes, as in rules."layer1.*"')


def _merged(name: str, old: Any, new: Any) -> Any:
    """New values over old ones, table by table."""
    if isinstance(old, str) and isinstance(new, Mapping) and name in _NAMES:
        old = {_NAMES[name]: old}
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {**old, **{key: _merged(key if not name else "", old.get(key), value) for key, value in new.items()}}


def _leaves(place: tuple[str, ...], value: Any, depth: int = 0) -> Iterator[tuple[str, int | float | str]]:
    """Every number and text, and where it stands."""
    if depth > _DEEPEST:
        raise RecursionError(f"tables and lists are nested more than {_DEEPEST} deep")
    if isinstance(value, int | float | str):
        yield f"[{place[0]}] {'.'.join(place[1:])}" if len(place) > 1 else ".".join(place), value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves((*place, name), one, depth + 1)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(place, one, depth + 1)


def _without_dimensions(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a file of 0.1, which says by `dimensions` whether widths and depths are searched, in rules."""
    known, given = ("width", "depth"), table["dimensions"]
    if not isinstance(given, list) or not all(one in known for one in given):
        raise ValueError(f"{path}: [space] dimensions: given {given}; expected some of {known}")
    fixed = {**({} if "width" in given else {"least": 1.0}), **({} if "depth" in given else {"depth": False})}
    others = {name: one for name, one in table.items() if name != "dimensions"}
    return others | ({"rules": others.get("rules", {}) | {"*": fixed}} if fixed else {})
