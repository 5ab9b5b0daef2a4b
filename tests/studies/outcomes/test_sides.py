"""A task that ignores the side that it is asked for is found out in a trial, and ends the search."""

import pickle

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.studies.outcomes.sides import WrongSide, watched


class Plain:
    """Random pictures of one side, cropped or masked as `show` says."""

    fingerprint, preprocessing, sizes = "plain", {}, {"train": 32, "validation": 16, "test": 16}

    def __init__(self, show):
        self.show = show

    def loader(self, split, resolution, seed):
        g = torch.Generator().manual_seed(1)
        x, y = torch.rand(16, 1, 16, 16, generator=g), torch.arange(16) % 4
        return [self.show(x, resolution) + (y,)]

    def forward(self, model, batch):
        return model(*batch[:-1]), batch[-1]

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    def error(self):
        return sc.evaluators.ErrorRate()


class Two(nn.Module):
    """A picture and a mask of the same side."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x, mask=None):
        x = torch.relu(self.conv(x))
        return self.head((x if mask is None else nn.functional.adaptive_avg_pool2d(mask, 1) * x).mean((2, 3)))


def study(path, show, inputs):
    model = Two()
    space = sc.Space.trace(model, (torch.rand(1, 1, 16, 16),) * inputs, resolutions=(16, 12, 8), divisor=4, prove=False)
    training = sc.Training(recalibration_images=16, short_epochs=0)
    return sc.Study.create(
        path, model=model, task=Plain(show), space=space, budget=sc.Budget(macs=0.6), training=training
    )


def resized(x, side):
    return nn.functional.interpolate(x, side)


IGNORES = {
    "all": (lambda x, side: (x,), 1, "input 0"),
    "the mask": (lambda x, side: (resized(x, side), x), 2, "input 1"),
    "a fixed crop": (lambda x, side: (x[..., :12, :12] if side != (16, 16) else x,), 1, "input 0"),
}


@pytest.mark.parametrize("name", IGNORES)
def test_inputs_of_another_side_end_the_search_at_the_first(tmp_path, name):
    show, inputs, said = IGNORES[name]
    made = study(tmp_path / "study", show, inputs)
    with pytest.raises(RuntimeError, match=rf"WrongSide: {said} has the side 1\dx1\d where the candidate's is"):
        made.run(12)
    assert (made.trials()["state"] == "failed").sum() == 1


def test_a_loader_that_does_as_it_is_asked_is_left_alone(tmp_path):
    made = study(tmp_path / "study", lambda x, side: (resized(x, side),) * 2, 2)
    made.run(6)
    assert (made.trials()["state"] == "complete").all()


def test_the_full_side_is_seen_when_the_study_is_made(tmp_path):
    with pytest.raises(WrongSide, match="has the side 14x14 where the candidate's is 16x16"):
        study(tmp_path / "study", lambda x, side: (resized(x, (14, 14)),), 1)
    assert not list(tmp_path.iterdir())


def test_only_what_is_judged_is_watched_and_by_whatever_name_it_comes():
    space = sc.Space.trace(Two(), {"x": torch.rand(1, 1, 16, 16)}, resolutions=(16, 8), divisor=4, prove=False)
    small, good, odd = Two(), torch.rand(2, 1, 8, 8), torch.rand(2, 1, 16, 16)
    network = pickle.loads(pickle.dumps(watched(small, space, space.smallest))).train()
    network(odd)  # training may show several scales
    network.eval()(good), network(x=good)
    for call in (lambda: network(odd), lambda: network(x=odd)):
        with pytest.raises(WrongSide):
            call()
    assert small.state_dict().keys() == Two().state_dict().keys()
