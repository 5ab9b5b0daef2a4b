"""The binary search for the largest set of units whose loss does little enough; it knows nothing of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Search:
    """The search of one group for its largest harmless set of units, Ding 2019 (arXiv 1905.04748).

    Attributes:
        open: units that are left.
        space: those among which is searched.
        damage: `(units,)` damage of each unit alone, estimated; NaN where it was never dropped.
        iteration: steps of the present half that are done.
    """

    def __init__(self, units: int) -> None:
        self.open = torch.arange(units)
        self.space = self.open.clone()
        self.damage = torch.full((units,), torch.nan, dtype=torch.float64)
        self.iteration = 0
        self._total = torch.zeros(units, dtype=torch.float64)
        self._count = torch.zeros(units, dtype=torch.float64)

    def drop(self, generator: torch.Generator) -> Tensor:
        """A random half of the units searched."""
        order = torch.randperm(len(self.space), generator=generator)
        return self.space[order[: len(self.space) // 2]]

    def add(self, dropped: Tensor, damage: float) -> None:
        """Note what dropping these units did."""
        self._total[dropped] += damage
        self._count[dropped] += 1
        self.iteration += 1

    def decide(self, threshold: float) -> Tensor:
        """End the half: the units to close, best first; none where the search goes on.

        The caller that closes them says so by `close`.
        """
        half = len(self.space) // 2
        found = self._scores()[self.space]
        self.learn()
        order = torch.argsort(found, stable=True)
        best, enough = self.space[order[:half]], bool(found[order[half - 1]] < threshold) if half else False
        self._restart(best if half > 1 and not enough else self.open)
        return best if enough else best[:0]

    def close(self, units: Tensor) -> None:
        """These units are closed; the search begins again among the others."""
        self.open = self.open[~torch.isin(self.open, units)]
        self._restart(self.open)

    def learn(self) -> None:
        """Estimate each unit's own damage from what the present half has seen.

        Where damages `d` add up, a unit of `n` that is dropped with `h - 1` random others sees on average
        `T = d (n - h) / (n - 1) + D (h - 1) / (n - 1)`, with `D` the sum of all `d`; the mean of `T` is `D h / n`.
        """
        n, half = len(self.space), len(self.space) // 2
        seen = self.space[self._count[self.space] > 0]
        if not half or not len(seen):
            return
        found = self._scores()[seen]
        everything = found.mean() * n / half
        own = (found * (n - 1) - everything * (half - 1)) / (n - half)
        self.damage[seen] = own.clamp_min(0)

    def state(self) -> dict[str, Any]:
        """All of it, as copies."""
        tensors = {name: getattr(self, name).clone() for name in _TENSORS}
        return tensors | {"iteration": self.iteration}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        for name in _TENSORS:
            setattr(self, name, state[name].clone())
        self.iteration = int(state["iteration"])

    def _scores(self) -> Tensor:
        mean = self._total / self._count.clamp_min(1)
        return torch.where(self._count > 0, mean, torch.inf)

    def _restart(self, space: Tensor) -> None:
        self.space, self.iteration = space.clone(), 0
        self._total.zero_()
        self._count.zero_()


_TENSORS = ("open", "space", "damage", "_total", "_count")
