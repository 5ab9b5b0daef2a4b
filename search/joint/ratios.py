"""Candidates as points between 0 and 1: the share of its full choice that every axis keeps, with costs in between.

v       (d,) or (n, d)  ratios: of the channels, of the blocks, of the side; `least` at the least choice, 1 at the full
p       (n, d)          real positions among the choices; whole ones are candidates
usage   (n,)            the largest part that any limit is used to; 1 where the tightest is just met

A cost between candidates is interpolated in the simplex of neighbours around p (Lovasz' extension): exact at whole
positions, continuous, and never falling along any axis because the costs are so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...spaces import Axis, Candidate, Encoded, Space, mean_side
from ..problem import Array, Problem

_ROUNDINGS = 64  # how many ways to round a point are looked at
_POINTS, _ROUNDS = 17, 7  # of the search on a path: each round leaves a sixteenth


class Ratios:
    """The points of a problem, held against some limits.

    Attributes:
        problem: space, costs and ranking.
        limits: absolute, by cost name; those that nothing predicts are left aside.
        least: `(d,)` ratio of the least choice of each axis.
        widths: `(d,)` whether each axis is a width.
        sigma: `(d,)` how far a point is moved to be compared: 0.05 of the channels, half a block, one step of the
            resolution; half a step where that is more, 0 where there is no choice.
    """

    def __init__(self, problem: Problem, limits: Mapping[str, float]) -> None:
        """Keep what costs are computed from."""
        space, known = problem.space, problem.costs(np.array([problem.space.full], np.int64))
        self.problem = problem
        self.limits = {name: float(limit) for name, limit in limits.items() if name in known}
        self.widths = np.array([axis.kind == "width" for axis in space.axes], bool)
        self.least = np.array([grid[0] for grid in self._grids])
        self.sigma = np.array([_spread(axis, grid) for axis, grid in zip(space.axes, self._grids, strict=True)])

    def of(self, candidate: Sequence[int]) -> Array:
        """`(d,)` ratios of a candidate."""
        places = self.problem.positions(np.array([candidate], np.int64))[0]
        return np.array([grid[place] for grid, place in zip(self._grids, places, strict=True)], float)

    def nearest(self, v: Array) -> Candidate:
        """The candidate nearest to a point, whatever it costs."""
        return self._candidate(np.floor(self._positions(v[None])[0] + 0.5).astype(np.int64))

    def usage(self, v: Array) -> Array:
        """`(n,)` usage of `(n, d)` points; 0 without limits."""
        p = self._positions(v)
        n, d = p.shape
        low = np.floor(p).astype(np.int64)
        part = p - low
        order = np.argsort(-part, axis=1, kind="stable")
        # Corners from the low one to the high one, each with one more axis raised, the largest part first.
        raised = np.argsort(order, axis=1)[:, None, :] < np.arange(d + 1)[None, :, None]
        corners = low[:, None, :] + raised * (part > 0)[:, None, :]
        falling = np.take_along_axis(part, order, axis=1)
        weights = -np.diff(falling, axis=1, prepend=1.0, append=0.0)
        costs = self._used(self.problem.encoded(corners.reshape(n * (d + 1), d)))
        return np.asarray(np.einsum("knc,nc->kn", costs.reshape(-1, n, d + 1), weights).max(axis=0, initial=0.0))

    def projected(self, v: Array) -> Array:
        """The point moved onto the budget; see `projected`."""
        return projected(v, self.usage, widths=self.widths, least=self.least) if self.limits else self._inside(v)

    def uniform(self) -> Array:
        """The point on the budget at which every axis keeps the same ratio, as far as it can."""
        if not self.limits:
            return np.ones(len(self.least))
        return along(lambda t: np.maximum(self.least, t[:, None]), self.usage)

    def rounded(
        self, v: Array, random: np.random.Generator, taken: Collection[Candidate] = (), nearly: float = 0.9
    ) -> Candidate | None:
        """A canonical candidate within the limits, rounded from a point at random.

        Of many roundings, which are the point itself on the mean, it is the one that uses the budget best: networks
        are compared where they cost alike.

        Args:
            v: `(d,)` the point.
            random: rounds.
            taken: what it must not be.
            nearly: where the best is taken another will do that uses this part of what it uses; None is given where
                all of these are taken too.
        """
        p = self._positions(v[None])[0]
        low = np.floor(p).astype(np.int64)
        draws = np.unique(low + (random.random((_ROUNDINGS, len(p))) < p - low), axis=0)
        used = self._used(self.problem.encoded(draws)).max(axis=0, initial=0.0)
        fine = random.permutation(np.flatnonzero(used <= 1))  # of those that use it alike, any
        fine = fine[used[fine] >= nearly * used[fine].max(initial=0.0)]
        found = [self._candidate(draws[place]) for place in fine[np.argsort(-used[fine], kind="stable")]]
        if not found:
            found = [self.problem.space.repair(self.nearest(v), self.limits, costs=self.problem.costs)]
        return next((candidate for candidate in found if candidate not in taken), None)

    def _used(self, encoded: Encoded) -> Array:
        """`(limits, n)` part of each limit that candidates use."""
        costs = self.problem.costs(encoded)
        return np.array([costs[name] / limit for name, limit in self.limits.items()]).reshape(-1, len(encoded))

    def _positions(self, v: Array) -> Array:
        columns = [np.interp(v[:, i], grid, np.arange(len(grid))) for i, grid in enumerate(self._grids)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(v), 0))

    def _candidate(self, places: Encoded) -> Candidate:
        return self.problem.space.canonical(self.problem.encoded(places[None])[0].tolist())

    def _inside(self, v: Array) -> Array:
        return np.clip(v, self.least, 1.0)

    @cached_property
    def _grids(self) -> list[Array]:
        return [_grid(self.problem.space, axis) for axis in self.problem.space.axes]


def projected(v: Array, usage: Callable[[Array], Array], *, widths: npt.NDArray[np.bool_], least: Array) -> Array:
    """`(d,)` point on the budget, usage 1: the ratios of all widths times one number, up or down.

    Where the least widths are still too much, the other axes go down together; where the full ones are not enough,
    they go up. The full network where that is within the budget, the least where even that is not.

    Args:
        v: `(d,)` where from.
        usage: `(n, d)` points to `(n,)`, never falling along any axis.
        widths: `(d,)` which axes are widths.
        least: `(d,)` least ratio of each axis; the largest is 1.
    """
    v = np.clip(v, least, 1.0)
    slim, wide = np.where(widths, least, v), np.where(widths, 1.0, v)
    slim_usage, wide_usage = usage(np.stack([slim, wide]))
    if slim_usage > 1:
        return along(lambda t: least + t[:, None] * (slim - least), usage)
    if wide_usage < 1:
        return along(lambda t: wide + t[:, None] * (1 - wide), usage)
    if not widths.any():
        return v
    low, high = np.log((least / np.maximum(v, 1e-12))[widths].min()), np.log((1 / np.maximum(v, 1e-12))[widths].max())

    def scaled(t: Array) -> Array:
        factor = np.exp(low + t * (high - low))[:, None]
        return np.clip(np.where(widths, v * factor, v), least, 1.0)

    return along(scaled, usage)


def along(path: Callable[[Array], Array], usage: Callable[[Array], Array]) -> Array:
    """`(d,)` point of a rising path `(n,) in 0..1 -> (n, d)` where the usage comes to 1; an end where it never does."""
    low, high = 0.0, 1.0
    for _ in range(_ROUNDS):
        t = np.linspace(low, high, _POINTS)
        over = np.flatnonzero(usage(path(t)) > 1)
        first = int(over[0]) if len(over) else len(t)
        low, high = float(t[max(first - 1, 0)]), float(t[min(first, len(t) - 1)])
    found: Array = path(np.array([low]))[0]
    return found


def _grid(space: Space, axis: Axis) -> Array:
    """`(choices,)` ratios of an axis's choices, ascending."""
    if axis.kind == "resolution":  # a side is the geometric mean of its sizes
        sides = np.array([mean_side(side) for side in space.resolutions])
        return np.asarray(sides / sides[-1], float)
    return np.array(axis.choices, float) / axis.full


def _spread(axis: Axis, grid: Array) -> float:
    if len(grid) == 1:
        return 0.0
    step = float((grid[-1] - grid[0]) / (len(grid) - 1))
    return max(0.05, step / 2) if axis.kind == "width" else step / 2 if axis.kind == "depth" else step
