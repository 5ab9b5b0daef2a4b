"""Trials that start from other weights than the full network's: shared ones, and those of a parent."""

import json

import pandas as pd
import pytest
from killing import table
from landscapes import searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study, load
from secateur.evaluators import measure_error

MODEL = tiny_net()
SPACE = tiny_space(MODEL)
TASK = tiny_task()


def create(path, **changes):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.5), "threads": 1, "batch": 2}
    training = tiny_training(shared_epochs=2, round_epochs=1, shared_networks=1)
    return Study.create(path, **searching({**given, "training": training, "seeds": ("full", "uniform"), **changes}))


def reopen(path):
    return Study.open(path, model=MODEL, task=TASK)


def test_shared_weights_are_trained_once_and_score_every_candidate(tmp_path):
    study = create(tmp_path / "s", evaluator="shared-weights", sampler="random")
    study.run(10)
    trials = study.trials()
    assert set(trials.weights) == {"round:0"} and set(trials.fidelity) == {"recalibrated"}
    assert (trials.state == "complete").all()
    assert [path.name for path in (study.path / "weights").iterdir()] == ["round-0.safetensors"]
    # Ranking and weights of methods do not count: what is shared was trained for one ranking.
    assert trials.ranking.nunique() == 1


@pytest.mark.parametrize(("sampler", "trials", "cut"), [("joint", 12, (3, 7)), ("three-dimensions", 9, (2, 6))])
def test_a_search_in_several_runs_is_the_same(tmp_path, sampler, trials, cut):
    straight = create(tmp_path / "a", sampler=sampler, seeds=("full",))
    straight.run(trials)
    broken = create(tmp_path / "b", sampler=sampler, seeds=("full",))
    for total in cut:
        broken.run(total)
    other = reopen(tmp_path / "b")
    other.run(trials)
    pd.testing.assert_frame_equal(table(straight), table(other))
    named = set(straight.trials().weights)
    assert named & ({"round:1", "round:2"} if sampler == "joint" else {f"trial:{n}" for n in range(1, trials)})


def test_what_starts_from_a_parent_is_exported_with_its_weights(tmp_path):
    study = create(tmp_path / "s", sampler="three-dimensions", seeds=("full",))
    study.run(9)
    trials = study.trials()
    child = int(trials.trial[trials.weights.str.startswith("trial:")].iloc[0])
    (folder,) = study.export(tmp_path / "out", pick=child, finetune_epochs=1, formats=())
    found = json.loads((folder / "config.json").read_text())
    net = load(folder, model=tiny_net(seed=5))
    side = tuple(found["resolution"])
    assert measure_error(net, TASK, split="test", resolution=side).compute() == found["errors"]["test_error"]
    assert trials.source[child] == "reference" or trials.within[child]


def test_joint_takes_shared_weights_by_itself_and_an_unknown_evaluator_is_refused(tmp_path):
    assert create(tmp_path / "a", sampler="joint").fingerprint["evaluator"] == "shared-weights"
    assert create(tmp_path / "b", sampler="random").fingerprint["evaluator"] == "ladder"
    with pytest.raises(ValueError, match="expected one of auto, ladder, shared-weights"):
        create(tmp_path / "c", evaluator="supernet")
    assert not (tmp_path / "c").exists()
