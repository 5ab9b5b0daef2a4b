"""Compactors: nothing changes when they go in, nothing when they are merged, and cut rows leave no trace."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, Residual, network
from pairs import quick_some
from torch import nn

from secateur.pruners.resrep.compactors import Compacted
from secateur.pruners.resrep.folding import difference, examples, folded, outputs
from secateur.pruners.resrep.insertion import planned
from secateur.pruners.resrep.merging import merged, merged_filter
from secateur.spaces import Candidate, Space, stays

GENERATOR = torch.Generator()


def noise(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def compacted(model, space):
    plan = planned(model, space)
    return Compacted(copy.deepcopy(model), space, plan.kinds, plan.gated)


def shaken(model, space, seed=0):
    """Compacted, with random compactors."""
    GENERATOR.manual_seed(seed)
    result = compacted(model, space)
    with torch.no_grad():
        for number in range(len(space.groups)):
            q = result.compactor(number)
            if q is not None:
                q += 0.3 * noise(*q.shape).to(q)
    return result


def halved(result, space):
    """Zero half the rows of every compactor; the candidate and scores that cut them."""
    with torch.no_grad():
        widths, scores = [], {}
        for number, group in enumerate(space.groups):
            q = result.compactor(number)
            widths.append(group.width if q is None else group.widths[(len(group.widths) - 1) // 2])
            ranks = torch.rand(group.units, generator=GENERATOR)
            if q is not None:
                q[ranks.argsort(descending=True)[widths[-1] // group.unit :]] = 0
            scores[group.name] = ranks
    return space.canonical(Candidate([*widths, *space.full[len(widths) :]])), scores


@pytest.mark.parametrize("name", quick_some(1 / 3, NETWORKS, 0))
def test_inserting_changes_nothing(name):
    model, example = network(name)
    space = Space.trace(model, example, divisor=2)
    inputs = examples(model, space)
    result = compacted(model, space)
    for a, b in zip(outputs(result.model, inputs), outputs(model, inputs), strict=True):
        assert torch.equal(a, b)
    assert not set(dict(model.named_parameters())) & result.extra


@pytest.mark.parametrize("name", quick_some(1 / 3, NETWORKS, 1))
def test_merging_changes_nothing(name):
    model, example = network(name)
    space = Space.trace(model, example, divisor=2)
    inputs = examples(model, space)
    result = shaken(model, space)
    one = merged(result, model)
    assert difference(outputs(result.model, inputs), outputs(model, inputs)) > 1e-3
    assert difference(outputs(one, inputs), outputs(result.model, inputs)) < 1e-12
    assert type(one) is type(model) and one.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", quick_some(1 / 3, NETWORKS, 2))
def test_cutting_zero_rows_changes_nothing(name):
    model, example = network(name)
    space = Space.trace(model, example, divisor=2)
    inputs = examples(model, space)
    result = shaken(model, space)
    candidate, scores = halved(result, space)
    small, notes, error = folded(merged(result, model), space, candidate, scores)
    assert notes == [] and error < 1e-10
    assert difference(outputs(small, inputs), outputs(result.model, inputs)) < 1e-10
    assert sum(p.numel() for p in small.parameters()) == space.costs([candidate])["params"].iloc[0]


@pytest.mark.parametrize("axes", [2, 3])
def test_residual_groups_merge_in_single_precision(axes):
    kinds = {2: (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d), 3: (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d)}
    conv, norm, pool = kinds[axes]
    torch.manual_seed(0)
    model = Residual(6, 2, 5, conv, norm, pool).eval()
    space = Space.trace(model, torch.randn(1, 3, *[8] * axes), divisor=1)
    result = shaken(model, space)
    inputs = examples(model, space)
    assert difference(outputs(merged(result, model), inputs), outputs(result.model, inputs)) < 1e-5


class Chain(nn.Module):
    """A convolution of any kind with its batch norm, and one that reads it over zero padding."""

    def __init__(self, conv, after):
        super().__init__()
        self.conv, self.bn, self.after = conv, nn.BatchNorm2d(6), after

    def forward(self, x):
        return self.after(F.relu(self.bn(self.conv(x))))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 6, 3, bias=False),
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.Conv2d(3, 6, 3, padding=2, dilation=2, bias=False),
        nn.ConvTranspose2d(3, 6, 3, stride=2, padding=1, bias=False),
        nn.ConvTranspose2d(3, 6, 2, stride=2),
    ],
)
@pytest.mark.parametrize("double", [False, True])
def test_one_layer_of_any_kind(conv, double):
    torch.manual_seed(1)
    model = Chain(copy.deepcopy(conv), nn.Conv2d(6, 4, 3, padding=1)).eval()
    nn.init.uniform_(model.bn.weight, 0.5, 1.5)
    nn.init.normal_(model.bn.bias)
    nn.init.normal_(model.bn.running_mean)
    nn.init.uniform_(model.bn.running_var, 0.5, 2)
    model = model.double() if double else model
    space = Space.trace(model, torch.randn(1, 3, 9, 9).to(model.bn.weight), divisor=1)
    result = shaken(model, space)
    inputs = examples(model, space)
    limit = 1e-12 if double else 1e-5
    one = merged(result, model)
    assert difference(outputs(one, inputs), outputs(result.model, inputs)) < limit
    candidate, scores = halved(result, space)
    small, notes, _ = folded(merged(result, model), space, candidate, scores)
    assert not notes and small.conv.out_channels == small.bn.num_features == small.after.in_channels == 3
    assert difference(outputs(small, inputs), outputs(result.model, inputs)) < limit


def test_the_hand_example():
    # scale = (2/2, 0.5/1) = (1, 0.5); shift = (0.1 - 0.5, 0.2 + 0.5) = (-0.4, 0.7); Q = (1, 2):
    # filter (1,2) + 2 * 0.5 * (3,4) = (4,6); bias -0.4 + 2 * 0.7 = 1; of (3,-1): 12 - 6 + 1 = 7
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None]
    mean, var = torch.tensor([0.5, -1.0]), torch.tensor([4.0, 1.0])
    gamma, beta = torch.tensor([2.0, 0.5]), torch.tensor([0.1, 0.2])
    scale = gamma / var.sqrt()
    kernel, bias = merged_filter(weight, scale, beta - mean * scale, torch.tensor([[1.0, 2.0]]))
    assert torch.allclose(kernel.flatten(), torch.tensor([4.0, 6.0])) and torch.allclose(bias, torch.tensor([1.0]))
    given = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1)
    assert torch.allclose(F.conv2d(given, kernel, bias).flatten(), torch.tensor([7.0]))


def test_a_row_is_the_unit_that_its_layers_make():
    model, example = network("residual")
    space = Space.trace(model, example, divisor=1)
    result = compacted(model, space)
    number = next(i for i, group in enumerate(space.groups) if group.name == "layer2.0.conv2")
    with torch.no_grad():
        result.compactor(number)[5] = 0
    seen = {}
    for name in ("layer2.0.bn2", "layer2.0.down.1", "layer2.1.bn2", "layer2.2.bn2"):
        result.model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
    result.model(example)
    assert len(seen) == 4
    for output in seen.values():
        assert not output[:, 5].any() and output[:, 4].any() and output[:, 6].any()


def test_the_new_batch_norms_have_the_statistics_of_their_inputs():
    torch.manual_seed(0)
    model = Residual(6, 2, 5)
    images = torch.randn(32, 3, 8, 8)
    space = Space.trace(model, images[:1], divisor=1)
    result = shaken(model, space)
    result.model.train()
    for _ in range(150):  # running statistics forget by 0.9 a batch
        result.model(images)
    one = merged(result, model)
    kept = {name: buffer.clone() for name, buffer in one.named_buffers() if "num" not in name}
    one.train()
    for _ in range(150):
        one(images)
    for name, buffer in one.named_buffers():
        if "num" not in name:
            assert torch.allclose(buffer, kept[name], rtol=5e-3, atol=5e-3), name
    assert torch.allclose(one(images), result.model(images), atol=2e-2)  # in train mode too


class Separable(nn.Module):
    """MobileNet's block: the depthwise convolution follows, and its batch norm turns zeros into constants."""

    def __init__(self, padding, activation=F.relu, bias=False):
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.depthwise, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.point, self.bn3 = nn.Conv2d(6, 8, 3, padding=padding, bias=bias), nn.BatchNorm2d(8)
        self.head, self.activation = nn.Linear(8, 3), activation

    def forward(self, x):
        x = self.activation(self.bn2(self.depthwise(self.activation(self.bn1(self.expand(x))))))
        return self.head(F.relu(self.bn3(self.point(x))).mean((2, 3)))


def separable(**settings):
    torch.manual_seed(2)
    model = Separable(**settings).double().eval()
    for norm in (model.bn1, model.bn2, model.bn3):
        nn.init.normal_(norm.bias, 0.5, 0.5)
        nn.init.normal_(norm.running_mean)
    return model, Space.trace(model, torch.randn(1, 3, 8, 8).double(), divisor=2)


@pytest.mark.parametrize("bias", [False, True])
def test_constants_of_a_depthwise_follower_go_into_the_reader(bias):
    model, space = separable(padding=0, bias=bias)
    result = shaken(model, space)
    assert not result.gated and all(place.module != "bn2" for place in result.places)
    candidate, scores = halved(result, space)
    inputs = examples(model, space)
    whole = merged(result, model)
    small, notes, _ = folded(whole, space, candidate, scores)
    assert not notes and difference(outputs(small, inputs), outputs(result.model, inputs)) < 1e-12
    kept = np.flatnonzero(stays(space, candidate, scores)[space.layers[2].makes])
    changed = (
        small.point.bias - whole.point.bias[kept] if bias else small.bn3.running_mean - whole.bn3.running_mean[kept]
    )
    assert changed.abs().max() > 1e-3  # there was something to fold


def test_over_padding_the_follower_is_switched_off_instead():
    model, space = separable(padding=1)
    result = shaken(model, space)
    assert result.gated == {"expand"} and "bn2" in {place.module for place in result.places}
    candidate, scores = halved(result, space)
    inputs = examples(model, space)
    small, notes, _ = folded(merged(result, model), space, candidate, scores)
    assert not notes and difference(outputs(small, inputs), outputs(result.model, inputs)) < 1e-12


def test_what_padding_makes_approximate_is_said():
    model, space = separable(padding=1, activation=torch.sigmoid)
    plan = planned(model, space)
    assert "approximate" in plan.reasons["expand"]
    result = shaken(model, space)
    candidate, scores = halved(result, space)
    _, notes, error = folded(merged(result, model), space, candidate, scores)
    assert [(note["reader"], note["why"]) for note in notes] == [("point", "padding")] and error > 1e-6


class Normed(nn.Module):
    """A layer norm over channels, and an embedding that is added to a linear layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.a, self.ln = nn.Embedding(5, 6), nn.Linear(6, 6), nn.LayerNorm(6)
        self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 6)
        self.inner, self.wide, self.head = nn.LayerNorm(8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.c(F.gelu(self.b(self.ln(self.a(x)))))
        return self.head(self.inner(self.wide(x)).mean(1))


def test_what_takes_no_compactor_is_said():
    torch.manual_seed(0)
    model = Normed().double().eval()
    space = Space.trace(model, torch.zeros(1, 4, dtype=torch.int64), divisor=1)
    plan = planned(model, space)
    kinds = dict(zip([group.name for group in space.groups], plan.kinds, strict=True))
    assert kinds["b"] == "dense" and "b" not in plan.reasons
    assert kinds["embed"] == "whole" and "embed makes it too" in plan.reasons["embed"]
    assert kinds["wide"] == "diagonal" and "approximate" in plan.reasons["wide"]


def test_a_copied_network_has_compactors_of_its_own():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=1)
    result = compacted(model, space)
    twin = copy.deepcopy(result.model)
    before = twin(example)
    with torch.no_grad():
        result.compactor(0)[:] = 0
    assert torch.equal(twin(example), before)
    assert not torch.equal(result.model(example), before)
