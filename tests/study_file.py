"""A study file of a tiny network that the tests share: which half of the picture is brighter."""

import numpy as np

NETWORK = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv1(x)))
        return self.head(torch.relu(self.conv2(x)).mean((2, 3)))


def number():
    return 3
"""
STUDY = """
[model]
factory = "{module}:Tiny"
train = true

[data]
reader = "npz"
path = "images.npz"
validation = 20
test = 20
batch = 16

[space]
resolutions = [8, 6]
divisor = 2

[budget]
macs = 0.6

[training]
base_epochs = 2
long_epochs = 1
recalibration_images = 32

[study]
trials = 6
sampler = "random"
threads = 1
"""


def write(folder, module="cli_tiny"):
    """The folder, with a study file, its network and its data."""
    (folder / f"{module}.py").write_text(NETWORK)
    (folder / "study.toml").write_text(STUDY.format(module=module))
    random = np.random.default_rng(0)
    labels = np.arange(100) % 2
    images = random.integers(0, 100, (100, 1, 8, 8)) + 100 * (labels[:, None, None, None] == (np.arange(8) < 4))
    np.savez(folder / "images.npz", images=images.astype(np.uint8), labels=labels)
    return folder
