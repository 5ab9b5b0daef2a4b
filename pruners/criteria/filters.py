"""What one-shot methods share: the filters of a group, scores for groups that a criterion can't judge, legal widths."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Group, Layer, Scores, Space, named_tensors, within
from ..proposal import Request
from .gates import gate_axes

logger = logging.getLogger("secateur")


def layers_of(space: Space, group: Group) -> list[Layer]:
    """The layers that make units of the group, in the order of the network."""
    return [layer for layer in space.layers if group.holds(layer.makes).any()]


def filters(model: nn.Module, space: Space, group: Group) -> Tensor:
    """`(units, elements)` the filters of each unit, side by side over the layers that make it, in float64.

    Depthwise layers are left out where another layer makes the unit; what no layer makes, such as an embedding, gives
    the tensors that switch it.
    """
    tensors = named_tensors(model)
    layers = layers_of(space, group)
    dense = [layer for layer in layers if not layer.depthwise] or layers
    axes = {layer.weight: layer.out_axis for layer in dense}
    if not axes:
        for name, axis in gate_axes(space).items():
            if group.holds(space.slots[name][axis]).any():
                axes[name] = axis
    parts = [unit_rows(tensors[name], axis, space.slots[name][axis], group) for name, axis in axes.items()]
    return torch.cat(parts, dim=1) if parts else torch.zeros(group.units, 0, dtype=torch.float64)


def unit_rows(tensor: Tensor, axis: int, ids: npt.NDArray[np.int64], group: Group) -> Tensor:
    """`(units, elements)` what a tensor holds of each unit of the group along one axis, in float64."""
    places = np.flatnonzero(group.holds(ids))
    places = places[np.argsort(ids[places], kind="stable")]
    rows = tensor.detach().movedim(axis, 0).index_select(0, torch.from_numpy(places).to(tensor.device))
    return rows.reshape(group.units, -1).double()


def by_group(space: Space, totals: npt.NDArray[np.float64]) -> Scores:
    """The scores that `(u,)` values of all units are."""
    return {group.name: torch.from_numpy(totals[group.slice]) for group in space.groups}


def unit_totals(space: Space, values: Mapping[str, Tensor]) -> Scores:
    """The sum of all values that leave with each unit; `values` are named and shaped as the parameters, each once."""
    total = np.zeros(space.units)
    for name, value in values.items():
        for axis, ids in space.slots.get(name, {}).items():
            others = [other for other in range(value.ndim) if other != axis]
            sums = value.double().sum(others) if others else value.double()
            total += np.bincount(ids, weights=sums.detach().cpu().numpy(), minlength=space.units)
    return by_group(space, total)


def completed(name: str, space: Space, scores: Scores, unknown: Collection[str], why: str) -> Scores:
    """Scores in which groups that a criterion can't judge have their L2 norms, on the scale of the other groups.

    Args:
        name: of the criterion.
        space: the traced space.
        scores: of every group, those of unknown ones of no meaning.
        unknown: names of groups that it can't judge.
        why: the reason, for the log.
    """
    if not unknown:
        return scores
    logger.info("%s: %s %s; they are ranked by their L2 norms", name, ", ".join(sorted(unknown)), why)
    means = [float(values.abs().mean()) for key, values in scores.items() if key not in unknown]
    scale = float(np.mean(means)) if means and np.mean(means) > 0 else 1.0
    result = dict(scores)
    for key in unknown:
        norms = space.default_scores[key].double()
        result[key] = norms / norms.mean().clamp_min(1e-300) * scale
    return result


def legal_widths(request: Request, kept: npt.NDArray[np.int64], *, least: int = 1) -> npt.NDArray[np.int64]:
    """`(n, d)` candidates that keep at least so many units of each group, as few as are legal.

    Args:
        request: whose space, depth and resolution count.
        kept: `(n, groups)` units.
        least: channels that every group keeps at least, as far as it has so many.
    """
    encoded = np.repeat(np.array([request.base], np.int64), len(kept), axis=0)
    for number, group in enumerate(request.space.groups):
        choices = np.array([width for width in group.widths if width >= least] or [group.widths[-1]])
        index = np.searchsorted(choices, kept[:, number] * group.unit, side="left")
        encoded[:, number] = choices[np.minimum(index, len(choices) - 1)]
    return encoded


def first_within(
    space: Space, family: npt.NDArray[np.int64], limits: Mapping[str, float]
) -> npt.NDArray[np.int64] | None:
    """The first of `(n, d)` candidates that meets the limits; None where none does."""
    fine = np.flatnonzero(within(space, family, limits)) if len(family) else np.zeros(0, np.int64)
    return family[fine[0]] if len(fine) else None
