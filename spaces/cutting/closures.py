"""Functions that a copied network holds, hooks and lambdas: theirs close over the copy, too.

A copy of an object leaves its functions as they are. A hook that is written within `__init__` would go on to fill the
store of the full network, and a lambda would calculate with the full network's modules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from types import CellType, FunctionType
from typing import Any

from torch import nn

_HOLDERS = (FunctionType, partial, dict, OrderedDict, list, tuple)


def rebind(network: nn.Module, memo: Mapping[int, Any]) -> None:
    """Give a copy functions of its own, in place.

    Args:
        network: the copy.
        memo: what was copied: by `id` of the original, as of `copy.deepcopy`.
    """
    for module in network.modules():
        held = vars(module)
        for name, value in held.items():
            if type(value) in _HOLDERS and value:
                held[name] = _rebound(value, memo, set())


def _rebound(value: Any, memo: Mapping[int, Any], seen: set[int]) -> Any:
    """The value, or another where a function in it closes over what was copied; lists and dicts change in place."""
    if type(value) not in _HOLDERS or id(value) in seen or memo.get(id(value)) is value:
        return value  # the last is shared with the original, because it has no copy
    seen.add(id(value))
    if isinstance(value, FunctionType):
        return _function(value, memo, seen)
    if isinstance(value, partial):
        func = _rebound(value.func, memo, seen)
        return value if func is value.func else partial(func, *value.args, **value.keywords)
    if isinstance(value, tuple):
        items = [_rebound(one, memo, seen) for one in value]
        return tuple(items) if any(new is not old for new, old in zip(items, value, strict=True)) else value
    for key, one in list(value.items()) if isinstance(value, dict) else enumerate(value):
        if (new := _rebound(one, memo, seen)) is not one:
            value[key] = new
    return value


def _function(function: FunctionType, memo: Mapping[int, Any], seen: set[int]) -> FunctionType:
    cells = []
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # nothing is in it yet
            cells.append(cell)
            continue
        new = memo.get(id(content), content)
        if new is content and isinstance(content, FunctionType | partial):  # what else it holds is the original's too
            new = _rebound(content, memo, seen)
        cells.append(cell if new is content else CellType(new))
    if all(new is old for new, old in zip(cells, function.__closure__ or (), strict=True)):
        return function
    own = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure=tuple(cells)
    )
    own.__kwdefaults__, own.__qualname__ = function.__kwdefaults__, function.__qualname__
    own.__dict__.update(function.__dict__)
    return own
