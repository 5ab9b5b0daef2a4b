import copy

import networks
import pytest
import tasks
import torch
from torch import nn

from secateur.evaluators import Augment, measure_error, recalibrate


def fresh(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return networks.Plain(4, 3).eval()


def spoilt(model):
    other = copy.deepcopy(model)
    for norm in (other.bn1, other.bn2):
        norm.running_mean.fill_(7)
        norm.running_var.fill_(50)
        norm.num_batches_tracked.fill_(9)
    return other


def buffers(model):
    return dict(model.named_buffers())


@pytest.mark.parametrize("resolution", [None, (6, 6)])
def test_statistics_are_those_of_the_training_images(resolution):
    # The first norm sees the convolution's outputs: with batches of equal size, the cumulative average of batch means
    # is the mean of all, and that of batch variances the mean unbiased variance.
    task, model = tasks.classification(augment=Augment(shift=0.4)), fresh()
    assert recalibrate(model, task, images=96, resolution=resolution) == 96
    batches = [task.prepare(b, torch.device("cpu"))[0] for b in task.loader("train", resolution, None)]
    with torch.no_grad():
        outputs = [model.conv1(batch) for batch in batches]
    means = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    variances = torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0)
    torch.testing.assert_close(model.bn1.running_mean, means)
    torch.testing.assert_close(model.bn1.running_var, variances)
    assert model.bn1.num_batches_tracked == 6


def test_nothing_of_the_past_is_left():
    task, model = tasks.classification(), fresh()
    other = spoilt(model)
    for each in (model, other):
        recalibrate(each, task)
    assert all(torch.equal(buffers(model)[name], value) for name, value in buffers(other).items())
    assert measure_error(model, task).compute() == measure_error(other, task).compute()


def test_twice_is_once():
    task, model = tasks.classification(), fresh()
    recalibrate(model, task)
    once = copy.deepcopy(buffers(model))
    recalibrate(model, task)
    assert all(torch.equal(once[name], value) for name, value in buffers(model).items())


@pytest.mark.parametrize("images, used", [(1, 16), (16, 16), (17, 32), (2048, 96)])
def test_as_many_images_as_asked_in_whole_batches(images, used):
    model = fresh()
    assert recalibrate(model, tasks.classification(), images=images) == used
    assert model.bn1.num_batches_tracked == used // 16


def test_resolutions_differ():
    models = [fresh(), fresh()]
    for model, side in zip(models, ((8, 8), (4, 4)), strict=True):
        recalibrate(model, tasks.classification(), resolution=side)
    assert not torch.equal(models[0].bn2.running_var, models[1].bn2.running_var)


def test_modes_momenta_weights_and_generators_are_left():
    model, before = fresh(), torch.get_rng_state()
    model.conv1.train()
    model.bn1.momentum = 0.3
    weights = copy.deepcopy(list(model.parameters()))
    modes = [module.training for module in model.modules()]
    recalibrate(model, tasks.classification())
    assert [module.training for module in model.modules()] == modes
    assert (model.bn1.momentum, model.bn2.momentum) == (0.3, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_modes_and_momenta_are_put_back_after_an_error():
    model = fresh()
    with pytest.raises(ValueError, match="one size an axis"):
        recalibrate(model, tasks.classification(), resolution=(8,))
    assert not model.training and model.bn1.momentum == 0.1 and not model.bn1.training


def test_frozen_norms_are_left():
    model = fresh()
    model.bn1.requires_grad_(False)  # and in eval mode: kept
    model.bn2.requires_grad_(False).train()  # in train mode: its statistics may move
    before = copy.deepcopy(model)
    recalibrate(model, tasks.classification())
    assert torch.equal(model.bn1.running_mean, before.bn1.running_mean)
    assert not torch.equal(model.bn2.running_mean, before.bn2.running_mean)


def test_norms_without_statistics_need_nothing():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.GroupNorm(1, 3), nn.BatchNorm2d(3, track_running_stats=False))
    assert recalibrate(model, tasks.classification()) == 0


def test_dropout_does_not_act():
    model = fresh()
    noisy = nn.Sequential(nn.Dropout(0.9), model)
    twin = copy.deepcopy(model)
    recalibrate(noisy, tasks.classification())
    recalibrate(twin, tasks.classification())
    assert torch.equal(model.bn1.running_mean, twin.bn1.running_mean)
