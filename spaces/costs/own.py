"""Costs of the user's own: a name, and a function that says the number. They are limited and minimised like ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, SupportsFloat

from ..budget import COSTS

OF = ("candidate", "network")
_TAKEN = (
    *(*COSTS, "latency_ms", "error", "error_std", "predicted", "predicted_std", "reserve", "own", "resolution"),
    *("trial", "key", "state", "source", "fidelity", "ranking", "weights", "evaluated", "within", "reason"),
    *("seconds", "started", "attempts"),
)
"""What costs, limits and columns of tables are called already."""


class CostError(ValueError):
    """A cost of the user's own raised, or gave what is no positive, finite number."""


def check_name(name: Any) -> None:
    """Refuse a name that no cost of the user's own can have.

    Raises:
        ValueError: it is no name of Python, or taken.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"cost {name!r}: expected a name that Python could have, as 'ort_ms'")
    if name in _TAKEN:
        raise ValueError(f"cost {name!r}: Secateur has something of this name already; choose another")


@dataclass(frozen=True)
class Cost:
    """A cost of your own, for `Search(costs=[...])`; a positive number, the less the better.

    >>> Cost("size_kb", of="candidate", measure=lambda space, candidate: space.costs([candidate]).param_bytes[0] / 1e3)
    Cost(name='size_kb', of='candidate')

    Attributes:
        name: in budgets, objectives and tables: a Python name that no cost and no column of ours has.
        measure: `(space, candidate) -> number` by arithmetic, asked of thousands of candidates; or
            `(network, example) -> number` of a built network in eval mode, called as `network(*example)`, which is
            asked twice of each network that is measured.
        of: `"candidate"` or `"network"`: which of the two `measure` is.

    Raises:
        ValueError: a name that is taken or no name, or another `of`.
        TypeError: `measure` can't be called.
    """

    name: str
    _: KW_ONLY
    measure: Callable[[Any, Any], Any]
    of: str = "network"

    def __post_init__(self) -> None:
        """Refuse what no study could use."""
        check_name(self.name)
        if self.of not in OF:
            raise ValueError(f"cost {self.name!r}: of={self.of!r}; expected 'candidate' or 'network'")
        if not callable(self.measure):
            kind = type(self.measure).__name__
            raise TypeError(f"cost {self.name!r}: measure is a {kind}; expected a function of two arguments")

    @property
    def measured(self) -> bool:
        """Whether it is measured of a built network, and not arithmetic."""
        return self.of == "network"

    def __repr__(self) -> str:
        """Without the function."""
        return f"Cost(name={self.name!r}, of={self.of!r})"

    def __call__(self, first: Any, second: Any) -> float:
        """What `measure` says of a space and a candidate, or of a network and an example.

        Raises:
            CostError: it raised, or gave no positive, finite number.
        """
        try:
            found = self.measure(first, second)
        except Exception as error:  # the user's code raises whatever it likes
            said = " ".join(str(error).split())[:300]
            raise CostError(f"cost {self.name!r} raised {type(error).__name__}{said and f': {said}'}") from error
        if isinstance(found, bool) or not isinstance(found, SupportsFloat):
            raise CostError(f"cost {self.name!r} gave {found!r:.80}, a {type(found).__name__}; expected a number")
        value = float(found)
        if not (math.isfinite(value) and value > 0):
            raise CostError(f"cost {self.name!r} gave {value}; expected a positive, finite number")
        return value

    def twice(self, first: Any, second: Any) -> tuple[float, float]:
        """The mean of two calls, and their difference as a share of it.

        Raises:
            CostError: as of a call; and where the arithmetic of a candidate gave two numbers.
        """
        one, other = self(first, second), self(first, second)
        if not self.measured and one != other:
            raise CostError(
                f"cost {self.name!r} gave {one:.6g} and then {other:.6g} for the same candidate; arithmetic gives one "
                "number: make what is measured a cost of the network, Cost(..., of='network')"
            )
        return (one + other) / 2, 2 * abs(one - other) / (one + other)


def checked_costs(costs: Any) -> tuple[Cost, ...]:
    """The costs, each of another name.

    Raises:
        ValueError: they are no list of costs, or two have one name.
    """
    found = tuple(costs) if isinstance(costs, Iterable) and not isinstance(costs, str | Mapping) else (costs,)
    strange = next((one for one in found if not isinstance(one, Cost)), None)
    if strange is not None or costs is None:
        raise ValueError(f"expected a list of secateur.Cost, and {strange!r:.80} is a {type(strange).__name__}")
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two costs are called {twice!r}; expected different names")
    return found
