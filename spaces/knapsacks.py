"""How wide every group is, so that the damage is least within a budget: a knapsack over measured damages.

Every group is one item of several sizes. Were costs sums over groups, dynamic programming over them would be the whole
answer: `least`. They are not: the multiply-adds of a layer are a product of two widths. So costs are taken as sums near
a network, the program is solved, the costs are taken anew near its answer, until that stays; in the end pairs of groups
exchange steps under the exact costs. A space of few networks is looked through whole.

Kin: HALP (Shen 2021, arXiv 2110.10811) and SPDY (Frantar 2022, arXiv 2201.13096), whose items are neurons and single
layers, and whose costs are milliseconds from a table.

g      groups
b      buckets of the cost
w      widths of a group
n, d   candidates and axes
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .candidate import Candidate, CostTable, Encoded, check_limits, repair, within
from .space import Space

Floats = npt.NDArray[np.float64]
Damages = Mapping[str, Sequence[float]]
"""For each group, the damage of each of its legal widths, narrowest first."""
_BUCKETS = 2000
_ROUNDS = 12  # of costs taken anew
_EXCHANGES = 400
_NEIGHBOURS = 10_000  # up to so many, exchanges are of any widths
_WHOLE = 2**14  # networks
_STARTS = (1.0, 0.75, 0.5, 0.25, 0.0)  # ratios of width near which costs are first taken


def least(damages: Sequence[Floats], sizes: Sequence[npt.NDArray[np.int64]], most: int) -> npt.NDArray[np.int64]:
    """`(b, g)` which size of each item makes the least total damage at a total size of at most 0, 1, ..., `most`.

    -1 where no choice is so small. Exact: the table holds the least damage of the first items within every size.

    Args:
        damages: `(w,)` of each item.
        sizes: `(w,)` of each item, integers of at least 0.
        most: the largest total.
    """
    best = np.zeros(most + 1)
    taken = np.zeros((len(damages), most + 1), np.int64)
    for number, (damage, size) in enumerate(zip(damages, sizes, strict=True)):
        tried = np.full((len(size), most + 1), np.inf)
        for choice, one in enumerate(size):
            if one <= most:
                tried[choice, one:] = best[: most + 1 - one] + damage[choice]
        taken[number] = tried.argmin(0)
        best = tried.min(0)
    found = np.full((most + 1, len(damages)), -1, np.int64)
    where, fine = np.arange(most + 1), np.isfinite(best)
    for number in reversed(range(len(damages))):
        found[fine, number] = taken[number, where[fine]]
        where[fine] -= sizes[number][found[fine, number]]
    return found


def knapsack(
    space: Space,
    damages: Damages,
    limits: Mapping[str, float],
    *,
    base: Sequence[int] | None = None,
    least_width: int = 1,
    costs: CostTable | None = None,
) -> Candidate:
    """The network within the limits with the least sum of damages, as far as is found; see above.

    Args:
        space: the traced space.
        damages: measured; never negative.
        limits: absolute, by cost name.
        base: whose depths and resolution the network has; the full network's when None.
        least_width: channels that every group keeps at least, as far as it has so many.
        costs: `(n, d)` candidates to `(n,)` costs by name, such as predicted milliseconds; arithmetic when None.

    Raises:
        ValueError: damages do not fit the space, or no network is within the limits.
    """
    problem = _Problem(space, damages, limits, space.full if base is None else space.check(base), least_width, costs)
    if math.prod(map(len, problem.widths)) <= _WHOLE:
        found = problem.best(problem.all())
    else:
        answers = [problem.exchanged(problem.near(problem.uniform(ratio))) for ratio in _STARTS]
        known = [answer for answer in answers if answer is not None]
        found = problem.best(np.stack(known)) if known else None
    if found is None:
        check_limits(space, limits)
        if least_width > 1:
            raise ValueError(
                f"no network with at least {least_width} channels in every group is within {dict(limits)}; lower it"
            )
        return repair(space, problem.uniform(0.0).tolist(), limits, costs)
    return space.canonical(found.tolist())


class _Problem:
    """The choices of every group, their damages, and what candidates cost."""

    def __init__(
        self,
        space: Space,
        damages: Damages,
        limits: Mapping[str, float],
        base: Candidate,
        least_width: int,
        costs: CostTable | None,
    ) -> None:
        self._space, self._costs = space, costs or space.cost_table
        self._base = np.array(base, np.int64)
        self.widths, self.damages = list[Encoded](), list[Floats]()
        for group in space.groups:
            values = np.asarray(damages.get(group.name, ()), np.float64)
            if values.shape != (len(group.widths),) or not np.isfinite(values).all() or (values < 0).any():
                raise ValueError(
                    f"damages of {group.name} are {values.tolist()}; expected {len(group.widths)} numbers of at least "
                    "0, one a width, narrowest first"
                )
            widths = np.array(group.widths)
            fine = widths >= min(least_width, widths[-1])
            self.widths.append(widths[fine])
            self.damages.append(values[fine])
        known = self._costs(self._base[None])
        self.limits = {name: float(limit) for name, limit in limits.items() if name in known}

    def uniform(self, ratio: float) -> Encoded:
        """The candidate whose groups all have that ratio between their least and full width."""
        found = self._base.copy()
        for number, widths in enumerate(self.widths):
            found[number] = widths[round(ratio * (len(widths) - 1))]
        return found

    def all(self) -> Encoded:
        """`(n, d)` every choice of widths."""
        found = np.repeat(self._base[None], math.prod(map(len, self.widths)), axis=0)
        for number, column in enumerate(np.meshgrid(*self.widths, indexing="ij")):
            found[:, number] = column.ravel()
        return found

    def damage(self, encoded: Encoded) -> Floats:
        """`(n,)` sums over the groups."""
        total = np.zeros(len(encoded))
        for number, (widths, damage) in enumerate(zip(self.widths, self.damages, strict=True)):
            total += damage[np.searchsorted(widths, encoded[:, number])]
        return total

    def best(self, encoded: Encoded) -> Encoded | None:
        """The one within the limits with the least damage, of equal ones the cheapest; None where none is."""
        fine = np.flatnonzero(within(self._space, encoded, self.limits, self._costs))
        if not len(fine):
            return None
        known = self._costs(encoded[fine])
        use = sum((known[name] / limit for name, limit in self.limits.items()), np.zeros(len(fine)))
        chosen: Encoded = encoded[fine[np.lexsort((use, self.damage(encoded[fine])))[0]]]
        return chosen

    def near(self, start: Encoded) -> Encoded | None:
        """The best answer of the program, with costs as they are near a network, then near the answer, and so on."""
        at, found, seen = start, None, set[bytes]()
        for _ in range(_ROUNDS):
            answer = self.best(np.concatenate([self._programmed(at, names) for names in self._resources()]))
            if answer is None:
                at = self.uniform(0.0) if found is None else found
            else:
                at = answer
                if found is None or self.damage(answer[None])[0] < self.damage(found[None])[0]:
                    found = answer
            if at.tobytes() in seen:
                break
            seen.add(at.tobytes())
        return found

    def _resources(self) -> list[tuple[str, ...]]:
        """Limits that the program counts: each alone, and all together as their sum."""
        names = tuple(self.limits)
        return [(name,) for name in names] + ([names] if len(names) > 1 else [])

    def _programmed(self, at: Encoded, names: tuple[str, ...]) -> Encoded:
        """`(n, d)` answers of the program at every bucket of the cost, as costs are near `at`."""
        rows = [np.repeat(at[None], len(widths), axis=0) for widths in self.widths]
        for number, widths in enumerate(self.widths):
            rows[number][:, number] = widths
        lengths = [len(widths) for widths in self.widths]
        known = self._costs(np.concatenate(rows))
        use = sum((known[name] / self.limits[name] for name in names), np.zeros(sum(lengths)))
        parts = np.split(use, np.cumsum(lengths)[:-1])
        above = [np.maximum.accumulate(part - part[0]) for part in parts]
        unit = sum(part[-1] for part in above) / _BUCKETS
        sizes = [np.ceil(part / max(unit, 1e-300) - 1e-9).astype(np.int64) for part in above]
        choices = least(self.damages, sizes, int(sum(size[-1] for size in sizes)))
        choices = np.unique(choices[(choices >= 0).all(1)], axis=0)
        found = np.repeat(self._base[None], len(choices), axis=0)
        for number, widths in enumerate(self.widths):
            found[:, number] = widths[choices[:, number]]
        return found

    def exchanged(self, found: Encoded | None) -> Encoded | None:
        """The candidate after exchanges of steps between groups, as long as they lower the damage within the limits."""
        for _ in range(_EXCHANGES if found is not None else 0):
            assert found is not None
            better = self.best(np.concatenate([found[None], self._neighbours(found)]))
            if better is None or np.array_equal(better, found):
                break
            found = better
        return found

    def _neighbours(self, at: Encoded) -> Encoded:
        """`(n, d)` candidates in which one group is wider, another narrower: by one step where groups have many."""
        places = [int(np.searchsorted(widths, at[number])) for number, widths in enumerate(self.widths)]
        far = sum(map(len, self.widths)) ** 2 <= _NEIGHBOURS
        moves = [
            (number, place)
            for number, widths in enumerate(self.widths)
            for place in range(len(widths))
            if place != places[number] and (far or abs(place - places[number]) == 1)
        ]
        up = [(number, place) for number, place in moves if place > places[number]]
        down = [(number, place) for number, place in moves if place < places[number]]
        pairs = [(one,) for one in moves] + [(one, other) for one in up for other in down if one[0] != other[0]]
        found = np.repeat(at[None], len(pairs), axis=0)
        for row, pair in zip(found, pairs, strict=True):
            for number, place in pair:
                row[number] = self.widths[number][place]
        return found
