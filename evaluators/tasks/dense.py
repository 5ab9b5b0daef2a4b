"""What is learned of the pixels of images: a mask each, or values; with the loss and the error of each.

outputs  (n, classes, *sides) or (n, values, *sides)  of a network, before any softmax
targets  (n, *sides) or (n, values, *sides)           what they are held against, as the task prepares it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .learned import check_labels, check_width, columns, divergence, refuse_empty, weights_on
from .sources import Augment
from .task import Side

_IGNORED = -100  # the label that PyTorch's losses leave out


@dataclass(frozen=True)
class Masks:
    """One label a pixel."""

    classes: int
    overlap: str = "iou"
    ignore: int | None = None
    weights: tuple[float, ...] | None = None
    axes, kind, dense = 1, "segmentation", True

    def __str__(self) -> str:
        return f"classes={self.classes}, overlap={self.overlap!r}"

    @property
    def settings(self) -> tuple[object, ...]:
        """All that a fingerprint depends on."""
        weights = () if self.weights is None else (self.weights,)
        return "segmentation", self.classes, self.overlap, self.ignore, *weights

    @property
    def guess(self) -> float | None:
        """What a mask of a single class can't fall below."""
        return 1 - 1 / self.classes if self.classes > 1 else None

    def check(self, split: str, targets: Tensor, places: Sequence[int]) -> None:
        """Refuse a label that is no class."""
        check_labels(split, targets, places, self.classes, self.ignore)

    def prepared(self, masks: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """The masks, moved as their images and at their side (None: as stored); what counts for nothing is -100."""
        masks = masks.long()
        if self.ignore is not None:
            masks = masks.where(masks != self.ignore, _IGNORED)
        if moved is not None:
            augment, maps = moved
            masks = augment.masks(masks, maps, outside=_IGNORED)
        if side is None or tuple(masks.shape[1:]) == side:
            return masks
        # float64 holds every label exactly
        return F.interpolate(masks.unsqueeze(1).double(), size=side, mode="nearest-exact").squeeze(1).to(masks.dtype)

    def loss(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """Mean cross-entropy over the pixels that count."""
        weights = weights_on(self.weights, outputs)
        return F.cross_entropy(outputs.float(), masks, weight=weights, ignore_index=_IGNORED)

    def error(self) -> OverlapError:
        """One minus the overlap."""
        return OverlapError(classes=self.classes, overlap=self.overlap, ignore=_IGNORED)

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """See `divergence`."""
        return divergence(outputs, teacher_outputs, temperature)


@dataclass(frozen=True)
class Values:
    """Any number of values an image: `(n, values)`, or `(n, values, *sides)` for values of every pixel."""

    classes: int
    axes, kind, dense = 2, "regression", True
    guess = 0.9  # the mean of the targets as the only answer has the error 1

    def __str__(self) -> str:
        return f"values={self.classes}"

    @property
    def settings(self) -> tuple[object, ...]:
        """All that a fingerprint depends on."""
        return "values", self.classes

    def check(self, split: str, targets: Tensor, places: Sequence[int]) -> None:
        """Refuse what is not finite."""
        check_width(split, targets, places, self.classes, "one number a value")
        wrong = ~targets.isfinite().reshape(len(targets), -1).all(1)
        if bool(wrong.any()):
            place = places[int(wrong.nonzero()[0][0])]
            raise ValueError(f"the target of {split}[{place}] is not finite; repair it, or leave the example out")

    def prepared(self, targets: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """The targets in single precision."""
        return columns(targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error over examples, values and pixels."""
        return F.mse_loss(outputs.float(), targets)

    def error(self) -> UnexplainedError:
        """The share of the variance that is left unexplained."""
        return UnexplainedError()

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """Mean squared distance; values have no temperature."""
        return F.mse_loss(outputs.float(), teacher_outputs.float())


class OverlapError:
    """One minus the overlap of segments, averaged over the classes, from sums over the whole split.

    An overlap is no mean over batches: intersections and sizes are summed first, so the batch size changes nothing.
    A class that occurs in neither the masks nor the predictions does not count. `std` is the jackknife over examples.
    """

    def __init__(self, *, classes: int, overlap: str = "iou", ignore: int | None = None) -> None:
        """Start at nothing seen; `overlap` is "iou" or "dice", pixels labelled `ignore` are left out."""
        if overlap not in ("iou", "dice"):
            raise ValueError(f"overlap is {overlap!r}; expected 'iou' or 'dice'")
        self.classes, self.overlap, self.ignore = classes, overlap, ignore
        self.name = f"1 - mean {overlap}"
        self._sums: list[Tensor] = []  # a batch: (n, 3, classes) pixels in both, in the prediction, in the mask

    @property
    def count(self) -> int:
        """Number of examples seen."""
        return sum(len(sums) for sums in self._sums)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add `(n, classes, *sides)` outputs and `(n, *sides)` masks."""
        predicted, truth = outputs.argmax(1).flatten(1), targets.flatten(1)
        seen = torch.ones_like(truth, dtype=torch.bool) if self.ignore is None else truth != self.ignore
        both = seen & (predicted == truth)
        sums = [self._pixels(truth, both), self._pixels(predicted, seen), self._pixels(truth, seen)]
        self._sums.append(torch.stack(sums, dim=1))

    def compute(self) -> float:
        """One minus the overlap of all that was seen."""
        refuse_empty(self.count)
        return float(self._error(torch.cat(self._sums).sum(0, keepdim=True)))

    def std(self) -> float:
        """The jackknife standard error: how much the error moves when one example is left out."""
        refuse_empty(self.count)
        sums = torch.cat(self._sums)
        if len(sums) < 2:
            return 0.0
        without = self._error(sums.sum(0) - sums)
        return float(((len(sums) - 1) * without.var(correction=0)) ** 0.5)

    def _pixels(self, labels: Tensor, where: Tensor) -> Tensor:
        """`(n, classes)` pixels of each class among those selected."""
        bins = self.classes + 1  # the last one takes what is left out, and is cut off
        labels = torch.where(where, labels.long(), self.classes)
        rows = torch.arange(len(labels), device=labels.device).unsqueeze(1) * bins
        pixels = torch.bincount((labels + rows).flatten(), minlength=len(labels) * bins)
        return pixels.view(len(labels), bins)[:, :-1]

    def _error(self, sums: Tensor) -> Tensor:
        """`(n,)` errors of n sums of `(3, classes)` pixels."""
        both, predicted, truth = sums.double().cpu().unbind(1)
        present = (predicted + truth) > 0
        size = predicted + truth - both if self.overlap == "iou" else (predicted + truth) / 2
        overlap = torch.where(present, both / size.clamp(min=1), 0.0)
        return 1 - overlap.sum(1) / present.sum(1).clamp(min=1)


class UnexplainedError:
    """The share of the targets' variance that is left unexplained: one minus R^2, the mean over the values.

    The mean of the targets as the only answer has the error 1. It has no unit. `std` is the jackknife over examples.
    """

    name = "1 - R^2"

    def __init__(self) -> None:
        """Start at nothing seen."""
        self.count = 0
        self._seen: list[
            Tensor
        ] = []  # a batch: (3, n, values) sums over the sides: of squared errors, targets, squares
        self._shift: Tensor | None = None  # about the targets' mean, which keeps what is squared small
        self._sides = 1

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add `(n, values, *sides)` outputs and targets."""
        given = (outputs - targets, targets)
        wrong, targets = (one.detach().double().reshape(*targets.shape[:2], -1) for one in given)
        if self._shift is None:
            self._shift, self._sides = targets[:1].mean((0, 2), keepdim=True), targets.shape[2]
        moved = targets - self._shift
        self._seen.append(torch.stack([wrong.square().sum(2), moved.sum(2), moved.square().sum(2)]).cpu())
        self.count += len(targets)

    def compute(self) -> float:
        """The share of all that was seen; a ValueError where the targets are all the same."""
        return float(self._errors()[0])

    def std(self) -> float:
        """The jackknife standard error: how much the error moves when one example is left out."""
        without = self._errors()[1]
        return float(((len(without) - 1) * without.var(correction=0)) ** 0.5) if len(without) > 1 else 0.0

    def _errors(self) -> tuple[Tensor, Tensor]:
        """The error, and `(n,)` errors with one example left out."""
        refuse_empty(self.count)
        sums = torch.cat(self._seen, 1)
        whole, numbers = sums.sum(1, keepdim=True), self.count * self._sides
        wrong, apart = _spread(whole, numbers)
        there = (apart > 0)[0]
        if not bool(there.any()):
            raise ValueError("the targets are all the same, so there is nothing to explain; give others")
        left, left_apart = _spread(whole - sums, max(1, numbers - self._sides))
        floor = torch.finfo(apart.dtype).tiny
        without = (left / left_apart.clamp(min=floor))[:, there].mean(1)
        return (wrong / apart.clamp(min=floor))[0, there].mean(), without


def _spread(sums: Tensor, numbers: int) -> tuple[Tensor, Tensor]:
    """Squared errors, and squared distances of the targets to their mean, of sums over so many numbers."""
    wrong, targets, squares = sums
    return wrong, squares - targets.square() / numbers
