"""Criteria that look at the weights alone, by hand."""

import logging

import pytest
import torch
from networks import network
from torch import nn

from secateur.pruners.criteria.norms import bn_scale, fpgm
from secateur.spaces import Space


def test_scales_of_batch_norms_are_the_scores():
    model, example = network("plain")
    with torch.no_grad():
        model.bn1.weight[:2] = torch.tensor([-3.0, 0.25])
    scores = bn_scale(model, Space.trace(model, example, divisor=1))
    torch.testing.assert_close(scores["conv1"], model.bn1.weight.detach().abs())
    torch.testing.assert_close(scores["conv2"], model.bn2.weight.detach().abs())


def test_a_residual_unit_has_the_mean_of_its_scales():
    model, example = network("residual")
    space = Space.trace(model, example, divisor=1)
    group = next(group for group in space.groups if group.name == "stem")
    scales = [model.bn.weight] + [block.bn2.weight for block in model.layer1]
    assert group.members == ("stem", *(f"layer1.{i}.conv2" for i in range(3)))
    torch.testing.assert_close(bn_scale(model, space)["stem"], torch.stack(scales).detach().abs().mean(0))


def test_a_norm_before_the_convolution_counts_too():
    model, example = network("dense")  # conv1 is read by bn2 and bn3 behind a concatenation: channels 4 to 9 of both
    scores = bn_scale(model, Space.trace(model, example, divisor=1))
    torch.testing.assert_close(scores["conv1"], (model.bn2.weight[4:] + model.bn3.weight[4:10]).detach() / 2)


def test_groups_without_a_scale_are_on_the_scale_of_the_others(caplog):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5), nn.Linear(5, 2)).double().eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    space = Space.trace(model, torch.zeros(1, 3).double(), divisor=1)
    with caplog.at_level(logging.INFO, "secateur"):
        scores = bn_scale(model, space)
    assert scores["0"].tolist() == [1, 2, 3, 6]
    assert scores["2"].mean().item() == pytest.approx(3)  # the mean of 1, 2, 3, 6
    assert torch.equal(scores["2"].argsort(), space.default_scores["2"].argsort())
    assert "2 have no batch norm" in caplog.text


@pytest.mark.parametrize("transposed", [False, True])
def test_distances_to_all_other_filters(transposed):
    # filters (0, 0), (3, 4), (6, 8) on a line: 5 + 10, 5 + 5, 10 + 5
    conv = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = nn.Sequential(conv(2, 3, 1), nn.Conv2d(3, 1, 1)).double()
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    with torch.no_grad():
        model[0].weight.copy_((rows.T if transposed else rows)[:, :, None, None])
    space = Space.trace(model, torch.zeros(1, 2, 3, 3).double(), divisor=1)
    torch.testing.assert_close(fpgm(model, space)["0"], torch.tensor([15.0, 10.0, 15.0]).double())


def test_distances_add_up_over_the_layers_of_a_group():
    model, example = network("residual1d")
    scores = fpgm(model, Space.trace(model, example, divisor=1))
    expected = torch.zeros(4).double()
    for layer in (model.stem, model.layer1[0].conv2, model.layer1[1].conv2):
        rows = layer.weight.detach().flatten(1)
        expected += (rows[:, None] - rows).norm(dim=2).sum(1)
    torch.testing.assert_close(scores["stem"], expected)


def test_a_duplicate_scores_less_than_an_outlier_of_smaller_norm():
    model, example = network("plain")
    with torch.no_grad():
        model.conv1.weight[:] = model.conv1.weight[0]
        model.conv1.weight[5] *= -0.5
    scores = fpgm(model, Space.trace(model, example, divisor=1))
    assert scores["conv1"].argmax() == 5
