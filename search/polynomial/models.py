"""What the trials told teach: the polynomial and the process with one voice, or the mean where neither foresees.

Both are fitted on one scale. Each says, of every trial, how probable its error was to the fit that had not seen it; the
weights of the two are the shares that make those errors the most probable (stacking of densities, Yao 2018, arXiv
1704.02030). Searches with thousands of trials are fitted on a few hundred: those nearest to the front, and others
spread over all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...spaces import Encoded
from ..problem import Array, Problem, Told
from .features import Features
from .process import Process, fit_process
from .scales import Noise
from .surrogate import Surrogate, fit

_KEPT = 256  # trials of a fit
# R2 of the process, times trials, that may be luck where the polynomial foresees nothing: its length scales were chosen
# with the trials that are then left out.
_BY_LUCK = 8
_TRIALS = 2  # for each length scale of the process, and its height, before it has a voice
_BELIEVED = 8  # trials before what is expected of them says more than what was measured
_WIDE = 24  # axes beyond which the process is not worth its seconds


class Model(Protocol):
    """Errors of `(k, d)` candidates, with some `luck` as of `Surrogate.predict`, and how sure they are."""

    def predict(self, encoded: Encoded, luck: float = 0.0) -> Array:
        """`(k,)` errors."""

    def predict_with_std(self, encoded: Encoded) -> tuple[Array, Array]:
        """`(k,)` errors and their standard deviations, without the noise of a measurement."""

    def means(self, encoded: Encoded, error: Array) -> Array:
        """`(n,)` what errors of trials are taken to be that were told as `error`."""


@dataclass(frozen=True, eq=False)
class Blend:
    """The polynomial, and the process with its share; there may be none."""

    features: Features
    polynomial: Surrogate
    process: Process | None
    share: float

    def predict(self, encoded: Encoded, luck: float = 0.0) -> Array:
        """As of `Model`."""
        found = self.features(encoded)
        mean = self.polynomial.mean(*found)
        if self.process is not None:
            mean = (1 - self.share) * mean + self.share * self.process.mean(*found)
        return self.polynomial.transform.inverse(mean - luck * self._spread())

    def predict_with_std(self, encoded: Encoded) -> tuple[Array, Array]:
        """As of `Model`."""
        found, transform = self.features(encoded), self.polynomial.transform
        mean, std = self.polynomial.mean_with_std(*found)
        if self.process is not None:
            other, doubt = self.process.mean_with_std(*found)
            apart = self.share * (1 - self.share) * (mean - other) ** 2
            std = np.sqrt((1 - self.share) * std**2 + self.share * doubt**2 + apart)
            mean = (1 - self.share) * mean + self.share * other
        error = transform.inverse(mean)
        return error, std / transform.slope(error)

    def means(self, encoded: Encoded, error: Array) -> Array:
        """What is foreseen of them, knowing them."""
        return self.predict(encoded)

    def missed(self) -> Array:
        """`(n,)` residuals of trials left out, on the scale of the fit."""
        missed, _ = self.polynomial.missed
        return missed if self.process is None else (1 - self.share) * missed + self.share * self.process.left_out[0]

    def _spread(self) -> float:
        return float(np.sqrt(np.mean(self.missed() ** 2)))

    def joined(self, encoded: Encoded) -> Blend:
        """As if these candidates had been measured at what is foreseen: the mean stays, the doubt around them goes."""
        found, error = self.features(encoded), self.predict(encoded)
        process = self.process and self.process.joined(*found, error)
        return Blend(self.features, self.polynomial.joined(*found, error), process, self.share)


@dataclass(frozen=True, eq=False)
class Mean:
    """What is left where trials predict nothing: their mean, tilted a little towards larger networks.

    The further from every trial, the less sure: so something new is tried at every size.
    """

    features: Features
    axes: Array
    error: Array

    def predict(self, encoded: Encoded, luck: float = 0.0) -> Array:
        """As of `Model`."""
        shared, _ = self.features(encoded)
        tilt = shared.mean(axis=1) if shared.shape[1] else np.zeros(len(encoded))
        return np.asarray(self.error.mean() - (luck + 0.5 * tilt) * self._std)

    def predict_with_std(self, encoded: Encoded) -> tuple[Array, Array]:
        """As of `Model`."""
        _, axes = self.features(encoded)
        squares = (axes**2).sum(axis=1)[:, None] + (self.axes**2).sum(axis=1) - 2 * axes @ self.axes.T
        nearest = np.maximum(squares, 0).min(axis=1)
        return self.predict(encoded), self._std * np.sqrt(nearest / (nearest + 0.1 * axes.shape[1]) + 1e-6)

    def means(self, encoded: Encoded, error: Array) -> Array:
        """As they were told."""
        return error

    @property
    def _std(self) -> float:
        return max(float(self.error.std()), 1e-9)


def learned(features: Features, seen: Told) -> tuple[Model, dict[str, Any]]:
    """The model of the error, and what is noted on it."""
    rows = kept(seen)
    shared, axes = features(seen.encoded[rows])
    error, noise = seen.error[rows], Noise(seen.error_std[rows])
    polynomial = fit(shared, axes, error, noise)
    process = None
    if 2 <= axes.shape[1] <= _WIDE and len(error) >= _TRIALS * (axes.shape[1] + 1):
        process = fit_process(shared, axes, error, polynomial.transform, noise)
    share = 0.0 if process is None else _share(polynomial.missed, process.left_out)
    blend, t = Blend(features, polynomial, process, share), polynomial.transform.forward(error)
    if _r2(polynomial.missed[0], t) <= 0 and _r2(blend.missed(), t) <= _BY_LUCK / len(t):
        blend, share = Blend(features, polynomial, None, 0.0), 0.0
    missed = blend.missed()
    r2 = _r2(missed, t)
    kind = "polynomial" if r2 > 0 else "mean"
    facts = {
        "kind": kind,
        "trials": len(seen.error),
        "degree": polynomial.degree if r2 > 0 else 0,
        "coefficients": polynomial.coefficients if r2 > 0 else 1,
        "transform": polynomial.transform.name,
        "r2": r2,
        "rmse": float(np.sqrt(np.mean((polynomial.transform.inverse(t - missed) - error) ** 2))),
        "mean_rmse": polynomial.mean_rmse,
        "process": share,
    }
    if kind == "mean":
        return Mean(features, axes, error), facts
    return (blend.joined(seen.pending) if len(seen.pending) else blend), facts


def expected_errors(problem: Problem, seen: Told) -> dict[int, float]:
    """What the errors of trials are taken to be, knowing all others, by trial number: measured by chance, they differ.

    The trial that was measured lowest is often one that was lucky. Of the trials of a fit, at most a few hundred; empty
    where the standard errors of the measurements are unknown, or trials say nothing of one another.
    """
    rows = kept(seen)
    if len(rows) < _BELIEVED or not (seen.error_std[rows] > 0).any():
        return {}
    model, facts = learned(Features(problem), seen)
    if facts["kind"] == "mean":
        return {}
    means = model.means(seen.encoded[rows], seen.error[rows])
    return {int(number): float(mean) for number, mean in zip(seen.numbers[rows], means, strict=True)}


def _r2(missed: Array, t: Array) -> float:
    """How much better than the mean of the others trials left out are foreseen; 0: no better."""
    by_mean = (t - t.mean()) * len(t) / (len(t) - 1)
    return 1 - float((missed**2).mean()) / max(float((by_mean**2).mean()), 1e-300)


def kept(seen: Told) -> npt.NDArray[np.int_]:
    """Rows of at most `_KEPT` trials: half of them the nearest to the front, the rest spread over all others."""
    count = len(seen.error)
    if count <= _KEPT:
        return np.arange(count)
    others = [i for i in range(seen.values.shape[1]) if not np.array_equal(seen.values[:, i], seen.error)]
    order = np.lexsort((seen.error, *seen.values[:, others].T))
    least = np.minimum.accumulate(np.where(seen.feasible, seen.error, np.inf)[order])
    above = np.empty(count)
    above[order] = seen.error[order] - np.where(np.isfinite(least), least, seen.error.min())
    above[~seen.feasible] += np.ptp(seen.error)
    near = np.argsort(above, kind="stable")[: _KEPT // 2]
    rest = np.setdiff1d(np.arange(count), near)
    spread = rest[np.unique(np.linspace(0, len(rest) - 1, _KEPT - len(near)).round().astype(int))]
    return np.sort(np.concatenate([near, spread]))


def _share(one: tuple[Array, Array], other: tuple[Array, Array]) -> float:
    """Of `other`: what makes trials left out the most probable, by residuals and standard deviations of both."""
    densities = [np.exp(-0.5 * (missed / std) ** 2) / std + 1e-300 for missed, std in (one, other)]
    share = 0.5
    for _ in range(50):
        taken = share * densities[1] / (share * densities[1] + (1 - share) * densities[0])
        share = float((taken.sum() + 1) / (len(taken) + 2))
    return share
