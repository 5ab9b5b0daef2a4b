"""What stands on the page, in order: each section says in a sentence what it shows, and in one what it can't say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..trials.trial import Skipped, Stopped, Trial
from ..views.status import verdict
from . import charts
from .across import kept
from .advice import advice
from .anatomy import QUANTITIES
from .charts import AXES, comparable
from .facts import DERIVED, Facts
from .pieces import Block, Section, Table, Text
from .words import amount, percent, place, unit


def sections(studies: Sequence[Facts]) -> list[Section]:
    """All sections of a report."""
    take, *others = (_each(studies, *one) for one in _EACH)
    return [_front(studies), take, _hypervolume(studies), *others]


def _each(studies: Sequence[Facts], id: str, title: str, said: str, block: Callable[[Facts], Block]) -> Section:
    """A section with a block for each study."""
    several = len(studies) > 1
    return Section(id, title, said, [replace(block(study), name=study.name if several else "") for study in studies])


# --- of both studies together -----------------------------------------------------------------------------------------


def _front(studies: Sequence[Facts]) -> Section:
    said = (
        "Every trial by its error and its cost. The front, in full colour and with standard errors, is what no other "
        "trial beats within the budget; a line joins it where two things are minimised. Errors are those of the "
        "search, at its fidelity; an export trains further, and its test error is a green diamond. Click on a point "
        "for what it is made of and where its files are."
    )
    made = [charts.front(studies)] if any(study.scored for study in studies) else []
    names = [study.name if len(studies) > 1 else "trial" for study in studies]
    tables = [_front_table(study, name) for study, name in zip(studies, names, strict=True) if study.front]
    unknown = () if made else ["No trial has an error yet."]
    return Section("front", "The front", said, [Block(said=unknown, charts=made, tables=tables)])


def _front_table(study: Facts, name: str) -> Table:
    costs = [
        cost
        for cost in dict.fromkeys((*study.full, "latency_ms"))
        if cost not in DERIVED and any(cost in trial.measures for trial in study.front)
    ]
    rows = []
    for trial in study.front:
        doubt = "" if trial.error_std is None else f" ± {100 * trial.error_std:.2f}"
        shown = [_with_share(study, cost, trial) for cost in costs]
        rows.append(
            [str(trial.number), percent(trial.measures["error"]) + doubt, *shown, place(study, trial), trial.source]
        )
    heads = [name, "error", *(unit(cost) for cost in costs), "blocks and resolution", "source"]
    return Table(heads, rows, frozenset(i for i, trial in enumerate(study.front) if trial is study.best))


def _with_share(study: Facts, name: str, trial: Trial) -> str:
    if name not in trial.measures:
        return "–"
    said = amount(name, trial.measures[name])
    return f"{said} ({trial.measures[name] / study.full[name]:.0%})" if study.full.get(name) else said


def _hypervolume(studies: Sequence[Facts]) -> Section:
    said = (
        "The part of the space of errors and costs that the front dominates, as a share of what it was in the end: a "
        "search whose line still climbs at the end was ended early."
    )
    if len(studies) > 1 and comparable(studies):
        said += " Both are measured up to one corner, so the higher line is the better front."
    block = Block(said=["No trial is within the budget yet."])
    if any(study.front for study in studies):
        block = Block(charts=[charts.hypervolume(studies)])
    return Section("hypervolume", "How the search went", said, [block])


# --- of one study -----------------------------------------------------------------------------------------------------


def _widths(study: Facts) -> Block:
    if not study.shown:
        return Block(said=["No network is picked yet."])
    said = []
    if study.anatomy is None:
        said.append(f"Layers are not known here ({study.no_anatomy}), so each bar is a group of channels cut together.")
    depth = [axis for axis in study.axes if axis.kind == "depth"]
    heads = ["trial", "error", *(f"blocks of {axis.name.partition(':')[2]}" for axis in depth)]
    rows = [["full", percent(study.full_error), *(str(axis.full) for axis in depth)]]
    for trial in study.shown:
        kept = [
            f"{value} of {axis.full}"
            for axis, value in zip(study.axes, trial.candidate, strict=True)
            if axis.kind == "depth"
        ]
        rows.append([str(trial.number), percent(trial.measures["error"]), *kept])
    tables = [Table(heads, rows, frozenset({1}))] if depth else []
    return Block(said=said, charts=[charts.widths(study)], tables=tables)


def _kept(study: Facts) -> Block:
    if not study.shown:
        return Block(said=["No network is picked yet."])
    return Block(charts=[kept(study)])


def _costs(study: Facts) -> Block:
    if study.anatomy is None:
        return Block(said=[f"Not known: {study.no_anatomy}."])
    if study.best is None:
        return Block(said=["No network is picked yet."])
    made = [charts.parts(study, name, unit(name), title.capitalize()) for name, title in QUANTITIES.items()]
    said = []
    if study.anatomy.total_ms is not None:
        made.append(charts.parts(study, "ms", "milliseconds", "Milliseconds"))
        full, picked = study.anatomy.total_ms
        said.append(
            f"Milliseconds: {study.anatomy.timed}; {full:.3g} ms the full network, {picked:.3g} ms trial "
            f"{study.best.number}. Every layer is waited for, so look at the shares."
        )
    elif study.anatomy.timed:
        said.append(f"Milliseconds: {study.anatomy.timed}.")
    return Block(said=said, charts=made)


def _surrogate(study: Facts) -> Block:
    made, said = [], []
    found = study.status.foresight
    if study.predicted:
        made.append(charts.foresight(study))
        said += [verdict(found)] if verdict(found) else []
    if any(isinstance(row.get("rmse"), int | float) for row in study.models):
        made.append(charts.cross_validated(study))
    if known := [row for row in study.models if isinstance(row.get("r2"), int | float) and "transform" in row]:
        last = known[-1]
        fitted = "errors" if last["transform"] == "identity" else f"{last['transform']} of the errors"
        said.append(
            f"It was fitted to the {fitted}. Where it foresaw trials left out no better than their mean does, the "
            "search went by the mean."
        )
    if not made:
        said.append(f"The sampler {study.status.sampler} predicted no errors so far.")
    return Block(said=said, charts=made)


def _proxies(study: Facts) -> Block:
    if not study.proxies:
        return Block(said=["There are too few trials with different errors."])
    said = []
    if not any(row["proxy"] not in ("macs", "params") for row in study.proxies):
        said.append("Rankings are held against the errors at the end of a run; so far there are the costs alone.")
    return Block(said=said, charts=[charts.proxies(study)])


def _importance(study: Facts) -> Block:
    found = study.importance
    if not found["axes"]:
        return Block(said=[f"Not told: {found['reason']}."])
    said = [f"{found['trials']} trials; the forest predicts {found['explained']:.0%} of the variance of unseen ranks."]
    more = len(found["axes"]) - AXES
    if more > 0:
        said.append(f"{more} axes with a smaller part are left out.")
    return Block(said=said, charts=[charts.importance(study)])


def _seeds(study: Facts) -> Block:
    planted = [trial for trial in study.trials if trial.told and trial.source.startswith("seed:")]
    if not planted:
        return Block(said=["No seed was evaluated."])
    worth, said = study.status.seeds, []
    if worth and worth["best_error"] is not None:
        line = f"{worth['seeds']} seeds are within the budget, the best with an error of {percent(worth['best_error'])}"
        since = worth["best_error_since"]
        said.append(line + ("." if since is None else f"; {percent(since)} was found since."))
    if worth and worth["share"] is not None:
        said.append(f"The seeds' own front has {worth['share']:.0%} of the hypervolume of the whole front.")
    cost, on_front, rows = study.costs[0], study.on_front, []
    for trial in planted:
        error = percent(trial.measures.get("error")) if trial.scored else "–"
        where = "front" if trial.number in on_front else "within" if trial.within(study.limits) else "over the budget"
        rows.append([trial.source.partition(":")[2], str(trial.number), error, _with_share(study, cost, trial), where])
    return Block(said=said, tables=[Table(["seed", "trial", "error", unit(cost), "budget"], rows)])


def _failures(study: Facts) -> Block:
    status = study.status
    said = []
    if status.skipped:
        reasons = [t.reason for t in study.trials if t.told and isinstance(t.outcome, Skipped | Stopped)]
        example = reasons[-1] if reasons else ""
        said.append(f"{status.skipped} trials were not trained{f', such as: {example}' if example else ''}.")
    if not status.failures:
        return Block(said=[*said, "No trial failed."])
    rows = []
    for row in status.failures:
        more = "… " if row.count > len(row.trials) else ""
        rows.append([str(row.count), more + ", ".join(map(str, row.trials)), row.reason])
    return Block(said=said, tables=[Table(["times", "trials", "reason of the newest"], rows)])


def _again(study: Facts) -> Block:
    origin = study.origin
    said, texts = [], []
    if origin["command"] is not None:
        said.append("Beside the study file below, with whatever it names (network, data, checkpoint):")
        texts += [Text(origin["command"]), Text(origin["file"], "study.toml")]
    else:
        said.append("The study was made in Python: call Study.create with these settings, and run as many trials.")
    text = json.dumps(origin["settings"], indent=2)
    texts.append(Text(text, "settings", open=origin["command"] is None))
    texts.append(Text(json.dumps(origin["fingerprint"], indent=2), "fingerprint"))
    made_with = origin["made_with"] or {}
    names = list(dict.fromkeys([*made_with, *origin["versions"]]))
    rows = [[name, str(made_with.get(name, "not noted")), origin["versions"].get(name, "–")] for name in names]
    marks = ["model", "weights", "space", "task"]
    digests = [str(origin["fingerprint"].get(name, "–"))[:16] for name in marks]
    tables = [Table(marks, [digests]), Table(["", "study begun with", "page made with"], rows)]
    return Block(said=said, tables=tables, texts=texts)


def _take(study: Facts) -> Block:
    return Block(said=advice(study) or ["Nothing yet: no network is within the budget."])


_EACH: tuple[tuple[str, str, str, Callable[[Facts], Block]], ...] = (
    (
        "take",
        "What to take",
        "Reckoned from the trials alone: what to take at which cost, what to do next, and what not to trust.",
        _take,
    ),
    (
        "widths",
        "Width of every layer",
        "How many outputs of each layer stay, in the order of the network; bars in the background are the full "
        "network's. A layer without a bar is in a block that was dropped.",
        _widths,
    ),
    (
        "kept",
        "The front side by side",
        "Each line is a network of the front, blue for the lowest error to orange, the picked one in red: what "
        "it keeps of the full network, the dotted line, on the axes that are not whole in all of them.",
        _kept,
    ),
    (
        "costs",
        "Where the costs are",
        "What each part of the network costs, before and after. Multiply-adds and bytes are counted; milliseconds "
        "are measured when the page is made.",
        _costs,
    ),
    (
        "surrogate",
        "How well errors were predicted",
        "Samplers that model the error say what they expect of a proposal before it is tried. Points near the "
        "dotted line were predicted well; a model that is no better than the mean error taught the search nothing.",
        _surrogate,
    ),
    (
        "proxies",
        "What predicts errors without training",
        "Rank correlation of what a method's scores retain, and of the costs, with the measured errors: 1 orders "
        "networks as their errors do, 0 is chance. A method that does no better than the costs adds nothing.",
        _proxies,
    ),
    (
        "importance",
        "Which axes mattered",
        "By how many places of 100 a random forest orders trials worse where one axis is shuffled among those that "
        "it has not seen; lines span two standard errors over five folds, pale bars may be chance. "
        "It speaks of the networks tried, and axes that the budget moves together share what is theirs.",
        _importance,
    ),
    (
        "seeds",
        "What the seeds were worth",
        "Seeds are the networks tried first, before the sampler proposes any.",
        _seeds,
    ),
    ("failures", "Failures", "Trials that gave no error, and why.", _failures),
    ("again", "To make it again", "Command, study file, versions and fingerprint.", _again),
)
"""Of each study: what a section is called by, its title, what it shows, and what makes its block."""
