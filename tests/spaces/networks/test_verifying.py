"""`verify` agrees with the equality test, knows norms that mix channels, and sees a wrongly built network."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, Norms, Residual, image, network
from torch import nn

from secateur.spaces import Space, build, verify
from secateur.spaces.cutting.masked import masked_outputs


def seeded(model):
    """The network with seeded random parameters, float64, eval."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.double().parameters():
        parameter.data.uniform_(-0.5, 1, generator=generator)
    return model.eval()


class ChannelsLast(nn.Module):
    """ConvNeXt's block: depthwise, layer norm on the last axis, an inverted bottleneck, a layer scale."""

    def __init__(self, c=8):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(c, c, 3, padding=1, groups=c), nn.LayerNorm(c)
        self.expand, self.project = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.ones(c))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.project(F.gelu(self.expand(y))) * self.gamma).permute(0, 3, 1, 2)


class Next(nn.Module):
    """A stem, two such blocks, norms with parameters and without, a linear head."""

    def __init__(self, c=8):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, c, 2, 2), nn.GroupNorm(4, c, affine=False)
        self.blocks = nn.Sequential(ChannelsLast(c), ChannelsLast(c))
        self.plain, self.rms, self.fc = nn.LayerNorm(c, elementwise_affine=False), nn.RMSNorm(c), nn.Linear(c, 3)

    def forward(self, x):
        x = self.blocks(self.norm(self.stem(x)))
        return self.fc(self.rms(self.plain(x.mean((2, 3)))))


class Standardised(nn.Conv2d):
    """A convolution whose weight has mean zero and variance one over the inputs of each output."""

    def forward(self, x):
        weight = self.weight.flatten(1)[None]
        weight = F.batch_norm(weight, None, None, training=True, momentum=0.0).view_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


@pytest.mark.parametrize("name", NETWORKS)
def test_right_networks_have_no_error(name):
    model, example = network(name)
    space = Space.trace(model, example, divisor=2)
    for candidate in (space.full, space.smallest, *space.sample(2, seed=3)):
        assert verify(model, space, candidate, example) <= 1e-10


@pytest.mark.parametrize("make", [Next, Norms])
def test_norms_see_the_kept_channels_only(make):
    model, example = seeded(make()), image(1, 3, 8, 8).double()
    space = Space.trace(model, example, divisor=2)
    for candidate in space.sample(4, seed=1):
        assert verify(model, space, candidate, example) <= 1e-10
    half = space.uniform(0.5)
    assert half != space.full
    gone = build(model, space, half)(example) - model(example)
    assert float(gone.detach().abs().max()) > 1e-3  # what is removed matters


@pytest.mark.parametrize("middle", [(lambda: Standardised(8, 6, 3), 6), (lambda: nn.LocalResponseNorm(4), 8)])
def test_standardised_weights_and_neighbours_are_those_that_stay(middle):
    inner, c = middle
    model = seeded(nn.Sequential(nn.Conv2d(3, 8, 1), inner(), nn.Conv2d(c, 2, 1)))
    example = image(2, 3, 6, 6).double()
    space = Space.trace(model, example, divisor=2)
    assert list(space.frozen) == ["2"] and space.smallest != space.full
    assert verify(model, space, space.smallest, example) <= 1e-10


@pytest.mark.parametrize("tensor", ["layer2.1.conv1.weight", "layer2.0.bn1.bias"])
def test_a_wrong_channel_is_seen(tensor):
    model, example = network("residual")
    space = Space.trace(model, example, divisor=2)
    slots = dict(space.slots)
    axis = max(slots[tensor])
    slots[tensor] = {**slots[tensor], axis: np.roll(slots[tensor][axis], 1)}
    wrong = replace(space, layout=replace(space.layout, slots=slots))
    candidate = space.uniform(0.5)
    assert verify(model, space, candidate, example) <= 1e-10
    assert verify(model, wrong, candidate, example) > 1e-3


def test_other_shapes_are_refused():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=2)
    slots = {**space.slots}
    cut = np.array([*slots["conv1.weight"][0][:4], 0])  # output features follow the first four channels of conv1
    slots["fc.weight"], slots["fc.bias"] = {**slots["fc.weight"], 0: cut}, {0: cut}
    wrong = replace(space, layout=replace(space.layout, slots=slots))
    with pytest.raises(ValueError, match=r"gives tensors of \[\(2, \d\)\]; the full network's are \[\(2, 5\)\]"):
        verify(model, wrong, space.smallest, example)


def test_the_model_stays_as_it_is():
    model, example = network("residual")
    model.train()
    model.layer1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space = Space.trace(model, example, divisor=2)
    scores = {group.name: torch.rand(group.units) for group in space.groups}
    assert verify(model, space, space.uniform(0.5, depth=0.4), example, scores) <= 1e-10
    assert model.training and not model.layer1.training and model.layer2.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_float32_and_what_is_not_finite():
    model = Residual().eval()
    example = image(1, 3, 8, 8)
    space = Space.trace(model, example, divisor=2)
    assert verify(model, space, space.uniform(0.5), example) <= 1e-4
    model.head.bias.data[0] = float("nan")
    assert np.isnan(verify(model, space, space.uniform(0.5), example))


class Hidden(nn.Module):
    """A head of zeros, a branch behind a zero, a norm whose channels are all alike; and a dead end."""

    def __init__(self, c=8):
        super().__init__()
        self.a, self.norm, self.b, self.dead = (
            nn.Conv2d(3, c, 3),
            nn.BatchNorm2d(c),
            nn.Conv2d(c, c, 1),
            nn.Conv2d(3, c, 1),
        )
        self.gate, self.head, self.end = nn.Parameter(torch.zeros(1)), nn.Linear(c, 4), nn.Linear(c, 4)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        y = self.norm(self.a(x))
        y = y + self.gate * self.b(F.relu(y))
        return self.head(y.mean((2, 3))) + 0 * self.end(self.dead(x).mean((2, 3)))


def test_what_a_head_of_zeros_hides_is_seen_and_what_is_not_seen_is_said():
    model, example = Hidden().double().eval(), image(1, 3, 8, 8).double()
    space = Space.trace(model, example, divisor=2)
    error = verify(model, space, space.uniform(0.5), example)
    assert error <= 1e-10
    assert (error.groups, error.reached) == (len(space.groups), len(space.groups) - 1)  # all but the dead end
    assert f"{error.reached} of {error.groups} groups" in str(error) and f"{error:.0e}" == f"{float(error):.0e}"
    assert float(pickle.loads(pickle.dumps(error))) == error and json.loads(json.dumps(error)) == error
    assert "no channels are cut" in str(verify(model, space, space.full, example))
    for tensor in ("norm.bias", "head.weight"):  # equal numbers, and zeros: rolled slots would not show
        slots = dict(space.slots)
        slots[tensor] = {axis: np.roll(ids, 1) for axis, ids in slots[tensor].items()}
        wrong = replace(space, layout=replace(space.layout, slots=slots))
        assert verify(model, wrong, space.uniform(0.5), example) > 1e-3


class Blind(nn.Module):
    """Nothing of the inputs or weights is in its output."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return 0 * self.b(self.a(x))


def test_an_output_that_sees_nothing_proves_nothing():
    model, example = Blind(), image(1, 3, 8, 8)
    space = Space.trace(model, example, divisor=2)
    error = verify(model, space, space.uniform(0.5), example)
    assert np.isnan(error) and "0 of 1 groups" in str(error)
    assert not error < 1e-3


def test_masked_weights_are_put_back_also_where_two_share_memory():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.alone = nn.Linear(4, 6), nn.Linear(6, 3)
            self.same = nn.Parameter(self.one.weight.data)

        def forward(self, x):
            return self.alone(self.one(x)), x @ self.same.T

    model, kept = Twice(), torch.tensor([0, 2, 5])
    tensors = dict(model.named_parameters())
    before = {name: (tensor.data_ptr(), tensor.detach().clone()) for name, tensor in tensors.items()}
    x = torch.rand(2, 4)
    _, same = masked_outputs(model, {"one.weight": {0: kept}, "alone.weight": {1: kept}, "one.bias": {0: kept}}, (x,))
    assert same.any(0).tolist() == [True, False, True, False, False, True]
    for name, (place, values) in before.items():
        assert tensors[name].data_ptr() == place
        assert torch.equal(tensors[name], values)


class Knots(nn.Module):
    """Distances to knots of each channel, over the distance of the knots, and over a scale of each channel."""

    def __init__(self):
        super().__init__()
        self.given, self.made = nn.Linear(3, 12), nn.Linear(12, 4)
        self.register_buffer("knots", torch.arange(4.0).repeat(12, 1) + torch.rand(12, 1))
        self.scale = nn.Parameter(torch.rand(12) + 0.5)

    def forward(self, x):
        x = (self.given(x) / self.scale)[..., None]
        return self.made(((x - self.knots[:, :1]) / (self.knots[:, 3:] - self.knots[:, :1]))[..., 0])


def test_zeros_that_are_divided_by_prove_something():
    model = Knots().double().eval()
    space = Space.trace(model, torch.rand(2, 3, dtype=torch.float64), divisor=1)
    assert [axis.name for axis in space.axes] == ["width:given"] and "1 of 1 groups" in space.proof
    for candidate in (space.uniform(0.5), space.smallest):
        found = verify(model, space, candidate, torch.rand(2, 3, dtype=torch.float64))
        assert found.reached == 1 and found < 1e-12
