"""Group lasso on part of the units: a callback of any loop, used together with any method; it proposes no network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Space

_FLOOR = 1e-12  # of a norm: a unit that is zero is not pushed


class GroupLasso:
    """Partial regularisation, E and Gao 2020 (arXiv 2009.01395), as gradients added to those of the training.

    Units of a group are interchangeable, so that it is enough to push a fixed part of them, about as many as should
    vanish. A unit `w` of the part gets `strength * w / ||w||`: the penalty is `strength` times the sum of the norms.
    `w` is all that makes the unit (filters, biases, the norms behind them), in every layer of its group, and not what
    reads it; so the other units get nothing.

    Attributes:
        chosen: `(u,)` whether each unit is pushed; unit 0 never is.
    """

    def __init__(self, space: Space, *, strength: float = 1e-3, fraction: float = 0.5, seed: int = 0) -> None:
        """Choose the units, at random in every group.

        Args:
            space: the traced space.
            strength: of the penalty.
            fraction: share of each group that is pushed, rounded down.
            seed: of the choice.
        """
        if not strength >= 0:
            raise ValueError(f"strength={strength!r}: expected a number of at least 0")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction!r}: expected a share in (0, 1]")
        generator = torch.Generator().manual_seed(seed)
        self.chosen: npt.NDArray[np.bool_] = np.zeros(space.units, bool)
        for group in space.groups:
            order = torch.randperm(group.units, generator=generator).numpy()
            self.chosen[group.first + order[: math.floor(fraction * group.units + 1e-9)]] = True
        self._strength = strength
        self._places = _own_places(space)

    def penalty(self, model: nn.Module) -> Tensor:
        """`strength * sum of ||w||` over the units that are pushed; a scalar that can be differentiated."""
        norms = self._squares(dict(model.named_parameters()))
        return self._strength * norms[torch.from_numpy(self.chosen).to(norms.device)].clamp_min(_FLOOR**2).sqrt().sum()

    def after_backward(self, loop: Any) -> None:
        """Add the penalty's gradient."""
        parameters = dict(loop.model.named_parameters())
        with torch.no_grad():
            norms = self._squares(parameters).sqrt()
            chosen = torch.from_numpy(self.chosen).to(norms.device)
            factors = torch.where(chosen & (norms > _FLOOR), self._strength / norms.clamp_min(_FLOOR), 0.0)
            for name, axis, ids in self._places:
                parameter = parameters.get(name)
                if parameter is not None and parameter.grad is not None:
                    factor = factors[torch.from_numpy(ids).to(factors.device)].to(parameter.dtype)
                    parameter.grad += parameter * factor.view([-1 if i == axis else 1 for i in range(parameter.ndim)])

    def _squares(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """`(u,)` squared norm of each unit."""
        device = next(iter(parameters.values())).device
        total = torch.zeros(len(self.chosen), dtype=torch.float64, device=device)
        for name, axis, ids in self._places:
            if name in parameters:
                sums = parameters[name].double().square().movedim(axis, 0).reshape(len(ids), -1).sum(1)
                total = total.index_add(0, torch.from_numpy(ids).to(device), sums)
        return total


def _own_places(space: Space) -> list[tuple[str, int, npt.NDArray[np.int64]]]:
    """Tensor, axis and unit numbers of all places that make units; those along which a layer reads are left out."""
    reads = {(layer.weight, layer.in_axis) for layer in space.layers}
    return [
        (name, axis, ids)
        for name, axes in space.slots.items()
        for axis, ids in axes.items()
        if (name, axis) not in reads
    ]
