"""Rounds of shared weights: each trained once, from the one before, the same whatever interrupted it."""

import pytest
import torch
from landscapes import tiny_net, tiny_space, tiny_task
from safetensors.torch import load_file

from secateur.evaluators import Training, measure_error, recalibrate
from secateur.search import Problem
from secateur.search.joint.ratios import Ratios
from secateur.spaces import build
from secateur.studies.outcomes.rounds import Rounds

TASK = tiny_task()
TRAINING = Training(lr=0.05, recalibration_images=64)


class Killed(Exception):
    pass


class Killer:
    """Kills a training after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def after_epoch(self, loop):
        if loop.epoch == self.epoch:
            raise Killed


def rounds(folder, callbacks=(), seed=0, **settings):
    model = tiny_net()
    space = tiny_space(model)
    half = 0.5 * space.full_costs["macs"]
    problem = Problem(space=space, limits={"macs": half}, seed=seed)
    settings = {"first_epochs": 3, "later_epochs": 1, "networks": 1} | settings
    folder.mkdir(exist_ok=True)
    return Rounds(
        folder=folder, model=model, problem=problem, task=TASK, training=TRAINING, callbacks=callbacks, **settings
    )


def center(found):
    return Ratios(found.problem, found.problem.limits).uniform().tolist()


def equal(a, b):
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_round_is_trained_once_and_starts_from_the_one_before(tmp_path):
    found = rounds(tmp_path / "a")
    base = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    assert found.ensure(0) == "round:0" and found.path(0).exists() and found.seconds(0) > 0
    written = found.path(0).stat().st_mtime_ns
    assert found.ensure(0) == "round:0" and found.path(0).stat().st_mtime_ns == written
    assert found.ensure(1, center(found)) == "round:1"
    assert not equal(found.path(0), found.path(1))
    assert all(torch.equal(tensor, base[name]) for name, tensor in found.model.state_dict().items())
    assert sorted(path.name for path in found.path(0).parent.iterdir()) == [
        "round-0.safetensors",
        "round-1.safetensors",
    ]
    still = rounds(tmp_path / "b", later_epochs=0)
    still.ensure(0)
    still.ensure(1)
    assert equal(still.path(0), still.path(1)) and equal(still.path(0), found.path(0))


def test_the_weights_depend_on_seed_and_center_alone(tmp_path):
    one, again, other = rounds(tmp_path / "a"), rounds(tmp_path / "b"), rounds(tmp_path / "c", seed=1)
    for found in (one, again, other):
        found.ensure(0)
        found.ensure(1, center(found))
    assert equal(one.path(1), again.path(1)) and not equal(one.path(0), other.path(0))
    elsewhere = rounds(tmp_path / "d")
    elsewhere.ensure(0)
    elsewhere.ensure(1, elsewhere.problem.space.axes and [1.0] * len(elsewhere.problem.space.axes))
    assert equal(one.path(0), elsewhere.path(0)) and not equal(one.path(1), elsewhere.path(1))


def test_a_kill_loses_an_epoch_and_changes_nothing(tmp_path):
    whole = rounds(tmp_path / "whole")
    whole.ensure(0)
    with pytest.raises(Killed):
        rounds(tmp_path / "killed", callbacks=(Killer(2),)).ensure(0)
    again = rounds(tmp_path / "killed", callbacks=(Killer(1),))  # the first epoch is not trained a second time
    assert not again.path(0).exists()
    again.ensure(0)
    assert equal(whole.path(0), again.path(0))


def test_another_question_is_refused(tmp_path):
    found = rounds(tmp_path / "a")
    with pytest.raises(ValueError, match="starts from round 0"):
        found.ensure(1)
    with pytest.raises(ValueError, match="from 0"):
        found.ensure(-1)
    found.ensure(0)
    found.ensure(1, center(found))
    with pytest.raises(ValueError, match="another center"):
        found.ensure(1, [1.0] * len(center(found)))
    with pytest.raises(ValueError, match="another epochs"):
        rounds(tmp_path / "a", first_epochs=2).ensure(0)


def test_j8_a_score_does_not_depend_on_what_was_scored_before(tmp_path):
    found = rounds(tmp_path / "a")
    found.ensure(0)
    space, weights = found.problem.space, load_file(found.path(0))

    def score(candidate):
        small, side = build(found.model, space, candidate, weights=weights), space.side(candidate)
        recalibrate(small, TASK, images=64, resolution=side)
        return measure_error(small, TASK, resolution=side).compute(), [t.clone() for t in small.buffers()]

    one, other = space.uniform(0.5, 0.5, 0.7), space.uniform(0.75)
    alone = score(one)
    score(other)
    score(space.smallest)
    after = score(one)
    assert alone[0] == after[0]
    assert all(torch.equal(a, b) for a, b in zip(alone[1], after[1], strict=True))
