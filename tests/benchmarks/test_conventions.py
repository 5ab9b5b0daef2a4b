"""RANP's way of counting, on modules whose costs are worked out by hand."""

import pytest
import torch
from conventions import MIB, count_as_ranp
from torch import nn


class Every(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True)
        self.grouped, self.up = nn.Conv2d(4, 6, 1, groups=2), nn.ConvTranspose2d(6, 5, 2, 2)
        self.mean, self.most, self.fc = nn.AvgPool2d(2), nn.MaxPool2d(2), nn.Linear(80, 7)

    def forward(self, x):
        x = self.up(self.grouped(self.relu(self.relu(self.norm(self.conv(x))))))
        return self.fc(torch.relu(self.most(self.mean(x)).flatten(1)))


# conv: 4 * 64 outputs of 27; norm: 4 for each of 256; grouped: 6 * 64 of 2 and a bias; up: 5 * 256 of 6 * 4 and a bias
# mean: 5 * 64 of 4 + 1; fc: 7 of 2 * 80 - 1 and a bias
FLOPS = {"conv": 6912, "norm": 1024, "relu": 0, "grouped": 1152, "up": 32000, "mean": 1600, "most": 0, "fc": 1120}
OUTPUTS = {"conv": 256, "norm": 256, "relu": 512, "grouped": 384, "up": 1280, "mean": 320, "most": 80, "fc": 7}
PARAMS = {"conv": 108, "norm": 8, "relu": 0, "grouped": 18, "up": 125, "mean": 0, "most": 0, "fc": 567}


def test_every_kind_of_module():
    found = count_as_ranp(Every(), torch.zeros(1, 3, 8, 8))
    assert {line.name: line.flops for line in found.lines} == FLOPS
    assert {line.name: line.outputs for line in found.lines} == OUTPUTS
    assert {line.name: line.params for line in found.lines} == PARAMS
    assert [line.calls for line in found.lines] == [1, 1, 2, 1, 1, 1, 1, 1]
    assert [line.name for line in found.layers] == ["conv", "grouped", "up", "fc"]
    assert found.neurons == 4 + 6 + 5 + 7
    assert found.gflops == pytest.approx(sum(FLOPS.values()) / 1e9)
    assert found.memory_mib == pytest.approx(4 * sum(OUTPUTS.values()) / MIB)
    assert found.params_mib == pytest.approx(4 * sum(PARAMS.values()) / MIB)
    assert found.unnamed == ()


def test_it_is_proportional_to_the_batch():
    one, three = (count_as_ranp(Every(), torch.zeros(n, 3, 8, 8)) for n in (1, 3))
    assert three.gflops == pytest.approx(3 * one.gflops) and three.memory_mib == pytest.approx(3 * one.memory_mib)
    assert three.params_mib == one.params_mib


def test_the_model_is_left_alone_and_modules_without_a_rule_are_named():
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.PReLU())
    found = count_as_ranp(model.train(), torch.zeros(1, 2, 8))
    assert found.unnamed == ("1", "2")
    assert model.training and all(not module._forward_hooks for module in model.modules())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_a_forward_that_reads_values_is_refused():
    class Reads(nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ValueError, match="Reads cannot run without contents"):
        count_as_ranp(Reads(), torch.zeros(1, 2))
