"""Early stopping of trials that climb a ladder of fidelities: successive halving for several objectives.

Optuna's own early stopping looks at one objective; here a trial is compared as a point. Whether it goes on is a
function of its own values and of those told before its batch, so neither workers nor mates of its batch change it.

told    (n, m)  objectives of earlier trials at the rung where the question is asked; only their set counts
mine    (m,)    those of the trial that stands there
errors  (n,)    errors at that rung of the trials that climbed on
finals  (n,)    their errors at the last rung
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LinearRegression

from .pareto import contributions, ranks

_MARGIN = 0.1  # how far beyond the worst values the corner lies, in spans: the ends of a front must count for something


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Stops a trial that is not among the best 1/eta at a rung.

    Jamieson 2016 (arXiv 1502.07943), decided as trials arrive as in Li 2020 (ASHA, arXiv 1810.05934), with the order of
    SMS-EMOA (Beume 2007) in place of one error: rank of non-dominated sorting, then hypervolume contribution within the
    rank. Unlike ASHA's, a trial that was stopped is never taken up again; and one that nothing beats always goes on.

    Attributes:
        eta: one in so many goes on; above 1.
        least: all go on while fewer than so many were told at the rung; at least 1.
    """

    eta: float = 3.0
    least: int = 8

    def __post_init__(self) -> None:
        """Refuse what stops nothing, or everything."""
        if not 1 < self.eta < float("inf"):
            raise ValueError(f"eta={self.eta!r}: expected a number above 1")
        if isinstance(self.least, bool) or not isinstance(self.least, int) or self.least < 1:
            raise ValueError(f"least={self.least!r}: expected an integer of at least 1")

    def goes_on(self, told: npt.ArrayLike, mine: npt.ArrayLike) -> bool:
        """Whether a trial with the `(m,)` values climbs on, given the `(n, m)` of all that were told at its rung.

        Rows that hold NaN are left out; values of its own that hold NaN end a trial.
        """
        point = np.asarray(mine, dtype=np.float64)
        others = np.asarray(told, dtype=np.float64).reshape(-1, len(point))
        others = others[~np.isnan(others).any(axis=1)]
        others = others[np.lexsort(others.T)]  # sums of floats depend on their order, and nothing may on that of trials
        if np.isnan(point).any():
            return False
        if len(others) < self.least:
            return True
        points = np.vstack([point, others])
        rank = ranks(points)
        return bool(rank[0] == 0 or _better(points, rank) < len(points) / self.eta)

    def predicted(self, errors: npt.ArrayLike, finals: npt.ArrayLike, mine: float) -> tuple[float, float | None]:
        """The final error to tell for a trial that was stopped with the error `mine`, and its standard deviation.

        A line through the trials that climbed on, never falling, its values kept within the final errors seen: a
        stopped trial is told no better than the best network that was trained to the end. The deviation is the line's
        for one new point; None below three trials. Without any, `mine` itself.
        """
        x, y = np.asarray(errors, dtype=np.float64), np.asarray(finals, dtype=np.float64)
        if x.shape != y.shape or x.ndim != 1:
            raise ValueError(f"errors of shape {x.shape} and finals of {y.shape}; expected (n,) both")
        if len(x) == 0:
            return float(mine), None
        line = LinearRegression(positive=True).fit(x[:, None], y)
        error = float(np.clip(line.predict([[mine]])[0], y.min(), y.max()))
        if len(x) < 3:
            return error, None
        residuals = y - line.predict(x[:, None])
        spread = float(((x - x.mean()) ** 2).sum())
        reach = (mine - x.mean()) ** 2 / spread if spread > 0 else 0.0
        return error, float(np.sqrt((residuals**2).sum() / (len(x) - 2) * (1 + 1 / len(x) + reach)))


def _better(points: npt.NDArray[np.float64], rank: npt.NDArray[np.int64]) -> int:
    """How many of the points come before the first one; what equals it does not."""
    worst, best = points.max(axis=0), points.min(axis=0)
    # All in spans: a product over objectives of any units keeps its order.
    scaled = (points - best) / np.where(worst > best, worst - best, 1.0)
    mates = np.flatnonzero(rank == rank[0])  # itself first
    gain = contributions(scaled[mates], np.full(points.shape[1], 1 + _MARGIN))
    return int((rank < rank[0]).sum() + (gain > gain[0]).sum())
