"""What a chart shows, before plotly or matplotlib draws it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..trials.trial import Trial
from .facts import Facts
from .learned import corner, growth
from .words import short

AXES = 30  # of which importances are shown
MOST_POINTS = 2000  # trials that a chart shows; of the others every so many
NAME = 34  # letters of a name beside a bar


def curves(studies: Sequence[Facts]) -> list[list[dict[str, Any]]]:
    """The growth of each study's hypervolume, up to one corner, with its `share` of the largest at the end.

    Studies that minimise different things have a corner, and a whole, of their own.
    """
    if not comparable(studies):
        return [line for study in studies for line in curves([study])]
    pooled = [c for study in studies if (c := corner(study.trials, study.objectives, study.limits))]
    worst = [max(column) for column in zip(*pooled, strict=True)] if pooled else []
    found = [growth(study.trials, study.objectives, study.limits, worst) for study in studies]
    most = max((points[-1]["volume"] for points in found if points), default=0.0) or 1.0
    return [[point | {"share": point["volume"] / most} for point in points] for points in found]


def comparable(studies: Sequence[Facts]) -> bool:
    """Whether all of them minimise the same."""
    return all(study.objectives == studies[0].objectives for study in studies)


def share_from(least: float) -> float:
    """Where an axis of shares begins, so that a curve that begins high is seen to grow.

    >>> share_from(0.3), share_from(0.79), share_from(0.0)
    (0.0, 0.75, 0.0)
    """
    return 0.0 if least < 0.5 else int(20 * least) / 20


def width_rows(study: Facts) -> tuple[list[str], list[int], dict[int, list[int]]]:
    """Names in the order of the network, widths of the full network, and of each network shown, by trial.

    Where the layers are not known, these are the axes of the space: channels that are cut together.
    """
    if study.anatomy is not None:
        names = different([short(row["layer"], NAME) for row in study.anatomy.layers])
        by_trial = {trial.number: study.anatomy.widths[trial.number] for trial in study.shown}
        return names, [row["full"] for row in study.anatomy.layers], by_trial
    axes = [(place_, axis) for place_, axis in enumerate(study.axes) if axis.kind == "width"]
    names = different([short(axis.name.partition(":")[2], NAME) for _, axis in axes])
    by_trial = {trial.number: [trial.candidate[i] for i, _ in axes] for trial in study.shown}
    return names, [axis.full for _, axis in axes], by_trial


def thinned(study: Facts) -> list[Trial]:
    """The trials with an error; where there are very many, every so many of those that matter little."""
    scored = study.scored
    if len(scored) <= MOST_POINTS:
        return scored
    step = -(-len(scored) // MOST_POINTS)
    front = study.on_front
    return [t for i, t in enumerate(scored) if i % step == 0 or t.number in front or t.source.startswith("seed:")]


def spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """So many of the rows as a chart shows, evenly."""
    return list(rows[:: max(1, -(-len(rows) // MOST_POINTS))])


def different(names: Sequence[str]) -> list[str]:
    """The names, each once: a chart joins bars of one name."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return found
