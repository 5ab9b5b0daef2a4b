"""A Bayesian polynomial of low order that says how sure it is, for few trials and many axes.

The error, or a transform of it, is a polynomial of degree 1 or 2 in two families of features: a few *shared* ones of
the whole network, and one an axis. Every coefficient has a normal prior around 0, one variance a family and degree.
Because the shared features are sums over the axes, the axes' coefficients are shrunk towards a common one: with four
trials the model is a trend along the size of the network, with a hundred it knows each layer. What no polynomial says
is left to a smooth *remainder* (a Gaussian process of short reach), so that no mistake is made twice in one place.

The regression is of what the errors are above a trend that is there before any trial: smaller networks err more. Few
trials that say nothing of that do not make the smallest networks look the best.

Of such a ridge regression with `n` trials and up to a thousand coefficients only `(n, n)` Gram matrices are needed.
With `K = I + sum_j s_j K_j`, where `K_j` is the Gram matrix of family `j` and `s_j` its prior variance in units of the
noise's, the error of trial `i`, left out, and its variance are (Rasmussen & Williams 2006, eq. 5.12)

    r_i = [K^-1 t]_i / [K^-1]_ii        v_i = noise / [K^-1]_ii

where `I` stands for equally sure measurements; where standard errors were told, it has their squares, over the mean.

So leave-one-out costs one inversion. Degree, families, variances and transform are the ones whose predictive density
of the trials left out is the best.

Symbols: `n` trials, `k` candidates, `d` axes, `q` shared features, `j` families.

shared  (n, q)     axes  (n, d)     error  (n,)     t  (n,) transformed, standardised error
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from ..problem import Array
from .scales import Noise, Transform, transforms

FAMILIES = ("shared", "axes", "shared squared", "axes squared", "products", "remainder")
_DEFAULT = np.array(
    [10.0, 0.3, 1.0, 0.03, 0.03, 0.3]
)  # prior variances in units of the noise's, with errors of variance 1
_STARTS = (_DEFAULT * [1, 1, 0, 0, 0, 1], _DEFAULT)  # degree 1 and degree 2
_FEW = 64  # trials up to which every start is improved on every scale; beyond, the two most promising
_CONSTANT = 100.0  # prior variance of the constant: as good as free
_REACH = 0.14  # of the remainder, as a root mean square over the axes' features
_STEP = 4.0  # of the grid of prior variances
_PRIOR = 0.1  # nats that a step away from the default must earn
_ROWS = 128  # trials on which variances are chosen; all trials make the fit
_TILT = 1.0  # standard deviations of the errors told, for a network whose shared features are all at -1
_HEARD = 2.0  # trials that a told standard error counts as, in what the noise is taken to be


@dataclass(frozen=True, eq=False, kw_only=True)
class Surrogate:
    """A fitted polynomial.

    Attributes:
        shared: `(n, q)` and `axes`: `(n, d)` features of the trials.
        error: `(n,)` of the trials.
        noise: of their measurements.
        transform: the scale of the regression.
        variances: `(j,)` prior variance of each of `FAMILIES`, in units of the noise's.
    """

    shared: Array
    axes: Array
    error: Array
    noise: Noise
    transform: Transform
    variances: Array

    @property
    def degree(self) -> int:
        """1, or 2 where a squared or product family has any variance."""
        return 2 if self.variances[2:5].any() else 1

    @property
    def coefficients(self) -> int:
        """How many coefficients have a prior that is not 0, the constant among them."""
        q, d = self.shared.shape[1], self.axes.shape[1]
        return 1 + int(np.array([q, d, q * (q + 1) // 2, d, d * (d + 1) // 2])[self.variances[:5] > 0].sum())

    def predict(self, shared: Array, axes: Array, luck: float = 0.0) -> Array:
        """`(k,)` errors expected of candidates with `(k, q)` and `(k, d)` features.

        Args:
            shared: features of the whole network.
            axes: features of the axes.
            luck: how much better than expected, in root mean squares of the residuals of trials left out.
        """
        return self.transform.inverse(self.mean(shared, axes) - luck * self._residual * self._scale)

    def predict_with_std(self, shared: Array, axes: Array) -> tuple[Array, Array]:
        """`(k,)` errors, and their standard deviations without the noise of a measurement."""
        mean, std = self.mean_with_std(shared, axes)
        error = self.transform.inverse(mean)
        return error, std / self.transform.slope(error)

    def mean_with_std(self, shared: Array, axes: Array) -> tuple[Array, Array]:
        """As `predict_with_std`, of transformed errors."""
        cross = _gram(grams(shared, axes, self.shared, self.axes), self.variances)
        left = _own(shared, axes, self.variances) - ((cross @ self._solved.inverse) * cross).sum(axis=1)
        return self.mean(shared, axes), np.sqrt(np.maximum(left, 1e-12) * self._solved.noise) * self._scale

    def joined(self, shared: Array, axes: Array, error: Array) -> Surrogate:
        """The same prior and transform, fitted to some more trials; arguments as of `fit`."""
        return replace(
            self,
            shared=np.concatenate([self.shared, shared]),
            axes=np.concatenate([self.axes, axes]),
            error=np.append(self.error, error),
            noise=Noise(np.append(self.noise.std, np.full(len(error), np.nan))),
        )

    @cached_property
    def left_out(self) -> Array:
        """`(n,)` errors predicted of each trial by the fit to all others."""
        residual, _ = self._solved.left_out
        t = self.transform.forward(self.error) - residual * self._scale
        return self.transform.inverse(t)

    @property
    def missed(self) -> tuple[Array, Array]:
        """`(n,)` residuals of trials left out on the transformed scale, and their standard deviations."""
        residual, variance = self._solved.left_out
        return residual * self._scale, np.sqrt(variance) * self._scale

    @property
    def r2(self) -> float:
        """Share of the variance of trials left out that is predicted, on the scale of the fit; their mean has 0."""
        n = len(self.error)
        return 1 - (self._residual * (n - 1) / n) ** 2

    @property
    def rmse(self) -> float:
        """Root mean square of the errors of `left_out`."""
        return float(np.sqrt(np.mean((self.left_out - self.error) ** 2)))

    @property
    def mean_rmse(self) -> float:
        """As `rmse`, where each trial is predicted by the mean of all others."""
        n = len(self.error)
        return float(self.error.std() * n / (n - 1))

    def mean(self, shared: Array, axes: Array) -> Array:
        """`(k,)` transformed errors: the polynomial itself, its coefficients collected from the trials once."""
        linear, linear_axes, square, square_axes, products, constant = self._polynomial
        t = constant + shared @ linear + axes @ linear_axes + axes**2 @ square_axes
        if self.variances[2]:
            t = t + ((shared @ square) * shared).sum(axis=1)
        if self.variances[4]:
            t = t + ((axes @ products) * axes).sum(axis=1)
        if self.variances[5]:
            t = t + self.variances[5] * (_nearness(axes, self.axes) @ self._solved.weight)
        return np.asarray((t + tilt(shared)) * self._scale + self._centre)

    @cached_property
    def _polynomial(self) -> tuple[Array, Array, Array, Array, Array, float]:
        weight, s = self._solved.weight, self.variances
        return (
            s[0] * (weight @ self.shared),
            s[1] * (weight @ self.axes),
            s[2] * (self.shared.T * weight) @ self.shared,
            s[3] * (weight @ self.axes**2),
            s[4] * (self.axes.T * weight) @ self.axes,
            _CONSTANT * float(weight.sum()),
        )

    @cached_property
    def _solved(self) -> _Solved:
        t = (self.transform.forward(self.error) - self._centre) / self._scale - tilt(self.shared)
        gram = _gram(grams(self.shared, self.axes, self.shared, self.axes), self.variances)
        return _Solved(gram, t, *self.noise.on(self.transform, self.error, self._scale))

    @property
    def _residual(self) -> float:
        """Root mean square of the residuals of trials left out, in units of `_scale`."""
        residual, _ = self._solved.left_out
        return float(np.sqrt(np.mean(residual**2)))

    @property
    def _centre(self) -> float:
        return float(self.transform.forward(self.error).mean())

    @property
    def _scale(self) -> float:
        return max(float(self.transform.forward(self.error).std()), 1e-9)


def fit(shared: Array, axes: Array, error: Array, noise: Noise | None = None) -> Surrogate:
    """The polynomial whose degree, prior variances and transform predict trials best that are left out.

    Args:
        shared: `(n, q)` features of the whole network.
        axes: `(n, d)` features of the axes.
        error: `(n,)` measured, 2 at least.
        noise: of the measurements; nothing is known of it when None.
    """
    if len(error) < 2:
        raise ValueError(f"{len(error)} trials; a fit needs 2 at least")
    noise = Noise(np.full(len(error), np.nan)) if noise is None else noise
    rows = np.unique(np.linspace(0, len(error) - 1, min(len(error), _ROWS)).round().astype(int))
    matrices = np.stack(grams(shared[rows], axes[rows], shared[rows], axes[rows]))
    tries = []
    for transform in transforms(error):
        t = transform.forward(error[rows])
        scale = max(float(t.std()), 1e-9)
        # A density of errors, whatever the scale: so the scales compare.
        offset = float(np.log(transform.slope(error[rows])).sum()) - len(rows) * np.log(scale)
        standard = (t - t.mean()) / scale - tilt(shared[rows]), *noise.some(rows).on(transform, error[rows], scale)
        tries += [
            (_density(matrices, standard, start) + offset, offset, standard, transform, start) for start in _STARTS
        ]
    tries.sort(key=lambda one: -one[0])
    found = []
    for _, offset, standard, transform, start in tries[: None if len(rows) <= _FEW else 2]:
        density, variances = _climbed(matrices, standard, start)
        found.append((density + offset, transform, variances))
    found.sort(key=lambda one: -one[0])
    found += [(density, transform, start) for density, _, _, transform, start in tries]
    fits = [
        Surrogate(shared=shared, axes=axes, error=error, noise=noise, transform=transform, variances=variances)
        for _, transform, variances in found
    ]
    # A density forgives errors that were predicted to be uncertain; the mean must be beaten all the same.
    return next((one for one in fits if one.r2 > 0), fits[0])


def tilt(shared: Array) -> Array:
    """`(k,)` how much smaller networks err more before any trial says so, in standard deviations of the errors."""
    return -_TILT * shared.mean(axis=1) if shared.shape[1] else np.zeros(len(shared))


def grams(shared: Array, axes: Array, shared_too: Array, axes_too: Array) -> list[Array]:
    """The `(k, n)` Gram matrix of each of `FAMILIES`, between `k` candidates and `n` others."""
    whole, each = shared @ shared_too.T, axes @ axes_too.T
    return [whole, each, whole**2, axes**2 @ (axes_too**2).T, each**2, _nearness(axes, axes_too)]


def _nearness(axes: Array, axes_too: Array) -> Array:
    """`(k, n)` 1 for the same candidate, falling to 0 as they differ on all axes."""
    scale = -0.5 / (_REACH**2 * max(axes.shape[1], 1))
    near = axes @ (-2 * scale * axes_too.T)
    near += scale * (axes**2).sum(axis=1)[:, None]
    near += scale * (axes_too**2).sum(axis=1)
    return np.asarray(np.exp(np.minimum(near, 0, out=near), out=near))


def _own(shared: Array, axes: Array, variances: Array) -> Array:
    """`(k,)` prior variance of each candidate: the diagonal of its Gram matrix."""
    squares = axes**2
    whole, each = (shared**2).sum(axis=1), squares.sum(axis=1)
    terms = [whole, each, whole**2, (squares**2).sum(axis=1), each**2, np.ones(len(axes))]
    return _CONSTANT + np.asarray(sum(s * term for s, term in zip(variances, terms, strict=True)))


def _gram(matrices: Sequence[Array] | Array, variances: Array) -> Array:
    return np.asarray(np.tensordot(variances, matrices, 1) + _CONSTANT)


class _Solved:
    """A ridge regression in its dual form.

    Attributes:
        inverse: `(n, n)` K^-1.
        weight: `(n,)` K^-1 t.
        noise: variance of the noise, in units of t's variance.
    """

    def __init__(self, gram: Array, t: Array, relative: Array, told: float | None) -> None:
        gram[np.diag_indices(len(t))] += relative
        factor, _ = lapack.dpotrf(gram, lower=1)
        inverse, _ = lapack.dpotri(factor, lower=1)
        self.inverse = inverse + inverse.T  # LAPACK leaves the other half at 0
        self.inverse[np.diag_indices(len(t))] /= 2
        self.weight = self.inverse @ t
        self._diagonal = np.diag(self.inverse)
        # Where nothing was told, half a trial of prior knowledge: residuals of a hundredth of the spread.
        known, weight = (0.01, 0.5) if told is None else (told, _HEARD)
        self.noise = float(((self.weight**2 / self._diagonal).sum() + weight * known) / (len(t) + weight))

    @property
    def left_out(self) -> tuple[Array, Array]:
        """`(n,)` residuals of the trials left out, and their variances."""
        return self.weight / self._diagonal, self.noise / self._diagonal

    @property
    def density(self) -> float:
        """Sum of the logarithms of the predictive densities of the trials left out."""
        residual, variance = self.left_out
        return float(-0.5 * (residual**2 / variance + np.log(2 * np.pi * variance)).sum())


_Told = tuple[Array, Array, float | None]  # standardised errors, and `Noise.on` of them


def _density(matrices: Array, t: _Told, variances: Array) -> float:
    return _Solved(_gram(matrices, variances), *t).density


def _climbed(matrices: Array, t: _Told, start: Array) -> tuple[float, Array]:
    """The best log density over a grid of variances, less what its distance from the start costs; and the variances.

    A family without variance stays without.
    """
    steps = np.zeros(len(start), int)

    def value(steps: npt.NDArray[np.int_]) -> float:
        return _density(matrices, t, start * _STEP**steps) - _PRIOR * float((steps**2).sum())

    best = value(steps)
    # All together first: that is the noise.
    moves = [np.sign(start).astype(int), *np.eye(len(start), dtype=int)[start > 0]]
    for _ in range(4):
        before = best
        for move in moves:
            for sign in (1, -1):
                found = False
                while (tried := value(steps + sign * move)) > best + 1e-9:
                    steps, best, found = steps + sign * move, tried, True
                if found:
                    break
        if best < before + 0.1:
            break
    return best, start * _STEP**steps
