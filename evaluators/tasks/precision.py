"""How well boxes are found: mean average precision, as COCO counts it."""

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
        if not self.count:
            raise ValueError("no example was seen, so there is no error; call update first")
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
