"""Toy problems for searches: evaluators that answer at once by a formula.

The networks and the plainest landscape are those of `secateur.testing`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from secateur import Classification, Search, Space, Training
from secateur.evaluators import Result
from secateur.testing.toys import TinyNet, bowl, line_net, line_space, shares, tiny_net, tiny_space

__all__ = ["TinyNet", "line_net", "line_space", "shares", "tiny_net", "tiny_space"]


def searching(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `Study.create`: those of `Search` together, for tests that change some and not others."""
    names = {one.name for one in fields(Search)}
    own = {name: value for name, value in given.items() if name in names and value is not None}
    return {name: value for name, value in given.items() if name not in names} | {"search": Search(**own)}


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


def ridge(x: np.ndarray) -> float:
    """Axes help together: the least one decides."""
    return float(0.1 + 0.5 * (1 - x.min()) + 0.3 * (1 - x.mean()))


def cliffs(x: np.ndarray) -> float:
    """Steps and a flat top."""
    return float(0.2 + 0.6 * (1 - np.floor(3 * x.mean()) / 3))


LANDSCAPES = {"bowl": bowl, "ridge": ridge, "cliffs": cliffs}
