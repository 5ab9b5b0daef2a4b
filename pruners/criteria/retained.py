"""How much of all scores a candidate keeps: a proxy for its error that needs no network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...spaces import Candidate, Scores, Space, check_scores

Array = npt.NDArray[np.float64]


def retained(space: Space, scores: Scores, candidates: npt.NDArray[np.int64] | Sequence[Candidate]) -> Array:
    """`(n,)` share of the total score that each candidate keeps; higher is better. No model is built.

    A proxy for candidates from the scores of units, of RANP or any other method. Groups whose channels are made in
    removed blocks alone keep nothing.

    Args:
        space: the traced space.
        scores: of every unit, none below 0.
        candidates: candidates, or `(n, d)` encoded ones.

    Raises:
        ValueError: the scores do not fit the groups, are negative or all 0.
    """
    check_scores(space, scores)
    encoded = candidates if isinstance(candidates, np.ndarray) else space.encode(candidates)
    values = [np.sort(scores[group.name].detach().double().cpu().numpy())[::-1] for group in space.groups]
    total = sum(float(own.sum()) for own in values)
    if any(len(own) and own[-1] < 0 for own in values) or (values and total <= 0):
        raise ValueError("scores are negative or all 0; a share of the total needs scores of at least 0")
    if not values or not len(encoded):
        return np.ones(len(encoded))
    depths = encoded[:, len(space.groups) : len(space.groups) + len(space.stages)]
    kinds, which = np.unique(depths, axis=0, return_inverse=True)
    there = np.array([_present(space, kind.tolist()) for kind in kinds])[which.reshape(-1)]
    kept = np.zeros(len(encoded))
    for number, (group, own) in enumerate(zip(space.groups, values, strict=True)):
        sums = np.concatenate([[0.0], np.cumsum(own)])
        kept += sums[encoded[:, number] // group.unit] * there[:, number]
    return kept / total


def _present(space: Space, depths: Sequence[int]) -> list[bool]:
    gone = tuple(
        f"{name}." for stage, kept in zip(space.stages, depths, strict=True) for name in stage.removed(int(kept))
    )
    return [not gone or not all(f"{name}.".startswith(gone) for name in group.members) for group in space.groups]
