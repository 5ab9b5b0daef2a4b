"""Passes over the data without training: a network's error on a split, and batch-norm statistics that fit it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..modes import modes_restored, norms_with_statistics
from ..tasks.splitting import in_parts
from ..tasks.spoiled import refuse_spoiled
from ..tasks.task import Metric, Side, Task
from .training import Diverged


def measure_error(
    model: nn.Module,
    task: Task,
    *,
    split: str = "validation",
    resolution: Side | None = None,
    device: torch.device | str | None = None,
    parts: int = 1,
) -> Metric:
    """The task's error accumulated over a whole split, in eval mode and without gradients; modes are put back.

    Args:
        model: the network.
        task: data and error.
        split: of the task.
        resolution: the side of the images; None as stored.
        device: where the model is moved to; None leaves it.
        parts: how many parts every batch is taken in, to save memory.

    Raises:
        Spoiled: a batch is not finite.
        Diverged: an output is not finite: an error computed from it would be a number all the same.
    """
    if device is not None:
        model.to(device)
    error, finite = task.error(), list[Tensor]()
    # Not inference_mode: what a module caches in it could not be trained with afterwards.
    with modes_restored(model), torch.no_grad():
        model.eval()
        for whole in task.loader(split, resolution, None):
            for batch, _ in [(whole, 1)] if parts == 1 else in_parts(task, whole, parts):
                outputs, targets = task.forward(model, batch)
                finite += [one.isfinite().all() for one in _numbers(outputs)]
                error.update(outputs, targets)
    if finite and not bool(torch.stack(finite).all()):
        refuse_spoiled(task, model, split, resolution, None)
        raise Diverged(f"the outputs on the {split} split are not finite")
    return error


def _numbers(outputs: Any) -> list[Tensor]:
    """The tensor that a network gave, or those of its boxes; other outputs may hold what they like."""
    if isinstance(outputs, Tensor):
        return [outputs]
    answers = outputs if isinstance(outputs, list) else []
    return [tensor for one in answers if isinstance(one, Mapping) for tensor in one.values() if _floating(tensor)]


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def recalibrate(
    model: nn.Module,
    task: Task,
    *,
    images: int = 2048,
    resolution: Side | None = None,
    device: torch.device | str | None = None,
    parts: int = 1,
) -> int:
    """Number of images the running statistics were taken from, in place of those that `model` came with.

    The statistics are reset, then averaged over un-augmented training images at the resolution, every batch counting
    alike (momentum None), with all else in eval mode. Whole batches are taken until `images` are reached. Frozen norms
    (no statistics, or eval mode and no gradient) are left; modes and momenta are put back. What the model held before
    leaves no trace.

    Args:
        model: the network, changed in place; it is moved to `device`.
        task: whose training images, with the seed None: as stored.
        images: how many, at least.
        resolution: the side of the images; None as stored.
        device: where to compute; None where the model is.
        parts: how many parts every batch is taken in, to save memory: the statistics are then those of smaller batches.
    """
    if images < 1:
        raise ValueError(f"images is {images}; expected at least 1")
    if device is not None:
        model.to(device)
    norms = norms_with_statistics(model)
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    seen = 0
    with modes_restored(model), torch.no_grad():
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            for whole in task.loader("train", resolution, None):
                for batch, _ in [(whole, 1)] if parts == 1 else in_parts(task, whole, parts):
                    _, targets = task.forward(model, batch)
                    seen += len(targets)
                if seen >= images:
                    break
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if not all(norm.running_mean is None or bool(norm.running_mean.isfinite().all()) for norm in norms):
        refuse_spoiled(task, model, "train", resolution, None)
    return seen
