"""The ready-made tasks: images with a label each, several labels, values, or a mask each.

Each is an `ImageTask`: the images, what is learned of them (`learned.py`, `dense.py`), and what the user gives in place
of loss and error (`Own`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NotRequired, Unpack, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .decoded import ImageSettings
from .dense import Masks, Values
from .image_task import Images, ImageTask
from .learned import Labels, Marks
from .own import Own

_OFTEN_IGNORED = 255  # what files of masks write for what is to be ignored

Weights = Sequence[float] | Literal["balanced"] | None


class TaskSettings(ImageSettings):
    """What every task of images takes, with a loss and a metric; see `Classification`."""

    loss: NotRequired[Callable[[Any, Any], Tensor] | None]
    metric: NotRequired[Any]
    maximise: NotRequired[bool | None]
    output: NotRequired[str | int | Callable[[Any], Any] | None]


@final
class Classification(ImageTask):
    """Images with one label each; the loss is cross-entropy, the error the share of wrong answers.

    A split is a pair of tensors or arrays, `(n, c, *sides)` images (or `(n, c)` rows of numbers) and `(n,)` labels; a
    dataset that decodes on demand (see `LazyImages`); or a `DataLoader` of PyTorch's, with its workers, its order and
    its batches. uint8 images are scaled to 0..1, floating ones are taken as they are.
    """

    def __init__(
        self,
        *,
        classes: int | None = None,
        label_smoothing: float = 0.0,
        class_weights: Weights = None,
        **given: Unpack[TaskSettings],
    ) -> None:
        """Keep the splits where they are.

        Args:
            train: what networks learn from, and what recalibrates them.
            validation: what candidates are compared on.
            test: what an exported network is measured on, once.
            batch: images a batch; None takes a `DataLoader`'s own, or 128.
            augment: how training images are moved.
            mean: one value a channel, taken off the scaled images; None takes nothing off.
            std: one value a channel, by which the rest is divided; None divides by nothing.
            normalise: "measure" measures mean and std, where they are not given, on training images: for networks
                that are trained on this task. None takes images as they are, as a network that was trained elsewhere
                must see them just as it did there.
            transform: from an image as the split has it to a tensor, an array or a picture; a dict has one a split.
            workers: processes that read datasets, while the network trains; 0 reads them in threads when needed.
            loss: a scalar of `(outputs, targets)` in place of cross-entropy.
            metric: in place of the share of wrong answers: a metric with `update(outputs, targets)` and `compute()`,
                as those of torchmetrics; a class of one; or a function `(outputs, targets)` of the whole split.
            maximise: whether more of the metric is better, where it does not say so: the error is then one minus it.
            output: where a network returns several things, what the loss and the metric get: a name, a number, or a
                function of them all. None takes the only one that fits.
            classes: number of classes; None takes the largest training label plus one.
            label_smoothing: share of the target spread over all classes, 0..1.
            class_weights: one number a class, or "balanced": rare classes count as much in the loss as frequent ones.
        """
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; expected 0..1")
        _refuse_both(given, class_weights=class_weights, label_smoothing=label_smoothing or None)
        self.label_smoothing = label_smoothing
        own, images = _parts(given)
        classes = classes_of(images, classes, 1)
        super().__init__(images, Labels(classes, label_smoothing, weights_of(images, class_weights, classes)), own)


@final
class Segmentation(ImageTask):
    """Images with a mask each; the loss is cross-entropy a pixel, the error one minus mIoU or Dice of the whole split.

    Training masks are resized (nearest) with their images. Validation and test masks stay as they are stored and the
    outputs are resized to them: candidates of every resolution are judged on the same pixels.
    """

    def __init__(
        self,
        *,
        classes: int | None = None,
        overlap: str = "iou",
        ignore: int | None = None,
        class_weights: Weights = None,
        **given: Unpack[TaskSettings],
    ) -> None:
        """Keep the splits where they are: `(n, c, *sides)` images and `(n, *sides)` integer masks.

        What is not said here is as `Classification` says it. A dataset moves images and masks together, so there is no
        `transform`.

        Args:
            batch: images a batch; None takes a `DataLoader`'s own, or 16.
            augment: how training images and their masks are moved.
            loss: a scalar of `(outputs, targets)`, in which pixels that count for nothing have the label -100.
            metric: a metric of the same, in place of the overlap.
            classes: number of classes; None takes the largest training label plus one.
            overlap: "iou" (mIoU) or "dice".
            ignore: the label of pixels that count for nothing; None: every pixel counts.
            class_weights: one number a class, or "balanced".
        """
        self.overlap, self.ignore = overlap, ignore
        if given.get("transform") is not None:
            raise ValueError("transform would move images without their masks; let the dataset move both")
        _refuse_both(given, class_weights=class_weights)
        own, images = _parts(given, batch=16)
        for name, source in images.sources.items():
            side = tuple(source.known()[0].shape[1:])
            if side != images.side:
                raise ValueError(f"{name} masks are {side}, images {images.side}; make them equal")
        classes = classes_of(images, classes, 1 + len(images.side), ignore)
        weights = weights_of(images, class_weights, classes)
        super().__init__(images, Masks(classes, overlap, ignore, weights), own)
        self.error()  # refuses an unknown overlap now rather than after an epoch


@final
class MultiLabel(ImageTask):
    """Images with any number of labels each: `(n, labels)` targets of 0 and 1, or `(n,)` of a single yes or no.

    The loss is binary cross-entropy on the outputs before any sigmoid, the error one minus the mean average precision.
    """

    def __init__(self, *, class_weights: Weights = None, **given: Unpack[TaskSettings]) -> None:
        """Keep the splits where they are; what is not said here is as `Classification` says it.

        Args:
            class_weights: how much a 1 weighs against a 0, one number a label, or "balanced": as much in all.
        """
        _refuse_both(given, class_weights=class_weights)
        own, images = _parts(given)
        labels = width_of(images)
        super().__init__(images, Marks(labels, weights_of(images, class_weights, labels, by_label=True)), own)


@final
class Regression(ImageTask):
    """Images with values each: `(n,)` or `(n, values)` targets, or `(n, values, *sides)`, to which outputs are resized.

    The loss is the mean squared error, the error the share of the targets' variance that is left unexplained, 1 - R^2.
    """

    def __init__(self, **given: Unpack[TaskSettings]) -> None:
        """Keep the splits where they are; see `Classification`."""
        own, images = _parts(given)
        if images.augment is not None and images.sources["train"].known()[0].ndim > 2:
            raise ValueError("augment would move images without their targets; let the dataset move both")
        super().__init__(images, Values(width_of(images)), own)


def _parts(given: TaskSettings, batch: int | None = None) -> tuple[Own, Images]:
    """What the user gives in place of loss and error, and the images."""
    settings: dict[str, Any] = dict(given)
    own = Own(**{name: settings.pop(name) for name in ("loss", "metric", "maximise", "output") if name in settings})
    if batch is not None and settings.get("batch") is None and not isinstance(settings.get("train"), DataLoader):
        settings["batch"] = batch
    return own, Images(**settings)


def _refuse_both(given: TaskSettings, **usual: object) -> None:
    """Refuse what would change the usual loss, beside another one."""
    named = [name for name, value in usual.items() if value is not None]
    if named and given.get("loss") is not None:
        raise ValueError(f"{named[0]} is of the usual loss, and a loss was given; leave one of them out")


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
