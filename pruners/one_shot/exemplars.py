"""Exemplars of a set of filters, by affinity propagation with the preferences of EPruner.

Symbols: `s` `(n, n)` similarities, `s[i, k]` of filter i to a possible exemplar k; `s[k, k]` is how readily k is one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

Floats = npt.NDArray[np.float64]
DAMPINGS = (0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Exemplars:
    """Which filters represent which.

    Attributes:
        of: `(n,)` the exemplar of each filter; its own number for an exemplar.
        damping: with which the messages converged; None where they did not, and every filter represents itself.
    """

    of: npt.NDArray[np.int64]
    damping: float | None

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """The exemplars, ascending."""
        return np.unique(self.of)


def similarities(filters: Tensor) -> Floats:
    """`(n, n)` negative squared distances of `(n, elements)` filters."""
    rows = filters.detach().double().cpu()
    rows = rows - rows.mean(0)  # what all share is no difference, and would only cost digits
    squares = rows.square().sum(1)
    distances = (squares[:, None] + squares - 2 * rows @ rows.T).numpy()
    distances[distances < 1e-12 * float(squares.max() if len(squares) else 0)] = 0.0  # equal filters
    np.fill_diagonal(distances, 0.0)
    similarity: Floats = -(distances + distances.T) / 2
    return similarity


def exemplars(similarity: Floats, beta: float, iterations: int = 200) -> Exemplars:
    """Affinity propagation with the preferences `s[k, k] = beta * median over i of s[i, k]`, zero diagonal included.

    Similarities are never positive, so a larger beta gives fewer exemplars. Messages that do not converge are
    damped more; where that does not help either, every filter represents itself.
    """
    n = len(similarity)
    if n < 2:
        return Exemplars(np.arange(n), DAMPINGS[0])
    from sklearn.cluster import affinity_propagation  # not above: scikit-learn takes a second to import

    preference = beta * np.median(similarity, axis=0)
    for damping in DAMPINGS:
        with warnings.catch_warnings():  # of no convergence, and of similarities that are all equal
            warnings.simplefilter("ignore")
            centres, labels, steps = affinity_propagation(
                similarity,
                preference=preference,
                damping=damping,
                max_iter=iterations,
                random_state=0,
                return_n_iter=True,
            )
        if steps < iterations and len(centres) and (np.asarray(labels) >= 0).all():
            return Exemplars(np.asarray(centres, np.int64)[labels], damping)
    return Exemplars(np.arange(n), None)


def merits(similarity: Floats, found: Exemplars) -> Floats:
    """`(n,)` how much each filter counts: exemplars in (1, 2], the others in [0, 1).

    Of exemplars those come first that represent more filters, among equals those that are farther from all others; of
    the rest those that their exemplar represents worst.
    """
    n = len(similarity)
    apart = -similarity.sum(0)
    apart = apart / max(float(apart.max()), 1e-300)
    size = np.bincount(found.of, minlength=n)
    lost = -similarity[np.arange(n), found.of]
    lost = lost / max(float(-similarity.min()), 1e-300)
    is_exemplar = found.of == np.arange(n)
    merit: Floats = np.where(is_exemplar, 1 + (size - 0.5 + 0.25 * apart) / n, 0.999 * lost)
    return merit
