"""Predicting latency: the analytic terms of `latency_terms`, weighed by a few dozen measured networks.

    latency = sum over t of coefficient_t >= 0 times term_t,  fitted to relative errors

The device's channel step, and whether PyTorch computes small inputs another way, are found by cross-validation.

Symbols: `n` candidates, `d` axes, `t` terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from ...spaces import Axis, Candidate, Encoded, Space
from .latency_terms import STEPS, Terms

Array = npt.NDArray[np.float64]
FOLDS = 50
HELD = 0.8  # share of networks within the margin
HUBER, REWEIGHTED = 1.345, 3  # deviations from which on an error counts less; how often weights are found again
TOLERANCE = 1.02  # times the best cross-validated error: what is no worse than that and simpler is taken


@dataclass(frozen=True, eq=False, kw_only=True)
class LatencyModel:
    """Milliseconds of any candidate, in microseconds; made by `fit`.

    Attributes:
        terms: what is summed.
        step: channels are rounded up to it.
        native: whether small inputs are counted apart; without it, more channels, blocks or pixels never take less.
        coefficients: `(t,)` milliseconds a term.
        rows: measured networks it was fitted to.
        error: median of |predicted / measured - 1|, each network predicted by a fit that had not seen it.
        margin: 80 % of the networks took at most `1 + margin` times what was predicted so; at least 0.
        tried: `(step, native, mean relative error)` of everything that was compared, cross-validated.
    """

    terms: Terms
    step: int
    native: bool
    coefficients: Array
    rows: int
    error: float
    margin: float
    tried: tuple[tuple[int, bool, float], ...]

    @classmethod
    def fit(cls, space: Space, encoded: Encoded, latency_ms: Sequence[float] | Array) -> LatencyModel:
        """The model that predicts left-out networks best; the same rows give the same model.

        Args:
            space: the traced space.
            encoded: `(n, d)` measured candidates, at least two.
            latency_ms: `(n,)` what each took.

        Raises:
            ValueError: too few rows, other shapes, or a latency that is not a positive, finite number.
        """
        encoded, measured = np.asarray(encoded, np.int64), np.asarray(latency_ms, np.float64)
        _check(space, encoded, measured)
        terms = Terms.of(space)
        found: list[tuple[int, bool, Array]] = []  # with (n,) measured / predicted of left-out rows
        for native in (False, True):
            for step in STEPS:
                shares = terms.table(encoded, step, native) / measured[:, None]
                found.append((step, native, _left_out(shares)))
        tried = tuple((step, native, float(np.abs(ratio - 1).mean())) for step, native, ratio in found)
        least = min(error for *_, error in tried)
        step, native, ratio = next(
            one for one, (*_, error) in zip(found, tried, strict=True) if error <= TOLERANCE * least + 1e-9
        )
        return cls(
            terms=terms,
            step=step,
            native=native,
            coefficients=_solved(terms.table(encoded, step, native) / measured[:, None]),
            rows=len(encoded),
            error=float(np.median(np.abs(ratio - 1))),
            margin=max(0.0, float(np.quantile(1 / np.maximum(ratio, 1e-9), HELD)) - 1),
            tried=tried,
        )

    def predict(self, encoded: Encoded) -> Array:
        """`(n,)` milliseconds of `(n, d)` candidates."""
        encoded = np.asarray(encoded, np.int64)
        if encoded.ndim != 2 or encoded.shape[1] != len(self.terms.space.axes):
            raise ValueError(f"encoded candidates are {encoded.shape}; expected (n, {len(self.terms.space.axes)})")
        found: Array = self.terms.table(encoded, self.step, self.native) @ self.coefficients
        return found

    def aim(self, limit_ms: float) -> float:
        """The prediction to stay below so that four of five networks are within a limit when they are measured."""
        return limit_ms / (1 + self.margin)


def calibration(space: Space, count: int = 48, seed: int = 0) -> list[Candidate]:
    """Up to `count` different candidates to measure: the full network, the smallest, and well spread ones.

    Every axis is covered evenly. By turns all widths go by one scale, scatter around it, are drawn apart, or stand at a
    multiple of 8, 16 or 32 or just above one, where a device's steps are. Fewer come back where the space has no more.

    Args:
        space: the traced space.
        count: how many at most.
        seed: of what is drawn.

    Raises:
        ValueError: `count` below 2.
    """
    if count < 2:
        raise ValueError(f"count={count}: expected at least 2 networks, the full and the smallest are among them")
    random = np.random.default_rng(seed)
    found = dict.fromkeys([space.full, space.smallest])
    for _ in range(8):
        for candidate in _spread(space, count, random):
            if len(found) >= count:
                return list(found)
            found[candidate] = None
    return list(found)[:count]


def _spread(space: Space, count: int, random: np.random.Generator) -> Iterator[Candidate]:
    """A Latin hypercube over the axes and one common scale."""
    cells = np.stack([random.permutation(count) for _ in range(len(space.axes) + 1)], axis=1)
    even = (cells + random.random(cells.shape)) / count
    for number, (scale, *own) in enumerate(even):
        values = []
        for axis, place in zip(space.axes, own, strict=True):
            if axis.kind != "width":
                values.append(axis.choices[int(place * len(axis.choices))])
            else:
                ratio = (scale, scale * (0.6 + 0.8 * place), place, place)[number % 4]
                values.append(_edge(axis, ratio, random) if number % 4 == 3 else axis.nearest(ratio * axis.full))
        yield space.canonical(values)


def _edge(axis: Axis, ratio: float, random: np.random.Generator) -> int:
    """The choice nearest to a multiple of 8, 16 or 32, or just above it."""
    step = int(random.choice((8, 16, 32)))
    return axis.nearest(max(1, round(ratio * axis.full / step)) * step + int(random.integers(2)))


def _left_out(shares: Array) -> Array:
    """`(n,)` predicted / measured of each row, by a fit to the rows of the other folds.

    Args:
        shares: `(n, t)` terms divided by what was measured.
    """
    fold = np.arange(len(shares)) % FOLDS
    ratio = np.empty(len(shares))
    for number in range(min(FOLDS, len(shares))):
        ratio[fold == number] = shares[fold == number] @ _solved(shares[fold != number])
    return ratio


def _solved(shares: Array) -> Array:
    """`(t,)` coefficients, none negative, for relative errors with Huber's loss, by reweighted least squares.

    A network that was measured while the machine was busy counts in proportion, not by its square.
    """
    weights = np.ones(len(shares))
    for _ in range(REWEIGHTED):
        off = np.abs(shares @ _least_squares(shares, weights) - 1)
        width = HUBER * max(1.4826 * float(np.median(off)), 1e-9)  # 1.4826: from a median to a normal's deviation
        weights = np.minimum(1, width / np.maximum(off, 1e-12))
    return _least_squares(shares, weights)


def _least_squares(shares: Array, weights: Array) -> Array:
    """`(t,)` coefficients, none negative, with the least weighted squares of `shares @ coefficients - 1`."""
    roots = np.sqrt(weights)
    weighted = shares * roots[:, None]
    scale = np.sqrt((weighted**2).mean(0))
    scale[scale == 0] = 1
    found, _ = nnls(weighted / scale, roots, maxiter=100 * shares.shape[1])
    coefficients: Array = found / scale
    return coefficients


def _check(space: Space, encoded: Encoded, measured: Array) -> None:
    if encoded.ndim != 2 or encoded.shape[1] != len(space.axes) or measured.shape != (len(encoded),):
        raise ValueError(
            f"candidates are {encoded.shape} and latencies {measured.shape}; expected (n, {len(space.axes)}) and (n,)"
        )
    if len(encoded) < 2:
        raise ValueError(f"{len(encoded)} measured networks; a latency model needs at least two, better a few dozen")
    wrong = np.flatnonzero(~(np.isfinite(measured) & (measured > 0)))
    if len(wrong):
        raise ValueError(f"latency of row {wrong[0]} is {measured[wrong[0]]}; expected positive, finite milliseconds")
