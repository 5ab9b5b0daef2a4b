import copy
import io
import json
import pickle
from dataclasses import asdict, replace

import networks
import pytest
import tasks
import torch
from torch import nn

from secateur.evaluators import Diverged, Training, measure_error, train
from secateur.evaluators.training.loop import factor


class Dropping(networks.Plain):
    """Plain with dropout: it draws from the global generator."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.2, self.training))


class Recorder:
    def __init__(self):
        self.calls, self.lrs, self.states = [], [], []

    def after_backward(self, loop):
        self.calls.append("backward")
        assert all(p.grad is not None for p in loop.model.parameters())

    def after_step(self, loop):
        self.calls.append("step")
        self.lrs.append(loop.lr)

    def after_epoch(self, loop):
        self.calls.append("epoch")
        buffer = io.BytesIO()
        torch.save(loop.state(), buffer)
        self.states.append(buffer.getvalue())

    def finalise(self, loop):
        self.calls.append("finalise")


def fresh(kind=networks.Plain, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(4, 3)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_training_learns():
    model, task = fresh(), tasks.classification()
    before = measure_error(model, task).compute()
    losses = train(model, task, Training(lr=0.1), epochs=6)
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert measure_error(model, task).compute() < before - 0.2


def test_segmentation_learns():
    model, task = nn.Conv2d(3, 4, 3, padding=1), tasks.segmentation()
    losses = train(model, task, Training(lr=0.1), epochs=3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_same_seed_same_weights_and_another_seed_others(optimizer):
    models = [fresh(Dropping) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train(model, tasks.classification(), Training(lr=0.01, optimizer=optimizer), epochs=2, seed=seed)
    assert equal(models[0], models[1])
    assert not equal(models[0], models[2])


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adamw", "lr": 0.01}, {"amp": "bfloat16"}, {"amp": "float16"}])
def test_resuming_after_any_epoch_is_bit_identical(settings):
    task, training = tasks.classification(), Training(**settings)
    whole, recorder = fresh(Dropping), Recorder()
    losses = train(whole, task, training, epochs=3, seed=5, callbacks=[recorder])
    for saved in recorder.states:
        state = torch.load(io.BytesIO(saved), weights_only=True)
        resumed = fresh(Dropping, seed=9)
        assert train(resumed, task, training, epochs=3, seed=5, state=state) == losses
        assert equal(resumed, whole)


def test_a_state_is_a_copy():
    kept = []

    class Keep:
        def after_epoch(self, loop):
            kept.append((loop.state(), copy.deepcopy(loop.model.state_dict())))

    train(fresh(), tasks.classification(), Training(), epochs=2, callbacks=[Keep()])
    for state, weights in kept:
        assert all(torch.equal(state["model"][name], weights[name]) for name in weights)


@pytest.mark.parametrize("change", [{"seed": 1}, {"epochs": 4}, {"resolution": (6, 6)}, {"training": Training(lr=0.1)}])
def test_a_state_of_another_training_is_refused(change):
    recorder, given = Recorder(), {"training": Training(), "epochs": 2, "seed": 0, "resolution": None}
    model, task = fresh(), tasks.classification()
    train(model, task, **given, callbacks=[recorder])
    state = torch.load(io.BytesIO(recorder.states[0]), weights_only=True)
    with pytest.raises(ValueError, match="differs in " + ("lr" if "training" in change else next(iter(change)))):
        train(model, task, **given | change, state=state)


def test_callbacks_are_called_in_order():
    recorder = Recorder()
    train(fresh(), tasks.classification(train=32), Training(), epochs=2, callbacks=[recorder, object()])
    assert recorder.calls == [*["backward", "step"] * 2, "epoch"] * 2 + ["finalise"]


def test_a_callback_sees_batch_and_outputs():
    task, seen = tasks.classification(), []

    class Look:
        def prepare(self, loop):
            assert loop.batch is None and loop.outputs is None

        def after_backward(self, loop):
            targets = task.prepare(loop.batch, loop.device)[1]
            assert not loop.outputs.requires_grad
            assert task.loss(loop.outputs, targets) == loop.loss
            seen.append(loop.outputs)

        def after_step(self, loop):
            assert loop.outputs is seen[-1]

    train(fresh(), task, Training(), epochs=1, callbacks=[Look()])
    assert len(seen) == 6


def test_a_callback_may_change_gradients():
    class Freeze:
        def after_backward(self, loop):
            for p in loop.model.parameters():
                p.grad.zero_()

    model, before = fresh(), fresh()
    train(model, tasks.classification(), Training(weight_decay=0), epochs=1, callbacks=[Freeze()])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_clipping_bounds_the_gradient():
    norms = []

    class Norm:
        def after_step(self, loop):
            norms.append(float(nn.utils.get_total_norm([p.grad for p in loop.model.parameters()])))

    train(fresh(), tasks.classification(), Training(clip=0.01), epochs=1, callbacks=[Norm()])
    assert max(norms) <= 0.01 * 1.001


@pytest.mark.parametrize("amp", [None, "bfloat16"])
def test_generators_modes_gradients_and_dtypes_are_left(amp):
    model = fresh(Dropping).eval()
    model.bn1.train()
    before = torch.get_rng_state()
    train(model, tasks.classification(), Training(amp=amp), epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in (model, model.bn1, model.bn2)] == [False, True, False]
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())


def test_frozen_norms_and_parameters_stay():
    model = fresh()
    model.bn1.eval().requires_grad_(False)
    model.conv1.requires_grad_(False)
    before = copy.deepcopy(model)
    train(model, tasks.classification(), Training(), epochs=1)
    for name in ("bn1", "conv1"):
        assert equal(model.get_submodule(name), before.get_submodule(name)), name
    assert not equal(model.bn2, before.bn2)


def test_rates_by_hand():
    # 4 steps of warm-up of 10, then 6 of cosine: (1 + cos(pi k / 6)) / 2
    rates = [factor(Training(warmup=0.35), step, 10) for step in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(rate > 0 for rate in rates) and rates[4:] == sorted(rates[4:], reverse=True)
    assert [round(factor(Training(schedule="step"), step, 4), 6) for step in range(4)] == [1, 1, 0.1, 0.01]
    assert {factor(Training(schedule="constant"), step, 4) for step in range(4)} == {1}
    assert factor(Training(), 0, 10) == 1 and factor(Training(), 5, 10) == pytest.approx(0.5)


def test_the_rate_falls_within_an_epoch():
    recorder = Recorder()
    train(fresh(), tasks.classification(), Training(lr=0.1), epochs=1, callbacks=[recorder])
    assert recorder.lrs == [0.1 * factor(Training(), step, 6) for step in range(6)]


def test_a_loader_without_a_length_is_counted():
    class Streaming:
        def __init__(self, task):
            self.task = task

        def __getattr__(self, name):
            return getattr(self.task, name)

        def loader(self, split, resolution, seed):
            yield from self.task.loader(split, resolution, seed)

    models = [fresh(), fresh()]
    task = tasks.classification()
    for model, given in zip(models, (task, Streaming(task)), strict=True):
        train(model, given, Training(), epochs=2)
    assert equal(*models)


def test_the_settings_batch_is_the_tasks():
    models = [fresh(), fresh()]
    train(models[0], tasks.classification(batch=16), Training(batch=8), epochs=1)
    train(models[1], tasks.classification(batch=8), Training(), epochs=1)
    assert equal(*models)


def test_a_huge_rate_diverges_in_words():
    with pytest.raises(Diverged, match="no longer finite in epoch .*lower lr"):
        train(fresh(), tasks.classification(), Training(lr=1e30, momentum=0), epochs=3)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        train(fresh().requires_grad_(False), tasks.classification(), Training(), epochs=1)


WRONG = [
    ({"optimizer": "lion"}, "expected one of sgd, adam, adamw"),
    ({"schedule": "linear"}, "expected one of cosine, step, constant"),
    ({"amp": "half"}, "expected one of bfloat16, float16"),
    ({"lr": 0}, "expected more than 0"),
    ({"lr": float("nan")}, "expected a finite number"),
    ({"lr": float("inf")}, "expected a finite number"),
    ({"lr": "0.1"}, "expected a number"),
    ({"momentum": 1}, "expected less than 1"),
    ({"weight_decay": -1}, "expected at least 0"),
    ({"warmup": 1}, "expected less than 1"),
    ({"batch": 0}, "expected at least 1"),
    ({"clip": 0}, "expected more than 0"),
    ({"distillation": 1}, "expected less than 1"),
    ({"distillation": -0.1}, "expected at least 0"),
    ({"temperature": 0}, "expected more than 0"),
    ({"short_epochs": 1.5}, "expected a whole number"),
    ({"long_epochs": -1}, "expected at least 0"),
    ({"recalibration_images": 0}, "expected at least 1"),
    ({"base_lr": -1}, "expected more than 0"),
    ({"base_epochs": True}, "expected a whole number"),
]


@pytest.mark.parametrize("given, expected", WRONG)
def test_wrong_settings_are_refused(given, expected):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=f"^{name}={value!r}: {expected}"):
        Training(**given)


def test_settings_are_a_value():
    training = Training(lr=1, batch=None, amp="bfloat16")
    assert pickle.loads(pickle.dumps(training)) == training == replace(training) == Training(**asdict(training))
    assert Training(**json.loads(json.dumps(asdict(training)))) == training
    with pytest.raises(ValueError, match="lr=-1: expected more than 0"):
        replace(training, lr=-1)
    with pytest.raises(AttributeError):
        training.lr = 2.0


def test_base_rate():
    assert Training(lr=0.1, base_lr=0.4).from_scratch().lr == 0.4
    assert Training(lr=0.1).from_scratch().lr == 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("amp", [None, "bfloat16", "float16"])
def test_on_cuda(amp):
    model, before = fresh(Dropping), torch.cuda.get_rng_state()
    losses = train(model, tasks.classification(), Training(lr=0.1, amp=amp), epochs=6, device="cuda")
    assert losses[-1] < losses[0]
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert next(model.parameters()).is_cuda
