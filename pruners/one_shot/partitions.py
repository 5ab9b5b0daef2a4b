"""Which units of linear layers go to which of P parts, so that as much as possible of the weights is inside of parts.

For a chain of layers with `s_ij` the damage of removing a weight, balanced labels maximise the sum of `s_ij` over
the pairs with equal labels: of a layer's outputs and its inputs, which are the outputs of the layer before.

Symbols: P parts; `s` of a layer is `(outputs, inputs)`; labels of n units are `(n,)`, n / P times each of 0..P-1.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import SpectralCoclustering
from sklearn.exceptions import ConvergenceWarning

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

_STARTS = 8  # random ones, beside the spectral one


def inside(damages: Sequence[Array], labels: Sequence[Labels]) -> float:
    """K: what the layers keep, of the sum of all damages."""
    pairs = zip(damages, labels[1:], labels[:-1], strict=True)
    return float(sum(s[rows[:, None] == columns].sum() for s, rows, columns in pairs))


def partition(damages: Sequence[Array], parts: int, seed: int = 0) -> list[Labels]:
    """Labels of the first layer's inputs, and of every layer's outputs; a heuristic, exact where blocks are there.

    Args:
        damages: `s` of each layer of the chain.
        parts: P; it divides every number of units.
        seed: of the starts.

    Raises:
        ValueError: P does not divide a number of units.
    """
    sizes = [damages[0].shape[1], *[len(s) for s in damages]]
    for size in sizes:
        if parts < 1 or size % parts:
            raise ValueError(f"{parts} parts of {size} units would not be equal; give a number that divides {sizes}")
    generator = np.random.default_rng(seed)
    starts = [_balanced(_spectral(damages[0], parts, seed), parts)]
    starts += [generator.permutation(np.arange(sizes[0]) % parts) for _ in range(_STARTS)]
    best, most = None, -1.0
    for first in starts:
        labels = [first]
        for s in damages:
            labels.append(_balanced(s @ np.eye(parts)[labels[-1]], parts))
        labels = _improved(damages, labels, parts)
        if (value := inside(damages, labels)) > most * (1 + 1e-12):
            best, most = labels, value
    assert best is not None
    return best


def _improved(damages: Sequence[Array], labels: list[Labels], parts: int) -> list[Labels]:
    """Assign the units of one place after another, the others fixed, until nothing changes; K never falls."""
    labels, one_hot, value = list(labels), np.eye(parts), inside(damages, labels)
    while True:
        for place in range(len(labels)):
            gain = np.zeros((len(labels[place]), parts))
            if place:
                gain += damages[place - 1] @ one_hot[labels[place - 1]]
            if place < len(damages):
                gain += damages[place].T @ one_hot[labels[place + 1]]
            labels[place] = _balanced(gain, parts)
        found = inside(damages, labels)
        if found <= value * (1 + 1e-12):
            return labels
        value = found


def _balanced(gain: Array, parts: int) -> Labels:
    """Labels `(n,)`, each equally often, with the largest sum of gains `(n, P)`."""
    places = np.repeat(np.arange(parts), len(gain) // parts)
    rows, columns = linear_sum_assignment(-gain[:, places])
    found = np.zeros(len(gain), np.int64)
    found[rows] = places[columns]
    return found


def _spectral(s: Array, parts: int, seed: int) -> Array:
    """`(inputs, P)` 1 where co-clustering puts an input."""
    if parts == 1 or min(s.shape) <= parts:
        return np.zeros((s.shape[1], parts))
    weights = np.sqrt(s)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = SpectralCoclustering(parts, random_state=seed).fit(weights + 1e-6 * max(weights.mean(), 1e-300))
    found: Array = np.eye(parts)[model.column_labels_]
    return found
