"""Weights drawn again: which distribution, what is reset, what stays."""

import copy
import math

import pytest
import torch
from networks import network
from torch import nn

from secateur.pruners.one_shot.fresh import fresh


def test_layers_are_xavier_normal_and_their_biases_zero():
    for layer in (nn.Conv3d(16, 32, 3), nn.ConvTranspose2d(40, 60, 3), nn.Linear(200, 100)):
        assert fresh(layer, 0) == ()
        fans = sum(layer.weight.shape[:2]) * math.prod(layer.weight.shape[2:])
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / fans), rel=0.05)
        assert not layer.bias.any()


def test_layers_may_be_orthogonal():
    layer = nn.Conv2d(6, 5, 3)
    fresh(layer, 0, draw="orthogonal")
    rows = layer.weight.detach().flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(5), atol=1e-5)


def test_norms_are_near_one_and_without_statistics():
    norm = nn.BatchNorm1d(4000)
    for tensor in (norm.running_mean, norm.running_var, norm.bias.data):
        tensor.fill_(7)
    norm.num_batches_tracked.fill_(9)
    fresh(norm, 0)
    scale = norm.weight.detach()
    assert float(scale.mean()) == pytest.approx(1, abs=0.002) and float(scale.std()) == pytest.approx(0.02, rel=0.05)
    assert not norm.bias.any() and not norm.running_mean.any() and not norm.num_batches_tracked.any()
    assert (norm.running_var == 1).all()


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((3,), 5.0))
        self.prelu, self.norm = nn.PReLU(3), nn.GroupNorm(1, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.tied = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
        with torch.no_grad():
            for parameter in (*self.norm.parameters(), *self.prelu.parameters()):
                parameter.fill_(5)


def test_other_modules_reset_themselves_and_the_rest_stays_and_is_named():
    model = Odd()
    old = copy.deepcopy(model.state_dict())
    left = fresh(model, 0)
    assert set(left) == {
        "gamma", "tied.bias", "tied.parametrizations.weight.original0", "tied.parametrizations.weight.original1"
    }  # fmt: skip
    for name, value in model.state_dict().items():
        assert torch.equal(value, old[name]) == (name in left or name.endswith("bias") and "norm" not in name), name
    assert (model.prelu.weight == 0.25).all() and (model.norm.weight == 1).all() and not model.norm.bias.any()


@pytest.mark.parametrize("name", ["residual", "unet3d", "shared"])
def test_the_same_seed_draws_the_same_weights_whatever_was_there(name):
    model, _ = network(name)
    other = copy.deepcopy(model).float()
    for parameter in other.parameters():
        parameter.data.fill_(3)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    left = fresh(model, 1)
    assert fresh(other, 1) == left == (("gamma",) if name == "shared" else ())
    assert torch.equal(torch.random.get_rng_state(), before)
    for (key, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert key in left or torch.equal(one.float(), two), key
    first = copy.deepcopy(model.state_dict())
    fresh(model, 2)
    assert any(not torch.equal(value, first[key]) for key, value in model.state_dict().items())


def test_another_draw_is_refused():
    with pytest.raises(ValueError, match="draw='uniform': expected one of xavier, orthogonal"):
        fresh(nn.Linear(2, 2), 0, draw="uniform")
