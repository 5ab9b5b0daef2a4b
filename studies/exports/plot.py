"""Charts as PNG, where matplotlib is installed: for documents, and where no browser is."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..trials.words import count
from .chart import GREEN, GREY, RED, Bars, Chart, Points, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Formatter

_DPI = 130
_WHISKERS: dict[str, Any] = {"ecolor": "#707880", "capsize": 2}
_WIDTH_IN, _WIDTHS_IN = 7.5, 5.2  # of a chart alone, and of each of several
_SHARED_IN = 3.3  # of each where they share the names of bars
_PIXELS_IN = 100  # of a page's chart, in an inch of the picture
_POINTS = 0.7  # of a picture, for a pixel of a marker
_SHAPES = {"dot": "o", "ring": "o", "diamond": "D", "star": "*"}
_LINES = {"": "none", "solid": "-", "dotted": ":", "steps": "-"}


def plot_front(path: Path, front: pd.DataFrame, objectives: Sequence[str]) -> bool:
    """Draw a front as a PNG; false, and nothing written, without matplotlib or a cost to draw against.

    Args:
        path: the file.
        front: as `Study.front` gives it; `final_test_error` is drawn too where the column is there.
        objectives: of the study; the first cost among them is the horizontal axis.
    """
    costs = [name for name in objectives if name != "error"]
    if not costs or find_spec("matplotlib") is None or front.empty:
        return False
    x, errors = front[costs[0]].tolist(), front["error"].tolist()
    spread = front["error_std"].fillna(0).tolist()
    marks = [Points(x=x, y=errors, error_y=spread, line="solid", name="validation, in the search")]
    if "final_test_error" in front and front["final_test_error"].notna().any():
        done = front[front["final_test_error"].notna()]
        tested = done["final_test_error"].astype(float).tolist()
        name = "test, trained to the end"
        marks.append(Points(x=done[costs[0]].tolist(), y=tested, colour=GREEN, shape="diamond", name=name))
        errors = errors + tested
    along = Scale(title=costs[0], values=x, form="si", zero=False)
    path.write_bytes(
        draw([Chart(marks=marks, x=along, y=Scale(title="error", values=errors, form="percent", zero=False))])
    )
    return True


def draw(charts: Sequence[Chart]) -> bytes:
    """Charts side by side as one PNG; bars beside names share the names, and the legend."""
    from matplotlib.figure import Figure

    shared = len(charts) > 1 and all(chart.y is None for chart in charts)
    width = _WIDTH_IN if len(charts) == 1 else len(charts) * _WIDTHS_IN if not shared else 1 + len(charts) * _SHARED_IN
    height = max(chart.height for chart in charts) / _PIXELS_IN + 0.25 * any(chart.title for chart in charts)
    figure = Figure(figsize=(width, height), layout="constrained")
    (places,) = figure.subplots(1, len(charts), sharey=shared, squeeze=False)
    for chart, axes in zip(charts, places, strict=True):
        _draw(chart, axes, figure)
    if charts[0].legend and charts[0].y is None:
        handles, names = places[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def _draw(chart: Chart, axes: Axes, figure: Figure) -> None:
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25)
    axes.set_title(_plain(chart.title), fontsize=10)
    for number, mark in enumerate(chart.marks):
        if isinstance(mark, Bars):
            _bars(mark, axes, chart, number)
        else:
            _points(mark, axes, figure)
    _scaled(axes, "x", chart.x)
    if chart.y is not None:
        _scaled(axes, "y", chart.y)
        if chart.legend and any(mark.name for mark in chart.marks):
            axes.legend(fontsize=8)
    else:
        axes.set_yticks(range(len(chart.names)), [_plain(name) for name in chart.names], fontsize=8)
        axes.set_ylim(len(chart.names) - 0.4, -0.6)
    for limit in chart.limits:
        axes.axvline(limit, color=RED, linestyle="--", linewidth=1.2)
        place: dict[str, Any] = {
            "transform": axes.get_xaxis_transform(),
            "rotation": 90,
            "va": "top",
            "ha": "left",
            "fontsize": 8,
        }
        axes.text(limit, 0.98, f" budget {count(limit)}", **place)


def _points(mark: Points, axes: Axes, figure: Figure) -> None:
    x = [math.nan if value is None else value for value in mark.x]
    style: dict[str, Any] = {"color": mark.colour, "linestyle": _LINES[mark.line]}
    if mark.line == "steps":
        style |= {"drawstyle": "steps-post", "linewidth": 2}
    if mark.shades:
        size = (_POINTS * mark.size) ** 2
        dots = axes.scatter(x, mark.y, c=mark.shades, cmap="viridis", s=size, zorder=3)
        figure.colorbar(dots, ax=axes, label=mark.shades_title)
    elif mark.size:
        edge = mark.edge or (mark.colour if mark.shape == "ring" else "none")
        style |= {"marker": _SHAPES[mark.shape], "markersize": _POINTS * mark.size, "markeredgecolor": edge}
        style |= {"markerfacecolor": "none" if mark.shape == "ring" else mark.colour}
        style |= {"markeredgewidth": max(1.0, mark.size / 9), "alpha": mark.opacity}
    if not mark.shades:
        axes.plot(x, mark.y, label=_plain(mark.name) or None, **style)
    if mark.error_x or mark.error_y:
        spread = {"xerr": mark.error_x or None, "yerr": mark.error_y or None, "elinewidth": 1, **_WHISKERS}
        axes.errorbar(x, mark.y, fmt="none", **spread)


def _bars(mark: Bars, axes: Axes, chart: Chart, number: int) -> None:
    together = len(chart.marks) if chart.grouped else 1
    shift = mark.width * ((number + 0.5) / together - 0.5) if chart.grouped else 0.0
    places = [row + shift for row in range(len(mark.x))]
    colour = mark.colour if isinstance(mark.colour, str) else list(mark.colour)
    style: dict[str, Any] = {"edgecolor": GREY} if mark.outlined else {}
    style |= {"xerr": mark.errors, **_WHISKERS} if mark.errors else {}
    axes.barh(places, mark.x, mark.width / together, color=colour, label=_plain(mark.name), **style)


def _scaled(axes: Axes, which: str, scale: Scale) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    if scale.names:
        axis.set_ticks(range(len(scale.names)), [_plain(name) for name in scale.names], rotation=90, fontsize=8)
        return
    axes.set(**{f"{which}label": scale.title})
    if scale.log:
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    elif scale.ends is not None:
        axes.set(**{f"{which}lim": scale.ends})
    elif scale.zero and (axes.dataLim.x0 if which == "x" else axes.dataLim.y0) >= 0:
        axes.set(**{f"{which}lim": (0, None)})
    if (form := _form(scale)) is not None:
        axis.set_major_formatter(form)


def _form(scale: Scale) -> Formatter | None:
    from matplotlib.ticker import EngFormatter, FuncFormatter

    if scale.form == "percent":
        return FuncFormatter(lambda value, _: f"{100 * value:.3g}%")
    return EngFormatter() if scale.form == "si" else None


def _plain(text: str) -> str:
    """The text without a formula: matplotlib reads one between dollar signs."""
    return text.replace("$", r"\$")
