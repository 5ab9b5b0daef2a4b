"""A Gaussian process of the error with a length scale an axis, for few axes that count differently.

Where the polynomial shrinks all axes towards one another, the process learns how far an axis may move before the error
does. On the scale of a `Transform`, standardised, errors have the covariance

    k(x, y) = 100 + u * sum_q shared(x) shared(y) + a * exp(-0.5 * sum_d (x_d - y_d)^2 / l_d^2) + noise * [x is y]

around the same trend as the polynomial's (`surrogate.tilt`), and `u`, `a`, `l` and the noise are the most probable ones
(Rasmussen & Williams 2006, eq. 5.8 and 5.9), under priors that expect longer lengths where there are more axes
(Hvarfner 2024, arXiv 2402.02229). The gradient of all lengths costs one product of matrices, `(n, n)` by `(n, d)`.

Symbols: `n` trials, `k` candidates, `d` axes, `q` shared features; `shared (n, q)`, `axes (n, d)`, `t (n,)` as in
`surrogate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import minimize

from ..problem import Array
from .scales import Noise, Transform
from .surrogate import tilt

_CONSTANT = 100.0  # prior variance of the constant: as good as free
_ROUNDS = 30  # of the optimiser
_ROWS = 128  # trials on which it works; all trials make the fit
_JITTER = 1e-6
_SPREAD = 3.0**0.5  # of the logarithm of a length, a priori; the median is sqrt(2) at one axis, and grows as sqrt(d)
_TREND, _SMOOTH = (-1.0, 1.5), (0.0, 1.0)  # mean and spread of the logarithms of `u` and `a`
_NOISE = (-4.0, 1.0)  # and of the noise where nothing is known of it


@dataclass(frozen=True, eq=False, kw_only=True)
class Process:
    """A fitted process.

    Attributes:
        shared: `(n, q)` and `axes`: `(n, d)` features of the trials.
        error: `(n,)` of the trials.
        transform: the scale of the regression; centre, scale: of the errors on it.
        relative: `(n,)` variance of the noise of each trial, in units of the noise's.
        lengths: `(d,)` of the axes; trend, smooth, noise: `u`, `a` and the noise's variance.
    """

    shared: Array
    axes: Array
    error: Array
    transform: Transform
    centre: float
    scale: float
    relative: Array
    lengths: Array
    trend: float
    smooth: float
    noise: float

    def mean(self, shared: Array, axes: Array) -> Array:
        """`(k,)` transformed errors expected of candidates with `(k, q)` and `(k, d)` features."""
        return np.asarray((self._cross(shared, axes) @ self._solved[1] + tilt(shared)) * self.scale + self.centre)

    def mean_with_std(self, shared: Array, axes: Array) -> tuple[Array, Array]:
        """As `mean`, and their standard deviations without the noise of a measurement."""
        cross = self._cross(shared, axes)
        own = _CONSTANT + self.trend * (shared**2).sum(axis=1) + self.smooth
        left = own - ((cross @ self._solved[0]) * cross).sum(axis=1)
        return (
            np.asarray((cross @ self._solved[1] + tilt(shared)) * self.scale + self.centre),
            np.sqrt(np.maximum(left, 1e-9)) * self.scale,
        )

    def joined(self, shared: Array, axes: Array, error: Array) -> Process:
        """The same process, told some more trials."""
        return replace(
            self,
            shared=np.concatenate([self.shared, shared]),
            axes=np.concatenate([self.axes, axes]),
            error=np.append(self.error, error),
            relative=np.append(self.relative, np.ones(len(error))),
        )

    @property
    def left_out(self) -> tuple[Array, Array]:
        """`(n,)` residuals of trials left out, on the transformed scale, and their standard deviations."""
        inverse, weight = self._solved
        diagonal = np.diag(inverse)
        return weight / diagonal * self.scale, np.sqrt(1 / diagonal) * self.scale

    def _cross(self, shared: Array, axes: Array) -> Array:
        near = _nearness(axes / self.lengths, self.axes / self.lengths)
        near *= self.smooth
        near += shared @ (self.trend * self.shared.T)
        near += _CONSTANT
        return near

    @cached_property
    def _solved(self) -> tuple[Array, Array]:
        gram = self._cross(self.shared, self.axes)
        gram[np.diag_indices(len(gram))] += self.noise * self.relative + _JITTER
        inverse, _ = _inverted(gram)
        t = (self.transform.forward(self.error) - self.centre) / self.scale
        return inverse, inverse @ (t - tilt(self.shared))


def fit_process(shared: Array, axes: Array, error: Array, transform: Transform, noise: Noise) -> Process:
    """The most probable process.

    Args:
        shared: `(n, q)` features of the whole network.
        axes: `(n, d)` features of the axes.
        error: `(n,)` measured.
        transform: the scale of the regression.
        noise: what is known of that of the measurements.
    """
    t = transform.forward(error)
    centre, scale = float(t.mean()), max(float(t.std()), 1e-9)
    relative, told = noise.on(transform, error, scale)
    span, wide = np.maximum(np.ptp(axes, axis=0), 1e-3), axes.shape[1]
    heard = _NOISE if told is None else (float(np.log(max(told, 1e-5))), 1.0)
    centres = np.array([*(0.5 * np.log(2 * max(wide, 1)) + np.log(span)), _TREND[0], _SMOOTH[0], heard[0]])
    spreads = np.array([*np.full(wide, _SPREAD), _TREND[1], _SMOOTH[1], heard[1]])

    rows = np.unique(np.linspace(0, len(t) - 1, min(len(t), _ROWS)).round().astype(int))
    y, x, own, whole = (
        (t[rows] - centre) / scale - tilt(shared[rows]),
        axes[rows],
        relative[rows],
        shared[rows] @ shared[rows].T,
    )

    def cost(theta: Array) -> tuple[float, Array]:
        lengths, (trend, smooth, level) = np.exp(theta[:wide]), np.exp(theta[wide:])
        scaled = x / lengths
        near = smooth * _nearness(scaled, scaled)
        gram = near + trend * whole + _CONSTANT
        gram[np.diag_indices(len(y))] += level * own + _JITTER
        inverse, logarithm = _inverted(gram)
        weight = inverse @ y
        away = (theta - centres) / spreads
        value = 0.5 * (float(y @ weight) + logarithm + float(away @ away))
        slope = np.outer(weight, weight) - inverse
        by_near = slope * near
        by_length = by_near.sum(axis=1) @ scaled**2 - (scaled * (by_near @ scaled)).sum(axis=0)
        others = [trend * (slope * whole).sum() / 2, by_near.sum() / 2, level * (np.diag(slope) * own).sum() / 2]
        return value, away / spreads - np.append(by_length, others)

    bounds = [(centre - 4 * spread, centre + 4 * spread) for centre, spread in zip(centres, spreads, strict=True)]
    start = centres - np.append(np.full(wide, 0.5 * np.log(max(wide, 1))), np.zeros(3)) / 2
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ROUNDS})
    trend, smooth, level = np.exp(found.x[wide:]).tolist()
    return Process(
        shared=shared,
        axes=axes,
        error=error,
        transform=transform,
        centre=centre,
        scale=scale,
        relative=relative,
        lengths=np.exp(found.x[:wide]),
        trend=trend,
        smooth=smooth,
        noise=level,
    )


def _nearness(scaled: Array, scaled_too: Array) -> Array:
    """`(k, n)` exp(-0.5 * squared distance)."""
    near = scaled @ scaled_too.T
    near -= 0.5 * (scaled**2).sum(axis=1)[:, None]
    near -= 0.5 * (scaled_too**2).sum(axis=1)
    return np.asarray(np.exp(np.minimum(near, 0, out=near), out=near))


def _inverted(gram: Array) -> tuple[Array, float]:
    """The inverse of a positive definite matrix, and the logarithm of its determinant."""
    factor, _ = lapack.dpotrf(gram, lower=1)
    inverse, _ = lapack.dpotri(factor, lower=1)
    whole = inverse + inverse.T  # LAPACK leaves the other half at 0
    whole[np.diag_indices(len(gram))] /= 2
    return whole, 2 * float(np.log(np.diag(factor)).sum())
