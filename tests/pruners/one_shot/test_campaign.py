"""Weights chosen among candidates: no copies, equal shares of the classes, and classes farther apart."""

import pytest
import torch
from networks import network
from torch import nn

from secateur.pruners import Examples
from secateur.pruners.one_shot.campaign import campaign, elected, separation


def blobs(n=40, classes=3, axes=10):
    """Gaussian classes around centres of norm about 2."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, axes, generator=generator) * 0.7
    labels = torch.arange(n * classes) % classes
    return centres[labels] + torch.randn(len(labels), axes, generator=generator), labels


def perceptron(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)]
        model = nn.Sequential(*layers)
        for layer in layers[::2]:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        return model


def apartness(model, images, labels):
    """Variance of the class means by the variance within classes, of the last hidden layer."""
    with torch.no_grad():
        hidden = model[:4](images)
    classes = [hidden[labels == label] for label in labels.unique()]
    between = torch.stack([one.mean(0) for one in classes]).var(0).sum()
    return float(between / torch.stack([one.var(0) for one in classes]).mean(0).sum())


def test_separation_by_hand():
    # candidate 0: classes at 0 and 2, nothing within; candidate 1: both at 1, each 0 and 2. Class means' std 1 and 0,
    # within 0 and 1, overall 1 and 1: 0.5 (1 - 0) + 0.5 and 0.5 (0 - 1) + 0.5
    responses = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])
    score, classes = separation(responses, torch.tensor([0, 0, 1, 1]))
    assert score.tolist() == [1.0, 0.0] and classes[0] == 1


def test_duplicates_are_never_both_chosen():
    vectors = torch.eye(3)[[0, 0, 1, 2, 2, 1]] * torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0, 3.0])[:, None]
    score = torch.tensor([9.0, 8.0, 1.0, 2.0, 1.5, 0.5])
    for classes in (torch.zeros(6, dtype=torch.int64), torch.tensor([0, 1, 0, 1, 0, 1])):
        chosen = elected(score, classes, vectors, 3)
        assert sorted(vectors[chosen].argmax(1).tolist()) == [0, 1, 2]
    assert elected(score, torch.zeros(6, dtype=torch.int64), vectors, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_more_units_than_directions_start_again_without_copies():
    angle = torch.linspace(0, 3, 12)
    vectors = torch.stack([angle.cos(), angle.sin()], 1).repeat(2, 1)  # each direction twice, in two dimensions
    chosen = elected(torch.rand(24, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 2, vectors, 10)
    assert len({int(one) % 12 for one in chosen}) == 10


def test_classes_have_equal_shares():
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor([0] * 30 + [1] * 10 + [2] * 10)
    score = torch.where(classes == 0, 5.0, 1.0) + torch.rand(50, generator=generator)
    chosen = elected(score, classes, torch.randn(50, 20, generator=generator), 12)
    assert classes[chosen].bincount().tolist() == [4, 4, 4]
    few = elected(score, classes, torch.randn(50, 60, generator=generator), 40)  # the others' candidates run out
    assert classes[few].bincount().tolist() == [20, 10, 10]


def test_classes_lie_farther_apart_than_by_chance():
    images, labels = blobs()
    examples = Examples(batches=[(images[:60], labels[:60]), (images[60:], labels[60:])])
    chance = [apartness(perceptron(seed), images, labels) for seed in range(10)]
    model = perceptron(0)
    last = model[4].weight.clone()
    report = campaign(model, examples, seed=1)
    assert apartness(model, images, labels) > max(chance)
    assert report == {"0": "16 of 80 candidates", "2": "16 of 80 candidates", "4": "kept: the last layer"}
    assert torch.equal(model[4].weight, last) and not model[0].bias.any()
    again = perceptron(5)
    campaign(again, examples, seed=1)
    assert torch.equal(model[2].weight, again[2].weight)  # the old weights do not matter


@pytest.mark.parametrize("name", ["plain", "residual1d", "residual3d", "mobile", "unet2d"])
def test_any_network(name):
    model, example = network(name)
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(6, *example.shape[1:], generator=torch.Generator().manual_seed(0)).double()
    report = campaign(model, Examples(batches=[(images, torch.arange(6) % 3)]))
    for key, value in model.state_dict().items():
        layer = key.rpartition(".")[0]
        same = "candidates" not in report.get(layer, "")  # buffers and norms are put back
        assert torch.equal(value, state[key]) == same or key.endswith("bias"), key
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    if name == "mobile":
        assert report["features.0.depthwise"] == "kept: a convolution in groups"


def test_targets_must_be_classes():
    model, example = network("plain")
    with pytest.raises(ValueError, match="class numbers"):
        campaign(model, Examples(batches=[(example, torch.zeros(1, 2))]))
    with pytest.raises(ValueError, match="factor=0"):
        campaign(model, Examples(batches=[(example, torch.zeros(1))]), factor=0)
