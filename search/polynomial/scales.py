"""The scales on which errors are fitted and compared, and how wrong their measurements are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..problem import Array

_TINY = 1e-6  # errors are kept this share of the ceiling away from 0 and from it before a logarithm
_LEAST = 1e-3  # errors below this share of the worst are alike
_UNEQUAL = 20.0  # ratio of variances of noise beyond which measurements do not differ


@dataclass(frozen=True)
class Transform:
    """A scale on which errors are added up: `forward`, its inverse, and its slope."""

    name: str
    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def transforms(error: Array) -> tuple[Transform, ...]:
    """The scales tried for `(n,)` errors: as they are, their logarithm, and one that is flat towards a ceiling.

    The ceiling, above which no network errs, lies a twentieth above the worst error told: cut far enough, every
    network guesses, and differences between those say nothing on the good ones. Errors below 0, where a task has such,
    are left as they are.
    """
    if error.min() < 0:
        return (_PLAIN,)
    ceiling = 1.05 * max(float(error.max()), _TINY)
    least = _TINY * ceiling

    def bounded(e: Array) -> Array:
        return np.clip(e, least, ceiling - least)

    return (
        replace(_PLAIN, inverse=lambda t: np.clip(t, 0, ceiling)),
        Transform(
            "log",
            lambda e: np.log(bounded(e)),
            lambda t: np.exp(np.minimum(t, np.log(ceiling))),
            lambda e: 1 / bounded(e),
        ),
        Transform(
            "logit",
            lambda e: np.log(bounded(e) / (ceiling - bounded(e))),
            lambda t: ceiling / (1 + np.exp(-np.clip(t, -50, 50))),
            lambda e: 1 / bounded(e) + 1 / (ceiling - bounded(e)),
        ),
    )


def by_ratio(error: Array) -> Transform:
    """The scale on which improvements of `(n,)` errors compare: from 4 to 2 % is as much as from 40 to 20 %.

    Errors below a thousandth of the worst are alike. Where some are below 0 there are no ratios, and differences count.
    """
    if error.min() < 0:
        return _PLAIN
    least = _LEAST * max(float(error.max()), _TINY)
    return Transform("log", lambda e: np.log(np.maximum(e, least)), np.exp, lambda e: 1 / np.maximum(e, least))


_PLAIN = Transform("identity", lambda e: e, lambda t: t, np.ones_like)


@dataclass(frozen=True, eq=False)
class Noise:
    """What is known of how wrong measurements are: `(n,)` their standard errors, NaN where unknown.

    A standard error over validation examples says which measurements are surer. How sure, it says roughly: candidates
    are measured on the same examples, and trained by chance besides. So it weighs as much as a few trials do.
    """

    std: Array

    def on(self, transform: Transform, error: Array, scale: float) -> tuple[Array, float | None]:
        """`(n,)` variances relative to their mean, and that mean in units of `scale` squared; None where unknown."""
        variance = np.square(self.std * transform.slope(error) / scale)
        known = np.isfinite(variance) & (variance > 0)
        if not known.any():
            return np.ones(len(error)), None
        level = float(variance[known].mean())
        relative = np.where(known, variance, level) / level
        return np.clip(relative, 1 / _UNEQUAL, _UNEQUAL), level

    def some(self, rows: npt.NDArray[np.int_]) -> Noise:
        """Of some trials."""
        return Noise(self.std[rows])
