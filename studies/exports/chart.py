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
    """An axis of numbers: its title, and the values drawn along it, limits included.

    It is logarithmic where the values are positive and far apart. Where it is even and has no `ends`, it begins at 0 if
    `zero` is true. Numbers are written in a `form`: `"si"` such as 12 k; where there are `names`, 0, 1, 2 are written
    as these.
    """

    title: str
    values: Sequence[float] = ()
    form: Literal["plain", "si", "percent"] = "plain"
    ends: tuple[float, float] | None = None
    zero: bool = True
    names: Sequence[str] = ()

    @property
    def log(self) -> bool:
        """Whether an even scale would show the largest value alone."""
        return self.ends is None and wide(self.values)


@dataclass(frozen=True, eq=False, kw_only=True)
class Points:
    """Points, and the line through them where there is a `line`; None among `x` where a number is not known.

    Points are `size` pixels large, none are drawn when 0; `edge` is the colour around them. `shades`, a number each
    such as when it was tried, take the place of the colour. `hover` is what is said of each: lines, the first of which
    is a title; nothing when empty. Errors are standard errors. `details` is what a page tells of each when it is asked.
    """

    x: Sequence[float | None]
    y: Sequence[float]
    name: str = ""
    colour: str = BLUE
    size: float = 8
    shape: Literal["dot", "ring", "diamond", "star"] = "dot"
    edge: str = ""
    opacity: float = 1.0
    line: Literal["", "solid", "dotted", "steps"] = ""
    error_x: Sequence[float] = ()
    error_y: Sequence[float] = ()
    shades: Sequence[float] = ()
    shades_title: str = ""
    hover: Sequence[str] = ()
    details: Sequence[str] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Bars:
    """Horizontal bars of length `x`, one a name of the chart, with a colour for all or one each.

    `width` is a share of the row, where bars stand beside one another that of all together; `errors` are half of the
    line across a bar's end.
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
    """What a menu above the chart may show instead: `x` and `hover` of each mark that changes, its name, the scale.

    What is empty stays as it is; limits come with a scale.
    """

    label: str
    x: Sequence[Sequence[float | None]]
    hover: Sequence[Sequence[str]] = ()
    name: str = ""
    scale: Scale | None = None
    limits: Sequence[float] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Chart:
    """Marks, drawn in this order on two scales, or bars beside names.

    Attributes:
        marks: of which the names are in a `legend`.
        x: the horizontal scale.
        y: the vertical one; None where bars stand beside `names`.
        names: of the rows of bars, the first one on top, no two alike.
        title: above it; none when empty.
        limits: budgets along x.
        height: in pixels of a page.
        legend: whether there is one.
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
