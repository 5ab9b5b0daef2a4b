"""What a running search says of its slots, and what others read of it."""

import json
import logging
import os
import platform
import subprocess
import sys
import time

import pytest

from secateur.studies.runners import slots as module
from secateur.studies.runners.slots import SlotStatus, drivers
from secateur.studies.trials.events import Doing, Epoch, SlotChanged, WorkerInfo


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "_EVERY_S", 0.02)
    monkeypatch.setattr(module, "_ALIVE_S", 0.1)


@pytest.fixture
def driven(tmp_path):
    """A folder that this process holds."""
    hold(tmp_path)
    return tmp_path


def hold(folder, pid=None, host=None):
    holder = {"pid": pid or os.getpid(), "host": host or platform.node()}
    (folder / "driver.json").write_text(json.dumps(holder))


def event(change, slot=0, **doing):
    worker = WorkerInfo(pid=77, host="node", gpus=("1",))
    return SlotChanged(slot=slot, change=change, worker=worker, doing=Doing(**doing) if doing else None)


def epoch(done, total, loss):
    return Epoch(of="trial", done=done, total=total, loss=loss)


def wait_for(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


def slots(folder):
    found = drivers(folder)
    return [
        {name: value for name, value in slot.items() if name not in ("seconds", "pid", "host", "gpus")}
        for slot in (found[0]["slots"] if found else [])
    ]


def test_the_last_event_of_every_slot_is_seen_also_when_none_follows(driven):
    status = SlotStatus(driven, goal=20)
    status(event("open", 0))
    status(event("open", 1))
    status(event("started", 0, trial=4, training=False, attempt=2))
    status(event("epoch", 0, trial=4, training=False, attempt=2, epoch=epoch(1, 3, 0.5)))
    busy = {"slot": 0, "state": "busy", "trial": 4, "training": False, "attempt": 2}
    busy |= {"epoch": 1, "epochs": 3, "loss": 0.5}
    assert wait_for(lambda: slots(driven) == [busy, {"slot": 1, "state": "free"}])
    (driver,) = drivers(driven)
    assert (driver["pid"], driver["state"], driver["goal"], driver["told"]) == (os.getpid(), "running", 20, 0)
    assert {name: driver["slots"][0][name] for name in ("pid", "host", "gpus")} == {
        "pid": 77,
        "host": "node",
        "gpus": ["1"],
    }
    assert status.told() == 1  # is how many run
    status(event("lost", 0, trial=4, training=False, attempt=2))
    status(event("ended", 1, trial=5, training=False, attempt=1))
    assert wait_for(lambda: [slot["state"] for slot in slots(driven)] == ["lost", "free"])
    assert drivers(driven)[0]["told"] == 1
    assert "trial" not in slots(driven)[1]
    status.close()
    assert sorted(path.name for path in driven.iterdir()) == ["driver.json"]


def test_a_trials_time_goes_on_from_epoch_to_epoch(driven):
    status = SlotStatus(driven)
    status(event("started", trial=0))
    time.sleep(0.2)
    status(event("epoch", trial=0, epoch=epoch(1, 2, 1.0)))
    assert wait_for(lambda: slots(driven) and slots(driven)[0].get("epoch") == 1)
    assert drivers(driven)[0]["slots"][0]["seconds"] >= 0.2
    status(event("started", trial=1))
    assert wait_for(lambda: slots(driven)[0]["trial"] == 1)
    assert drivers(driven)[0]["slots"][0]["seconds"] < 0.2
    before = drivers(driven)[0]["slots"][0]["seconds"]
    time.sleep(0.05)
    assert drivers(driven)[0]["slots"][0]["seconds"] >= before + 0.05, "while nothing happens too"
    status.close()


def test_an_event_costs_nearly_nothing(driven, monkeypatch):
    monkeypatch.setattr(module, "_EVERY_S", 60.0)  # nothing is written meanwhile
    status = SlotStatus(driven)
    status(event("open"))
    one = event("epoch", trial=3, training=False, attempt=1, epoch=epoch(1, 9, 0.3))
    best = float("inf")
    for _ in range(20):  # the least of several: whatever else this machine does is not the status's
        started = time.perf_counter()
        for _ in range(100):
            status(one)
        best = min(best, (time.perf_counter() - started) / 100)
    status.close()
    assert best < 0.2e-3, f"{1e3 * best:.3f} ms an event"


def test_it_is_written_seldom_and_yet_shows_that_the_driver_lives(driven, monkeypatch):
    monkeypatch.setattr(module, "_EVERY_S", 0.2)
    written = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (written.append(time.monotonic()), replace(*paths)))
    status = SlotStatus(driven)
    for number in range(100):
        status(event("started", trial=number))
        time.sleep(0.005)
    assert wait_for(lambda: len(written) >= 5), "also without any event"
    status.close()
    assert min(after - before for before, after in zip(written, written[1:], strict=False)) > 0.15


def test_what_cannot_be_written_is_said_once_and_left(tmp_path, caplog):
    folder = tmp_path / "gone"  # as good as a full disk: no file can be made there
    status = SlotStatus(folder)
    with caplog.at_level(logging.WARNING, "secateur"):
        status(event("started", trial=0))
        assert wait_for(lambda: caplog.records)
        status(event("started", trial=1))
        time.sleep(0.2)
    assert len(caplog.records) == 1 and "the search goes on without it" in caplog.text
    folder.mkdir()
    hold(folder)
    status(event("started", trial=2))
    assert wait_for(lambda: slots(folder) and slots(folder)[0]["trial"] == 2), "and taken up again"
    status.close()


def test_a_loss_that_is_no_number_stays_json(driven):
    status = SlotStatus(driven)
    status(event("epoch", trial=0, epoch=epoch(1, 2, float("nan"))))
    assert wait_for(lambda: slots(driven))
    assert "NaN" not in (driven / "slots.json").read_text()
    assert slots(driven)[0]["loss"] is None
    status.close()


def test_a_driver_that_was_killed_is_gone_and_runs_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    status = SlotStatus(tmp_path)
    status(event("started", trial=0))
    assert wait_for((tmp_path / "slots.json").exists)
    left = json.loads((tmp_path / "slots.json").read_text()) | {"pid": process.pid}
    status.close()
    (tmp_path / "slots.json").write_text(json.dumps(left))
    hold(tmp_path, process.pid)
    # Ended, and nobody waited for it: a zombie is gone too.
    assert wait_for(lambda: drivers(tmp_path)[0]["state"] == "gone")
    assert drivers(tmp_path)[0]["slots"] == []
    process.wait()
    assert drivers(tmp_path)[0]["state"] == "gone"


def test_what_an_earlier_driver_left_says_nothing_of_the_next(driven):
    (driven / "slots.json").write_text(json.dumps({"pid": 1, "host": "elsewhere", "slots": [{"slot": 0}]}))
    (driver,) = drivers(driven)
    assert (driver["pid"], driver["slots"], driver["heard_s"]) == (os.getpid(), [], None)


def test_a_driver_elsewhere_is_known_by_what_it_writes(tmp_path):
    hold(tmp_path, 5, "elsewhere")
    said = {"pid": 5, "host": "elsewhere", "slots": [], "elapsed_s": 1.0, "goal": 3, "told": 0}
    for age, state in ((1, "running"), (3600, "silent"), (-3600, "running")):  # or its clock is ahead
        (tmp_path / "slots.json").write_text(json.dumps(said | {"written": time.time() - age}))
        (driver,) = drivers(tmp_path)
        assert driver["state"] == state and driver["heard_s"] >= 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "1"}', '{"pid": 1}', "\0"])
def test_a_damaged_file_is_as_none(driven, text):
    (driven / "slots.json").write_text(text)
    assert [driver["slots"] for driver in drivers(driven)] == [[]]
    (driven / "driver.json").write_text(text)
    assert drivers(driven) == []
