"""Group lasso on all or part of the units: a callback of any loop, `GroupLasso`, and a method, `Lasso`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Scores, Space, copied, threshold_candidate, within
from ...spaces.checked import check
from ..proposal import Count, Needs, Positive, Proposal, Request, Share, Weights, checked
from .masks import reachable, trained

_FLOOR = 1e-12  # of a norm: a unit that is zero is not pushed
_GROWTH = 0.5 / (0.25 - 1 / math.pi**2)  # integral of a cosine schedule, and of its product with the progress
_PART = 3.0  # how much harder a part is pushed: what it did is taken over by the units that are left alone
_FADED = 0.1  # share of its group's first mean norm, of a unit that is said to have faded


class GroupLasso:
    """Partial regularisation, E and Gao 2020 (arXiv 2009.01395), as gradients added to those of the training.

    Units of a group are interchangeable, so that it is enough to push a fixed part of them, about as many as should
    vanish. A unit `w` of the part gets `strength * w / ||w||`: the penalty is `strength` times the sum of the norms.
    `w` is all that makes the unit (filters, biases, the norms behind them), in every layer of its group, and not what
    reads it; so the other units get nothing.

    Attributes:
        chosen: `(u,)` whether each unit is pushed; unit 0 never is.
        strength: of the penalty.
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
        counts = [math.floor(fraction * group.units + 1e-9) for group in space.groups]
        self.chosen = _drawn(space, counts, seed)
        self.strength = strength
        self._places = _own_places(space)

    def penalty(self, model: nn.Module) -> Tensor:
        """`strength * sum of ||w||` over the units that are pushed; a scalar that can be differentiated."""
        norms = self.squares(dict(model.named_parameters()))
        return self.strength * norms[torch.from_numpy(self.chosen).to(norms.device)].clamp_min(_FLOOR**2).sqrt().sum()

    def after_backward(self, loop: Any) -> None:
        """Add the penalty's gradient."""
        parameters = dict(loop.model.named_parameters())
        with torch.no_grad():
            norms = self.squares(parameters).sqrt()
            chosen = torch.from_numpy(self.chosen).to(norms.device)
            factors = torch.where(chosen & (norms > _FLOOR), self.strength / norms.clamp_min(_FLOOR), 0.0)
            for name, axis, ids in self._places:
                parameter = parameters.get(name)
                if parameter is not None and parameter.grad is not None:
                    factor = factors[torch.from_numpy(ids).to(factors.device)].to(parameter.dtype)
                    parameter.grad += parameter * factor.view([-1 if i == axis else 1 for i in range(parameter.ndim)])

    def squares(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """`(u,)` squared norm of each unit."""
        device = next(iter(parameters.values())).device
        total = torch.zeros(len(self.chosen), dtype=torch.float64, device=device)
        for name, axis, ids in self._places:
            if name in parameters:
                sums = parameters[name].double().square().movedim(axis, 0).reshape(len(ids), -1).sum(1)
                total = total.index_add(0, torch.from_numpy(ids).to(device), sums)
        return total


@dataclass(frozen=True, kw_only=True)
class Lasso:
    """Units fade under a group lasso while the network trains, and what is left least of them goes.

    `group-lasso` pushes all units alike, and those that the task holds up stay. `partial`, E and Gao 2020 (arXiv
    2009.01395), pushes a part of every group, drawn by the seed, and leaves the others alone. Of the trained network
    those units stay that kept most of the mean norm that their group began with, one threshold for all groups.

    Attributes:
        name: as in study files.
        strength: of the penalty; None: so that a unit of mean norm that nothing else moves fades by the end of this
            training under a cosine schedule, or in a third of the way where only a part is pushed.
        fraction: share of each group that is pushed; None: all of `group-lasso`; of `partial` as many as go where all
            groups shrink alike to meet the limits.
        growing: whether the strength rises evenly from 0, after Wang 2021 (arXiv 2012.09243); such a unit goes as far.
        least: channels that every group keeps at least.
    """

    name: Literal["group-lasso", "partial"] = "group-lasso"
    strength: Positive | None = None
    fraction: Share | None = None
    growing: bool = False
    least: Count = 1
    needs: Needs = "training"
    allocates: bool = True
    selects: bool = True
    weights: Weights = "trained"

    def __post_init__(self) -> None:
        check(self)

    def start(self, request: Request) -> LassoPhase:
        """See `TrainingPruner.start`; the request's seed draws the units."""
        reachable(request, self.least)
        return LassoPhase(self, request)


class LassoPhase:
    """See `Phase`."""

    def __init__(self, method: Lasso, request: Request) -> None:
        self.model = copied(request.model)
        self._method, self._space, self._limits = method, request.space, dict(request.limits)
        self._lasso = GroupLasso(request.space, strength=0.0)
        fraction = method.fraction or (None if method.name == "partial" else 1.0)
        self._lasso.chosen = _drawn(request.space, _going(request, fraction), request.seed)
        norms = self._norms()
        self._means = {name: float(values.mean()) for name, values in norms.items()}
        self._strength = method.strength or 0.0

    def prepare(self, loop: Any) -> None:
        """Choose the strength."""
        if self._method.strength is None and self._means:
            group = loop.optimizer.param_groups[0]
            way = 0.5 * float(group["lr"]) * max(1, loop.steps) / (1 - float(group.get("momentum", 0.0)))
            times = _PART if self._method.name == "partial" else 1.0
            self._strength = times * float(np.mean(list(self._means.values()))) / max(way, _FLOOR)

    def after_backward(self, loop: Any) -> None:
        """Push the units."""
        share = _GROWTH * loop.step / max(1, loop.steps) if self._method.growing else 1.0
        self._lasso.strength = self._strength * share
        self._lasso.after_backward(loop)

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        return {"means": dict(self._means), "strength": self._strength}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Phase`."""
        self._means, self._strength = dict(state["means"]), float(state["strength"])

    def proposal(self) -> Proposal:
        """See `Phase`."""
        space, norms = self._space, self._norms()
        left = {name: norms[name] / max(self._means[name], _FLOOR) for name in norms}
        scores = checked(self._method.name, space, left)
        least = self._method.least
        candidate = threshold_candidate(space, scores, self._limits, normalise="none", least=least)
        pushed = torch.from_numpy(self._lasso.chosen[1:])
        values = torch.cat([scores[group.name] for group in space.groups]) if scores else torch.ones(0)
        notes = {"strength": self._strength, "pushed": int(pushed.sum()), "faded": int((values < _FADED).sum())}
        return trained(self.model, space, candidate, scores, notes)

    def _norms(self) -> Scores:
        values = self._lasso.squares(dict(self.model.named_parameters())).sqrt().detach().cpu()
        return {group.name: values[group.slice] for group in self._space.groups}


def _going(request: Request, fraction: float | None) -> list[int]:
    """How many units of each group are pushed: that share, or what goes where all groups shrink alike."""
    space = request.space
    if fraction is not None:
        return [math.floor(fraction * group.units + 1e-9) for group in space.groups]
    family = [space.uniform(float(ratio)) for ratio in np.linspace(1.0, 0.02, 99)]
    fine = np.flatnonzero(within(space, space.encode(family), request.limits))
    chosen = family[fine[0]] if len(fine) else family[-1]
    return [group.units - chosen[number] // group.unit for number, group in enumerate(space.groups)]


def _drawn(space: Space, counts: Sequence[int], seed: int) -> npt.NDArray[np.bool_]:
    """`(u,)` so many units of each group, at random."""
    generator = torch.Generator().manual_seed(seed)
    drawn = np.zeros(space.units, bool)
    for group, count in zip(space.groups, counts, strict=True):
        order = torch.randperm(group.units, generator=generator).numpy()
        drawn[group.first + order[:count]] = True
    return drawn


def _own_places(space: Space) -> list[tuple[str, int, npt.NDArray[np.int64]]]:
    """Tensor, axis and unit numbers of all places that make units; those along which a layer reads are left out."""
    reads = {(layer.weight, layer.in_axis) for layer in space.layers}
    return [
        (name, axis, ids)
        for name, axes in space.slots.items()
        for axis, ids in axes.items()
        if (name, axis) not in reads
    ]
