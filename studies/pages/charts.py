"""The charts of the page, by plotly. Their twins for PNG files are in `pictures.py`.

A chart is a plotly figure without colours of its own for text and grid: the page gives those, light or dark. What a
study's names say is escaped, because plotly reads texts as HTML. In `layout.meta` stand the choices of a menu above the
chart, if there is one: `{"menu": title, "trace": number, "choices": [{"label", "x", "name", "layout"}]}`, where `x`
is a list a trace, or of the one trace that is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from plotly import graph_objects as go

from ..trials.trial import Trial
from .facts import Facts
from .figures import BLUE, GREEN, GREY, OWN, PALE, RED, bars_of, figure_of, hover, scale, whiskers
from .rows import AXES, NAME, curves, different, share_from, spread, thinned, width_rows
from .words import UNITS, amount, axis_name, in_chart, number, percent, short


def front(studies: Sequence[Facts]) -> go.Figure:
    """Every trial, the front, the seeds and the limits; errors against a cost, by a menu where there are several."""
    figure = figure_of(height=460)
    drawn: list[Sequence[Trial]] = []
    for study, colour in zip(studies, OWN, strict=False):
        for name, trials, marker, joined in _groups(study, colour):
            if trials:
                drawn.append(trials)
                _dots(figure, study, trials, (f"{study.name}: " if len(studies) > 1 else "") + name, marker, joined)
    costs = dict.fromkeys(cost for study in studies for cost in study.costs)
    choices = [
        {
            "label": UNITS.get(cost, cost),
            "x": [[trial.measures.get(cost) for trial in trials] for trials in drawn],
            "layout": _cost_axis(studies, cost),
        }
        for cost in costs
    ]
    for trace, x in zip(figure.data, choices[0]["x"], strict=True):
        trace.x = x
    errors = [trial.measures["error"] for study in studies for trial in study.scored]
    figure.update_yaxes(title_text="error", **scale(errors, percent=True))
    return figure.update_layout(choices[0]["layout"], meta={"menu": "cost", "choices": choices})


Group = tuple[str, Sequence[Trial], dict[str, Any], str | None]
"""A name, the trials, their marker, and the colour of the line that joins them if one does."""


def _groups(study: Facts, colour: str) -> Iterator[Group]:
    kept, on_front = thinned(study), study.on_front
    planted = [trial for trial in kept if trial.source.startswith("seed:")]
    rest = [trial for trial in kept if trial.number not in on_front and not trial.source.startswith("seed:")]
    plain = {"size": 7, "color": colour, "opacity": 0.45}
    yield "within the budget", [trial for trial in rest if trial.within(study.limits)], plain, None
    open_ring = {"size": 7, "color": colour, "symbol": "circle-open", "opacity": 0.6}
    yield "over the budget", [trial for trial in rest if not trial.within(study.limits)], open_ring, None
    yield (
        "seeds",
        planted,
        {"size": 11, "color": colour, "symbol": "diamond", "line": {"width": 1.5, "color": GREEN}},
        None,
    )
    joined = colour if len(study.objectives) == 2 else None  # a front of three dimensions is no line
    yield "front", study.front, {"size": 8, "color": colour}, joined
    ring = {"size": 17, "color": RED, "symbol": "circle-open", "line": {"width": 2.5}}
    yield "picked", [] if study.best is None else [study.best], ring, None


def _cost_axis(studies: Sequence[Facts], cost: str) -> dict[str, Any]:
    """The layout of the horizontal axis for a cost, with its limits."""
    values = [trial.measures[cost] for study in studies for trial in study.scored if cost in trial.measures]
    limits = dict.fromkeys(study.limits[cost] for study in studies if cost in study.limits)
    axis = {"title": {"text": UNITS.get(cost, in_chart(cost)), "standoff": 8}, **scale([*values, *limits])}
    line = {"color": RED, "width": 1.5, "dash": "dash"}
    return {
        "xaxis": axis,
        "shapes": [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line} for x in limits],
        "annotations": [
            {
                "x": math.log10(x) if axis.get("type") == "log" else x,  # of all that is drawn, annotations alone
                "y": 1,
                "yref": "paper",
                "text": f"budget {number(x)}",
                "textangle": -90,
                "showarrow": False,
                "xanchor": "left",
                "yanchor": "top",
            }
            for x in limits
        ],
    }


def hypervolume(studies: Sequence[Facts]) -> go.Figure:
    """How much of all that was found was found when: over trials, and by a menu over time."""
    figure = figure_of()
    lines = curves(studies)
    choices = []
    for key, title in (("done", "trials"), ("busy", "seconds of evaluation"), ("seconds", "seconds since the start")):
        if all(point[key] is not None for line in lines for point in line):
            axis = {"title": {"text": title, "standoff": 8}, "rangemode": "tozero"}
            xs = [[point[key] for point in line] for line in lines]
            choices.append({"label": title, "x": xs, "layout": {"xaxis": axis}})
    for study, line, colour in zip(studies, lines, OWN, strict=False):
        figure.add_scatter(
            x=[point["done"] for point in line],
            y=[point["share"] for point in line],
            mode="lines+markers",
            line={"shape": "hv", "color": colour, "width": 2.5},
            marker={"size": 5},
            name=in_chart(study.name),
            text=[f"trial {point['trial']}, after {point['done']}: {point['share']:.1%}" for point in line],
            hovertemplate="%{text}<extra></extra>",
        )
    least = min((point["share"] for line in lines for point in line if point["share"] > 0), default=0.0)
    figure.update_xaxes(title_text="trials", rangemode="tozero")
    figure.update_yaxes(title_text="share of the hypervolume", tickformat=".3~%", range=[share_from(least), 1.01])
    figure.update_layout(showlegend=len(studies) > 1, meta={"menu": "over", "choices": choices})
    return figure


def widths(study: Facts) -> go.Figure:
    """Outputs of every layer, of the full network and of a smaller one that a menu chooses."""
    raw, full, by_trial = width_rows(study)
    names = [in_chart(name) for name in raw]
    first = study.shown[0].number
    figure = bars_of(names, len(names))
    figure.add_bar(
        y=names,
        x=full,
        orientation="h",
        name="full",
        marker={"color": PALE, "line": {"color": GREY, "width": 1}},
        width=0.85,
        hovertemplate="%{y}: %{x} in the full network<extra></extra>",
    )
    figure.add_bar(
        y=names,
        x=by_trial[first],
        orientation="h",
        name=f"trial {first}",
        marker={"color": BLUE},
        width=0.55,
        customdata=full,
        hovertemplate="%{y}: %{x} of %{customdata}<extra></extra>",
    )
    choices = [
        {
            "label": f"trial {trial.number}: error {percent(trial.measures['error'])}, {_cost(study, trial)}",
            "x": [by_trial[trial.number]],
            "name": f"trial {trial.number}",
        }
        for trial in study.shown
    ]
    figure.update_layout(barmode="overlay", meta={"menu": "network", "trace": 1, "choices": choices})
    figure.update_xaxes(title_text="outputs" if study.anatomy is not None else "channels", rangemode="tozero")
    return figure


def parts(study: Facts, quantity: str, title: str) -> go.Figure:
    """Where a quantity is in the full network and in the picked one."""
    assert study.anatomy is not None and study.best is not None
    rows = study.anatomy.parts
    names = [in_chart(name) for name in different([short(row["part"], NAME) for row in rows])]
    figure = bars_of(names, len(names), each=26)
    for which, name, colour in (("full", "full", GREY), ("picked", f"trial {study.best.number}", BLUE)):
        figure.add_bar(
            y=names,
            x=[row[which].get(quantity, 0.0) for row in rows],
            orientation="h",
            name=name,
            marker={"color": colour},
            customdata=[amount(quantity, row[which].get(quantity, 0.0)) for row in rows],
            hovertemplate="%{y}: %{customdata}<extra>" + name + "</extra>",
        )
    figure.update_layout(barmode="group", bargap=0.25, bargroupgap=0)
    figure.update_xaxes(title_text=title)
    return figure


def foresight(study: Facts) -> go.Figure:
    """Errors as they were foretold, against those measured."""
    rows = spread(study.foretold)
    ends = [f(row[key] for row in rows for key in ("predicted", "error")) for f in (min, max)]
    figure = figure_of()
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot"}, hoverinfo="skip", name="")
    figure.add_scatter(
        x=[row["predicted"] for row in rows],
        y=[row["error"] for row in rows],
        error_x={"array": [row["std"] for row in rows], "thickness": 1, "width": 0, "color": GREY},
        mode="markers",
        marker={
            "size": 8,
            "color": [row["trial"] for row in rows],
            "colorscale": "Viridis",
            "showscale": True,
            "colorbar": {"title": {"text": "trial"}, "thickness": 10, "outlinewidth": 0},
        },
        text=[
            f"trial {row['trial']:.0f}: foretold {percent(row['predicted'])} ± {100 * row['std']:.2f}, "
            f"measured {percent(row['error'])}"
            for row in rows
        ],
        hovertemplate="%{text}<extra></extra>",
        name="trials",
    )
    both = scale([row[key] for row in rows for key in ("predicted", "error")], percent=True)
    figure.update_xaxes(title_text="foretold error", **both)
    figure.update_yaxes(title_text="measured error", **both)
    figure.update_layout(showlegend=False)
    return figure


def cross_validated(study: Facts) -> go.Figure:
    """The error of the sampler's model on trials it was not fitted to, as the search went on."""
    rows = spread([row for row in study.models if isinstance(row.get("rmse"), int | float)])
    figure = figure_of()
    for key, name, colour in (("rmse", "the model", BLUE), ("mean_rmse", "the mean error alone", GREY)):
        known = [row for row in rows if isinstance(row.get(key), int | float)]
        figure.add_scatter(
            x=[row["trial"] for row in known],
            y=[row[key] for row in known],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 4},
            name=name,
            hovertemplate="before trial %{x}: %{y:.2%}<extra>" + name + "</extra>",
        )
    figure.update_xaxes(title_text="trial")
    figure.update_yaxes(title_text="cross-validated error", tickformat=".1%", rangemode="tozero")
    return figure


def proxies(study: Facts) -> go.Figure:
    """Rank correlation of what a ranking or a cost foretells with the measured errors."""
    rows = study.proxies
    names = [in_chart(name) for name in different([short(row["proxy"], NAME) for row in rows])]
    figure = bars_of(names, len(names), each=26)
    figure.add_bar(
        y=names,
        x=[row["correlation"] for row in rows],
        orientation="h",
        marker={"color": [GREY if row["proxy"] in ("macs", "params") else BLUE for row in rows]},
        customdata=[row["trials"] for row in rows],
        hovertemplate="%{y}: %{x:.2f} over %{customdata} trials<extra></extra>",
    )
    figure.update_xaxes(title_text="rank correlation", range=[-1, 1], zeroline=True)
    figure.update_layout(showlegend=False)
    return figure


def importance(study: Facts) -> go.Figure:
    """By how many places of 100 trials are ordered worse where an axis is shuffled."""
    rows = study.importance["axes"][:AXES]
    names = [in_chart(name) for name in different([short(axis_name(row["axis"]), NAME) for row in rows])]
    figure = bars_of(names, len(names), each=26)
    clear = [row["rise"] - 2 * row["std"] > 0 for row in rows]
    figure.add_bar(
        y=names,
        x=[100 * row["rise"] for row in rows],
        error_x={"array": [200 * row["std"] for row in rows], "thickness": 1.2, "width": 3, "color": GREY},
        orientation="h",
        marker={"color": [BLUE if one else PALE for one in clear]},
        hovertemplate="%{y}: %{x:.2f} places of 100<extra></extra>",
    )
    figure.update_xaxes(title_text="places of 100")
    figure.update_layout(showlegend=False)
    return figure


def _dots(
    figure: go.Figure, study: Facts, trials: Sequence[Trial], name: str, marker: dict[str, Any], joined: str | None
) -> None:
    spread = [trial.error_std or 0.0 for trial in trials]
    figure.add_scatter(
        y=[trial.measures["error"] for trial in trials],
        mode="markers" if joined is None else "lines+markers",
        marker=marker,
        name=in_chart(name),
        text=[hover(study, trial) for trial in trials],
        hovertemplate="%{text}<extra></extra>",
        error_y=whiskers(spread) if name.endswith("front") else None,
        line=None if joined is None else {"color": joined, "width": 2},
    )


def _cost(study: Facts, trial: Trial) -> str:
    """The first cost, with its name where it has no unit."""
    name = study.costs[0]
    said = amount(name, trial.measures.get(name))
    return f"{said} {UNITS[name]}" if name in ("macs", "params") else said
