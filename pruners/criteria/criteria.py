"""Criteria: functions that score every unit of a space; higher = keep.

A criterion is called `(model, space, examples=None)`. Its `needs` says what it reads in addition to the weights:
`"nothing"`, `"images"` or `"labels"`. Those of this module need the weights only; `gradients` and `features` hold the
others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from ...spaces import Scores, Space, unit_sums
from ..examples import Examples
from ..proposal import Needs, examples_for

_NEEDS = ("nothing", "images", "labels")


class Scorer(Protocol):
    """The signature of a criterion's function."""

    def __call__(self, model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
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

    def __post_init__(self) -> None:
        """Refuse what could not be asked for scores."""
        if self.needs not in _NEEDS:
            raise ValueError(f"criterion {self.name}: needs={self.needs!r}; expected one of {', '.join(_NEEDS)}")
        if not callable(self.score):
            raise TypeError(f"criterion {self.name}: {self.score!r} is no function (model, space, examples) -> scores")

    def __call__(self, model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
        """Scores of every unit: `{group: Tensor (units,)}`.

        Raises:
            ValueError: images or labels are needed and `examples` or their loss is missing.
        """
        if self.needs != "nothing":
            examples_for(self, examples)
        return self.score(model, space, examples)


def criterion(name: str, needs: Needs = "nothing") -> Callable[[Scorer], Criterion]:
    """Turn a scoring function into a criterion that says what it needs."""
    if not isinstance(name, str):
        raise TypeError(f"@criterion: {name!r} is no name; expected one in brackets, such as @criterion('spread')")
    return partial(Criterion, name, needs)


def check_criterion(criterion: Any) -> Criterion:
    """The criterion, if it is one.

    Raises:
        TypeError: it is not; for a plain function, how it becomes one.
    """
    if not isinstance(criterion, Criterion):
        raise TypeError(
            f"criterion {criterion!r} does not say its name and what it needs; expected a function with the decorator "
            "@criterion('its-name'), or with needs='images' or 'labels' where it looks at examples"
        )
    return criterion


@criterion("l2")
def l2(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """L2 norm of all parameter elements that leave with a unit; what `Space.default_scores` holds."""
    squares = unit_sums(space, model, lambda tensor, axes: tensor.square().sum(axes))
    return {name: values.sqrt().float() for name, values in squares.items()}


@criterion("l1")
def l1(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Sum of magnitudes of all parameter elements that leave with a unit."""
    sums = unit_sums(space, model, lambda tensor, axes: tensor.abs().sum(axes))
    return {name: values.float() for name, values in sums.items()}


def shuffled(seed: int) -> Criterion:
    """Random scores: the baseline every criterion must beat."""

    def score(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
        generator = torch.Generator().manual_seed(seed)
        return {group.name: torch.rand(group.units, generator=generator) for group in space.groups}

    return Criterion("random", "nothing", score)


unseeded = shuffled(0)
