"""Networks that several benchmarks measure: ours, and torchvision's where it can be imported."""

import contextlib

import torch
import torch.nn.functional as F
from torch import nn
from zoo import import_torchvision

from secateur.studies.study_files.networks import resnet50


class Double(nn.Sequential):
    """Two convolutions, each with a norm and a ReLU."""

    def __init__(self, given, made):
        layers = []
        for width in (given, made):
            layers += [nn.Conv3d(width, made, 3, padding=1, bias=False), nn.BatchNorm3d(made), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UNet3d(nn.Module):
    """A plain 3D U-Net with transposed convolutions, `levels` times halved."""

    def __init__(self, base=16, levels=3, classes=2):
        super().__init__()
        widths = [base * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(Double(i, o) for i, o in zip([1, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose3d(2 * w, w, 2, 2) for w in widths[:-1])
        self.merge = nn.ModuleList(Double(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv3d(base, classes, 1)

    def forward(self, x):
        skips = []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.up):
                skips.append(x)
                x = F.max_pool3d(x, 2)
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


class Functional(nn.Module):
    """A convolution on a bare parameter, attention written three ways, an einsum, an LSTM, and an up-convolution."""

    def __init__(self, width=64, heads=4):
        super().__init__()
        self.weight, self.heads = nn.Parameter(torch.randn(width, 3, 4, 4) / 7), heads
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mix = nn.Parameter(torch.randn(width, width) / width)
        self.lstm, self.up = nn.LSTM(width, width, batch_first=True), nn.ConvTranspose2d(width, width, 2, 2)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = F.conv2d(x, self.weight, stride=4)
        side = x.shape[2:]
        x = self.norm(x.flatten(2).transpose(1, 2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.narrow(F.gelu(self.widen(x)))
        x = self.lstm(torch.einsum("btc,cd->btd", x, self.mix))[0]
        return self.head(F.relu(self.up(x.transpose(1, 2).unflatten(2, side))).mean((2, 3)))


def networks():
    """`{name: (a function that makes the network, its example input)}`."""
    found = {"ResNet-50@224": (resnet50, torch.randn(1, 3, 224, 224))}
    with contextlib.suppress(ImportError):
        models = import_torchvision().models
        found["MobileNetV2@224"] = (models.mobilenet_v2, torch.randn(1, 3, 224, 224))
        found["ConvNeXt-tiny@224"] = (models.convnext_tiny, torch.randn(1, 3, 224, 224))
    found["3D-UNet@32"] = (UNet3d, torch.randn(1, 1, 32, 32, 32))
    return found
