"""Charts as figures of plotly, in plain values: what `page.js` draws, and what its menus change.

A figure has no colours of its own for text and grid: the page gives those, light or dark. What a study's names say is
escaped, because plotly reads texts as HTML, and as formulas between dollar signs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from ..exports.chart import GREY, RED, Bars, Chart, Points, Scale
from ..trials.words import count

_FORMS = {"plain": "", "si": "~s", "percent": ".3~%"}
_SHAPES = {"dot": "circle", "ring": "circle-open", "diamond": "diamond", "star": "star"}
_LINES = {"solid": {}, "dotted": {"dash": "dot"}, "steps": {"shape": "hv"}}
_MANY = 1000  # times the least value, from where on a logarithmic axis has a label for each power of ten only
_NAME = 34  # letters of a name that have room beside a bar


def figure(chart: Chart) -> dict[str, Any]:
    """`{"figure": {"data", "layout"}, "names" and "left" (those beside bars, and their pixels), "details", "menu"}`.

    Details are texts, one a point of each trace, which the page writes as text.

    A menu is `{"title", "trace", "choices"}`; each choice has a label, and what it changes: of all traces, or of the
    one whose number `trace` is.
    """
    names = [in_chart(name) for name in chart.names]
    left = 64 if chart.y is not None else 20 + 7 * min(_NAME, max((len(name) for name in names), default=4))
    rows = {"autorange": "reversed", "type": "category", "dtick": 1, "tickfont": {"size": 11}}
    layout = {
        "height": chart.height,
        "margin": {"l": left, "r": 16, "t": 16, "b": 56},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "hoverlabel": {"align": "left"},
        "hovermode": "closest",
        "showlegend": chart.legend,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "barmode": "group" if chart.grouped else "overlay",
        "bargap": 0.25,
        "yaxis": rows if chart.y is None else _axis(chart.y),
        **_along(chart.x, chart.limits),
    }
    data = [_bars(mark, names, chart.grouped) if isinstance(mark, Bars) else _points(mark) for mark in chart.marks]
    found: dict[str, Any] = {"figure": {"data": data, "layout": layout}}
    if chart.y is None:
        found |= {"names": names, "left": left}
    details = [list(mark.details) if isinstance(mark, Points) else [] for mark in chart.marks]
    if any(details):
        found["details"] = details
    if len(chart.choices) > 1:
        found["menu"] = {"title": chart.menu, "trace": chart.changing, "choices": _choices(chart)}
    return found


def in_chart(text: str) -> str:
    """Text that plotly shows as it is.

    >>> in_chart("<b>$x$")
    '&lt;b&gt;&#36;x&#36;'
    """
    return escape(text).replace("$", "&#36;")


def _choices(chart: Chart) -> list[dict[str, Any]]:
    found = []
    for choice in chart.choices:
        traces: dict[str, Any] = {"x": [_numbers(x) for x in choice.x]}
        traces |= {"text": [_hover(texts) for texts in choice.hover]} if choice.hover else {}
        traces |= {"name": in_chart(choice.name)} if choice.name else {}
        layout = {} if choice.scale is None else _along(choice.scale, choice.limits)
        found.append({"label": choice.label, "traces": traces, "layout": layout})
    return found


def _along(scale: Scale, limits: Sequence[float]) -> dict[str, Any]:
    """The horizontal axis, with its limits."""
    line = {"color": RED, "width": 1.5, "dash": "dash"}
    label = {"yref": "paper", "y": 1, "textangle": -90, "showarrow": False, "xanchor": "left", "yanchor": "top"}
    return {
        "xaxis": _axis(scale),
        "shapes": [
            {"type": "line", "x0": limit, "x1": limit, "y0": 0, "y1": 1, "yref": "paper", "line": line}
            for limit in limits
        ],
        "annotations": [  # of all that is drawn, these alone take logarithms
            {**label, "x": math.log10(limit) if scale.log else limit, "text": f"budget {count(limit)}"}
            for limit in limits
        ],
    }


def _axis(scale: Scale) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": in_chart(scale.title), "standoff": 8}, "tickformat": _FORMS[scale.form]}
    if scale.names:
        named = {"tickvals": list(range(len(scale.names))), "ticktext": [in_chart(name) for name in scale.names]}
        return axis | {"tickmode": "array", **named, "tickangle": -90, "tickfont": {"size": 11}, "automargin": True}
    if scale.ends is not None:
        return axis | {"range": list(scale.ends)}
    if scale.log:
        least, most = min(scale.values), max(scale.values)
        ends = [math.log10(least) - 0.1, math.log10(most) + 0.1]
        return axis | {"type": "log", "range": ends, "dtick": "D2" if most < _MANY * least else 1}
    return axis | ({"rangemode": "tozero"} if scale.zero else {})


def _points(mark: Points) -> dict[str, Any]:
    edge = {"color": mark.edge or mark.colour, "width": mark.size / 8 if mark.edge or mark.shape == "ring" else 0}
    marker: dict[str, Any] = {"size": mark.size, "symbol": _SHAPES[mark.shape], "opacity": mark.opacity, "line": edge}
    if mark.shades:
        bar = {"title": {"text": mark.shades_title}, "thickness": 10, "outlinewidth": 0}
        marker |= {"color": list(mark.shades), "colorscale": "Viridis", "showscale": True, "colorbar": bar}
    else:
        marker["color"] = mark.colour
    trace: dict[str, Any] = {
        "type": "scatter",
        "x": _numbers(mark.x),
        "y": _numbers(mark.y),
        "mode": "+".join(["lines"] * bool(mark.line) + ["markers"] * bool(mark.size)),
        "marker": marker,
        **_said(mark),
    }
    if mark.line:
        trace["line"] = {"color": mark.colour, "width": 2, **_LINES[mark.line]}
    for name, spread in (("error_x", mark.error_x), ("error_y", mark.error_y)):
        if spread:
            trace[name] = {"array": _numbers(spread), "thickness": 1, "width": 2, "color": GREY}
    return trace


def _bars(mark: Bars, names: Sequence[str], grouped: bool) -> dict[str, Any]:
    colour = mark.colour if isinstance(mark.colour, str) else list(mark.colour)
    trace: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "y": list(names),
        "x": _numbers(mark.x),
        "marker": {"color": colour, "line": {"color": GREY, "width": int(mark.outlined)}},
        **_said(mark),
    }
    if not grouped:
        trace["width"] = mark.width
    if mark.errors:
        trace["error_x"] = {"array": _numbers(mark.errors), "thickness": 1.2, "width": 3, "color": GREY}
    return trace


def _said(mark: Points | Bars) -> dict[str, Any]:
    found: dict[str, Any] = {"name": in_chart(mark.name)}
    if not mark.hover:
        return found | {"hoverinfo": "skip"}
    return found | {"text": _hover(mark.hover), "hovertemplate": "%{text}<extra></extra>", "textposition": "none"}


def _hover(texts: Sequence[str]) -> list[str]:
    found = []
    for first, *others in (in_chart(text).split("\n") for text in texts):
        found.append("<br>".join([f"<b>{first}</b>", *others]) if others else first)
    return found


def _numbers(values: Sequence[float | None]) -> list[float | None]:
    """As JSON knows them."""
    return [None if value is None or not math.isfinite(value) else value for value in values]
