"""What is wrong with a study file, in a sentence that names table and key. Start at `sentence`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from ...spaces.checked import expectation
from ..disk.secrets import hidden
from ..settings.runner import KINDS


def sentence(error: ValidationError, of: type) -> str:
    """The first thing that is wrong, and how many more there are."""
    by_place: dict[tuple[Any, ...], list[Any]] = {}
    for problem in error.errors(include_url=False):  # a union complains once a member
        by_place.setdefault(tuple(part for part in problem["loc"] if not _is_type(part)), []).append(problem)
    place, alike = next(iter(by_place.items()))
    more = f" (and {len(by_place) - 1} more)" if len(by_place) > 1 else ""
    return _said(alike, list(place), of) + more


def _said(alike: list[Any], place: list[Any], of: type) -> str:
    problem = alike[0]
    given = hidden(json.dumps(problem["input"], default=str))
    given = given if len(given) <= 60 else f"{given[:57]}..."
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *table, key = place
        known = [name for name in _keys(of, table) if table or name != "folder"]
        near = difflib.get_close_matches(str(key), known, 1)
        mend = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        return f"{_written(table)}unknown key {str(key)!r}; {mend}"
    if problem["type"] in ("missing", "missing_argument"):
        *table, key = place
        what = f"the key {str(key)!r}" if table else f"the table [{key}]"
        return f"{_written(table)}{what} is missing; give one, such as {_EXAMPLES[str(key)]}"
    said = expectation(alike)
    return f"{_written(place)}{f'given {given}; ' if said.startswith('expected') else ''}{said}"


_EXAMPLES = {
    "model": 'model = "package.module:factory"',
    "data": '[data] reader = "mnist5k"',
    "factory": 'factory = "package.module:name"',
    "measure": 'measure = "package.module:name"',
}


def _written(place: list[Any]) -> str:
    """`[table] key.key: ` of a place in the file."""
    texts = [str(part) for part in place]
    return f"{' '.join([f'[{texts[0]}]', *('.'.join(texts[1:]).split())])}: " if texts else ""


def _is_type(part: Any) -> bool:
    """Whether part of pydantic's place names a member of a union, which stands in no file."""
    return isinstance(part, str) and (part in ("int", "float", "str", "path", "own", "ready", *KINDS) or "[" in part)


def _keys(kind: Any, place: list[Any]) -> Iterator[str]:
    """The keys of the table at `place`, under a table of a kind."""
    fields = _fields(kind)
    if not place:
        yield from fields
    elif place[0] in fields:
        named = typing.get_origin(fields[place[0]]) is dict  # a table of tables, whose names are the user's
        for inner in _classes(fields[place[0]]):
            yield from _keys(inner, place[2:] if named else place[1:])


def _fields(kind: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        hints = typing.get_type_hints(kind)
        names = getattr(kind, "model_fields", None)
        return {name: hints[name] for name in names or [field.name for field in dataclasses.fields(kind) if field.init]}
    return {}


def _classes(hint: Any) -> Iterator[Any]:
    """The classes that an annotation is made of."""
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    for inner in typing.get_args(hint):
        yield from _classes(inner)
