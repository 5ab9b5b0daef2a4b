"""Compound shrinking: depth, width and resolution go down together by fixed powers; the baseline to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..spaces import Candidate, within

if TYPE_CHECKING:
    from ..spaces import CostTable, Space

DEPTH, WIDTH, RESOLUTION = 1.2, 1.1, 1.15  # EfficientNet's: depth * width^2 * resolution^2 is about 2 for a step up
_STEP = 1 / 64
_LOWEST = -64.0  # a width of 0.2 %: every axis is at its least


def compound(space: Space, limits: Mapping[str, float], costs: CostTable | None = None) -> Candidate:
    """The network of `depth = 1.2^p, width = 1.1^p, resolution = 1.15^p` for the largest `p <= 0` within the limits.

    The coefficients are those by which Tan and Le 2019 (arXiv 1905.11946) scale up; here the network is the large one
    and `p` is negative, in steps of 1/64. Each ratio is rounded to the nearest choice of every axis by itself, as in
    `Space.uniform`; dimensions that the space lacks stay as they are.

    Args:
        space: the traced space.
        limits: absolute limits by cost name; names that are not known to `costs` are left aside.
        costs: `(n, d)` candidates to `(n,)` costs by name; the space's own arithmetic when None.

    Raises:
        ValueError: even the smallest network is over a limit; the reachable range is given.
    """
    space.check_limits(limits)
    last = None
    for power in np.arange(0.0, _LOWEST, -_STEP):
        candidate = space.uniform(WIDTH**power, DEPTH**power, RESOLUTION**power)
        if candidate != last and within(space, space.encode([candidate]), limits, costs)[0]:
            return candidate
        last = candidate
    return space.repair(space.smallest, limits, costs)
