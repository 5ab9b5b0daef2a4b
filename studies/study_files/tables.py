"""A study file as plain tables: TOML whose numbers can be numbers of anything, and what older versions wrote."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..disk.files import read_whole

_LARGEST = 2**63  # what TOML promises, and what PyTorch, NumPy and the system take


def tables_of(path: Path) -> dict[str, Any]:
    """The tables in a file.

    Raises:
        ValueError: it is no TOML, or a number is too large or none.
    """
    try:
        tables = tomllib.loads(read_whole(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no valid TOML: {error}") from None
    except ValueError as error:  # Python reads no number of thousands of digits
        raise ValueError(f"{path}: {error}") from None
    for place, number in _numbers((), tables):
        if isinstance(number, int) and not -_LARGEST <= number < _LARGEST:
            raise ValueError(f"{path}: {place}: given a number of {len(str(abs(number)))} digits; expected 64 bits")
        if not math.isfinite(number) and "arguments" not in place:
            raise ValueError(f"{path}: {place}: given {number}; expected a finite number")
    if "dimensions" in (table := tables.get("space", {})):
        tables["space"] = _without_dimensions(path, table)
    if isinstance(data := tables.get("data"), dict) and "seed" in data:  # of 0.1, where it was the split's
        data["split_seed"] = data.pop("seed")
    return tables


def _numbers(place: tuple[str, ...], value: Any) -> Iterator[tuple[str, int | float]]:
    """Every number, and where it stands."""
    if isinstance(value, int | float):
        yield f"[{place[0]}] {'.'.join(place[1:])}" if len(place) > 1 else ".".join(place), value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _numbers((*place, name), one)
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(place, one)


def _without_dimensions(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a file of 0.1, which says by `dimensions` whether widths and depths are searched, in rules."""
    known, given = ("width", "depth"), table["dimensions"]
    if not isinstance(given, list) or not all(one in known for one in given):
        raise ValueError(f"{path}: [space] dimensions: given {given}; expected some of {known}")
    fixed = {**({} if "width" in given else {"least": 1.0}), **({} if "depth" in given else {"depth": False})}
    others = {name: one for name, one in table.items() if name != "dimensions"}
    return others | ({"rules": others.get("rules", {}) | {"*": fixed}} if fixed else {})
