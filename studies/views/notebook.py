"""A front, and a study, as a notebook's cell shows them: the front as a picture, and as a table."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

import pandas as pd

from ...spaces import Axis
from ..trials.folder import read_study_json
from ..trials.front import front_table, on_front
from ..trials.trial import Trial
from ..trials.words import count, percent
from .status import Status
from .text import status_text

_WIDE, _HIGH, _LEFT, _LOW, _EDGE = 520, 220, 56, 34, 12  # pixels
_BLUE = "#3f87c6"


@final
class Front(pd.DataFrame):
    """The table of a front, which a notebook shows below its picture; whatever is made of it is a plain table."""

    _metadata = ["cost", "full"]  # pandas (3.1) keeps these beside the columns
    cost: str
    full: Mapping[str, float]

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    @classmethod
    def of(cls, table: pd.DataFrame, objectives: Sequence[str], found: Mapping[str, Any]) -> Front:
        """A table as `front_table` gives it, of a study with these objectives and this study.json."""
        front = cls(table)
        front.cost = next((name for name in objectives if name != "error" and name in table), "")
        front.full = {**found["full_costs"], **found.get("full", {})}
        return front

    def _repr_html_(self) -> str:
        return f"<div>{picture(self)}{pd.DataFrame(self).to_html(index=False, max_rows=20)}</div>"


def front_of(
    path: Path, trials: Sequence[Trial], axes: Sequence[Axis], objectives: Sequence[str], limits: Mapping[str, float]
) -> Front:
    """The front of the study in a folder, of its trials as they are known; see `Study.front`."""
    table = front_table(on_front(trials, objectives, limits), axes)
    return Front.of(table, objectives, read_study_json(path, to_write=False))


class Looked(Protocol):
    """A study, or a look at one."""

    def front(self) -> pd.DataFrame:
        """Its front."""

    def status(self) -> Status:
        """Where it stands."""


def study_html(study: Looked) -> str:
    """Where a study stands, and its front."""
    front, status = study.front(), study.status()
    shown = front._repr_html_() if isinstance(front, Front) else ""
    return f"<div><b>{html.escape(status.path)}</b><pre>{html.escape(status_text(status))}</pre>{shown}</div>"


def picture(front: Front) -> str:
    """Error against the first cost, as SVG whose text has the page's colour; the full network is a ring."""
    if front.empty or not front.cost:
        return ""
    x, y = [float(one) for one in front[front.cost]], [float(one) for one in front["error"]]
    full, whole = front.full.get("error"), front.full.get(front.cost)
    ring = [] if full is None or whole is None else [(whole, full)]
    low, high = _ends([*x, *(cost for cost, _ in ring)])
    best, worst = _ends([*y, *(error for _, error in ring)])

    def place(cost: float, error: float) -> tuple[float, float]:
        across = _LEFT + (cost - low) / (high - low) * (_WIDE - _LEFT - _EDGE)
        return across, _EDGE + (worst - error) / (worst - best) * (_HIGH - _LOW - _EDGE)

    points = [place(cost, error) for cost, error in zip(x, y, strict=True)]
    line = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
    marks = [f'<polyline points="{line}" fill="none" stroke="{_BLUE}" stroke-width="1.5"/>']
    for (across, down), number, cost, error in zip(points, front["trial"], x, y, strict=True):
        said = f"<title>trial {number}: error {percent(error)}, {front.cost} {count(cost)}</title>"
        marks.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{_BLUE}">{said}</circle>')
    for cost, error in ring:
        across, down = place(cost, error)
        said = f"<title>full network: error {percent(error)}, {front.cost} {count(cost)}</title>"
        style = 'r="5" fill="none" stroke="currentColor" stroke-width="1.5"'
        marks.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" {style}>{said}</circle>')
    ticks = [(low, best), ((low + high) / 2, (best + worst) / 2), (high, worst)]
    text = 'font-size="11" fill="currentColor"'
    for cost, error in ticks:
        across, down = place(cost, error)
        marks.append(f'<text x="{across:.1f}" y="{_HIGH - _LOW + 16}" text-anchor="middle" {text}>{count(cost)}</text>')
        marks.append(f'<text x="{_LEFT - 8}" y="{down + 4:.1f}" text-anchor="end" {text}>{percent(error)}</text>')
    title = f"error against {front.cost}" + ("; ring: the full network" if ring else "")
    marks.append(f'<text x="{(_LEFT + _WIDE) / 2:.0f}" y="{_HIGH - 3}" text-anchor="middle" {text}>{title}</text>')
    axes = f'd="M{_LEFT} {_EDGE}V{_HIGH - _LOW}H{_WIDE - _EDGE}" fill="none" stroke="currentColor" opacity=".4"'
    style = f'style="max-width:{_WIDE}px;width:100%"'
    return f'<svg viewBox="0 0 {_WIDE} {_HIGH}" {style}><path {axes}/>{"".join(marks)}</svg>'


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5 * abs(low) - 1e-3, high + 0.5 * abs(high) + 1e-3)
