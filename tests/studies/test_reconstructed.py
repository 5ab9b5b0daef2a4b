"""Studies whose networks are never trained: their layers are solved again."""

import json

import pytest
import torch
from landscapes import searching, tiny_net, tiny_space, tiny_task, tiny_training

import secateur as sc
from secateur import Budget, Study

MODEL, TASK = tiny_net(), tiny_task()
SPACE = tiny_space(MODEL)


def create(path, **changes):
    asked = {"sampler": "random", "seeds": (), "fidelity": "reconstructed", "threads": 1, "batch": 2}
    parts = {"model": MODEL, "task": TASK, "space": SPACE, "training": tiny_training(), "budget": Budget(macs=0.6)}
    return Study.create(path, **searching(parts | asked | changes))


def told(study):
    return study.trials()[["candidate" if "candidate" in study.trials() else "key", "error"]].to_numpy().tolist()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    found = create(tmp_path_factory.mktemp("study") / "s")
    found.run(4)
    return found


def test_every_trial_is_measured_before_and_after(study):
    trials = study.trials()
    assert set(trials.fidelity) == {"reconstructed"} and study.status().failed == 0
    assert trials["evaluator:error_recalibrated"].notna().all()
    assert (trials["evaluator:error_reconstructed"] == trials.error).all()


def test_one_that_was_stopped_goes_on_as_if_it_was_not(study, tmp_path):
    create(tmp_path / "s").run(2)
    resumed = Study.open(tmp_path / "s", model=MODEL, task=TASK)
    resumed.run(4)
    assert told(resumed) == told(study)


def test_processes_find_the_same(study, tmp_path):
    other = create(tmp_path / "s")
    other.run(4, runner=sc.Processes(workers=2))
    assert told(other) == told(study)


@pytest.mark.slow
def test_actors_of_ray_find_the_same(study, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or Ray would write a token into the home folder
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        other = create(tmp_path / "s")
        other.run(4, runner=sc.Ray(workers=2))
    finally:
        ray.shutdown()
    assert told(other) == told(study)


def test_an_export_needs_no_training_and_its_card_says_so(study, tmp_path):
    [folder] = study.export(tmp_path / "out", pick="best", finetune_epochs=0)
    record = json.loads((folder / "config.json").read_text())
    assert record["errors"]["validation_error"] == pytest.approx(record["errors"]["search_error"])
    assert "solved by least squares" in (folder / "README.md").read_text()
    assert "and not trained" in (folder / "README.md").read_text()
    assert all(bool(one.isfinite().all()) for one in sc.load(folder, model=tiny_net()).parameters())
    [trained] = study.export(tmp_path / "trained", pick="best", finetune_epochs=1)
    assert "then trained for 1 epochs" in (trained / "README.md").read_text()


def test_studies_of_other_fidelities_say_nothing_of_it(tmp_path):
    other = create(tmp_path / "s", fidelity="recalibrated")
    other.run(1)
    [folder] = other.export(tmp_path / "out", pick=0, finetune_epochs=0)
    assert "least squares" not in (folder / "README.md").read_text()
    assert torch.isfinite(sc.load(folder, model=tiny_net()).stem.weight).all()
