"""Which points no other beats, and how much of the space a front dominates.

values     (n, m)  objectives, all minimised; a row with NaN is dominated
reference  (m,)    the worst corner that counts for the hypervolume
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]


def non_dominated(values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """`(n,)` mask of the rows that no other row equals or beats everywhere and beats somewhere.

    Equal rows are kept together. A row that holds NaN is never kept.
    """
    points = _points(values)
    kept: npt.NDArray[np.bool_] = np.zeros(len(points), bool)
    fine = np.flatnonzero(~np.isnan(points).any(axis=1))
    order = fine[np.lexsort(points[fine].T[::-1])]  # what beats a row comes before it
    if points.shape[1] == 2:
        first, second = points[order].T
        start = np.searchsorted(first, first)  # of the rows that share a first value
        least = np.concatenate([[np.inf], np.minimum.accumulate(second)])[start]
        kept[order[(second < least) & (second <= second[start])]] = True
        return kept
    front = points[:0]
    for i in order:
        # Only the front so far can matter: what a beaten point beats, its beater beats as well.
        if not ((front <= points[i]).all(axis=1) & (front < points[i]).any(axis=1)).any():
            front = np.concatenate([front, points[i : i + 1]])
            kept[i] = True
    return kept


def ranks(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """`(n,)` ranks of non-dominated sorting: 0 where nothing beats a row, else one more than the worst that beats it.

    Deb 2002 (NSGA-II). Equal rows share a rank; rows that hold NaN share the last.
    """
    points = _points(values)
    found = np.zeros(len(points), np.int64)
    missing = np.isnan(points).any(axis=1)
    for i in np.lexsort(points.T[::-1]):  # what beats a row comes before it in this order
        beaters = (points <= points[i]).all(axis=1) & (points < points[i]).any(axis=1)
        found[i] = found[beaters].max(initial=-1) + 1
    found[missing] = found[~missing].max(initial=-1) + 1
    return found


def hypervolume(values: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Volume between the `(n, m)` points and the `(m,)` reference; points beyond the reference add nothing."""
    points = _points(values)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (points.shape[1],):
        raise ValueError(
            f"reference of shape {corner.shape} for {points.shape[1]} objectives; give one number for each"
        )
    points = points[(points < corner).all(axis=1)]
    return _volume(points[non_dominated(points)], corner)


def contributions(values: npt.ArrayLike, reference: npt.ArrayLike) -> _Array:
    """`(n,)` hypervolume that is lost without each of the `(n, m)` points; 0 where another equals or beats it."""
    points, corner = _points(values), np.asarray(reference, dtype=np.float64)
    hypervolume(points[:0], corner)  # refuses a reference that does not fit
    found = np.zeros(len(points))
    inside = (points < corner).all(axis=1)
    for i in np.flatnonzero(non_dominated(points) & inside):
        # Of the box between point and corner, the others cover what they reach of it from its own corner.
        others = np.maximum(points[inside & (np.arange(len(points)) != i)], points[i])
        found[i] = np.prod(corner - points[i]) - _volume(others[non_dominated(others)], corner)
    return found.clip(min=0.0)  # rounding leaves a little of a box that is covered whole


def _volume(points: _Array, corner: _Array) -> float:
    """Slabs along the last objective; each is the volume, one dimension lower, of the points that reach it."""
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points[:, 0].min())
    if points.shape[1] == 2:  # a staircase: each step as wide as the best point up to there
        points = points[np.argsort(points[:, 1], kind="stable")]
        widths = corner[0] - np.minimum.accumulate(points[:, 0])
        return float((widths * np.diff(points[:, 1], append=corner[1])).sum())
    points = points[np.argsort(points[:, -1], kind="stable")]
    edges = np.append(points[1:, -1], corner[-1])
    total = 0.0
    for i, thickness in enumerate(edges - points[:, -1]):
        if thickness > 0:
            below = points[: i + 1, :-1]
            total += float(thickness) * _volume(below[non_dominated(below)], corner[:-1])
    return total


def _points(values: npt.ArrayLike) -> _Array:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"values of shape {points.shape}; expected (n, m): a row a point, a column an objective")
    return points
