"""The rank of feature maps, where it is known."""

import pytest
import torch
from networks import network
from torch import nn

from secateur.pruners import Examples
from secateur.pruners.criteria.features import _independence, chip, hrank
from secateur.spaces import Space

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def identity(axes, *behind):
    """Two channels passed on as they are, then read by another convolution."""
    model = nn.Sequential(CONV[axes](2, 2, 1, bias=False), *behind, CONV[axes](2, 1, 1)).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2).reshape(2, 2, *[1] * axes))
    return model


def ranks(model, images):
    space = Space.trace(model, images[:1], divisor=1)
    return hrank(model, space, Examples(batches=[(images, None)]))["0"]


def near(scores, expected):
    """The tie break adds at most 0.001."""
    above = scores - torch.tensor(expected).double()
    return bool(((above > -1e-9) & (above < 1e-3 + 1e-9)).all())


def test_mean_rank_over_images():
    # first channel: ones, rank 1 in both images; second: the unit matrix, and its upper half: ranks 4 and 2, mean 3
    images = torch.ones(2, 2, 4, 4).double()
    images[:, 1] = torch.eye(4)
    images[1, 1, 2:] = 0
    assert near(ranks(identity(2), images), [1.0, 3.0])


def test_maps_are_taken_behind_norm_and_activation():
    # -1 + unit matrix has full rank 4 (for side 4: eigenvalues 1, 1, 1, -3); the norm adds 0.5: relu leaves half a unit
    # matrix of rank 4 for the second channel and nothing of the first, which is -1
    model = identity(2, nn.BatchNorm2d(2, eps=0), nn.ReLU())
    nn.init.constant_(model[1].bias, 0.5)
    images = -torch.ones(1, 2, 4, 4).double()
    images[:, 1] += torch.eye(4)
    assert near(ranks(model, images), [0.0, 4.0])
    assert near(ranks(identity(2), images), [1.0, 4.0])


def test_maps_that_no_convolution_reads_are_taken_from_their_maker():
    body = identity(2, nn.BatchNorm2d(2, eps=0), nn.ReLU())
    nn.init.constant_(body[1].bias, 0.5)
    model = nn.Sequential(*body[:3], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)).double().eval()
    images = -torch.ones(1, 2, 4, 4).double()
    images[:, 1] += torch.eye(4)
    assert near(ranks(model, images), [0.0, 4.0])


def test_three_axes_are_a_matrix_and_one_axis_is_put_together_over_images():
    volume = torch.ones(1, 2, 3, 2, 2).double()
    volume[0, 1] = torch.eye(4)[:3].reshape(3, 2, 2)
    assert near(ranks(identity(3), volume), [1.0, 3.0])
    signal = torch.ones(3, 2, 5).double()
    signal[:, 1] = torch.eye(5)[:3]
    assert near(ranks(identity(1), signal), [1.0, 3.0])


def test_equal_ranks_are_told_apart():
    images = torch.zeros(1, 2, 4, 4).double()
    images[:, 0] = torch.diag(torch.tensor([1.0, 1e-3, 1e-3, 1e-3]))
    images[:, 1] = torch.eye(4)
    scores = ranks(identity(2), images)
    assert near(scores, [4.0, 4.0]) and scores[0] < scores[1]


def test_layers_without_maps_have_their_norms(caplog):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    space = Space.trace(model, torch.zeros(1, 3).double(), divisor=1)
    with caplog.at_level("INFO", "secateur"):
        scores = hrank(model, space, Examples(batches=[(torch.randn(5, 3).double(), None)]))
    assert torch.equal(scores["0"].argsort(), space.default_scores["0"].argsort())
    assert "no feature maps" in caplog.text


@pytest.mark.parametrize("name", ["residual", "mobile", "residual3d", "unet1d"])
def test_no_hook_is_left(name):
    model, example = network(name)
    space = Space.trace(model, example, divisor=1)
    scores = hrank(model, space, Examples(batches=[(example, None)]))
    assert all(values.isfinite().all() for values in scores.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_independence_is_what_a_map_adds_to_the_nuclear_norm():
    # rows e1, e1, 3 e2: singular values sqrt(2) and 3; without one of the equal rows 1 and 3, without the last sqrt(2)
    maps = torch.zeros(1, 3, 2, 2).double()
    maps[0, 0, 0, 0] = maps[0, 1, 0, 0] = 1
    maps[0, 2, 0, 1] = 3
    expected = torch.tensor([[2**0.5 - 1, 2**0.5 - 1, 3.0]]).double()
    torch.testing.assert_close(_independence(maps), expected)
    torch.testing.assert_close(_independence(maps[..., :1]), expected - torch.tensor([0, 0, 3.0]))  # fewer elements


@pytest.mark.parametrize("side", [2, 5])
def test_independence_agrees_with_singular_values(side):
    rows = torch.randn(2, 6, side, side, generator=torch.Generator().manual_seed(0)).double()
    for image, found in zip(rows.flatten(2), _independence(rows), strict=True):
        whole = torch.linalg.matrix_norm(image, "nuc")
        others = [torch.cat([image[:i], image[i + 1 :]]) for i in range(6)]
        expected = torch.stack([whole - torch.linalg.matrix_norm(one, "nuc") for one in others])
        torch.testing.assert_close(found, expected)


def test_chip_is_a_mean_over_images():
    images = torch.zeros(2, 2, 2, 2).double()
    images[:, 0, 0, 0] = torch.tensor([1.0, 3.0])
    images[1, 1, 0, 1] = 4.0
    model = identity(2)
    scores = chip(model, Space.trace(model, images[:1], divisor=1), Examples(batches=[(images, None)]))["0"]
    torch.testing.assert_close(scores, torch.tensor([2.0, 2.0]).double())
