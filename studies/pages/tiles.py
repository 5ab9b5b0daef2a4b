"""The head of a page: what was found in a few numbers, and what a reader must know of the study first."""

from __future__ import annotations

from collections.abc import Sequence

from ..trials.words import duration
from .facts import Facts
from .words import UNITS, amount, percent


def tiles(study: Facts) -> list[dict[str, str]]:
    """`{"what", "value", "more"}` in the order in which they matter."""
    status, best = study.status, study.best
    found = []
    if best is not None:
        full = "" if study.full_error is None else f"full network {percent(study.full_error)}"
        found.append({"what": "lowest error", "value": percent(best.measures["error"]), "more": full})
        for name in dict.fromkeys((*study.costs, "macs", "params")):
            if name in best.measures:
                share = f"{best.measures[name] / study.full[name]:.0%} of the full" if study.full.get(name) else ""
                found.append({"what": UNITS[name], "value": amount(name, best.measures[name]), "more": share})
    goal = f" of {status.goal}" if status.goal else ""
    failed = f"{status.failed} failed" if status.failed else "none failed"
    found += [
        {"what": "trials", "value": f"{status.told}{goal}", "more": failed if status.told else ""},
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
