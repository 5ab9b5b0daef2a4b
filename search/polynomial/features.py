"""What a polynomial sees of a candidate: each axis as a logarithm or a share, and a few facts on the whole network.

All are 0 for the full network and fall, to about -1, as it gets smaller, so that one prior serves them all. Costs are
not among them: they are known exactly, and minimised as they are. Few trials, spread over the sizes, cannot tell what
lowers the error from what only costs, and networks would be proposed that have many parameters for their multiply-adds
and little else.

Symbols: `n` candidates, `d` axes, `g` groups, `q` features of the whole network.

axes    (n, d)  log width, share of the blocks that stay, log side; relative to the full network's
shared  (n, q)  means over the axes, the narrowest layers, and the score that leaves with the channels
"""

from __future__ import annotations

import numpy as np

from ...spaces import Encoded, mean_side
from ..problem import Array, Problem

_OCTAVES = 2.0  # halvings that count as one


class Features:
    """Maps the candidates of a problem to features; nothing in it depends on trials."""

    def __init__(self, problem: Problem) -> None:
        space = problem.space
        self._groups, self._stages = len(space.groups), len(space.stages)
        self._full = np.array(space.full, float)
        self._sides = np.array([mean_side(side) for side in space.resolutions], float)
        scores = space.default_scores if problem.scores is None else problem.scores
        self._kept = []
        for group in space.groups:
            units = np.sort(np.abs(scores[group.name].detach().double().cpu().numpy()))[::-1]
            kept = np.concatenate([[0.0], np.cumsum(units)])
            share = np.maximum(kept / max(float(kept[-1]), 1e-300), 1e-9)
            self._kept.append((group.unit, np.log2(share) / _OCTAVES))

    def __call__(self, encoded: Encoded) -> tuple[Array, Array]:
        """`(n, q)` features of the whole network and `(n, d)` of the axes, of `(n, d)` candidates."""
        widths = encoded[:, : self._groups] / self._full[: self._groups]
        depths = encoded[:, self._groups : self._groups + self._stages]
        depths = depths / np.maximum(self._full[self._groups : self._groups + self._stages], 1)
        narrow = np.log2(np.maximum(widths, 1e-9)) / _OCTAVES
        axes = [narrow, depths - 1]
        shared = []
        if self._groups:
            inverse = (1 / np.maximum(widths, 1e-9)) ** 0.5
            shared += [narrow.mean(axis=1), 1 - inverse.mean(axis=1), narrow.min(axis=1), self._mass(encoded)]
        if self._stages:
            shared.append(depths.mean(axis=1) - 1)
        if len(self._sides):
            side = np.log2(self._sides[encoded[:, -1]] / self._sides[-1])
            axes.append(side[:, None])
            shared.append(side)
        n = len(encoded)
        return np.stack(shared, axis=1) if shared else np.zeros((n, 0)), np.concatenate(axes, axis=1)

    def _mass(self, encoded: Encoded) -> Array:
        """`(n,)` mean logarithm of the share of each group's score that stays."""
        kept = [
            np.log2(np.maximum(mass[encoded[:, i] // unit], 1e-9)) / _OCTAVES
            for i, (unit, mass) in enumerate(self._kept)
        ]
        return np.asarray(np.mean(kept, axis=0))
