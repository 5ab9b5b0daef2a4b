"""A candidate (one choice on every axis) and the axes it chooses on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Encoded = npt.NDArray[np.int64]
"""`(n, d)` candidates as integers, in the order of the axes."""


@dataclass(frozen=True)
class Axis:
    """One choice of the search: an integer from `choices`, ascending; a larger one never costs less.

    Attributes:
        name: `width:<first member>`, `depth:<stage>` or `resolution`.
        choices: legal values. Widths are channels of the first member, depths the number of removable blocks that
            stay, resolutions an index into `Space.resolutions`. The last choice is the full network's.
    """

    name: str
    choices: tuple[int, ...]

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
