"""Tensors of a network by name, and the scores that rank units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..channels.layout import Group, Slots

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
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


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
