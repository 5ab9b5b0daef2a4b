"""A candidate (one choice on every axis), the axes it chooses on, and bringing it within limits by arithmetic."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .channels.layout import Group
    from .graph.blocks import Stage
    from .graph.network import Side

Encoded = npt.NDArray[np.int64]
"""`(n, d)` candidates as integers, in the order of the axes."""
CostTable = Callable[[Encoded], Mapping[str, npt.NDArray[Any]]]
"""`(n, d)` candidates to `(n,)` costs by name."""


def mean_side(side: Side) -> float:
    """What a side counts as, whose axes may differ: their geometric mean.

    >>> mean_side((28, 28)), mean_side((32, 18))
    (28.0, 24.0)
    """
    return float(side[0]) if len(set(side)) == 1 else math.prod(side) ** (1 / len(side))


@dataclass(frozen=True)
class Axis:
    """One choice of the search: an integer from `choices`, ascending; a larger one never costs less.

    Attributes:
        name: `width:<first member>`, `depth:<stage>` or `resolution`.
        choices: legal values. Widths are channels of the first member, depths the number of removable blocks that
            stay, resolutions an index into `Space.resolutions`. The last choice is the full network's.
        sides: of the resolutions, by index.
    """

    name: str
    choices: tuple[int, ...]
    sides: tuple[Side, ...] = field(default=(), compare=False)

    def shown(self, value: int) -> int | str:
        """What a table says of a choice: a resolution's side, `"64x48"` where its axes differ; any other as it is.

        >>> Axis("resolution", (0, 1), ((8, 8), (8, 6))).shown(0), Axis("depth:layer1", (0, 1)).shown(1)
        (8, 1)
        """
        if not 0 <= value < len(self.sides):
            return value
        side = self.sides[value]
        return side[0] if len(set(side)) == 1 else "x".join(map(str, side))

    @property
    def kind(self) -> str:
        """`"width"`, `"depth"` or `"resolution"`."""
        return self.name.split(":", 1)[0]

    @property
    def full(self) -> int:
        """The full network's choice."""
        return self.choices[-1]

    def nearest(self, value: float) -> int:
        """The legal choice nearest to `value`; the larger of two equally near."""
        return min(self.choices, key=lambda choice: (abs(choice - value), -choice))

    def check(self, value: int) -> None:
        """Raise a ValueError that names the nearest choice where `value` is none."""
        if value not in self.choices:
            some = list(self.choices)
            of = some if len(some) <= 8 else f"{some[0]}, {some[1]}, ... {some[-1]}"
            raise ValueError(f"{self.name}={value} is no choice; the nearest is {self.nearest(value)}, of {of}")


class Candidate(tuple[int, ...]):
    """One choice on every axis, in axis order: a pruning policy. Immutable and hashable.

    >>> Candidate((8, 16, 2)).key == Candidate([8, 16, 2]).key
    True
    """

    __slots__ = ()

    def __new__(cls, values: Iterable[int]) -> Candidate:
        """Any iterable of integers; numpy's and torch's are turned into plain ones."""
        return super().__new__(cls, map(int, values))

    @property
    def key(self) -> str:
        """Eight hexadecimal digits that name the candidate within its space."""
        return hashlib.blake2b(",".join(map(str, self)).encode(), digest_size=4).hexdigest()

    def __repr__(self) -> str:
        return f"Candidate({', '.join(map(str, self))})"


STEPS = 128


class Costed(Protocol):
    """What is repaired: candidates and what they cost. A `Space` is one."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The first axes choose their widths."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The next axes choose how many of their blocks stay."""

    @property
    def resolutions(self) -> tuple[Side, ...]:
        """The last axis chooses one of these, where there are any."""

    @property
    def smallest(self) -> Candidate:
        """The least choice on every axis."""

    @property
    def full_costs(self) -> Mapping[str, float]:
        """Costs of the full network, by name."""

    @property
    def smallest_costs(self) -> Mapping[str, float]:
        """Costs of the smallest network, by name."""

    def check(self, candidate: Sequence[int]) -> Candidate:
        """The candidate, if it is a legal choice on every axis."""

    def canonical(self, candidate: Sequence[int]) -> Candidate:
        """The same network's one name."""

    def cost_table(self, candidates: Sequence[Candidate] | Encoded) -> dict[str, Encoded]:
        """`(n,)` costs by name."""


def check_limits(space: Costed, limits: Mapping[str, float]) -> None:
    """Raise a ValueError with the reachable range where even the smallest network is over a limit."""
    for name, limit in limits.items():
        if name in space.smallest_costs and space.smallest_costs[name] > limit:
            least, full = int(space.smallest_costs[name]), int(space.full_costs[name])
            raise ValueError(
                f"budget {name}={limit:g} is below the smallest network of this space: reachable are {least:,} to "
                f"{full:,} ({least / full:.2g} to 1 of the original); raise it, or allow smaller networks "
                "(a lower divisor, lower resolutions)"
            )


def check_within(space: Costed, candidate: Sequence[int], limits: Mapping[str, float]) -> None:
    """Raise a ValueError that names the cost where the candidate is over a limit that arithmetic knows."""
    for name, (cost,) in space.cost_table([space.check(candidate)]).items():
        if cost > limits.get(name, cost):
            raise ValueError(
                f"candidate has {name}={cost:,}, over the budget of {limits[name]:,.0f}; take a smaller one"
            )


def within(
    space: Costed, encoded: Encoded, limits: Mapping[str, float], costs: CostTable | None = None
) -> npt.NDArray[np.bool_]:
    """`(n,)` whether each of the `(n, d)` candidates meets all limits that `costs` knows, or arithmetic when None."""
    known = (costs or space.cost_table)(encoded)
    fine = np.ones(len(encoded), bool)
    for name, limit in limits.items():
        if name in known:
            fine &= known[name] <= limit
    return fine


def repair(
    space: Costed, candidate: Sequence[int], limits: Mapping[str, float], costs: CostTable | None = None
) -> Candidate:
    """The candidate itself where it meets the limits, else a smaller one that does.

    All widths shrink together towards their least, as little as needed; where that is not enough, the resolution goes
    down one step, then the deepest stage loses a block, and the widths are tried again from where they were.

    Args:
        space: the traced space.
        candidate: one choice on every axis.
        limits: absolute limits by cost name; names that are not known here (`latency_ms`) are left aside.
        costs: `(n, d)` candidates to `(n,)` costs by name, where more is known than `Space.cost_table` says; where no
            network meets what it predicts, the smallest is given.

    Raises:
        ValueError: even the smallest network is over a limit; the reachable range is given.
    """
    found = space.canonical(candidate)
    values = np.array(found, np.int64)
    if within(space, values[None], limits, costs)[0]:
        return found
    check_limits(space, limits)
    widths = len(space.groups)
    while True:
        smaller = _shrunk(space, values, limits, costs)
        if smaller is not None:
            return space.canonical(smaller.tolist())
        if space.resolutions and values[-1] > 0:
            values[-1] -= 1
        else:
            depths = values[widths : widths + len(space.stages)]
            if not depths.size or not depths.any():
                return space.smallest
            depths[int(np.argmax(depths))] -= 1


def _shrunk(space: Costed, values: Encoded, limits: Mapping[str, float], costs: CostTable | None) -> Encoded | None:
    """The widest of a family between these widths and the least ones that meets the limits."""
    family = np.repeat(values[None], STEPS, axis=0)
    ratio = np.linspace(1.0, 0.0, STEPS)
    for number, group in enumerate(space.groups):
        choices = np.array(group.widths)
        want = choices[0] + ratio * (values[number] - choices[0])
        family[:, number] = choices[np.searchsorted(choices, want + 1e-9, side="right") - 1]
    fine = np.flatnonzero(within(space, family, limits, costs))
    return family[fine[0]] if len(fine) else None
