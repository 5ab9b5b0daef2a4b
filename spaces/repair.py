"""Bringing a candidate within its limits by arithmetic, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .candidate import Candidate

if TYPE_CHECKING:
    from .costs import CostTable
    from .space import Space
    from .surgery import Scores

Encoded = npt.NDArray[np.int64]
STEPS = 128
NORMALISATIONS = ("none", "mean", "max", "macs")
"""What each group's scores may be divided by before one threshold is laid over all of them; see `normalised`."""


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


def normalised(space: Space, scores: Scores, how: str = "mean") -> Scores:
    """The scores with each group's divided by one number, so that layers of other scale compare.

    Args:
        space: the traced space.
        scores: importance of every unit.
        how: `"none"`, `"mean"` or `"max"` of the group's magnitudes, or `"macs"`: multiply-adds that leave the full
            network with one unit of the group.

    Raises:
        ValueError: another `how`.
    """
    if how not in NORMALISATIONS:
        raise ValueError(f"normalise={how!r}: expected one of {', '.join(NORMALISATIONS)}")
    if how == "none" or not space.groups:
        return dict(scores)
    if how == "macs":
        encoded = np.repeat(np.array([space.full], np.int64), len(space.groups) + 1, axis=0)
        for number, group in enumerate(space.groups):
            encoded[number, number] -= group.unit
        macs = space.cost_table(encoded)["macs"]
        factors = [float(max(macs[-1] - one, 1)) for one in macs[:-1]]
    else:
        reduce = np.mean if how == "mean" else np.max
        factors = [float(reduce(scores[group.name].detach().abs().double().cpu().numpy())) for group in space.groups]
    return {
        group.name: scores[group.name] / max(factor, 1e-300)
        for group, factor in zip(space.groups, factors, strict=True)
    }


def threshold_candidate(
    space: Space,
    scores: Scores | None,
    limits: Mapping[str, float],
    *,
    depth: float = 1.0,
    resolution: float = 1.0,
    normalise: str = "mean",
    least: int = 1,
) -> Candidate:
    """The widest network within the limits whose units all pass one threshold.

    Of equal scores those go first that rank lowest in their own group. Every group keeps its least width.

    Args:
        space: the traced space.
        scores: importance of every unit; the L2 norms of `Space.default_scores` when None.
        limits: absolute limits by cost name.
        depth: ratio of blocks that stay.
        resolution: ratio of the full side.
        normalise: see `normalised`.
        least: channels that every group keeps at least, as far as it has so many.

    Raises:
        ValueError: even the smallest network, or the smallest with `least` channels, is over a limit.
    """
    used = normalised(space, space.default_scores if scores is None else scores, normalise)
    family = threshold_family(space, used, depth=depth, resolution=resolution, least=least)
    fine = np.flatnonzero(within(space, family, limits))
    if len(fine):
        return space.canonical(family[fine[0]].tolist())
    if least > 1:
        check_limits(space, limits)
        raise ValueError(f"no network with at least {least} channels in every group is within {dict(limits)}; lower it")
    return repair(space, family[-1].tolist(), limits)


def threshold_family(
    space: Space, scores: Scores, *, depth: float = 1.0, resolution: float = 1.0, least: int = 1
) -> Encoded:
    """`(n, d)` candidates as one threshold over all scores rises, widest first; at most 4,096 of them.

    Arguments as of `threshold_candidate`; the scores are compared as they are.
    """
    base = np.array(space.uniform(1.0, depth, resolution), np.int64)
    values, owners, places = [], [], []
    for number, group in enumerate(space.groups):
        own = scores[group.name].detach().double().cpu().numpy()
        rank = np.empty(len(own))
        rank[np.argsort(-own, kind="stable")] = np.arange(len(own), 0, -1) / len(own)
        values.append(own)
        places.append(rank)
        owners.append(np.full(len(own), number))
    if not values:
        return base[None]
    order = np.lexsort((np.concatenate(places), np.concatenate(values)))
    owner = np.concatenate(owners)[order]
    gone = np.unique(np.linspace(0, len(order), min(len(order) + 1, 4096)).round().astype(int))
    family = np.repeat(base[None], len(gone), axis=0)
    for number, group in enumerate(space.groups):
        kept = group.units - np.searchsorted(np.flatnonzero(owner == number), gone, side="left")
        choices = np.array([width for width in group.widths if width >= least] or [group.widths[-1]])
        index = np.searchsorted(choices, kept * group.unit, side="right") - 1
        family[:, number] = choices[np.maximum(index, 0)]
    return family
