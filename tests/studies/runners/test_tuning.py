"""Trials as trials of Ray Tune: the same table, Tune's own folders, and its schedulers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from killing import table
from landscapes import Instant, tiny_net, tiny_space, tiny_task
from tune_parts import Chatty, Napping, Odd, create

from secateur import Study, Training
from secateur.studies.runners.ray.tune import TuneExecutor
from secateur.studies.settings.runner import Tune
from secateur.testing import RunnerContract

ray = pytest.importorskip("ray")
schedulers = pytest.importorskip("ray.tune.schedulers")

TWO = Tune(workers=2)


@pytest.fixture(scope="module")
def cluster():
    """A Ray of this machine for all tests: the first thing that Tune looks for."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    yield
    ray.shutdown()


def results(study: Study, run: int = 1) -> dict[str, list[dict]]:
    """What Tune logged, by the names of its trials."""
    folder = study.path / "tune" / f"run-{run:03d}"
    files = sorted(folder.glob("*/result.json"))
    return {file.parent.name: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


class Impatient(schedulers.FIFOScheduler):
    """Stops every trial at its first epoch."""

    def on_trial_result(self, tune_controller, trial, result):
        assert all(value == value for value in result.values()) and "secateur" not in result
        return self.STOP if "loss" in result else self.CONTINUE


class Pausing(Impatient):
    """Would have every trial wait after its first epoch."""

    STOP = schedulers.TrialScheduler.PAUSE


@pytest.mark.slow  # a minute or two
def test_the_table_is_that_of_a_serial_run(tmp_path, cluster):
    straight, other = create(tmp_path / "a"), create(tmp_path / "b")
    straight.run(6)
    other.run(6, runner=TWO)
    pd.testing.assert_frame_equal(table(straight), table(other))
    logged = results(other)
    assert list(logged) == [f"trial-{number:04d}" for number in range(6)]
    for name, lines in logged.items():
        config = lines[-1]["config"]
        assert lines[-1]["costs"] == config["costs"] and "macs" in config["costs"]
        assert lines[-1]["error"] == other.trials().error[config["trial"]] and lines[-1]["done"]
        assert "secateur" not in lines[-1] and config["name"] == name
        assert set(config["axes"]) == {axis.name for axis in other.space.axes}
    assert len(list((other.path / "tune" / "run-001").glob("trial-*/events.out.tfevents.*"))) == 6
    assert not list((other.path / "tune").rglob("tuner.pkl"))


@pytest.mark.slow
def test_a_resumed_study_is_another_experiment_for_the_rest(tmp_path, cluster):
    straight, other = create(tmp_path / "a"), create(tmp_path / "b")
    straight.run(9)
    for total in (5, 9):
        other.run(total, runner=TWO)
    pd.testing.assert_frame_equal(table(straight), table(other))
    assert list(results(other, 1)) == [f"trial-{number:04d}" for number in range(5)]
    assert list(results(other, 2)) == [f"trial-{number:04d}" for number in range(5, 9)]


@pytest.mark.slow
def test_parents_and_rounds_travel(tmp_path, cluster):
    """Weights that trials start from are made by one worker and read by another; no scheduler sees a round."""
    for sampler in ("three-dimensions", "joint"):
        straight, other = (create(tmp_path / f"{sampler}-{i}", sampler=sampler) for i in range(2))
        straight.run(9)
        other.run(9, runner=Tune(workers=2, scheduler=Impatient()))
        pd.testing.assert_frame_equal(table(straight), table(other))
        assert {path.name for path in (straight.path / "weights").iterdir()} == {
            path.name for path in (other.path / "weights").iterdir()
        }
    assert "round-0" in results(other)


@pytest.mark.slow  # a Ray Tune run of its own
def test_a_scheduler_stops_trials_and_none_of_them_counts(tmp_path, cluster):
    study = create(tmp_path / "a", training=Training(lr=0.05, short_epochs=6, recalibration_images=64))
    asha = schedulers.ASHAScheduler(grace_period=1, reduction_factor=2, max_t=6)
    study.run(4, runner=Tune(workers=1, folder=tmp_path / "elsewhere", scheduler=asha))
    trials = study.trials()
    stopped = trials[trials.reason.fillna("").str.startswith("stopped by Tune's scheduler after epoch")]
    assert len(stopped) and len(stopped) < 4 and not stopped.evaluated.any()
    assert (trials.state == "complete").all() and trials.drop(stopped.index).evaluated.all()
    assert stopped.error.notna().all()
    assert not set(stopped.index) & set(study.front().trial)
    assert len(list((tmp_path / "elsewhere" / "run-001").glob("trial-*"))) == 4


@pytest.mark.slow
def test_a_trial_that_has_only_to_be_measured_is_not_stopped(tmp_path, cluster):
    once, twice = (create(tmp_path / str(epochs), training=Training(lr=0.05, short_epochs=epochs)) for epochs in (1, 2))
    once.run(3, runner=Tune(workers=2, scheduler=Impatient()))
    twice.run(3, runner=Tune(workers=2, scheduler=Impatient()))
    assert once.trials().evaluated.all() and not twice.trials().evaluated.any()


@pytest.mark.slow
def test_a_pause_is_a_stop(tmp_path, cluster):
    study = create(tmp_path / "a", training=Training(lr=0.05, short_epochs=2))
    study.run(3, runner=Tune(workers=2, scheduler=Pausing()))
    assert (study.trials().state == "complete").all() and not study.trials().evaluated.any()


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_finishes_what_runs_and_a_second_one_leaves(tmp_path, cluster, times):
    seconds = 4.0 if times == 1 else 300.0
    study, tune = create(tmp_path / "a", evaluator=Napping(Instant(tiny_space(tiny_net())), seconds)), TuneExecutor(TWO)

    def interrupt():
        while not (tune.describe(0).pid and tune.describe(1).pid):
            time.sleep(0.05)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        study.run(4, runner=tune)
    thread.join()
    assert not [one for one in threading.enumerate() if one.name == "secateur-tune"]
    states = list(study.trials().state)
    assert states == ["complete", "complete", "running", "running"] if times == 1 else set(states) == {"running"}


def test_what_can_never_be_is_refused_at_once(tmp_path, cluster):
    study = create(tmp_path / "a", evaluator=Instant(tiny_space(tiny_net())))
    for asked, said in [
        (Tune(workers=64), "room for 2"),
        (Tune(gpus_per_trial=1), "GPU=0"),
        (Tune(address="ray://head:10001"), "kind='ray'"),
        (Tune(workers=2, scheduler=schedulers.HyperBandScheduler()), "only stops trials"),
        (Tune(workers=2, scheduler=len), "only stops trials"),
    ]:
        with pytest.raises(ValueError, match=said):
            study.run(4, runner=asked)
    with pytest.raises(ValueError, match="asha, median"):
        Tune(workers=2, scheduler="hyperband")


@pytest.mark.slow
def test_what_workers_cannot_import_is_said_at_once(tmp_path, cluster, monkeypatch):
    here = ModuleType("only_here")
    exec("from landscapes import Instant\nclass Hidden(Instant): pass", here.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", here)
    study = create(tmp_path / "a", evaluator=here.Hidden(tiny_space(tiny_net())))
    with pytest.raises(RuntimeError, match="workers can't do these trials: ModuleNotFoundError"):
        study.run(4, runner=Tune(workers=1))


@pytest.mark.slow
def test_a_worker_that_dies_costs_one_attempt_of_one_trial(tmp_path, cluster):
    (tmp_path / "marks").mkdir()
    study = create(tmp_path / "a", evaluator=Odd(Instant(tiny_space(tiny_net())), tmp_path / "marks"))
    study.run(8, runner=TWO)
    trials = study.trials()
    left = "the code of the model, task or evaluator called sys.exit('enough')"
    raised = trials[trials.reason.isin(["ValueError: a bad network", left])]
    assert len(raised) == (trials.state == "failed").sum() and (raised.attempts == 1).all()
    again = trials[trials.attempts == 2]
    assert len(again) and (again.state == "complete").all() and trials.attempts.max() == 2
    names = {path.name for path in (study.path / "tune" / "run-001").glob("trial-*-attempt-2")}
    assert names == {f"trial-{number:04d}-attempt-2" for number in again.index}


@pytest.mark.slow
def test_a_trial_that_hangs_is_given_up(tmp_path, cluster):
    study = create(tmp_path / "a", evaluator=Napping(Instant(tiny_space(tiny_net())), seconds=60.0))
    study.run(2, runner=Tune(workers=2, timeout_s=1.0))
    assert set(study.trials().reason) == {"timed out: not finished within 1 s"}


@pytest.mark.slow
def test_idle_workers_that_die_are_replaced(tmp_path, cluster):
    (tmp_path / "pids").mkdir()
    study = create(tmp_path / "a", evaluator=Napping(Instant(tiny_space(tiny_net())), 0.1, tmp_path / "pids"))
    killed = []

    def kill(event):
        if event.done == 4:  # a batch has ended, and nothing runs
            for path in (tmp_path / "pids").iterdir():
                with suppress(ProcessLookupError):  # between batches Tune ends all idle workers but one
                    os.kill(int(path.name), signal.SIGKILL)
                    killed.append(path.name)

    study.run(6, kill, runner=TWO)
    assert killed and len(study.trials()) == 6 and study.trials().evaluated.all()


@pytest.mark.slow
def test_a_killed_driver_loses_and_doubles_nothing(tmp_path):
    """SIGKILL in mid-search, twice; then to the end."""
    straight = create(tmp_path / "a", evaluator=Napping(Instant(tiny_space(tiny_net())), seconds=0.0))
    straight.run(24)
    program = Path(__file__).parents[2] / "tune_parts.py"
    command = [sys.executable, str(program), str(tmp_path / "b"), "24"]
    for wait_s in (0.3, 0.9, None):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            assert process.stdout.readline().strip() == "ready"
            if wait_s is not None:
                time.sleep(wait_s)
                process.kill()
            code = process.wait()
        assert code == (0 if wait_s is None else -signal.SIGKILL)
    napping = Napping(Instant(tiny_space(tiny_net())))
    other = Study.open(tmp_path / "b", model=tiny_net(), task=tiny_task(), evaluator=napping)
    pd.testing.assert_frame_equal(table(straight), table(other))
    assert [path.name for path in sorted((tmp_path / "b" / "tune").iterdir())] == ["run-001", "run-002", "run-003"]


@pytest.mark.slow  # a Ray Tune run of its own
def test_a_result_an_epoch_and_a_last_one_with_the_outcome(tmp_path, cluster):
    """What is wrong, or asks to leave, fails the trial; what ends a process loses the worker; each on a used worker."""
    ends = ("", "raise", "exit", "kill")
    study = create(tmp_path / "a", evaluator=Chatty(Instant(tiny_space(tiny_net())), tmp_path, ends=ends))
    study.run(5, runner=Tune(workers=1, retries=0))
    logged, trials = results(study), study.trials()
    for number, lines in enumerate(logged.values()):
        assert [line["epoch"] for line in lines[:3]] == [1, 2, 3] and {line["epochs"] for line in lines[:3]} == {3}
        assert [line["loss"] for line in lines[:3]] == [1.0, 1 / 2, 1 / 3]
        assert [line["done"] for line in lines] == [False] * 3 + [True] * (number != 3)
        assert [line["training_iteration"] for line in lines] == list(range(1, len(lines) + 1))
        kept = [set(line) - {"state", "attributes"} for line in lines]
        assert all(columns == kept[0] for columns in kept)  # one header for Tune's CSV
    assert [lines[-1].get("state") for lines in logged.values()] == [
        *("complete", "failed", "failed", None, "complete")
    ]
    assert logged["trial-0000"][-1]["error"] == trials.error[0]
    assert trials.reason[1] == "ValueError: a bad network"
    assert trials.reason[2] == "the code of the model, task or evaluator called sys.exit('enough')"
    assert trials.reason[3].startswith("its worker died 1 times: ")
    pids = [{line["pid"] for line in lines} for lines in logged.values()]
    assert pids[0] == pids[1] == pids[2] == pids[3] != pids[4] and len(pids[0]) == 1


@pytest.mark.slow
def test_a_trial_that_is_stopped_ends_at_its_last_result_and_its_worker_goes_on(tmp_path, cluster):
    study = create(tmp_path / "a", evaluator=Chatty(Instant(tiny_space(tiny_net())), tmp_path))
    study.run(3, runner=Tune(workers=1, scheduler=Impatient()))
    lines = results(study)
    assert [len(one) for one in lines.values()] == [1, 1, 1]
    assert len({one[0]["pid"] for one in lines.values()}) == 1
    assert set(study.trials().reason) == {"stopped by Tune's scheduler after epoch 1 of 3, where its loss was 1.0000"}
    assert len(list(tmp_path.glob("began-*"))) == 3 and not list(tmp_path.glob("ended-*"))


@pytest.mark.slow
class TestContract(RunnerContract):
    @pytest.fixture(autouse=True)
    def on(self, cluster):
        """Ray is there."""

    def runner(self):
        return TWO
