"""Every key of every table of a study file, as the dataclasses have it: for the reference, and for a new file."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import tomli_w
from pydantic import BaseModel

from ...evaluators import Latency, Training
from ...spaces import Budget
from ...spaces.checked import texts_of
from ..settings.runner import KINDS
from .data import Data
from .file import Axes, Launch, Model, OwnCost, OwnData
from .pictures import Images

TABLES: dict[str, tuple[type, ...]] = {
    "model": (Model,),
    "data": (Data, OwnData),
    "images": (Images,),
    "space": (Axes,),
    "costs": (OwnCost,),
    "budget": (Budget,),
    "training": (Training,),
    "latency": (Latency,),
    "study": (Launch,),
    "runner": tuple(KINDS.values()),
}
"""The classes that a table may be, by its name."""

_PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "text", Any: "any"}
_ONLY_PYTHON = ("scores", "own")


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key of a table.

    Attributes:
        name: of it.
        kind: of its value, in words.
        default: as TOML; "needed" where there is none, "-" where it is not given.
        text: what it means.
    """

    name: str
    kind: str
    default: str
    text: str


def keys(of: type) -> list[Key]:
    """The keys of a table, in order."""
    texts, hints = texts_of(of), typing.get_type_hints(of)
    defaults: Mapping[str, Any]
    if issubclass(of, BaseModel):
        defaults = {name: None if one.is_required() else one.default for name, one in of.model_fields.items()}
        needed = {name for name, one in of.model_fields.items() if one.is_required()}
    else:
        fields = dataclasses.fields(cast("Any", of))
        defaults = {one.name: None if one.default is dataclasses.MISSING else one.default for one in fields}
        needed = set()
    return [
        Key(
            name=name,
            kind=_kind(hints[name]),
            default="needed" if name in needed else written(value),
            text=texts.get(name, ""),
        )
        for name, value in defaults.items()
        if name not in _ONLY_PYTHON
    ]


def written(value: Any) -> str:
    """A value as TOML, "-" for None."""
    if value is None:
        return "-"
    plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    text = tomli_w.dumps({"x": plain}).removeprefix("x = ").strip() if not isinstance(plain, dict) else ""
    if isinstance(plain, dict):
        return "{ " + ", ".join(f"{name} = {written(one)}" for name, one in plain.items()) + " }" if plain else "{}"
    return "[" + ", ".join(map(written, plain)) + "]" if isinstance(plain, list) else text


def _kind(hint: Any) -> str:
    """An annotation in words."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _kind(members[0])
    if origin is Literal:
        return " or ".join(written(one) for one in members)
    if origin in (typing.Union, types.UnionType):
        found = [_kind(one) for one in members if one is not type(None) and typing.get_origin(one) is not _CALLABLE]
        return " or ".join(dict.fromkeys(found))
    if origin in (tuple, list) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        inner = dict.fromkeys(_kind(one) for one in members if one is not ...)
        return f"list of {' or '.join(inner)}"
    if origin is not None or dataclasses.is_dataclass(hint):
        return "table"
    return _PLAIN.get(hint, "text")


_CALLABLE = typing.get_origin(typing.Callable[..., Any])
