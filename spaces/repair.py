"""Bringing a candidate within its limits by arithmetic, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .candidate import Candidate

if TYPE_CHECKING:
    from .costs.model import CostTable
    from .space import Space

Encoded = npt.NDArray[np.int64]
STEPS = 128


def check_limits(space: Space, limits: Mapping[str, float]) -> None:
    """Raise a ValueError with the reachable range where even the smallest network is over a limit."""
    costs = space.cost_table([space.smallest, space.full])
    for name, limit in limits.items():
        if name in costs and costs[name][0] > limit:
            least, full = int(costs[name][0]), int(costs[name][1])
            raise ValueError(
                f"budget {name}={limit:g} is below the smallest network of this space: reachable are {least:,} to "
                f"{full:,} ({least / full:.2g} to 1 of the original); raise it, or allow smaller networks "
                "(a lower divisor, lower resolutions)"
            )


def within(
    space: Space, encoded: Encoded, limits: Mapping[str, float], costs: CostTable | None = None
) -> npt.NDArray[np.bool_]:
    """`(n,)` whether each of the `(n, d)` candidates meets all limits that `costs` knows, or arithmetic when None."""
    known = (costs or space.cost_table)(encoded)
    fine = np.ones(len(encoded), bool)
    for name, limit in limits.items():
        if name in known:
            fine &= known[name] <= limit
    return fine


def repair(
    space: Space, candidate: Sequence[int], limits: Mapping[str, float], costs: CostTable | None = None
) -> Candidate:
    """The candidate itself where it meets the limits, else a smaller one that does.

    All widths shrink together towards their least, as little as needed; where that is not enough, the resolution goes
    down one step, then the deepest stage loses a block, and the widths are tried again from where they were.

    Args:
        space: the traced space.
        candidate: one choice on every axis.
        limits: absolute limits by cost name; names that are not known here (`latency_ms`) are left aside.
        costs: `(n, d)` candidates to `(n,)` costs by name, where more is known than `Space.cost_table` says; where no
            network meets what it foretells, the smallest is given.

    Raises:
        ValueError: even the smallest network is over a limit; the reachable range is given.
    """
    values = np.array(space.canonical(candidate), np.int64)
    if within(space, values[None], limits, costs)[0]:
        return Candidate(values.tolist())
    check_limits(space, limits)
    widths = len(space.groups)
    while True:
        found = _shrunk(space, values, limits, costs)
        if found is not None:
            return space.canonical(found.tolist())
        if space.resolutions and values[-1] > 0:
            values[-1] -= 1
        else:
            depths = values[widths : widths + len(space.stages)]
            if not depths.size or not depths.any():
                return space.smallest
            depths[int(np.argmax(depths))] -= 1


def _shrunk(space: Space, values: Encoded, limits: Mapping[str, float], costs: CostTable | None) -> Encoded | None:
    """The widest of a family between these widths and the least ones that meets the limits."""
    family = np.repeat(values[None], STEPS, axis=0)
    ratio = np.linspace(1.0, 0.0, STEPS)
    for number, group in enumerate(space.groups):
        choices = np.array(group.widths)
        want = choices[0] + ratio * (values[number] - choices[0])
        family[:, number] = choices[np.searchsorted(choices, want + 1e-9, side="right") - 1]
    fine = np.flatnonzero(within(space, family, limits, costs))
    return family[fine[0]] if len(fine) else None
