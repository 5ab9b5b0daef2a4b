import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.studies.study_files.networks import BasicBlock, resnet20, resnet50


def macs(model, *shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2  # the counter takes a multiply-add for two


def test_the_default_network_by_hand():
    # stem 14*14*16*9 = 28,224; layer1, 14x14: 6 convolutions of 16*16*9;
    # layer2, 7x7: 16*32*9 + 16*32 + 3 * 32*32*9; layer3, 4x4: 32*64*9 + 32*64 + 3 * 64*64*9; head 64*10
    stem, layer1 = 14 * 14 * 16 * 9, 14 * 14 * 6 * 16 * 16 * 9
    layer2 = 7 * 7 * (16 * 32 * 9 + 16 * 32 + 5 * 32 * 32 * 9)
    layer3 = 4 * 4 * (32 * 64 * 9 + 32 * 64 + 5 * 64 * 64 * 9)
    assert macs(resnet20(), 1, 28, 28) == stem + layer1 + layer2 + layer3 + 640 == 8_523_968
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in resnet20().modules()) == 20 + 2  # and two 1x1 shortcuts


def test_resnet50_is_the_known_one():
    # 25,557,032 parameters and 4.09 billion multiply-adds: the numbers everybody quotes for the strided 3x3 variant
    model = resnet50()
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    assert macs(model, 3, 224, 224) == 4_089_184_256


@pytest.mark.parametrize("side", [16, 20, 24, 28])
def test_every_searched_side_goes_through(side):
    assert resnet20().eval()(torch.zeros(2, 1, side, side)).shape == (2, 10)


def test_all_but_the_first_block_of_a_stage_keep_width_and_side():
    model = resnet20(widths=(4, 8), blocks=(2, 3), channels=3, classes=5)
    assert [name for name, _ in model.named_children()] == ["stem", "layer1", "layer2", "head"]
    blocks = {name: block for name, block in model.named_modules() if isinstance(block, BasicBlock)}
    assert [name for name, block in blocks.items() if block.shortcut is not None] == ["layer2.0"]
    model.eval()
    for name in ("layer1.0", "layer1.1", "layer2.1", "layer2.2"):
        parent, child = name.split(".")
        model.get_submodule(parent)[int(child)] = nn.Identity()
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


def test_stages_must_agree():
    with pytest.raises(ValueError, match="one of each a stage"):
        resnet20(widths=(8, 16), blocks=(1,))
