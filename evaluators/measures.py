"""What is measured on a finished network: its error on a split."""

import torch
from torch import Tensor, nn

from .images import Side
from .metrics import Metric
from .modes import device_of, modes_restored
from .task import Task
from .training import Diverged


def measure_error(
    model: nn.Module,
    task: Task,
    *,
    split: str = "validation",
    resolution: Side | None = None,
    device: torch.device | str | None = None,
) -> Metric:
    """The task's error accumulated over a whole split, in eval mode and without gradients; modes are put back.

    Raises:
        Diverged: An output is not finite: an error computed from it would be a number all the same.
    """
    if device is not None:
        model.to(device)
    error, finite = task.error(), torch.ones((), dtype=torch.bool, device=device_of(model))
    # Not inference_mode: what a module caches in it could not be trained with afterwards.
    with modes_restored(model), torch.no_grad():
        model.eval()
        for batch in task.loader(split, resolution, None):
            outputs, targets = task.forward(model, batch)
            if isinstance(outputs, Tensor):
                finite = finite & outputs.isfinite().all()
            error.update(outputs, targets)
    if not bool(finite):
        raise Diverged(f"the outputs on the {split} split are not finite")
    return error
