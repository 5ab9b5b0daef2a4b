"""The damage of an ablation: what a layer's output loses when units of its input are taken away.

`Followers` keeps what the layers that read each group were given in the present step, and runs them again on it,
outside of the training and without a trace in it: no gradient, no change of statistics. Start at `Followers.damages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...spaces import Layer, Norm, Space

Closed = npt.NDArray[np.bool_]
_MODULES = tuple(getattr(nn, f"{kind}{n}d") for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)) + (nn.Linear,)


def damage(base: Tensor, ablated: Tensor) -> Tensor:
    """`||base - ablated||^2 / ||base||^2`, over everything; a scalar."""
    base, ablated = base.double(), ablated.double()
    return (base - ablated).square().sum() / base.square().sum().clamp_min(1e-30)


@dataclass(frozen=True)
class Follower:
    """A layer that reads units, as a module that can be run again.

    Attributes:
        layer: the layer.
        module: it.
        norm: the batch norm behind it, None where there is none.
        reads: `(inputs,)` unit number of each input.
        makes: `(outputs,)` unit number of each output.
    """

    layer: Layer
    module: nn.Module
    norm: nn.Module | None
    reads: npt.NDArray[np.int64]
    makes: npt.NDArray[np.int64]

    def output(self, given: Tensor, closed: Closed, own: Closed) -> Tensor:
        """What follows from `given` without the closed units: behind batch norm and ReLU, those of `own` zero.

        The batch norm takes the statistics of the batch, as in training, and keeps its own.
        """
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        outcome: Tensor = self.module.forward(_without(given.to(weight.dtype), self.reads, closed, self.layer))
        if self.norm is not None:
            outcome = _normed(self.norm, outcome)
        if self.layer.activation == "relu" and (self.norm is None) == (self.layer.norm is None):
            outcome = outcome.relu()
        return _without(outcome, self.makes, own, self.layer)


class Followers:
    """The followers of every group of a model, and what they were given last.

    Attributes:
        of: `{group name: followers}`, for groups that have any that can be run again.
    """

    def __init__(self, model: nn.Module, space: Space) -> None:
        """Hooks on the modules of `model`, taken off by `remove`."""
        found = _followers(model, space)
        self._given: dict[nn.Module, Tensor] = {}
        self._groups = {group.name: group for group in space.groups}
        self.of: dict[str, list[Follower]] = {}
        for group in space.groups:
            units = range(group.first, group.first + group.units)
            mine = [one for one in found if np.isin(one.reads, units).any()]
            if mine:
                self.of[group.name] = mine
        self._hooks = [
            module.register_forward_pre_hook(_keeper(self._given), with_kwargs=True)
            for module in dict.fromkeys(one.module for one in found)
        ]

    def damages(self, closed: Closed, dropped: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, float]:
        """The damage that dropping units of each group does to its followers, summed over them.

        Of a module that was called several times since `clear`, the last call counts.

        Args:
            closed: `(u,)` units that give zero already.
            dropped: `{group: unit numbers}`.

        Returns:
            A number for each group that has a follower which was called.
        """
        base: dict[int, Tensor] = {}
        sums: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, units in dropped.items():
                ablated = closed.copy()
                ablated[units] = True
                for follower in self.of.get(name, ()):
                    given = self._given.get(follower.module)
                    if given is None:
                        continue
                    key = id(follower)
                    if key not in base:
                        base[key] = follower.output(given, closed, closed)
                    one = damage(base[key], follower.output(given, ablated, closed))
                    sums[name] = sums[name] + one.to(sums[name].device) if name in sums else one
        return {name: float(value) for name, value in sums.items()}

    def clear(self) -> None:
        """Forget what was given."""
        self._given.clear()

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.clear()


def _keeper(given: dict[nn.Module, Tensor]) -> Any:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            given[module] = (args[0] if args else kwargs["input"]).detach()

    return keep


def _followers(model: nn.Module, space: Space) -> list[Follower]:
    """A follower for each module whose weight is a layer's; tied weights have several."""
    found = []
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules())
    for layer in space.layers:
        reads = layer.reads
        weight = parameters.get(layer.weight)
        behind = _batch_norm(modules, layer.norm)
        for module in modules.values():
            if reads.any() and weight is not None and isinstance(module, _MODULES) and module.weight is weight:
                found.append(Follower(layer, module, behind, reads, layer.makes))
    return found


def _batch_norm(modules: Mapping[str, nn.Module], norm: Norm | None) -> nn.Module | None:
    names = [] if norm is None else [name for name in (norm.weight, norm.bias, norm.mean) if name is not None]
    module = modules.get(names[0].rpartition(".")[0]) if names else None
    return module if isinstance(module, nn.modules.batchnorm._BatchNorm) else None


def _without(tensor: Tensor, ids: npt.NDArray[np.int64], closed: Closed, layer: Layer) -> Tensor:
    marks = closed[ids]
    if not marks.any():
        return tensor
    axis = -1 if layer.kind == "linear" else tensor.ndim - len(layer.side) - 1
    shape = [1] * tensor.ndim
    shape[axis] = -1
    return tensor.masked_fill(torch.from_numpy(marks).to(tensor.device).view(shape), 0)


def _normed(norm: nn.Module, tensor: Tensor) -> Tensor:
    """As the batch norm in its mode, which keeps its own statistics."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    single = tensor.numel() // tensor.shape[1] < 2
    if norm.training and not single or norm.running_mean is None:
        return tensor if single else F.batch_norm(tensor, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
    return F.batch_norm(tensor, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
