"""From a candidate to a smaller network: which indices stay, and the module that holds only them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .candidate import Candidate

if TYPE_CHECKING:
    from .layout import Layout
    from .space import Space

Scores = dict[str, Tensor]
"""Importance of every unit: `{group name: Tensor (units,)}`; higher = keep."""


@dataclass(frozen=True)
class Cut:
    """All that a candidate changes in the network.

    Attributes:
        kept: channel map: `{parameter or buffer: {axis: LongTensor of kept indices}}`, for axes that are cut.
        attributes: `{module: {attribute: new value}}`.
        removed: modules that become the identity.
        as_graph: whether the network is rebuilt as a graph whose constants follow.
    """

    kept: dict[str, dict[int, Tensor]]
    attributes: dict[str, dict[str, Any]]
    removed: tuple[str, ...]
    as_graph: bool = False


def cut(space: Space, candidate: Candidate, scores: Scores | None = None) -> Cut:
    """What the candidate changes: the best-scored units of each group stay, in their own order.

    Args:
        space: the traced space.
        candidate: one choice on every axis.
        scores: importance of every unit; the L2 norms of `Space.default_scores` when None.

    Raises:
        ValueError: the candidate is not of this space, or the scores do not fit its groups.
    """
    candidate = space.canonical(candidate)
    changes = plan(space.layout, stays(space, candidate, scores), space.removed(candidate))
    return replace(changes, as_graph=space.program is not None)


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
    return Cut(kept, attributes, removed)


def channel_map(space: Space, candidate: Candidate, scores: Scores | None = None) -> dict[str, dict[int, Tensor]]:
    """Which indices of which parameters and buffers stay: `{name: {dim: LongTensor of kept indices}}`.

    Tensors of removed blocks and tensors that stay whole are not listed. Arguments and errors as of `build`.
    """
    return cut(space, candidate, scores).kept


def build(
    model: nn.Module,
    space: Space,
    candidate: Candidate,
    scores: Scores | None = None,
    *,
    weights: Mapping[str, Tensor] | None = None,
    as_graph: bool | None = None,
) -> nn.Module:
    """A new, smaller network of the user's own class, with the weights of the channels that stay; `model` is untouched.

    From a space that was traced with `as_graph=True` it is a `torch.fx.GraphModule` with the same parameter names.

    Args:
        model: the network the space was traced from, or one of the same shapes.
        space: the traced space.
        candidate: one choice on every axis.
        scores: which units stay; the L2 norms of `Space.default_scores` when None.
        weights: a state dict of the full network to take the weights from; those of `model` when None.
        as_graph: whether a graph is wanted; None: as the space was traced.

    Raises:
        ValueError: candidate, scores or model do not fit the space, or it was not traced for what `as_graph` asks.
    """
    if as_graph is not None and as_graph is not (space.program is not None):
        raise ValueError(
            f"as_graph={as_graph}, but the space was traced with as_graph={space.program is not None}; "
            f"trace it with Space.trace(..., as_graph={as_graph})"
        )
    changes = cut(space, candidate, scores)
    gone = tuple(f"{name}." for name in changes.removed)
    tensors: dict[str, Tensor] = {}
    done: dict[int, Tensor] = {}
    for name, tensor in named_tensors(model).items():
        if name.startswith(gone):
            continue
        if space.shapes.get(name) != tuple(tensor.shape):
            raise ValueError(
                f"model does not fit the space: {name} is {tuple(tensor.shape)}, the traced network's is "
                f"{space.shapes.get(name)}; build from the network that was traced"
            )
        if id(tensor) not in done:
            own = tensor if weights is None else weights.get(name, tensor)
            if own.shape != tensor.shape:
                raise ValueError(
                    f"weights do not fit the model: {name} is {tuple(own.shape)}, not {tuple(tensor.shape)}"
                )
            done[id(tensor)] = _sliced(own.detach().to(tensor), changes.kept.get(name, {}))
        tensors[name] = done[id(tensor)]
    if space.program is not None:
        return space.program.module(model, tensors, stays(space, space.canonical(candidate), scores), changes.removed)
    return assemble(model, tensors, changes.attributes, changes.removed)


def assemble(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    attributes: Mapping[str, Mapping[str, Any]],
    removed: tuple[str, ...] | list[str],
) -> nn.Module:
    """A copy of `model` that holds the given tensors instead of its own.

    Modes, hooks, `requires_grad` and tied weights are those of `model`; its own weights are not copied.

    Args:
        model: the full network.
        tensors: every parameter and buffer of what is left, by name; they are used as they are.
        attributes: `{module: {attribute: value}}` to set.
        removed: modules to replace by the identity.

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
        if isinstance(tensor, nn.Parameter):
            new = memo.get(id(tensor), nn.Parameter(new, requires_grad=tensor.requires_grad))
        memo[id(tensor)] = new
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in [*removed, *attributes]:
        if name not in modules:
            raise ValueError(
                f"{type(model).__name__} has no module {name!r}; use the class of the network that was cut"
            )
    for name in removed:
        identity = nn.Identity()
        identity.train(modules[name].training)
        memo[id(modules[name])] = identity
        for tensor in [*modules[name].parameters(), *modules[name].buffers()]:
            memo.setdefault(id(tensor), None)
    small = _copied(model, _with_plain_tensors(model, memo))
    for module_name, values in attributes.items():
        module = small.get_submodule(module_name)
        for attribute, value in values.items():
            old = getattr(module, attribute)
            setattr(module, attribute, type(old)(value) if isinstance(old, (tuple, torch.Size)) else value)
    return small


def copied(model: nn.Module) -> nn.Module:
    """A copy with its own memory, also of a network that keeps tensors with a history."""
    return copy.deepcopy(model, _with_plain_tensors(model, {}))


def _with_plain_tensors(model: nn.Module, memo: dict[int, Any]) -> dict[int, Any]:
    """Copies of tensors that are neither parameters nor buffers: one with a history cannot be copied otherwise."""
    for module in model.modules():
        for value in vars(module).values():
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(item, Tensor):
                    memo.setdefault(id(item), item.detach().clone())
    return memo


_PLAIN = (int, float, str, type(None))


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """As `copy.deepcopy`, several times faster on the attributes that every module has."""
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    kind = type(module)
    plain = (kind.__reduce_ex__, kind.__getstate__) == (object.__reduce_ex__, nn.Module.__getstate__)
    if not plain or hasattr(kind, "__deepcopy__") or not kind.__setstate__.__module__.startswith("torch.nn."):
        other: nn.Module = copy.deepcopy(module, memo)
        return other
    twin: nn.Module = object.__new__(kind)
    memo[id(module)] = twin
    for name, value in module.__dict__.items():
        if name == "_compiled_call_impl":  # a compiled forward belongs to the original
            continue
        if name == "_modules":
            value = {key: child if child is None else _copied(child, memo) for key, child in value.items()}
        elif name in ("_parameters", "_buffers"):
            value = {key: tensor if tensor is None else memo[id(tensor)] for key, tensor in value.items()}
        elif isinstance(value, (dict, set)) and not value:
            value = type(value)()
        elif not isinstance(value, _PLAIN) and not (type(value) is tuple and all(isinstance(v, _PLAIN) for v in value)):
            value = copy.deepcopy(value, memo)
        twin.__dict__[name] = value
    return twin


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by every name they have."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def l2_scores(layout: Layout, model: nn.Module) -> Scores:
    """L2 norm of all parameter elements that leave with each unit."""
    squares = unit_sums(layout, model, lambda tensor, axes: torch.linalg.vector_norm(tensor, dim=axes).square())
    return {name: values.sqrt().float() for name, values in squares.items()}


def unit_sums(layout: Layout, model: nn.Module, reduce: Callable[[Tensor, list[int]], Tensor]) -> Scores:
    """A sum over all parameter elements that leave with each unit; shared tensors count once.

    Args:
        layout: units and groups.
        model: the network.
        reduce: sums a term of the elements of a tensor over some of its axes (none for a vector).
    """
    total = np.zeros(layout.units)
    done: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        axes = layout.slots.get(name, {})
        if id(parameter) in done or not axes:
            continue
        done.add(id(parameter))
        data = parameter.detach()
        if data.dtype in (torch.float16, torch.bfloat16):
            data = data.float()
        for axis, ids in axes.items():
            others = [other for other in range(data.ndim) if other != axis]
            sums = reduce(data if others else data.unsqueeze(1), others or [1])
            total += np.bincount(ids, weights=sums.double().cpu().numpy(), minlength=layout.units)
    return {group.name: torch.from_numpy(total[group.first : group.first + group.units]) for group in layout.groups}


def check_scores(layout: Layout, scores: Mapping[str, Tensor]) -> None:
    """Raise a ValueError where scores do not fit the groups."""
    names = {group.name for group in layout.groups}
    if set(scores) != names:
        raise ValueError(
            f"scores name {sorted(set(scores) - names)[:5]} and lack {sorted(names - set(scores))[:5]}; "
            "give one tensor for each of space.groups"
        )
    for group in layout.groups:
        shape = tuple(scores[group.name].shape)
        if shape != (group.units,):
            raise ValueError(f"scores of {group.name} are {shape}; expected one a unit, ({group.units},)")
        if not bool(torch.isfinite(scores[group.name]).all()):
            raise ValueError(f"scores of {group.name} are not all finite; replace the NaN or infinite ones")


def stays(space: Space, candidate: Candidate, scores: Scores | None) -> npt.NDArray[np.bool_]:
    """`(u,)` whether each unit stays; unit 0 always does."""
    layout = space.layout
    ranking = space.ranking(scores)
    kept = np.zeros(layout.units, bool)
    kept[0] = True
    for number, group in enumerate(layout.groups):
        count = candidate[number] // group.unit
        kept[group.first + ranking[number][:count]] = True
    return kept


def _sliced(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """A contiguous copy with its own memory, of the indices that stay."""
    for axis, indices in sorted(kept.items(), key=lambda item: len(item[1]) / tensor.shape[item[0]]):
        tensor = tensor.index_select(axis, indices.to(tensor.device))
    return tensor if kept else tensor.clone(memory_format=torch.contiguous_format)
