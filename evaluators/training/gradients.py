"""Gradients with more zeros in them: the stochastic rule of Ye 2020, as a callback of any loop.

A gradient `g` below a threshold becomes the threshold with its sign, with probability `|g| / threshold`, and 0
otherwise: so its expectation stays. The weight gradient of a convolution is then a product with a sparser operand,
which saves time on hardware or kernels that use sparsity, and none elsewhere. `thinning.py` has the form for examples.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

_CONVOLUTIONS = nn.modules.conv._ConvNd


def threshold(mean: Tensor, share: float) -> Tensor:
    """The magnitude that `share` of Gaussian gradients are below, whose mean magnitude is `mean`, a scalar."""
    return NormalDist().inv_cdf((1 + share) / 2) * math.sqrt(math.pi / 2) * mean


def pruned(gradient: Tensor, threshold: Tensor | float) -> Tensor:
    """The gradient, of any shape, with every magnitude at least the threshold or zero; the expectation is unchanged.

    Draws from the global generator of the gradient's device.
    """
    drawn = torch.rand_like(gradient) * threshold
    small = gradient.abs() < threshold
    return torch.where(small, torch.where(gradient.abs() > drawn, gradient.sign() * threshold, 0.0), gradient)


class PrunedGradients:
    """Activation-gradient pruning, Ye 2020 (arXiv 1908.00173): the gradients of convolutions' outputs lose entries.

    The threshold of a layer is the mean of those that its last `queue` gradients had by themselves, so that none has
    to be read twice; until there are so many, nothing is pruned. Gradients behind a ReLU without a norm are pruned as
    all others are; the paper prunes what such a convolution hands back.

    Attributes:
        share: of the entries below the threshold, where gradients are Gaussian; far fewer become zero (0.54 of 0.9).
    """

    def __init__(self, share: float = 0.9, *, queue: int = 5) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"share={share!r}: expected a share in [0, 1)")
        if queue < 1:
            raise ValueError(f"queue={queue!r}: expected at least 1")
        self.share, self._queue = share, queue
        self._recent: dict[str, deque[Tensor]] = {}
        self._zeros: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def prepare(self, loop: Any) -> None:
        """Put the hooks on.

        Raises:
            ValueError: the training is on several devices.
        """
        if len(getattr(loop, "devices", ())) > 1:
            raise ValueError("gradients are pruned on one device only; train on one, or without gradients_pruned")
        for name, module in loop.model.named_modules():
            if isinstance(module, _CONVOLUTIONS) and self.share:
                self._recent[name] = deque(maxlen=self._queue)
                self._hooks.append(module.register_forward_hook(self._noting(name)))

    def finalise(self, loop: Any) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state(self) -> dict[str, Any]:
        """The recent thresholds."""
        return {"recent": {name: [float(value) for value in recent] for name, recent in self._recent.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        for name, values in state["recent"].items():
            self._recent[name] = deque(map(torch.tensor, values), self._queue)

    @property
    def zeros(self) -> dict[str, float]:
        """Share of zeros in the last gradient of each convolution, by its name."""
        return {name: float(share) for name, share in self._zeros.items()}

    def _noting(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if output.requires_grad and module.training:
                when_it_comes: Callable[..., Any] = output.register_hook
                when_it_comes(lambda gradient: self._pruned(name, gradient))

        return note

    def _pruned(self, name: str, gradient: Tensor) -> Tensor:
        recent = self._recent[name]
        full = len(recent) == self._queue
        if full:
            limit = torch.stack([value.to(gradient.device) for value in recent]).mean().to(gradient.dtype)
        recent.append(threshold(gradient.detach().float().abs().mean(), self.share))
        if full:
            gradient = pruned(gradient, limit)
        self._zeros[name] = (gradient == 0).float().mean()
        return gradient
