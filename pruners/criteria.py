"""Criteria: functions that score every unit of a space; higher = keep.

A criterion is called `(model, space, batches=None, loss=None)`. Its `needs` says what it reads beside the weights:
`"nothing"`, `"images"` or `"labels"`; who calls it gives `batches` (an iterable of inputs and targets) and `loss`
accordingly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ..spaces import Scores, Space, unit_sums

Needs = Literal["nothing", "images", "labels"]
Batches = Iterable[tuple[Any, Any]]
Loss = Callable[[Any, Any], Tensor]


class Scorer(Protocol):
    """The signature of a criterion's function."""

    def __call__(
        self, model: nn.Module, space: Space, batches: Batches | None = None, loss: Loss | None = None
    ) -> Scores:
        """Scores of every unit."""


@dataclass(frozen=True)
class Criterion:
    """A scoring function that says what it needs.

    Attributes:
        name: as in study files and as the ranking of a trial.
        needs: `"nothing"`, `"images"` or `"labels"`.
        score: the function.
    """

    name: str
    needs: Needs
    score: Scorer

    def __call__(
        self, model: nn.Module, space: Space, batches: Batches | None = None, loss: Loss | None = None
    ) -> Scores:
        """Scores of every unit: `{group: Tensor (units,)}`.

        Raises:
            ValueError: images or labels are needed and `batches` or `loss` is missing.
        """
        if self.needs != "nothing" and batches is None:
            raise ValueError(f"criterion {self.name} needs {self.needs}; give batches of (inputs, targets)")
        if self.needs == "labels" and loss is None:
            raise ValueError(f"criterion {self.name} needs labels; give the loss(outputs, targets)")
        return self.score(model, space, batches, loss)


def criterion(name: str, needs: Needs = "nothing") -> Callable[[Scorer], Criterion]:
    """Turn a scoring function into a criterion that says what it needs."""

    def wrap(function: Scorer) -> Criterion:
        return Criterion(name, needs, function)

    return wrap


@criterion("l2")
def l2(model: nn.Module, space: Space, batches: Batches | None = None, loss: Loss | None = None) -> Scores:
    """L2 norm of all parameter elements that leave with a unit; what `Space.default_scores` holds."""
    squares = unit_sums(space.layout, model, lambda tensor, axes: tensor.square().sum(axes))
    return {name: values.sqrt().float() for name, values in squares.items()}


@criterion("l1")
def l1(model: nn.Module, space: Space, batches: Batches | None = None, loss: Loss | None = None) -> Scores:
    """Sum of magnitudes of all parameter elements that leave with a unit."""
    sums = unit_sums(space.layout, model, lambda tensor, axes: tensor.abs().sum(axes))
    return {name: values.float() for name, values in sums.items()}


def shuffled(seed: int) -> Criterion:
    """Random scores: the baseline every criterion must beat."""

    def score(model: nn.Module, space: Space, batches: Batches | None = None, loss: Loss | None = None) -> Scores:
        generator = torch.Generator().manual_seed(seed)
        return {group.name: torch.rand(group.units, generator=generator) for group in space.groups}

    return Criterion(f"random-{seed}", "nothing", score)


CRITERIA = {"l1": l1, "l2": l2, "random": shuffled(0)}
