"""Criteria that look at the weights alone: scales of batch norms, and distances between filters."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ...spaces import Scores, Space, named_tensors
from ..examples import Examples
from .criteria import criterion
from .filters import by_group, completed


@criterion("bn-scale")
def bn_scale(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Magnitude of a unit's batch norm scales, after Liu 2017 (arXiv 1708.06519).

    The mean over all batch norms whose channel the unit is, those before a convolution included. The paper trains with
    an L1 penalty on the scales first; here they are taken as found. Groups without a scale are ranked by their L2
    norms, divided by their mean and multiplied by the mean scale of the other groups.
    """
    tensors = named_tensors(model)
    names = {layer.norm.weight for layer in space.layers if layer.norm is not None and layer.norm.weight is not None}
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            names.add(f"{path}.weight" if path else "weight")
    total, count = np.zeros(space.units), np.zeros(space.units)
    done: set[int] = set()
    for name in sorted(names):
        ids = space.slots.get(name, {}).get(0)
        if ids is not None and id(tensors[name]) not in done:
            done.add(id(tensors[name]))
            scales = tensors[name].detach().abs().double().cpu().numpy()
            total += np.bincount(ids, weights=scales, minlength=space.units)
            count += np.bincount(ids, minlength=space.units)
    scores = by_group(space, total / np.maximum(count, 1))
    unknown = [group.name for group in space.groups if not count[group.slice].all()]
    return completed("bn-scale", space, scores, unknown, "have no batch norm with a scale")


@criterion("fpgm")
def fpgm(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Sum of the distances of a filter to all others of its layer, after He 2019 (arXiv 1811.00250).

    What lies nearest to the geometric median of its layer is replaceable. Summed over the layers that make a unit.
    The paper prunes the same share of every layer; here shares follow from one threshold.
    """
    tensors = named_tensors(model)
    total = np.zeros(space.units)
    known = np.zeros(space.units, bool)
    for layer in space.layers:
        ids = layer.makes
        rows = tensors[layer.weight].detach().movedim(layer.out_axis, 0).flatten(1).double()
        distances = torch.cdist(rows, rows).sum(1)
        total += np.bincount(ids, weights=distances.cpu().numpy(), minlength=space.units)
        known[ids] = True
    scores = by_group(space, total)
    unknown = [group.name for group in space.groups if not known[group.slice].all()]
    return completed("fpgm", space, scores, unknown, "are made by no convolution or linear layer")
