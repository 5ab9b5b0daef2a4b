"""What the charts of a page have in common: colours, an empty figure, scales, and what is said of a trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from plotly import graph_objects as go

from ..exports.plot import wide
from ..trials.trial import Trial
from .facts import Facts
from .rows import NAME
from .words import UNITS, amount, in_chart, percent, place

BLUE, ORANGE, GREEN, RED = "#3f87c6", "#e08a1e", "#2a9d6f", "#d1495b"
GREY, PALE = "rgba(128,136,144,0.55)", "rgba(128,136,144,0.30)"
OWN = (BLUE, ORANGE)  # of the first study and of the one beside it
_HEIGHT = 380
_MANY = 1000  # times the least value, from where on a logarithmic axis has a label for each power of ten only


def whiskers(spread: Sequence[float]) -> dict[str, Any]:
    """Thin bars of standard errors."""
    return {"array": list(spread), "thickness": 1, "width": 2, "color": GREY}


def hover(study: Facts, trial: Trial) -> str:
    """All that is known of a trial, line by line."""
    spread = "" if trial.error_std is None else f" ± {100 * trial.error_std:.2f}"
    lines = [
        f"<b>trial {trial.number}</b> ({in_chart(trial.candidate.key)}), {in_chart(trial.source)}",
        f"error {percent(trial.measures['error'])}{spread}, {in_chart(trial.fidelity)}",
    ]
    if trial.predicted is not None:
        off = 100 * (trial.measures["error"] - trial.predicted["error"])
        doubt = f" ± {100 * trial.predicted['std']:.2f}" if trial.predicted.get("std") is not None else ""
        lines.append(f"foretold {percent(trial.predicted['error'])}{doubt}: off by {off:+.2f} points")
    for name in ("macs", "params", "peak_bytes", "latency_ms"):
        if name in trial.measures:
            share = f" ({trial.measures[name] / study.full[name]:.0%})" if study.full.get(name) else ""
            lines.append(f"{UNITS[name]}: {amount(name, trial.measures[name])}{share}")
    said = place(study, trial)
    return "<br>".join([*lines, in_chart(said)] if said else lines)


def figure_of(height: int = _HEIGHT) -> go.Figure:
    """An empty figure; the page gives texts and grid their colours."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 16, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
    )
    figure.update_xaxes(title_standoff=8)
    figure.update_yaxes(title_standoff=8)
    return figure


def scale(values: Sequence[float], percent: bool = False) -> dict[str, Any]:
    """An axis: logarithmic where the values are positive and far apart."""
    form = {"tickformat": ".2~%"} if percent else {}
    if wide(values):
        ends = [math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1]
        ticks = {"dtick": "D2"} if max(values) < _MANY * min(values) else {"dtick": 1}
        return {"type": "log", "range": ends, "tickformat": "~s", **ticks, **form}
    return form if percent else {"rangemode": "tozero"}


def bars_of(names: Sequence[str], rows: int, each: int = 17) -> go.Figure:
    """An empty figure for horizontal bars, the first name on top.

    Args:
        names: beside the bars.
        rows: how many there are.
        each: pixels that one takes.
    """
    figure = figure_of(height=110 + each * max(rows, 3))
    left = 20 + 7 * min(NAME, max((len(name) for name in names), default=4))
    figure.update_layout(margin={"l": left, "r": 16, "t": 16, "b": 56})
    figure.update_yaxes(autorange="reversed", type="category", dtick=1, tickfont={"size": 11})
    return figure
