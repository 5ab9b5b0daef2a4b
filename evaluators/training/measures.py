"""What is measured on a finished network: its error on a split."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...spaces import device_of
from ..modes import modes_restored
from ..tasks.metrics import Metric
from ..tasks.splitting import in_parts
from ..tasks.task import Side, Task
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
        Diverged: an output is not finite: an error computed from it would be a number all the same.
    """
    if device is not None:
        model.to(device)
    error, finite = task.error(), torch.ones((), dtype=torch.bool, device=device_of(model))
    # Not inference_mode: what a module caches in it could not be trained with afterwards.
    with modes_restored(model), torch.no_grad():
        model.eval()
        for whole in task.loader(split, resolution, None):
            for batch, _ in [(whole, 1)] if parts == 1 else in_parts(task, whole, parts):
                outputs, targets = task.forward(model, batch)
                if isinstance(outputs, Tensor):
                    finite = finite & outputs.isfinite().all()
                error.update(outputs, targets)
    if not bool(finite):
        raise Diverged(f"the outputs on the {split} split are not finite")
    return error
