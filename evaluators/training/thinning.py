"""Gradients of a part of every batch: examples drawn by how far the network is off, weighted so that nothing shifts.

The rule of `gradients.py`, for examples: one whose gradient at the outputs has the norm `n` is kept with probability
`p = min(1, n / t)` and counts `1 / p` times, so that the expected gradient is that of the whole batch. A first forward
pass without a graph gives the norms; so a step costs about `1/3 + share` of a usual one, and less where there is a
teacher, who then sees the kept examples only. Kin: importance sampling for SGD, Katharopoulos 2018 (arXiv 1803.00942).

n  examples of a batch,  k  those that are kept
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..modes import modes_restored
from ..tasks.batches import taken
from ..tasks.task import Task

_FLOOR = 0.1  # of the mean norm: what no norm counts less than, so that a teacher's part is never weighted without end


def chances(norms: Tensor, count: int) -> Tensor:
    """`(n,)` probabilities `min(1, norm / t)` whose sum is `count`; as many as there are norms above 0, if fewer.

    Args:
        norms: `(n,)` of at least 0.
        count: k.
    """
    size = norms.double()
    order = size.sort(descending=True).values
    certain = torch.arange(len(order), device=order.device)  # how many have probability 1
    limits = (size.sum() - order.cumsum(0) + order) / (count - certain).clamp_min(1)
    fine = (order <= limits * (1 + 1e-12)) & (certain < count)
    if not bool(fine.any()) or not bool(limits[fine][0] > 0):
        return (size > 0).double()
    return (size / limits[fine][0]).clamp_max(1)


def drawn(chances: Tensor) -> Tensor:
    """Ascending numbers of the examples kept, each with its probability; as many as the sum of all, to rounding.

    One number of the global generator moves a comb over the sum of the probabilities.
    """
    ends = chances.cumsum(0)
    comb = torch.rand((), dtype=ends.dtype, device=ends.device) + torch.arange(
        round(float(ends[-1])), device=ends.device
    )
    return torch.searchsorted(ends, comb, right=True).clamp_max(len(ends) - 1)


def thinned(task: Task, model: nn.Module, batch: Any, share: float) -> tuple[Any, Tensor]:
    """What is kept of a batch, and `(k,)` what the gradient of each example's outputs is to be multiplied by.

    What is kept is augmented again where a task augments batch by batch; the norms are then those of a sister.

    Args:
        task: whose batch it is; its loss is the mean over examples.
        model: the network; it is asked in eval mode.
        batch: as the task's loader gave it, n examples.
        share: of the examples that are kept, at least two.

    Raises:
        ValueError: the outputs are not one tensor.
        Unsplittable: the batch does not show which part of it is which example.
    """
    with modes_restored(model), torch.no_grad():
        outputs, targets = task.forward(model.eval(), batch)
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"examples_kept needs outputs that are one tensor; the network gives {type(outputs).__name__}. "
            "Leave examples_kept out"
        )
    leaf = outputs.detach().float().requires_grad_()
    (gradient,) = torch.autograd.grad(task.loss(leaf, targets), leaf)
    norms = gradient.flatten(1).norm(dim=1)
    count = min(len(norms), max(2, round(share * len(norms))))
    probable = chances(norms.clamp_min(_FLOOR * norms.mean().clamp_min(1e-30)), count)
    rows = drawn(probable)
    return taken(batch, rows, len(norms)), (len(rows) / len(norms) / probable[rows]).to(outputs.dtype)


def weighted(outputs: Tensor, factors: Tensor) -> None:
    """Multiply the gradient of every example's outputs `(k, ...)` by its factor `(k,)`, when it comes."""
    when_it_comes: Callable[..., Any] = outputs.register_hook
    when_it_comes(lambda gradient: gradient * factors.to(gradient.dtype).view(-1, *[1] * (gradient.ndim - 1)))
