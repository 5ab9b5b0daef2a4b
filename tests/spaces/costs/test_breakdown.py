"""Where a network's costs are: what every module takes sums to what the network takes."""

import pytest
import torch
from networks import NETWORKS, network
from torch import nn

from secateur.spaces import COSTS, Space, build


@pytest.mark.parametrize("name", NETWORKS)
def test_modules_sum_to_the_network(name):
    model, example = network(name)
    space = Space.trace(model, example, divisor=2)
    for candidate in [space.full, space.smallest, *space.sample(3, seed=3)]:
        found = space.breakdown(candidate)
        assert not found["module"].duplicated().any()
        assert found[list(COSTS)].sum().to_dict() == space.costs([candidate]).iloc[0].to_dict()


def test_modules_sum_to_the_network_at_every_side():
    model, example = network("residual")
    space = Space.trace(model, example, resolutions=(12, 11, 7, (9, 6)), divisor=2)
    for candidate in space.sample(6, seed=0):
        assert space.breakdown(candidate)[list(COSTS)].sum().to_dict() == space.costs([candidate]).iloc[0].to_dict()


@pytest.mark.parametrize("name", ["plain", "residual", "unet2d"])
def test_every_module_has_its_own_parameters(name):
    model, example = network(name)
    space = Space.trace(model, example, divisor=2)
    candidate = space.uniform(width=0.5)
    small = build(model, space, candidate)
    own = {
        path: sum(parameter.numel() for parameter in module.parameters(recurse=False))
        for path, module in small.named_modules()
    }
    for row in space.breakdown(candidate).itertuples():
        assert row.params == own.get(row.module, 0), row.module


def test_rows_follow_the_forward():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(6, 2)
            self.first = nn.Linear(4, 6)
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.scale * self.last(torch.relu(self.first(x)))

    space = Space.trace(Backwards(), torch.zeros(1, 4))
    rows = space.breakdown(space.full).set_index("module")
    assert list(rows.index) == ["(input)", "first", "", "last"]
    assert rows["macs"].tolist() == [0, 24, 0, 12]
    assert rows["params"].tolist() == [0, 30, 2, 14]
    assert rows["activation_bytes"].tolist() == [0, 4 * 6, 4 * 6 + 4 * 2, 4 * 2]
