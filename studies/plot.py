"""A picture of a front, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

_DECADE = 10  # a front that is wider has a logarithmic axis


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
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

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
    errors = front[drawn].astype(float).stack()
    for values, scale in ((front[costs[0]], axes.set_xscale), (errors, axes.set_yscale)):
        if values.min() > 0 and values.max() > _DECADE * values.min():
            scale("log")  # the good end of a wide front would be a flat line
    for axis, plain in ((axes.xaxis, EngFormatter()), (axes.yaxis, StrMethodFormatter("{x:g}"))):
        axis.set_major_formatter(plain)
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=costs[0], ylabel="error (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    return True
