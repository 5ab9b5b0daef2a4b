"""Errors over a whole split: what a network is judged by. Each is a `Metric`, so lower is better.

outputs  (n, classes, *sides), (n, labels) or (n, values)  of a network, before any softmax or sigmoid
targets  what they are held against, as the task prepares it

Boxes are dicts, one an image: `BoxPrecisionError` says of what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]

COCO = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # overlaps from which a box counts as found
_MOST = 100  # boxes of an image and a label, the surest ones
_RECALLS = np.linspace(0, 1, 101)  # at which precision is read
_ANSWER = "expected a list of dicts, one an image, with boxes (n, 4), scores (n,) and labels (n,)"


class ErrorRate:
    """Share of examples whose largest output is not the label.

    Its `std` is binomial, with half a wrong and half a right answer added: nothing wrong in a few is no certainty.
    """

    name = "error_rate"

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


class PrecisionError:
    """One minus the mean average precision of labels of which an example may have several; lower is better.

    The average precision of a label is the area under its curve of precision against recall, a step at every score
    that occurs (as scikit-learn counts it). Labels that no example has do not count. It needs no threshold.
    """

    name = "1 - mean average precision"

    def __init__(self) -> None:
        """Start at nothing seen."""
        self.count = 0
        self._seen: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add `(n, labels)` outputs and `(n, labels)` targets, above 0.5 where an example has the label."""
        self._seen.append((outputs.detach().float().cpu(), targets.cpu() > 0.5))
        self.count += len(targets)

    def compute(self) -> float:
        """The error over all that was seen; 1 where no example has any label."""
        _refuse_empty(self.count)
        scores, truth = (torch.cat(part).numpy() for part in zip(*self._seen, strict=True))
        found = [_average_precision(*column) for column in zip(scores.T, truth.T, strict=True) if column[1].any()]
        return 1 - float(np.mean(found)) if found else 1.0

    def std(self) -> None:
        """It is not known."""


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    steps = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # examples of one score come together
    right = np.cumsum(truth[order])[steps]
    return float(np.sum(np.diff(right, prepend=0) * right / (steps + 1)) / truth.sum())


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
        _refuse_empty(self.count)
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


class BoxPrecisionError:
    """One minus the mean average precision of boxes; lower is better.

    Boxes of a label are taken surest first; each finds the target of its image that it overlaps most, of those that
    nothing has found yet, if it overlaps it by `iou` at least. Precision, the best at this recall or any higher one, is
    averaged over 101 recalls, and that over overlaps and labels that occur (Lin 2014, arXiv 1405.0312, and the code of
    its evaluation). Of an image the 100 surest boxes a label count. No unit, whatever the size that boxes are given at.
    """

    def __init__(self, *, iou: float | None = None) -> None:
        """Start at nothing seen; `iou` is one overlap, None the mean over 0.50, 0.55 ... 0.95."""
        if iou is not None and not 0 < iou <= 1:
            raise ValueError(f"iou is {iou}; expected above 0 and at most 1, or None for COCO's ten")
        self.count, self.overlaps = 0, COCO if iou is None else (iou,)
        self.name = "1 - mean average precision" + ("" if iou is None else f" at {iou:g}")
        self._found: dict[int, list[tuple[Array, Array]]] = {}  # of a label, an image: scores and (overlaps, n) right
        self._targets: dict[int, int] = {}

    def update(self, outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Add images: what was found in each, and what is there.

        Raises:
            TypeError: outputs are no such list.
            ValueError: they are not as many as targets, or their shapes do not fit together.
        """
        if not isinstance(outputs, list | tuple) or not all(isinstance(one, Mapping) for one in outputs):
            raise TypeError(f"the network's answer is a {type(outputs).__name__}; {_ANSWER}: give decode=")
        if len(outputs) != len(targets):
            raise ValueError(f"the network's answer has {len(outputs)} images of {len(targets)}; {_ANSWER}")
        for answer, target in zip(outputs, targets, strict=True):
            boxes, scores, kinds = _answered(answer)
            wanted, labels = (target[name].detach().cpu().numpy() for name in ("boxes", "labels"))
            for label in set(kinds.tolist()) | set(labels.tolist()):
                mine = np.flatnonzero(kinds == label)
                mine = mine[np.argsort(-scores[mine], kind="stable")][:_MOST]
                there = wanted[labels == label]
                self._targets[label] = self._targets.get(label, 0) + len(there)
                right = _right(_overlaps(boxes[mine], there), self.overlaps)
                self._found.setdefault(label, []).append((scores[mine], right))
            self.count += 1

    def compute(self) -> float:
        """The error of all that was seen.

        Raises:
            ValueError: no image was seen, or none has a target.
        """
        _refuse_empty(self.count)
        known = [label for label, count in self._targets.items() if count]
        if not known:
            raise ValueError(
                f"none of {self.count} images has a box for its target, so nothing can be found; give some"
            )
        return 1 - float(np.mean([self._precision(label) for label in sorted(known)]))

    def std(self) -> None:
        """It is not known."""

    def _precision(self, label: int) -> float:
        """The average precision of a label, the mean over the overlaps."""
        scores = np.concatenate([scores for scores, _ in self._found[label]])
        right = np.concatenate([right for _, right in self._found[label]], axis=1)
        right = right[:, np.argsort(-scores, kind="stable")]
        found = np.cumsum(right, axis=1)
        precision = found / np.arange(1, right.shape[1] + 1)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)  # of recalls that are not reached
        recall = found / self._targets[label]
        places = [np.searchsorted(line, _RECALLS, side="left") for line in recall]
        return float(np.mean([line[place] for line, place in zip(best, places, strict=True)]))


def _answered(answer: Mapping[str, Any]) -> tuple[Array, Array, Array]:
    """Boxes, scores and labels of an image."""
    missing = [name for name in ("boxes", "scores", "labels") if not isinstance(answer.get(name), Tensor)]
    if missing:
        raise TypeError(f"the network's answer has no tensor {missing[0]!r}; {_ANSWER}: give decode=")
    boxes, scores, labels = (answer[name].detach().cpu() for name in ("boxes", "scores", "labels"))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),) or labels.shape != scores.shape:
        shapes = f"boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)} and labels {tuple(labels.shape)}"
        raise ValueError(f"the network's answer has {shapes}; {_ANSWER}")
    return boxes.double().numpy(), scores.double().numpy(), labels.to(torch.long).numpy()


def _overlaps(boxes: Array, there: Array) -> Array:
    """`(n, m)` intersections over unions."""
    low = np.maximum(boxes[:, None, :2], there[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], there[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    one, other = (np.prod(corners[:, 2:] - corners[:, :2], axis=1) for corners in (boxes, there))
    union = one[:, None] + other[None] - both
    shares: Array = both / np.where(union > 0, union, 1.0)
    return shares


def _right(overlaps: Array, least: Sequence[float]) -> Array:
    """`(overlaps, n)` which of n boxes, surest first, find a target that no surer one has found."""
    count, targets = overlaps.shape
    right = np.zeros((len(least), count), dtype=bool)
    if not targets:
        return right
    lowest, rows = np.asarray(least) - 1e-10, np.arange(len(least))
    free = np.ones((len(least), targets), dtype=bool)
    for box, line in enumerate(overlaps):
        left = np.where(free, line, -1.0)
        best = targets - 1 - left[:, ::-1].argmax(1)  # the last of equals, as COCO's code has it
        right[:, box] = left[rows, best] >= lowest
        free[rows[right[:, box]], best[right[:, box]]] = False
    return right


def _refuse_empty(count: int) -> None:
    if not count:
        raise ValueError("no example was seen, so there is no error; call update first")
