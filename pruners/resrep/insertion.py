"""Which groups take a full compactor, which one factor a unit, and which none; tried out before it is said.

What the traced facts decide is decided by them. The rest is seen on a throw-away copy with random compactors and random
shifts, of which half the rows are zero: the merged and cut network must give what the compacted one gives.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...spaces import Candidate, Group, Space, copied
from .compactors import Compacted, Kind, own_norm
from .folding import difference, examples, folded, outputs
from .merging import merged

logger = logging.getLogger("secateur")

_TOLERANCE = 1e6  # times the rounding of the dtype


@dataclass
class Plan:
    """How each group is treated.

    Attributes:
        kinds: of each group, in the order of the space.
        gated: names of the groups whose followers are switched off too.
        reasons: `{group: why it has no full compactor, or why its removal is approximate}`.
    """

    kinds: list[Kind]
    gated: frozenset[str] = frozenset()
    reasons: dict[str, str] = field(default_factory=dict)


def planned(model: nn.Module, space: Space) -> Plan:
    """The plan for a network; it is left as it is."""
    found = [_by_facts(space, group) for group in space.groups]
    plan = Plan([kind for kind, _ in found])
    plan.reasons = {group.name: why for group, (_, why) in zip(space.groups, found, strict=True) if why}
    if any(kind != "whole" for kind in plan.kinds):
        _tried(model, space, plan)
    for name, why in plan.reasons.items():
        logger.info("resrep: group %s: %s", name, why)
    return plan


def _by_facts(space: Space, group: Group) -> tuple[Kind, str]:
    """What the traced network says of a group, and why it is less than a full compactor."""
    makers = [layer for layer in space.layers if _counts(layer.makes, group).any()]
    names = {layer.name for layer in makers} | {layer.weight.rpartition(".")[0] for layer in makers}
    dense = [layer for layer in makers if not layer.depthwise]
    tensors = {name for layer in makers for name in space.slots if name.startswith(f"{layer.name}.")}
    others = [name for name in group.members if name not in names and not _tied(space, name, tensors)]
    if not dense:
        return "whole", "left whole: no dense layer makes it"
    if others:
        return "whole", f"left whole: {others[0]} makes it too and takes no compactor"
    if group.unit > 1 or any(layer.groups > 1 for layer in dense):
        return "diagonal", "one factor a unit: its units are several channels, or a grouped convolution makes it"
    if any((_counts(layer.makes, group) != 1).any() for layer in dense):
        return "diagonal", "one factor a unit: a layer makes only some of its units, or some of them twice"
    for layer in dense:
        norm = own_norm(space, layer)
        if norm is not None and (norm.mean is None or norm.var is None):
            return "diagonal", f"one factor a unit: the batch norm behind {layer.name} keeps no statistics"
    return "dense", ""


def _counts(ids: npt.NDArray[np.int64], group: Group) -> npt.NDArray[np.int64]:
    """How often each unit of a group is among `ids`."""
    counts: npt.NDArray[np.int64] = np.bincount(ids, minlength=group.first + group.units)
    return counts[group.slice]


def _tied(space: Space, member: str, tensors: set[str]) -> bool:
    """Whether a member is a layer under another of its names: tied weights have the same slots."""
    own = {name: axes for name, axes in space.slots.items() if name.startswith(f"{member}.")}
    weight = own.get(f"{member}.weight")
    return weight is not None and any(
        set(space.slots[name]) == set(weight)
        and all(np.array_equal(space.slots[name][axis], ids) for axis, ids in weight.items())
        for name in tensors
    )


def _tried(model: nn.Module, space: Space, plan: Plan) -> None:
    """Lower what does not work, until everything left does."""
    merge, cut, constants = _trial(model, space, plan.kinds, plan.gated)
    if max(merge, cut) < 1:
        return
    plan.gated = frozenset(name for note in constants for name in note["groups"])
    merge, cut, _ = _trial(model, space, plan.kinds, plan.gated)
    if max(merge, cut) < 1:
        return
    for number, group in enumerate(space.groups):
        if plan.kinds[number] != "whole":
            plan.kinds[number], why = _alone(model, space, plan, number)
            if why:
                plan.reasons[group.name] = why


def _alone(model: nn.Module, space: Space, plan: Plan, number: int) -> tuple[Kind, str]:
    """What one group takes, all others left whole."""
    known = plan.reasons.get(space.groups[number].name, "")
    options: list[Kind] = ["dense", "diagonal"] if plan.kinds[number] == "dense" else ["diagonal"]
    result: tuple[Kind, str] = ("whole", "left whole: a compactor can't be merged into what makes it")
    for kind in options:
        kinds: list[Kind] = ["whole"] * len(plan.kinds)
        kinds[number] = kind
        merge, cut, constants = _trial(model, space, kinds, plan.gated)
        if max(merge, cut) < 1:
            return kind, known if kind == plan.kinds[number] else "one factor a unit: a full compactor can't be merged"
        if merge < 1 and constants and all(note["why"] == "padding" for note in constants):
            return kind, "removal is approximate: it leaves a constant where another layer reads it"
        if merge < 1:
            result = kind, "removal is approximate: what reads it sees more than its own channels"
    return result


def _trial(
    model: nn.Module, space: Space, kinds: Sequence[Kind], gated: frozenset[str]
) -> tuple[float, float, list[dict[str, Any]]]:
    """Errors of merging, and of merging and cutting, in units of what rounding explains; constants not folded."""
    generator = torch.Generator().manual_seed(0)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    plain = copied(model)
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.ndim == 1 and parameter.is_floating_point():
                parameter.add_(0.1 * noise(parameter))
        trial = Compacted(copied(plain), space, kinds, gated)
        scores, widths = {}, []
        for number, group in enumerate(space.groups):
            q = trial.compactor(number)
            scores[group.name] = torch.rand(group.units, generator=generator)
            widths.append(group.width if q is None else group.widths[(len(group.widths) - 1) // 2])
            if q is not None:
                q.add_(0.1 * noise(q))
        candidate = space.canonical(Candidate([*widths, *space.full[len(widths) :]]))
        inputs = examples(plain, space)
        rounding = _TOLERANCE * max(
            (torch.finfo(p.dtype).eps for p in plain.parameters() if p.is_floating_point()), default=1e-16
        )
        merge = difference(outputs(merged(trial, plain), inputs), outputs(trial.model, inputs))
        for number, group in enumerate(space.groups):
            q = trial.compactor(number)
            if q is not None:
                kept = scores[group.name].argsort(descending=True, stable=True)[: candidate[number] // group.unit]
                gone = torch.ones(group.units, dtype=torch.bool)
                gone[kept] = False
                q[gone.to(q.device)] = 0
        small, notes, _ = folded(merged(trial, plain), space, candidate, scores)
        cut = difference(outputs(small, inputs), outputs(trial.model, inputs))
    return merge / rounding, cut / rounding, notes
