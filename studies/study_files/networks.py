"""The networks that ship with the study files: a small residual one for 28x28 images, and ResNet-50 for measuring.

Both follow He 2016 (arXiv 1512.03385): a stem, stages of residual blocks, a linear head; strides are convolutions'.
Only the first block of a stage changes width or side; the others keep both, so they can be removed.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an addition."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        """A block of `outputs` channels; its shortcut is the identity unless width or side change."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, outputs, side / stride, side / stride)` features."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around an addition; the middle one is a quarter as wide and has the stride."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        """A block of `outputs` channels; its shortcut is the identity unless width or side change."""
        super().__init__()
        narrow = outputs // 4
        self.conv1 = nn.Conv2d(inputs, narrow, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, outputs, side / stride, side / stride)` features."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """A stem, `layer1` .. `layerN`, global mean and `head`, for `(n, channels, side, side)` images."""

    def __init__(
        self,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        stem: nn.Sequential,
        stem_width: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        classes: int,
    ) -> None:
        """One stage a width, the first at the stem's side and each further one at half."""
        super().__init__()
        if len(widths) != len(blocks) or not widths or min(blocks) < 1:
            raise ValueError(
                f"widths {tuple(widths)} and blocks {tuple(blocks)}; expected one of each a stage, blocks >= 1"
            )
        self.stem = stem
        self.stages = [f"layer{number}" for number in range(1, len(widths) + 1)]
        inputs = stem_width
        for name, width, count in zip(self.stages, widths, blocks, strict=True):
            first = block(inputs, width, stride=1 if name == "layer1" else 2)
            self.add_module(name, nn.Sequential(first, *(block(width, width) for _ in range(count - 1))))
            inputs = width
        self.head = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """`(n, classes)` logits."""
        x = self.stem(x)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def resnet20(
    *,
    channels: int = 1,
    classes: int = 10,
    widths: Sequence[int] = (16, 32, 64),
    blocks: Sequence[int] = (3, 3, 3),
    stride: int = 2,
) -> ResNet:
    """A residual network of 20 layers: 8.5 million multiply-adds for a grey image of 28x28, 272,186 parameters.

    Args:
        channels: Of the images.
        classes: Of the labels.
        widths: Channels of each stage.
        blocks: Blocks of each stage.
        stride: Of the stem.
    """
    stem = nn.Sequential(nn.Conv2d(channels, widths[0], 3, stride, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
    return ResNet(block=BasicBlock, stem=stem, stem_width=widths[0], widths=widths, blocks=blocks, classes=classes)


def digits(*, trained: bool = True) -> ResNet:
    """A small residual network that reads handwritten digits: `(n, 1, 28, 28)`, less 0.1307 and divided by 0.3081.

    It was trained by `benchmarks/digits.py` on the training split of `Data(reader="mnist5k")`, and is a trained network
    to begin with where there is none at hand.

    Args:
        trained: with the weights that come with the package; random ones otherwise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = resnet20(widths=(8, 16, 32), blocks=(2, 2, 2))
    if trained:
        model.load_state_dict(load_file(Path(__file__).with_name("digits.safetensors")))
    return model.eval()


def resnet50(*, channels: int = 3, classes: int = 1000) -> ResNet:
    """ResNet-50 with the stride in the 3x3 convolution: 4.1 billion multiply-adds, 25.6 million parameters at 224."""
    stem = nn.Sequential(
        nn.Conv2d(channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )
    return ResNet(
        block=Bottleneck, stem=stem, stem_width=64, widths=(256, 512, 1024, 2048), blocks=(3, 4, 6, 3), classes=classes
    )


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
