"""Values held against the annotations of their fields, in Python as in a study file."""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from annotated_types import Ge, Gt, Lt

AT_LEAST_0, AT_LEAST_1, POSITIVE = Ge(0), Ge(1), Gt(0)
BELOW_1, FINITE = Lt(1), Lt(float("inf"))
LARGEST = 2**63  # what TOML promises, and what PyTorch, NumPy and the system take

_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_exact_type": "a table",
    "dataclass_type": "a table",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "mapping_type": "a table",
    "model_type": "a table",
    "path_type": "a path",
    "string_type": "a text",
    "tuple_type": "a list",
}


def check(value: Any) -> None:
    """Hold every field of a new frozen dataclass against its annotation; what converts it there replaces it.

    Raises:
        ValueError: a field does not fit; the sentence says what was given and what was expected.
    """
    from pydantic import ValidationError  # the command line shows its help without it

    kind: Any = type(value)  # mypy (2.4) takes no type for hashable
    for name, adapter in _adapters(kind).items():
        given = getattr(value, name)
        try:
            found = adapter.validate_python(given, strict=True)
        except ValidationError as error:
            raise ValueError(_sentence(name, given, error.errors(include_url=False))) from None
        if isinstance(found, int) and not -LARGEST <= found < LARGEST:
            raise ValueError(f"{name}: given a number of {len(str(abs(found)))} digits; expected 64 bits")
        object.__setattr__(value, name, found)


def texts_of(kind: type) -> dict[str, str]:
    """What a class's docstring, and those of the classes it is made from, say of each attribute."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        listed = inspect.cleandoc(vars(one).get("__doc__") or "").partition("\nAttributes:\n")[2]
        texts = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", listed, re.MULTILINE)
        found |= {name: " ".join(text.split()) for name, text in texts}
    return found


def first_sentence(text: str) -> str:
    """With a capital, and a full stop."""
    return f"{text[0].upper()}{text[1:].split('. ')[0].removesuffix('.')}."


def expectation(problems: Sequence[Any]) -> str:
    """What pydantic's problems with one value say: `expected ...`, or the sentence of a check of ours."""
    own = next((one for one in problems if one["type"] == "value_error"), None)
    if own is not None:
        return str(own["ctx"]["error"])
    texts = [_EXPECTED.get(one["type"], one["msg"].removeprefix("Input should be ")) for one in problems]
    for long, short in (
        ("greater than or equal to", "at least"),
        ("less than or equal to", "at most"),
        ("greater than", "more than"),
        ("less than inf", "a finite number"),
    ):
        texts = [text.replace(long, short) for text in texts]
    return f"expected {' or '.join(dict.fromkeys(texts))}"


def one_of(*names: str) -> Callable[[Any], Any]:
    """A check of a name; None, and what is no text, pass."""

    def known(value: Any) -> Any:
        if isinstance(value, str) and value not in names:
            raise ValueError(f"expected one of {', '.join(names)}{near(value, names)}")
        return value

    return known


def near(name: str, names: Sequence[str]) -> str:
    """`; did you mean ...?`, where a name is like one of those that are known."""
    found = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def listed(value: Any) -> Any:
    """A tuple for a list, and for a text alone."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _sentence(name: str, given: Any, problems: Sequence[Any]) -> str:
    said = expectation(problems)
    return f"{name}={given!r:.200}: {said}" if said.startswith("expected") else said


@cache
def _adapters(kind: type) -> dict[str, Any]:
    from pydantic import TypeAdapter

    hints = typing.get_type_hints(kind, include_extras=True)
    return {one.name: TypeAdapter(hints[one.name]) for one in fields(kind)}
