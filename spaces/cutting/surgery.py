"""From a candidate to a smaller network: which indices stay, and the module that holds only them.

Below: the tensors of a network by name, and the scores that rank units.
"""

from __future__ import annotations

import copy
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..graph.attention import any_size, resized
from ..graph.numbers import Numbers, call_name, renumber
from ..graph.standin import PLAIN, Gives, in_place_of

if TYPE_CHECKING:
    from ..channels.layout import Group, Layout, Slots


PLAIN_TYPES = {*PLAIN, bool, float, type}  # of attributes that need no copy
_REGISTERED = {"_parameters", "_buffers", "_modules"}  # these hold tensors and modules alone
_HOLDERS = {FunctionType, MethodType, partial, dict, OrderedDict, list, tuple}  # of functions, and functions
_HOOKS = {name for name, value in vars(nn.Module()).items() if isinstance(value, dict | set)}


@dataclass(frozen=True)
class Cut:
    """All that a candidate changes in the network.

    Attributes:
        kept: channel map: `{parameter or buffer: {axis: LongTensor of kept indices}}`, for axes that are cut.
        attributes: `{module: {attribute: new value}}`.
        removed: modules that become the identity.
        as_graph: whether the network is rebuilt as a graph whose constants follow.
        gives: what takes the place of removed modules gives, of those for which that is not all that they take.
        numbers: `{module: numbers that its forward is given}`.
        keeping: dictionaries that a forward keeps tensors in for its next call: module and attribute.
    """

    kept: dict[str, dict[int, Tensor]]
    attributes: dict[str, dict[str, Any]]
    removed: tuple[str, ...]
    as_graph: bool = False
    gives: dict[str, Gives] = field(default_factory=dict)
    numbers: dict[str, Numbers] = field(default_factory=dict)
    keeping: tuple[tuple[str, str], ...] = ()


def plan(layout: Layout, kept_units: npt.NDArray[np.bool_], removed: tuple[str, ...]) -> Cut:
    """What changes when only some units and blocks stay.

    Args:
        layout: units and groups.
        kept_units: `(u,)` whether each unit stays.
        removed: modules that become the identity.
    """
    gone = tuple(f"{name}." for name in removed)
    kept: dict[str, dict[int, Tensor]] = {}
    for name, axes in layout.slots.items():
        if name.startswith(gone):
            continue
        for axis, ids in axes.items():
            indices = np.flatnonzero(kept_units[ids])
            if len(indices) < len(ids):
                kept.setdefault(name, {})[axis] = torch.from_numpy(indices)
    attributes: dict[str, dict[str, Any]] = {}
    for counter in layout.counters:
        if f"{counter.module}.".startswith(gone):
            continue
        count = int(kept_units[counter.ids].sum()) // counter.divide
        if count != len(counter.ids) // counter.divide:
            value: Any = count
            if isinstance(counter.full, tuple):
                value = attributes.get(counter.module, {}).get(counter.name, list(counter.full))
                value[counter.item] = count
            attributes.setdefault(counter.module, {})[counter.name] = value
    gives = {name: layout.gives[name] for name in removed if name in layout.gives}
    numbers = _numbers(layout, kept_units, gone) if kept else {}
    return Cut(kept, attributes, removed, gives=gives, numbers=numbers, keeping=layout.keeping)


def _numbers(layout: Layout, kept_units: npt.NDArray[np.bool_], gone: tuple[str, ...]) -> dict[str, Numbers]:
    """The numbers that forwards are given, by module; calls that removed blocks made are not counted."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for one in layout.numbers:
        if not f"{one.module}.".startswith(gone):
            calls = sum(not f"{module}.".startswith(gone) for module in one.earlier)
            name = call_name(one.function, one.operands, calls)
            places = found.setdefault(one.module, {}).setdefault(name, {})
            places[str(one.place)] = one.left(kept_units)
    return {module: dict(numbers) for module, numbers in found.items()}


def smaller(tensors: Mapping[str, Tensor], changes: Cut) -> dict[str, Tensor]:
    """Contiguous copies of a network's tensors with the indices that stay; tensors of several names stay shared."""
    gone = tuple(f"{name}." for name in changes.removed)
    done: dict[int, Tensor] = {}
    found = {}
    for name, tensor in tensors.items():
        if not name.startswith(gone):
            if id(tensor) not in done:
                done[id(tensor)] = _sliced(tensor.detach(), changes.kept.get(name, {}))
            found[name] = done[id(tensor)]
    return found


def _sliced(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """A contiguous copy with its own memory, of the indices that stay."""
    for axis, indices in sorted(kept.items(), key=lambda item: len(item[1]) / tensor.shape[item[0]]):
        tensor = tensor.index_select(axis, indices.to(tensor.device))
    return tensor if kept else tensor.clone(memory_format=torch.contiguous_format)


def assemble(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    attributes: Mapping[str, Mapping[str, Any]],
    removed: Sequence[str],
    gives: Mapping[str, Gives] | None = None,
    numbers: Mapping[str, Numbers] | None = None,
) -> nn.Module:
    """A copy of `model` that holds the given tensors instead of its own.

    Modes, hooks, `requires_grad` and tied weights are those of `model`; its own weights are not copied.

    Args:
        model: the full network.
        tensors: every parameter and buffer of what is left, by name; they are used as they are.
        attributes: `{module: {attribute: value}}` to set.
        removed: modules to replace by the identity.
        gives: what to give in the place of those that take or give more than one value, as `Cut.gives` says.
        numbers: what forwards are given, as `Cut.numbers` says.

    Raises:
        ValueError: a tensor or module is missing, or not known to the model.
    """
    gone = tuple(f"{name}." for name in removed)
    own = {name: tensor for name, tensor in named_tensors(model).items() if not name.startswith(gone)}
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"the tensors do not fit {type(model).__name__}: missing {missing[:5]}, unexpected {unknown[:5]}; "
            "use the class and arguments of the network that was cut"
        )
    memo: dict[int, Any] = {}
    for name, tensor in own.items():
        new = tensors[name]
        if not isinstance(tensor, nn.Parameter):
            memo[id(tensor)] = new
        elif id(tensor) not in memo:
            fits = isinstance(new, nn.Parameter) and new.requires_grad == tensor.requires_grad
            memo[id(tensor)] = new if fits else nn.Parameter(new, requires_grad=tensor.requires_grad)
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in [*removed, *attributes, *(numbers or {})]:
        if name not in modules:
            raise ValueError(
                f"{type(model).__name__} has no module {name!r}; use the class of the network that was cut"
            )
    for name in removed:
        memo[id(modules[name])] = in_place_of(modules[name], (gives or {}).get(name))
        for tensor in [*modules[name].parameters(), *modules[name].buffers()]:
            memo.setdefault(id(tensor), None)
    small = _with_functions(_copied(model, memo), memo)
    for module_name, values in attributes.items():
        module = small.get_submodule(module_name)
        for attribute, value in values.items():
            old = getattr(module, attribute)
            setattr(module, attribute, type(old)(value) if isinstance(old, (tuple, torch.Size)) else value)
    for name, given in (numbers or {}).items():
        renumber(small.get_submodule(name), given)
    for name in [name for name, module in modules.items() if isinstance(module, nn.MultiheadAttention)]:
        if any_size(modules[name]) and any(
            tensors[one].shape != own[one].shape for one in own if one.startswith(f"{name}.")
        ):
            resized(cast("nn.MultiheadAttention", small.get_submodule(name)))
    return small


def forget(small: nn.Module, keeping: Sequence[Sequence[str]]) -> None:
    """Take out what the full network's forward kept for its next call; the small one makes its own.

    Args:
        small: a copy of the full network.
        keeping: as `Cut.keeping`.
    """
    modules = dict(small.named_modules())
    for path, name in keeping:
        kept = vars(modules[path]).get(name) if path in modules else None
        if isinstance(kept, dict):
            for key, value in list(kept.items()):
                if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
                    del kept[key]


def copied(model: nn.Module) -> nn.Module:
    """A copy with its own memory, also of a network that keeps tensors with a history, locks or open files."""
    memo: dict[int, Any] = {}
    for tensor in named_tensors(model).values():
        if id(tensor) not in memo:
            memo[id(tensor)] = copy.deepcopy(tensor) if tensor.is_leaf else tensor.detach().clone()
    return _with_functions(_copied(model, memo), memo)


def _with_functions(twin: nn.Module, memo: Mapping[int, Any]) -> nn.Module:
    """The copy, with functions of its own where any module holds some; most hold none."""
    held = (value for module in twin.modules() for name, value in vars(module).items() if name not in _REGISTERED)
    if any(_functions(value) for value in held if type(value) in _HOLDERS and value):
        from .closures import rebind

        rebind(twin, memo)
    return twin


def _functions(value: Any, depth: int = 3) -> bool:
    kind = type(value)
    if kind in (FunctionType, MethodType, partial):
        return True
    items = value.values() if isinstance(value, dict) else value
    return depth > 0 and any(_functions(one, depth - 1) for one in items if type(one) in _HOLDERS and one)


def _copied(module: nn.Module, memo: dict[int, Any], path: str = "") -> nn.Module:
    """As `copy.deepcopy`, several times faster on the attributes that every module has."""
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    kind = type(module)
    plain = (kind.__reduce_ex__, kind.__getstate__) == (object.__reduce_ex__, nn.Module.__getstate__)
    # torch.compile replaces the one of nn.Module, wherever that then stands.
    plain = plain and (
        kind.__setstate__ is nn.Module.__setstate__ or kind.__setstate__.__module__.startswith("torch.nn.")
    )
    if not plain or hasattr(kind, "__deepcopy__"):
        for value in vars(module).values():
            _remember_tensors(value, memo)
        other: nn.Module = copy.deepcopy(module, memo)
        return other
    twin: nn.Module = object.__new__(kind)
    memo[id(module)] = twin
    own = twin.__dict__
    own.update(module.__dict__)  # most are plain
    own.pop("_compiled_call_impl", None)  # a compiled forward belongs to the original
    for name, value in [(name, value) for name, value in own.items() if type(value) not in PLAIN_TYPES]:
        if name == "_modules":
            value = {
                key: child if child is None else _copied(child, memo, f"{path}{key}.") for key, child in value.items()
            }
        elif name in ("_parameters", "_buffers"):
            value = {key: tensor if tensor is None else memo[id(tensor)] for key, tensor in value.items()}
        elif name in _HOOKS and not value:  # most modules have none; what is a user's own may be shared by modules
            value = type(value)()
        else:
            value = _copied_value(value, memo, path + name)
        own[name] = value
    return twin


def _copied_value(value: Any, memo: dict[int, Any], path: str) -> Any:
    """A copy of a module's attribute; what has no copy, such as a lock or an open file, is shared.

    Raises:
        TypeError: it has no copy and holds tensors or modules, which must not be shared.
    """
    if isinstance(value, PLAIN) or (type(value) is tuple and all(isinstance(one, PLAIN) for one in value)):
        return value
    _remember_tensors(value, memo)
    added: dict[int, Any] = {}  # a copy that fails half-way leaves halves
    try:
        found = copy.deepcopy(value, ChainMap(added, memo))  # type: ignore[arg-type]
    except Exception as error:
        if type(value) in (list, tuple, dict) and id(value) not in memo:
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            items = [(key, _copied_value(item, memo, f"{path}[{key!r}]")) for key, item in pairs]
            return dict(items) if isinstance(value, dict) else type(value)(item for _, item in items)
        if any(isinstance(held, (Tensor, nn.Module)) for held in getattr(value, "__dict__", {}).values()):
            raise TypeError(
                f"the network's {path}, a {type(value).__name__}, cannot be copied ({type(error).__name__}: {error}); "
                "remove it before, or give its class a __deepcopy__"
            ) from error
        memo[id(value)] = value
        return value
    memo.update(added)
    return found


def _remember_tensors(value: Any, memo: dict[int, Any]) -> None:
    """Copies of tensors in an attribute that are neither parameters nor buffers: one with a history has no other."""
    if isinstance(value, Tensor):
        memo.setdefault(id(value), value.detach().clone())
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _remember_tensors(item, memo)


Scores = dict[str, Tensor]
"""Importance of every unit: `{group name: Tensor (units,)}`; higher = keep."""


class Slotted(Protocol):
    """What a network's units are: a space, or the layout within it."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """Units that are cut together."""

    @property
    def units(self) -> int:
        """Number of units of all groups, and unit 0, which always stays."""

    @property
    def slots(self) -> Slots:
        """Which unit each index belongs to."""


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by every name they have."""
    parameters, buffers = parameters_and_buffers(model)
    return parameters | buffers


def parameters_and_buffers(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both, by every name they have."""
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}

    def walk(module: nn.Module, prefix: str) -> None:  # several times faster than the two generators of PyTorch
        for found, held in ((parameters, module._parameters), (buffers, module._buffers)):
            found.update((prefix + name, tensor) for name, tensor in held.items() if tensor is not None)
        for name, child in module._modules.items():
            if child is not None:
                walk(child, f"{prefix}{name}.")

    walk(model, "")
    return parameters, buffers


def l2_scores(space: Slotted, model: nn.Module) -> Scores:
    """L2 norm of all parameter elements that leave with each unit."""
    squares = unit_sums(space, model, lambda tensor, axes: torch.linalg.vector_norm(tensor, dim=axes).square())
    return {name: values.sqrt().float() for name, values in squares.items()}


def unit_sums(space: Slotted, model: nn.Module, reduce: Callable[[Tensor, list[int]], Tensor]) -> Scores:
    """A sum over all parameter elements that leave with each unit; shared tensors count once.

    Args:
        space: the traced space.
        model: the network.
        reduce: sums a term of the elements of a tensor over some of its axes (none for a vector).
    """
    total = np.zeros(space.units)
    done: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        axes = space.slots.get(name, {})
        if id(parameter) in done or not axes:
            continue
        done.add(id(parameter))
        data = parameter.detach()
        if data.dtype in (torch.float16, torch.bfloat16):
            data = data.float()
        for axis, ids in axes.items():
            others = [other for other in range(data.ndim) if other != axis]
            sums = reduce(data if others else data.unsqueeze(1), others or [1])
            total += np.bincount(ids, weights=sums.double().cpu().numpy(), minlength=space.units)
    return {group.name: torch.from_numpy(total[group.slice]) for group in space.groups}


def check_scores(space: Slotted, scores: Mapping[str, Tensor]) -> None:
    """Raise a ValueError where scores do not fit the groups."""
    names = {group.name for group in space.groups}
    if set(scores) != names:
        raise ValueError(
            f"scores name {sorted(set(scores) - names)[:5]} and lack {sorted(names - set(scores))[:5]}; "
            "give one tensor for each of space.groups"
        )
    for group in space.groups:
        shape = tuple(scores[group.name].shape)
        if shape != (group.units,):
            raise ValueError(f"scores of {group.name} are {shape}; expected one a unit, ({group.units},)")
        if not bool(torch.isfinite(scores[group.name]).all()):
            raise ValueError(f"scores of {group.name} are not all finite; replace the NaN or infinite ones")
