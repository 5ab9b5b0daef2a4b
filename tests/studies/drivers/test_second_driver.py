"""Of two processes that begin at the same moment one does it, and the other ends with a sentence; nothing is lost."""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import study_file
from killing import table

from secateur.__main__ import main
from secateur.studies import launch

FORK = multiprocessing.get_context("fork")


def _command(arguments, said, barrier):
    """Runs a command as soon as all are there; what it says goes to a file."""
    with open(said, "w", buffering=1) as sys.stderr:
        barrier.wait(60)
        os._exit(main([*arguments, "--quiet"]))


def at_once(folder, *commands):
    """The exit codes of commands that begin at the same moment, and what they said."""
    barrier, said = FORK.Barrier(len(commands)), [folder / f"said-{number}" for number in range(len(commands))]
    started = [FORK.Process(target=_command, args=(*one, barrier)) for one in zip(commands, said, strict=True)]
    for one in started:
        one.start()
    for one in started:
        one.join(120)
    return [one.exitcode for one in started], [path.read_text() for path in said]


def one_sentence(said, *any_of):
    return said.count("\n") == 1 and said.startswith("secateur: error: ") and any(one in said for one in any_of)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A study file, and a run that goes on only when another one was refused."""
    study_file.write(tmp_path, "second_tiny")
    run = launch._run

    def until_refused(study, file, progress):
        def wait(event):
            end = time.monotonic() + 60
            while not (tmp_path / "refused").exists() and time.monotonic() < end:
                time.sleep(0.01)
            assert (tmp_path / "refused").exists(), "no other process was refused meanwhile"

        try:
            run(study, file, wait)
        except ValueError:
            (tmp_path / "refused").touch()
            raise

    monkeypatch.setattr(launch, "_run", until_refused)
    return tmp_path


def straight(place):
    """The study of an undisturbed search, to eight trials."""
    (place / "refused").touch()
    words = ["search", str(place / "study.toml"), "--out", str(place / "straight"), "--trials", "8", "--quiet"]
    assert main(words) == 0
    return launch.open_study(place / "straight")


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["--runner", "processes", "--workers", "1"], marks=pytest.mark.slow),
        pytest.param(["--runner", "ray", "--workers", "1"], marks=pytest.mark.slow),
        pytest.param(["--runner", "tune", "--workers", "1"], marks=pytest.mark.slow),
    ],
)
def test_two_resumes(place, options):
    if {"ray", "tune"} & {*options}:
        pytest.importorskip("ray")
    whole, out = straight(place), place / "run"
    assert main(["search", str(place / "study.toml"), "--out", str(out), "--trials", "2", "--quiet"]) == 0
    (place / "refused").unlink()
    asked = [["resume", str(out), "--trials", trials, *options] for trials in ("8", "7")]
    codes, said = at_once(place, *asked)
    assert sorted(codes) == [0, 2], said
    assert one_sentence(said[codes.index(2)], f"{out} is being run by ")
    trials = (8, 7)[codes.index(0)]
    study = launch.open_study(out)
    pd.testing.assert_frame_equal(table(study), table(whole)[:trials])
    assert f"trials = {trials}\n" in (out / "study.toml").read_text(), "what was refused is not kept"


@pytest.mark.parametrize("trained", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_searches(place, trained):
    """They differ in their number of trials; the study is that of the one that came first."""
    (place / "refused").touch()
    if not trained:
        text = (place / "study.toml").read_text()
        (place / "study.toml").write_text(text.replace("train = true", 'train = false\nexpect_error = "untrained"'))
    for number in range(2):
        out = place / f"run-{number}"
        asked = [["search", str(place / "study.toml"), "--out", str(out), "--trials", trials] for trials in ("2", "3")]
        codes, said = at_once(place, *asked)
        assert sorted(codes) == [0, 2], said
        assert one_sentence(said[codes.index(2)], "is being run by", "exists already", "is a study already"), said
        trials = (2, 3)[codes.index(0)]
        assert f"trials = {trials}\n" in (out / "study.toml").read_text()
        assert len(launch.open_study(out).trials()) == trials and not Path(f"{out}.part").exists()


def test_two_prunings(place):
    """Of other budgets: the network is that of the one that came first."""
    out = place / "pruned"
    words = ["prune", str(place / "study.toml"), "--method", "l1", "--epochs", "1", "--out", str(out)]
    codes, said = at_once(place, *([*words, "--budget", f"macs={share}"] for share in ("0.5", "0.7")))
    assert sorted(codes) == [0, 2], said
    assert one_sentence(said[codes.index(2)], "is being run by", "exists already", "another `prune`"), said
    record = json.loads((out / "config.json").read_text())
    assert record["costs"]["macs"] <= (0.5, 0.7)[codes.index(0)] * record["full_costs"]["macs"]
    assert not Path(f"{out}.part").exists()
