"""What stands in the place of a dropped block: it hands on what it is given, in the form in which the block gave it.

A block may take more than its stream (a mask, a time embedding) and give it in a tuple. `stand_in` says from one call
of a block what is to be given instead, as plain values, so that an exported network can be put together again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import nn
from torch.fx import Node

PLAIN = (int, float, str, type(None))


class Unknown:
    """A tensor of a call that is no value of the graph."""


@dataclass(frozen=True)
class Argument:
    """Where something is among what a module is called with.

    Attributes:
        position: by position, where it may be given so.
        name: by name, where it has one.
        items: within tuples, lists and dictionaries.
    """

    position: int | None
    name: str | None
    items: tuple[int | str, ...] = ()

    def of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The argument of a call."""
        value = kwargs[self.name] if self.name in kwargs else args[self.position]  # type: ignore[index]
        for item in self.items:
            value = value[item]
        return value


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes:
        given: what it took that is no tuple, list or dictionary: tensors as nodes or `Unknown`, and plain values.
        gave: what came back, in its tuples, lists and dictionaries; likewise.
    """

    given: tuple[tuple[Argument, Any], ...]
    gave: Any


Gives = Mapping[str, Any]
"""`{"take": [position, name, *items]}`, `{"value": plain}`, or `{"tuple", "list" or "dict": of these}`."""


def leaves(value: Any, argument: Argument) -> Iterator[tuple[Argument, Any]]:
    """What an argument holds, each with where it is."""
    if type(value) in (tuple, list, dict):
        for item, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, Argument(argument.position, argument.name, (*argument.items, item)))
    else:
        yield argument, value


def stand_in(call: Call, stream: Node, end: Node, made: set[Node]) -> Gives | None | str:
    """What is given instead of what a block gives; None for the identity of one argument; or why there is nothing.

    Args:
        call: of the block.
        stream: what the block takes that its output is to be.
        end: its output.
        made: all that the block makes; what is used after it is `end` alone.
    """
    taken = next((argument for argument, value in call.given if value is stream), None)
    if taken is None:
        return "what it passes on is not among the arguments that it is called with"
    if call.gave is end and len(call.given) == 1 and taken.position == 0 and not taken.items:
        return None
    numbers = iter(range(len(call.given)))

    def gives(value: Any) -> Gives:
        if type(value) is dict:
            return {"dict": {name: gives(inner) for name, inner in value.items()}}
        if type(value) in (tuple, list):
            return {type(value).__name__: [gives(inner) for inner in value]}
        place = next(numbers, len(call.given))
        if value is end:
            return _take(taken)
        same = [number for number, (_, given) in enumerate(call.given) if _alike(given, value)]
        if isinstance(value, Node):
            if same:
                return _take(call.given[same[0]][0])
            if value in made:
                return {"value": None}
        elif value is None or isinstance(value, (bool, str)):
            return {"value": value}
        elif isinstance(value, (int, float)) and (len(same) == 1 or place in same):
            return _take(call.given[place if place in same else same[0]][0])
        raise _Nothing(value)

    try:
        return gives(call.gave)
    except _Nothing as nothing:
        value = nothing.args[0]
        if isinstance(value, (Node, Unknown)):
            return "it gives a tensor that it neither makes nor takes"
        return f"it gives a {type(value).__name__} beside what it passes on"


class _Nothing(Exception):
    """Part of what a block gives that nothing can stand in for."""


def _take(argument: Argument) -> Gives:
    return {"take": [argument.position, argument.name, *argument.items]}


def _alike(given: Any, value: Any) -> bool:
    """Whether an argument may be what came back."""
    return given is value or (isinstance(value, (int, float)) and type(given) is type(value) and given == value)


def is_gives(value: Any) -> bool:
    """Whether plain values that were read say what to give."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    kind, inner = next(iter(value.items()))
    if kind == "take":
        whole = isinstance(inner, list) and len(inner) > 1 and all(isinstance(one, PLAIN) for one in inner)
        return whole and isinstance(inner[0], (int, type(None))) and isinstance(inner[1], (str, type(None)))
    if kind in ("tuple", "list"):
        return isinstance(inner, list) and all(map(is_gives, inner))
    if kind == "dict":
        return isinstance(inner, dict) and all(map(is_gives, inner.values()))
    return kind == "value" and isinstance(inner, PLAIN)


class StandIn(nn.Identity):
    """The identity, of a block that takes more than one argument or gives more than one tensor.

    Args:
        gives: what to give.
    """

    def __init__(self, gives: Gives) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block gives, with its stream passed on."""
        return _given(self.gives, args, kwargs)


def _given(gives: Gives, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    for kind, inner in gives.items():
        if kind == "take":
            return Argument(inner[0], inner[1], tuple(inner[2:])).of(args, kwargs)
        if kind == "dict":
            return {name: _given(one, args, kwargs) for name, one in inner.items()}
        if kind == "value":
            return inner
        found = [_given(one, args, kwargs) for one in inner]
        return tuple(found) if kind == "tuple" else found
    raise AssertionError(gives)


def in_place_of(block: nn.Module, gives: Gives | None) -> nn.Identity:
    """The module that takes the place of a block, in its mode.

    It has the block's plain attributes, and those of the modules in it: forwards read some of them, such as
    `layers[0].self_attn.batch_first`.
    """
    found = nn.Identity() if gives is None else StandIn(gives)
    found.train(block.training)
    own = vars(found).keys() | dir(type(found))
    for name, value in vars(_described(block)).items():
        if name not in own:
            setattr(found, name, value)
    return found


def _described(module: nn.Module) -> SimpleNamespace:
    plain = {name: value for name, value in vars(module).items() if _is_plain(value)}
    return SimpleNamespace(**{name: _described(inner) for name, inner in module.named_children()}, **plain)


def _is_plain(value: Any) -> bool:
    """Whether a copy of an attribute is itself."""
    return isinstance(value, PLAIN) or (type(value) is tuple and all(isinstance(one, PLAIN) for one in value))
