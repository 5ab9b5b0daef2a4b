import time

import networks
import pytest
import tasks
import torch
from torch import nn

from secateur.evaluators import Diverged, measure_error, measure_latency


class Sleeper(nn.Module):
    """Takes as many milliseconds as the list says, call by call."""

    def __init__(self, times):
        super().__init__()
        self.times, self.modes = list(times), []

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        time.sleep(self.times.pop(0) / 1000)
        return x


def test_latency_is_the_median_after_warming_up():
    model = Sleeper([30, 30, 2, 2, 40, 2, 2])
    assert 2 <= measure_latency(model, (torch.zeros(1),), repeats=5, warmup=2) < 20
    assert model.times == []
    assert set(model.modes) == {(False, False)} and model.training


def test_latency_takes_several_inputs_and_any_batch():
    assert measure_latency(nn.Bilinear(2, 3, 1), (torch.zeros(4, 2), torch.zeros(4, 3)), repeats=3) > 0


def test_latency_needs_a_repeat():
    with pytest.raises(ValueError, match="repeats=0"):
        measure_latency(nn.Identity(), (torch.zeros(1),), repeats=0)


def test_error_is_measured_in_eval_mode_on_the_whole_split():
    model, task = networks.Plain(4, 3), tasks.classification()
    before = model.bn1.running_mean.clone()
    error = measure_error(model, task, split="test")
    assert error.count == task.sizes["test"]
    assert model.training and torch.equal(model.bn1.running_mean, before)


def test_infinite_outputs_are_no_error_rate():
    model = networks.Plain(4, 3)
    nn.init.constant_(model.fc.bias, float("inf"))
    with pytest.raises(Diverged, match="validation split are not finite"):
        measure_error(model, tasks.classification())


def test_a_model_can_be_trained_after_it_was_measured():
    class Caching(networks.Plain):
        cached = None

        def forward(self, x):
            if self.cached is None:
                self.cached = torch.ones(3)
            return super().forward(x) * self.cached

    model, task = Caching(4, 3), tasks.classification()
    measure_error(model, task)
    outputs, labels = task.forward(model, next(iter(task.loader("train"))))
    task.loss(outputs, labels).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
