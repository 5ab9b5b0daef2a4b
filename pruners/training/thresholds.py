"""Learned scores and thresholds: how many of a set stay, and which, learned by gradient while a network trains.

Yao 2021 (arXiv 2105.14636). Each set of `n` units has a score a unit and one threshold `tau`; the
`ceil(sigmoid(tau) n)` units of highest score stay. The gradient passes straight through the choice. Start at
`Thresholds`.

Symbols: `n` units of one set, `s` sets; `d` the cost as a share of the full one, `t` the share that it may be.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

OPEN = 10.0  # where every threshold starts: sigmoid(10) keeps all of up to 22,000 units
_NEAR, _GENTLE, _LEAST = 3e-4, 10.0, 50.0  # the paper's code: strength where little is missing, and the least elsewhere
_REACH = 4.0  # a rate that falls to zero moves a threshold twice as far as from OPEN to 0
_RATE = 1e-2  # the paper's
_FAR, _FINE = 60.0, 1e-3  # thresholds moved so far keep all, or the least; and how finely they are moved


def count(threshold: float, n: int) -> int:
    """How many of `n` stay: at least one."""
    return max(1, math.ceil(n / (1 + math.exp(-threshold))))


def penalty(density: float, target: float) -> float:
    """`R = max(0, d - t)^2`."""
    return max(0.0, density - target) ** 2


def strength(density: float, target: float, most: float) -> float:
    """What the penalty is multiplied by: `most R / (1 - t)^2`, at least 50, but 10 where R is nearly 0.

    It is taken anew in every step, and as a constant in it.
    """
    missing = penalty(density, target)
    return _GENTLE if missing < _NEAR else max(most * missing / (1 - target) ** 2, _LEAST)


def slope(density: float, target: float, most: float) -> float:
    """Derivative of the penalty, with its strength, by the density."""
    return strength(density, target, most) * 2 * max(0.0, density - target)


def rate_for(steps: int) -> float:
    """The learning rate of scores and thresholds, where nothing is given: the paper's, higher in short trainings."""
    return max(_RATE, _REACH * OPEN / max(1, steps))


class Thresholds:
    """Scores and thresholds of several sets, with an Adam of their own.

    Attributes:
        scores: `(n,)` of each set, 0 at first.
        thresholds: `(s,)`.
    """

    def __init__(self, ties: Sequence[Tensor]) -> None:
        """Everything stays.

        Args:
            ties: `(n,)` of each set: of units with equal scores, those with more of this come first.
        """
        self._ties = [values.detach().double().cpu() for values in ties]
        self.scores = [torch.zeros(len(values), dtype=torch.float64) for values in self._ties]
        self.thresholds = torch.full((len(self._ties),), OPEN, dtype=torch.float64)
        self._adam = torch.optim.Adam([*self.scores, self.thresholds])

    @property
    def shares(self) -> Tensor:
        """`(s,)` sigmoid of the thresholds."""
        return self.thresholds.sigmoid()

    def ranks(self) -> list[Tensor]:
        """`(n,)` of each set: 0 for the first that goes, `n - 1` for the last."""
        found = []
        for scores, ties in zip(self.scores, self._ties, strict=True):
            order = torch.argsort(ties, stable=True)
            order = order[torch.argsort(scores[order], stable=True)]
            found.append(torch.empty_like(order).scatter_(0, order, torch.arange(len(order))))
        return found

    def kept(self, shift: float = 0.0, least: Sequence[int] | None = None) -> list[Tensor]:
        """`(n,)` which units of each set stay, as booleans.

        Args:
            shift: added to every threshold.
            least: how many stay at least, of each set.
        """
        found = []
        for number, (ranks, threshold) in enumerate(zip(self.ranks(), self.thresholds.tolist(), strict=True)):
            stay = max(count(threshold + shift, len(ranks)), 1 if least is None else least[number])
            found.append(ranks >= len(ranks) - stay)
        return found

    def step(self, gradients: Sequence[Tensor], slopes: Tensor, rate: float) -> None:
        """Move scores and thresholds.

        A score's gradient is that of its unit's mask. A threshold's is the sum of those of the masks that are open,
        without the sigmoid's derivative, as in the paper's code; so it moves where the sigmoid is flat, too.

        Args:
            gradients: `(n,)` of each set: of the loss by the masks.
            slopes: `(s,)` of the penalty by the shares.
            rate: the learning rate of this step.
        """
        sums = [float(g[mask].sum()) for g, mask in zip(gradients, self.kept(), strict=True)]
        for scores, gradient in zip(self.scores, gradients, strict=True):
            scores.grad = gradient.detach().double().cpu()
        shares = self.shares
        self.thresholds.grad = torch.tensor(sums, dtype=torch.float64) + slopes * shares * (1 - shares)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()

    def settled(self, meets: Callable[[list[Tensor]], bool], least: Sequence[int] | None = None) -> float:
        """How far all thresholds may rise together, or must fall, so that what is kept just meets the limits.

        Args:
            meets: whether what is kept does; what is kept less, too.
            least: as of `kept`.
        """
        low, high = -_FAR, _FAR
        if meets(self.kept(high, least)):
            return high
        while high - low > _FINE:
            middle = (low + high) / 2
            low, high = (middle, high) if meets(self.kept(middle, least)) else (low, middle)
        return low

    def state(self) -> dict[str, Any]:
        """All of it, as copies."""
        kept = {"scores": self.scores, "thresholds": self.thresholds, "adam": self._adam.state_dict()}
        return copy.deepcopy(kept)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        for mine, given in zip(self.scores, state["scores"], strict=True):
            mine.copy_(given)
        self.thresholds.copy_(state["thresholds"])
        self._adam.load_state_dict(copy.deepcopy(state["adam"]))
