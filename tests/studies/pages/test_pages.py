"""The report: what it reads from a folder, what it computes, and what it refuses."""

import json
import math
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import AXES, OBJECTIVES, trial
from landscapes import Instant, tiny_net, tiny_space, tiny_task
from reported import EVIL, Moody, make

from secateur import Study
from secateur.__main__ import main
from secateur.evaluators import Result
from secateur.spaces import Axis, Candidate
from secateur.studies.exports.chart import Chart, Points, Scale, wide
from secateur.studies.exports.plot import draw
from secateur.studies.pages import anatomy, charts, learned
from secateur.studies.pages.figures import figure

pytest.importorskip("plotly", reason="the report extra is not installed")
pytest.importorskip("matplotlib", reason="the report extra is not installed")

from secateur.studies.pages import report  # noqa: E402
from secateur.studies.pages.across import kept  # noqa: E402
from secateur.studies.pages.advice import advice  # noqa: E402
from secateur.studies.pages.facts import facts  # noqa: E402
from secateur.studies.pages.page import page, pictures  # noqa: E402
from secateur.studies.views.status import verdict  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study of 28 trials, some of which failed."""
    path = tmp_path_factory.mktemp("studies") / "a"
    make(path, 28)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One of 8 trials."""
    path = tmp_path_factory.mktemp("small") / "b"
    make(path, 8, sampler="random", seed=1)
    return path


@pytest.fixture(scope="module")
def found(folder):
    """What is known of it with its network, untimed."""
    return facts(folder, model=tiny_net(), timed=False)


# --- what is computed -------------------------------------------------------------------------------------------------


def test_growth_of_the_hypervolume():
    """Up to (0.6, 40), (0.4, 20) has 0.2 * 20 = 4; (0.2, 30) adds 0.2 * 10; what is over the limit adds nothing."""
    trials = [
        trial(0, 0.6, 40),
        trial(1, 0.4, 20, seconds=2.0),
        trial(2, None, 9),
        trial(3, 0.1, 90),
        trial(4, 0.2, 30),
    ]
    limits = {"macs": 50}
    worst = learned.corner(trials, OBJECTIVES, limits)
    assert worst == [0.6, 40]
    points = learned.growth(trials, OBJECTIVES, limits, worst)
    assert [(point["done"], round(point["volume"], 9)) for point in points] == [(1, 0), (2, 4), (5, 6)]
    assert [point["busy"] for point in points] == [0, 2, 2]
    assert {point["seconds"] for point in points} == {None}
    assert learned.growth([], OBJECTIVES, limits, []) == []


def test_growth_goes_by_when_trials_ended():
    slow = replace(trial(0, 0.2, 20, seconds=9.0), started=100.0)
    quick = replace(trial(1, 0.4, 30, seconds=1.0), started=101.0)
    points = learned.growth([slow, quick], OBJECTIVES, {}, [1.0, 40.0])
    assert [(point["trial"], point["seconds"]) for point in points] == [(1, 2.0), (0, 9.0)]
    assert [point["volume"] for point in points] == pytest.approx([0.6 * 10, 0.8 * 20])


def test_importance_finds_the_axis_that_decides():
    """The error is the first axis alone, so all that can be predicted is its."""
    axes = (
        Axis("width:a", (2, 4, 6, 8)),
        Axis("width:b", (2, 4, 6, 8)),
        Axis("width:c", (4, 8)),
        Axis("resolution", (0,)),
    )
    random = np.random.default_rng(0)
    trials = []
    for number in range(60):
        candidate = Candidate(int(random.choice(axis.choices)) for axis in axes)
        trials.append(replace(trial(number, 0.1 * candidate[0], 10), candidate=candidate))
    found = learned.importance(trials, axes)
    assert found["trials"] == 60 and found["reason"] == "" and found["explained"] > 0.95
    assert [row["axis"] for row in found["axes"]][0] == "width:a"
    assert len(found["axes"]) == 3, "an axis with one choice says nothing"
    first, *others = found["axes"]
    assert first["rise"] > 0.1 and all(abs(row["rise"]) < 0.02 for row in others)
    assert found == learned.importance(trials, axes), "the same trials say the same"


def test_importance_says_why_there_is_none():
    few = [trial(number, 0.1 * number, 10) for number in range(5)]
    assert learned.importance(few, AXES)["reason"] == "there are 5 measured trials; at least 20 are needed"
    alike = [trial(number, 0.3, 10) for number in range(30)]
    assert "same error" in learned.importance(alike, AXES)["reason"]
    random = np.random.default_rng(0)
    noise = [trial(number, random.random(), 10) for number in range(40)]
    found = learned.importance(noise, AXES)
    assert found["explained"] <= 0 and found["axes"] == [] and "can't be predicted" in found["reason"]


def test_proxies_are_there_once_and_the_costs_as_of_now():
    trials = [trial(number, 0.5 - 0.1 * number, 10 * number) for number in range(5)]
    noted = [
        {"proxy": "macs", "correlation": 0.1, "trials": 3},
        {"proxy": "ranp:macs=0.3", "correlation": 0.8, "trials": 5},
        {"proxy": "ranp:macs=0.5", "correlation": 0.4, "trials": 5},
    ]
    found = learned.proxies(trials, noted)
    assert [(row["proxy"], pytest.approx(row["correlation"])) for row in found] == [
        ("macs", 1.0),
        ("params", 1.0),
        ("ranp", 0.8),
    ]
    assert learned.proxies(trials[:3], []) == []


# --- what a folder says -----------------------------------------------------------------------------------------------


def test_facts_are_the_study_s(folder, found):
    study = Study.open(folder, model=tiny_net(), task=tiny_task(), evaluator=Moody(Instant(tiny_space(tiny_net()))))
    assert [trial.number for trial in found.front] == study.front()["trial"].tolist()
    assert found.best.measures["error"] == study.front()["error"].min()
    assert found.state == "done" and found.name == "a"
    assert found.costs == ("macs",)
    assert found.full == study.space.costs([study.space.full]).iloc[0].to_dict()
    assert found.full_error == pytest.approx(0.05), "the full network is a seed"
    assert {row["trial"] for row in found.predicted} <= set(range(28)) and found.predicted
    assert [row["trial"] for row in found.models if "rmse" in row and "mean_rmse" in row]
    assert found.status.failed > 0
    assert found.shown[0] is found.best


def test_layers_before_and_after(found):
    model = tiny_net()
    space = tiny_space(model)
    made = found.anatomy
    assert [row["layer"] for row in made.layers] == [
        "stem", "layer1.0.first", "layer1.0.second", "layer1.1.first", "layer1.1.second", "down", "head",
    ]  # fmt: skip
    assert [row["full"] for row in made.layers] == [8, 8, 8, 8, 8, 16, 4]
    from secateur.spaces import build

    for trial_ in found.front:
        small = build(model, space, trial_.candidate)
        kept = []
        for row in made.layers:
            try:
                weight = small.get_submodule(row["layer"]).weight
            except AttributeError:
                weight = torch.empty(0)
            kept.append(len(weight))
        assert made.widths[trial_.number] == kept
    costs = space.costs([space.full, found.best.candidate])
    for name in anatomy.QUANTITIES:
        for row, which in enumerate(("full", "picked")):
            assert sum(part[which].get(name, 0.0) for part in made.parts) == costs[name][row]
    assert made.total_ms is None


def test_layers_are_timed_and_deep_ones_joined(small, monkeypatch):
    monkeypatch.setattr(anatomy, "_SECONDS", 0.2)
    monkeypatch.setattr(anatomy, "ROWS", 5)
    made = facts(small, model=tiny_net()).anatomy
    assert [row["part"] for row in made.parts] == ["stem", "(the network itself)", "layer1", "down", "head"]
    full = sum(part["full"].get("ms", 0.0) for part in made.parts)
    assert full == pytest.approx(made.total_ms[0], rel=0.5), "the parts are about the whole"
    assert all(part["full"]["ms"] > 0 for part in made.parts if part["part"] in ("stem", "down", "head"))


def test_a_study_without_its_network_says_so_and_shows_the_rest(small):
    found = facts(small)
    assert found.anatomy is None and "made in Python" in found.no_anatomy
    text = page([found])
    assert "Layers are not known here" in text
    other = facts(small, model=torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 4, 3)))
    assert "another than that of the study" in other.no_anatomy


def test_how_far_the_polynomial_is_to_be_trusted_is_said(found):
    assert verdict(found.status.foresight) and verdict(found.status.foresight) in page([found])


# --- states -----------------------------------------------------------------------------------------------------------


def test_an_empty_study(tmp_path):
    make(tmp_path / "e", 0)
    made = report(tmp_path / "e", model=tiny_net(), pictures=tmp_path / "png")
    text = made.page.read_text()
    assert made.studies[0].state == "empty" and made.page == tmp_path / "e" / "report.html"
    assert "No trial has ended yet" in text and "No network is picked yet" in text
    assert made.pictures == ()


def test_a_study_of_failures_only(tmp_path):
    @dataclass(frozen=True)
    class Broken:
        fingerprint: str = "broken"

        def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
            return Result(error=float("nan"), error_std=None, seconds=0.1, state="failed", reason="no")

    make(tmp_path / "f", 6, evaluator=Broken(), sampler="random")
    found = facts(tmp_path / "f", model=tiny_net())
    assert found.best is None and found.anatomy is not None
    text = page([found])
    assert "the front is empty" in text and "Most trials failed" in text


def test_a_study_that_runs_is_not_timed(small, tmp_path, monkeypatch):
    copy = shutil.copytree(small, tmp_path / "r")
    driver = [{"pid": 1, "host": "h", "state": "running", "heard_s": 0.1, "elapsed_s": 1.0, "goal": 40, "told": 3,
               "slots": []}]  # fmt: skip
    monkeypatch.setattr("secateur.studies.views.view.drivers", lambda path: driver)
    found = facts(copy, model=tiny_net())
    assert found.state == "running" and found.anatomy.total_ms is None and "runs" in found.anatomy.timed
    assert "The search runs" in page([found])


def test_a_study_that_stopped_short(small, tmp_path):
    copy = shutil.copytree(small, tmp_path / "s")
    (copy / "study.toml").write_text("[study]\ntrials = 99\n")
    found = facts(copy, model=tiny_net(), timed=False)
    assert found.state == "stopped"
    assert "stopped after 8 of 99 trials" in page([found])


def test_a_study_of_an_older_version_lacks_what_was_not_noted(small, tmp_path):
    """Within a format version, settings and notes were added: a study without them is shown all the same."""
    copy = shutil.copytree(small, tmp_path / "old")
    kept = json.loads((copy / "study.json").read_text())
    for name in ("latency", "threads", "dtype", "early_stopping"):
        kept["settings"].pop(name, None)
    kept.pop("artifacts"), kept.pop("versions", None)
    (copy / "study.json").write_text(json.dumps(kept))
    assert "not noted" in page([facts(copy, model=tiny_net(), timed=False)])


def test_a_study_of_another_version_or_broken_is_refused(small, tmp_path, capsys):
    newer = shutil.copytree(small, tmp_path / "new")
    kept = json.loads((newer / "study.json").read_text())
    (newer / "study.json").write_text(json.dumps(kept | {"format_version": 99}))
    broken = shutil.copytree(small, tmp_path / "broken")
    (broken / "study.json").write_text('{"format"')
    lost = shutil.copytree(small, tmp_path / "lost")
    for file in lost.glob("study.db*"):
        file.unlink()
    for path, said in ((newer, "format version 99"), (broken, "not valid JSON"), (lost, "study.db")):
        assert main(["report", str(path)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
        assert not (path / "report.html").exists()


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_page_is_one_small_file_that_loads_nothing(folder, tmp_path):
    made = report(folder, tmp_path / "deep" / "a.html", model=tiny_net(), pictures=tmp_path / "png", timed=False)
    text = made.page.read_text()
    assert made.page.stat().st_size < 6e6
    assert not re.search(r"<(link|iframe|img)\b|<script[^>]*\bsrc=|@import|url\(", text.replace(_plotly(text), ""))
    assert [path.name for path in made.pictures] == [
        "front.png", "hypervolume.png", "widths.png", "kept.png", "costs.png", "surrogate.png", "proxies.png",
        "importance.png",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made.pictures)
    assert {path.name for path in made.page.parent.iterdir()} == {"a.html"}, "nothing is left beside it"


def _plotly(text: str) -> str:
    return max(re.findall(r"<script>(.*?)</script>", text, re.DOTALL), key=len)


def test_two_studies_side_by_side(folder, small, found, tmp_path):
    made = report(folder, tmp_path / "ab.html", beside=small, model=tiny_net(), pictures=tmp_path, timed=False)
    text = made.page.read_text()
    assert "<title>a beside b</title>" in text
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)[1])
    names = {trace["name"] for trace in figures["front-0"]["figure"]["data"]}
    assert {"a: front", "b: front"} <= names
    assert "widths-0" in figures and "widths-1" in figures
    first, second = figures["hypervolume-0"]["figure"]["data"]
    assert max(first["y"][-1], second["y"][-1]) == 1
    assert (tmp_path / "widths.png").exists() and (tmp_path / "widths-beside.png").exists()
    assert "differ in" not in text
    other = replace(found, origin=found.origin | {"fingerprint": found.origin["fingerprint"] | {"task": "x"}})
    assert "The two studies differ in the data or split" in page([found, other])


def test_two_studies_whose_folders_have_one_name(small, tmp_path):
    one, two = (shutil.copytree(small, tmp_path / name / "b") for name in ("first", "second"))
    twins = report(one, tmp_path / "bb.html", beside=two, timed=False).studies
    assert [study.name for study in twins] == ["first/b", "second/b"]


def test_two_studies_that_minimise_different_things(found):
    """Each has a hypervolume of its own."""
    other = replace(found, status=replace(found.status, objectives=["error", "params", "macs"]))
    one, two = charts.curves([found, other])
    assert one[-1]["share"] == two[-1]["share"] == 1
    assert "differ in the objectives" in page([found, other])


def test_what_a_study_says_is_text(found, tmp_path):
    """Names of folders, axes, layers and sources, reasons and study files: none becomes a tag, here or in a chart."""
    axes = tuple(Axis(f"{axis.name}{EVIL}", axis.choices) for axis in found.axes)
    layers = [row | {"layer": EVIL} for row in found.anatomy.layers]
    parts = [row | {"part": EVIL} for row in found.anatomy.parts]
    evil = replace(
        found,
        name=EVIL,
        axes=axes,
        trials=tuple(replace(one, source=f"seed:{EVIL}") for one in found.trials),
        anatomy=replace(found.anatomy, layers=layers, parts=parts, timed=EVIL, total_ms=(1.0, 1.0)),
        proxies=[row | {"proxy": EVIL} for row in found.proxies],
        importance=found.importance | {"axes": [{"axis": EVIL, "rise": 0.1, "std": 0.01}]},
        origin=found.origin | {"command": EVIL, "file": EVIL, "settings": {EVIL: EVIL}},
        status=replace(found.status, sampler=EVIL, path=EVIL, goal=99),
        state="stopped",
    )
    text = page([evil, evil])
    assert "<img" not in text.replace(_plotly(text), "")
    assert text.count("</script>") == 3
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)[1])
    for place, one in figures.items():
        for said in texts(one["figure"]):
            assert "<img" not in said, place
        for choice in one.get("menu", {}).get("choices", []):
            assert all("<img" not in said for said in texts(choice["traces"])), place
    assert pictures([evil, evil])["front.png"].startswith(b"\x89PNG")


def texts(value):
    """Every text in nested JSON but the menus', which a page writes as text."""
    if isinstance(value, str):
        yield value
    for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        yield from texts(item)


def test_scales_are_logarithmic_where_values_are_far_apart(found):
    """The error of one trial is a thousand times as small: both the page and the pictures show all of them."""
    assert not wide([0.1, 0.5]) and wide([0.01, 0.5]) and not wide([0.0, 0.5]) and not wide([])

    def drawn(*errors):
        """The chart where the trials have these errors in turn."""
        trials = tuple(
            replace(one, outcome=replace(one.outcome, error=errors[number % len(errors)]))
            for number, one in enumerate(found.scored)
        )
        return replace(found, trials=trials, front=trials[:3], best=trials[0])

    even = figure(charts.front([drawn(0.1, 0.2, 0.3)]))["figure"]["layout"]
    far = drawn(0.1, 0.2, 0.0003)
    spread = figure(charts.front([far]))["figure"]["layout"]
    assert ("type" in even["yaxis"], spread["yaxis"]["type"]) == (False, "log")
    (label,) = spread["annotations"]
    assert label["text"].startswith("budget")
    limit = found.limits["macs"]
    assert label["x"] == pytest.approx(np.log10(limit) if "type" in spread["xaxis"] else limit)
    assert draw([charts.front([far])]).startswith(b"\x89PNG")


def test_several_costs_are_a_menu(found):
    """The chart begins with the first; each has its own values, axis and limits; a front of three costs is no line."""
    limits = found.limits | {"params": 2000.0}
    status = replace(found.status, objectives=["error", "params", "macs"], limits=limits)
    shown = figure(charts.front([replace(found, costs=("params", "macs"), status=status)]))
    first, second = shown["menu"]["choices"]
    assert (first["label"], second["label"]) == ("parameters", "multiply-adds")
    traces, layout = shown["figure"]["data"], shown["figure"]["layout"]
    assert [trace["x"] for trace in traces] == first["traces"]["x"] != second["traces"]["x"]
    assert layout["shapes"][0]["x0"] == 2000 and second["layout"]["shapes"][0]["x0"] == limits["macs"]
    assert all(trace["mode"] == "markers" for trace in traces)
    alone = figure(charts.front([found]))
    assert "menu" not in alone
    assert [trace["mode"] for trace in alone["figure"]["data"] if trace["name"] == "front"] == ["lines+markers"]


def exported(folder, trial, **figures):
    place = folder / "exports" / f"trial-{trial.number:04d}-{trial.candidate.key}-epochs-{figures['epochs']}"
    place.mkdir(parents=True)
    (place / "finished.json").write_text(json.dumps({"figures": figures}))


def test_test_errors_of_exports_stand_beside_the_search_s(small, found, tmp_path):
    """Of two trainings the longer one; what is broken, or was only tried, is passed by."""
    copy = shutil.copytree(small, tmp_path / "exported")
    best = facts(copy, timed=False).best
    exported(copy, best, epochs=2, test_error=0.9)
    exported(copy, best, epochs=10, test_error=0.25, test_error_std=0.02)
    for name in (f"trial-{best.number:04d}-x-tried-epochs-20", "trial-0001-x-epochs-3"):
        (copy / "exports" / name).mkdir()
        (copy / "exports" / name / "finished.json").write_text(
            "{" if "tried" not in name else '{"figures": {"epochs": 20}}'
        )
    study = facts(copy, timed=False)
    assert list(study.tested) == [best.number] and study.tested[best.number]["test_error"] == 0.25
    marks = {mark.name: mark for mark in charts.front([study]).marks}
    assert marks["test error, exported"].y == [0.25] and marks["test error, exported"].error_y == [0.02]
    (said,) = marks["picked"].details
    assert "trained for 10 epochs, test error 25.00%" in said and f"exports/trial-{best.number:04d}-" in said
    assert "resolution: " in said
    off = 100 * (0.25 - best.measures["error"])
    assert f"test errors of the 1 exported are {off:+.2f} points off on the mean" in page([study])
    full = {mark.name: mark for mark in charts.front([found]).marks}["full network"]
    assert full.y == [found.full_error] and full.x == [found.full["macs"]]
    assert "test error, exported" not in {mark.name for mark in charts.front([found]).marks}


def test_what_to_take_is_reckoned_from_the_front(found):
    """Of 0.10, 0.11 and 0.30 with doubts of 0.02, the second costs half as much as the first and is as good."""
    whole = found.full["macs"]
    front = tuple(
        replace(trial(number, error, share * whole), outcome=replace(trial(number, error, 1).outcome, error_std=0.02))
        for number, error, share in ((7, 0.3, 0.2), (5, 0.11, 0.4), (3, 0.1, 0.8))
    )
    front = tuple(replace(one, costs=one.costs | {"macs": one.costs["macs"]}) for one in front)
    plain = replace(found.status, best_expected=None)
    take, after, doubt = advice(replace(found, trials=front, front=front, best=front[-1], tested={}, status=plain))
    assert take.startswith(
        "Take: trial 3 has the lowest error, 10.00% ± 2.00 at 80% of the full network's multiply-adds."
    )
    assert "Trial 5 (11.00% ± 2.00 at 40% of the full network's multiply-adds) is within one standard error" in take
    assert take.endswith("For at most 25% trial 7 (30.00% ± 2.00) of the full network's multiply-adds.")
    assert after.startswith("Next: secateur export") and "--pick 5" in after and "hypervolume" not in after
    assert "1 of 2 of which are as good within the doubt" in doubt
    hopeful = replace(found, best=front[1], front=front, status=replace(found.status, best_expected=0.12))
    assert advice(hopeful)[0].startswith(
        "Take: trial 5 is expected to have the lowest error, 12.00%, measured 11.00% ± 2.00 at 40% of"
    )
    assert advice(replace(found, best=None, front=())) == []


def test_the_front_side_by_side(found):
    chart = kept(found)
    whole, *lines = chart.marks
    assert whole.y == [1.0, 1.0] and len(lines) == len(found.shown)
    assert all(len(line.y) == len(chart.x.names) for line in lines) and chart.x.names[-1] == "multiply-adds"
    best = next(line for line in lines if line.name.startswith(f"trial {found.best.number}:"))
    assert best.y[-1] == found.best.measures["macs"] / found.full["macs"] and best.colour == charts.RED
    moved = [
        axis.name for n, axis in enumerate(found.axes) if any(one.candidate[n] != axis.full for one in found.shown)
    ]
    assert len(chart.x.names) == len(moved) + 1


def test_what_is_not_known_is_not_drawn(found):
    """A cost that a trial does not have, and numbers that are none: JSON knows no NaN, and a picture leaves a gap."""
    marks = [Points(x=[1.0, None, 3.0], y=[0.5, math.nan, 0.25], hover=["a", "b\nc", "$"])]
    chart = Chart(marks=marks, x=Scale(title="x"), y=Scale(title="y"))
    (trace,) = figure(chart)["figure"]["data"]
    assert (trace["x"], trace["y"]) == ([1.0, None, 3.0], [0.5, None, 0.25])
    assert trace["text"] == ["a", "<b>b</b><br>c", "&#36;"]
    assert draw([chart]).startswith(b"\x89PNG")


def test_a_long_study_is_thinned_out(found, monkeypatch):
    monkeypatch.setattr(charts, "MOST_POINTS", 5)
    kept = charts.thinned(found)
    assert len(kept) < len(found.scored)
    numbers = {one.number for one in kept}
    assert found.on_front <= numbers
    assert {one.number for one in found.scored if one.source.startswith("seed:")} <= numbers


def test_a_page_of_very_many_trials_is_small(found):
    proposed = [one for one in found.trials if not one.source.startswith("seed:")] * 200
    many = tuple(replace(one, number=number) for number, one in enumerate(proposed, start=len(found.trials)))
    long = replace(found, trials=found.trials + many, predicted=found.predicted * 200, models=found.models * 200)
    assert 5e6 < len(page([long])) < 6e6


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_and_replaces(small, tmp_path, capsys):
    to = tmp_path / "a.html"
    assert main(["report", str(small), "--to", str(to), "--no-time"]) == 0
    assert capsys.readouterr().out == f"{to}\n"
    assert main(["report", str(small), "--to", str(to), "--no-time", "--json", "--png", str(tmp_path / "p")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["page"] == str(to) and all(Path(name).is_file() for name in said["pictures"])


def test_the_command_overwrites_nothing_else(small, tmp_path, capsys):
    other, wrong, place = tmp_path / "mine.html", tmp_path / "study.toml", tmp_path / "place.html"
    other.write_text("<!doctype html><title>my own</title>")
    wrong.write_text("[study]\n")
    place.mkdir()
    for to, said in ((other, "is no report"), (wrong, "ends in .html"), (place, "is a folder")):
        assert main(["report", str(small), "--to", str(to)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert other.read_text().endswith("<title>my own</title>") and wrong.read_text() == "[study]\n"
    (tmp_path / "taken").write_text("x")
    to = tmp_path / "n.html"
    assert main(["report", str(small), "--to", str(to), "--no-time", "--png", str(tmp_path / "taken")]) == 2
    assert "is a file" in capsys.readouterr().err and not to.exists()


@pytest.mark.parametrize("name", ["plotly", "jinja2", "matplotlib"])
def test_a_missing_library_is_one_line_with_the_command(small, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["report", str(small), "--to", str(tmp_path / "a.html")]) == 2
    assert capsys.readouterr().err == f"secateur: error: a report needs {name}: pip install 'secateur[report]'\n"
    assert not (tmp_path / "a.html").exists()


def test_a_study_file_remakes_its_network(tmp_path, capsys):
    from study_file import write

    file = write(tmp_path, "pages_tiny") / "study.toml"
    assert main(["search", str(file), "--out", str(tmp_path / "s"), "--quiet"]) == 0
    capsys.readouterr()
    assert "no code of the study was run" in facts(tmp_path / "s", timed=False).no_anatomy
    found = facts(tmp_path / "s", timed=False, remake=True)
    assert found.no_anatomy == "" and [row["layer"] for row in found.anatomy.layers] == ["conv1", "conv2", "head"]
    text = page([found])
    assert "secateur search study.toml --out s" in text and "pages_tiny:Tiny" in text
    (tmp_path / "pages_tiny.py").write_text("raise RuntimeError('moved <b>away</b>')")
    sys.modules.pop("pages_tiny")
    found = facts(tmp_path / "s", timed=False, remake=True)
    assert found.anatomy is None and "moved <b>away</b>" in found.no_anatomy
    assert "moved &lt;b&gt;away&lt;/b&gt;" in page([found])
