"""A study seen from another process: while it searches, after a kill, at the end."""

import json
import os
import platform
import signal
import threading
import time

import pytest
from sleeper import create, start

from secateur.__main__ import main
from secateur.studies.runners import slots
from secateur.studies.views import view
from secateur.studies.views.view import View

KEYS = {
    *("path", "trials", "told", "running", "failed", "failures", "skipped", "front", "best", "budget", "limits"),
    *("objectives", "sampler", "fidelity", "history", "seeds", "foresight", "proxies", "seconds"),  # and what runs:
    *("goal", "left_s", "drivers", "gpus", "full", "ended", "max_error", "useless", "foretold", "best_expected"),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a search in two processes that was killed, and what was seen of it before."""
    folder = tmp_path_factory.mktemp("killed") / "s"
    process = start(folder, trials=400, seconds=0.3, workers=2)
    try:
        assert process.stdout.readline().strip() == "ready", process.stderr.read()
        seen = look(folder, lambda found: found.told >= 8 and found.running > 0 and in_an_epoch(found), 150)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert seen is not None, "it went on for long and did not show"
    return folder, seen


def look(folder, enough, seconds):
    """What is seen as soon as it is enough; None where that takes longer."""
    shown = View(folder)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        shown.refresh()
        if enough(found := shown.status()):
            return found
        time.sleep(0.02)
    return None


def in_an_epoch(status):
    return [slot for driver in status.drivers for slot in driver["slots"] if slot.get("epoch")]


@pytest.mark.slow
def test_a_running_search_is_seen_from_another_process(killed):
    _, status = killed
    assert set(status.as_dict()) == KEYS
    (driver,) = status.drivers
    assert driver["state"] == "running" and driver["heard_s"] < 60
    assert [slot["slot"] for slot in driver["slots"]] == [0, 1]
    assert all({"state", "seconds", "pid", "host", "gpus"} <= set(slot) for slot in driver["slots"])
    (busy, *_) = in_an_epoch(status)
    assert (busy["epochs"], busy["attempt"], busy["training"]) == (4, 1, False)
    assert busy["loss"] == 1 / busy["epoch"] and busy["pid"] != driver["pid"]
    assert status.goal == 400 and status.running > 0
    (failure,) = status.failures  # each with another number in it
    assert failure.count == status.failed > 1 and failure.trials == sorted(failure.trials)
    assert failure.reason.startswith("ValueError: a bad network, number ")
    assert status.best.error < 1
    # Two slots, 0.3 s a trial: not less than the sleeping alone; how much more is the machine's affair.
    assert 0.9 * (400 - status.told) * 0.3 / 2 < status.left_s < 3600
    assert json.loads(json.dumps(status.as_dict())) == status.as_dict() and status.gpus == []


@pytest.mark.slow
def test_a_killed_search_does_not_run(killed, capsys):
    folder, _ = killed
    status = View(folder).status()
    assert set(status.as_dict()) == KEYS
    assert [(driver["state"], driver["slots"]) for driver in status.drivers] == [("gone", [])]
    assert status.left_s is None
    assert main(["status", str(folder)]) == 0
    said = capsys.readouterr().out
    assert (f"{status.running} unfinished" in said) == (status.running > 0) and " running" not in said
    assert "is gone; resume the study to go on" in " ".join(said.split())
    assert all(len(line) <= 80 for line in said.splitlines()), said


def test_a_search_is_followed_to_its_end(tmp_path, capsys, monkeypatch):
    """`--watch` sees the search of another thread run, and ends by itself."""
    monkeypatch.setattr(slots, "_EVERY_S", 0.02)
    study = create(tmp_path / "s", 0.1)
    thread = threading.Thread(target=lambda: study.run(30))
    thread.start()
    (busy,) = in_an_epoch(look(study.path, in_an_epoch, 30))
    assert busy["state"] == "busy" and busy["loss"] == 1 / busy["epoch"] and busy["seconds"] < 10
    assert main(["status", str(study.path), "--watch", "0.1"]) == 0
    thread.join()
    lines, _, whole = capsys.readouterr().out.partition("\n\n")
    done = [int(line.split()[0]) for line in lines.splitlines()]
    assert done == sorted(done) and done[-1] == 30 and len(done) >= 2
    assert whole.startswith("trials    30 of 30 done") and "driver" not in whole
    assert all(len(line) <= 80 for line in whole.splitlines())
    assert main(["status", str(study.path), "--watch", "--json"]) == 0
    followed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(one) for one in followed] == [KEYS] * 2
    assert (followed[-1]["told"], followed[-1]["goal"], followed[-1]["drivers"]) == (30, 30, [])


def test_an_interrupt_ends_the_watching_only(tmp_path, capsys, monkeypatch):
    study = create(tmp_path / "s", 0.0)
    study.run(4)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(view.time, "sleep", interrupted)
    assert main(["status", str(study.path), "--watch"]) == 0
    assert capsys.readouterr().out.startswith("4 of 4 done")


def test_watching_waits_for_storage_that_is_away(tmp_path, monkeypatch):
    study = create(tmp_path / "s", 0.0)
    study.run(4)
    looked = []
    monkeypatch.setattr(View, "refresh", lambda self: looked.append(1) or _away())
    said = []
    assert len(list(view.watch(study.path, 0.01, said.append))) == 1, "the second look saw nothing"
    assert said == ["the database is away"] and looked == [1]


def _away():
    raise ConnectionError("the database is away")


def test_a_study_whose_network_is_being_trained_is_waited_for(tmp_path, capsys):
    part = tmp_path / "s.part"
    part.mkdir()
    assert main(["status", str(tmp_path / "s")]) == 2
    assert "is not made yet: its network is still to be trained" in capsys.readouterr().err
    (part / "driver.json").write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
    said = []
    seen = view.watch(tmp_path / "s", 0.01, lambda text: (said.append(text), _make(tmp_path)))
    assert [status.told for status in seen] == [0, 0]
    assert said == [f"{tmp_path / 's'} is not made yet: its network is being trained"]


def _make(folder):
    create(folder / "s", 0.0)
    (folder / "s.part" / "driver.json").unlink()


def test_the_goal_is_that_of_the_run(tmp_path):
    study = create(tmp_path / "s", 0.0)
    assert View(study.path).status().goal is None
    study.run(3)
    study.run(6)
    assert View(study.path).status().goal == 6
