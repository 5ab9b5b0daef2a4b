"""Trials in processes of their own: the same table, whatever dies."""

import pandas as pd
import pytest
from chaos import Deadly
from killing import table
from landscapes import Instant, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study
from secateur.studies.processes import layout
from secateur.studies.runner import Runner


def create(path, **changes):
    model, task = tiny_net(), tiny_task()
    space = tiny_space(model)
    given = {"sampler": "tpe", "threads": 1, "training": tiny_training(), "evaluator": Instant(space)} | changes
    return Study.create(path, model=model, task=task, space=space, budget=Budget(macs=0.5), **given)


def test_the_table_is_that_of_a_serial_run(tmp_path):
    straight, other = create(tmp_path / "a", evaluator=None), create(tmp_path / "b", evaluator=None)
    straight.run(10)
    other.run(10, runner=Runner(kind="processes", workers=2))
    pd.testing.assert_frame_equal(table(straight), table(other))


def test_parents_and_rounds_travel(tmp_path):
    """Weights that trials start from are made by one worker and read by another."""
    for sampler in ("three-dimensions", "joint"):
        straight, other = (create(tmp_path / f"{sampler}-{i}", sampler=sampler, evaluator=None) for i in range(2))
        straight.run(9)
        other.run(9, runner=Runner(kind="processes", workers=2))
        pd.testing.assert_frame_equal(table(straight), table(other))
        assert {path.name for path in (straight.path / "weights").iterdir()} == {
            path.name for path in (other.path / "weights").iterdir()
        }


def test_a_worker_that_dies_costs_one_attempt_of_one_trial(tmp_path):
    study = create(tmp_path / "a", evaluator=None)
    study = create(tmp_path / "b", evaluator=Deadly(Instant(study.space), tmp_path))
    study.run(16, runner=Runner(kind="processes", workers=2, timeout_s=3.0))
    trials = study.trials()
    assert set(trials.state) == {"complete", "failed"} and len(trials) == 16
    raised = trials[trials.reason == "ValueError: a bad network"]
    late = trials[trials.reason == "timed out: not finished within 3 s"]
    assert len(raised) and len(late) and len(raised) + len(late) == (trials.state == "failed").sum()
    again = trials[trials.attempts > 1]
    assert len(again) and (again.state == "complete").all()


class Hidden(Instant):
    """In a module that no worker finds: the tests are no package."""


def test_what_workers_cannot_import_is_said_at_once(tmp_path):
    study = create(tmp_path / "a", evaluator=Hidden(tiny_space(tiny_net())))
    with pytest.raises(RuntimeError, match="workers can't do these trials: ModuleNotFoundError"):
        study.run(4, runner=Runner(kind="processes", workers=1))


def test_slots_and_gpus():
    gpus = ["3", "5"]
    assert layout(Runner(kind="processes"), threads=2, cpus=8, gpus=[], cuda=False) == (4, [])
    assert layout(Runner(kind="processes"), threads=2, cpus=8, gpus=gpus, cuda=True) == (2, [["3"], ["5"]])
    half = Runner(kind="processes", gpus_per_trial=0.5, workers=3)
    assert layout(half, threads=1, cpus=8, gpus=gpus, cuda=True) == (3, [["3"], ["3"], ["5"]])
    both = Runner(kind="processes", gpus_per_trial=2)
    assert layout(both, threads=1, cpus=8, gpus=gpus, cuda=True) == (1, [["3", "5"]])
    with pytest.raises(ValueError, match="ask for 3 GPUs, and this machine has 2"):
        layout(Runner(kind="processes", workers=3), threads=1, cpus=8, gpus=gpus, cuda=True)
    with pytest.raises(ValueError, match="this machine has 0"):
        layout(Runner(kind="processes", gpus_per_trial=0.5), threads=1, cpus=8, gpus=[], cuda=True)
