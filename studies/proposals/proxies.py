"""Do rankings predict errors? Rank correlation of what a candidate retains of all scores with its measured error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import spearmanr

from ...pruners import retained
from ...spaces import Candidate, Scores, Space
from ..trials.trial import Trial

Array = npt.NDArray[np.float64]

LEAST = 4  # trials that a correlation is computed from, at least


@dataclass(frozen=True, eq=False)
class RankingProxy:
    """From a candidate to the share of a ranking's scores that leaves with what is removed."""

    space: Space
    scores: Scores

    def __call__(self, candidate: Candidate) -> float:
        """The share, 0..1."""
        return 1.0 - float(retained(self.space, self.scores, self.space.encode([candidate]))[0])


def proxy_table(trials: Sequence[Trial], space: Space, rankings: Mapping[str, Scores]) -> pd.DataFrame:
    """A row a proxy, best first: `proxy`, `correlation` (1: it orders the trials as their errors do), `trials`.

    Costs are proxies too, the ones any other must beat: a larger network is expected to be better.

    Args:
        trials: of a study; those that were evaluated count, at any fidelity.
        space: the traced space.
        rankings: scores by name, none of them negative.
    """
    scored = [trial for trial in trials if trial.scored]
    error = np.array([trial.measures["error"] for trial in scored])
    encoded = space.encode([trial.candidate for trial in scored])
    proxies = {name: retained(space, scores, encoded) for name, scores in rankings.items() if _usable(scores)}
    proxies |= {name: np.array([trial.costs[name] for trial in scored]) for name in ("macs", "params")}
    rows = [
        {"proxy": name, "correlation": _correlation(values, -error), "trials": len(scored)}
        for name, values in proxies.items()
    ]
    table = pd.DataFrame(rows, columns=["proxy", "correlation", "trials"])
    return table.sort_values("correlation", ascending=False, kind="stable", ignore_index=True)


def known(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows whose correlation is a number, as plain values."""
    rows: list[dict[str, Any]] = json.loads(table.dropna().to_json(orient="records"))
    return rows


def _usable(scores: Scores) -> bool:
    """Whether a share of the total means anything."""
    everything = [float(value) for values in scores.values() for value in _ends(values.tolist())]
    return bool(everything) and min(everything) >= 0 and max(everything) > 0


def _ends(values: Sequence[float]) -> Iterable[float]:
    return (min(values), max(values)) if values else ()


def _correlation(left: Array, right: Array) -> float:
    """Spearman's; NaN where there are too few trials, or all are alike."""
    if len(left) < LEAST or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(spearmanr(left, right).statistic)
