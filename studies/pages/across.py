"""Networks of the front side by side, as parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..exports.chart import BLUE, GREY, ORANGE, RED, Chart, Points, Scale
from ..trials.trial import Trial
from .charts import detail, named
from .facts import Facts
from .words import axis_name, short, unit

COLUMNS, LETTERS = 24, 18  # axes beside one another, and of their names


def kept(study: Facts) -> Chart:
    """Parallel coordinates: how much of the full network the networks of the front keep on every axis, and their error.

    Axes that they all keep whole are left out, and where there are many those that differ least.
    """
    shown = list(reversed(study.shown))
    shares = {trial.number: _shares(study, trial) for trial in shown}
    names = [axis_name(axis.name) for axis in study.axes]
    spans = [(min(column), max(column)) for column in zip(*(shares[trial.number] for trial in shown), strict=True)]
    moved = sorted((n for n, span in enumerate(spans) if span != (1.0, 1.0)), key=lambda n: spans[n][0] - spans[n][1])
    columns = sorted(moved[:COLUMNS])
    costs = [name for name in study.costs if study.full.get(name)]
    ticks = [short(names[n], LETTERS) for n in columns] + [unit(cost) for cost in costs]
    errors = [trial.measures["error"] for trial in shown]
    marks = []
    for trial in shown:
        own = shares[trial.number]
        y = [own[n] for n in columns] + [trial.measures.get(cost, math.nan) / study.full[cost] for cost in costs]
        said = [
            f"{named(trial)}\n{tick}: {share:.0%} of the full network's" for tick, share in zip(ticks, y, strict=True)
        ]
        picked = trial is study.best
        look: dict[str, Any] = {"colour": RED if picked else _between(trial.measures["error"], errors)}
        look |= {"size": 7 if picked else 5, "hover": said, "details": [detail(study, trial)] * len(y)}
        marks.append(Points(x=list(range(len(y))), y=y, line="solid", name=named(trial), **look))
    whole = Points(x=[0, len(ticks) - 1], y=[1.0, 1.0], line="dotted", colour=GREY, size=0, name="full network")
    up = Scale(title="share of the full network", form="percent", ends=(0.0, 1.05))
    return Chart(marks=[whole, *marks], x=Scale(title="", names=ticks), y=up, legend=False, height=460)


def _shares(study: Facts, trial: Trial) -> list[float]:
    """Of the full network, axis by axis; of a resolution its longest side."""
    found = []
    for axis, value in zip(study.axes, trial.candidate, strict=True):
        if axis.kind in ("width", "depth"):
            found.append(value / axis.full if axis.full else 1.0)
        else:
            sides = [max(study.resolutions[one]) for one in (value, axis.full)] if study.resolutions else [1, 1]
            found.append(sides[0] / sides[1])
    return found


def _between(value: float, values: Sequence[float]) -> str:
    """From blue, the lowest of the values, to orange."""
    span = max(values) - min(values)
    share = (value - min(values)) / span if span > 0 else 0.0
    ends = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in (BLUE, ORANGE)]
    return "#" + "".join(f"{round(one + share * (other - one)):02x}" for one, other in zip(*ends, strict=True))
