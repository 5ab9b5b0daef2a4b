"""The charts of the page as PNG files, by matplotlib: for documents, and where no browser is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, PercentFormatter

from ..exports.plot import scaled, wide
from .facts import Facts
from .rows import AXES, NAME, curves, share_from, thinned, width_rows
from .words import UNITS, axis_name, percent, short

BLUE, ORANGE, GREEN, RED, GREY = "#3f87c6", "#e08a1e", "#2a9d6f", "#d1495b", "#a8b0b8"
_OWN = (BLUE, ORANGE)
_DPI = 130


def pictures(studies: Sequence[Facts]) -> dict[str, bytes]:
    """PNG files by name. Where there are two studies, names of what is shown of the second alone end in `-beside`."""
    found: dict[str, bytes] = {}
    if any(study.scored for study in studies):
        found["front.png"] = _front(studies)
    if any(study.front for study in studies):
        found["hypervolume.png"] = _hypervolume(studies)
    for study, ending in zip(studies, ("", "-beside"), strict=False):
        if study.best is not None:
            found[f"widths{ending}.png"] = _widths(study)
        if study.best is not None and study.anatomy is not None:
            found[f"costs{ending}.png"] = _costs(study)
        if study.foretold:
            found[f"surrogate{ending}.png"] = _surrogate(study)
        if study.proxies:
            found[f"proxies{ending}.png"] = _proxies(study)
        if study.importance["axes"]:
            found[f"importance{ending}.png"] = _importance(study)
    return found


def _front(studies: Sequence[Facts]) -> bytes:
    cost = studies[0].costs[0]
    figure, axes = _single(7.5, 4.8)
    for study, colour in zip(studies, _OWN, strict=False):
        prefix = f"{_plain(study.name)}: " if len(studies) > 1 else ""
        known = [trial for trial in thinned(study) if cost in trial.measures]
        seeds = [trial for trial in known if trial.source.startswith("seed:")]
        rest = [trial for trial in known if not trial.source.startswith("seed:")]
        for inside, name in ((True, "within the budget"), (False, "over the budget")):
            some = [trial for trial in rest if trial.within(study.limits) == inside]
            face = colour if inside else "none"
            if some:
                _dots(axes, some, cost, f"{prefix}{name}", "o", 22, facecolors=face, edgecolors=colour, alpha=0.55)
        if seeds:
            _dots(axes, seeds, cost, f"{prefix}seeds", "D", 48, facecolors=colour, edgecolors=GREEN, linewidths=1.6)
        best = [trial for trial in study.front if cost in trial.measures]
        if best:
            spread = [t.error_std or 0.0 for t in best]
            x, y = [t.measures[cost] for t in best], [t.measures["error"] for t in best]
            line = "-" if len(study.objectives) == 2 else ""
            style: dict[str, Any] = {"marker": "o", "ms": 5, "capsize": 2, "ecolor": GREY, "linestyle": line}
            axes.errorbar(x, y, spread, color=colour, label=f"{prefix}front", **style)
        if study.best is not None and cost in study.best.measures:
            ring = {"facecolors": "none", "edgecolors": RED, "linewidths": 2}
            _dots(axes, [study.best], cost, f"{prefix}picked", "o", 150, **ring)
        if cost in study.limits:
            axes.axvline(study.limits[cost], color=RED, linestyle="--", linewidth=1.2, label=f"{prefix}budget")
    shown = [trial.measures for study in studies for trial in study.scored if cost in trial.measures]
    axes.set(xlabel=UNITS.get(cost, cost), ylabel="error")
    scaled(axes, "x", [one[cost] for one in shown], EngFormatter())
    scaled(axes, "y", [one["error"] for one in shown], _percents())
    if not wide([one[cost] for one in shown]):
        axes.set_xlim(left=0)
    axes.legend(fontsize=8)
    return _png(figure)


def _dots(axes: Axes, trials: Sequence[Any], cost: str, label: str, marker: str, size: float, **style: Any) -> None:
    x, y = [t.measures[cost] for t in trials], [t.measures["error"] for t in trials]
    axes.scatter(x, y, s=size, marker=marker, label=label, zorder=3, **style)


def _hypervolume(studies: Sequence[Facts]) -> bytes:
    figure, axes = _single(7.5, 3.6)
    for study, line, colour in zip(studies, curves(studies), _OWN, strict=False):
        x, y = [point["done"] for point in line], [point["share"] for point in line]
        axes.step(x, y, where="post", color=colour, linewidth=2, label=_plain(study.name))
    least = min((point["share"] for line in curves(studies) for point in line if point["share"] > 0), default=0.0)
    axes.set(xlabel="trials", ylabel="share of the hypervolume", ylim=(share_from(least), 1.01))
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    if len(studies) > 1:
        axes.legend(fontsize=8)
    return _png(figure)


def _widths(study: Facts) -> bytes:
    names, full, by_trial = width_rows(study)
    assert study.best is not None
    figure, axes = _single(7.5, 1.2 + 0.2 * max(len(names), 3))
    rows = range(len(names))
    axes.barh(rows, full, height=0.85, color="#e6e9ec", edgecolor=GREY, label="full")
    said = f"trial {study.best.number}: error {percent(study.best.measures['error'])}"
    axes.barh(rows, by_trial[study.best.number], height=0.55, color=BLUE, label=said)
    axes.set_xlabel("outputs" if study.anatomy is not None else "channels")
    _named(axes, names)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return _png(figure)


def _costs(study: Facts) -> bytes:
    assert study.anatomy is not None and study.best is not None
    quantities = [("macs", "multiply-adds"), ("peak_bytes", "bytes alive at the peak")]
    if study.anatomy.total_ms is not None:
        quantities.append(("ms", "milliseconds"))
    rows = study.anatomy.parts
    figure = Figure(figsize=(11, 1.4 + 0.3 * max(len(rows), 3)), layout="constrained")
    for axes, (quantity, title) in zip(figure.subplots(1, len(quantities), sharey=True), quantities, strict=True):
        for shift, which, colour, label in (
            (-0.2, "full", GREY, "full"),
            (0.2, "picked", BLUE, f"trial {study.best.number}"),
        ):
            values = [row[which].get(quantity, 0.0) for row in rows]
            axes.barh([n + shift for n in range(len(rows))], values, height=0.4, color=colour, label=label)
        axes.set_xlabel(title)
        if quantity != "ms":
            axes.xaxis.set_major_formatter(EngFormatter())
        _named(axes, [short(row["part"], NAME) for row in rows])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    return _png(figure)


def _surrogate(study: Facts) -> bytes:
    figure, axes = _single(5.2, 4.6)
    x, y = [row["predicted"] for row in study.foretold], [row["error"] for row in study.foretold]
    ends = [min(x + y), max(x + y)]
    axes.plot(ends, ends, ":", color=GREY)
    axes.errorbar(x, y, xerr=[row["std"] for row in study.foretold], fmt="none", ecolor=GREY, elinewidth=0.8)
    dots = axes.scatter(x, y, c=[row["trial"] for row in study.foretold], cmap="viridis", s=28, zorder=3)
    figure.colorbar(dots, label="trial")
    axes.set(xlabel="foretold error", ylabel="measured error")
    for which in ("x", "y"):
        scaled(axes, which, x + y, _percents())
    return _png(figure)


def _proxies(study: Facts) -> bytes:
    rows = study.proxies
    figure, axes = _single(6.5, 1.1 + 0.3 * max(len(rows), 2))
    colours = [GREY if row["proxy"] in ("macs", "params") else BLUE for row in rows]
    axes.barh(range(len(rows)), [row["correlation"] for row in rows], color=colours)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="rank correlation with the errors", xlim=(-1, 1))
    _named(axes, [short(row["proxy"], NAME) for row in rows])
    return _png(figure)


def _importance(study: Facts) -> bytes:
    rows = study.importance["axes"][:AXES]
    figure, axes = _single(6.5, 1.1 + 0.3 * max(len(rows), 2))
    clear = [row["rise"] - 2 * row["std"] > 0 for row in rows]
    axes.barh(
        range(len(rows)),
        [100 * row["rise"] for row in rows],
        xerr=[200 * row["std"] for row in rows],
        color=[BLUE if one else "#d5dade" for one in clear],
        ecolor=GREY,
        capsize=2,
    )
    axes.set_xlabel("places of 100")
    _named(axes, [short(axis_name(row["axis"]), NAME) for row in rows])
    return _png(figure)


def _single(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _percents() -> Formatter:
    return FuncFormatter(lambda value, _: f"{100 * value:g}%")


def _named(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _plain(text: str) -> str:
    """The text without a formula: matplotlib reads one between dollar signs."""
    return text.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()
