"""The networks that a study tries first: what a careful person would try by hand.

`full` is the network itself, the reference every error is compared with. Candidates of the user's come next, as they
are. `compound` shrinks depth, width and resolution together, `uniform` shrinks every layer alike, `magnitude` keeps the
units whose scores pass one threshold for the whole network; any pruning method is a seed by its name. These come at
several costs, and at lower depth and resolution, each as large as the budget allows; `compound` and methods that train
come at several costs only, `compound` down to a sixteenth of the budget: so a front has a first network at every size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...pruners import METHODS, trains
from ...spaces import Candidate, Space

_LEVELS = (1.0, 0.5, 0.25)  # of the budget; a front needs points well below it too
_LOWER = (0.125, 0.0625)  # where `compound` goes on
_AIMS = 8  # costs, depths and resolutions that `aims` names at most
MOST = _AIMS + len(_LOWER)  # seeds of one name
_FREE_LEVELS = (0.75, 0.4, 0.2)  # of the full network's macs, where no limit is known by arithmetic


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A network to try.

    Attributes:
        name: of the seed.
        candidate: within the budget, but for `full`.
        ranking: names the scores; empty for the study's own.
        weights: names the weights.
        notes: what a method says of its proposal, in plain values.
    """

    name: str
    candidate: Candidate
    ranking: str = ""
    weights: str = "inherited"
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a seed is to be within.

    Attributes:
        limits: absolute, by cost name; all known to arithmetic.
        depth: ratio of removable blocks that stay.
        resolution: ratio of the full side.
    """

    limits: Mapping[str, float]
    depth: float = 1.0
    resolution: float = 1.0


Maker = Callable[[str, Aim], Seed]
"""Makes the seed of a name."""


def planted(seeds: Sequence[str | Candidate], space: Space, limits: Mapping[str, float], make: Maker) -> Iterator[Seed]:
    """The seeds of a study, best first, made one after another; some may be alike.

    Args:
        seeds: `full`, `compound`, `magnitude`, names of pruning methods, and candidates of the user's.
        space: the traced space.
        limits: absolute, by cost name; every seed but `full` meets those that arithmetic knows.
        make: makes a seed other than `full`.
    """
    names = [one for one in seeds if isinstance(one, str)]
    if "full" in names:
        yield Seed(name="full", candidate=space.full)
    for one in seeds:
        if not isinstance(one, str):
            yield Seed(name="given", candidate=space.canonical(one))
    if not set(names) - {"full"}:
        return
    found = list(aims(space, limits))
    for aim in found:
        if not _reachable(space, aim.limits):
            continue
        plain = (aim.depth, aim.resolution) == (1.0, 1.0)
        for name in names:
            if name != "full" and (plain or not _is_fixed(name)):
                yield make(name, aim)
    for level in _LOWER:
        lower = Aim(limits={name: level * limit for name, limit in found[0].limits.items()})
        if "compound" in names and _reachable(space, lower.limits):
            yield make("compound", lower)


def aims(space: Space, limits: Mapping[str, float]) -> Iterator[Aim]:
    """Costs, depths and resolutions that seeds come at, most useful first."""
    full = space.costs([space.full]).iloc[0]
    known = {name: limit for name, limit in limits.items() if name in full.index}
    levels = _LEVELS if known else _FREE_LEVELS
    base = known or {"macs": float(full["macs"])}
    at = [{name: level * limit for name, limit in base.items()} for level in levels]
    lower = [side[0] / space.resolutions[-1][0] for side in space.resolutions[:-1]]  # ascending
    shallower = 0.6 if any(axis.kind == "depth" for axis in space.axes) else None
    yield Aim(limits=at[0])
    if lower:
        yield Aim(limits=at[0], resolution=lower[-1])
    if len(lower) > 1:  # a shorter side may cost less than narrower layers do
        yield Aim(limits=at[0], resolution=lower[0])
    yield Aim(limits=at[1])
    if len(lower) > 1:
        yield Aim(limits=at[1], resolution=lower[0])
    if shallower is not None:
        yield Aim(limits=at[0], depth=shallower)
    yield Aim(limits=at[2])
    if lower:
        yield Aim(limits=at[2], resolution=lower[0])


def _reachable(space: Space, limits: Mapping[str, float]) -> bool:
    """Whether any network is within: a share of the budget may lie below the smallest, where the budget does not."""
    try:
        space.check_limits(limits)
    except ValueError:
        return False
    return True


def _is_fixed(name: str) -> bool:
    """Whether a seed comes at no other depth and resolution than its own."""
    return name == "compound" or (name in METHODS and trains(METHODS[name]()))
