"""How much a candidate is expected to add to a front when its error is uncertain and its costs are exact.

Symbols: `k` candidates, `m` objectives, `f` points of a front.

mean, std  (k,)        error predicted of each candidate
costs      (k, m - 1)  its other objectives
front      (f, m)      the error first, then the costs; need not be free of dominated points
reference  (m,)        the worst corner that counts, in the same order
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr
from scipy.stats import qmc

from ..problem import Array

_SAMPLES = 1024


def expected_improvement(mean: Array, std: Array, best: Array | float) -> Array:
    """E[max(0, best - error)] of normal errors; arguments broadcast against one another."""
    std = np.maximum(std, 1e-12)
    z = (best - mean) / std
    return np.asarray(std * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)))


def expected_hypervolume_improvement(mean: Array, std: Array, costs: Array, front: Array, reference: Array) -> Array:
    """`(k,)` expected growth of the hypervolume; in closed form for one and two objectives.

    With one cost, the front is a staircase `F(t)`: the least error at a cost of at most `t`. A candidate of cost `c`
    adds the area between its error and the staircase, from `c` to the reference: a sum over the steps, each the part of
    its width beyond `c` times a one-dimensional expected improvement.

    With more, the volume is the integral, over the box below the reference, of P(the candidate dominates y) where no
    front point dominates y: estimated at the same 1,024 points y for all candidates, so that they compare fairly.
    """
    if costs.shape[1] == 0:
        return expected_improvement(mean, std, min([reference[0], *front[:, 0]]))
    if costs.shape[1] == 1:
        levels, widths = _strips(costs[:, 0], front, reference)
        return np.asarray((widths * expected_improvement(mean[:, None], std[:, None], levels)).sum(axis=1))
    points, share = _undominated(float((mean - 3 * std).min()), costs, front, reference)
    reached = _reached(costs, points)
    return np.asarray((reached * ndtr((points[:, 0] - mean[:, None]) / std[:, None])).sum(axis=1) * share)


def hypervolume_improvement(error: Array, costs: Array, front: Array, reference: Array) -> Array:
    """`(k,)` as `expected_hypervolume_improvement`, of errors that are certain."""
    if costs.shape[1] == 0:
        return np.asarray(np.maximum(min([reference[0], *front[:, 0]]) - error, 0))
    if costs.shape[1] == 1:
        levels, widths = _strips(costs[:, 0], front, reference)
        return np.asarray((widths * np.maximum(levels - error[:, None], 0)).sum(axis=1))
    points, share = _undominated(float(error.min(initial=np.inf)), costs, front, reference)
    return np.asarray((_reached(costs, points) & (error[:, None] <= points[:, 0])).sum(axis=1) * share)


def _strips(cost: Array, front: Array, reference: Array) -> tuple[Array, Array]:
    """`(f + 1,)` heights of the staircase, and the `(k, f + 1)` widths of its steps beyond each candidate's cost."""
    order = np.lexsort((front[:, 0], front[:, 1]))
    edges = np.concatenate([[-np.inf], front[order, 1], [reference[1]]])
    levels = np.concatenate([[reference[0]], np.minimum.accumulate(front[order, 0])])
    widths = np.maximum(edges[1:] - np.maximum(edges[:-1], cost[:, None]), 0)
    return levels, widths


def _undominated(least: float, costs: Array, front: Array, reference: Array) -> tuple[Array, float]:
    """Points of the box below the reference that no front point dominates, and the volume that each stands for."""
    bottom = np.append(least, costs.min(axis=0, initial=np.inf))
    if len(front):
        bottom = np.minimum(bottom, front.min(axis=0))
    span = np.maximum(reference - np.minimum(bottom, reference), 0)
    points = reference - span * qmc.Sobol(len(reference), scramble=False).random(_SAMPLES)
    beaten = (front[:, None] <= points).all(axis=2).any(axis=0)
    return points[~beaten], float(np.prod(span)) / _SAMPLES


def _reached(costs: Array, points: Array) -> npt.NDArray[np.bool_]:
    """`(k, points)` whether a candidate costs no more than a point in any way."""
    reached = np.ones((len(costs), len(points)), bool)
    for i in range(costs.shape[1]):
        reached &= costs[:, i, None] <= points[:, i + 1]
    return reached
