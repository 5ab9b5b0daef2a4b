"""What a reader is told to do: which network to take at which budget, what to try next, and what not to trust."""

from __future__ import annotations

import math
import shlex
from itertools import pairwise

from ..trials.trial import Trial
from ..trials.words import percent
from .facts import Facts
from .learned import corner, growth
from .words import unit

_SHARES = (0.75, 0.5, 0.25, 0.1)  # of the full network's cost, for which a network is named
_LAST = 0.8  # of the trials: what is found after them says whether more would find more
_GROWS = 0.01  # of the hypervolume, by which a search that has not ended grows in its last fifth


def advice(study: Facts) -> list[str]:
    """Three lines or fewer; nothing where there is no front."""
    if study.best is None:
        return []
    return [line for line in (_take(study, study.best), _next(study, study.best), _doubt(study)) if line]


def _take(study: Facts, best: Trial) -> str:
    cost = study.costs[0]
    hoped = study.status.best_expected
    lowest = "has the lowest error" if hoped is None else f"is expected to have the lowest error, {percent(hoped)}"
    measured = f"{'' if hoped is None else 'measured '}{_error(best)}"
    said = [f"Take: trial {best.number} {lowest}, {measured}{_share(study, best, cost)}."]
    alike = cheapest_alike(study, best)
    if alike is not best:
        said.append(
            f"Trial {alike.number} ({_error(alike)}{_share(study, alike, cost)}) is within one standard error of it, "
            "so it is the one to take where cost counts at all."
        )
    named, seen = [], {best.number, alike.number}
    for share in _SHARES:
        fit = [trial for trial in study.front if _ratio(study, trial, cost) <= share]
        one = min(fit, key=lambda trial: trial.measures["error"], default=None)
        if one is not None and one.number not in seen:
            seen.add(one.number)
            named.append(f"at most {share:.0%} trial {one.number} ({_error(one)})")
    if named:
        said.append(f"For {', '.join(named)} of the full network's {unit(cost)}.")
    return " ".join(said)


def _next(study: Facts, best: Trial) -> str:
    said = []
    if not study.tested:
        folder = shlex.quote(study.status.path)
        said.append(
            f"Next: secateur export {folder} --to OUT --pick {cheapest_alike(study, best).number} trains it to the end "
            "and measures its test error."
        )
    grown = late_growth(study)
    if grown is not None:
        before = "" if said else "Next: "
        more = "more trials are likely to find better ones" if grown > _GROWS else "more of them would change little"
        said.append(
            f"{before}{percent(grown)} of the front's hypervolume came in the last fifth of the trials: {more}."
        )
    return " ".join(said)


def _doubt(study: Facts) -> str:
    said = []
    if study.status.fidelity != "long":
        said.append(
            f"the errors of the search, which are of networks that were trained little or not ({study.status.fidelity})"
        )
    pairs = [(one, other) for one, other in pairwise(study.front) if one.error_std and other.error_std]
    close = sum(_apart(one, other) <= math.hypot(one.error_std or 0, other.error_std or 0) for one, other in pairs)
    if close:
        said.append(
            f"the order of neighbours on the front, {close} of {len(pairs)} of which are as good within the doubt"
        )
    off = [
        found["test_error"] - trial.measures["error"]
        for trial in study.trials
        if trial.scored and (found := study.tested.get(trial.number)) and "test_error" in found
    ]
    if off:
        mean = 100 * sum(off) / len(off)
        said.append(
            f"the search's errors for those of the export: test errors of the {len(off)} exported are {mean:+.2f} "
            "points off on the mean"
        )
    return f"Don't trust: {'; '.join(said)}." if said else ""


def cheapest_alike(study: Facts, best: Trial) -> Trial:
    """The cheapest network of the front within one standard error of the best one."""
    cost, least = study.costs[0], best.measures["error"]
    alike = [trial for trial in study.front if trial.measures["error"] - least <= (best.error_std or 0.0)]
    return min(alike, key=lambda trial: (trial.measures.get(cost, math.inf), trial.measures["error"]), default=best)


def late_growth(study: Facts) -> float | None:
    """The share of the hypervolume that the last fifth of the trials brought; None where there are few."""
    worst = corner(study.trials, study.objectives, study.limits)
    points = growth(study.trials, study.objectives, study.limits, worst)
    if not points or points[-1]["done"] < 20 or points[-1]["volume"] <= 0:
        return None
    early = [point["volume"] for point in points if point["done"] <= _LAST * points[-1]["done"]]
    return 1 - float(max(early, default=0.0)) / float(points[-1]["volume"])


def _apart(one: Trial, other: Trial) -> float:
    return abs(one.measures["error"] - other.measures["error"])


def _error(trial: Trial) -> str:
    doubt = "" if trial.error_std is None else f" ± {100 * trial.error_std:.2f}"
    return f"{percent(trial.measures['error'])}{doubt}"


def _ratio(study: Facts, trial: Trial, cost: str) -> float:
    full = study.full.get(cost)
    return trial.measures[cost] / full if full and cost in trial.measures else math.inf


def _share(study: Facts, trial: Trial, cost: str) -> str:
    share = _ratio(study, trial, cost)
    return "" if math.isinf(share) else f" at {share:.0%} of the full network's {unit(cost)}"
