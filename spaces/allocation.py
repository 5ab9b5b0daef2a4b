"""One threshold over all layers: how wide each is when scores are compared across groups; candidates drawn at random.

They are not drawn evenly over a space, where nearly all are alike, but over what searches look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from .candidate import Candidate, Encoded, check_limits, repair, within
from .channels.layout import Group
from .cutting.surgery import Scores
from .space import Space

NORMALISATIONS = ("none", "mean", "max", "macs", "standard", "lamp", "isomorphic")
"""What each group's scores may be divided by before one threshold is laid over all of them; see `normalised`."""
Draw = Callable[[np.random.Generator], Candidate]
"""Gives one candidate, of its own choice, from a generator."""


def normalised(space: Space, scores: Scores, how: str = "mean") -> Scores:
    """The scores with each group's divided by one number, so that layers of other scale compare.

    Args:
        space: the traced space.
        scores: importance of every unit.
        how: `"none"`, `"mean"` or `"max"` of the group's magnitudes, `"macs"`: multiply-adds that leave the full
            network with one unit of the group, `"standard"`: the standard deviation, the mean taken off before,
            `"lamp"`: each score squared, divided by the sum of the squares that are as large or larger (Lee 2021, arXiv
            2010.07611), or `"isomorphic"`: the share of units that score no higher, of those groups only that are made
            and read by the same kinds of layers, so that all kinds lose the same share (Fang 2024, arXiv 2407.04616).

    Raises:
        ValueError: another `how`.
    """
    if how not in NORMALISATIONS:
        raise ValueError(f"normalise={how!r}: expected one of {', '.join(NORMALISATIONS)}")
    if how == "none" or not space.groups:
        return dict(scores)
    if how == "standard":
        centred = {name: values - values.double().mean() for name, values in scores.items()}
        return {name: values / values.std(correction=0).clamp_min(1e-300) for name, values in centred.items()}
    if how == "lamp":
        return {name: _lamp(values.double()) for name, values in scores.items()}
    if how == "isomorphic":
        return _among_alike(space, scores)
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


def _lamp(scores: Tensor) -> Tensor:
    order = scores.argsort(descending=True, stable=True)
    squares = scores[order].square()
    ranked = squares / squares.cumsum(0).clamp_min(1e-300)
    return torch.empty_like(ranked).scatter_(0, order, ranked)


def _among_alike(space: Space, scores: Scores) -> Scores:
    kinds: dict[tuple[object, ...], list[str]] = {}
    for group in space.groups:
        kinds.setdefault(_kind(space, group), []).append(group.name)
    found: Scores = {}
    for names in kinds.values():
        pooled = torch.cat([scores[name].double() for name in names])
        ranks = torch.empty_like(pooled)
        ranks[pooled.argsort(stable=True)] = torch.arange(1, len(pooled) + 1).to(pooled) / len(pooled)
        found |= dict(zip(names, torch.split(ranks, [len(scores[name]) for name in names]), strict=True))
    return {group.name: found[group.name] for group in space.groups}


def _kind(space: Space, group: Group) -> tuple[object, ...]:
    """What makes and reads the group: kinds of layers, in order, and not how large they are."""
    found: list[tuple[object, ...]] = []
    for layer in space.layers:
        if group.holds(layer.makes).any():
            found.append(("makes", layer.kind, layer.depthwise, layer.norm is not None, layer.activation))
        if group.holds(layer.reads).any():
            found.append(("reads", layer.kind))
    return tuple(found)


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
