"""The page: sections of charts, tables and texts, put into one HTML file that needs nothing else, and their pictures.

At its head are a few numbers, and what a reader must know of the study first.

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
from ..trials.words import duration
from .facts import Facts
from .figures import figure
from .pieces import Section
from .sections import sections
from .words import amount, percent, unit

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


def tiles(study: Facts) -> list[dict[str, str]]:
    """`{"what", "value", "more"}` in the order in which they matter."""
    status, best = study.status, study.best
    found = []
    if best is not None:
        full = "" if study.full_error is None else f"full network {percent(study.full_error)}"
        what = "lowest error" if status.best_expected is None else "error of the best"
        found.append({"what": what, "value": percent(best.measures["error"]), "more": full})
        for name in dict.fromkeys((*study.costs, "macs", "params")):
            if name in best.measures:
                share = f"{best.measures[name] / study.full[name]:.0%} of the full" if study.full.get(name) else ""
                found.append({"what": unit(name), "value": amount(name, best.measures[name]), "more": share})
    if "error" in status.full:
        size = f"{status.full['size']:,} validation examples" if "size" in status.full else ""
        found.append({"what": "full network, as given", "value": percent(status.full["error"]), "more": size})
    goal = f" of {status.goal}" if status.goal else ""
    failed = f"{status.failed} failed" if status.failed else "none failed"
    ended = "" if status.ended is None else f"; ended by {status.ended['by']}"
    found += [
        {"what": "trials", "value": f"{status.told}{goal}", "more": f"{failed}{ended}" if status.told else ""},
        {"what": "front", "value": str(status.front), "more": "networks"},
        {"what": "evaluating", "value": duration(status.seconds), "more": f"sampler {status.sampler}"},
        {"what": "budget", "value": _budget(study), "more": f"fidelity {status.fidelity}"},
    ]
    return found


def _budget(study: Facts) -> str:
    return ", ".join(f"{name} {limit}" for name, limit in study.status.budget.items()) or "none"


def notices(study: Facts) -> list[str]:
    """What a reader must know first."""
    status = study.status
    found = []
    if study.state == "running":
        found.append("The search runs: this page shows how far it was, and can be made again at any time.")
    if study.state == "empty":
        found.append("No trial has ended yet, so there is little to see.")
    if study.state == "stopped":
        found.append(
            f"The search stopped after {status.told} of {status.goal} trials; go on with: secateur resume {status.path}"
        )
    if study.trials and status.told and study.best is None:
        found.append("No trial is within the budget: the front is empty.")
    if status.told and status.failed > status.told / 2:
        found.append("Most trials failed; their reasons are below.")
    return found


def shared_notices(studies: Sequence[Facts]) -> list[str]:
    """What a reader must know of two studies side by side."""
    if len(studies) < 2:
        return []
    one, two = (study.origin["fingerprint"] for study in studies)
    found = []
    for part, said in (("task", "data or split"), ("weights", "weights to start from"), ("space", "spaces")):
        if one.get(part) != two.get(part):
            found.append(f"the {said}")
    if studies[0].objectives != studies[1].objectives:
        found.append("the objectives")
    if studies[0].status.fidelity != studies[1].status.fidelity:
        found.append("the fidelity")
    if not found:
        return []
    return [f"The two studies differ in {', '.join(found)}: compare their numbers with that in mind."]
