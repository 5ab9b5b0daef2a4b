"""Weights and what they read, by hand."""

import pytest
import torch
from networks import network
from torch import nn

from secateur.pruners import METHODS, Examples, Request
from secateur.pruners.criteria.activations import flap, wanda
from secateur.spaces import Space


def scored(criterion, model, *batches):
    space = Space.trace(model, batches[0][:1], divisor=1)
    return criterion(model, space, Examples(batches=[(batch, None) for batch in batches]))


def two(first, *behind):
    """Two units that pass their inputs on."""
    model = nn.Sequential(first, *behind).double().eval()
    with torch.no_grad():
        first.weight.copy_(torch.eye(2).reshape(first.weight.shape))
    return model


def set_to(layer, values):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(values).reshape(layer.weight.shape))


def test_linear_layers():
    model = two(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    set_to(model[2], [[1.0, 2.0], [-3.0, 0.5]])
    batches = torch.tensor([[3.0, 1.0]]).double(), torch.tensor([[4.0, 1.0], [-1.0, 4.0]]).double()
    # what arrives: 3, 4, 0 and 1, 1, 4; squares 25 / 3 and 6; variances 25 / 3 - 49 / 9 and 6 - 4
    assert torch.allclose(
        scored(wanda, model, *batches)["0"], torch.tensor([4 * (25 / 3) ** 0.5, 2.5 * 6**0.5]).double()
    )
    assert torch.allclose(scored(flap, model, *batches)["0"], torch.tensor([10 * 26 / 9, 4.25 * 2]).double())


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_sum_over_their_places(axes):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    model = two(conv(2, 2, 1, bias=False), conv(2, 1, 2))
    set_to(model[1], [[1.0] * 2**axes + [-0.5] * 2**axes])
    images = torch.zeros(1, 2, *[2] * axes).double()
    images[0, 0], images[0, 1].view(-1)[0] = 2.0, 2.0**axes
    places = 2.0**axes  # the second unit is 2 ** axes at one of so many places
    assert torch.allclose(
        scored(wanda, model, images)["0"], torch.tensor([places * 2, 0.5 * places * places**0.5]).double()
    )
    assert torch.allclose(scored(flap, model, images)["0"], torch.tensor([0.0, 0.25 * places * (places - 1)]).double())


def test_transposed_convolutions_read_along_their_first_axis():
    model = two(nn.Conv2d(2, 2, 1, bias=False), nn.ConvTranspose2d(2, 3, 1))
    set_to(model[1], [1.0, -1.0, 1.0, 0.0, 0.5, 0.0])
    assert torch.allclose(scored(wanda, model, torch.ones(1, 2, 4, 4).double())["0"], torch.tensor([3.0, 0.5]).double())


def test_columns_of_flattened_maps_belong_to_their_channel():
    model = two(nn.Conv2d(2, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 1))
    set_to(model[2], [[1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 5.0]])
    images = torch.arange(8).reshape(1, 2, 2, 2).double()
    expected = torch.tensor([0 + 2 + 6 + 12, 35.0]).double()  # of one example the size is the value
    assert torch.allclose(scored(wanda, model, images)["0"], expected)


def test_depthwise_layers_count_where_nothing_else_reads():
    first, depthwise = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, groups=2, bias=False)
    model = two(first, depthwise, nn.Conv2d(2, 1, 1))
    set_to(depthwise, [2.0, 3.0])
    set_to(model[2], [5.0, 7.0])
    image = torch.ones(1, 2, 4, 4).double()
    assert torch.allclose(scored(wanda, model, image)["0"], torch.tensor([10.0, 21.0]).double())
    alone = nn.Sequential(first, depthwise, ByHand(2)).double().eval()
    assert torch.allclose(scored(wanda, alone, image)["0"], torch.tensor([2.0, 3.0]).double())


class ByHand(nn.Module):
    """Reads without a layer."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 3))

    def forward(self, x):
        return x.mean((2, 3)) @ self.weight


def test_what_nobody_reads_has_its_norm(caplog):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), ByHand(4)).double()
    with caplog.at_level("INFO", "secateur"):
        scores = scored(wanda, model, torch.rand(2, 3, 4, 4).double())
    space = Space.trace(model, torch.rand(1, 3, 4, 4).double(), divisor=1)
    assert torch.equal(scores["0"].argsort(), space.default_scores["0"].argsort())
    assert "are read by no convolution" in caplog.text


@pytest.mark.parametrize("criterion", [wanda, flap], ids=["wanda", "flap"])
@pytest.mark.parametrize("name", ["residual", "mobile", "residual3d", "unet1d"])
def test_no_hook_is_left(criterion, name):
    model, example = network(name)
    scores = scored(criterion, model, example)
    assert all(values.isfinite().all() for values in scores.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_methods_allocate_as_their_papers():
    model, example = network("residual")
    space = Space.trace(model, example, divisor=1)
    limits = {"macs": 0.5 * space.full_costs["macs"]}
    request = Request(model, space, limits, examples=Examples(batches=[(example, None)]))
    even = METHODS["uniform"]().propose(request).candidate
    assert METHODS["wanda"]().propose(request).candidate == even
    found = METHODS["flap"]().propose(request).candidate
    assert found != even and space.costs([found]).macs[0] <= limits["macs"]
