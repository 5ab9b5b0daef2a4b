"""New candidates within the limits, by the thousand, for a surrogate to choose from.

Nothing here loops over candidates: they are arrays of positions, 0 the least choice of an axis. What is over a limit
shrinks as a whole until it fits, so that every row handed out can be built and afforded. Start at `Pool`.

Symbols: `n` candidates, `d` axes, `g` groups, `s` stages, `p` parents.

positions  (n, d)  place of each choice on its axis, from 0
tops       (d,)    greatest position of each axis
"""

from __future__ import annotations

from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from ...spaces import Encoded, Space, normalised, threshold_family
from ..problem import Array, Positions, Problem

ENUMERATED = 100_000  # spaces up to so many combinations are listed whole
_ROUNDS = 6  # of shrinking; most rows fit after two
_FAMILY = 48  # members of one family that are kept
_LISTED: WeakKeyDictionary[Problem, tuple[Encoded, npt.NDArray[np.int64]]] = WeakKeyDictionary()  # whole spaces


class Canonical:
    """`Space.canonical` for many candidates at once.

    A group lives only in removed blocks where, for each stage, no more blocks stay than a level of its own. The levels
    are read off `Space.canonical` itself: all widths at their least, and one stage after the other unfolded.
    """

    def __init__(self, space: Space) -> None:
        groups, stages = len(space.groups), len(space.stages)
        self._full = np.array(space.full[:groups], np.int64)
        self._stages = slice(groups, groups + stages)
        self._levels = np.full((groups, stages), -1, np.int64)  # blocks that may stay while the group is gone
        least = [axis.choices[0] for axis in space.axes]
        free = np.array([len(axis.choices) > 1 for axis in space.axes[:groups]], bool)
        for stage in range(stages):
            for kept in range(len(space.stages[stage].blocks) + 1):
                probe = [*least[:groups], *[0] * stages, *least[groups + stages :]]
                probe[groups + stage] = kept
                gone = free & (np.array(space.canonical(probe)[:groups], np.int64) == self._full)
                self._levels[gone, stage] = kept
        self._mortal = np.flatnonzero((self._levels >= 0).all(axis=1)) if stages else np.zeros(0, np.int64)

    def __call__(self, encoded: Encoded) -> Encoded:
        """`(n, d)` candidates by their one name each: widths that live only in removed blocks are full."""
        result = encoded.copy()
        gone = np.ones((len(encoded), len(self._mortal)), bool)
        for stage, levels in enumerate(self._levels[self._mortal].T):
            gone &= encoded[:, self._stages][:, stage, None] <= levels
        result[:, self._mortal] = np.where(gone, self._full[self._mortal], encoded[:, self._mortal])
        return result


class Pool:
    """Makes candidates of a problem: legal, canonical, within the limits, distinct, and none of those tried.

    Args:
        problem: the space, its costs and limits.
        tried: `(n, d)` candidates that are not to come again.
        random: where chance comes from.
    """

    def __init__(self, problem: Problem, tried: Encoded, random: np.random.Generator) -> None:
        self.problem = problem
        self._random = random
        self._axes = problem.space.axes
        self._tops = np.array([len(axis.choices) - 1 for axis in self._axes], np.int64)
        self._names = np.random.default_rng(0).integers(2**63, size=len(self._axes), dtype=np.int64) | 1
        self._seen = np.unique(self._hashes(tried))

    @cached_property
    def whole(self) -> Encoded | None:
        """All that is new in a space of few combinations; None where there are more than `ENUMERATED`."""
        if np.sum(np.log(self._tops + 1.0)) > np.log(ENUMERATED) + 1e-9:
            return None
        learned = any(not one.exact for one in self.problem.foretold.values())
        if learned or self.problem not in _LISTED:  # what is learned of a cost may change
            _LISTED[self.problem] = self._listed()
        encoded, hashes = _LISTED[self.problem]
        return encoded[~np.isin(hashes, self._seen)]

    def _listed(self) -> tuple[Encoded, npt.NDArray[np.int64]]:
        """All that is within the limits, and its hashes."""
        grid = np.indices(tuple(self._tops + 1)).reshape(len(self._axes), -1).T
        encoded = self._canonical(self.problem.encoded(grid))
        hashes, first = np.unique(self._hashes(encoded), return_index=True)
        fine = self.problem.within(encoded[first])
        return encoded[first][fine], hashes[fine]

    def start(self, n: int) -> Encoded:
        """About `n` candidates of families and of chance, for a search that knows nothing yet."""
        families = [self.uniform(), self.thresholds()]
        drawn = max(n - sum(map(len, families)), n // 2)
        return self.new(np.concatenate([*families, self.drawn(drawn)]))

    def children(self, parents: Encoded, n: int) -> Encoded:
        """About `n` candidates by changing and crossing the `(p, d)` parents, earlier ones more often."""
        positions = self.problem.positions(parents)
        half = n // 2
        return self.new(np.concatenate([self.mutants(positions, n - half), self.crossed(positions, half)]))

    def new(self, positions: Positions) -> Encoded:
        """The candidates of `(n, d)` positions, smaller where they must be; what was seen before is left out."""
        positions = self.shrunk(positions)
        encoded = self._canonical(self.problem.encoded(positions))
        hashes, first = np.unique(self._hashes(encoded), return_index=True)
        first = np.sort(first[~np.isin(hashes, self._seen, assume_unique=True)])
        encoded = encoded[first]
        if self.problem.foretold:
            # By our arithmetic a candidate costs the same under its one name; another cost may differ.
            encoded = encoded[self.problem.within(encoded)]
        self._seen = np.union1d(self._seen, self._hashes(encoded))
        return encoded

    def shrunk(self, positions: Positions) -> Positions:
        """Of `(n, d)` positions those within the limits as they are, or once their widths, or all, are smaller.

        Every round multiplies the positions by a ratio that falls with what is left above the limit. Rounding is by
        chance, the same in every round, so that the rows of one family part ways. What does not fit in the end goes.
        """
        chance = self._random.random(positions.shape)
        result = positions.copy()
        waiting = np.arange(len(positions))
        widths = np.array([axis.kind == "width" for axis in self._axes], bool)
        for last in (False, True):
            place, ratio = result.astype(float), np.ones(len(positions))
            for _ in range(_ROUNDS):
                over = self._excess(result[waiting])
                waiting = waiting[over > 1]
                if not len(waiting):
                    break
                # Costs fall with about the square of the widths: a little less than the root lands near the limit.
                ratio[waiting] *= 0.97 * np.minimum(over[over > 1], 30.0) ** -0.45
                scaled = np.floor(place[waiting] * ratio[waiting, None] + chance[waiting])
                scaled = np.minimum(scaled, place[waiting])
                result[waiting] = np.where(widths | last, scaled, place[waiting]).astype(np.int64)
        waiting = waiting[self._excess(result[waiting]) > 1]
        return np.delete(result, waiting, axis=0)

    def uniform(self) -> Positions:
        """`(n, d)` positions that keep one share of all widths, at every evenly reduced depth and resolution."""
        shares = np.linspace(0, 1, _FAMILY)
        rows = []
        for depth, side in self._settings():
            base = self._base(depth, side)
            rows.append(np.repeat(base[None], len(shares), axis=0))
            width = [i for i, axis in enumerate(self._axes) if axis.kind == "width"]
            rows[-1][:, width] = np.rint(shares[:, None] * self._tops[width])
        return np.concatenate(rows)

    def thresholds(self) -> Positions:
        """`(n, d)` positions of the networks whose units all pass one threshold, for several ways to compare layers."""
        space = self.problem.space
        scores = space.default_scores if self.problem.scores is None else self.problem.scores
        rows = []
        for how in ("mean", "macs"):
            family = self.problem.positions(threshold_family(space, normalised(space, scores, how)))
            family = family[np.unique(np.linspace(0, len(family) - 1, _FAMILY).astype(int))]
            for depth, side in self._settings():
                base = self._base(depth, side)
                rows.append(np.where([axis.kind == "width" for axis in self._axes], family, base))
        return np.concatenate(rows)

    def drawn(self, n: int) -> Positions:
        """`(n, d)` positions by chance: a share for the whole network, and every axis scattered around it."""
        share = self._random.random((n, 1))
        spread = self._random.choice([0.1, 0.3, 0.6], size=(n, 1))
        own = share + spread * self._random.uniform(-1, 1, (n, len(self._tops)))
        return np.asarray(np.clip(np.rint(own * self._tops), 0, self._tops).astype(np.int64))

    def mutants(self, parents: Positions, n: int) -> Positions:
        """`(n, d)` positions: a parent with a few axes moved, by steps or to anywhere, and some moved all together."""
        rows = parents[self._ranked(len(parents), n)]
        wide = len(self._tops)
        few = self._random.choice([1, 2, 4, 8], size=(n, 1)) / wide
        moved = self._random.random((n, wide)) < few
        moved[np.arange(n), self._random.integers(wide, size=n)] = True
        reach = np.maximum(1.0, self._tops * self._random.choice([0.1, 0.3, 1.0], size=(n, 1)))
        steps = np.ceil(self._random.random((n, wide)) * reach) * self._random.choice([-1, 1], size=(n, wide))
        # A quarter also grow or shrink as a whole: a good shape at another size.
        scale = np.where(self._random.random((n, 1)) < 0.25, self._random.uniform(0.6, 1.6, (n, 1)), 1.0)
        return np.asarray(np.clip(np.rint((rows + moved * steps) * scale), 0, self._tops).astype(np.int64))

    def crossed(self, parents: Positions, n: int) -> Positions:
        """`(n, d)` positions between or of two parents each."""
        one = parents[self._ranked(len(parents), n)]
        two = parents[self._random.integers(len(parents), size=n)]
        weight = self._random.uniform(-0.2, 1.2, (n, 1))
        mixed = np.rint(one + weight * (two - one))
        picked = np.where(self._random.random(one.shape) < 0.5, one, two)
        rows = np.where(self._random.random((n, 1)) < 0.5, mixed, picked)
        return np.asarray(np.clip(rows, 0, self._tops).astype(np.int64))

    @cached_property
    def _canonical(self) -> Canonical:
        return Canonical(self.problem.space)

    def _ranked(self, parents: int, n: int) -> Positions:
        """`(n,)` parents, drawn evenly but for a half that prefers earlier ones."""
        even = self._random.random(n)
        return (np.where(self._random.random(n) < 0.5, even, even**2) * parents).astype(np.int64)

    def _excess(self, positions: Positions) -> Array:
        """`(n,)` the greatest ratio of a cost to its limit."""
        costs = self.problem.costs(self.problem.encoded(positions))
        ratios = [costs[name] / max(limit, 1e-300) for name, limit in self.problem.limits.items() if name in costs]
        return np.max(ratios, axis=0) if ratios else np.zeros(len(positions))

    def _settings(self) -> list[tuple[float, int]]:
        """Depth shares and positions of the side that families are made at."""
        depths = max((top for axis, top in zip(self._axes, self._tops, strict=True) if axis.kind == "depth"), default=0)
        sides = max(
            (top for axis, top in zip(self._axes, self._tops, strict=True) if axis.kind == "resolution"), default=0
        )
        shares = np.linspace(0, 1, min(depths, 3) + 1) if depths else [1.0]
        return [(float(share), side) for share in shares for side in range(sides + 1)][-16:]

    def _base(self, depth: float, side: int) -> Positions:
        """`(d,)` positions of full widths at a share of every stage's blocks and at a side."""
        base = self._tops.copy()
        for i, axis in enumerate(self._axes):
            if axis.kind == "depth":
                base[i] = round(depth * int(self._tops[i]))
            elif axis.kind == "resolution":
                base[i] = side
        return base

    def _hashes(self, encoded: Encoded) -> npt.NDArray[np.int64]:
        """`(n,)` 64-bit names: unique but for one chance in billions, and then a candidate is missed."""
        return np.asarray((encoded * self._names).sum(axis=1, dtype=np.int64))
