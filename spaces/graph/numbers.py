"""Forwards that are given some of the numbers they would work out, such as a size of heads that is `c // heads`.

A forward may take a size from a width that its heads have nothing to do with, or write it down. The same forward
then runs, and the functions of PyTorch that it calls are given other numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import CodeType, MethodType
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

Numbers = Mapping[str, Mapping[str, float]]
"""By call, as `call_name` gives it: the numbers it is given, by their places among its operands, or by name."""


def call_name(function: str, operands: int, number: int) -> str:
    """Such as `"reshape/4 1"`: in one forward, the second call of that function with four operands."""
    return f"{function}/{operands} {number}"


class Given(TorchFunctionMode):
    """Gives calls of functions, in the order in which one forward makes them, numbers of ours."""

    def __init__(self, numbers: Numbers) -> None:
        super().__init__()
        self._numbers = numbers
        self._named = {
            call: {at: one for at, one in given.items() if not at.isdecimal()} for call, given in numbers.items()
        }
        kinds = dict.fromkeys(call.partition(" ")[0] for call in numbers)
        self._kinds = [(name, int(operands)) for name, operands in (kind.split("/") for kind in kinds)]
        self._calls = [0] * len(kinds)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch, with other numbers where there are some for it."""
        kwargs = kwargs or {}
        for place, (name, operands) in enumerate(self._kinds):  # torch.compile cannot look a function's name up
            if getattr(func, "__name__", "") == name:
                leaves, structure = pytree.tree_flatten((args, kwargs))
                if len(leaves) == operands:
                    call = call_name(name, operands, self._calls[place])
                    given = self._numbers.get(call, {})
                    self._calls[place] += 1
                    leaves = [given.get(str(at), leaf) for at, leaf in enumerate(leaves)]
                    args, kwargs = pytree.tree_unflatten(leaves, structure)
                    kwargs = {**kwargs, **self._named.get(call, {})}
                    break
        return func(*args, **kwargs)


def renumber(module: nn.Module, numbers: Numbers) -> None:
    """Let a module's forward be given numbers, beside those that it is given already."""
    known = vars(module).get("forward")
    held = dict(known.numbers) if isinstance(known, _Forward) else {}
    for call, places in numbers.items():
        held[call] = {**held.get(call, {}), **places}
    module.forward = _Forward(module, held)


def may_be_renumbered(module: nn.Module) -> bool:
    """Whether a module's forward is that of its class, and copies of it keep its attributes."""
    known = vars(module).get("forward")
    return not hasattr(type(module), "__deepcopy__") and (known is None or isinstance(known, _Forward))


class _Forward:
    """The forward of a module's class, whose calls are given numbers."""

    def __init__(self, module: nn.Module, numbers: Numbers) -> None:
        self.module, self.numbers = module, numbers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Given(self.numbers):
            return type(self.module).forward(self.module, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(MethodType(type(self.module).forward, self.module))

    @property
    def __code__(self) -> CodeType:  # which torch.export asks of a root's forward
        return type(self.module).forward.__code__
