"""Gates: where a unit is switched off by parameters alone, and gradients with respect to such a switch.

Multiplying the gate tensors of a unit by zero makes every layer of its group give zero for it: the scale and shift of
the batch norm behind a layer, or the layer's own filter and bias where there is none. What reads the unit keeps its
weights, so that the gradient of a gate that is nearly closed says what the unit would be worth (of one that is quite
closed, a ReLU behind it lets nothing through: its slope at 0 is 0 in PyTorch).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ...spaces import Scores, Space


def gate_axes(space: Space) -> dict[str, int]:
    """`{parameter: axis}`: along it lie the units that the parameter switches."""
    slots = space.slots
    reads = {layer.weight: layer.in_axis for layer in space.layers}
    found: dict[str, int] = {}
    covered = np.zeros(space.units, bool)
    for layer in space.layers:
        if layer.norm is not None and layer.norm.weight is not None:
            names = {layer.norm.weight: 0, layer.norm.bias: 0}
        else:
            names = {layer.weight: layer.out_axis, layer.bias: 0}
        for name, axis in names.items():
            if name is not None and axis in slots.get(name, {}):
                found[name] = axis
                covered[slots[name][axis]] = True
    covered[0] = True
    for name, axes in slots.items():  # what no layer makes, such as an embedding: every place that is no input
        for axis, ids in axes.items():
            if not covered[ids].all() and reads.get(name) != axis and name not in found:
                found[name] = axis
    return found


def gate_gradients(space: Space, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Scores:
    """`dL/dgate` of every unit: the sum of weight times gradient over its gate tensors.

    Args:
        space: the traced space.
        weights: parameters by name, as they are where the gate is open.
        gradients: of the loss with respect to the parameters as the network has them now.
    """
    total = np.zeros(space.units)
    for name, axis in gate_axes(space).items():
        if name in gradients:
            product = (weights[name].detach() * gradients[name]).double()
            others = [other for other in range(product.ndim) if other != axis]
            sums = product.sum(others) if others else product
            total += np.bincount(space.slots[name][axis], weights=sums.cpu().numpy(), minlength=space.units)
    return {group.name: torch.from_numpy(total[group.slice]) for group in space.groups}
