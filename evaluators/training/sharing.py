"""Training one set of weights so that its sub-networks are good too: a callback of `train`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...spaces import Candidate, Scores, Space
from ...spaces.networks.sharing import Shared
from ..tasks.task import Task, abilities
from .loop import Loop

logger = logging.getLogger("secateur")


class Sandwich:
    """In every step beside the full network: the smallest one, and some drawn at random, with the same weights.

    The sandwich rule and in-place distillation of Yu 2019 (arXiv 1903.05134): the loop itself trains the full network
    on the labels, the others learn from its outputs of the same step, and all gradients add up. Every network sees the
    same images with the same augmentation, at its own resolution.

    The running statistics of batch norms are the full network's: recalibrate a sub-network before it is measured.
    A step costs one forward and one backward of each of the `2 + networks` networks. The callback has no state:
    what a step draws is told by `seed` and the number of the step.
    """

    def __init__(
        self,
        space: Space,
        draw: Callable[[np.random.Generator], Candidate],
        *,
        networks: int = 2,
        smallest: Candidate | None = None,
        scores: Scores | None = None,
        distil: bool = True,
        seed: int = 0,
    ) -> None:
        """Keep the settings.

        Args:
            space: traced from the network that is trained.
            draw: gives one candidate from a generator.
            networks: how many are drawn in every step.
            smallest: trained in every step; the smallest of the space when None.
            scores: which units stay; the L2 norms of `Space.default_scores` when None.
            distil: whether sub-networks learn from the full one, where the task has `distill`; else from the labels.
            seed: of the draws.
        """
        if networks < 0:
            raise ValueError(f"networks is {networks}; expected at least 0")
        self.space, self.draw, self.networks = space, draw, networks
        self.smallest = space.smallest if smallest is None else space.canonical(smallest)
        self.scores, self.distil, self.seed = scores, distil, seed
        self._said = False

    def after_backward(self, loop: Loop) -> None:
        """Add the sub-networks' gradients to the full network's."""
        random = np.random.default_rng([self.seed, loop.step])
        candidates = [self.smallest, *(self.draw(random) for _ in range(self.networks))]
        shared = Shared(loop.model, self.space, self.scores)
        for candidate in candidates:
            _backward(loop, self._loss(loop, shared, candidate))

    def _loss(self, loop: Loop, shared: Shared, candidate: Candidate) -> Tensor:
        amp = None if loop.training.amp is None else getattr(torch, loop.training.amp)
        task, able = loop.task, abilities(loop.task)
        batch = self._at_its_side(task, able.at, loop.batch, candidate)
        with torch.autocast(loop.device.type, dtype=amp, enabled=amp is not None):
            outputs, targets = task.forward(shared.network(candidate), batch)
            if self.distil and able.distill is not None:
                return able.distill(outputs, loop.outputs, 1.0)
            return task.loss(outputs, targets)

    def _at_its_side(self, task: Task, at: Callable[..., Any] | None, batch: Any, candidate: Candidate) -> Any:
        """The same images, with the same augmentation, at the candidate's resolution."""
        if not self.space.resolutions:
            return batch
        if at is not None:
            return at(batch, self.space.side(candidate))
        if not self._said:
            logger.warning(
                "%s has no at(batch, resolution): sub-networks are trained at the full network's resolution only",
                type(task).__name__,
            )
        self._said = True
        return batch


def _backward(loop: Loop, loss: Tensor) -> None:
    """Add a loss's gradients to those that are there, which are unscaled already."""
    if not loop.scaler.is_enabled():
        loss.backward()  # type: ignore[no-untyped-call]
        return
    parameters = [parameter for parameter in loop.model.parameters() if parameter.requires_grad]
    scaled = torch.autograd.grad(loop.scaler.scale(loss), parameters, allow_unused=True)
    given = [(p, g / loop.scaler.get_scale()) for p, g in zip(parameters, scaled, strict=True) if g is not None]
    # Where float16 overflows this network is left out of the step; the full one decides on the scale.
    if all(bool(gradient.isfinite().all()) for _, gradient in given):
        for parameter, gradient in given:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
