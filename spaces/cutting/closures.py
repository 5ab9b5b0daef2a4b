"""Functions that a copied network holds, hooks and lambdas: theirs close over the copy, too.

A copy of an object leaves its functions as they are. A hook that is written within `__init__` would go on to fill the
store of the full network, and a lambda would calculate with the full network's modules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

_HOLDERS = (FunctionType, MethodType, partial, dict, OrderedDict, list, tuple)
_NOTHING = object()  # in a cell

Done = dict[int, tuple[Any, Any]]
"""Of all that was looked at, by `id`: it, so that no other has its `id`, and what takes its place."""


def rebind(network: nn.Module, memo: Mapping[int, Any]) -> None:
    """Give a copy functions of its own, in place; what several hold or close over goes on being one.

    Args:
        network: the copy.
        memo: what was copied: by `id` of the original, as of `copy.deepcopy`.
    """
    done: Done = {}
    for module in network.modules():
        held = vars(module)
        for name, value in held.items():
            if type(value) in _HOLDERS and value:
                held[name] = _rebound(value, memo, done)


def _rebound(value: Any, memo: Mapping[int, Any], done: Done) -> Any:
    """The value, or another where a function in it closes over what was copied; lists and dicts change in place."""
    if type(value) not in _HOLDERS or memo.get(id(value)) is value:
        return value  # the last is shared with the original, because it has no copy
    if id(value) not in done:
        done[id(value)] = value, value  # while it is under way: functions call themselves, and lists hold themselves
        done[id(value)] = value, _another(value, memo, done)
    return done[id(value)][1]


def _another(value: Any, memo: Mapping[int, Any], done: Done) -> Any:
    if isinstance(value, FunctionType):
        return _function(value, memo, done)
    if isinstance(value, MethodType):
        func = _rebound(value.__func__, memo, done)
        return value if func is value.__func__ else MethodType(func, value.__self__)
    if isinstance(value, partial):
        func = _rebound(value.func, memo, done)
        return value if func is value.func else partial(func, *value.args, **value.keywords)
    if isinstance(value, tuple):
        items = [_rebound(one, memo, done) for one in value]
        return tuple(items) if any(new is not old for new, old in zip(items, value, strict=True)) else value
    for key, one in list(value.items()) if isinstance(value, dict) else enumerate(value):
        if (new := _rebound(one, memo, done)) is not one:
            value[key] = new
    return value


def _function(function: FunctionType, memo: Mapping[int, Any], done: Done) -> FunctionType:
    """The function, or one like it with what was copied in its cells and defaults."""

    def own(content: Any) -> Any:
        if id(content) in memo:
            return memo[id(content)]
        # What else it holds is the original's too.
        return _rebound(content, memo, done) if isinstance(content, FunctionType | MethodType | partial) else content

    closure, defaults = function.__closure__ or (), function.__defaults__ or ()
    keywords = function.__kwdefaults__ or {}
    cells, values = [_cell(cell, own, done) for cell in closure], tuple(map(own, defaults))
    named = {name: own(value) for name, value in keywords.items()}
    pairs = zip([*cells, *values, *named.values()], [*closure, *defaults, *keywords.values()], strict=True)
    if all(new is old for new, old in pairs):
        return function
    itself = [place for place, cell in enumerate(closure) if _content(cell) is function]
    for place in itself:
        cells[place] = CellType()
    made = FunctionType(
        function.__code__, function.__globals__, function.__name__, values or None, closure=tuple(cells)
    )
    for place in itself:
        cells[place].cell_contents = made
        done[id(closure[place])] = closure[place], cells[place]
    made.__kwdefaults__, made.__qualname__ = named or None, function.__qualname__
    made.__dict__.update(function.__dict__)
    return made


def _cell(cell: CellType, own: Callable[[Any], Any], done: Done) -> CellType:
    """The cell, or one with what was copied; functions that share one go on doing so."""
    if id(cell) not in done:
        content = _content(cell)
        new = own(content)
        done[id(cell)] = cell, cell if new is content else CellType(new)
    found: CellType = done[id(cell)][1]
    return found


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return _NOTHING
