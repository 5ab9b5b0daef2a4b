"""Networks by a few ratios of the full one: how deep, how wide, at which sides; and the ratios that a network has.

`depth` is the share of removable blocks that stay. They go one at a time: from the stage with the largest share left
(the last of equals), in that stage's own order. `width` is the share of channels that stay in the full-depth network,
by one threshold over all scores or the same share everywhere. `resolution` is the share of the input side. Input axes
that shrink apart are dimensions of their own, named after their places: of a video, frames are `resolution:0` and
height and width `resolution:1,2`. What a space cannot change is no dimension.

n  candidates      v  dimensions      g  groups      s  sides
a  depths          b  widths of the family, widest first
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...spaces import Candidate, Encoded, Scores, Space, normalised, threshold_family

Array = npt.NDArray[np.float64]

WIDTHS = ("threshold", "uniform")
_FINE = 256  # widths in a grid: steps of less than half a per cent
_ALIKE = 0.05  # input axes whose shares never differ by more shrink together


@dataclass(frozen=True, kw_only=True, eq=False)
class Shrinking:
    """The networks of a space that ratios name; make one with `shrinking_of`.

    Attributes:
        space: the traced space.
        names: `(v,)` of the dimensions.
        exponents: `(v,)` of each ratio in the multiply-adds of a uniform stack of convolutions: 1 for depth, 2 for
            width, and for sides the number of input axes.
        depths: `(a, stages)` blocks that stay, fullest first.
        widths: `(b, g)` channels that stay, widest first.
        sides: `(s, v')` shares of the input axes of each dimension of sides, for each of the space's resolutions.
        alive: `(a, g)` whether a group has channels outside the removed blocks.
    """

    space: Space
    names: tuple[str, ...]
    exponents: tuple[float, ...]
    depths: Encoded
    widths: Encoded
    sides: Array
    alive: npt.NDArray[np.bool_]

    def of(self, candidate: Sequence[int]) -> Array:
        """`(v,)` ratios of a candidate: those by which `candidate` gives it, if any do, else near ones.

        Widths in removed blocks are unknown: what counts is how many channels stay in the others.
        """
        values = np.array(self.space.canonical(candidate), np.int64)
        groups, stages = len(self.space.groups), len(self.space.stages)
        kept = values[groups : groups + stages]
        known = np.flatnonzero((self.depths == kept).all(axis=1))
        alive = self.alive[known[0]] if len(known) else _alive(self.space, kept)
        place = int(np.argmin(np.abs(self.widths @ alive - values[:groups] @ alive)))
        depth = kept.sum() / max(1, self.depths[0].sum())
        side = self.sides[values[-1] if self.space.resolutions else 0]
        return self._named(depth, self._shares[place], side)

    def candidate(self, ratios: npt.ArrayLike) -> Candidate:
        """The nearest network to `(v,)` ratios; the larger of two equally near."""
        wanted = dict(zip(self.names, np.asarray(ratios, float).tolist(), strict=True))
        depth = int(np.argmin(np.abs(self._depth_shares - wanted.get("depth", 1.0))))
        width = int(np.argmin(np.abs(self._shares - wanted.get("width", 1.0))))
        aim = np.array([wanted[name] for name in self._side_names])
        far = ((self.sides - aim) ** 2).sum(axis=1)
        side = len(far) - 1 - int(np.argmin(far[::-1]))
        return self.space.canonical(self._encoded([depth], [width], [side])[0].tolist())

    def holds(self, candidate: Sequence[int]) -> bool:
        """Whether some ratios name exactly this candidate."""
        return self.candidate(self.of(candidate)) == self.space.canonical(candidate)

    def along(self, name: str) -> Array:
        """`(k,)` ratios of one dimension while all others are 1, descending from 1."""
        if name == "depth":
            return self._depth_shares
        if name == "width":
            return self._shares[self._fine(0)]
        number = self._side_names.index(name)
        others = np.delete(self.sides, number, axis=1)
        return np.unique(self.sides[(others == 1).all(axis=1), number])[::-1]

    def grid(self) -> tuple[Array, Encoded]:
        """`(n, v)` ratios and `(n, d)` candidates of all combinations; widths are thinned to a few hundred.

        Candidates are not canonical: widths within removed blocks are those of the family.
        """
        ratios, encoded = [], []
        for depth, share in enumerate(self._depth_shares):
            fine = self._fine(depth)
            places = np.repeat(fine, len(self.sides))
            sides = np.tile(np.arange(len(self.sides)), len(fine))
            encoded.append(self._encoded([depth] * len(places), places, sides))
            ratios.append(self._named(np.full(len(places), share), self._shares[places], self.sides[sides]))
        return np.concatenate(ratios), np.concatenate(encoded)

    @property
    def least(self) -> Array:
        """`(v,)` least ratio of each dimension."""
        return self._named(self._depth_shares[-1], self._shares[-1], self.sides.min(axis=0))

    @property
    def _side_names(self) -> list[str]:
        return [name for name in self.names if name.startswith("resolution")]

    @cached_property
    def _depth_shares(self) -> Array:
        return np.asarray(self.depths.sum(axis=1) / max(1, self.depths[0].sum()), float)

    @cached_property
    def _shares(self) -> Array:
        """`(b,)` shares of all channels."""
        return np.asarray(self.widths.sum(axis=1) / max(1, self.widths[0].sum()), float)

    def _fine(self, depth: int) -> Encoded:
        """Members of the family that differ at this depth: the widest of equal ones, evenly spaced where many."""
        channels = self.widths @ self.alive[depth]
        fresh = np.flatnonzero(np.diff(channels, prepend=channels[0] + 1))
        marks = np.linspace(self._shares[fresh[0]], self._shares[fresh[-1]], _FINE)
        nearest = np.abs(self._shares[fresh][None] - marks[:, None]).argmin(axis=1)
        return fresh if len(fresh) <= _FINE else fresh[np.unique(nearest)]

    def _named(self, depth: npt.ArrayLike, width: npt.ArrayLike, sides: Array) -> Array:
        own = {"depth": depth, "width": width}
        columns = [own[name] if name in own else sides[..., self._side_names.index(name)] for name in self.names]
        return np.stack([np.asarray(column, float) for column in columns], axis=-1) if columns else sides[..., :0]

    def _encoded(self, depth: npt.ArrayLike, width: npt.ArrayLike, side: npt.ArrayLike) -> Encoded:
        parts = [self.widths[np.asarray(width)], self.depths[np.asarray(depth)]]
        if self.space.resolutions:
            parts.append(np.asarray(side, np.int64)[:, None])
        return np.concatenate(parts, axis=1)


def shrinking_of(
    space: Space,
    scores: Scores | None = None,
    *,
    width: str = "threshold",
    normalise: str = "mean",
    exponents: Mapping[str, float] | None = None,
) -> Shrinking:
    """The networks of a space that ratios name.

    Args:
        space: the traced space.
        scores: the ranking behind the threshold; the space's own when None.
        width: `"threshold"`: all units that pass one threshold stay; `"uniform"`: the same share of every group.
        normalise: see `spaces.normalised`.
        exponents: of the cost, for some of the dimensions, where others are wanted.

    Raises:
        ValueError: another `width` or `normalise`, or exponents of what is no dimension of this space.
    """
    if width not in WIDTHS:
        raise ValueError(f"width={width!r}: expected one of {', '.join(WIDTHS)}")
    if width == "threshold":
        used = normalised(space, space.default_scores if scores is None else scores, normalise)
        widths = threshold_family(space, used)[:, : len(space.groups)]
        widths[0] = space.full[: len(space.groups)]
    else:
        widths = _uniform_family(space)
    depths = _depth_family(space)
    sides, places = _side_shares(space)
    own = {"depth": 1.0} if len(depths) > 1 else {}
    if (widths[0] != widths[-1]).any():
        own["width"] = 2.0
    for group in places:
        own["resolution" if len(places) == 1 else f"resolution:{','.join(map(str, group))}"] = float(len(group))
    if unknown := sorted(set(exponents or {}) - set(own)):
        raise ValueError(f"exponents of {unknown}; the dimensions of this space are {list(own)}")
    return Shrinking(
        space=space,
        names=tuple(own),
        exponents=tuple((own | dict(exponents or {})).values()),
        depths=depths,
        widths=widths,
        sides=sides,
        alive=np.stack([_alive(space, kept) for kept in depths]),
    )


def _uniform_family(space: Space) -> Encoded:
    """`(b, g)` the nearest choice to each of many shares, in every group."""
    least = min((group.widths[0] / group.widths[-1] for group in space.groups), default=1.0)
    shares = np.linspace(1.0, least, 4 * _FINE if least < 1 else 1)
    family = np.zeros((len(shares), len(space.groups)), np.int64)
    for number, group in enumerate(space.groups):
        choices = np.array(group.widths[::-1])
        family[:, number] = choices[np.abs(shares[:, None] * choices[0] - choices[None]).argmin(axis=1)]
    return family[np.flatnonzero(np.diff(family.sum(axis=1), prepend=family[0].sum() + 1))]


def _depth_family(space: Space) -> Encoded:
    """`(a, stages)` blocks that stay, as they go one at a time."""
    full = np.array([len(stage.blocks) for stage in space.stages], np.int64)
    family = [full]
    while family[-1].any():
        kept = family[-1].copy()
        left = kept / full
        kept[len(kept) - 1 - int(np.argmax(left[::-1]))] -= 1
        family.append(kept)
    return np.stack(family)


def _side_shares(space: Space) -> tuple[Array, list[list[int]]]:
    """`(s, v')` shares of each dimension of sides, and the input axes of each."""
    if not space.resolutions:
        return np.zeros((1, 0)), []
    shares = np.array(space.resolutions, float) / np.array(space.resolutions[-1], float)
    places: list[list[int]] = []
    for axis in range(shares.shape[1]):
        if (shares[:, axis] == 1).all():
            continue
        alike = next((one for one in places if np.abs(shares[:, axis] - shares[:, one[0]]).max() <= _ALIKE), None)
        if alike is None:
            places.append([axis])
        else:
            alike.append(axis)
    means = [shares[:, one].mean(axis=1) for one in places]
    return np.stack(means, axis=1) if means else np.zeros((len(shares), 0)), places


def _alive(space: Space, kept: Encoded) -> npt.NDArray[np.bool_]:
    """`(g,)` groups with channels outside the blocks that are removed: widths elsewhere are no choice."""
    groups = len(space.groups)
    least = [axis.choices[0] for axis in space.axes[:groups]]
    tail = [0] if space.resolutions else []
    named = space.canonical([*least, *kept.tolist(), *tail])[:groups]
    # A group of one choice is the same alive or not.
    return np.equal(np.array(named, np.int64), np.array(least, np.int64))
