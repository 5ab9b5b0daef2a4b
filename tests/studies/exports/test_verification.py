"""Formats beside the network: what hangs on rounding, and what a forward keeps for inputs of one shape."""

import pytest
import torch
from detectors import detector
from networks import image
from torch import nn
from torch.utils import _pytree as pytree

from secateur import Space, build, load, save
from secateur.studies.exports import conversion
from secateur.studies.exports.conversion import onnx_installed
from secateur.studies.exports.taking import Taking
from secateur.studies.exports.verification import Verification, called


class Best(nn.Module):
    """Rows in the order of their scores, of which every two are alike but for rounding."""

    def __init__(self):
        super().__init__()
        self.scores, self.row = nn.ModuleList(nn.Linear(16, 1, bias=False) for _ in range(2)), nn.Linear(16, 3)
        with torch.no_grad():
            self.scores[1].weight.copy_(self.scores[0].weight * (1 + 1e-6))

    def forward(self, x):
        scores = torch.cat([score(x[:, ::2]) for score in self.scores], 2).flatten(1)
        order = scores.topk(x.shape[1]).indices[..., None]
        return self.row(x).gather(1, order.expand(-1, -1, 3)), scores.sort(descending=True).values


@pytest.fixture
def verification():
    torch.manual_seed(0)
    return Verification(Taking(Best(), torch.randn(2, 64, 16)))


def disturbed(verification, change):
    """What the network gives, with its rows changed."""

    def run(inputs):
        rows, scores = called(verification._network)(inputs)
        return [change(rows), scores]

    return run


def swapped(rows, scores, apart):
    """The first neighbours whose scores are as far apart exchanged."""
    gaps = (scores[0, :-1] - scores[0, 1:]).abs()
    place = int((gaps > 0.05 if apart else gaps < 1e-5).nonzero()[0])
    order = torch.arange(rows.shape[1])
    order[[place, place + 1]] = order[[place + 1, place]]
    return rows[:, order]


def test_rows_that_are_as_good_may_change_places(verification):
    scores = verification.expected["1"][1]
    verification.compare("other", disturbed(verification, lambda rows: swapped(rows, scores, apart=False)), batch=1)
    found = verification.found["other"]
    assert found["1"] < 1e-6 and 0 < found["unsteady"] <= 0.1


@pytest.mark.parametrize(
    "change",
    [
        lambda rows, scores: swapped(rows, scores, apart=True),
        lambda rows, scores: rows + 0.01,
        lambda rows, scores: rows.flip(1),
        lambda rows, scores: rows[:, 1:],
    ],
    ids=["others_changed_places", "values", "all_changed_places", "one_is_missing"],
)
def test_anything_else_is_refused(verification, change):
    scores = verification.expected["1"][1]
    with pytest.raises(RuntimeError, match="the other export is wrong: at batch 1"):
        verification.compare("other", disturbed(verification, lambda rows: change(rows, scores)), batch=1)
    assert "other" not in verification.found


@pytest.mark.skipif(not onnx_installed(), reason="the onnx extra is not installed")
@pytest.mark.parametrize("best", [pytest.param(0, marks=pytest.mark.slow), 20])
def test_what_is_kept_for_inputs_of_one_shape_leaves_the_batch_free(best, tmp_path):
    model = detector(best, (2, 3, 64, 64)).float()
    space = Space.trace(model, image(1, 3, 64, 64), divisor=4)
    candidate = space.uniform(0.5)
    small = build(model, space, candidate)
    small(image(4, 3, 64, 64))
    found = save(tmp_path / "net", small, model=model, space=space, candidate=candidate, formats=("pt2", "onnx"))
    assert all("fixed_batch" not in found[name] and found[name]["3"] < 1e-4 for name in ("pt2", "onnx"))
    inputs = image(5, 3, 64, 64)
    for one, expected in zip(
        pytree.tree_leaves(load(tmp_path / "net")(inputs)), pytree.tree_leaves(small(inputs)), strict=True
    ):
        torch.testing.assert_close(one, expected)


@pytest.mark.skipif(not onnx_installed(), reason="the onnx extra is not installed")
def test_zeros_padded_before_a_max_pool_stay_zeros_in_onnx_runtime(tmp_path):
    torch.manual_seed(0)  # what is pooled is mostly negative, and the runtime pads with minus infinity
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1), nn.Conv2d(8, 4, 1))
    nn.init.constant_(model[0].bias, -1.0)
    space = Space.trace(model.eval(), image(1, 3, 16, 16), divisor=1)
    candidate = space.uniform(0.5)
    small = build(model, space, candidate)
    found = save(tmp_path / "net", small, model=model, space=space, candidate=candidate, formats=("onnx",))
    assert found["onnx"]["3"] < 1e-5 and "fixed_batch" not in found["onnx"]


@pytest.mark.skipif(not onnx_installed(), reason="the onnx extra is not installed")
def test_a_program_that_gives_other_outputs_is_left_out_or_refused(tmp_path, monkeypatch):
    runner = conversion.onnx_runner
    monkeypatch.setattr(conversion, "onnx_runner", lambda path: lambda x: [one + 1 for one in runner(path)(x)])
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    space = Space.trace(model, image(1, 3, 8, 8), divisor=1)
    candidate = space.uniform(0.5)
    given = {"model": model, "space": space, "candidate": candidate}
    found = save(tmp_path / "net", build(model, space, candidate), **given)
    assert "the onnx export is wrong: at batch 1" in found["onnx"]["left_out"] and found["pt2"]["1"] < 1e-4
    assert {path.name for path in (tmp_path / "net").iterdir()} >= {"model.safetensors", "model.pt2"}
    assert not (tmp_path / "net" / "model.onnx").exists()
    with pytest.raises(ValueError, match="cannot be written as onnx .*the onnx export is wrong.*leave onnx out"):
        save(tmp_path / "other", build(model, space, candidate), **given, formats=("onnx",))
    assert not (tmp_path / "other").exists()


class Drawn(nn.Module):
    """Random numbers are part of what it gives."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.one(x)
        return self.two(x + torch.randn_like(x))


def test_a_network_that_draws_is_held_against_the_same_draws(tmp_path):
    model = Drawn().eval()
    space = Space.trace(model, image(1, 1, 6, 6), divisor=1)
    small = build(model, space, space.smallest)
    found = save(tmp_path / "net", small, model=model, space=space, candidate=space.smallest)
    assert found["safetensors"]["3"] == 0 and found["pt2"]["3"] < 1e-5
    assert not onnx_installed() or "draws random numbers" in found["onnx"]["left_out"]


class Banked(nn.Module):
    """Pictures and a bank of prototypes, as many for every batch."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x, bank):
        return self.two(self.one(x).relu()) @ self.two(self.one(bank).relu()).T


def test_an_input_without_examples_keeps_its_rows(tmp_path):
    model = Banked().eval()
    space = Space.trace(model, (torch.rand(1, 6), torch.rand(5, 6)), divisor=1)
    small = build(model, space, space.uniform(0.5))
    found = save(tmp_path / "net", small, model=model, space=space, candidate=space.uniform(0.5))
    assert all(found[name]["3"] < 1e-4 and "fixed_batch" not in found[name] for name in found.keys() & {"pt2", "onnx"})
    inputs = torch.rand(4, 6), torch.rand(5, 6)
    torch.testing.assert_close(load(tmp_path / "net")(*inputs), small(*inputs))
