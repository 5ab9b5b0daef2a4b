"""The page: sections of charts, tables and texts, put into one HTML file that needs nothing else, and their pictures.

Everything that a study says (names, reasons, its file) is escaped, by Jinja in the page and by `figures` in the charts.
The page names the digests of its three scripts, so that a browser runs no other, and it may load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ... import __version__
from ..exports.plot import draw
from .facts import Facts
from .figures import figure
from .pieces import Section
from .sections import sections
from .tiles import notices, shared_notices, tiles

GENERATOR = "secateur report"
_HERE = Path(__file__).parent


def page(studies: Sequence[Facts]) -> str:
    """The HTML of one study, or of two side by side."""
    shown = sections(studies)
    figures = {
        _id(section, n, m): figure(chart)
        for section in shown
        for n, block in enumerate(section.blocks)
        for m, chart in enumerate(block.charts)
    }
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
        id_of=_id,
        version=__version__,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        figures=Markup(json.dumps(figures, allow_nan=False).replace("<", "\\u003c")),
        script_hashes=Markup(" ".join(f"'sha256-{_digest(text)}'" for text in scripts.values())),
        **{name: Markup(text) for name, text in scripts.items()},
    )


def pictures(studies: Sequence[Facts]) -> dict[str, bytes]:
    """The charts of every section as PNG, by name; what is shown of the second study alone is `NAME-beside.png`."""
    return {
        f"{section.id}{'-beside' if n else ''}.png": draw(block.charts)
        for section in sections(studies)
        for n, block in enumerate(section.blocks)
        if block.charts
    }


def _id(section: Section, block: int, chart: int) -> str:
    return f"{section.id}-{block}" + (f"-{chart}" if chart else "")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
