"""Errors accumulated over a whole split: the share of wrong answers, and one minus an overlap (mIoU, Dice)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Metric(Protocol):
    """An error that is accumulated batch by batch and read once; lower is better."""

    @property
    def count(self) -> int:
        """Number of examples seen."""
        ...

    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch."""
        ...

    def compute(self) -> float:
        """The error over everything seen."""
        ...

    def std(self) -> float:
        """The standard error of `compute` over the examples seen."""
        ...


class ErrorRate:
    """Share of examples whose largest output is not the label.

    Its `std` is binomial, with half a wrong and half a right answer added: nothing wrong in a few is no certainty.
    """

    def __init__(self) -> None:
        """Start at nothing seen."""
        self.count = 0
        self._wrong: Tensor | int = 0  # stays on the device until it is read, so that no batch waits for the host

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add `(n, classes)` outputs and `(n,)` labels."""
        self._wrong = self._wrong + (outputs.argmax(1) != targets).sum()
        self.count += len(targets)

    def compute(self) -> float:
        """The share of wrong answers."""
        _refuse_empty(self.count)
        return int(self._wrong) / self.count

    def std(self) -> float:
        """The standard error of the share."""
        _refuse_empty(self.count)
        share = (int(self._wrong) + 0.5) / (self.count + 1)
        return float((share * (1 - share) / self.count) ** 0.5)


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
        _refuse_empty(self.count)
        return float(self._error(torch.cat(self._sums).sum(0, keepdim=True)))

    def std(self) -> float:
        """The jackknife standard error: how much the error moves when one example is left out."""
        _refuse_empty(self.count)
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


def _refuse_empty(count: int) -> None:
    if not count:
        raise ValueError("no example was seen, so there is no error; call update first")
