"""What the terminal shows, from plain values."""

import re

import pytest

from secateur.studies.gpus import parsed
from secateur.studies.report import event_line, standing_line, standing_text

SLOT = {"slot": 0, "state": "busy", "trial": 12, "training": False, "attempt": 1, "seconds": 35.0}
DRIVER = {"pid": 42, "host": "box", "state": "running", "heard_s": 1.0, "elapsed_s": 700.0, "goal": 200, "told": 9}
BEST = {"trial": 7, "error": 0.031, "macs": 2.1e6, "params": 34_000}
STANDING = {
    "path": "runs/a",
    "trials": 16,
    "told": 12,
    "running": 4,
    "failed": 3,
    "failures": [],
    "skipped": 0,
    "front": 4,
    "best": BEST,
    "budget": {"macs": 0.5},
    "limits": {"macs": 3e6},
    "objectives": ["error", "macs"],
    "sampler": "tpe",
    "fidelity": "short",
    "seeds": {},
    "foresight": {},
    "proxies": [],
    "seconds": 700.0,
    "goal": 200,
    "left_s": 7800.0,
    "drivers": [DRIVER | {"slots": []}],
    "gpus": [],
}


def shown(slots=(), **changes):
    return standing_text(STANDING | {"drivers": [DRIVER | {"slots": list(slots)}]} | changes)


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
        ["0", "trial 12, epoch 2/5, loss 0.4313", "35 s", "4250", "box", "0,1"],
        ["1", "nothing", "3 s", "box"],
        ["2", "trial 12, attempt 2", "7 min"],
        ["3", "shared weights, epoch 1/2", "35 s"],
        ["4", "its worker died in trial 9", "1 s"],
        ["5", "its worker died", "1 s"],
    ]
    assert standing_line(STANDING | {"drivers": [DRIVER | {"slots": slots}]}) == (
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
    of_a_study = {name: STANDING[name] for name in STANDING if name not in ("goal", "left_s", "drivers", "gpus")}
    assert row(standing_text(of_a_study), "trials") == "12 done, 4 running, 3 failed"


def test_failures_by_their_reason():
    failures = [
        {"reason": "ValueError: a bad network", "count": 7, "trials": [4, 5, 6, 8, 11]},
        {"reason": "timed out: not finished within 3 s", "count": 1, "trials": [2]},
        {"reason": "x" * 1000, "count": 2, "trials": [0, 1]},
        *({"reason": f"reason {letter}", "count": 1, "trials": [3]} for letter in "abc"),
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
    failures = [{"reason": "one word after another " * 20, "count": 3, "trials": [1, 2, 3]}]
    gpus = parsed("0, GPU-1, NVIDIA H200, 87, 1024, 143771\n1, GPU-2, NVIDIA H200, [N/A], [N/A], 143771\n")
    said = shown(slots, failures=failures, gpus=gpus)
    assert all(len(line) <= 80 for line in said.splitlines()), said
    assert row(said, "gpu") == "0, NVIDIA H200: 87% busy, 1.0 of 140.4 GiB" and "1, NVIDIA H200\n" in said


def test_gpus_are_picked_by_number_or_name():
    text = "0, GPU-aa, A, 1, 2, 3\n1, GPU-bb, A, 1, 2, 3\nno devices were found\n"
    assert [one["gpu"] for one in parsed(text)] == ["0", "1"]
    assert [one["gpu"] for one in parsed(text, ["1"])] == ["1"]
    assert [one["gpu"] for one in parsed(text, ["GPU-a"])] == ["0"]


def test_a_trial_says_how_many_others_run():
    last = {"error": 0.1, "reason": None, "macs": 1000.0}
    event = {"event": "trial", "done": 3, "total": 9, "left": 6, "eta": 60.0, "best": None, "last": last}
    assert event_line(event | {"running": 3}) == "trial 3/9: error 10.00%, 1 k MACs; 3 running; 60 s left"
    assert event_line(event | {"running": 0}) == "trial 3/9: error 10.00%, 1 k MACs; 60 s left"
