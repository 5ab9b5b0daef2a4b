"""How good a network is, as a polynomial in a few ratios; its fit from few samples, and its best point at a given cost.

Wang et al. 2021 (arXiv 2010.04879) predict the accuracy of a pruned network from the shares of depth, width and
resolution that stay. Every error here is minimised, so what they call accuracy is `y = 1 - error`; nothing else
changes.

F       the polynomial, F(x) = sum over i, j, ... of L[i, j, ...] * x_1^i * x_2^j * ...
K_j     its degree in variable j
L       (K_1 + 1, ..., K_v + 1)  its coefficients; one product of polynomials of one variable has rank 1
R       rank of L, where it is a sum of such products
e       (v,)    exponents of the cost, C(x) = x_1^e_1 * x_2^e_2 * ...; images: depth 1, width 2, resolution 2
T       target of C, as a share of the full network's
x, y    (n, v), (n,)   ratios and what is predicted; the full network is x = 1
z       x - 1: all fits are made around the full network, where the samples meet
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Polynomial as Line
from scipy.optimize import Bounds, LinearConstraint, least_squares, minimize
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, LeaveOneOut

Array = npt.NDArray[np.float64]

APART = 0.01  # ratios that are nearer to each other count once, when a degree is chosen
_ALPHAS = np.logspace(-10, 0, 11)
_FOLDS = 10  # more samples than twice this many are left out by folds, fewer one by one
_TIE = 1e-6  # keeps the terms beyond the first product finite where the samples do not tell them


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A polynomial of several variables.

    Attributes:
        coefficients: `(K_1 + 1, ..., K_v + 1)`, the tensor L.
    """

    coefficients: Array

    @property
    def degrees(self) -> tuple[int, ...]:
        """`(v,)` in each variable."""
        return tuple(size - 1 for size in self.coefficients.shape)

    def __call__(self, x: npt.ArrayLike) -> Array:
        """`(n,)` values at `(n, v)` points."""
        return self._contracted(np.asarray(x, float), None)

    def gradient(self, x: npt.ArrayLike) -> Array:
        """`(n, v)` partial derivatives at `(n, v)` points."""
        points = np.asarray(x, float)
        return np.stack([self._contracted(points, variable) for variable in range(points.shape[1])], axis=1)

    def _contracted(self, x: Array, derived: int | None) -> Array:
        """L times the powers of each variable, one after another; of one variable the derivatives of the powers."""
        left = np.broadcast_to(self.coefficients, (len(x), *self.coefficients.shape))
        for variable, degree in enumerate(self.degrees):
            powers = _powers(x[:, variable], degree)
            if variable == derived:
                powers = np.pad(powers[:, :-1] * np.arange(1, degree + 1), ((0, 0), (1, 0)))
            left = np.einsum("nk,nk...->n...", powers, left)
        return np.asarray(left, float)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A fit and what it is worth.

    Attributes:
        polynomial: the fit to all samples.
        rank: the number of products in it; 0 where it has all terms.
        rmse: root of the mean squared error on samples that were left out, each predicted by a fit to the others.
        mean_rmse: the same, predicted by the mean of the others.
    """

    polynomial: Polynomial
    rank: int
    rmse: float
    mean_rmse: float


def fit(x: npt.ArrayLike, y: npt.ArrayLike, *, degree: int = 3, rank: int = 1, full: bool = False) -> Fitted:
    """The polynomial nearest to the samples, cross-validated.

    Deviations from the paper: a variable that was seen at fewer than `degree + 1` ratios has a lower degree, and where
    there are fewer samples than unknowns the rank goes down first, then the degrees.

    Args:
        x: `(n, v)` ratios.
        y: `(n,)` one less the errors.
        degree: K, of each variable.
        rank: R, the number of products that are added.
        full: all terms up to the degree in each variable, by ridge regression, instead of products.

    Raises:
        ValueError: shapes that do not fit, no sample, or a degree or rank below 1.
    """
    points, values = np.asarray(x, float), np.asarray(y, float)
    if points.ndim != 2 or values.shape != (len(points),) or not len(points):
        raise ValueError(f"x is {points.shape} and y {values.shape}; expected (n, v) and (n,) with n of at least 1")
    if degree < 1 or rank < 1:
        raise ValueError(f"degree={degree!r}, rank={rank!r}: expected integers of at least 1")

    def fitted(points: Array, values: Array) -> Polynomial:
        degrees = usable_degrees(points, degree)
        if full:
            return _full(points, values, degrees)
        return _products(points, values, degrees, usable_rank(len(points), degrees, rank))

    rmse, mean_rmse = _left_out(points, values, fitted)
    used = 0 if full else usable_rank(len(points), usable_degrees(points, degree), rank)
    return Fitted(polynomial=fitted(points, values), rank=used, rmse=rmse, mean_rmse=mean_rmse)


def usable_degrees(x: Array, degree: int) -> tuple[int, ...]:
    """`(v,)` degrees that `(n, v)` samples tell: below the number of ratios of each variable, and of all samples."""
    degrees = []
    for column in x.T:
        ordered = np.sort(column)
        degrees.append(min(degree, int((np.diff(ordered) > APART).sum())))
    while sum(degrees) + 1 > len(x):
        degrees[int(np.argmax(degrees))] -= 1
    return tuple(degrees)


def usable_rank(samples: int, degrees: Sequence[int], rank: int) -> int:
    """The number of products that so many samples can tell: 3 K + 1 numbers for the first, 3 K + 3 for each more."""
    more = sum(degrees) + len(degrees)
    return max(1, min(rank, 1 + (samples - sum(degrees) - 1) // max(1, more)))


def design(x: Array, degrees: Sequence[int]) -> Array:
    """`(n, t)` all products of powers up to the degree in each variable, as `Polynomial.coefficients` flattened."""
    rows = np.ones((len(x), 1))
    for variable, degree in enumerate(degrees):
        rows = (rows[:, :, None] * _powers(x[:, variable], degree)[:, None, :]).reshape(len(x), -1)
    return rows


def optimum(
    polynomial: Polynomial, exponents: npt.ArrayLike, target: float, lower: npt.ArrayLike | None = None
) -> Array:
    """`(v,)` the best ratios at most 1 at which the cost is the target: F as large as C(x) = T allows.

    With a multiplier m, the derivative of F + m (log T - log C) by log x_j says x_j dF/dx_j = m e_j: for images,
    d F_d = w F_w / 2 = r F_r / 2. A ratio that would exceed 1 stays there, and the others meet this among themselves
    (Karush, Kuhn, Tucker). In log x the constraint is linear, so sequential quadratic programming solves these very
    equations, bounds included; it starts from the best points of a lattice, as F may have several tops.

    Args:
        polynomial: F.
        exponents: `(v,)` of the cost.
        target: T.
        lower: `(v,)` least ratios, above 0; what the target asks of one variable alone when None.

    Raises:
        ValueError: a target or exponent of 0 or less, or a target that the least ratios do not reach.
    """
    e = np.asarray(exponents, float)
    if not target > 0 or (e <= 0).any() or e.shape != (len(polynomial.degrees),):
        raise ValueError(f"target={target!r}, exponents={e.tolist()}: expected numbers above 0, one a variable")
    if target >= 1:
        return np.ones(len(e))
    depth = -np.log(target)
    room = depth / e if lower is None else np.minimum(-np.log(np.asarray(lower, float)), depth / e)
    if (e * room).sum() < depth * (1 - 1e-9):
        raise ValueError(
            f"target={target:.4g} is below the {np.exp(-(e * room).sum()):.4g} that the least ratios cost; "
            "raise it, or allow smaller ratios"
        )

    def loss(u: Array) -> tuple[float, Array]:  # u = -log x, in 0..room
        x = np.exp(-u)[None]
        return -float(polynomial(x)[0]), polynomial.gradient(x)[0] * x[0]

    starts = _lattice(e, depth, room)
    starts = starts[np.argsort(-polynomial(np.exp(-starts)), kind="stable")[:4]]
    spent = LinearConstraint(e[None], depth, depth)
    ends = [
        minimize(
            loss,
            u,
            jac=True,
            method="SLSQP",
            bounds=Bounds(np.zeros(len(e)), room),
            constraints=spent,
            options={"ftol": 1e-15, "maxiter": 200},
        ).x
        for u in starts
    ]
    found = np.clip(np.array([*ends, *starts]), 0.0, room)
    found = found[np.abs(found @ e - depth) <= 1e-6 * depth]  # a lattice point always is among them
    return np.asarray(np.exp(-found[int(np.argmax(polynomial(np.exp(-found))))]), float)


def _lattice(e: Array, depth: float, room: Array, steps: int = 12) -> Array:
    """`(s, v)` points of the simplex `e u = depth`; what lies beyond the room of one variable goes to the others."""
    cuts = [cut for cut in product(range(steps + 1), repeat=len(e)) if sum(cut) == steps]
    spent = np.array(cuts, float) / steps * depth
    for _ in e:
        spent = np.minimum(spent, e * room)
        free = e * room - spent
        left = depth - spent.sum(axis=1, keepdims=True)
        spent = spent + free * left / np.maximum(free.sum(axis=1, keepdims=True), 1e-300)
    return np.asarray(spent / e, float)


def _products(x: Array, y: Array, degrees: Sequence[int], rank: int) -> Polynomial:
    """A sum of `rank` products, by least squares.

    The first is c * prod over j of (1 + sum over i of a_ji z_j^i): each factor is 1 at the full network, so none of its
    3 K + 1 numbers stands for another. Where every sample lies on one axis, these equations are linear in a, and the
    start is the solution. Further products begin near 0, and their factors may be of any scale.
    """
    z = x - 1
    base = float(y[int(np.argmin(np.abs(z).sum(axis=1)))]) or 1.0
    columns = np.concatenate(
        [_powers(z[:, j], degree)[:, 1:] for j, degree in enumerate(degrees)] + [np.ones((len(z), 1))], axis=1
    )
    solved = np.linalg.lstsq(columns, y, rcond=1e-12)[0]
    base = float(solved[-1]) or base
    start = np.concatenate([[base], solved[:-1] / base])
    sizes = [degree + 1 for degree in degrees]
    first, each = 1 + sum(degrees), sum(sizes)

    def factors(theta: Array) -> list[list[Array]]:
        """For each product, the `(K_j + 1,)` coefficients in z of its factors."""
        parts = np.split(theta[1:first], np.cumsum(degrees)[:-1])
        found = [[np.concatenate([[1.0], part]) for part in parts]]
        found[0][0] = found[0][0] * theta[0]  # c
        rest = theta[first:].reshape(rank - 1, each)
        return found + [np.split(row, np.cumsum(sizes)[:-1]) for row in rest]

    powers = [_powers(z[:, j], degree) for j, degree in enumerate(degrees)]

    def lines(theta: Array) -> Array:
        """`(rank, v, n)` values of the factors."""
        return np.array([[power @ part for power, part in zip(powers, one, strict=True)] for one in factors(theta)])

    def residuals(theta: Array) -> Array:
        return np.concatenate([lines(theta).prod(axis=1).sum(axis=0) - y, _TIE * theta[first:]])

    def jacobian(theta: Array) -> Array:
        at = lines(theta)
        columns = []
        for number, one in enumerate(at):
            for j, power in enumerate(powers):
                others = np.delete(one, j, axis=0).prod(axis=0)
                if number:
                    columns.append(power * others[:, None])
                else:  # c stands in the factor of variable 0
                    columns.append(power[:, 1:] * others[:, None] * (theta[0] if j == 0 else 1.0))
        own = at[0].prod(axis=0) / theta[0] if theta[0] else np.zeros(len(y))
        tie = _TIE * np.eye(len(theta))[first:]
        return np.concatenate([np.concatenate([own[:, None], *columns], axis=1), tie])

    random = np.random.default_rng(0)
    tries = [np.concatenate([start, 0.3 * random.standard_normal((rank - 1) * each)]) for _ in range(min(rank, 3))]
    ends = [least_squares(residuals, one, jacobian, ftol=1e-14, xtol=1e-14, gtol=1e-14, max_nfev=200) for one in tries]
    best = min(ends, key=lambda end: end.cost)
    terms = [[_in_x(part) for part in one] for one in factors(best.x)]
    return Polynomial(np.sum([_outer(one) for one in terms], axis=0))


def _full(x: Array, y: Array, degrees: Sequence[int]) -> Polynomial:
    """All terms, by ridge regression around the full network; its strength by cross-validation.

    Where all samples lie on the axes, no term of several variables is told: they are 0, and the fit is a sum.
    """
    terms = design(x - 1, degrees)
    ridge = RidgeCV(alphas=_ALPHAS, fit_intercept=True).fit(terms[:, 1:], y)
    flat = np.concatenate([[ridge.intercept_], ridge.coef_])
    tensor = flat.reshape([degree + 1 for degree in degrees])
    for axis, degree in enumerate(degrees):
        change = np.stack([_in_x(row) for row in np.eye(degree + 1)])
        tensor = np.moveaxis(np.tensordot(tensor, change, axes=([axis], [0])), -1, axis)
    return Polynomial(tensor)


def _left_out(x: Array, y: Array, fitted: Callable[[Array, Array], Polynomial]) -> tuple[float, float]:
    """Errors on samples that were left out, of fits and of means; NaN from fewer than two samples."""
    if len(y) < 2:
        return float("nan"), float("nan")
    folds = LeaveOneOut() if len(y) <= 2 * _FOLDS else KFold(_FOLDS, shuffle=True, random_state=0)
    errors, means = [], []
    for kept, out in folds.split(x):
        errors.append(fitted(x[kept], y[kept])(x[out]) - y[out])
        means.append(y[kept].mean() - y[out])
    return _rms(errors), _rms(means)


def _rms(parts: Sequence[Array]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(parts) ** 2)))


def _powers(x: Array, degree: int) -> Array:
    """`(n, degree + 1)` powers from 0."""
    return np.vander(x, degree + 1, increasing=True)


def _in_x(coefficients: Array) -> Array:
    """Coefficients in x of a polynomial in z = x - 1."""
    shifted = Line(coefficients)(Line([-1.0, 1.0]))
    return np.pad(shifted.coef, (0, len(coefficients) - len(shifted.coef)))


def _outer(parts: Sequence[Array]) -> Array:
    """The tensor of a product of polynomials of one variable each."""
    tensor = np.ones(())
    for part in parts:
        tensor = np.multiply.outer(tensor, part)
    return np.asarray(tensor, float)
