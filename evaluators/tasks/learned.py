"""What is learned of a whole image: a label, or several; with the loss and the error of each. Errors are of a split.

A `Learned` knows nothing of images. `image_task.py` puts both together; `dense.py` has those of pixels.

outputs  (n, classes) or (n, labels)  of a network, before any softmax or sigmoid
targets  (n,) or (n, labels)          what they are held against, as the task prepares it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .sources import Augment
from .task import Metric, Side


class Learned(Protocol):
    """What is learned of an image."""

    @property
    def classes(self) -> int:
        """Number of outputs that a network has for it."""
        ...

    @property
    def kind(self) -> str:
        """What the field calls it."""
        ...

    @property
    def settings(self) -> tuple[object, ...]:
        """All that a fingerprint depends on."""
        ...

    @property
    def guess(self) -> float | None:
        """The error above which a network does little better than to guess; None where guessing is right."""
        ...

    @property
    def axes(self) -> int:
        """Axes of the targets before their sides."""
        ...

    @property
    def dense(self) -> bool:
        """Whether outputs may have axes beside examples and classes."""
        ...

    def check(self, split: str, targets: Tensor, places: Sequence[int]) -> None:
        """Refuse targets that can't be learned, by the split and their places in it."""
        ...

    def prepared(self, targets: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """Targets as `loss` takes them: moved as their images, and at their side (None: as stored)."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar that training lowers."""
        ...

    def error(self) -> Metric:
        """A fresh error."""
        ...

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """How far outputs are from a teacher's of the same shape."""
        ...


@dataclass(frozen=True)
class Labels:
    """One label an image."""

    classes: int
    smoothing: float = 0.0
    weights: tuple[float, ...] | None = None
    axes, kind, dense = 1, "classification", False

    def __str__(self) -> str:
        return f"classes={self.classes}"

    @property
    def settings(self) -> tuple[object, ...]:
        """All that a fingerprint depends on."""
        return "classification", self.classes, self.smoothing, *(() if self.weights is None else (self.weights,))

    @property
    def guess(self) -> float | None:
        """Nine tenths of what a guess is wrong in, all classes being as frequent."""
        return 0.9 * (1 - 1 / self.classes) if self.classes > 1 else None

    def check(self, split: str, targets: Tensor, places: Sequence[int]) -> None:
        """Refuse a label that is no class."""
        check_labels(split, targets, places, self.classes, None)

    def prepared(self, labels: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """The labels, wherever their images were moved."""
        return labels.long()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy."""
        weights = weights_on(self.weights, outputs)
        return F.cross_entropy(outputs.float(), labels, weight=weights, label_smoothing=self.smoothing)

    def error(self) -> ErrorRate:
        """The share of wrong answers."""
        return ErrorRate()

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """See `divergence`."""
        return divergence(outputs, teacher_outputs, temperature)


@dataclass(frozen=True)
class Marks:
    """Any number of labels an image: `(n, labels)` of 0 and 1."""

    classes: int
    weights: tuple[float, ...] | None = None
    axes, kind, dense = 2, "classification", False
    guess = None  # how rare labels are says what a guess is worth

    def __str__(self) -> str:
        return f"labels={self.classes}"

    @property
    def settings(self) -> tuple[object, ...]:
        """All that a fingerprint depends on."""
        return "labels", self.classes, self.weights

    def check(self, split: str, targets: Tensor, places: Sequence[int]) -> None:
        """Refuse what is neither 0 nor 1."""
        check_width(split, targets, places, self.classes, "one 0 or 1 a label")
        wrong = ((targets != 0) & (targets != 1)).reshape(len(targets), -1).any(1)
        if bool(wrong.any()):
            place = int(wrong.nonzero()[0][0])
            raise ValueError(
                f"{split}[{places[place]}] has the target {targets[place].tolist()}; expected 0 or 1 for each of "
                f"{self.classes} labels"
            )

    def prepared(self, targets: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """The targets as numbers, wherever their images were moved."""
        return columns(targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy over examples and labels."""
        weights = weights_on(self.weights, outputs)
        return F.binary_cross_entropy_with_logits(outputs.float(), targets, pos_weight=weights)

    def error(self) -> PrecisionError:
        """One minus the mean average precision."""
        return PrecisionError()

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """T^2 KL of yes and no of every label, the mean over examples and labels."""
        student, teacher = (torch.stack([one.float(), -one.float()], 1) for one in (outputs, teacher_outputs))
        # Of the two outputs z and -z the softmax at 2T is the sigmoid of z / T.
        return divergence(student, teacher, 2 * temperature) / 4


def divergence(outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over examples and pixels.

    Hinton 2015 (arXiv 1503.02531), section 2: T^2 keeps the gradient's size whatever T is.
    """
    student = F.log_softmax(outputs.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_outputs.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="none").sum(1).mean()


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
        refuse_empty(self.count)
        return int(self._wrong) / self.count

    def std(self) -> float:
        """The standard error of the share."""
        refuse_empty(self.count)
        share = (int(self._wrong) + 0.5) / (self.count + 1)
        return float((share * (1 - share) / self.count) ** 0.5)


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
        refuse_empty(self.count)
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


def figures(metric: Metric) -> tuple[float, float | None]:
    """The error and its standard error as plain numbers; None where the metric has no `std`, or it says None.

    Raises:
        TypeError: what the metric gave is no number; the sentence names it.
    """
    std = getattr(metric, "std", None)
    spread = std() if callable(std) else None
    named = type(metric).__name__
    error = number(f"{named}.compute()", metric.compute())
    return error, None if spread is None else number(f"{named}.std()", spread)


def number(named: str, value: Any) -> float:
    """What a metric gave, as a plain number; a TypeError that names the metric where it is none."""
    try:
        plain = value.item() if isinstance(value, Tensor | np.ndarray) else value
        if isinstance(plain, SupportsFloat):
            return float(plain)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass  # several numbers, a complex one, one beyond floats, one on the meta device
    raise TypeError(f"the task's error, {named}, gave {_shown(value)}a {type(value).__name__}; expected one number")


def _shown(value: Any) -> str:
    try:
        return f"{' '.join(repr(value).split())[:60]}, "
    except Exception:  # noqa: BLE001 - of someone else's `__repr__`, or of an endless number
        return ""


def check_labels(split: str, labels: Tensor, places: Sequence[int], classes: int, ignore: int | None) -> None:
    """Refuse a label that is no class, and not the one to be ignored."""
    wrong = (labels < 0) | (labels >= classes)
    if ignore is not None:
        wrong &= labels != ignore
    if bool(wrong.any()):
        example = int(labels[wrong][0])
        place = places[int(wrong.nonzero()[0][0])]
        raise ValueError(
            f"{split} has the label {example}, outside 0..{classes - 1}, at index {place}; correct the labels or give "
            "`classes`"
        )


def check_width(split: str, targets: Tensor, places: Sequence[int], width: int, what: str) -> None:
    """Refuse targets that do not have so many numbers each, in words what they are."""
    found = 1 if targets.ndim == 1 else targets.shape[1] if targets.ndim else 0
    if found != width:
        place = f"{split}[{places[0]}]" if len(places) else split
        raise ValueError(
            f"the target of {place} has shape {tuple(targets.shape[1:])}; expected {width} a picture, {what}"
        )


def columns(targets: Tensor) -> Tensor:
    """`(n, ...)` targets as `(n, values, ...)` numbers."""
    return (targets.unsqueeze(1) if targets.ndim == 1 else targets).float()


def weights_on(weights: tuple[float, ...] | None, like: Tensor) -> Tensor | None:
    """The weights of the classes on a tensor's device."""
    return None if weights is None else torch.tensor(weights, device=like.device)


def refuse_empty(count: int) -> None:
    """There is no error of nothing."""
    if not count:
        raise ValueError("no example was seen, so there is no error; call update first")
