"""Trackers look on: each gets every trial once, and none of them ends a search."""

import logging
import struct
import sys
import threading
import types
from inspect import signature

import pytest
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task, tiny_training
from study_file import write

from secateur import Budget, Study
from secateur.studies.settings.trackers import TRACKERS, check_trackers
from secateur.studies.study_files.file import read
from secateur.studies.trials.events import TrialEnded
from secateur.studies.trials.folder import read_study_json
from secateur.studies.views import trackers
from secateur.studies.views.trackers import Trackers


def create(path):
    model, task = tiny_net(), tiny_task()
    space = tiny_space(model)
    given = {"sampler": "random", "threads": 1, "training": tiny_training(), "evaluator": Instant(space)}
    return Study.create(path, model=model, task=task, space=space, budget=Budget(macs=0.5), **searching(given))


class Notes:
    """Keeps what it is told; raises or waits on one trial."""

    def __init__(self, bad=None, wait=None):
        self.opened, self.kept, self.closed, self.bad, self.wait = [], {}, 0, bad, wait

    def open(self, folder, name):
        self.opened.append((folder, name))

    def tell(self, trial, figures, words):
        if trial == 3 and self.wait is not None:
            self.wait.wait()
        if trial == 3 and self.bad is not None:
            raise self.bad
        self.kept[trial] = dict(figures)

    def close(self):
        self.closed += 1


@pytest.fixture
def brought(monkeypatch):
    """Adds a tracker under a name, as an installed package does by its entry points."""
    added = {}
    monkeypatch.setitem(vars(TRACKERS), "_added", added)

    def bring(name, load):
        monkeypatch.setattr(TRACKERS, "_loaded", {})
        added[name] = types.SimpleNamespace(name=name, value=f"package.module:{name}", load=load, dist=None)

    return bring


@pytest.fixture
def notes(brought):
    """Brings one that keeps what it is told."""

    def put(name, **given):
        made = Notes(**given)
        brought(name, lambda: lambda: made)
        return made

    return put


def test_every_trial_is_told_once_and_a_resumed_study_tells_the_others(tmp_path, notes):
    study, events, kept = create(tmp_path / "a"), [], {}
    for total in (5, 9):
        one = notes("one")
        with Trackers(["one"], study.path, events.append) as listener:
            study.run(total, listener)
        assert not kept.keys() & one.kept.keys() and one.closed == 1
        assert one.opened == [(study.path, read_study_json(study.path)["name"])]
        kept |= one.kept
    table = study.trials()
    assert list(kept) == list(range(9))
    for number, figures in kept.items():
        assert figures["error"] == table.error[number] and figures["macs"] == table.macs[number]
        assert all(isinstance(value, float) for value in figures.values())
    assert kept[8]["best_error"] == study.front().error.min()
    assert sum(isinstance(event, TrialEnded) for event in events) == 9


@pytest.mark.parametrize("bad", [OSError("https://me:s3cret@host/ is away"), SystemExit("key s3cret"), BaseException()])
def test_a_tracker_that_raises_is_closed_and_the_search_goes_on(tmp_path, notes, caplog, monkeypatch, bad):
    monkeypatch.setenv("A_SERVICE_API_KEY", "s3cret")
    study, good = create(tmp_path / "a"), notes("good")
    broken = notes("broken", bad=bad)
    with caplog.at_level(logging.WARNING, logger="secateur"):
        with Trackers(["broken", "good"], study.path) as listener:
            study.run(8, listener)
    assert list(good.kept) == list(range(8)) and list(broken.kept) == [0, 1, 2] and len(study.trials()) == 8
    assert (good.closed, broken.closed) == (1, 1)
    (warned,) = [record.getMessage() for record in caplog.records if record.name == "secateur"]
    assert warned.startswith(f"broken gets no more trials ({type(bad).__name__}")
    assert "the search goes on" in warned and "s3cret" not in warned


def test_one_warning_a_tracker_whatever_goes_wrong(tmp_path, notes, caplog):
    """One that can't be opened, one whose end fails, and one whose end fails after a trial did."""
    study, unopened, unclosed, both = create(tmp_path / "a"), notes("x"), notes("y"), notes("z", bad=ValueError("told"))
    for one in (unclosed, both):
        one.close = raising(OSError("the end"))
    unopened.open = raising(SystemExit(3))
    with caplog.at_level(logging.WARNING, logger="secateur"), Trackers(["x", "y", "z"], study.path) as listener:
        study.run(5, listener)
    assert len(study.trials()) == 5 and list(unclosed.kept) == list(range(5))
    said = sorted(record.getMessage().partition(";")[0] for record in caplog.records if record.name == "secateur")
    assert said == [
        "x gets no more trials (SystemExit: 3)",
        "y gets no more trials (OSError: the end)",
        "z gets no more trials (ValueError: told)",
    ]


def raising(error):
    def call(*given):
        raise error

    return call


def test_secrets_are_not_said(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    for text in (
        "401 for key 0123456789abcdef",
        "https://ann:hunter2@host/x failed",
        "https://host/x?api_key=unknown1&a=1 failed",
        '{"token": "unknown1", "a": 1}',
        "header Authorization: Bearer unknown1 was refused",
    ):
        said = trackers.without_secrets(text)
        assert "***" in said and not any(one in said for one in ("unknown1", "hunter2", "0123456789abcdef")), said
    assert trackers.without_secrets("no such host: example.org (port 80)") == "no such host: example.org (port 80)"


def test_a_tracker_that_waits_keeps_nobody_waiting(tmp_path, notes, caplog, monkeypatch):
    monkeypatch.setattr(trackers, "_DRAIN_S", 0.2)
    study, slow = create(tmp_path / "a"), notes("slow", wait=threading.Event())
    with Trackers(["slow"], study.path) as listener:
        study.run(8, listener)
    assert len(study.trials()) == 8 and list(slow.kept) == [0, 1, 2]
    assert "slow takes too long" in caplog.text
    slow.wait.set()


def test_tensorboard_writes_events_that_can_be_read(tmp_path):
    pytest.importorskip("tensorboardX")
    study = create(tmp_path / "a")
    for total in (3, 5):
        with Trackers(["tensorboard"], study.path) as listener:
            study.run(total, listener)
    found = {}
    for file in sorted((study.path / "tensorboard").glob("events.out.tfevents.*")):
        found |= scalars(file.read_bytes())
    errors = {step: value for (tag, step), value in found.items() if tag == "error"}
    assert errors == {step: pytest.approx(error) for step, error in enumerate(study.trials().error)}
    assert ("best_error", 4) in found and ("macs", 0) in found


def scalars(data):
    """Values by tag and step in a file of TensorBoard's events."""
    from tensorboardX.proto.event_pb2 import Event

    found, place = {}, 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = Event.FromString(data[place + 12 : place + 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        place += 16 + length
    return found


class Recorder:
    """Stands in for an object of a package: keeps calls, and takes the arguments that the real one takes."""

    def __init__(self, *methods):
        self.calls = []
        for like in methods:
            setattr(self, like.__name__, self._method(like))

    def _method(self, like):
        def call(*arguments, **named):
            bound = signature(like).bind(*arguments, **named)
            self.calls.append((like.__name__, bound.arguments))
            return like(*arguments, **named)

        return call


def package(monkeypatch, name, **contents):
    """A module that stands in for a package which may not be installed."""
    made = types.ModuleType(name)
    made.__spec__ = types.SimpleNamespace()
    for key, value in contents.items():
        setattr(made, key, value)
    monkeypatch.setitem(sys.modules, name, made)


def test_mlflow_has_one_run_a_study(tmp_path, monkeypatch):
    """Signatures are those of `MlflowClient` in MLflow 3."""
    experiments, runs = {}, []

    def get_experiment_by_name(name):
        return types.SimpleNamespace(experiment_id=experiments[name]) if name in experiments else None

    def create_experiment(name, artifact_location=None, tags=None):
        return experiments.setdefault(name, "7")

    def search_runs(
        experiment_ids, filter_string="", run_view_type=1, max_results=1000, order_by=None, page_token=None
    ):
        assert experiment_ids == ["7"] and filter_string == f"tags.`secateur.study` = '{name}'"
        return [run for run in runs if run.tags["secateur.study"] == name]

    def create_run(experiment_id, start_time=None, tags=None, run_name=None):
        runs.append(types.SimpleNamespace(info=types.SimpleNamespace(run_id="a-run"), tags=tags))
        return runs[0]

    def update_run(run_id, status=None, name=None):
        pass

    def log_batch(run_id, metrics=(), params=(), tags=(), synchronous=None):
        pass

    def set_terminated(run_id, status=None, end_time=None):
        pass

    methods = (get_experiment_by_name, create_experiment, search_runs, create_run, update_run, log_batch)
    client = Recorder(*methods, set_terminated)
    package(monkeypatch, "mlflow", MlflowClient=lambda tracking_uri=None, registry_uri=None: client)
    package(monkeypatch, "mlflow.entities", Metric=lambda key, value, timestamp, step: (key, value, timestamp, step))
    study = create(tmp_path / "a")
    name = read_study_json(study.path)["name"]
    for total in (2, 3):
        with Trackers(["mlflow"], study.path) as listener:
            study.run(total, listener)
    names = [name for name, _ in client.calls]
    assert runs[0].tags == {"secateur.study": name, "folder": str(study.path)}
    assert names.count("create_experiment") == names.count("create_run") == names.count("update_run") == 1
    assert names.count("set_terminated") == 2
    sent = [given for name, given in client.calls if name == "log_batch"]
    assert len(sent) == 3 and {given["run_id"] for given in sent} == {"a-run"}
    metrics = [metric for given in sent for metric in given["metrics"]]
    errors = {step: value for key, value, _, step in metrics if key == "error"}
    assert errors == dict(enumerate(study.trials().error))
    assert all(isinstance(moment, int) and moment > 10**12 for _, _, moment, _ in metrics), "milliseconds"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of MLflow's own
def test_the_packages_themselves_take_it(tmp_path, monkeypatch):
    mlflow, _ = pytest.importorskip("mlflow"), pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    study = create(tmp_path / "a")
    for total in (2, 3):
        with Trackers(["mlflow", "wandb"], study.path) as listener:
            study.run(total, listener)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("secateur").experiment_id])
    errors = {one.step: one.value for one in client.get_metric_history(run.info.run_id, "error")}
    assert run.info.status == "FINISHED" and errors == dict(enumerate(study.trials().error))
    name = read_study_json(study.path)["name"]
    assert len(list((tmp_path / "a" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))) == 2


def test_weights_and_biases_has_one_run_a_study(tmp_path, monkeypatch):
    """Signatures are those of `wandb.init` and `wandb.Run` in W&B 0.31."""

    def log(data, step=None, commit=None):
        pass

    def define_metric(name, step_metric=None, step_sync=None, hidden=None, summary=None, goal=None, overwrite=None):
        pass

    def finish(exit_code=None, quiet=None):
        pass

    run, asked = Recorder(log, define_metric, finish), []

    def init(
        entity=None,
        project=None,
        dir=None,
        id=None,
        name=None,
        config=None,
        mode=None,
        reinit=None,
        resume=None,
        save_code=None,
        settings=None,
    ):
        asked.append((id, resume, dir, reinit, save_code, settings))
        return run

    package(monkeypatch, "wandb", init=init)
    study = create(tmp_path / "a")
    with Trackers(["wandb"], study.path) as listener:
        study.run(3, listener)
    quiet = {"silent": True, "console": "off"}
    name = read_study_json(study.path)["name"]
    assert asked == [(name, "allow", str(study.path), "create_new", False, quiet)]
    data = [given["data"] for name, given in run.calls if name == "log"]
    assert [one["trial"] for one in data] == [0, 1, 2] and [one["error"] for one in data] == list(study.trials().error)
    assert ("define_metric", {"name": "*", "step_metric": "trial"}) in run.calls and run.calls[-1][0] == "finish"


def test_unknown_and_missing_trackers_are_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="did you mean 'mlflow'"):
        Trackers(["mlflw"], tmp_path)
    with pytest.raises(ImportError, match="wandb is not installed: pip install wandb"):
        Trackers(["wandb"], tmp_path)


def test_one_of_your_own_needs_no_name(tmp_path):
    study, mine, another = create(tmp_path / "a"), Notes(), Notes()
    with Trackers([mine, another], study.path) as listener:
        study.run(3, listener)
    assert list(mine.kept) == list(another.kept) == [0, 1, 2] and mine.closed == another.closed == 1


def test_what_is_no_tracker_is_refused_with_what_it_lacks(tmp_path, brought):
    half = types.SimpleNamespace(tell=print)
    with pytest.raises(TypeError, match=r"is a SimpleNamespace without open\(folder, name\) and close\(\)"):
        Trackers([half], tmp_path)
    brought("half", lambda: lambda: half)
    with pytest.raises(TypeError, match="tracker half is a SimpleNamespace without open"):
        Trackers(["half"], tmp_path)


@pytest.mark.parametrize("broken", [raising(ModuleNotFoundError("no module x")), lambda: raising(ValueError("no"))])
def test_a_broken_package_is_one_clear_error(tmp_path, brought, broken):
    brought("broken", broken)
    said = r"tracker 'broken' (of an installed package cannot be taken from package.*: |can't be made \()\w+Error: no"
    with pytest.raises(ImportError, match=said):
        Trackers(["broken"], tmp_path)


def test_a_brought_tracker_has_a_name_in_study_files(tmp_path, brought):
    brought("mine", lambda: Notes)
    assert check_trackers(["mine", "mlflow", "mine"]) == ("mine", "mlflow")
    file = write(tmp_path, "tracked") / "study.toml"
    text = file.read_text()
    assert "[study]\n" in text
    file.write_text(text.replace("[study]\n", '[study]\ntrack = ["mine"]\n'))
    assert read(file).study.track == ("mine",)
    file.write_text(text.replace("[study]\n", '[study]\ntrack = ["mime"]\n'))
    with pytest.raises(ValueError, match="tracker 'mime' is not known; did you mean 'mine'"):
        read(file)
