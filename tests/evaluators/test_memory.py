"""Where memory runs out: the same training with every batch in parts; and one training over several devices."""

import copy
import logging
from collections import namedtuple
from dataclasses import dataclass

import networks
import pytest
import tasks
import torch
from torch import nn

from secateur.evaluators import (
    Augment,
    Context,
    Ladder,
    Placement,
    Teacher,
    Training,
    measure_error,
    recalibrate,
    train,
)
from secateur.evaluators.tasks.batches import Unsplittable, bounds, cut, joined
from secateur.evaluators.training.parallel import Parallel


class Line(nn.Module):
    """No batch norm: no example's output depends on another's."""

    def __init__(self, wide=6):
        super().__init__()
        self.first = nn.Conv2d(3, wide, 3, padding=1)
        self.last = nn.Linear(wide, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).mean((2, 3)))


def fresh(kind=Line, seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(**settings)


def trained(settings, task=None, *, accumulate=1, devices=(), **changes):
    model, changes["device"] = fresh(), Placement(accumulate=accumulate, devices=devices)
    losses = train(model, task or tasks.classification(), Training(**settings), epochs=2, **changes)
    return model, losses


def close(a, b, tolerance=1e-5):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x, y, atol=tolerance, rtol=tolerance) for x, y in pairs)


SETTINGS = [
    {"lr": 0.05},
    {"lr": 0.05, "momentum": 0.0},
    {"lr": 0.01, "optimizer": "adam"},
    {"lr": 0.01, "optimizer": "adamw", "clip": 0.1},
    {"lr": 0.05, "clip": 0.1},
]


@pytest.mark.parametrize("parts", [2, 3, 100])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_batches_in_parts_are_the_same_training(settings, parts):
    """16 examples in 3 parts are 6, 6 and 4: losses are weighted; in 100 parts, one each."""
    whole, losses = trained(settings)
    split, others = trained(settings, accumulate=parts)
    assert close(whole, split) and others == pytest.approx(losses, rel=1e-4)
    assert not close(whole, fresh())


@pytest.mark.parametrize("augment", [None, Augment(shift=0.2, flip=True, rotate=10)])
def test_a_teacher_and_augmentation_are_split_with_the_batch(augment):
    task = tasks.classification(augment=augment)
    teacher = Teacher(model=fresh(seed=3, wide=8), resolution=None)
    whole, _ = trained({"lr": 0.05}, task, teacher=teacher)
    split, _ = trained({"lr": 0.05}, task, teacher=teacher, accumulate=2)
    assert close(whole, split)
    assert not close(whole, trained({"lr": 0.05}, task, accumulate=2)[0])


def test_masks_are_augmented_with_their_images():
    task = tasks.segmentation(augment=Augment(shift=0.2, flip=True))
    model = fresh(lambda: nn.Conv2d(3, 4, 3, padding=1))
    other = copy.deepcopy(model)
    train(model, task, Training(lr=0.1), epochs=1)
    train(other, task, Training(lr=0.1), epochs=1, device=Placement(accumulate=2))
    # Pixels moved in from outside count for nothing, so that parts of as many images are not of as many pixels.
    assert close(model, other, 1e-2)


def test_callbacks_see_one_step_a_batch():
    class Look:
        def __init__(self):
            self.calls, self.seen = [], []

        def after_backward(self, loop):
            self.calls.append("backward")
            self.seen.append((loop.batch.indices, loop.outputs, loop.loss))

        def after_step(self, loop):
            self.calls.append("step")

        def after_epoch(self, loop):
            self.calls.append("epoch")

    whole, split = Look(), Look()
    trained({"lr": 0.05}, callbacks=[whole])
    trained({"lr": 0.05}, callbacks=[split], accumulate=2)
    assert whole.calls == split.calls
    for mine, its in zip(whole.seen, split.seen, strict=True):
        assert torch.equal(mine[0], its[0]) and torch.allclose(mine[1], its[1], atol=1e-5)
        assert torch.allclose(mine[2], its[2], atol=1e-5)


def test_a_training_in_parts_is_deterministic_and_its_state_is_its_own():
    states = []

    class Keep:
        def after_epoch(self, loop):
            states.append(loop.state())

    once, _ = trained({}, accumulate=2, callbacks=[Keep()])
    again, _ = trained({}, accumulate=2)
    assert all(torch.equal(x, y) for x, y in zip(once.state_dict().values(), again.state_dict().values(), strict=True))
    resumed, _ = trained({}, accumulate=2, state=states[0])
    assert close(once, resumed, 0)
    with pytest.raises(ValueError, match="differs in accumulate"):
        trained({}, accumulate=3, state=states[0])
    with pytest.raises(ValueError, match="accumulate is 0"):
        trained({}, accumulate=0)


def test_errors_and_statistics_are_taken_in_parts():
    task = tasks.classification()
    whole = networks.Plain(4, 3)
    split = copy.deepcopy(whole)
    assert measure_error(whole, task).compute() == measure_error(split, task, parts=3).compute()
    assert recalibrate(whole, task, images=40) == recalibrate(split, task, images=40, parts=2) == 48
    means = [next(value for name, value in m.state_dict().items() if "mean" in name) for m in (whole, split)]
    assert torch.allclose(*means, atol=1e-5)  # of the first norm: halves of equal size have the mean of the whole


# --- splitting --------------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "x y")


@dataclass(frozen=True)
class Named:
    x: torch.Tensor
    names: tuple[str, ...]
    scale: float


def test_trees_of_tensors_are_split():
    x, y = torch.arange(10).view(5, 2), torch.arange(5)
    for tree in ([x, y], (x, {"y": y}), Pair(x, [y])):
        (first, three), (second, two) = cut(tree, 2)
        assert (three, two) == (3, 2) and type(first) is type(tree)
        assert torch.equal(first[0], x[:3]) and torch.equal(second[0], x[3:])
    (first, _), (second, _) = cut(Named(x, ("a", "b", "c", "d", "e"), 2.0), 2)
    assert first.names == ("a", "b", "c") and second.names == ("d", "e") and second.scale == 2.0
    assert cut((x[:1],), 2)[0][1] == 1 and len(cut((x[:1],), 2)) == 1
    assert [stop - start for start, stop in bounds(7, 3)] == [3, 3, 1]


def test_what_cannot_be_split_is_said():
    with pytest.raises(Unsplittable, match=r"lengths 3, 4.*split\(batch, parts\)"):
        cut([torch.zeros(3, 2), torch.zeros(4, 2)], 2)
    with pytest.raises(Unsplittable, match="no tensor"):
        cut({"x": 3}, 2)


def test_outputs_are_joined():
    parts = [{"a": torch.ones(2), "b": (torch.zeros(2, 1),)}, {"a": torch.ones(1), "b": (torch.zeros(1, 1),)}]
    whole = joined(parts)
    assert whole["a"].shape == (3,) and whole["b"][0].shape == (3, 1)


# --- the ladder -------------------------------------------------------------------------------------------------------


class Greedy(Line):
    """Asks for more memory than there is, as often as a forward pass has more examples than it likes."""

    def __init__(self, most=8):
        super().__init__()
        self.most = most

    def forward(self, x):
        if len(x) > self.most:
            torch.empty(2**60)  # an exbibyte: no machine has it
        return super().forward(x)


def climbed(most, task=None, fidelity="short"):
    ladder = Ladder(task or tasks.classification(), Training(lr=0.05, short_epochs=2))
    return ladder(lambda: fresh(Greedy, most=most), candidate="a", resolution=None, fidelity=fidelity, seed=1)


def test_a_trial_that_runs_out_of_memory_is_retried_with_smaller_batches(caplog):
    with caplog.at_level(logging.WARNING, logger="secateur"):
        retried = climbed(8)
    plain = climbed(100)
    assert retried.state == plain.state == "complete"
    assert retried.attributes["accumulated"] == 2.0 and "accumulated" not in plain.attributes
    assert retried.error == pytest.approx(plain.error, abs=0.05)
    assert "out of memory" in caplog.text and "in 2 parts" in caplog.text
    again = climbed(8)
    assert again.error == retried.error
    assert all(torch.equal(again.weights[name], value) for name, value in retried.weights.items())


def test_memory_that_runs_out_again_is_a_failed_trial():
    result = climbed(7)
    assert result.state == "failed" and result.reason.startswith("out of memory: ")
    assert result.attributes == {"accumulated": 2.0}


class Ragged:
    """A task whose batches nobody can split."""

    def __init__(self, task):
        self.task = task

    def __getattr__(self, name):
        if name == "split":
            raise AttributeError(name)
        return getattr(self.task, name)

    def loader(self, split, resolution, seed):
        for batch in self.task.loader(split, resolution, seed):
            yield {"batch": batch, "classes": torch.zeros(3)}

    def forward(self, model, batch):
        return self.task.forward(model, batch["batch"])


def test_batches_that_cannot_be_split_leave_the_reason():
    assert climbed(100, Ragged(tasks.classification())).state == "complete"
    result = climbed(8, Ragged(tasks.classification()))
    assert result.state == "failed" and result.reason.startswith("out of memory: ")
    assert "a batch can't be split: it holds tensors of lengths 3, 16" in result.reason


def test_a_network_that_diverges_is_not_retried(caplog):
    ladder = Ladder(tasks.classification(), Training(lr=1e30, momentum=0))
    with caplog.at_level(logging.WARNING, logger="secateur"):
        result = ladder(fresh, candidate="a", resolution=None, seed=0)
    assert result.reason.startswith("diverged") and not result.attributes and "in 2 parts" not in caplog.text


# --- several devices --------------------------------------------------------------------------------------------------

TWO = (torch.device("cpu"), torch.device("cpu"))


@pytest.mark.parametrize("count", [2, 3])
def test_a_training_over_several_devices_is_the_same(count):
    """On as many CPUs: the split, the copies, the threads and the sum of gradients are those of GPUs."""
    for settings in SETTINGS[1:4]:
        alone, losses = trained(settings)
        together, others = trained(settings, devices=TWO[:1] * count)
        assert close(alone, together) and others == pytest.approx(losses, rel=1e-4)
    assert close(together, trained(settings, devices=TWO[:1] * count, accumulate=2)[0])


def test_every_device_has_its_part(monkeypatch):
    seen = []

    class Watched(Line):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    network = Parallel(fresh(Watched), TWO)
    assert network(torch.zeros(5, 3, 8, 8)).shape == (5, 3) and sorted(seen) == [2, 3]
    seen.clear()
    network(torch.zeros(1, 3, 8, 8))
    assert seen == [1]


def test_statistics_are_those_of_the_first_device_and_modes_are_followed():
    model, alone = networks.Plain(4, 3), None
    alone = copy.deepcopy(model)
    x = torch.rand(8, 3, 8, 8)
    network = Parallel(model, TWO).train()
    network(x)
    alone.train()(x[:4])
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), alone.buffers(), strict=True))
    network.eval()
    assert torch.allclose(network(x), model(x), atol=1e-6)


def test_what_a_network_is_given_must_have_as_many_examples():
    with pytest.raises(Unsplittable):
        Parallel(nn.Bilinear(2, 2, 1), TWO)(torch.zeros(4, 2), torch.zeros(3, 2))


def test_autocast_and_gradients_are_those_of_the_caller():
    network = Parallel(nn.Linear(3, 2), TWO)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = network(torch.rand(4, 3))
    assert found.dtype == torch.bfloat16 and not found.requires_grad


def test_a_ladder_trains_over_its_devices():
    task, training = tasks.classification(), Training(lr=0.05, short_epochs=1)
    results = []
    for devices in ((), TWO):
        ladder, context = Ladder(task, training), Context(devices=devices)
        results.append(ladder(fresh, candidate="a", resolution=None, seed=0, context=context))
    assert results[0].error == pytest.approx(results[1].error, abs=0.05)
    assert torch.allclose(results[0].weights["last.weight"], results[1].weights["last.weight"], atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_as_one():
    found = []
    for count in (1, 2):
        devices = tuple(torch.device("cuda", index) for index in range(count))
        found.append(trained({"lr": 0.05}, devices=devices)[0].cpu())
    assert close(*found, 1e-3)
