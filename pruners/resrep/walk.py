"""Which rows a mask gives up: by rising norm over all groups, until the network without them is within the limits.

Ding 2021 (arXiv 2007.03260), section 3.3. The walk down is the same whatever it costs, so all its steps are priced at
once. Start at `mask_walk`.

Symbols: `g` groups with a compactor, `u` units of one, `k` steps of a walk, `d` axes of the space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ...spaces import Space

Ids = npt.NDArray[np.int64]
Fits = Callable[[Ids], npt.NDArray[np.bool_]]


def mask_walk(
    norms: Sequence[npt.NDArray[np.float64]], fits: Fits, cap: int | None, least: Ids
) -> list[npt.NDArray[np.bool_]]:
    """Of each group, `(u,)` whether each row is kept; rows go by rising norm over all groups.

    Args:
        norms: `(u,)` of each group.
        fits: whether each of `(k, g)` numbers of units kept is within the limits; the walk stops at the first that is.
        cap: positions of the list after which a decrement is the last one; None: no end.
        least: `(g,)` units that stay at least.
    """
    full = np.array([len(n) for n in norms], np.int64)
    path, order = walk_path(norms, full, least, cap)
    fine = np.flatnonzero(fits(path)) if len(order) else np.zeros(0, np.int64)
    masks = [np.ones(len(n), bool) for n in norms]
    for group, row in order[: fine[0] if len(fine) else len(order)]:
        masks[group][row] = False
    return masks


def walk_path(
    norms: Sequence[npt.NDArray[np.float64]], start: Ids, least: Ids, cap: int | None = None
) -> tuple[Ids, list[tuple[int, int]]]:
    """`(k + 1, g)` units kept after each decrement, and which row of which group each takes.

    Args:
        norms: `(u,)` of each group.
        start: `(g,)` units kept at first; the rows of least norm beyond them count as gone.
        least: `(g,)` units that stay at least.
        cap: positions of the list after which a decrement is the last one.
    """
    entries = []
    for group, n in enumerate(norms):
        rows = np.argsort(n, kind="stable")[len(n) - int(start[group]) :]
        entries += [(float(n[row]), group, int(row)) for row in rows]
    entries.sort(key=lambda entry: entry[0])
    kept, path, order = start.copy(), [start.copy()], []
    for visited, (_, group, row) in enumerate(entries, start=1):
        if kept[group] <= least[group]:
            continue
        kept[group] -= 1
        path.append(kept.copy())
        order.append((group, row))
        if cap is not None and visited >= cap:
            break
    return np.stack(path), order


class Widths:
    """Units kept of the groups with a compactor, as candidates with legal widths."""

    def __init__(self, space: Space, numbers: Sequence[int], least: int) -> None:
        self.full = np.array(space.full, np.int64)
        self.numbers = numbers
        self.units = [space.groups[number].unit for number in numbers]
        self.choices = [
            np.array([w for w in space.groups[number].widths if w >= min(least, space.groups[number].width)])
            for number in numbers
        ]
        self.least = np.array(
            [math.ceil(min(least, space.groups[n].width) / space.groups[n].unit) for n in numbers], np.int64
        )

    def legal(self, kept: Ids) -> Ids:
        """`(k, d)` candidates of `(k, g)` units kept: the least legal widths that hold them; all else full."""
        found = np.repeat(self.full[None], len(kept), axis=0)
        for column, (number, unit, choices) in enumerate(zip(self.numbers, self.units, self.choices, strict=True)):
            found[:, number] = choices[np.searchsorted(choices, kept[:, column] * unit)]
        return found
