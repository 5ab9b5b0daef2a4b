"""A picture of a front, where matplotlib is installed, and the scales of every picture."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Formatter

_FAR = 10.0  # values that differ by a larger factor are drawn on a logarithmic scale


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
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, StrMethodFormatter

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(
        front[costs[0]],
        100 * front["error"],
        yerr=100 * front["error_std"].fillna(0),
        marker="o",
        capsize=2,
        label="validation, in the search",
    )
    if "final_test_error" in front and front["final_test_error"].notna().any():
        done = front[front["final_test_error"].notna()]
        axes.plot(done[costs[0]], 100 * done["final_test_error"].astype(float), "s", label="test, trained to the end")
    drawn = [name for name in ("error", "final_test_error") if name in front]
    errors = [float(error) for name in drawn for error in front[name].dropna()]
    scaled(axes, "x", front[costs[0]].tolist(), EngFormatter())
    scaled(axes, "y", errors, StrMethodFormatter("{x:g}"))
    axes.set(xlabel=costs[0], ylabel="error (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    return True


def wide(values: Sequence[float]) -> bool:
    """Whether values are so far apart that an even scale would show the largest alone."""
    return bool(values) and min(values) > 0 and max(values) > _FAR * min(values)


def scaled(axes: Axes, which: str, values: Sequence[float], form: Formatter) -> None:
    """Set the scale of the `"x"` or `"y"` axis: logarithmic where the values are positive and far apart."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    if wide(values):
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(form)
