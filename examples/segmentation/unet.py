"""A small U-Net of residual blocks: the blocks may be dropped, all its widths chosen."""

import torch
from torch import nn


def convolution(inputs, outputs):
    """3 x 3, normalised, rectified."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Block(nn.Module):
    """Two convolutions with an identity path around them."""

    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(convolution(channels, channels), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x):
        """`(n, c, h, w)` features."""
        return x + self.body(x)


class UNet(nn.Module):
    """Three levels; the features of each level on the way down are joined to those on the way up."""

    def __init__(self, classes=3, widths=(8, 16, 32), blocks=2):
        super().__init__()
        steps = list(zip(widths, widths[1:], strict=False))
        self.first = convolution(1, widths[0])
        self.levels = nn.ModuleList(nn.Sequential(*(Block(width) for _ in range(blocks))) for width in widths)
        self.down = nn.ModuleList(nn.Conv2d(high, low, 2, stride=2) for high, low in steps)
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, stride=2) for high, low in steps)
        self.join = nn.ModuleList(convolution(2 * high, high) for high, _ in steps)
        self.last = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x):
        """`(n, classes, h, w)` logits."""
        features = [self.levels[0](self.first(x))]
        for down, level in zip(self.down, self.levels[1:], strict=True):
            features.append(level(down(features[-1])))
        x = features.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x = join(torch.cat([up(x), features.pop()], dim=1))
        return self.last(x)
