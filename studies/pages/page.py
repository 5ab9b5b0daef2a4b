"""The page: sections of charts, tables and texts, put into one HTML file that needs nothing else.

Everything that a study says (names, reasons, its file) is escaped, by Jinja in the page and by `charts` in the figures.
The page names the digests of its three scripts, so that a browser runs no other, and it may load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from ... import __version__
from .facts import Facts
from .pieces import Section
from .sections import sections
from .tiles import notices, shared_notices, tiles

GENERATOR = "secateur report"
_HERE = Path(__file__).parent


def page(studies: Sequence[Facts]) -> str:
    """The HTML of one study, or of two side by side."""
    figures: dict[str, Any] = {}
    shown = [_numbered(section, figures) for section in sections(studies)]
    scripts = {"plotly": get_plotlyjs(), "script": (_HERE / "page.js").read_text(encoding="utf-8")}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        generator=GENERATOR,
        title=" beside ".join(study.name for study in studies),
        studies=[{"name": s.name, "notices": notices(s), "tiles": tiles(s)} for s in studies],
        notices=shared_notices(studies),
        sections=shown,
        version=__version__,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        figures=Markup(json.dumps(figures).replace("<", "\\u003c")),
        script_hashes=Markup(" ".join(f"'sha256-{_digest(text)}'" for text in scripts.values())),
        **{name: Markup(text) for name, text in scripts.items()},
    )


def _numbered(section: Section, figures: dict[str, Any]) -> Section:
    """Put the section's figures into `figures`, each under the id of its place."""
    for block in section.blocks:
        for chart in block.charts:
            figures[chart.id] = _plain(chart.figure)
    return section


def _plain(figure: go.Figure) -> dict[str, Any]:
    """A figure as JSON; the names beside its bars with the room they take, because a narrow screen has less."""
    found = {"figure": json.loads(figure.to_json())}
    if figure.layout.yaxis.type == "category":
        found |= {"names": list(figure.data[0].y), "left": figure.layout.margin.l}
    return found


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
