"""How much of all scores a candidate keeps: a proxy for its error that needs no network; and how well proxies rank.

Start at `proxy_table`: rank correlation of what candidates retain with their measured errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import spearmanr

from ...spaces import Candidate, Scores, Space, check_scores

Array = npt.NDArray[np.float64]

LEAST = 4  # candidates that a correlation is computed from, at least


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


@dataclass(frozen=True, eq=False)
class RankingProxy:
    """From a candidate to the share of a ranking's scores that leaves with what is removed."""

    space: Space
    scores: Scores

    def __call__(self, candidate: Candidate) -> float:
        """The share, 0..1."""
        return 1.0 - float(retained(self.space, self.scores, [candidate])[0])


def proxy_table(
    space: Space,
    rankings: Mapping[str, Scores],
    candidates: Sequence[Candidate],
    errors: Sequence[float],
    costs: Mapping[str, Sequence[float]],
) -> pd.DataFrame:
    """A row a proxy, best first: `proxy`, `correlation` (1: it orders candidates as their errors do), `trials`.

    Args:
        space: the traced space.
        rankings: scores by name; those that are negative somewhere are left out.
        candidates: that were evaluated, at any fidelity.
        errors: theirs.
        costs: theirs by name; proxies too, the ones any other must beat: a larger network is expected to be better.
    """
    encoded = space.encode(candidates)
    proxies = {name: retained(space, scores, encoded) for name, scores in rankings.items() if _usable(scores)}
    proxies |= {name: np.array(values, float) for name, values in costs.items()}
    better = -np.array(errors, float)
    rows = [
        {"proxy": name, "correlation": correlation(values, better), "trials": len(candidates)}
        for name, values in proxies.items()
    ]
    table = pd.DataFrame(rows, columns=["proxy", "correlation", "trials"])
    return table.sort_values("correlation", ascending=False, kind="stable", ignore_index=True)


def known(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a `proxy_table` whose correlation is a number, as plain values."""
    rows: list[dict[str, Any]] = json.loads(table.dropna().to_json(orient="records"))
    return rows


def correlation(left: Array, right: Array) -> float:
    """Spearman's; NaN where there are too few candidates, or all are alike."""
    if len(left) < LEAST or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(spearmanr(left, right).statistic)


def _usable(scores: Scores) -> bool:
    """Whether a share of the total means anything."""
    everything = [float(value) for values in scores.values() for value in _ends(values.tolist())]
    return bool(everything) and min(everything) >= 0 and max(everything) > 0


def _ends(values: Sequence[float]) -> Iterable[float]:
    return (min(values), max(values)) if values else ()


def _present(space: Space, depths: Sequence[int]) -> list[bool]:
    gone = tuple(
        f"{name}." for stage, kept in zip(space.stages, depths, strict=True) for name in stage.removed(int(kept))
    )
    return [not gone or not all(f"{name}.".startswith(gone) for name in group.members) for group in space.groups]
