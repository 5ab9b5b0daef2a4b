"""Small things to try a piece on: networks that are traced in a moment, and errors that are formulas.

Real spaces, real candidates, real costs; only the training is left out. A landscape maps the share of every axis that
stays, `(d,)` in 0..1, to an error in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..evaluators import Classification, Result
from ..pruners import Examples
from ..spaces import Candidate, Space


class Block(nn.Module):
    """Two convolutions beside a skip connection: a block that may be dropped."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, width, *sides)` to the same."""
        more: Tensor = self.second(torch.relu(self.norm(self.first(x))))
        return x + more


class TinyNet(nn.Module):
    """Two widths on each of two stages, two removable blocks, any side."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.layer1 = nn.Sequential(Block(width), Block(width))
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 1, *sides)` images to `(n, classes)` outputs."""
        x = torch.relu(self.down(self.layer1(torch.relu(self.stem(x)))))
        outputs: Tensor = self.head(x.mean((2, 3)))
        return outputs


class LineNet(nn.Module):
    """One hidden width of four choices: a space of four networks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 4)` to `(n, 2)`."""
        outputs: Tensor = self.last(torch.relu(self.first(x)))
        return outputs


def tiny_net(seed: int = 0) -> TinyNet:
    """A `TinyNet`; equal seeds give equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyNet()


def line_net(seed: int = 0) -> LineNet:
    """A `LineNet`; equal seeds give equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LineNet()


_SPACES: dict[tuple[type[nn.Module], bytes], Space] = {}


def tiny_space(model: nn.Module) -> Space:
    """The space of a `TinyNet`: widths, blocks and three resolutions; traced once for equal weights."""
    weights = b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in model.state_dict().values())
    if (type(model), weights) not in _SPACES:
        space = Space.trace(model, torch.zeros(1, 1, 12, 12), resolutions=(8, 10, 12), divisor=2)
        _SPACES[type(model), weights] = space
    return _SPACES[type(model), weights]


def line_space(model: nn.Module) -> Space:
    """The space of a `LineNet`."""
    return Space.trace(model, torch.zeros(1, 4), divisor=2)


def tiny_subject() -> tuple[nn.Module, Space, Examples]:
    """A `TinyNet` as a pruning method is given it: with its space, and two batches of labelled images."""
    model, generator = tiny_net().eval(), torch.Generator().manual_seed(0)
    batches = [(torch.rand(8, 1, 12, 12, generator=generator), torch.arange(8) % 4) for _ in range(2)]
    return model, tiny_space(model), Examples(batches=batches, loss=nn.functional.cross_entropy)


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


def shares(space: Space, candidate: Sequence[int]) -> npt.NDArray[np.float64]:
    """`(d,)` position of each choice on its axis, 0 the least and 1 the full."""
    pairs = zip(space.axes, candidate, strict=True)
    return np.array([axis.choices.index(value) / max(1, len(axis.choices) - 1) for axis, value in pairs])


def bowl(x: npt.NDArray[np.float64]) -> float:
    """Every axis helps, each less than the one before."""
    weights = 0.7 ** np.arange(len(x))
    return float(0.05 + 0.8 * (weights * (1 - x) ** 2).sum() / weights.sum())


def ridge(x: npt.NDArray[np.float64]) -> float:
    """Axes help together: the least one decides."""
    return float(0.1 + 0.5 * (1 - x.min()) + 0.3 * (1 - x.mean()))


def cliffs(x: npt.NDArray[np.float64]) -> float:
    """Steps and a flat top."""
    return float(0.2 + 0.6 * (1 - np.floor(3 * x.mean()) / 3))


LANDSCAPES = {"bowl": bowl, "ridge": ridge, "cliffs": cliffs}


@dataclass(frozen=True)
class Instant:
    """An evaluator that answers at once: an error by formula, and by nothing but the candidate."""

    space: Space
    landscape: str = "bowl"

    @property
    def fingerprint(self) -> str:
        """Which landscape it is."""
        return f"instant:{self.landscape}"

    def __call__(
        self,
        build: Callable[[], nn.Module],
        *,
        candidate: Candidate,
        resolution: tuple[int, ...] | None,
        fidelity: str,
        seed: int,
        report: object = None,
    ) -> Result:
        """The error that the landscape has there."""
        error = LANDSCAPES[self.landscape](shares(self.space, candidate))
        return Result(error=error, error_std=0.01, seconds=0.0, attributes={"seed": float(seed)})
