"""Blocks in the order of what dropping each changes."""

import networks
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.pruners import Examples, block_damages


class Doubling(nn.Module):
    """Adds a multiple of its input."""

    def __init__(self, share):
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(share * torch.eye(2))

    def forward(self, x):
        return x + self.linear(x)


def test_by_hand():
    model = nn.Sequential(nn.Sequential(Doubling(1.0), Doubling(0.5), Doubling(3.0)))
    x = torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, -2.0]])  # of mean 0, so the spread is that of the squares
    space = sc.Space.trace(model, x[:1], rules={"*": {"least": 1.0}})
    [stage] = space.stages
    found = block_damages(model, space, Examples(batches=[(x[:2], x), (x[2:], x)]))
    # Whole it gives 2 * 1.5 * 4 = 12 times x; without a block 6, 8 and 3 times: (6, 4, 9) / 12 are lost, squared.
    assert found == {stage.name: pytest.approx([0.25, 1 / 9, 9 / 16])}
    assert [name[-1] for name in space.with_block_order(found).stages[0].order] == ["1", "0", "2"]


def test_nothing_of_the_network_is_changed_and_widths_are_whole():
    torch.manual_seed(0)
    model, x = networks.Residual(8), torch.randn(16, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space = sc.Space.trace(model, x[:1])
    found = block_damages(model, space, Examples(batches=[(x, x)]))
    assert {name: len(values) for name, values in found.items()} == {"layer1": 3, "layer2": 2}
    assert model.training and all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()
    model.layer1[2] = nn.Identity()
    with torch.no_grad():
        without = model(x).double()
        whole = networks.Residual(8).eval()
        whole.load_state_dict(before)
        full = whole(x).double()
    share = (without - full).square().sum() / (full - full.mean(0)).square().sum()
    assert found["layer1"][2] == pytest.approx(float(share), rel=1e-5)


def test_a_network_without_blocks_has_none():
    model, x = networks.Plain(), torch.randn(4, 3, 8, 8)
    assert block_damages(model, sc.Space.trace(model, x[:1]), Examples(batches=[(x, x)])) == {}


def test_what_is_not_finite_is_refused():
    model, x = networks.Residual(8), torch.full((4, 3, 8, 8), torch.nan)
    space = sc.Space.trace(model, torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="are not finite; look for NaN"):
        block_damages(model, space, Examples(batches=[(x, x)]))
