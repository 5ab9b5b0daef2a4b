import copy
import math

import networks
import pytest
import tasks
import torch
from torch import nn

from secateur.evaluators import (
    Context,
    Ladder,
    Origin,
    Reconstructor,
    Teacher,
    Training,
    measure_error,
    recalibrate,
    train,
)
from secateur.evaluators.modes import derived_seed
from secateur.spaces import Space, build

WAY = ("zero-shot", "recalibrated", "short", "long")
TRAINING = Training(lr=0.05, short_epochs=2, long_epochs=4)


class NoTest:
    """A task whose test split must not be asked for."""

    def __init__(self, task):
        self.task = task

    def __getattr__(self, name):
        return getattr(self.task, name)

    def loader(self, split, resolution, seed):
        assert split != "test"
        return self.task.loader(split, resolution, seed)


def base(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return networks.Plain(4, 3)


def evaluate(ladder, fidelity="short", *, model=None, seed=0, **settings):
    given = base() if model is None else model
    build = lambda: copy.deepcopy(given)  # noqa: E731
    return ladder(build, candidate="a", resolution=None, fidelity=fidelity, seed=seed, **settings)


def same(a, b):
    assert a.error == b.error and a.error_std == b.error_std and a.attributes == b.attributes
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


@pytest.mark.parametrize("fidelity", WAY[1:])
def test_every_rung_is_reported_and_the_last_is_the_error(fidelity):
    rungs, seen = WAY[1 : WAY.index(fidelity) + 1], []
    ladder = Ladder(NoTest(tasks.classification()), TRAINING)
    result = evaluate(ladder, fidelity, report=lambda rung, error: seen.append((rung, error)))
    assert result.state == "complete" and result.reason is None and result.seconds > 0
    assert seen == [(rung, result.attributes[f"error_{rung}"]) for rung in rungs]
    assert result.error == seen[-1][1] and result.error_std > 0
    assert result.rung == fidelity and not result.stopped


@pytest.mark.parametrize("last", ["zero-shot", "recalibrated", "short", "long"])
def test_a_report_ends_the_climb(last):
    task, seen = tasks.classification(), []
    ladder = Ladder(task, TRAINING, proxy=lambda candidate: {"a": 7}[candidate])
    result = evaluate(ladder, "long", report=lambda rung, error: seen.append((rung, error)) or rung == last)
    assert [rung for rung, _ in seen] == list(WAY[: WAY.index(last) + 1])
    assert result.attributes == {f"error_{rung}": error for rung, error in seen}
    assert result.state == "complete" and result.rung == last and result.error == seen[-1][1]
    assert result.stopped == (last != "long")  # at the top there is nothing to be spared
    if last == "zero-shot":
        assert result.weights is None and result.error_std is None
    else:
        whole = evaluate(Ladder(task, TRAINING), last)
        assert result.error == whole.error and result.error_std == whole.error_std
        assert all(torch.equal(result.weights[name], value) for name, value in whole.weights.items())


def test_zero_shot_builds_no_network():
    ladder = Ladder(tasks.classification(), TRAINING, proxy=len)
    result = ladder(lambda: 1 / 0, candidate=(3, 4), resolution=None, fidelity="zero-shot")
    assert result.error == 2.0 and result.state == "complete" and result.rung == "zero-shot" and not result.stopped


def test_a_proxy_that_gives_no_number_is_a_failed_result():
    result = evaluate(Ladder(tasks.classification(), TRAINING, proxy=lambda candidate: math.nan), "recalibrated")
    assert result.state == "failed" and "the proxy says nan" in result.reason


def test_the_seeds_of_rungs_are_fixed():
    """Training seeds of before there was a rung below: (seed, 1) and (seed, 2)."""
    task, model = tasks.classification(), base()
    recalibrate(model, task)
    for number, epochs, rung in ((1, 2, "short"), (2, 4, "long")):
        train(model, task, TRAINING, epochs=epochs, seed=derived_seed(5, number))
        assert measure_error(model, task).compute() == evaluate(Ladder(task, TRAINING), rung, seed=5).error


def test_a_teacher_is_heard_in_every_training_and_once():
    task, teacher = tasks.classification(), Teacher(model=base(3))
    ladder = Ladder(task, TRAINING, teacher=teacher)
    result = evaluate(ladder, "long")
    assert ladder.teacher.answers.shape == (96, 3) and teacher.answers is None
    kept = ladder.teacher
    same(evaluate(ladder, "long"), result)
    assert ladder.teacher is kept
    model = base()
    recalibrate(model, task)
    for number, epochs in ((1, 2), (2, 4)):
        train(model, task, TRAINING, epochs=epochs, seed=derived_seed(0, number), teacher=teacher)
    assert all(torch.equal(result.weights[name], value) for name, value in model.state_dict().items())
    without = evaluate(Ladder(task, TRAINING), "long")
    assert without.attributes["error_recalibrated"] == result.attributes["error_recalibrated"]
    assert not torch.equal(without.weights["fc.weight"], result.weights["fc.weight"])


def test_lower_rungs_are_the_same_on_the_way_up():
    ladder = Ladder(tasks.classification(), TRAINING)
    low, high = evaluate(ladder, "recalibrated"), evaluate(ladder, "long")
    assert low.error == high.attributes["error_recalibrated"]
    assert evaluate(ladder, "short").error == high.attributes["error_short"]


def test_a_score_does_not_depend_on_what_was_evaluated_before():
    ladder = Ladder(tasks.classification(), TRAINING)
    alone = evaluate(Ladder(tasks.classification(), TRAINING))
    evaluate(ladder, model=base(7), seed=3)
    same(evaluate(ladder), alone)


def test_weights_are_those_that_were_measured():
    task, model = tasks.classification(), base()
    result = evaluate(Ladder(task, TRAINING))
    model.load_state_dict(result.weights)
    assert measure_error(model, task).compute() == result.error


def origin(model):
    space = Space.trace(model.eval(), torch.rand(1, 3, 8, 8), divisor=1)
    return Origin(model=model, space=space, candidate=space.uniform(width=0.5))


def test_reconstruction_starts_from_inherited_weights_and_statistics():
    task, full, seen = tasks.classification(), base(), []
    given = origin(full)
    small = build(full, given.space, given.candidate)
    ladder = Ladder(NoTest(task), TRAINING)
    context = Context(origin=given)
    said = lambda rung, error: seen.append(rung)  # noqa: E731
    result = evaluate(ladder, "reconstructed", model=small, context=context, report=said)
    assert seen == ["recalibrated", "reconstructed"] and result.rung == "reconstructed" and not result.stopped
    alone = copy.deepcopy(small)
    images = torch.cat([task.prepare(b, torch.device("cpu"))[0] for b in task.loader("train", None, None)])
    Reconstructor(task, images=2048)(alone, given)
    assert len(images) == 96 and measure_error(alone, task).compute() == result.error
    assert all(torch.equal(result.weights[name], value) for name, value in alone.state_dict().items())
    assert torch.equal(alone.bn1.running_var, small.bn1.running_var)
    same(evaluate(ladder, "reconstructed", model=small, context=context), result)
    first = evaluate(Ladder(task, TRAINING), "recalibrated", model=small)
    assert first.error == result.attributes["error_recalibrated"]


def test_reconstruction_needs_an_origin():
    with pytest.raises(ValueError, match="nobody says what the network was cut from"):
        evaluate(Ladder(tasks.classification(), TRAINING), "reconstructed")


def test_reconstruction_that_diverges_is_a_failed_result():
    full = base()
    given = origin(full)
    with torch.no_grad():
        full.fc.bias.fill_(math.inf)
    small = build(full, given.space, given.candidate)
    result = evaluate(
        Ladder(tasks.classification(), TRAINING), "reconstructed", model=small, context=Context(origin=given)
    )
    assert result.state == "failed" and "not finite" in result.reason


def test_the_lowest_rung_is_inherited_weights_recalibrated():
    task, model = tasks.classification(), base()
    result = evaluate(Ladder(task, TRAINING), "recalibrated")
    recalibrate(model, task)
    assert measure_error(model, task).compute() == result.error
    assert all(torch.equal(result.weights[name], value) for name, value in model.state_dict().items())


def test_resolution_is_that_of_training_and_validation():
    task = tasks.classification()
    ladder = Ladder(task, TRAINING)
    small = ladder(base, candidate="a", resolution=(4, 4), fidelity="recalibrated", seed=0)
    assert isinstance(small.error, float)


def test_fine_tuning_helps():
    result = evaluate(Ladder(tasks.classification(), TRAINING), "long")
    assert result.error < result.attributes["error_recalibrated"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_the_models(dtype):
    result = evaluate(Ladder(tasks.classification(), TRAINING, dtype=dtype))
    assert result.state == "complete"
    assert all(value.dtype == dtype for value in result.weights.values() if value.is_floating_point())


def test_a_training_that_diverges_is_a_failed_result():
    result = evaluate(Ladder(tasks.classification(), Training(lr=1e30, momentum=0)))
    assert result.state == "failed" and "diverged" in result.reason and "lower lr" in result.reason
    assert math.isnan(result.error) and result.weights is None


def test_weights_that_are_not_numbers_are_a_failed_result():
    model = base()
    nn.init.constant_(model.fc.bias, float("nan"))
    result = evaluate(Ladder(tasks.classification(), TRAINING), "recalibrated", model=model)
    assert result.state == "failed" and "not finite" in result.reason


def test_memory_that_runs_out_is_a_failed_result():
    class Greedy(networks.Plain):
        def forward(self, x):
            return super().forward(x) + torch.empty(2**60)[:3]  # an exbibyte: no machine has it

    result = evaluate(Ladder(tasks.classification(), TRAINING), model=Greedy(4, 3))
    assert result.state == "failed" and result.reason.startswith("out of memory")


def test_mistakes_are_raised():
    wrong = networks.Plain(4, 5)
    with pytest.raises(ValueError, match="the labels need"):
        evaluate(Ladder(tasks.classification(), TRAINING), model=wrong)
    with pytest.raises(RuntimeError, match="expected input"):
        evaluate(Ladder(tasks.classification(), TRAINING), model=nn.Conv2d(5, 3, 1))


def test_threads_are_put_back():
    before = torch.get_num_threads()
    evaluate(Ladder(tasks.classification(), TRAINING, threads=before + 1), "recalibrated")
    assert torch.get_num_threads() == before


def test_wrong_settings_are_refused():
    task = tasks.classification()
    with pytest.raises(ValueError, match="recalibrated, reconstructed, short, long"):
        evaluate(Ladder(task, TRAINING), "medium")
    with pytest.raises(ValueError, match="no proxy"):
        evaluate(Ladder(task, TRAINING), "zero-shot")
    with pytest.raises(ValueError, match="threads"):
        Ladder(task, TRAINING, threads=0)
    with pytest.raises(ValueError, match="dtype"):
        Ladder(task, TRAINING, dtype=torch.int8)


@pytest.mark.gpu
def test_on_cuda():
    result = evaluate(Ladder(tasks.classification(), TRAINING, device="cuda"), "long")
    assert result.state == "complete"
    assert all(not value.is_cuda for value in result.weights.values())


@pytest.mark.gpu
def test_memory_that_runs_out_on_cuda_is_a_failed_result():
    class Greedy(networks.Plain):
        def forward(self, x):
            return super().forward(x) + torch.empty(2**50, device=x.device)[:3]

    result = evaluate(Ladder(tasks.classification(), TRAINING, device="cuda"), model=Greedy(4, 3))
    assert result.state == "failed" and result.reason.startswith("out of memory")
