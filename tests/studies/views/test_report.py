"""What the terminal shows, from plain values."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from handmade import trial

from secateur.studies.trials.events import TrialEnded
from secateur.studies.trials.trial import Failed
from secateur.studies.views.status import Reason, Status, verdict
from secateur.studies.views.terminal import Style
from secateur.studies.views.text import exported_text, front_text, pruned_text, status_line, status_text
from secateur.studies.views.view import parsed

SLOT = {"slot": 0, "state": "busy", "trial": 12, "training": False, "attempt": 1, "seconds": 35.0}
DRIVER = {"pid": 42, "host": "box", "state": "running", "heard_s": 1.0, "elapsed_s": 700.0, "goal": 200, "told": 9}
BEST = replace(trial(7, 0.031, 2.1e6), costs={"macs": 2.1e6, "params": 34_000})
STATUS = Status(
    path="runs/a",
    trials=16,
    told=12,
    running=4,
    failed=3,
    failures=[],
    skipped=0,
    front=4,
    best=BEST,
    budget={"macs": 0.5},
    limits={"macs": 3e6},
    objectives=["error", "macs"],
    sampler="tpe",
    fidelity="short",
    history={},
    seeds={},
    foresight={},
    proxies=[],
    seconds=700.0,
    goal=200,
    left_s=7800.0,
    drivers=[DRIVER | {"slots": []}],
    gpus=[],
)


def shown(slots=(), **changes):
    return status_text(replace(STATUS, **{"drivers": [DRIVER | {"slots": list(slots)}]} | changes))


def row(text, name):
    """What stands beside a name, over as many lines as it takes."""
    found = re.search(rf"^{name} +(.*(?:\n {{4,}}.*)*)", text, re.MULTILINE)
    return " ".join(found[1].split())


def test_a_running_search():
    slots = [
        SLOT | {"epoch": 2, "epochs": 5, "loss": 0.43125, "pid": 4250, "host": "box", "gpus": ["0", "1"]},
        {"slot": 1, "state": "free", "seconds": 3.0, "pid": None, "host": "box", "gpus": []},
        SLOT | {"slot": 2, "attempt": 2, "seconds": 400.0},
        SLOT | {"slot": 3, "training": True, "epoch": 1, "epochs": 2, "loss": None},
        {"slot": 4, "state": "lost", "trial": 9, "seconds": 1.0},
        {"slot": 5, "state": "lost", "seconds": 1.0},
    ]
    said = shown(slots)
    assert row(said, "trials") == "12 of 200 done, 2 running, 2 waiting, 3 failed"
    assert row(said, "left") == "about 2 h 10 min"
    assert row(said, "driver") == "process 42 on box, since 12 min"
    table = said.partition("\n\n")[2].splitlines()
    assert [re.split(r"  +", line) for line in table] == [
        ["slot", "does", "for", "process", "on", "gpus"],
        ["0", "trial 12, epoch 2/5, loss 0.4313", "35 s", "4250", "box", "0, 1"],
        ["1", "nothing", "3 s", "box"],
        ["2", "trial 12, attempt 2", "7 min"],
        ["3", "shared weights, epoch 1/2", "35 s"],
        ["4", "its worker died in trial 9", "1 s"],
        ["5", "its worker died", "1 s"],
    ]
    assert status_line(replace(STATUS, drivers=[DRIVER | {"slots": slots}])) == (
        "12 of 200 done, 2 running, 2 waiting, 3 failed; best 3.10% (trial 7); 2 h 10 min left"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "12 of 200 done, 4 running, 3 failed"),
        ({"drivers": [DRIVER | {"state": "gone", "slots": []}]}, "12 of 200 done, 4 unfinished, 3 failed"),
        ({"drivers": [], "goal": None}, "12 done, 4 unfinished, 3 failed"),
        ({"drivers": [], "running": 0, "failed": 0}, "12 of 200 done"),
    ],
)
def test_what_nobody_runs_is_not_running(changes, expected):
    assert row(shown(**changes), "trials") == expected


def test_a_study_in_this_process_says_the_same_without_its_drivers():
    of_a_study = replace(STATUS, goal=None, left_s=None, drivers=None)
    assert row(status_text(of_a_study), "trials") == "12 done, 4 running, 3 failed"


def test_failures_by_their_reason():
    failures = [
        Reason(reason="ValueError: a bad network", count=7, trials=[4, 5, 6, 8, 11]),
        Reason(reason="timed out: not finished within 3 s", count=1, trials=[2]),
        Reason(reason="x" * 1000, count=2, trials=[0, 1]),
        *(Reason(reason=f"reason {letter}", count=1, trials=[3]) for letter in "abc"),
    ]
    said = shown(failures=failures)
    assert "7 times: ValueError: a bad network (trials ... 4, 5, 6, 8, 11)" in " ".join(said.split())
    assert "trial 2: timed out: not finished within 3 s" in said
    assert "2 times: xxx" in " ".join(said.split()) and said.count("x") < 250
    assert len(re.findall("^failed", said, re.MULTILINE)) == 5, "only the newest reasons"


def test_eighty_columns():
    slots = [
        SLOT
        | {"slot": 1000, "epoch": 200, "epochs": 200, "loss": 12345.678, "attempt": 3, "pid": 4194303, "seconds": 9e4}
        | {"host": "ip-10-0-0-123.eu-central-1.compute.internal", "gpus": [f"GPU-{'a' * 36}"] * 4}
    ]
    failures = [Reason(reason="one word after another " * 20, count=3, trials=[1, 2, 3])]
    gpus = parsed("0, GPU-1, NVIDIA H200, 87, 1024, 143771\n1, GPU-2, NVIDIA H200, [N/A], [N/A], 143771\n")
    said = shown(slots, failures=failures, gpus=gpus)
    assert all(len(line) <= 80 for line in said.splitlines()), said
    assert row(said, "gpu") == "0, NVIDIA H200: 87% busy, 1.0 of 140.4 GiB" and "1, NVIDIA H200\n" in said
    assert said.count("a") > 4 * 36 and "…" not in said, "names are broken into lines, not cut"


def test_a_wide_terminal_has_room():
    """Names and columns that 80 columns break or leave out are whole there."""
    slots = [SLOT | {"host": "ip-10-0-0-123.eu-central-1.compute.internal", "gpus": [f"GPU-{'a' * 36}"] * 2}]
    failures = [Reason(reason="one word after another " * 5, count=3, trials=[1, 2, 3])]
    status = replace(STATUS, drivers=[DRIVER | {"slots": slots}], failures=failures)
    lines = status_text(status, Style(width=200)).splitlines()
    assert lines[-1].endswith(f"ip-10-0-0-123.eu-central-1.compute.internal  GPU-{'a' * 36}, GPU-{'a' * 36}")
    assert sum("one word after another" in line for line in lines) == 1
    said = front_text(front(latency_ms=[1.0, 2.0, 3.0]), FULL, style=Style(width=200))
    assert "no room" not in said and all(name in said.splitlines()[0] for name in (*COSTS, "side", "depth", "key"))


def test_what_a_study_says_is_no_markup():
    """Neither in the head nor in a cell, with colours or without."""
    said = status_text(replace(STATUS, sampler="[red]own[/red]", fidelity=":smiley: [link=x]y"), Style(colours=True))
    assert "[red]own[/red]" in said and ":smiley: [link=x]y" in said
    config = {"method": "[bold]", "costs": {"macs": 1.0}, "full_costs": {"macs": 2.0}, "errors": {}}
    assert "[bold]" in pruned_text(config).splitlines()[0]


def test_gpus_are_picked_by_number_or_name():
    text = "0, GPU-aa, A, 1, 2, 3\n1, GPU-bb, A, 1, 2, 3\nno devices were found\n"
    assert [one["gpu"] for one in parsed(text)] == ["0", "1"]
    assert [one["gpu"] for one in parsed(text, ["1"])] == ["1"]
    assert [one["gpu"] for one in parsed(text, ["GPU-a"])] == ["0"]


def test_a_trial_says_how_many_others_run():
    event = TrialEnded(last=trial(2, 0.1, 1000.0), best=None, done=3, total=9, eta=60.0, running=3)
    assert str(event) == "3/9 trials: error 10.00%, 1 k MACs; 3 running; 60 s left"
    assert str(replace(event, running=0)) == "3/9 trials: error 10.00%, 1 k MACs; 60 s left"


def test_a_sparkline_of_the_errors_and_of_the_front():
    history = {"trials": [1, 4, 8, 12], "best_error": [None, 0.1, 0.06, 0.03], "hypervolume": [0.0, 0.2, 0.6, 1.0]}
    said = shown(history=history)
    assert row(said, "error") == "█▄▁ best so far, 10.00% to 3.00%"
    assert row(said, "front") == "4 networks; hypervolume ▁▂▅█"
    same = {"trials": [1, 2], "best_error": [0.1, 0.1], "hypervolume": [0.0, 1.0]}
    assert "\nerror " not in shown(history=same), "a flat line says nothing"
    assert "\nerror " not in shown(history={"trials": [1], "best_error": [0.1], "hypervolume": [None]})
    assert row(shown(), "budget") == "macs=0.5 (3 M)"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"kind": "start", "trials": 1}, "none yet, 1 error is too few"),
        (
            {"kind": "polynomial", "trials": 24, "degree": 2, "coefficients": 19, "transform": "log"}
            | {"rmse": 0.012, "mean_rmse": 0.02},
            "polynomial of degree 2, 19 coefficients of their log through 24 errors; errs by 1.20% on trials left out "
            "(2.00% by their mean)",
        ),
        (
            {"kind": "polynomial", "trials": 24, "degree": 2, "coefficients": 19, "transform": "log"}
            | {"r2": 0.514, "rmse": 0.02, "mean_rmse": 0.02, "process": 0.25},
            "polynomial of degree 2, 19 coefficients of their log through 24 errors, beside a Gaussian process of 25% "
            "of the say; errs by 2.00% on trials left out (2.00% by their mean)",
        ),
        (
            {"kind": "mean", "trials": 9, "degree": 0, "coefficients": 1, "transform": "identity"}
            | {"r2": -1.25, "rmse": 0.03, "mean_rmse": 0.02},
            "the mean of 9 errors; a polynomial errs by 3.00% on trials left out (2.00% by their mean)",
        ),
        (
            {"kind": "three-dimensions", "polynomial": "separable", "K": 3, "R": 1, "samples": 12, "rmse": 0.01}
            | {"mean_rmse": 0.05, "optimum": {"depth": 0.8, "width": 0.512345}},
            "polynomial of depth, width and resolution through 12 networks; errs by 1.00% on trials left out (5.00% by "
            "their mean); best at depth 0.8, width 0.512",
        ),
        ({"forest": {"trees": 100}, "depth": 3}, "forest trees 100, depth 3"),
        ({"kind": "polynomial", "of": "somebody else"}, "kind polynomial, of somebody else"),
        (
            {},
            "Forecasts of 12 errors missed by 1.00 points, better than the mean of the errors so far, which missed by "
            "2.00.",
        ),
    ],
)
def test_a_surrogate_is_said_in_words(model, said):
    measured = {"trials": 12, "rmse": 0.01, "rmse_of_mean": 0.02}
    assert (
        row(shown(foresight={"trials": 2, "model": model} if model else measured | {"model": {}}), "surrogate") == said
    )
    if model:
        both = row(shown(foresight=measured | {"model": model}), "surrogate")
        assert both.startswith("Forecasts of 12 errors missed by 1.00 points") and both.endswith(said)


@pytest.mark.parametrize(("rmse", "said"), [(0.0195, "no better than"), (0.03, "worse than"), (0.01, ", better than")])
def test_forecasts_that_were_no_better_than_the_mean_are_called_so(rmse, said):
    assert said in verdict({"trials": 12, "rmse": rmse, "rmse_of_mean": 0.02})
    assert verdict({"trials": 2}) == ""


COSTS = ("macs", "params", "peak_bytes", "latency_ms")
FULL = {"macs": 1e9, "params": 1e6, "peak_bytes": 1e8, "param_bytes": 1.0}


def front(count=3, stages=3, side="224x224", **columns):
    numbers = range(count)
    table = {
        "trial": [1000 * number for number in numbers],
        "key": [f"{number:08x}" for number in numbers],
        "error": [0.5 - 0.1 * number for number in numbers],
        "error_std": [0.01 for _ in numbers],
        "macs": [2.5e8 + 1e8 * number for number in numbers],
        "params": [2.5e5 + 1e5 * number for number in numbers],
        "peak_bytes": [2.5e7 + 1e7 * number for number in numbers],
    }
    table |= columns | {f"depth:layer{stage}": [stage % 4 for _ in numbers] for stage in range(stages)}
    return pd.DataFrame(table | {"resolution": [side for _ in numbers]})


def test_a_front_has_the_costs_that_matter_and_says_what_it_leaves_out():
    said = front_text(front(latency_ms=[1.0, 2.0, 3.0]), FULL, first=("error", "latency_ms", "params"))
    head, *rows, left_out, ran = said.splitlines()
    assert ran.startswith("latency_ms: one call of the network in eager PyTorch")
    assert re.split("  +", head.strip()) == ["trial", "error %", "latency_ms", "params", "side", "depth", "key"]
    assert re.split("  +", rows[1].strip()) == [
        *("1000", "40.00 +- 1.00", "2", "350 k (35.0%)", "224x224", "0-1-2", "00000001"),
    ]
    assert left_out == "no room for macs, peak_bytes: see --csv or --json"
    painted = front_text(front(), FULL, style=Style(colours=True)).splitlines()
    assert [line.startswith("\x1b[32m") for line in painted[:4]] == [False, False, False, True], "the least error"


@pytest.mark.parametrize("stages", [0, 1, 30, 100])
@pytest.mark.parametrize("side", [28, "128x128x96"])
def test_a_front_of_any_network_fits(stages, side):
    said = front_text(front(40, stages, side), {name: 1e12 for name in FULL})
    assert all(len(line) <= 80 for line in said.splitlines()), said
    assert said.splitlines()[0].split()[:3] == ["trial", "error", "%"] and len(said.splitlines()) >= 41
    assert ("depth" in said.splitlines()[0]) == (0 < stages < 30)


def test_exported_networks():
    config = {
        "folder": "out/all/trial-0007-aaa32b51",
        "errors": {"validation_error": 0.02, "validation_error_std": 0.001, "test_error": 0.03, "test_error_std": None},
        "costs": {"macs": 5e8, "params": 5e5, "peak_bytes": 5e7},
        "full_costs": FULL,
        "verified": {"tolerance": 1e-4, "safetensors": {"1": 0.0}, "pt2": {"1": 1e-7}},
    }
    assert exported_text([config]).splitlines() == [
        "network              test error %           macs         params    peak_bytes",
        "trial-0007-aaa32b51          3.00  500 M (50.0%)  500 k (50.0%)  50 M (50.0%)",
        "in out/all: safetensors, pt2, each read back and compared",
    ]


def test_beside_a_bar_the_time_left_is_always_seen():
    last, best = trial(1499, 0.1234, 4.2e6), trial(1234, 0.0987, 4.2e6)
    event = TrialEnded(last=last, best=best, done=1500, total=2000, eta=43_200.0, running=16)
    assert event.short == "1500/2000 trials; best 9.87% (trial 1234); last 12.34%; 16 running; 12 h 0 min left"
    failed = replace(last, outcome=Failed(reason="x" * 500))
    assert replace(event, best=None, last=failed, running=0).short == (
        "1500/2000 trials; none within the budget yet; last failed; 12 h 0 min left"
    )
    assert len(str(replace(event, last=failed))) < 300
