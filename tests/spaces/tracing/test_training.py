"""Forwards that do more in training than in eval mode, and tensors that no forward reads."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from secateur import Space, build, channel_map, verify

X = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Auxiliary(nn.Module):
    """A second head with a width of its own, in training only, as GoogLeNet has."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.deep, self.drop, self.head = nn.Conv2d(12, 10, 3, padding=1), nn.Dropout(0.5), nn.Linear(10, 4)
        self.aux_conv, self.aux_head = nn.Conv2d(12, 6, 1), nn.Linear(6, 4)

    def forward(self, x):
        early = F.relu(self.norm(self.stem(x)))
        late = self.head(self.drop(F.relu(self.deep(early)).mean((2, 3))))
        return (late, self.aux_head(F.relu(self.aux_conv(early)).mean((2, 3)))) if self.training else late


class Projector(nn.Module):
    """Features that are returned in training, beside a projection of them."""

    def __init__(self):
        super().__init__()
        self.body, self.features = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3)
        self.project, self.head = nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x):
        found = self.features(F.relu(self.body(x))).mean((2, 3))
        if self.training:
            return {"logits": self.head(found), "projected": F.normalize(self.project(found), dim=1)}
        return self.head(found)


class WrittenDown(nn.Module):
    """The branch of training writes a number of channels down."""

    def __init__(self):
        super().__init__()
        self.free, self.cut, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        found = F.relu(self.cut(F.relu(self.free(x))))
        if self.training:
            found = found.view(-1, 8, found.shape[2], found.shape[3]) * 1.5
        return self.head(found.mean((2, 3)))


class Scaled(nn.Module):
    """A scale that only training applies, which two branches of equal operators hide from nothing."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.scale = nn.Conv2d(3, 12, 3), nn.Linear(12, 4), nn.Parameter(torch.rand(12))

    def forward(self, x):
        found = self.conv(x).relu()
        return self.head((found * self.scale[:, None, None] if self.training else found).mean((2, 3)))


class Targets(nn.Module):
    """It cannot run in training without targets."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 12, 3), nn.Linear(12, 4)

    def forward(self, x, targets=None):
        if self.training and targets is None:
            raise ValueError("targets are missing")
        return self.head(self.conv(x).mean((2, 3)))


class Centres(nn.Module):
    """Class centres, which only a loss reads, of the features before the head."""

    def __init__(self):
        super().__init__()
        self.body, self.last, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3), nn.Linear(8, 4)
        self.centres = nn.Parameter(torch.rand(4, 8))
        self.token = nn.Parameter(torch.rand(1, 1, 12))  # as of masked training: it goes with the body

    def features(self, x):
        return self.last(self.body(x).relu()).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def traced(kind):
    torch.manual_seed(0)
    model = kind().double().eval()
    return model, Space.trace(model, X[:1], divisor=1)


def step(net):
    """A step of training; the outputs before it, flat."""
    net.train()
    outputs = net(X)
    leaves = list(outputs.values()) if isinstance(outputs, dict) else outputs
    leaves = list(leaves) if isinstance(leaves, (list, tuple)) else [leaves]
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    sum(leaf.square().mean() for leaf in leaves).backward()
    optimizer.step()
    return leaves


@pytest.mark.parametrize("kind", [Auxiliary, Projector, WrittenDown, Scaled, Centres], ids=lambda kind: kind.__name__)
def test_every_candidate_trains_as_the_masked_network_does(kind):
    model, space = traced(kind)
    assert space.groups
    for candidate in (space.uniform(0.5), space.smallest, *space.sample(3)):
        assert verify(model, space, candidate, X) < 1e-12
        small, whole = build(model, space, candidate), copy.deepcopy(model)
        with torch.no_grad():
            for name, axes in channel_map(space, candidate).items():
                tensor = whole.get_parameter(name) if name in dict(whole.named_parameters()) else None
                if tensor is not None:
                    for axis, kept in axes.items():
                        gone = torch.ones(tensor.shape[axis], dtype=torch.bool)
                        gone[kept] = False
                        tensor.index_fill_(axis, gone.nonzero()[:, 0], 0)
        for net in (small, whole):
            for module in net.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        for one, other in zip(step(small), step(whole), strict=True):
            torch.testing.assert_close(one, other)


def test_an_auxiliary_head_follows_the_layer_it_reads_and_keeps_its_own_width():
    _, space = traced(Auxiliary)
    assert {group.name for group in space.groups} == {"stem", "deep"}
    assert space.frozen["aux_conv"] == "the forward uses it in training only"
    assert "aux_conv.weight" in space.slots and "output" in space.frozen["aux_head"]


def test_what_training_writes_down_is_frozen_with_its_line():
    _, space = traced(WrittenDown)
    assert {group.name for group in space.groups} == {"free"}
    assert "written as a constant" in space.frozen["cut"] and "test_training.py" in space.frozen["cut"]


def test_features_that_a_loss_may_hold_against_a_tensor_are_kept_and_named():
    _, space = traced(Centres)
    assert {group.name for group in space.groups} == {"body"}
    assert space.frozen["last"].startswith("centres is as wide, which no forward uses")
    assert "keeps its size" in space.frozen["centres"]
    assert "token" not in space.frozen and (space.slots["token"][2] == space.slots["body.bias"][0]).all()


class Filled(nn.Module):
    """Positions that training draws are filled with a row of numbers, as in speech; export cannot follow that."""

    def __init__(self):
        super().__init__()
        self.body, self.inner, self.head = nn.Conv2d(3, 12, 3), nn.Sequential(nn.Linear(12, 12)), nn.Linear(12, 4)
        self.fill = nn.Parameter(torch.rand(12))

    def forward(self, x):
        found = self.body(x).flatten(2).transpose(1, 2)
        if self.training:
            gone = torch.rand(found.shape[:2]) < 0.5
            found[gone] = self.fill.expand(int(gone.sum()), -1)
        return self.head((found + self.inner(found.relu())).mean(1))


def test_what_fills_the_stream_in_training_is_cut_along_with_it():
    model, space = traced(Filled)
    assert "fill" not in space.frozen and "forward in training" in space.frozen
    assert [group.name for group in space.groups] == ["body"]
    candidate = space.uniform(0.5)
    small = build(model, space, candidate)
    assert small.fill.shape == small.body.bias.shape == (6,)
    kept = (model.body.bias[:, None] == small.body.bias).any(1)
    assert torch.equal(small.fill, model.fill[kept])
    step(small)


def test_a_forward_that_needs_targets_is_followed_in_eval_mode_and_said():
    _, space = traced(Targets)
    assert {group.name for group in space.groups} == {"conv"}
    assert "targets are missing" in space.frozen["forward in training"]


class Noisy(nn.Module):
    """Channels are dropped by hand, and others get noise, in training."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 10, 3), nn.Linear(10, 4)

    def forward(self, x):
        x = self.one(x)
        if self.training:
            x = x * (torch.rand(x.shape[0], x.shape[1], 1, 1) > 0.1).to(x) / 0.9
        x = self.two(x.relu())
        if self.training:
            x = x + 0.1 * torch.randn(x.shape)
        return self.head(x.mean((2, 3)))


def test_noise_that_is_drawn_in_the_shape_of_channels_follows_them():
    model, space = traced(Noisy)
    assert [axis.name for axis in space.axes] == ["width:one", "width:two"]
    step(build(model, space, space.smallest))


class Wide(nn.Module):
    """An auxiliary head whose kernel is too large for the example, but not for what it is trained on."""

    def __init__(self, kernel):
        super().__init__()
        self.body, self.last, self.head = nn.Conv2d(3, 10, 3), nn.Conv2d(10, 8, 3), nn.Linear(8, 4)
        self.aux = nn.Conv2d(10, 4, kernel)

    def forward(self, x):
        found = self.body(x)
        late = self.head(self.last(found.relu()).mean((2, 3)))
        return (late, self.aux(found).mean((2, 3))) if self.training else late


@pytest.mark.parametrize(("kernel", "follows"), [(20, True), (200, False)])
def test_what_does_not_run_at_the_example_s_side_is_tried_at_larger_ones_or_keeps_what_it_may_read(kernel, follows):
    torch.manual_seed(0)
    model = Wide(kernel).eval()
    space = Space.trace(model, X[:1].float(), divisor=1)
    assert {group.name for group in space.groups} == ({"body", "last"} if follows else {"last"})
    if not follows:
        assert "the forward in training, which is not followed" in space.frozen["body"]
        assert "does not run on the example inputs" in space.frozen["forward in training"]
    small = build(model, space, space.uniform(0.5)).train()
    sum(one.sum() for one in small(torch.rand(2, 3, 210, 210))).backward()


def test_modes_and_weights_stay_as_they_were():
    torch.manual_seed(0)
    model = Auxiliary().double().train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Space.trace(model, X[:1], divisor=1)
    assert model.training and not model.norm.training and model.drop.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
