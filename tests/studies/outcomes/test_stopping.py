"""Trials that are stopped on the way up: told, never measured, never on the front."""

import pandas as pd
import pytest
from handmade import OBJECTIVES, trial
from landscapes import LANDSCAPES, searching, shares, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Search, Study
from secateur.evaluators import Result
from secateur.studies.outcomes.stopping import Stopping
from secateur.studies.trials.trial import Stopped

MODEL = tiny_net()
SPACE = tiny_space(MODEL)


def climbed(number, at_rung, final, macs, **changes):
    return trial(number, final, macs, attributes={"error_recalibrated": at_rung}, **changes)


def stopping(trials, batch=1, **changes):
    return Stopping(trials=trials, objectives=OBJECTIVES, batch=batch, fidelity="short", **changes)


def test_what_others_beat_stops_and_what_none_beats_goes_on():
    earlier = [climbed(i, 0.5 - 0.02 * i, 0.4 - 0.02 * i, 10 + i) for i in range(8)]
    rule = stopping(earlier)
    mine = trial(8, None, 30)
    assert rule.stops(mine, "recalibrated", 0.6)  # dearer than all, and worse
    assert not rule.stops(mine, "recalibrated", 0.1)
    assert not rule.stops(mine, "short", 0.6)  # there it ends by itself


def test_mates_of_a_batch_never_decide():
    earlier = [climbed(i, 0.1, 0.1, 1) for i in range(8)]
    assert stopping(earlier, batch=1).stops(trial(8, None, 30), "recalibrated", 0.6)
    assert not stopping(earlier, batch=16).stops(trial(8, None, 30), "recalibrated", 0.6)


def test_the_outcome_of_a_stopped_trial_is_predicted_by_those_that_climbed():
    """Finals are the rung's errors less 0.1: 0.45 there predicts 0.35; stopped ones and stand-ins teach nothing."""
    earlier = [climbed(i, 0.5 - 0.05 * i, 0.4 - 0.05 * i, 10) for i in range(4)]
    earlier.append(climbed(4, 0.45, 0.99, 10, stopped=True))
    found = stopping(earlier).outcome(trial(5, None, 10), "recalibrated", 0.45, 1.0, {"error_recalibrated": 0.45})
    assert isinstance(found, Stopped) and found.predicted == pytest.approx(0.35) and found.error == 0.45
    assert found.rung == "recalibrated" and "predicted" in found.reason


class Climbing:
    """An evaluator by formula with two rungs, which heeds what it is told at the first."""

    fingerprint = "climbing"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None):
        error = LANDSCAPES["bowl"](shares(SPACE, candidate))
        lower = {"error_recalibrated": min(1.0, error + 0.1)}
        if report is not None and report("recalibrated", lower["error_recalibrated"]):
            return Result(
                error=lower["error_recalibrated"],
                error_std=0.01,
                seconds=0.0,
                attributes=lower,
                rung="recalibrated",
                stopped=True,
            )
        return Result(error=error, error_std=0.01, seconds=0.0, attributes=lower | {"error_short": error}, rung="short")


def searched(folder, runs, **changes):
    study = Study.create(
        folder,
        model=MODEL,
        task=tiny_task(),
        space=SPACE,
        budget=Budget(macs=0.6),
        training=tiny_training(),
        **searching({"threads": 1, "evaluator": Climbing(), "early_stopping": True} | changes),
    )
    for trials in runs:
        study.run(trials)
    return study


def test_a_search_stops_trials_and_none_of_them_is_on_the_front(tmp_path):
    study = searched(tmp_path / "a", [40], sampler="random", batch=4)
    table = study.trials()
    stopped = table[~table.evaluated & table.reason.fillna("").str.startswith("stopped")]
    assert 5 < len(stopped) < 35
    assert not set(stopped.trial) & set(study.front().trial)
    assert study.status().skipped == len(stopped)
    assert not table[table.key.duplicated(keep=False) & (table.state == "complete")].shape[0]  # and none is tried again


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_search_in_two_runs_stops_the_same_trials(tmp_path, sampler):
    plain = ["trial", "key", "error", "evaluated", "reason"]
    one, two = (searched(tmp_path / str(len(runs)), runs, sampler=sampler) for runs in ([24], [9, 24]))
    pd.testing.assert_frame_equal(one.trials()[plain], two.trials()[plain])


def test_early_stopping_is_a_truth_value(tmp_path):
    with pytest.raises(ValueError, match="early_stopping='yes': expected true or false"):
        Study.create(
            tmp_path / "s",
            model=MODEL,
            task=tiny_task(),
            space=SPACE,
            budget=Budget(),
            search=Search(early_stopping="yes"),
        )
