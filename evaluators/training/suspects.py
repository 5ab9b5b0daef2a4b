"""Why a network that should be good is not: what may be wrong with its weights or inputs, tried on a few examples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..modes import modes_restored, norms_with_statistics
from ..tasks.image_task import ImageTask
from ..tasks.learned import figures
from ..tasks.sources import Batch
from ..tasks.task import Side, Task

_EXAMPLES = 512  # that each suspicion is tried on, at least where there are so many
_HALF = 0.5  # of the error: what brings it below is named
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNKNOWN = (
    "likely its weights were not loaded, or it sees other inputs than in its training: mean and std, the order of the "
    "channels (BGR), the order of the labels"
)


def likely_reason(model: nn.Module, task: Task, error: float, resolution: Side | None) -> str:
    """In words, why the error of a trained network may be what it is: what halves it when it is changed, if anything.

    Args:
        model: the network.
        task: data and error; where they are images, other ways to show them are tried.
        error: of the network.
        resolution: of the images; None as stored.
    """
    norms = norms_with_statistics(model)
    if norms and all(_untouched(norm) for norm in norms):
        return "its batch norms have never seen a batch, so its weights were not loaded, or it was not trained"
    if not isinstance(task, ImageTask):
        return UNKNOWN
    batches, seen = list[Batch](), 0
    for batch in task.loader("validation", resolution):
        batches.append(batch)
        seen += len(batch.targets)
        if seen >= _EXAMPLES:
            break
    found = [(_error(network, other, batches), said) for said, network, other in _others(model, task)]
    best, said = min(found)
    if best < _HALF * error:
        return f"{said} its error is {100 * best:.2f}% on {seen} examples"
    return _in_another_order(model, task, batches) or UNKNOWN


def _others(model: nn.Module, task: ImageTask) -> Iterator[tuple[str, nn.Module, ImageTask]]:
    """What may be meant in place of what was given: in words, the network and the task."""
    channels = len(task.mean)
    scales: list[tuple[tuple[float, ...], tuple[float, ...]]] = [
        ((0.0,), (1.0,)),
        ((0.5,), (0.5,)),
        ((0.0,), (1 / 255,)),
        ((0.0,), (255.0,)),
        ((127.5,), (127.5,)),
    ]
    tries = [tuple(one * channels for one in scale) for scale in scales]
    tries += [_IMAGENET] if channels == 3 else []
    own = task.normalised(None, None).measured()
    tries.append((tuple(own.mean), tuple(own.std)))
    for mean, std in tries:
        other = task.normalised(mean, std)
        said = f"with mean={[round(one, 4) for one in mean]} and std={[round(one, 4) for one in std]}"
        yield said, model, other
        if channels == 3:
            yield f"{said} and its channels in reverse order (BGR)", _Reversed(model), other
    if channels == 3:
        yield "with its channels in reverse order (BGR)", _Reversed(model), task


class _Reversed(nn.Module):
    """A network whose images have their channels in reverse order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> object:
        return self.model(images.flip(1))


def _error(model: nn.Module, task: ImageTask, batches: list[Batch]) -> float:
    metric = task.error()
    with modes_restored(model), torch.no_grad():
        model.eval()
        for batch in batches:
            metric.update(*task.forward(model, batch))
    return figures(metric)[0]


def _in_another_order(model: nn.Module, task: ImageTask, batches: list[Batch]) -> str | None:
    """That another order of the labels halves the error, where it does."""
    counts = torch.zeros(task.classes, task.classes, dtype=torch.long)  # of labels, by answer
    with modes_restored(model), torch.no_grad():
        model.eval()
        for batch in batches:
            outputs, labels = task.forward(model, batch)
            if not isinstance(labels, Tensor) or labels.ndim != 1:
                return None
            pairs = labels.cpu() * task.classes + outputs.argmax(1).cpu()
            counts += torch.bincount(pairs, minlength=task.classes**2).view(task.classes, task.classes)
    said = counts.argmax(1)
    there = counts.sum(1) > 0
    right, examples = int(counts.max(1).values.sum()), int(counts.sum())
    wrong = examples - int(counts.diagonal().sum())
    if len(set(said[there].tolist())) < int(there.sum()) or examples - right >= _HALF * wrong:
        return None
    moved = [
        f"{label} as {int(said[label])}" for label in there.nonzero().flatten().tolist() if int(said[label]) != label
    ]
    more = ", ..." if len(moved) > 3 else ""
    return (
        f"it knows the labels in another order ({', '.join(moved[:3])}{more}): in that order its error is "
        f"{100 * (examples - right) / examples:.2f}% on {examples} examples"
    )


def _untouched(norm: nn.Module) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return isinstance(mean, Tensor) and isinstance(variance, Tensor) and not mean.any() and bool((variance == 1).all())
