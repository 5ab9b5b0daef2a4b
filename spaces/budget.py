"""What the pruned model may cost: several hard limits at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from .checked import near

Limit = float | int | str | None
COSTS = ("macs", "params", "param_bytes", "activation_bytes", "peak_bytes")
"""What is counted by arithmetic, in the order of the columns of `Space.costs`."""


_SHARED = ("macs", "params", "peak_bytes")  # a float up to 1 is a share of these


class HasFullCosts(Protocol):
    """What knows the full network's costs: a space."""

    @property
    def full_costs(self) -> Mapping[str, float]:
        """Costs of the full network, by name."""


@dataclass(frozen=True, kw_only=True, init=False)
class Budget:
    """Hard limits on the pruned model; `None` leaves a cost free.

    A float in (0, 1] is a fraction of the full model's cost (not for `latency_ms` and costs of your own, which are
    always absolute), any other number is absolute, and a text such as `"50%"` is a fraction anywhere.

    >>> Budget(macs=0.5, params=2e6).limits({"macs": 1000, "params": 5e6})
    {'macs': 500.0, 'params': 2000000.0}

    A real allocator needs more than the sum of what is alive: it rounds, and operators need scratch memory. `reserve`
    says how many times as much (`benchmarks/counters.py` measures it): the limit in bytes is divided by it. A share of
    the full network's needs none, because both sides grow alike.

    >>> Budget(peak_bytes=13_000_000, reserve=1.3).limits({})
    {'peak_bytes': 10000000.0}

    Attributes:
        macs: multiply-adds of one example, each counted as one.
        params: number of parameters.
        peak_bytes: parameters plus the largest sum of outputs alive, for one example.
        latency_ms: measured milliseconds of the built network, batch 1, on the study's device.
        reserve: real peak bytes for each of ours, at least 1; goes with a `peak_bytes` in bytes.
        own: limits on costs of your own, by name: `Budget(macs=0.5, ort_ms=2.0)`.

    Raises:
        ValueError: a limit that is not positive, a text that is no percentage, or a reserve below 1 or without bytes.
        TypeError: a limit that is neither a number nor a text.
    """

    macs: Limit = None
    params: Limit = None
    peak_bytes: Limit = None
    latency_ms: Limit = None
    reserve: float = 1.0
    own: tuple[tuple[str, Limit], ...] = field(default=(), init=False)

    def __init__(
        self,
        *,
        macs: Limit = None,
        params: Limit = None,
        peak_bytes: Limit = None,
        latency_ms: Limit = None,
        reserve: float = 1.0,
        **own: Limit,
    ) -> None:
        """Limits by name; `own` are those of costs of your own, which a study must know (`Search(costs=...)`)."""
        given = {"macs": macs, "params": params, "peak_bytes": peak_bytes, "latency_ms": latency_ms}
        for name, value in {**given, "reserve": reserve, "own": tuple(own.items())}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Refuse what limits nothing."""
        for name, limit in self.asked().items():
            _parse(name, limit)
        if isinstance(self.reserve, bool) or not isinstance(self.reserve, (int, float)):
            raise TypeError(f"budget reserve={self.reserve!r}: expected a number of at least 1")
        if not 1 <= self.reserve < float("inf"):
            raise ValueError(f"budget reserve={self.reserve!r}: expected a finite number of at least 1")
        if self.reserve > 1 and (self.peak_bytes is None or self.needs_full("peak_bytes")):
            raise ValueError(
                f"budget reserve={self.reserve!r} goes with peak_bytes in bytes; a share of the full network needs none"
            )

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Budget:
        """The budget that `["macs=0.5", "latency_ms=3"]` says, as on the command line."""
        limits: dict[str, Any] = {}
        for text in texts:
            name, equals, value = (part.strip() for part in text.partition("="))
            if not equals or not name.isidentifier():
                names = ", ".join(one.name for one in fields(cls) if one.init)
                raise ValueError(f"budget {text!r}: expected NAME=VALUE, with NAME one of {names}, or a cost of yours")
            if name in limits:
                raise ValueError(f"budget {name} is given twice; keep one")
            if value.endswith("%"):
                limits[name] = value
                continue
            try:
                limits[name] = int(value)
            except ValueError:
                try:
                    limits[name] = float(value)
                except ValueError:
                    raise ValueError(
                        f"budget {text!r}: expected a number or a percentage, as macs=0.5 or macs=50%"
                    ) from None
        return cls(**limits)

    def asked(self) -> dict[str, float | int | str]:
        """The limits that are set, by cost name, as they were given."""
        names = (one.name for one in fields(self) if one.name not in ("reserve", "own"))
        pairs = (*((name, getattr(self, name)) for name in names), *self.own)
        return {name: value for name, value in pairs if value is not None}

    def check(self, own: Iterable[str] = ()) -> None:
        """Refuse a limit on a cost that no one knows.

        Args:
            own: names of the costs of the user's own that are known here.

        Raises:
            ValueError: there is one.
        """
        known = [*(one.name for one in fields(self) if one.init), *own]
        for name, _ in self.own:
            if name not in known:
                own_one = "or one of your own, of Search(costs=[...]) or the table [costs] of a study file"
                mend = near(name, known) or f"; expected one of {', '.join(known)}, {own_one}"
                raise ValueError(f"budget {name}: there is no such cost here{mend}")

    def given(self) -> dict[str, float | int | str]:
        """Every argument that is not its default, to make the budget again."""
        return self.asked() | ({"reserve": self.reserve} if self.reserve != 1 else {})

    def needs_full(self, name: str) -> bool:
        """Whether the limit called `name` is a fraction of the full model's cost."""
        limit = self.asked().get(name)
        return limit is not None and _parse(name, limit)[1]

    def limits(
        self, full: HasFullCosts | Mapping[str, float], full_latency_ms: float | None = None
    ) -> dict[str, float]:
        """Absolute limits by cost name; a share of a measured cost that is not known is left out.

        Args:
            full: the space, or the full network's costs by name, those of the user's own among them.
            full_latency_ms: measured milliseconds of the full network.
        """
        costs = dict(full) if isinstance(full, Mapping) else dict(full.full_costs)
        absolute = {}
        for name, limit in self.asked().items():
            value, fraction = _parse(name, limit)
            if fraction and name == "latency_ms":
                if full_latency_ms is None:
                    continue
                costs[name] = full_latency_ms
            if fraction and name not in costs and name in dict(self.own):
                continue
            absolute[name] = value * float(costs[name]) if fraction else value
            if name == "peak_bytes" and not fraction:
                absolute[name] /= self.reserve
        return absolute


def _parse(name: str, limit: float | int | str) -> tuple[float, bool]:
    """The number and whether it is a fraction."""
    if isinstance(limit, str):
        try:
            value = float(limit.removesuffix("%")) / 100
        except ValueError:
            value = 0.0
        if not limit.endswith("%") or not 0 < value <= 1:
            raise ValueError(f"budget {name}={limit!r}: a text must be a percentage in (0%, 100%], as '50%'")
        return value, True
    if isinstance(limit, bool) or not isinstance(limit, (int, float)):
        raise TypeError(f"budget {name}={limit!r}: expected a number, a percentage such as '50%', or None")
    if not 0 < limit <= sys.float_info.max:
        raise ValueError(f"budget {name}={limit!r:.80}: expected a positive, finite number")
    return float(limit), isinstance(limit, float) and limit <= 1 and name in _SHARED
