"""What fails in a trial is the trial's; what fails in all of them ends the search, which says why."""

import errno

import chaos
import pandas as pd
import pytest
import torch
from killing import table
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study
from secateur.evaluators import Result
from secateur.studies.disk import files
from secateur.studies.settings.runner import Processes, Serial


def create(path, evaluator, **changes):
    model, task = tiny_net(), tiny_task()
    space = tiny_space(model)
    given = {"sampler": "random", "threads": 1, "training": tiny_training()} | changes
    return Study.create(
        path,
        model=model,
        task=task,
        space=space,
        budget=Budget(macs=0.5),
        **searching({"evaluator": evaluator(Instant(space))} | given),
    )


class Failing:
    """Answers by formula, or fails the way `how` says, by the number of the call."""

    def __init__(self, instant, how):
        self.instant, self.how, self.calls, self.fingerprint = instant, how, 0, "failing"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        self.calls += 1
        found = self.how(self.calls)
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, Result):
            return found
        return self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)


def test_exceptions_and_nan_are_failed_trials_and_the_search_goes_on(tmp_path):
    nan = Result(error=float("nan"), error_std=None, seconds=0.0)
    how = {3: ValueError("bad\n network"), 5: nan, 6: MemoryError(), 8: torch.OutOfMemoryError("CUDA")}.get
    study = create(tmp_path / "a", lambda instant: Failing(instant, how))
    study.run(12)
    trials = study.trials()
    assert list(trials.trial[trials.state == "failed"]) == [2, 4, 5, 7]
    assert list(trials.reason.dropna()) == [
        "ValueError: bad network",
        "the error is nan, not a finite number",
        "MemoryError",
        "OutOfMemoryError: CUDA",
    ]


class Odd(BaseException):
    """As those that test frameworks and event loops raise."""


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def test_whatever_is_raised_is_a_reason_in_one_line(tmp_path):
    raised = {3: Odd("x"), 4: GeneratorExit(), 6: Speechless(), 7: ValueError("x" * 5000), 9: SystemExit("x" * 5000)}
    study = create(tmp_path / "a", lambda instant: Failing(instant, raised.get))
    study.run(12)
    reasons = study.trials().reason.dropna()
    assert list(reasons.index) == [2, 3, 5, 6, 8]
    assert list(reasons)[:3] == ["Odd: x", "GeneratorExit", "Speechless"]
    assert reasons[6].startswith("ValueError: xxx") and reasons[6].endswith("...") and reasons.str.len().max() == 1000


def test_an_interrupt_is_no_trials_own(tmp_path):
    study = create(tmp_path / "a", lambda instant: Failing(instant, {3: KeyboardInterrupt()}.get))
    with pytest.raises(KeyboardInterrupt):
        study.run(12)
    study.run(12)
    assert set(study.trials().state) == {"complete"}


def test_the_last_ten_that_failed_end_the_search(tmp_path):
    study = create(tmp_path / "a", lambda instant: Failing(instant, lambda n: ValueError(f"no {n}") if n > 5 else None))
    with pytest.raises(RuntimeError, match="the last 10 trials all failed.*ValueError: no 15"):
        study.run(40)
    assert study.status().told == 15


def test_all_that_raise_alike_end_the_search_at_once(tmp_path):
    evaluator = None

    def make(instant):
        nonlocal evaluator
        evaluator = Failing(instant, lambda n: KeyError("label") if n <= 4 else None)
        return evaluator

    study = create(tmp_path / "a", make)
    with pytest.raises(RuntimeError, match="all 4 trials so far failed alike.*KeyError: 'label'.*Mend the model"):
        study.run(40)
    assert evaluator.calls == 4
    study.run(12)  # mended: it goes on
    assert (study.trials().state == "complete").sum() == 8


def test_one_failure_after_another_of_batches_of_one(tmp_path):
    study = create(tmp_path / "a", lambda instant: Failing(instant, lambda n: ValueError("x")), batch=1)
    with pytest.raises(RuntimeError, match="all 3 trials so far failed alike"):
        study.run(40)
    with pytest.raises(RuntimeError, match="all 4 trials so far failed alike"):
        study.run(40)


def test_what_only_the_largest_networks_fail_by_ends_no_search(tmp_path):
    """The first ones are often the largest: memory and time are no reason to stop so early."""
    memory = Result(error=float("nan"), error_std=None, seconds=0.0, state="failed", reason="out of memory: x")
    study = create(tmp_path / "a", lambda instant: Failing(instant, lambda n: memory if n <= 8 else None))
    study.run(12)
    assert (study.trials().state == "complete").sum() == 4


def test_asynchronous_searches_stop_as_well(tmp_path):
    study = create(tmp_path / "a", lambda instant: Failing(instant, lambda n: ValueError("x")))
    with pytest.raises(RuntimeError, match="all 3 trials so far failed alike"):
        study.run(40, runner=Serial(asynchronous=True))


def test_errors_of_the_system_are_tried_again(tmp_path):
    study = create(tmp_path / "a", lambda instant: Failing(instant, lambda n: OSError("gone") if n in (2, 3) else None))
    study.run(4)
    assert list(study.trials().attempts) == [1, 3, 1, 1] and set(study.trials().state) == {"complete"}


def test_a_full_disk_ends_the_search_and_costs_no_trial(tmp_path, monkeypatch):
    """Weights can't be written: no trial is told as failed, and the search goes on when there is room."""
    study, straight = (create(tmp_path / name, lambda _: None, sampler="three-dimensions") for name in "ab")
    straight.run(6)
    write = files.write

    def full(path, data):
        if path.suffix != ".json" and "slots" not in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        with pytest.raises(OSError, match="the disk is full"):
            study.run(6)
    assert (study.trials().state == "running").all()
    study.run(6)
    pd.testing.assert_frame_equal(table(study), table(straight))


def test_what_cannot_be_sent_is_a_failed_trial(tmp_path):
    study = create(tmp_path / "a", lambda instant: chaos.Odd(instant, tmp_path, "unsendable"))
    study.run(2, runner=Processes(workers=1))
    assert set(study.trials().state) == {"failed"}
    assert study.trials().reason.str.startswith("what the evaluator gave back can't be sent").all()
