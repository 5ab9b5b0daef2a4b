"""What a study keeps, what it takes back, and what it refuses. How it searches is in test_study_search.py."""

import json
import multiprocessing
import os
import pickle
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
import torch
from landscapes import Instant, TinyNet, line_net, line_space, searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study

MODEL = tiny_net()
SPACE = tiny_space(MODEL)
TASK = tiny_task()
INSTANT = Instant(SPACE)


def create(path, **changes):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.5), "threads": 1}
    return Study.create(path, **searching({**given, "sampler": "random", "evaluator": INSTANT, **changes}))


def reopen(path, **changes):
    return Study.open(path, **{"model": MODEL, "task": TASK, "evaluator": INSTANT, **changes})


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A study with six trials; tests copy its folder."""
    path = tmp_path_factory.mktemp("told") / "study"
    create(path).run(6)
    return path


@pytest.fixture
def folder(told, tmp_path):
    copied = Path(shutil.copytree(told, tmp_path / "study"))
    with closing(
        sqlite3.connect(copied / "study.db")
    ) as database:  # the write-ahead log is merged when a reader closes
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return copied


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("study.db-")}


def test_a_study_whose_images_were_measured_unasked_is_opened_as_it_was(tmp_path):
    """Until 0.2 a task without mean and std measured them: what such a study keeps decides."""
    create(tmp_path / "study", task=TASK.measured()).run(1)
    again = reopen(tmp_path / "study")
    assert again.task.mean == TASK.measured().mean != TASK.mean == [0.0]
    assert again.fingerprint["task"] == again.task.fingerprint
    with pytest.raises(ValueError, match="task is"):
        reopen(tmp_path / "study", task=tiny_task(seed=1))


# --- what it keeps ----------------------------------------------------------------------------------------------------


def test_open_finds_what_create_was_told(folder, tmp_path):
    study = reopen(folder)
    first = create(tmp_path / "other")
    assert (study.search, study.training, study.latency) == (first.search, first.training, first.latency)
    assert study.fingerprint == first.fingerprint
    assert study.budget == Budget(macs=0.5)
    assert study.status().trials == 6
    assert study.status().limits == {"macs": 0.5 * float(SPACE.costs([SPACE.full]).macs[0])}


def test_study_json_says_its_format_and_settings_one_to_one(folder):
    found = json.loads((folder / "study.json").read_text())
    assert found["format"] == "secateur-study" and found["format_version"] == 3
    assert found["settings"]["sampler"] == "random" and found["settings"]["batch"] == 4
    assert "budget" not in found["fingerprint"] and "trials" not in found["fingerprint"]


def test_create_leaves_model_generators_and_threads_alone(tmp_path):
    model = tiny_net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    study = create(tmp_path / "s", model=model, evaluator=None, training=tiny_training(), fidelity="recalibrated")
    study.run(2)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state()) and torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() == strict


def test_a_later_change_of_the_users_model_does_not_reach_the_study(tmp_path):
    model = tiny_net()
    study = create(tmp_path / "s", model=model)
    with torch.no_grad():
        model.stem.weight.zero_()
    assert torch.equal(study.model.stem.weight, MODEL.stem.weight)


def test_a_function_that_makes_the_model_is_given_the_kept_weights(folder):
    study = reopen(folder, model=TinyNet)
    assert all(torch.equal(a, b) for a, b in zip(study.model.parameters(), MODEL.parameters(), strict=True))


def test_given_scores_are_kept(tmp_path):
    scores = {name: torch.arange(len(values)).float() for name, values in SPACE.default_scores.items()}
    create(tmp_path / "s", scores=scores).run(4)
    assert set(reopen(tmp_path / "s").trials().ranking) != set(create(tmp_path / "t").trials().ranking)
    assert reopen(tmp_path / "s").trials().ranking.str.startswith("given:").all()


def test_any_storage_url_holds_the_trials(tmp_path):
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    create(tmp_path / "a", storage=url).run(5)
    create(tmp_path / "b", storage=url, seed=1).run(3)
    assert not (tmp_path / "a" / "study.db").exists()
    assert len(reopen(tmp_path / "a").trials()) == 5
    assert len(reopen(tmp_path / "b").trials()) == 3


def test_dtype_makes_every_network_of_it(tmp_path):
    study = create(tmp_path / "s", dtype="float64", evaluator=None, training=tiny_training(), fidelity="recalibrated")
    study.run(2)
    assert study.model.stem.weight.dtype == torch.float64 and study.status().failed == 0
    assert Study.open(tmp_path / "s", model=MODEL, task=TASK).model.stem.weight.dtype == torch.float64


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": tiny_net(seed=1)}, "weights differ"),
        ({"model": TinyNet(width=6)}, "not the one this study was made with"),
        ({"task": tiny_task(seed=1)}, "task is"),
        ({"evaluator": Instant(SPACE, "ridge")}, "instant:ridge, there it is instant:bowl"),
        ({"evaluator": None}, "evaluator is ladder"),
        ({"sampler": "tpe"}, "sampler is tpe, there it is random"),
        ({"budget": Budget(macs=1)}, "reachable"),
    ],
)
def test_open_refuses_another_study_and_says_what_differs(folder, changes, said):
    before = contents(folder)
    with pytest.raises(ValueError, match=said):
        reopen(folder, **changes)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["study.json", "study.db", "base.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_truncated_file_is_one_clear_error(folder, name, share):
    path = folder / name
    with path.open("r+b") as file:
        file.truncate(int(share * path.stat().st_size))
    before = contents(folder)
    with pytest.raises(ValueError, match=name):
        reopen(folder)
    assert contents(folder) == before


@pytest.mark.parametrize(("name", "error"), [("study.json", FileNotFoundError), ("base.safetensors", ValueError)])
def test_a_missing_file_is_one_clear_error(folder, name, error):
    (folder / name).unlink()
    with pytest.raises(error, match=name):
        reopen(folder)


def test_a_missing_database_is_not_made_anew(folder):
    for path in folder.glob("study.db*"):
        path.unlink()
    with pytest.raises(ValueError, match="study.db is missing"):
        reopen(folder)
    assert not (folder / "study.db").exists()


def test_base_weights_of_another_study_are_refused(folder, tmp_path):
    create(tmp_path / "other", model=tiny_net(seed=1))
    shutil.copy(tmp_path / "other" / "base.safetensors", folder)
    with pytest.raises(ValueError, match="other tensors"):
        reopen(folder)


def test_a_newer_format_is_refused(folder):
    found = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**found, "format_version": 99}))
    with pytest.raises(ValueError, match="format version 99"):
        reopen(folder)


def test_a_folder_in_use_is_not_overwritten(folder):
    before = contents(folder)
    with pytest.raises(FileExistsError, match="exists"):
        create(folder)
    assert contents(folder) == before


def test_a_study_that_cannot_be_made_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((ValueError, OSError)):
        create(tmp_path / "file" / "study")
    with pytest.raises(ValueError, match="storage"):
        create(tmp_path / "study", storage="nothing://here")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"budget": Budget(macs=1)}, ValueError, "reachable"),
        ({"objectives": ("macs",)}, ValueError, "error"),
        ({"objectives": ("error", "speed")}, ValueError, "speed"),
        ({"fidelity": "perfect"}, ValueError, "recalibrated"),
        ({"seeds": ("tiny",)}, ValueError, "did you mean 'thinet'"),
        ({"batch": 0}, ValueError, "batch"),
        ({"threads": -1}, ValueError, "threads"),
        ({"seed": -1}, ValueError, "seed"),
        ({"dtype": "int8"}, ValueError, "dtype"),
        ({"device": "toaster"}, ValueError, "device"),
        ({"sampler": "guess"}, ValueError, "tpe"),
        ({"model": 3}, TypeError, "Module"),
        ({"task": 3}, TypeError, "Task"),
        ({"budget": 0.5}, TypeError, "Budget"),
        ({"training": {"lr": 1}}, TypeError, "Training"),
        ({"space": line_space(line_net())}, ValueError, "does not fit the space"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        create(tmp_path / "s", **changes)
    assert not list(tmp_path.iterdir())


def test_what_search_takes_is_refused_beside_it(tmp_path):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.5)}
    with pytest.raises(TypeError, match=r"search=sc.Search\(sampler=..., seed=...\)"):
        Study.create(tmp_path / "s", sampler="tpe", seed=1, **given)
    with pytest.raises(TypeError, match="does not take patience"):
        Study.create(tmp_path / "s", patience=1, **given)


@pytest.mark.parametrize("trials", [0, -1, 2.5, True])
def test_trials_must_be_a_number_of_them(folder, trials):
    with pytest.raises(ValueError, match="trials"):
        reopen(folder).run(trials)


def test_a_second_driver_is_told_who_runs_the_study(folder):
    seen = []

    def intrude(event):
        with pytest.raises(ValueError, match=f"is being run by process {os.getpid()}"):
            reopen(folder).run(8)
        seen.append(len(reopen(folder).front()))  # looking is allowed meanwhile

    reopen(folder).run(7, progress=intrude)
    assert len(seen) == 1
    reopen(folder).run(8)


def _as_nobody(folder, answer):
    os.setuid(65534)
    try:
        reopen(folder)
    except ValueError as error:
        answer.put(str(error))
    else:
        answer.put("opened")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become someone else")
def test_a_read_only_folder_is_refused_for_who_may_not_write(told):
    """Permissions do not bind root, so a child becomes another user and looks."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        folder = shutil.copytree(told, Path(made) / "study")
        fork = multiprocessing.get_context("fork")
        answer = fork.SimpleQueue()
        child = fork.Process(target=_as_nobody, args=(folder, answer))
        child.start()
        child.join()
        assert "is read-only" in answer.get()


# --- what it says -----------------------------------------------------------------------------------------------------


def test_progress_counts_and_names_the_best(tmp_path):
    events = []
    create(tmp_path / "s").run(6, progress=events.append)
    assert [event.done for event in events] == [1, 2, 3, 4, 5, 6]
    assert {event.total for event in events} == {6}
    assert events[-1].done == 6 and events[-1].eta == 0
    assert events[0].best is None  # the full network is over the budget
    errors = [event.best.error for event in events[1:]]
    assert errors == sorted(errors, reverse=True)
    assert pickle.loads(pickle.dumps(events)) == events


def test_tables_and_status_are_plain(folder):
    study = reopen(folder)
    front, trials = study.front(), study.trials()
    assert list(front.columns[:4]) == ["trial", "key", "error", "error_std"]
    assert list(front.columns[-len(SPACE.axes) :]) == [axis.name for axis in SPACE.axes]
    assert list(trials.trial) == list(range(6))
    pd.testing.assert_frame_equal(trials, reopen(folder).trials())
    json.dumps(study.status().as_dict())


def test_an_empty_study_has_empty_tables(tmp_path):
    study = create(tmp_path / "s")
    assert len(study.front()) == 0 and len(study.trials()) == 0
    assert set(study.front().columns) >= {"trial", "key", "error", "macs", "resolution"}
    assert study.status().best is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_here_is_refused_where_this_process_needs_it(tmp_path):
    study = create(tmp_path / "s", device="cuda")
    for runner, said in (("serial", "no CUDA device is here"), ("processes", "this machine has 0")):
        with pytest.raises(ValueError, match=said):
            study.run(4, runner=runner)
    assert len(study.trials()) == 0
    with pytest.raises(ValueError, match="expected 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        create(tmp_path / "t", device="meta")
    assert create(tmp_path / "u").search.device == ("cuda" if torch.cuda.is_available() else "cpu")
