"""A smaller network in one call."""

import copy
import json

import networks
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import secateur as sc


def given(n=96):
    model, x = networks.Residual(8), torch.randn(n, 3, 8, 8)
    with torch.no_grad():
        model(x)  # statistics of its norms are those of the pictures
    return model.eval(), x


@pytest.mark.parametrize("method", ["l2", "wanda", "uniform"])
def test_it_is_within_the_budget_and_nearer_to_the_full_network_than_its_cut(method):
    model, x = given()
    kept = copy.deepcopy(model.state_dict())
    found = sc.prune(model, x, budget=sc.Budget(macs=0.6), method=method)
    assert found.costs["macs"] <= 0.6 * found.full_costs["macs"] and found.difference < 1e-5
    fresh = torch.randn(200, 3, 8, 8)
    cut = sc.build(model, found.space, found.candidate, found.scores)
    with torch.no_grad():
        gaps = [float((one(fresh) - model(fresh)).square().mean()) for one in (found.network, cut)]
    assert gaps[0] < gaps[1] and found.reconstruction.error < found.reconstruction.error_before
    assert not found.network.training and found.space.costs([found.candidate])["macs"][0] == found.costs["macs"]
    assert all(torch.equal(one, kept[name]) for name, one in model.state_dict().items())
    assert "of the full network" in str(found) and "layers solved" in str(found) and "trace" in str(found)


def test_a_loader_with_labels_is_as_its_pictures():
    model, x = given()
    budget = sc.Budget(params=0.7)
    found = [sc.prune(model, images, budget=budget) for images in (x, ([one, torch.zeros(9)] for one in x.split(40)))]
    with torch.no_grad():
        torch.testing.assert_close(found[0].network(x), found[1].network(x))


def test_blocks_go_in_the_order_of_their_damage():
    model, x = given()
    with torch.no_grad():
        model.layer1[0].bn2.weight.zero_()  # behind the addition, the block hardly changes anything
        model.layer1[0].bn2.bias.zero_()
    told = []
    found = sc.prune(model, x, budget=sc.Budget(macs=0.9), depth=0.8, progress=told.append)
    stage = found.space.stages[0]
    assert stage.order[0] == "layer1.0" and "layer1.0" in found.space.removed(found.candidate)
    assert isinstance(found.network.layer1[0], torch.nn.Identity)
    assert [event.doing for event in told] == ["read", "trace", "choose", "cut, verify", "reconstruct", "time"]
    assert str(told[1]) == "prune: trace (2/6)" and list(found.seconds) == [event.doing for event in told]


def test_settings_of_a_method_and_what_was_done_as_json():
    model, x = given()
    found = sc.prune(model, x, budget=sc.Budget(macs=0.6), settings={"allocation": "knapsack"}, depth=1)
    record = json.loads(json.dumps(found.record, allow_nan=False))
    assert record["widths"] == dict(zip([a.name for a in found.space.axes], found.candidate, strict=True))
    assert 0 < record["costs"]["latency_ms"] and 0 < record["full_costs"]["latency_ms"]
    assert 0 <= record["reconstruction"]["agreement"] <= 1 and record["reconstruction"]["held_out"] > 0


def test_a_shorter_side_is_judged_by_what_the_full_network_says_of_the_pictures_as_given():
    model, x = given()
    found = sc.prune(model, x, budget=sc.Budget(macs=0.57), resolution=6)
    assert found.widths == dict.fromkeys(found.widths, 0) | {
        axis.name: axis.full for axis in found.space.axes if axis.kind == "width"
    }
    assert found.space.side(found.candidate) == (6, 6) and found.space.side(found.space.full) == (8, 8)
    said = found.reconstruction
    judged = x[12:24]  # the second of eight batches
    with torch.no_grad():
        wanted, got = model(judged), model(F.interpolate(judged, 6, mode="bilinear", antialias=True))
    error = (got - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    assert said.held_out == 12 and said.error_before == pytest.approx(float(error), rel=1e-4)
    assert list(said.solved) == ["head"] and said.error < said.error_before
    assert "left stem: it gives what the full network gives" in str(said)


def test_a_side_that_is_shorter_on_one_axis_only():
    model, x = given()
    for side in (8, 6), (6, 8):
        found = sc.prune(model, x, budget=sc.Budget(macs=0.8), resolution=side)
        assert found.space.side(found.candidate) == side
        assert found.network(torch.rand(2, *x.shape[1:2], *side)).shape == model(x[:2]).shape


def test_at_a_shorter_side_the_full_network_sees_pictures_as_given_only_where_a_layer_or_a_judgement_asks():
    sides = []

    class Pooled(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
            self.head = nn.Linear(4, 3) if layer else None

        def forward(self, x):
            sides.append((len(x), x.shape[-1]))
            x = self.last(F.relu(self.first(x))).mean((2, 3))
            return x if self.head is None else self.head(x)

    for layer in (False, True):
        model, x = Pooled(layer).eval(), torch.randn(96, 3, 8, 8)
        space = sc.Space.trace(model, x[:1], resolutions=(6, 8))
        candidate = space.uniform(resolution=0.75)
        small = sc.build(model, space, candidate)
        sides.clear()
        said = sc.reconstruct(small, model=model, space=space, candidate=candidate, images=x)
        assert said.held_out == 12 and sum(count for count, side in sides if side == 8) == (96 if layer else 12)


def test_at_a_shorter_side_the_teacher_sees_the_pictures_as_given():
    sides = []

    class Watched(networks.Residual):
        def forward(self, x):
            sides.append((self.training, torch.is_grad_enabled(), x.shape[-1]))
            return super().forward(x)

    model, x = Watched(8), torch.randn(96, 3, 8, 8)
    model(x)
    found = sc.prune(model.eval(), x, budget=sc.Budget(macs=0.5), resolution=6)
    sides.clear()
    taught = sc.reconstruct(
        found.network, model=model, space=found.space, candidate=found.candidate, images=x, distill=3
    )
    assert {side for _, grad, side in sides if grad} == {6} and 8 in {side for _, grad, side in sides if not grad}
    assert taught.error <= taught.error_before


def test_a_space_of_the_users_own():
    model, x = given()
    space = sc.Space.trace(model, x[:1], divisor=2, ignore=("layer1",))
    found = sc.prune(model, x, budget=sc.Budget(macs=0.9), space=space, most=64)
    assert found.space is space and found.network.layer1[0].conv1.weight.shape == model.layer1[0].conv1.weight.shape
    assert found.reconstruction.pictures + found.reconstruction.held_out == 64


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": sc.Budget()}, "there is no limit; expected some that arithmetic knows, such as macs=0.7"),
        ({"budget": sc.Budget(latency_ms=3)}, "latency_ms=3 is measured.*milliseconds are for searches"),
        ({"budget": sc.Budget(macs=0.001)}, "is below the smallest network"),
        ({"method": "taylor"}, "taylor needs labels, and there are pictures only"),
        ({"method": "resrep"}, "resrep needs training"),
        ({"method": "l3"}, "l3"),
        ({"images": []}, "holds no pictures; give at least 2"),
        ({"images": torch.randn(1, 3, 8, 8)}, "holds 1 picture; give at least 2"),
        ({"images": torch.randn(8, 1, 8, 8)}, r"does not take pictures of shape \(1, 8, 8\).*have 3 channels"),
        ({"images": torch.full((8, 3, 8, 8), torch.nan)}, "hold NaN or infinite numbers"),
        ({"resolution": 9}, r"resolution is 9; expected at most the pictures' \(8, 8\), and at least 1"),
        ({"resolution": (6, 6, 6)}, r"expected at most the pictures' \(8, 8\)"),
        ({"depth": 1.5}, "depth=1.5: expected a share of the blocks"),
        ({"settings": {"allocation": "best"}}, "l2"),
        ({"images": ["file.png"]}, "a batch of images is a str"),
    ],
)
def test_what_is_of_no_use_is_refused(changes, said):
    model, x = given(8)
    asked = {"images": x, "budget": sc.Budget(macs=0.6)} | changes
    with pytest.raises(ValueError, match=said):
        sc.prune(model, asked.pop("images"), **asked)
