"""The candidates that a study tries first: what a careful person would try by hand.

`full` is the network itself, the reference every error is compared with. `uniform` shrinks every layer alike.
`magnitude` keeps the units whose scores pass one threshold for the whole network. The last two come at several costs,
and at lower depth and resolution, each as large as the budget allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..spaces import Candidate, Scores, Space, threshold_candidate, within

_LEVELS = (1.0, 0.7, 0.45)  # of the budget; a front needs points below it too
_FREE_LEVELS = (0.75, 0.5, 0.25)  # of the full network's macs, where no limit is known by arithmetic
_RATIOS = np.linspace(1.0, 0.02, 99)  # widths that `uniform` tries, widest first

_Maker = Callable[[Space, Scores, Mapping[str, float], float, float], Candidate]


def seed_candidates(
    names: Sequence[str], space: Space, scores: Scores, limits: Mapping[str, float]
) -> list[tuple[str, Candidate]]:
    """`(name, candidate)` pairs without repetition, in the order to try them; the same for the same arguments.

    Args:
        names: some of `SEEDS`.
        space: the traced space.
        scores: importance of every unit.
        limits: absolute, by cost name; every seed but `full` meets those that arithmetic knows.
    """
    found: dict[Candidate, str] = {space.full: "full"} if "full" in names else {}
    for targets, depth, resolution in _shapes(space, limits):
        for name in names:
            if name in _MAKERS:
                try:
                    candidate = _MAKERS[name](space, scores, targets, depth, resolution)
                except ValueError:
                    continue  # a share of the budget may lie below the smallest network, where the budget does not
                found.setdefault(candidate, name)
    return [(name, candidate) for candidate, name in found.items()]


def check_seeds(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if all are known and none comes twice."""
    if isinstance(names, str) or not all(name in SEEDS for name in names) or len(set(names)) != len(names):
        raise ValueError(f"seeds={names!r}: expected a tuple of different names out of {', '.join(SEEDS)}")
    return tuple(names)


def _shapes(space: Space, limits: Mapping[str, float]) -> Iterator[tuple[dict[str, float], float, float]]:
    """Targets by cost name, depth ratio and resolution ratio of each seed, most useful first."""
    full = space.costs([space.full]).iloc[0]
    known = {name: limit for name, limit in limits.items() if name in full.index}
    levels = _LEVELS if known else _FREE_LEVELS
    base = known or {"macs": float(full["macs"])}
    at = [{name: level * limit for name, limit in base.items()} for level in levels]
    lower = space.resolutions[-2][0] / space.resolutions[-1][0] if len(space.resolutions) > 1 else None
    shallower = 0.6 if any(axis.kind == "depth" for axis in space.axes) else None
    yield at[0], 1.0, 1.0
    if lower is not None:
        yield at[0], 1.0, lower
    yield at[1], 1.0, 1.0
    if shallower is not None:
        yield at[0], shallower, 1.0
    yield at[2], 1.0, 1.0
    if lower is not None:
        yield at[2], 1.0, lower


def _uniform(space: Space, scores: Scores, targets: Mapping[str, float], depth: float, resolution: float) -> Candidate:
    """The widest candidate with one ratio for all widths."""
    family = list(dict.fromkeys(space.uniform(float(ratio), depth, resolution) for ratio in _RATIOS))
    fine = np.flatnonzero(within(space, space.encode(family), targets))
    return family[fine[0]] if len(fine) else space.repair(family[-1], targets)


def _magnitude(
    space: Space, scores: Scores, targets: Mapping[str, float], depth: float, resolution: float
) -> Candidate:
    return threshold_candidate(space, scores, targets, depth=depth, resolution=resolution)


_MAKERS: dict[str, _Maker] = {"uniform": _uniform, "magnitude": _magnitude}
SEEDS = ("full", *_MAKERS)
