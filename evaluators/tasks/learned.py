"""What is learned of images: a label, several labels, values, or a mask each; with the loss and the error of each.

A `Learned` knows nothing of images. `image_task.py` puts both together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .images import Augment, Images
from .metrics import ErrorRate, OverlapError, PrecisionError, UnexplainedError
from .task import Metric, Side

_IGNORED = -100  # the label that PyTorch's losses leave out
_OFTEN_IGNORED = 255  # what files of masks write for it

Weights = Sequence[float] | Literal["balanced"] | None


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

    def check(self, split: str, targets: Tensor, places: Sequence[int]) -> None:
        """Refuse targets that can't be learned, by the split and their places in it."""
        ...

    def prepared(self, targets: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """Targets as `loss` takes them: moved as their images, and at their side (None: as stored)."""
        ...

    def pixels(self, outputs: Tensor) -> Side:
        """The axes of outputs beside examples and classes."""
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
    axes, kind = 1, "classification"

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
        _check_labels(split, targets, places, self.classes, None)

    def prepared(self, labels: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """The labels, wherever their images were moved."""
        return labels.long()

    def pixels(self, outputs: Tensor) -> Side:
        """No axes beside examples and classes."""
        return ()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy."""
        weights = _tensor(self.weights, outputs)
        return F.cross_entropy(outputs.float(), labels, weight=weights, label_smoothing=self.smoothing)

    def error(self) -> ErrorRate:
        """The share of wrong answers."""
        return ErrorRate()

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """See `divergence`."""
        return divergence(outputs, teacher_outputs, temperature)


@dataclass(frozen=True)
class Masks:
    """One label a pixel."""

    classes: int
    overlap: str = "iou"
    ignore: int | None = None
    weights: tuple[float, ...] | None = None
    axes, kind = 1, "segmentation"

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
        _check_labels(split, targets, places, self.classes, self.ignore)

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

    def pixels(self, outputs: Tensor) -> Side:
        """The axes of the pixels; however many there are."""
        return tuple(outputs.shape[2:])

    def loss(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """Mean cross-entropy over the pixels that count."""
        weights = _tensor(self.weights, outputs)
        return F.cross_entropy(outputs.float(), masks, weight=weights, ignore_index=_IGNORED)

    def error(self) -> OverlapError:
        """One minus the overlap."""
        return OverlapError(classes=self.classes, overlap=self.overlap, ignore=_IGNORED)

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """See `divergence`."""
        return divergence(outputs, teacher_outputs, temperature)


@dataclass(frozen=True)
class Marks:
    """Any number of labels an image: `(n, labels)` of 0 and 1."""

    classes: int
    weights: tuple[float, ...] | None = None
    axes, kind = 2, "classification"
    guess = None  # how rare labels are says what a guess is worth

    def __str__(self) -> str:
        return f"labels={self.classes}"

    @property
    def settings(self) -> tuple[object, ...]:
        """All that a fingerprint depends on."""
        return "labels", self.classes, self.weights

    def check(self, split: str, targets: Tensor, places: Sequence[int]) -> None:
        """Refuse what is neither 0 nor 1."""
        _check_width(split, targets, places, self.classes, "one 0 or 1 a label")
        wrong = ((targets != 0) & (targets != 1)).reshape(len(targets), -1).any(1)
        if bool(wrong.any()):
            place = int(wrong.nonzero()[0][0])
            raise ValueError(
                f"{split}[{places[place]}] has the target {targets[place].tolist()}; expected 0 or 1 for each of "
                f"{self.classes} labels"
            )

    def prepared(self, targets: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """The targets as numbers, wherever their images were moved."""
        return _columns(targets)

    def pixels(self, outputs: Tensor) -> Side:
        """No axes beside examples and labels."""
        return ()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy over examples and labels."""
        weights = _tensor(self.weights, outputs)
        return F.binary_cross_entropy_with_logits(outputs.float(), targets, pos_weight=weights)

    def error(self) -> PrecisionError:
        """One minus the mean average precision."""
        return PrecisionError()

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """T^2 KL of yes and no of every label, the mean over examples and labels."""
        student, teacher = (torch.stack([one.float(), -one.float()], 1) for one in (outputs, teacher_outputs))
        # Of the two outputs z and -z the softmax at 2T is the sigmoid of z / T.
        return divergence(student, teacher, 2 * temperature) / 4


@dataclass(frozen=True)
class Values:
    """Any number of values an image: `(n, values)`, or `(n, values, *sides)` for values of every pixel."""

    classes: int
    axes, kind = 2, "regression"
    guess = 0.9  # the mean of the targets as the only answer has the error 1

    def __str__(self) -> str:
        return f"values={self.classes}"

    @property
    def settings(self) -> tuple[object, ...]:
        """All that a fingerprint depends on."""
        return "values", self.classes

    def check(self, split: str, targets: Tensor, places: Sequence[int]) -> None:
        """Refuse what is not finite."""
        _check_width(split, targets, places, self.classes, "one number a value")
        wrong = ~targets.isfinite().reshape(len(targets), -1).all(1)
        if bool(wrong.any()):
            place = places[int(wrong.nonzero()[0][0])]
            raise ValueError(f"the target of {split}[{place}] is not finite; repair it, or leave the example out")

    def prepared(self, targets: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """The targets in single precision."""
        return _columns(targets)

    def pixels(self, outputs: Tensor) -> Side:
        """The axes of the pixels, if there are any."""
        return tuple(outputs.shape[2:])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error over examples, values and pixels."""
        return F.mse_loss(outputs.float(), targets)

    def error(self) -> UnexplainedError:
        """The share of the variance that is left unexplained."""
        return UnexplainedError()

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """Mean squared distance; values have no temperature."""
        return F.mse_loss(outputs.float(), teacher_outputs.float())


def divergence(outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over examples and pixels.

    Hinton 2015 (arXiv 1503.02531), section 2: T^2 keeps the gradient's size whatever T is.
    """
    student = F.log_softmax(outputs.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_outputs.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="none").sum(1).mean()


def classes_of(images: Images, classes: int | None, axes: int, ignore: int | None = None) -> int:
    """The number of classes, after every label that is known was looked at: `(n,)` or `(n, *sides)`, so many axes."""
    known = {name: source.known() for name, source in images.sources.items()}
    for name, (labels, _) in known.items():
        if axes == 1 and labels.ndim == 2 and labels.shape[1] > 1 and bool(((labels != 0).sum(1) == 1).all()):
            raise ValueError(
                f"{name} labels have shape {tuple(labels.shape)} and look one-hot; expected (n,), the number of the "
                "class: give labels.argmax(1)"
            )
        if labels.ndim != axes:
            several = "; sc.MultiLabel takes several of 0 and 1 a picture" if axes == 1 and labels.ndim == 2 else ""
            raise ValueError(f"{name} labels have shape {tuple(labels.shape)}; expected (n,), one a picture{several}")
        if labels.is_floating_point() or labels.is_complex():
            numbers = "; sc.Regression takes values" if axes == 1 else ""
            raise TypeError(f"{name} labels are {labels.dtype}; expected whole numbers{numbers}")
    if classes is None:
        if "train" not in images.targets:
            raise ValueError("classes is None and the training labels are not in memory; give the number of classes")
        labels = images.targets["train"]
        counted = labels if ignore is None else labels[labels != ignore]
        classes = int(counted.max()) + 1 if counted.numel() else 1
        if classes == _OFTEN_IGNORED + 1 and not bool((counted == _OFTEN_IGNORED - 1).any()):
            place = int((labels == _OFTEN_IGNORED).flatten(1 if axes > 1 else 0).nonzero()[0][0])
            mend = "leave these examples out" if axes == 1 else f"give ignore={_OFTEN_IGNORED}"
            raise ValueError(
                f"train[{place}] has the label {_OFTEN_IGNORED}, which often marks what is to be ignored, and no label "
                f"is {_OFTEN_IGNORED - 1}; {mend}, or say classes={_OFTEN_IGNORED + 1}"
            )
    if classes < 1:
        raise ValueError(f"classes is {classes}; expected at least 1")
    return classes


def width_of(images: Images) -> int:
    """The number of values a target has: `(n,)`, one, or `(n, values, ...)`."""
    targets = images.sources["train"].known()[0]
    return 1 if targets.ndim == 1 else targets.shape[1]


def weights_of(images: Images, weights: Weights, classes: int, *, by_label: bool = False) -> tuple[float, ...] | None:
    """The weight of each class; `"balanced"` makes those as heavy as others that occur as often or as seldom.

    Args:
        images: whose training labels are counted.
        weights: one number a class, or `"balanced"`, or None.
        classes: how many.
        by_label: targets are `(n, labels)`, and the weight is that of a 1 against a 0.
    """
    if weights is None:
        return None
    if not isinstance(weights, str):
        found = tuple(float(weight) for weight in weights)
        if len(found) != classes or not all(0 <= weight < float("inf") for weight in found) or not any(found):
            raise ValueError(f"class_weights is {list(found)}; expected {classes} numbers of at least 0, one a class")
        return found
    if weights != "balanced":
        raise ValueError(f"class_weights is {weights!r}; expected 'balanced' or one number a class")
    if "train" not in images.targets:
        raise ValueError("class_weights='balanced', but the training labels are not in memory; give the numbers")
    labels = images.targets["train"]
    if by_label:
        yes = labels.reshape(len(labels), -1).double().sum(0)
        counts, others = yes, len(labels) - yes
    else:
        counts = torch.bincount(labels[(labels >= 0) & (labels < classes)].flatten().long(), minlength=classes).double()
        others = counts.sum() / classes
    if bool((counts == 0).any()):
        missing = int((counts == 0).nonzero()[0][0])
        raise ValueError(f"class_weights='balanced', but no training image has the class {missing}; give the numbers")
    return tuple((others / counts).tolist())


def _check_labels(split: str, labels: Tensor, places: Sequence[int], classes: int, ignore: int | None) -> None:
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


def _check_width(split: str, targets: Tensor, places: Sequence[int], width: int, what: str) -> None:
    found = 1 if targets.ndim == 1 else targets.shape[1] if targets.ndim else 0
    if found != width:
        place = f"{split}[{places[0]}]" if len(places) else split
        raise ValueError(
            f"the target of {place} has shape {tuple(targets.shape[1:])}; expected {width} a picture, {what}"
        )


def _columns(targets: Tensor) -> Tensor:
    return (targets.unsqueeze(1) if targets.ndim == 1 else targets).float()


def _tensor(weights: tuple[float, ...] | None, like: Tensor) -> Tensor | None:
    return None if weights is None else torch.tensor(weights, device=like.device)
