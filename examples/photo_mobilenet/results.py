"""How often a network names the class that the full one names, with an interval over the pictures; table and chart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Row = dict[str, Any]


def intervals(answers: Sequence[int], full: Sequence[int], truth: Sequence[int], *, views: int) -> Row:
    """Agreement with the full network, and accuracy on the views whose label is known, each `[share, low, high]`.

    95 % intervals of 10,000 bootstrap draws of pictures, each with all of its views: views of one picture are no
    separate evidence.
    """
    agree = (np.array(answers) == np.array(full)).reshape(-1, views).mean(1)
    right = (np.array(answers) == np.array(truth)).reshape(-1, views).mean(1)
    known = right[np.array(truth).reshape(-1, views)[:, 0] >= 0]
    return {
        "agreement": _bootstrap(agree),
        "accuracy": _bootstrap(known),
        "labelled": len(known),
        "pictures": len(agree),
    }


def _bootstrap(values: np.ndarray) -> list[float]:
    if not len(values):
        return []
    draws = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    return [float(values.mean()), *(float(end) for end in np.quantile(values[draws].mean(1), (0.025, 0.975)))]


def table(rows: Sequence[Row]) -> str:
    """Markdown, the slowest first."""
    lines = [
        "| network | side | million MACs | parameters | ms for 8 | agreement | top-1 of the labelled |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: -row["latency_ms"]):
        lines.append(
            f"| {row['network']} | {row['side']} | {row['macs'] / 1e6:.0f} | {row['params']:,} "
            f"| {row['latency_ms']:.1f} | {_percent(row['agreement'])} | {_percent(row['accuracy'])} |"
        )
    return "\n".join(lines)


def _percent(found: Sequence[float]) -> str:
    return "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * value for value in found)) if found else ""


def chart(trials: pd.DataFrame, rows: Sequence[Row], file: Path) -> None:
    """Agreement against milliseconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    trials = trials[trials["evaluated"]]
    axes.plot(trials["latency_ms"], 100 - 100 * trials["error"], ".", color="0.75", label="trials, validation pictures")
    marks = {"unpruned": ("s", "C7"), "unpruned, trained on": ("^", "C1"), "trial": ("o", "C0")}
    for kind, (mark, colour) in marks.items():
        chosen = [row for row in rows if kind in (row["network"], row["network"].split(" ")[0])]
        found = np.array([row["agreement"] for row in chosen]).reshape(-1, 3).T * 100
        axes.errorbar(
            [row["latency_ms"] for row in chosen],
            found[0],
            yerr=[found[0] - found[1], found[2] - found[0]],
            fmt=mark,
            color=colour,
            capsize=2,
            label={"trial": "found, trained to the end"}.get(kind, kind),
        )
    axes.set(xscale="log", xlabel="milliseconds for 8 images, one core", ylabel="agreement with the full network, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=110)
