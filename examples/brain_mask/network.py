"""deepbet's brain-mask network (Fisch 2024), written as an eager module with the names of its published weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def unit(before: int, after: int, side: int, *, stride: int = 1, up: bool = False, bias: bool = False) -> list[Any]:
    """A convolution, or a transposed one, with instance norm and ReLU."""
    more = {"output_padding": stride - 1} if up else {}
    kind = nn.ConvTranspose3d if up else nn.Conv3d
    return [kind(before, after, side, stride, side // 2, bias=bias, **more), nn.InstanceNorm3d(after), nn.ReLU()]


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(*unit(before, after, 3, stride=stride), *unit(after, after, 3)[:2])
        self.downsample = nn.Sequential(*(unit(before, after, 1, stride=stride)[:2] if stride > 1 else []))

    def forward(self, x: Tensor) -> Tensor:
        """`(n, after, d, h, w)` maps."""
        return torch.relu(self.double_conv(x) + self.downsample(x))


class Down(nn.Sequential):
    """A level of the encoder."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.block1, self.block2 = Block(before, after, 1 if before == after else 2), Block(after, after, 1)


class Up(nn.Sequential):
    """A level of the decoder, narrow in the middle."""

    def __init__(self, before: int, after: int, stride: int = 2) -> None:
        super().__init__()
        middle = before // 4
        self.conv1 = nn.Sequential(*unit(before, middle, 1))
        self.tp_conv = nn.Sequential(*unit(middle, middle, 3, stride=stride, up=True))
        self.conv2 = nn.Sequential(*unit(middle, after, 1))


class LinkNet3d(nn.Module):
    """`(n, 2, s, s, s)` scores, brain second, of `(n, 1, s, s, s)` volumes; s is a multiple of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.init = nn.Sequential(*unit(1, 16, 7, stride=2), nn.MaxPool3d(3, 2, 1))
        self.down0, self.down1, self.down2, self.down3 = Down(16, 16), Down(16, 32), Down(32, 64), Down(64, 128)
        self.up0, self.up1, self.up2, self.up3 = Up(128, 64), Up(64, 32), Up(32, 16), Up(16, 16, 1)
        self.tp_conv1 = nn.Sequential(*unit(16, 8, 3, stride=2, up=True, bias=True))
        self.conv = nn.Sequential(*unit(8, 8, 3, bias=True))
        self.tp_conv2 = nn.ConvTranspose3d(8, 2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The published network ends in a softmax; a loss wants the scores before it."""
        first = self.init(x)
        a = self.down0(first)
        b = self.down1(a)
        c = self.down2(b)
        x = self.up0(self.down3(c)) + c
        x = self.up1(x) + b
        x = self.up2(x) + a
        x = self.up3(x) + first
        return self.tp_conv2(self.conv(self.tp_conv1(x)))


def pretrained(file: Path) -> LinkNet3d:
    """The network with the weights of a TorchScript file, in eval mode; `torch.jit.load` unpickles nothing."""
    model = LinkNet3d()
    model.load_state_dict(torch.jit.load(file, map_location="cpu").state_dict())
    return model.eval()
