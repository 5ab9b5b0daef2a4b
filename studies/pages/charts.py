"""The charts of a report: of facts, what is drawn. `figures.py` draws them on the page, `exports/plot.py` as PNG."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...spaces import Axis
from ..exports.chart import BLUE, GREEN, GREY, ORANGE, PALE, RED, Bars, Chart, Choice, Points, Scale
from ..trials.trial import Trial
from .facts import Facts
from .learned import corner, growth
from .words import amount, axis_name, percent, place, short, side, unit

OWN = (BLUE, ORANGE)  # of the first study and of the one beside it

Group = tuple[Sequence[Mapping[str, float]], dict[str, Any]]
"""What was measured of networks, and their points."""
AXES = 30  # of which importances are shown
MOST_DETAILS = 300  # trials that a page can tell all of on request
MOST_POINTS = 2000  # trials that a chart shows; of the others every so many
NAME = 34  # letters of a name beside a bar


def front(studies: Sequence[Facts]) -> Chart:
    """Every trial, the front, the seeds and the limits; errors against a cost, by a menu where there are several.

    Test errors of the exported networks and the full network too.
    """
    drawn: list[Group] = []
    for study, colour in zip(studies, OWN, strict=False):
        before = f"{study.name}: " if len(studies) > 1 else ""
        for trials, look in _groups(study, colour):
            if trials:
                said = {"hover": [hover(study, trial) for trial in trials], "details": _details(study, trials)}
                errors = {"y": [trial.measures["error"] for trial in trials]}
                measures = [trial.measures for trial in trials]
                drawn.append((measures, errors | said | look | {"name": before + look["name"]}))
        drawn += [(group, look | {"name": f"{before}full network"}) for group, look in _full(study)]
    choices = []
    for cost in dict.fromkeys(cost for study in studies for cost in study.costs):
        limits = list(dict.fromkeys(study.limits[cost] for study in studies if cost in study.limits))
        values = [measures[cost] for group, _ in drawn for measures in group if cost in measures]
        scale = Scale(title=unit(cost), values=[*values, *limits], form="si")
        x = [[measures.get(cost) for measures in group] for group, _ in drawn]
        choices.append(Choice(label=unit(cost), x=x, scale=scale, limits=limits))
    marks = [Points(x=x, **look) for (_, look), x in zip(drawn, choices[0].x, strict=True)]
    shown = [error for _, look in drawn for error in look["y"]]
    return Chart(
        marks=marks,
        x=choices[0].scale or Scale(title=""),
        y=Scale(title="error", values=shown, form="percent", zero=False),
        limits=choices[0].limits,
        height=460,
        menu="cost",
        choices=choices,
    )


def _groups(study: Facts, colour: str) -> Iterator[tuple[Sequence[Trial], dict[str, Any]]]:
    kept, on_front = thinned(study), study.on_front
    planted = [trial for trial in kept if trial.source.startswith("seed:")]
    rest = [trial for trial in kept if trial.number not in on_front and not trial.source.startswith("seed:")]
    inside = [trial for trial in rest if trial.within(study.limits)]
    outside = [trial for trial in rest if not trial.within(study.limits)]
    yield inside, {"name": "within the budget", "colour": colour, "size": 7, "opacity": 0.45}
    yield outside, {"name": "over the budget", "colour": colour, "size": 7, "opacity": 0.6, "shape": "ring"}
    yield planted, {"name": "seeds", "colour": colour, "size": 11, "shape": "diamond", "edge": GREEN}
    spread_ = [trial.error_std or 0.0 for trial in study.front]
    joined = "solid" if len(study.objectives) == 2 else ""  # a front of three dimensions is no line
    yield study.front, {"name": "front", "colour": colour, "line": joined, "error_y": spread_}
    best = [] if study.best is None else [study.best]
    yield best, {"name": "picked", "colour": RED, "size": 17, "shape": "ring"}
    tested = [trial for trial in study.scored if "test_error" in study.tested.get(trial.number, {})]
    figures = [study.tested[trial.number] for trial in tested]
    look = {"name": "test error, exported", "colour": GREEN, "size": 10, "shape": "diamond", "line": ""}
    spread_ = [found.get("test_error_std") or 0.0 for found in figures]
    yield tested, look | {"y": [found["test_error"] for found in figures], "error_y": spread_}


def _full(study: Facts) -> Iterator[Group]:
    """The full network, as it was tried or else as it was given."""
    error = study.full_error if study.full_error is not None else study.status.full.get("error")
    if error is not None:
        said = [
            f"full network\nerror {percent(error)}",
            *(f"{unit(c)}: {amount(c, study.full.get(c))}" for c in study.costs),
        ]
        yield [study.full], {"y": [error], "hover": ["\n".join(said)], "colour": GREY, "size": 16, "shape": "star"}


def _details(study: Facts, trials: Sequence[Trial]) -> list[str]:
    """What each trial is made of, and its files; of a long study only the front, the seeds and what was exported."""
    some = study.on_front | set(study.tested) | {trial.number for trial in study.trials if trial.source[:5] == "seed:"}
    every = len(study.scored) <= MOST_DETAILS
    return [detail(study, trial) if every or trial.number in some else "" for trial in trials]


def detail(study: Facts, trial: Trial) -> str:
    """What a trial is, line by line: measures, files and configuration."""
    lines = [f"trial {trial.number} ({trial.candidate.key}) of {study.name}, {trial.source}"]
    lines += [
        f"{unit(name)} {amount(name, value) if name != 'error' else percent(value)}"
        for name, value in trial.measures.items()
    ]
    if found := study.tested.get(trial.number):
        tested = f", test error {percent(found['test_error'])}" if "test_error" in found else ""
        lines += [f"trained for {found.get('epochs')} epochs{tested}", f"files: {study.status.path}/{found['kept']}"]
    else:
        lines.append(
            f"files: none yet; secateur export {shlex.quote(study.status.path)} --to OUT --pick {trial.number}"
        )
    pairs = zip(study.axes, trial.candidate, strict=True)
    lines += ["", *(f"{axis_name(axis.name)}: {_kept(study, axis, value)}" for axis, value in pairs)]
    return "\n".join(lines)


def _kept(study: Facts, axis: Axis, value: int) -> str:
    return f"{value} of {axis.full}" if axis.kind in ("width", "depth") else side(study, value)


def hover(study: Facts, trial: Trial) -> str:
    """All that is known of a trial, line by line."""
    doubt = "" if trial.error_std is None else f" ± {100 * trial.error_std:.2f}"
    lines = [
        f"trial {trial.number} ({trial.candidate.key}), {trial.source}",
        f"error {percent(trial.measures['error'])}{doubt}, {trial.fidelity}",
    ]
    if trial.predicted is not None:
        off = 100 * (trial.measures["error"] - trial.predicted["error"])
        doubt = f" ± {100 * trial.predicted['std']:.2f}" if trial.predicted.get("std") is not None else ""
        lines.append(f"predicted {percent(trial.predicted['error'])}{doubt}: off by {off:+.2f} points")
    for name in ("macs", "params", "peak_bytes", "latency_ms"):
        if name in trial.measures:
            share = f" ({trial.measures[name] / study.full[name]:.0%})" if study.full.get(name) else ""
            lines.append(f"{unit(name)}: {amount(name, trial.measures[name])}{share}")
    said = place(study, trial)
    return "\n".join([*lines, said] if said else lines)


def hypervolume(studies: Sequence[Facts]) -> Chart:
    """How much of all that was found was found when: over trials, and by a menu over time."""
    lines = curves(studies)
    choices = []
    for key, title in (("done", "trials"), ("busy", "seconds of evaluation"), ("seconds", "seconds since the start")):
        if all(point[key] is not None for line in lines for point in line):
            x = [[point[key] for point in line] for line in lines]
            choices.append(Choice(label=title, x=x, scale=Scale(title=title)))
    marks = [
        Points(
            x=[point["done"] for point in line],
            y=[point["share"] for point in line],
            line="steps",
            colour=colour,
            size=5,
            name=study.name,
            hover=[f"trial {point['trial']}, after {point['done']}: {point['share']:.1%}" for point in line],
        )
        for study, line, colour in zip(studies, lines, OWN, strict=False)
    ]
    least = min((point["share"] for line in lines for point in line if point["share"] > 0), default=0.0)
    shares = Scale(title="share of the hypervolume", form="percent", ends=(share_from(least), 1.01))
    several = len(studies) > 1
    return Chart(marks=marks, x=Scale(title="trials"), y=shares, legend=several, menu="over", choices=choices)


def widths(study: Facts) -> Chart:
    """Outputs of every layer, of the full network and of a smaller one that a menu chooses."""
    names, full, by_trial = width_rows(study)
    choices = [
        Choice(
            label=f"{named(trial)}, {_cost(study, trial)}",
            x=[by_trial[trial.number]],
            hover=[[f"{n}: {one} of {of}" for n, one, of in zip(names, by_trial[trial.number], full, strict=True)]],
            name=named(trial),
        )
        for trial in study.shown
    ]
    whole = [f"{name}: {one} in the full network" for name, one in zip(names, full, strict=True)]
    (hovers,) = choices[0].hover
    marks = [
        Bars(x=full, name="full", colour=PALE, width=0.85, outlined=True, hover=whole),
        Bars(x=by_trial[study.shown[0].number], name=choices[0].name, width=0.55, hover=hovers),
    ]
    title = "outputs" if study.anatomy is not None else "channels"
    scale, height = Scale(title=title, values=full), _height(names, 17)
    return Chart(marks=marks, names=names, x=scale, height=height, menu="network", choices=choices, changing=1)


def parts(study: Facts, quantity: str, axis: str, title: str) -> Chart:
    """Where a quantity is in the full network and in the picked one."""
    assert study.anatomy is not None and study.best is not None
    rows = study.anatomy.parts
    names = different([short(row["part"], NAME) for row in rows])
    marks = []
    for which, name, colour in (("full", "full", GREY), ("picked", f"trial {study.best.number}", BLUE)):
        x = [row[which].get(quantity, 0.0) for row in rows]
        hovers = [f"{part}, {name}: {amount(quantity, value)}" for part, value in zip(names, x, strict=True)]
        marks.append(Bars(x=x, name=name, colour=colour, hover=hovers))
    scale = Scale(title=axis, form="plain" if quantity == "ms" else "si")
    return Chart(marks=marks, names=names, x=scale, title=title, height=_height(names), grouped=True)


def foresight(study: Facts) -> Chart:
    """Errors as they were predicted, against those measured; one of nothing at all is drawn at the edge."""
    rows = spread(study.predicted)
    y = [row["error"] for row in rows]
    edge = min((one for one in y if one > 0), default=0.0) / 3
    x = [max(row["predicted"], edge) for row in rows]
    ends = [min(x + y), max(x + y)]
    hovers = [
        f"trial {row['trial']:.0f}: predicted {percent(row['predicted'])} ± {100 * row['std']:.2f}, "
        f"measured {percent(row['error'])}"
        for row in rows
    ]
    # A doubt larger than the error itself would stretch the scale to where no error is.
    tried, doubts = [row["trial"] for row in rows], [min(row["std"], one) for row, one in zip(rows, x, strict=True)]
    marks = [
        Points(x=ends, y=ends, line="dotted", colour=GREY, size=0),
        Points(x=x, y=y, error_x=doubts, shades=tried, shades_title="trial", hover=hovers),
    ]
    across, up = (
        Scale(title=f"{what} error", values=x + y, form="percent", zero=False) for what in ("predicted", "measured")
    )
    return Chart(marks=marks, x=across, y=up, title="Predicted and measured", legend=False)


def cross_validated(study: Facts) -> Chart:
    """The error of the sampler's model on trials it was not fitted to, as the search went on."""
    rows = spread([row for row in study.models if isinstance(row.get("rmse"), int | float)])
    marks = []
    for key, name, colour in (("rmse", "the model", BLUE), ("mean_rmse", "the mean error alone", GREY)):
        known = [(row["trial"], float(row[key])) for row in rows if isinstance(row.get(key), int | float)]
        hovers = [f"before trial {trial}: {percent(error)}, {name}" for trial, error in known]
        x, y = [trial for trial, _ in known], [error for _, error in known]
        marks.append(Points(x=x, y=y, name=name, colour=colour, line="solid", size=4, hover=hovers))
    errors = [error for mark in marks for error in mark.y]
    up = Scale(title="cross-validated error", form="percent", ends=(0.0, 1.05 * max(errors, default=1.0)))
    return Chart(marks=marks, x=Scale(title="trial", zero=False), y=up, title="Cross-validated, as trials came in")


def proxies(study: Facts) -> Chart:
    """Rank correlation of what a ranking or a cost predicts with the measured errors."""
    rows = study.proxies
    names = different([short(row["proxy"], NAME) for row in rows])
    bars = Bars(
        x=[row["correlation"] for row in rows],
        colour=[GREY if row["proxy"] in ("macs", "params") else BLUE for row in rows],
        hover=[
            f"{n}: {row['correlation']:.2f} over {row['trials']} trials" for n, row in zip(names, rows, strict=True)
        ],
    )
    scale = Scale(title="rank correlation with the errors", ends=(-1.0, 1.0))
    return Chart(marks=[bars], names=names, x=scale, height=_height(names), legend=False)


def importance(study: Facts) -> Chart:
    """By how many places of 100 trials are ordered worse where an axis is shuffled."""
    rows = study.importance["axes"][:AXES]
    names = different([short(axis_name(row["axis"]), NAME) for row in rows])
    bars = Bars(
        x=[100 * row["rise"] for row in rows],
        errors=[200 * row["std"] for row in rows],
        colour=[BLUE if row["rise"] - 2 * row["std"] > 0 else PALE for row in rows],
        hover=[f"{name}: {100 * row['rise']:.2f} places of 100" for name, row in zip(names, rows, strict=True)],
    )
    return Chart(marks=[bars], names=names, x=Scale(title="places of 100"), height=_height(names), legend=False)


def _height(names: Sequence[str], each: int = 26) -> int:
    return 110 + each * max(len(names), 3)


def named(trial: Trial) -> str:
    """A trial by its number and error."""
    return f"trial {trial.number}: error {percent(trial.measures['error'])}"


def _cost(study: Facts, trial: Trial) -> str:
    """The first cost, with its name where it has no unit."""
    name = study.costs[0]
    said = amount(name, trial.measures.get(name))
    return f"{said} {unit(name)}" if name in ("macs", "params") else said


def curves(studies: Sequence[Facts]) -> list[list[dict[str, Any]]]:
    """The growth of each study's hypervolume, up to one corner, with its `share` of the largest at the end.

    Studies that minimise different things have a corner, and a whole, of their own.
    """
    if not comparable(studies):
        return [line for study in studies for line in curves([study])]
    pooled = [c for study in studies if (c := corner(study.trials, study.objectives, study.limits))]
    worst = [max(column) for column in zip(*pooled, strict=True)] if pooled else []
    found = [growth(study.trials, study.objectives, study.limits, worst) for study in studies]
    most = max((points[-1]["volume"] for points in found if points), default=0.0) or 1.0
    return [[point | {"share": point["volume"] / most} for point in points] for points in found]


def comparable(studies: Sequence[Facts]) -> bool:
    """Whether all of them minimise the same."""
    return all(study.objectives == studies[0].objectives for study in studies)


def share_from(least: float) -> float:
    """Where an axis of shares begins, so that a curve that begins high is seen to grow.

    >>> share_from(0.3), share_from(0.79), share_from(0.0)
    (0.0, 0.75, 0.0)
    """
    return 0.0 if least < 0.5 else int(20 * least) / 20


def width_rows(study: Facts) -> tuple[list[str], list[int], dict[int, list[int]]]:
    """Names in the order of the network, widths of the full network, and of each network shown, by trial.

    Where the layers are not known, these are the axes of the space: channels that are cut together.
    """
    if study.anatomy is not None:
        names = different([short(row["layer"], NAME) for row in study.anatomy.layers])
        by_trial = {trial.number: study.anatomy.widths[trial.number] for trial in study.shown}
        return names, [row["full"] for row in study.anatomy.layers], by_trial
    axes = [(place_, axis) for place_, axis in enumerate(study.axes) if axis.kind == "width"]
    names = different([short(axis.name.partition(":")[2], NAME) for _, axis in axes])
    by_trial = {trial.number: [trial.candidate[i] for i, _ in axes] for trial in study.shown}
    return names, [axis.full for _, axis in axes], by_trial


def thinned(study: Facts) -> list[Trial]:
    """The trials with an error; where there are very many, every so many of those that matter little."""
    scored = study.scored
    if len(scored) <= MOST_POINTS:
        return scored
    step = -(-len(scored) // MOST_POINTS)
    front = study.on_front
    return [t for i, t in enumerate(scored) if i % step == 0 or t.number in front or t.source.startswith("seed:")]


def spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """So many of the rows as a chart shows, evenly."""
    return list(rows[:: max(1, -(-len(rows) // MOST_POINTS))])


def different(names: Sequence[str]) -> list[str]:
    """The names, each once: a chart joins bars of one name."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return found
