"""Values of two runs without arithmetic, told apart by how they are made: does one calculate what the other does not?

A value's name is its operator with the names of its operands; what two runs make in the same way is the same value.
Stochastic depth in training multiplies by one random number an example, which changes nothing about channels, so its
result has the name of what it multiplies. Start at `Values`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from .network import BATCH, dispatched_name, plain

_EMPTY = {"aten.new_empty", "aten.new_zeros", "aten.new_ones", "aten.new_full"}  # take no numbers of their operand
_SAME = {"aten.clone", "aten.detach", "aten.alias"}
_SCALING = {"aten.mul", "aten.div"}


class Values:
    """The values of a run.

    Attributes:
        all_known: whether it makes and returns nothing but values of the run it is held against, scaled by example.
        scales: the plain values that it scales with beside those of the other run.
    """

    def __init__(self, base: Self | None = None) -> None:
        """Those of a run that is not held against another one, or against `base`, which has ended."""
        self._base = base
        self._names: dict[Any, int] = {} if base is None else base._names  # by how a value is made
        self._known = len(self._names)
        self._of: dict[int, int] = {}
        self._written: dict[int, int] = {}  # by memory: what was written into it last
        self._scales: set[int] = set()  # memory of numbers that are one an example
        self._alive: list[Tensor] = []  # no id is given twice
        self._returned: set[Any] = set()
        self.all_known = True
        self.scales: list[Any] = []

    def begin(self, tensors: Mapping[str, Tensor], inputs: Iterable[Any]) -> None:
        """Name parameters, buffers and inputs."""
        for name, tensor in [*tensors.items(), *enumerate(one for one in inputs if isinstance(one, Tensor))]:
            self._of.setdefault(id(tensor), self._named(("given", name)))
            self._alive.append(tensor)

    def note(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """An operator was called."""
        found = [one for one in pytree.tree_leaves(result) if isinstance(one, Tensor)]
        given = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        name = dispatched_name(func) if isinstance(func, torch._ops.OpOverload) else str(func)
        if name in _SAME:
            self._name_as(found[0], given[0])
            return
        how = (func, self._described(args), self._described(sorted(kwargs.items())))
        if self._base is not None and self._names.get(how, self._known) >= self._known:
            if self._scaled(name, given, found):
                self.scales.append([one for one in pytree.tree_leaves((args, kwargs)) if not isinstance(one, Tensor)])
                return
            self.all_known = False
        made = self._named(how)
        if isinstance(func, torch._ops.OpOverload) and func._schema.is_mutable:
            self._written.update((_memory(one), made) for one in given)
        for place, one in enumerate(found):
            if not any(one is other for other in given):
                self._name(one, self._named((made, place)))

    def end(self, outputs: Any) -> None:
        """The forward returned these."""
        self._returned = {self._value(one) for one in pytree.tree_leaves(plain(outputs)) if isinstance(one, Tensor)}
        self._alive.clear()
        if self._base is not None and not self._returned <= self._base._returned:
            self.all_known = False

    def _scaled(self, name: str, given: list[Tensor], found: list[Tensor]) -> bool:
        """Name what is one number an example, or a value multiplied by such numbers; whether it is one of these."""
        if len(found) != 1:
            return False
        result = found[0]
        wide = [] if name in _EMPTY else [one for one in given if _memory(one) not in self._scales]
        if not wide and _is_scale(result):
            self._name(result, self._named(("scale", len(self._alive))))
            self._scales.add(_memory(result))
            return True
        if name in _SCALING and len(wide) == 1 and wide[0].shape == result.shape and wide[0] is not result:
            self._name_as(result, wide[0])
            return True
        return False

    def _named(self, how: Any) -> int:
        return self._names.setdefault(how, len(self._names))

    def _name(self, tensor: Tensor, name: int) -> None:
        self._of[id(tensor)] = name
        self._alive.append(tensor)

    def _name_as(self, tensor: Tensor, other: Tensor) -> None:
        """Say that a tensor holds the value of another one."""
        name, written = self._value(other)
        self._name(tensor, name)
        self._written[_memory(tensor)] = written
        if _memory(other) in self._scales:
            self._scales.add(_memory(tensor))

    def _value(self, tensor: Tensor) -> tuple[int, int]:
        """The name of a tensor, and what was written into its memory last."""
        if id(tensor) not in self._of:
            self._name(tensor, self._named(_contents(tensor)))
        return self._of[id(tensor)], self._written.get(_memory(tensor), 0)

    def _described(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._value(value)
        if isinstance(value, (list, tuple)):
            return tuple(self._described(one) for one in value)
        return (type(value), value) if isinstance(value, (int, float)) else str(value)


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_scale(tensor: Tensor) -> bool:
    """Whether it holds one number, or one an example."""
    return tensor.numel() == 1 or (tensor.shape[:1] == (BATCH,) and tensor.numel() == BATCH)


def _contents(tensor: Tensor) -> Any:
    """What names a tensor that no operator made: its numbers; itself where it has none."""
    if tensor.is_meta or type(tensor) is not Tensor:
        return ("unknown", id(tensor), object())
    with _disable_current_modes():
        held = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return ("numbers", str(tensor.dtype), tuple(tensor.shape), hash(held))
