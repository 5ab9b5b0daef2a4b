"""A chart before it is drawn: marks, scales, limits.

`plot.draw` makes a PNG of it by matplotlib, `pages.figures` a figure of plotly: so a chart is declared once, and looks
alike in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

BLUE, ORANGE, GREEN, RED = "#3f87c6", "#e08a1e", "#2a9d6f", "#d1495b"
GREY, PALE = "#8088908c", "#8088904d"

_FAR = 10.0  # values that differ by a larger factor are drawn on a logarithmic scale


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale:
    """An axis of numbers, logarithmic where its values are positive and far apart.

    Attributes:
        title: beside it.
        values: what is drawn along it, limits included.
        form: how its numbers are written; `"si"` such as 12 k.
        ends: its least and largest number; as the values are when None.
        zero: whether it begins at 0, where it is even and has no `ends`.
    """

    title: str
    values: Sequence[float] = ()
    form: Literal["plain", "si", "percent"] = "plain"
    ends: tuple[float, float] | None = None
    zero: bool = True

    @property
    def log(self) -> bool:
        """Whether an even scale would show the largest value alone."""
        return self.ends is None and wide(self.values)


@dataclass(frozen=True, eq=False, kw_only=True)
class Points:
    """Points, and the line through them.

    Attributes:
        x: a number each; None where it is not known.
        y: a number each.
        name: in the legend.
        colour: of points and line.
        size: of a point, in pixels; no points, only the line when 0.
        shape: of a point.
        edge: colour around a point; its own when empty.
        opacity: of the points.
        line: how they are joined.
        error_x: standard errors.
        error_y: standard errors.
        shades: a number each in place of the colour, such as when it was tried.
        shades_title: what these numbers are.
        hover: what is said of each, whose first line is a title where there are several; nothing when empty.
    """

    x: Sequence[float | None]
    y: Sequence[float]
    name: str = ""
    colour: str = BLUE
    size: float = 8
    shape: Literal["dot", "ring", "diamond"] = "dot"
    edge: str = ""
    opacity: float = 1.0
    line: Literal["", "solid", "dotted", "steps"] = ""
    error_x: Sequence[float] = ()
    error_y: Sequence[float] = ()
    shades: Sequence[float] = ()
    shades_title: str = ""
    hover: Sequence[str] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Bars:
    """Horizontal bars, one a name of the chart.

    Attributes:
        x: how long each is.
        name: in the legend.
        colour: of all, or of each.
        width: of a bar, as a share of its row; where bars stand beside one another, of all together.
        outlined: whether there is a line around each.
        errors: half of the line across the end of each.
        hover: what is said of each.
    """

    x: Sequence[float]
    name: str = ""
    colour: str | Sequence[str] = BLUE
    width: float = 0.8
    outlined: bool = False
    errors: Sequence[float] = ()
    hover: Sequence[str] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Choice:
    """What a menu above the chart may show instead.

    Attributes:
        label: in the menu.
        x: for each mark that changes.
        hover: for each mark that changes; as it is when empty.
        name: of the mark that changes; as it is when empty.
        scale: along x; as it is when None.
        limits: along x; for a choice with a scale.
    """

    label: str
    x: Sequence[Sequence[float | None]]
    hover: Sequence[Sequence[str]] = ()
    name: str = ""
    scale: Scale | None = None
    limits: Sequence[float] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Chart:
    """Marks on two scales, or bars beside names.

    Attributes:
        marks: what is drawn, in this order.
        x: the horizontal scale.
        y: the vertical one; None where bars stand beside names.
        names: of the rows of bars, the first one on top, no two alike.
        title: above it; none when empty.
        limits: budgets along x.
        height: in pixels of a page.
        legend: whether the names of the marks are shown.
        grouped: whether bars of a row stand beside one another, not over one another.
        menu: what its choices are of.
        choices: the first one is what the marks show.
        changing: number of the only mark that choices change; they change all when None.
    """

    marks: Sequence[Points | Bars]
    x: Scale
    y: Scale | None = None
    names: Sequence[str] = ()
    title: str = ""
    limits: Sequence[float] = ()
    height: int = 380
    legend: bool = True
    grouped: bool = False
    menu: str = ""
    choices: Sequence[Choice] = ()
    changing: int | None = None


def wide(values: Sequence[float]) -> bool:
    """Whether values are positive and so far apart that an even scale would show the largest alone."""
    return bool(values) and min(values) > 0 and max(values) > _FAR * min(values)
