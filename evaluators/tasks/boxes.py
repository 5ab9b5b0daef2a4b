"""Boxes of a picture: `(most, 5)` numbers of fixed size, so that pictures with any number of them make a batch.

A row is `x0, y0, x1, y1, label`, in pixels of the stored picture; rows without a box have the label -1. `packed` makes
them, `unpacked` gives them back. `Boxes` is what `image_task.py` is told of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from .examples import described, image_of, pair_of
from .learned import refuse_empty
from .sources import Augment
from .task import Side

Target = dict[str, Tensor]
"""`boxes`, `(n, 4)` as x0, y0, x1, y1 in pixels, and `labels`, `(n,)`."""

Array = npt.NDArray[Any]

COCO = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # overlaps from which a box counts as found
_MOST = 100  # boxes of an image and a label, the surest ones
_RECALLS = np.linspace(0, 1, 101)  # at which precision is read
_ANSWER = "expected a list of dicts, one an image, with boxes (n, 4), scores (n,) and labels (n,)"
_NONE = -1.0  # the label of a row without a box
_SEEN = 0.25  # of a box that is moved: what must stay within the picture for it to stay a target
_EXPECTED = "expected a dict with boxes, (n, 4) as x0, y0, x1, y1 in pixels, and labels, (n,)"


def packed(place: str, target: Any, most: int) -> Tensor:
    """`(most, 5)` of a target.

    Args:
        place: such as `train[7]`, for messages.
        target: `boxes` and `labels`; whatever else it has is left out.
        most: boxes, at the most.

    Raises:
        TypeError: it is none.
        ValueError: its shapes do not fit together, or there are more boxes.
    """
    if not isinstance(target, Mapping) or not {"boxes", "labels"} <= set(target):
        raise TypeError(f"the target of {place} is {described(target)}; {_EXPECTED}")
    try:
        boxes, labels = (torch.as_tensor(target[name]).detach().cpu() for name in ("boxes", "labels"))
    except (TypeError, ValueError, RuntimeError) as problem:
        raise TypeError(f"the target of {place} has boxes or labels that are no numbers ({problem})") from None
    boxes = boxes.reshape(0, 4) if not boxes.numel() else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.numel() != len(boxes):
        shapes = f"boxes of shape {tuple(boxes.shape)} and labels of shape {tuple(labels.shape)}"
        raise ValueError(f"the target of {place} has {shapes}; {_EXPECTED}")
    if labels.numel() and (labels.is_floating_point() or labels.dtype == torch.bool):
        raise TypeError(f"the labels of {place} are {labels.dtype}; expected whole numbers")
    if len(boxes) > most:
        raise ValueError(f"{place} has {len(boxes)} boxes, and most is {most}; give most={len(boxes)} or above")
    rows = torch.full((most, 5), _NONE)
    rows[: len(boxes), :4], rows[: len(boxes), 4] = boxes.float(), labels.flatten().float()
    return rows


def unpacked(rows: Tensor, scale: Sequence[float]) -> list[Target]:
    """The targets of `(n, most, 5)`, their boxes scaled down and across by `scale` (height, width)."""
    down, across = scale
    factors = rows.new_tensor([across, down, across, down])
    return [
        {"boxes": one[:, :4] * factors, "labels": one[:, 4].long()} for one in (row[row[:, 4] >= 0] for row in rows)
    ]


class Collated:
    """A loader's `collate_fn` whose targets are packed: PyTorch's own puts no differing numbers of boxes together."""

    def __init__(self, name: str, collate: Callable[[Any], Any], most: int) -> None:
        """Keep the loader's own, of the split `name`."""
        self.name, self.collate, self.most = name, collate, most

    def __call__(self, items: list[Any]) -> tuple[Any, Tensor]:
        """Images and `(n, most, 5)` targets."""
        images: Any
        targets: Any
        if self.collate is default_collate:
            pairs = [pair_of(self.name, item) for item in items]
            images, targets = (list(part) for part in zip(*pairs, strict=True))
        else:
            images, targets = pair_of(self.name, self.collate(items))
        if isinstance(images, list | tuple):
            images = torch.stack([image_of(f"{self.name}'s batch", image) for image in images])
        if not isinstance(targets, list | tuple):
            raise TypeError(f"the targets are {described(targets)}; expected a list of them, {_EXPECTED}")
        return images, torch.stack([packed(f"{self.name}'s batch", target, self.most) for target in targets])


@dataclass(frozen=True)
class Boxes:
    """Any number of boxes with a label each; see `Learned`.

    Attributes:
        classes: labels are below it.
        side: of the stored pictures, height and width.
        iou: the overlap from which a box counts as found; None takes the mean over COCO's ten.
    """

    classes: int
    side: Side
    iou: float | None = None
    axes, kind, dense = 3, "detection", False
    guess = 0.999  # no guess finds boxes: a precision below 0.001 is one

    def __str__(self) -> str:
        return f"classes={self.classes}" + ("" if self.iou is None else f", iou={self.iou}")

    @property
    def settings(self) -> tuple[object, ...]:
        """All that a fingerprint depends on."""
        return "detection", self.classes, self.iou

    def check(self, split: str, targets: Tensor, places: Sequence[int]) -> None:
        """Refuse a box that is none, is not in its picture, or has a label that is no class."""
        height, width = self.side
        x0, y0, x1, y1, label = targets.unbind(-1)
        there = label != _NONE
        middle = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2])
        outside = (middle < 0).any(0) | (middle[0] > width) | (middle[1] > height)
        shares = (x1 <= 1) & (y1 <= 1) if min(self.side) > 1 else torch.zeros_like(there)
        wrong = {
            "that is not finite; repair it, or leave it out": ~targets.isfinite().all(-1),
            "without an area; expected x0, y0, x1, y1 with x0 < x1 and y0 < y1": (x1 <= x0) | (y1 <= y0),
            f"within one pixel of {width} x {height}; expected pixels, not shares of the side": shares,
            f"that is not in its picture of {width} x {height}; expected x0, y0, x1, y1 in pixels": outside,
            f"with a label outside 0..{self.classes - 1}; correct it, or give `classes`": (label < 0)
            | (label >= self.classes),
        }
        for said, where in wrong.items():
            if bool((where & there).any()):
                example, row = (where & there).nonzero()[0].tolist()
                *box, kind = [round(number, 2) for number in targets[example, row].tolist()]
                raise ValueError(f"{split}[{places[example]}] has a box {box} of label {kind:g} {said}")

    def prepared(self, targets: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """`(n, most, 5)`, moved as their images: upright boxes around what was moved; what leaves is no target."""
        return targets if moved is None else self._moved(targets, moved[1].to(targets.device))

    def _moved(self, targets: Tensor, maps: Tensor) -> Tensor:
        """By affine maps that say, in shares -1..1 of the sides, where each place of the new image comes from."""
        size = targets.new_tensor([self.side[1], self.side[0]])
        corners = 2 * targets[..., [0, 1, 2, 1, 0, 3, 2, 3]].view(*targets.shape[:2], 4, 2) / size - 1
        back = torch.linalg.inv(maps[:, :, :2])
        places = (corners - maps[:, None, None, :, 2]) @ back.transpose(1, 2)[:, None]
        places = (places + 1) / 2 * size
        low, high = places.amin(-2), places.amax(-2)
        kept = torch.stack([low, high], -2).clamp(min=torch.zeros_like(size), max=size)
        seen = (kept[..., 1, :] - kept[..., 0, :]).prod(-1) >= _SEEN * (high - low).prod(-1)
        label = targets[..., 4].where(seen, _NONE)
        return torch.cat([kept.flatten(-2), label.unsqueeze(-1)], -1)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The sum of the losses that a network gives in train mode.

        Raises:
            TypeError: it gave none.
        """
        values = list(outputs.values()) if isinstance(outputs, Mapping) else []
        if not values or not all(isinstance(value, Tensor) and value.numel() == 1 for value in values):
            raise TypeError(
                f"the network gives {described(outputs)} in train mode; expected a dict of losses, as torchvision's "
                "detectors give for (images, targets): give loss=, a scalar of (outputs, targets), and decode="
            )
        return torch.stack([value.reshape(()) for value in values]).sum()

    def error(self) -> BoxPrecisionError:
        """One minus the mean average precision."""
        return BoxPrecisionError(iou=self.iou)

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """Boxes are learned from targets alone."""
        raise TypeError("detectors learn from targets alone; leave distillation out")


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
        refuse_empty(self.count)
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
