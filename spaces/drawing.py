"""Drawing candidates at random: not evenly over a space, where nearly all are alike, but over what searches look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .allocation import normalised, threshold_family
from .candidate import Candidate, repair
from .cutting.surgery import Scores
from .space import Space

Draw = Callable[[np.random.Generator], Candidate]
"""Gives one candidate, of its own choice, from a generator."""


def mixture(space: Space, limits: Mapping[str, float] | None = None, scores: Scores | None = None) -> Draw:
    """A function that draws a candidate in one of three ways, each as likely.

    All axes scaled together, each kind by its own ratio; every axis drawn evenly and by itself; or the widths of one
    threshold over all scores, at any depth and resolution. What is over a limit is made smaller (`Space.repair`).

    Args:
        space: the traced space.
        limits: absolute, by cost name; None: none.
        scores: of the thresholds; the L2 norms of `Space.default_scores` when None.

    Raises:
        ValueError: even the smallest network is over a limit.
    """
    bounds = dict(limits or {})
    space.check_limits(bounds)
    ranked = normalised(space, space.default_scores if scores is None else scores)
    widths = [axis.choices[0] / axis.full for axis in space.axes if axis.kind == "width"]
    sides = [side[0] / space.resolutions[-1][0] for side in space.resolutions]
    least_width, least_side = min(widths, default=1.0), min(sides, default=1.0)

    def draw(random: np.random.Generator) -> Candidate:
        how, width = int(random.integers(3)), float(random.uniform(least_width, 1.0))
        depth, side = float(random.uniform()), float(random.uniform(least_side, 1.0))
        if how == 0:
            found = space.uniform(width, depth, side)
        elif how == 1:
            found = space.canonical([int(random.choice(axis.choices)) for axis in space.axes])
        else:
            family = threshold_family(space, ranked, depth=depth, resolution=side)
            found = space.canonical(family[int(random.integers(len(family)))].tolist())
        return repair(space, found, bounds) if bounds else found

    return draw
