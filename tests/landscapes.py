"""Toy problems for searches: a tiny traced network, and evaluators that answer at once by a formula.

Each landscape maps the share of every axis that stays, `(d,)` in 0..1, to an error in 0..1. Real space, real
candidates, real costs; only the training is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secateur import Classification, Space, Training
from secateur.evaluators import Result


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.norm(self.first(x))))


class TinyNet(nn.Module):
    """Two widths on each of two stages, two removable blocks, any side."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.layer1 = nn.Sequential(Block(width), Block(width))
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.down(self.layer1(torch.relu(self.stem(x)))))
        return self.head(x.mean((2, 3)))


class LineNet(nn.Module):
    """One hidden width of four choices: a space of four networks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)))


def tiny_net(seed: int = 0) -> TinyNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyNet()


def line_net(seed: int = 0) -> LineNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LineNet()


def tiny_space(model: nn.Module) -> Space:
    return Space.trace(model, torch.zeros(1, 1, 12, 12), resolutions=(8, 10, 12), divisor=2)


def line_space(model: nn.Module) -> Space:
    return Space.trace(model, torch.zeros(1, 4), divisor=2)


def tiny_task(seed: int = 0, images: int = 64) -> Classification:
    """Images whose class is the quadrant that is lit: learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)

    def split(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % 4
        pictures = 0.3 * torch.rand(count, 1, 12, 12, generator=generator)
        for picture, label in zip(pictures, labels.tolist(), strict=True):
            row, column = 6 * (label // 2), 6 * (label % 2)
            picture[:, row : row + 6, column : column + 6] += 0.6
        return (255 * pictures).byte(), labels

    return Classification(train=split(images), validation=split(images), test=split(images), batch=32)


def tiny_training(**changes: int) -> Training:
    return Training(lr=0.05, short_epochs=1, long_epochs=2, recalibration_images=64, **changes)


@dataclass(frozen=True)
class Instant:
    """An evaluator that answers at once: an error by formula, and by nothing but the candidate."""

    space: Space
    landscape: str = "bowl"

    @property
    def fingerprint(self) -> str:
        return f"instant:{self.landscape}"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        error = LANDSCAPES[self.landscape](shares(self.space, candidate))
        return Result(error=error, error_std=0.01, seconds=0.0, attributes={"seed": float(seed)})


def shares(space: Space, candidate: tuple[int, ...]) -> np.ndarray:
    """`(d,)` position of each choice on its axis, 0 the least and 1 the full."""
    return np.array(
        [
            axis.choices.index(value) / max(1, len(axis.choices) - 1)
            for axis, value in zip(space.axes, candidate, strict=True)
        ]
    )


def bowl(x: np.ndarray) -> float:
    """Every axis helps, each less than the one before."""
    weights = 0.7 ** np.arange(len(x))
    return float(0.05 + 0.8 * (weights * (1 - x) ** 2).sum() / weights.sum())


def ridge(x: np.ndarray) -> float:
    """Axes help together: the least one decides."""
    return float(0.1 + 0.5 * (1 - x.min()) + 0.3 * (1 - x.mean()))


def cliffs(x: np.ndarray) -> float:
    """Steps and a flat top."""
    return float(0.2 + 0.6 * (1 - np.floor(3 * x.mean()) / 3))


LANDSCAPES = {"bowl": bowl, "ridge": ridge, "cliffs": cliffs}
