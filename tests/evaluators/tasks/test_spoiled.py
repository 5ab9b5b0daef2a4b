"""NaN in the data of a user's own task is no divergence: the batch is named."""

import dataclasses

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.evaluators import ErrorRate, Training, measure_error, recalibrate, train
from secateur.evaluators.tasks.batches import Spoiled


@dataclasses.dataclass
class Pair:
    left: torch.Tensor
    label: torch.Tensor


WRAPS = {
    "pair": (lambda x, y: (x, y), "in 0"),
    "dict": (lambda x, y: {"left": x, "label": y}, "in left"),
    "dataclass": (lambda x, y: Pair(x, y), "in left"),
}


class Own:
    """A task of nobody's base class."""

    fingerprint, preprocessing, sizes = "own", {}, {"train": 40, "validation": 16, "test": 0}

    def __init__(self, wrap=WRAPS["pair"][0], spoil=None, divide=1.0):
        self.wrap, self.spoil, self.divide = wrap, spoil, divide

    def loader(self, split, resolution, seed):
        x = torch.rand(self.sizes[split], 1, 6, 6, generator=torch.Generator().manual_seed(0))
        if self.spoil == split:
            x[13, 0, 2, 2] = torch.nan
        y = (x.nan_to_num().mean((1, 2, 3)) > 0.5).long()
        return [self.wrap(a, b) for a, b in zip(x.split(8), y.split(8), strict=True)]

    def forward(self, model, batch):
        x, y = (
            batch if isinstance(batch, tuple) else batch.values() if isinstance(batch, dict) else vars(batch).values()
        )
        return model(x / self.divide), y

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    def error(self):
        return ErrorRate()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


@pytest.mark.parametrize("name", WRAPS)
def test_the_batch_of_a_loss_that_is_not_finite_is_named(name):
    wrap, where = WRAPS[name]
    said = f"batch 1 of train has a value that is not finite {where}, first in example 5; repair the data"
    with pytest.raises(Spoiled, match=said):
        train(net(), Own(wrap, "train"), Training(), epochs=1)
    with pytest.raises(Spoiled, match="batch 1 of validation has"):
        measure_error(net(), Own(wrap, "validation"))
    with pytest.raises(Spoiled, match="batch 1 of train has"):
        recalibrate(nn.Sequential(nn.BatchNorm2d(1), net()), Own(wrap, "train"))


def test_inputs_that_the_tasks_forward_spoils_are_named():
    with pytest.raises(Spoiled, match=r"forward made inputs of batch 0 of train that have 288 values .* in input 0"):
        train(net(), Own(divide=0.0), Training(), epochs=1)


def test_what_diverges_on_good_data_still_diverges():
    from secateur.evaluators import Diverged

    model = net()
    with pytest.raises(Diverged, match="lower lr"):
        train(model, Own(), Training(lr=1e30, weight_decay=0.0), epochs=3)
    assert not model._forward_pre_hooks


def test_a_study_says_so(tmp_path):
    parts = dict(
        model=net(), space=sc.Space.trace(net(), torch.rand(1, 1, 6, 6), divisor=1), budget=sc.Budget(macs=0.6)
    )
    with pytest.raises(Spoiled, match="batch 1 of validation has a value"):
        sc.Study.create(tmp_path / "a", task=Own(spoil="validation"), **parts)
    study = sc.Study.create(tmp_path / "b", task=Own(spoil="train"), training=Training(recalibration_images=8), **parts)
    with pytest.raises(Exception, match="batch 1 of train has a value"):
        study.run(trials=4)
    assert all("batch 1 of train" in reason and "diverged" not in reason for reason in study.trials()["reason"])
