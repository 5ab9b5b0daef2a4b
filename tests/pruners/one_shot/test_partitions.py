"""Golden numbers by hand, plain enumeration, and networks whose linear layers are blocks."""

import itertools

import numpy as np
import pytest
import torch
from pruning import loss
from torch import nn

from secateur.pruners import Examples, GroupedLinear, partition_costs, partitioned
from secateur.pruners.one_shot.partitions import inside, partition
from secateur.spaces import Space


def test_parts_by_hand():
    squares = np.array([[5, 0, 1, 0], [0, 4, 0, 2], [3, 0, 1, 0], [0, 1, 0, 6]], float) ** 2
    found = partition([squares], 2)
    assert inside([squares], found) == squares.sum() == 93
    assert found[0].tolist() == found[1].tolist() and found[0][0] == found[0][2] != found[0][1] == found[0][3]
    assert inside([np.sqrt(squares)], found) == 23
    assert inside([np.sqrt(squares)], [np.array([0, 0, 1, 1])] * 2) == 16


def test_hidden_blocks_are_found():
    generator = np.random.default_rng(0)
    whole = np.kron(np.eye(4), np.ones((6, 5))) * generator.random((24, 20))
    mixed = whole[generator.permutation(24)][:, generator.permutation(20)]
    assert inside([mixed], partition([mixed], 4)) == pytest.approx(mixed.sum())


def test_it_is_as_good_as_looking_at_all():
    generator, exact = np.random.default_rng(0), 0
    halves = [np.isin(np.arange(6), one).astype(int) for one in itertools.combinations(range(6), 3)]
    for _ in range(20):
        s = generator.random((6, 6)) ** 2
        best = max(inside([s], [columns, rows]) for rows in halves for columns in halves[:10])
        found = inside([s], partition([s], 2))
        exact += found >= best - 1e-12
        assert 0.98 * best <= found <= best + 1e-12
    assert exact >= 18


def test_it_beats_chance_and_chains_share_their_parts():
    generator = np.random.default_rng(0)
    chain = [generator.random((8, 12)) ** 4, generator.random((16, 8)) ** 4]
    found = partition(chain, 4)
    assert [len(labels) for labels in found] == [12, 8, 16]
    assert all(np.bincount(labels).tolist() == [len(labels) // 4] * 4 for labels in found)
    drawn = [[generator.permutation(np.arange(n) % 4) for n in (12, 8, 16)] for _ in range(1000)]
    assert inside(chain, found) >= max(inside(chain, labels) for labels in drawn)


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="4 parts of 6 units would not be equal"):
        partition([np.ones((8, 6))], 4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc1, self.drop, self.fc2, self.bn = nn.Linear(36, 16), nn.Dropout(), nn.Linear(16, 8), nn.BatchNorm1d(8)
        self.fc3 = nn.Linear(8, 6)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().flatten(1)
        return self.fc3(self.bn(self.fc2(self.drop(self.fc1(x)).relu())).relu())


def subject():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net().double().eval()
        nn.init.normal_(model.bn.running_mean, std=0.1)
        nn.init.constant_(model.bn.running_var, 0.1)
        batches = [(torch.randn(64, 1, 3, 3).double(), torch.zeros(64, dtype=torch.long)) for _ in range(2)]
    return model, Space.trace(model, batches[0][0][:1], divisor=1), Examples(batches=batches, loss=loss)


LAYERS = {"fc1": (4, 16), "fc2": (16, 8)}


def test_blocks_give_what_the_network_gives_with_all_else_zeroed():
    model, space, examples = subject()
    small, notes = partitioned(model, space, list(LAYERS), 2)
    assert isinstance(small.fc1, GroupedLinear) and small.fc1.order is None and small.fc2.back is None
    inputs = examples.batches[0][0]
    masked = Net().double().eval()
    masked.load_state_dict(model.state_dict())
    found = []
    for name in LAYERS:
        weight, blocks = getattr(model, name).weight.detach(), getattr(small, name).weight.detach()
        mask = torch.isin(weight, blocks)
        assert int(mask.sum()) == blocks.numel() == weight.numel() // 2
        getattr(masked, name).weight.data.mul_(mask)
        found.append((float((weight[mask] ** 2).sum()), float((weight**2).sum())))
    assert notes["kept"] == pytest.approx(sum(a for a, _ in found) / sum(b for _, b in found))
    with torch.no_grad():
        assert torch.allclose(small(inputs), masked(inputs), atol=1e-10)
        assert not torch.allclose(small(inputs), model(inputs), atol=1e-3)
        whole, _ = partitioned(model, space, list(LAYERS), 1)
        assert torch.allclose(whole(inputs), model(inputs), atol=1e-10)
        outer, _ = partitioned(model, space, ["fc3"], 2)  # its outputs are the network's, in their own order
        assert outer.fc3.back is not None and outer(inputs).shape == (64, 6)


def test_costs_are_exact():
    model, space, _ = subject()
    costs = partition_costs(space, list(LAYERS), 4)
    assert space.full_costs["macs"] - costs["macs"] == 0.75 * (36 * 16 + 16 * 8)
    small, _ = partitioned(model, space, list(LAYERS), 4)
    assert costs["params"] == sum(parameter.numel() for parameter in small.parameters())


def test_solved_blocks_are_nearer_to_the_full_network():
    model, space, examples = subject()
    inputs = examples.batches[1][0]

    def off(small):
        with torch.no_grad():
            return float((small.eval()(inputs) - model(inputs)).square().mean())

    plain, _ = partitioned(model, space, list(LAYERS), 4)
    solved, _ = partitioned(model, space, list(LAYERS), 4, examples=examples)
    assert off(solved) < 0.7 * off(plain)


def test_an_input_that_is_always_zero_may_be_anywhere_and_scales_do_not_count():
    model, space, examples = subject()
    _, notes = partitioned(model, space, ["fc1"], 2, examples=examples)
    scaled = Net().double().eval()
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():  # a channel ten times as large, and the columns that read it by as much smaller
        scaled.norm.weight[1] *= 10
        scaled.norm.bias[1] *= 10
        scaled.fc1.weight[:, 9:18] /= 10
    _, other = partitioned(scaled, space, ["fc1"], 2, examples=examples)
    assert other["kept"] == pytest.approx(notes["kept"])


def test_what_is_no_chain_is_refused():
    model, space, _ = subject()
    with pytest.raises(ValueError, match=r"\['conv'\] is no linear layer; expected names out of fc1, fc2, fc3"):
        partitioned(model, space, ["conv"], 2)
    with pytest.raises(ValueError, match="fc3 does not read what fc1 makes"):
        partitioned(model, space, ["fc1", "fc3"], 2)
