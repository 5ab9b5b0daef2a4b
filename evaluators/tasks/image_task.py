"""The ready-made tasks: images with a label each, several labels, values, or a mask each.

Each is an `ImageTask`: splits of images (`Images`), what is learned of them (`learned.py`), and what the user gives in
place of loss and error (`Own`). Scaling, augmentation, resizing and normalisation happen in `ImageTask.prepare`, on the
model's device.

inputs   (n, channels, *sides)  floating, as a network takes them
outputs  (n, classes, ...)      of a network, before any softmax
targets  (n,), (n, classes) or (n, *sides)  labels, values or masks
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any, NotRequired, Unpack, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .images import Batch, Batches, Images, ImageSettings
from .learned import Labels, Learned, Marks, Masks, Values, Weights, classes_of, weights_of, width_of
from .own import Own, error_of
from .task import Metric, Side


class TaskSettings(ImageSettings):
    """What every task of images takes, with a loss and a metric; see `Classification`."""

    loss: NotRequired[Callable[[Any, Any], Tensor] | None]
    metric: NotRequired[Any]
    maximise: NotRequired[bool | None]
    output: NotRequired[str | int | Callable[[Any], Any] | None]


class ImageTask:
    """Images and what is learned of them. `Classification` and its neighbours are its constructors.

    Attributes:
        train: the training split as it was given; `validation` and `test` likewise.
        batch: images a batch.
        augment: how training images are moved.
        mean: one value a channel, of the scaled images; `std` likewise.
        classes: number of classes, of labels, or of values.
        sizes: number of images of each split.
    """

    def __init__(self, images: Images, learned: Learned, own: Own) -> None:
        """Put them together, and look at what is known of the targets.

        Raises:
            ValueError: targets, or the user's loss or metric, that can't be.
        """
        self._images, self._learned, self._own = images, learned, own
        self.train, self.validation, self.test = (images.given.get(name) for name in ("train", "validation", "test"))
        self.batch, self.augment, self.mean, self.std = images.batch, images.augment, images.mean, images.std
        self.classes, self.sizes = learned.classes, images.sizes
        for name, source in images.sources.items():
            targets, places = source.known()
            learned.check(name, targets, places)
        if own.loss is not None and not callable(own.output):  # refuses what can't be computed now
            self._try_loss()

    def _try_loss(self) -> None:
        targets = self._learned.prepared(self._images.sources["train"].known()[0][:2], None, None)
        shape = (len(targets), self.classes, *targets.shape[self._learned.axes :])
        self._own.loss_of(torch.rand(shape, generator=torch.Generator().manual_seed(0)), targets)

    def __repr__(self) -> str:
        """The settings, and the sizes instead of the data."""
        sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        shape = (self._images.channels, *self._images.side)
        settings = (
            f"images={shape}, mean={self.mean}, std={self.std}, batch={self.batch}, augment={self.augment}, "
            f"{self._learned}{self._own.said}"
        )
        return f"{type(self).__name__}({sizes}, {settings})"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of data and settings."""
        said = f"{self._images.digest()} {self._learned.settings}{self._own.said}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What turns a stored image into the network's input, as JSON."""
        return self._images.preprocessing | {"stored_dtype": self._images.dtype, "classes": self.classes}

    @property
    def kind(self) -> str:
        """What the field calls it, such as "image-classification"; "tabular-" where images are rows of numbers."""
        return f"{'image' if self._images.side else 'tabular'}-{self._learned.kind}"

    def with_batch(self, batch: int) -> ImageTask:
        """The same task with another number of images a batch."""
        return self._with(self._images.with_batch(batch))

    def measured(self) -> ImageTask:
        """The same task as `normalise="measure"` makes it."""
        return self._with(self._images.measured())

    def normalised(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> ImageTask:
        """The same task as with another `mean` and `std`."""
        return self._with(self._images.normalised(mean, std))

    @property
    def guess(self) -> float | None:
        """The error above which a network does little better than to guess; None where guessing is right."""
        return self._learned.guess if self._own.metric is None else None

    def _with(self, images: Images) -> ImageTask:
        other = copy.copy(self)
        other._images, other.batch, other.mean, other.std = images, images.batch, images.mean, images.std
        other.__dict__.pop("fingerprint", None)
        return other

    def loader(self, split: str, resolution: Side | None = None, seed: int | None = None) -> Batches:
        """The batches of a split; see `Task.loader`."""
        return self._images.loader(split, resolution, seed)

    def prepare(self, batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Any]:
        """Inputs of a batch on `device`, as a network takes them, and targets, as `loss` takes them."""
        learned, augment, maps = self._learned, self.augment, None
        places = range(len(batch.targets)) if batch.indices is None else batch.indices.tolist()
        learned.check(batch.split, batch.targets, places)
        images = batch.inputs.to(device, non_blocking=True).to(torch.float32)
        if self._images.scale != 1:
            images = images * self._images.scale
        targets = batch.targets.to(device, non_blocking=True)
        if augment is not None and batch.seed is not None:
            generator = torch.Generator().manual_seed(batch.seed)
            whole = augment.maps(batch.whole or len(images), images.ndim - 2, generator)
            maps = whole[batch.start : batch.start + len(images)]
            images = augment.images(images, maps)
        if batch.resolution is not None:
            images = resized(images, batch.resolution)
        if any(self.mean) or any(std != 1 for std in self.std):  # each of these passes costs as much as a small layer
            shape = (1, -1) + (1,) * (images.ndim - 2)
            mean = torch.tensor(self.mean, device=device).view(shape)
            images = (images - mean) / torch.tensor(self.std, device=device).view(shape)
        moved = None if augment is None or maps is None else (augment, maps)
        side = tuple(images.shape[2:]) if batch.split == "train" else None
        return images.to(dtype), learned.prepared(targets, moved, side)

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Any, Any]:
        """Outputs and targets of a batch; outputs for masks are resized to these."""
        inputs, targets = self.prepare(batch, *self._place(model))
        outputs = self._own.picked(model(inputs), lambda one: self._fits(one, inputs))
        if callable(self._own.output):  # the user's loss and metric know what it is
            return outputs, targets
        if not isinstance(outputs, Tensor) or not self._fits(outputs, inputs):
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            sides = self._learned.pixels(outputs) if isinstance(outputs, Tensor) else ()
            expected = (len(inputs), self.classes, *sides)
            raise ValueError(f"the network returned {found}; the labels need {expected}")
        return _fitted(outputs, tuple(targets.shape[self._learned.axes :])), targets

    def _place(self, model: nn.Module) -> tuple[torch.device, torch.dtype]:
        """Where a network takes its inputs, and as what."""
        own = (tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
        like = next(own, torch.empty(0))
        return like.device, like.dtype

    def _fits(self, outputs: Tensor, inputs: Tensor) -> bool:
        return tuple(outputs.shape) == (len(inputs), self.classes, *self._learned.pixels(outputs))

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The user's loss, or the usual one: a mean over the images, or over the pixels that count."""
        return self._learned.loss(outputs, targets) if self._own.loss is None else self._own.loss_of(outputs, targets)

    def error(self) -> Metric:
        """A fresh error to accumulate over a split."""
        return error_of(self._own, self._learned.error)

    @property
    def distill(self) -> Callable[[Tensor, Tensor, float], Tensor] | None:
        """How far outputs are from a teacher's, resized to them; None where the user picks what outputs are.

        Every pixel counts, those too whose label does not: a teacher has an answer there.
        """
        return None if callable(self._own.output) else self._distill

    def _distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        return self._learned.distill(outputs, _fitted(teacher_outputs, tuple(outputs.shape[2:])), temperature)

    def at(self, batch: Batch, resolution: Side | None) -> Batch:
        """The batch, augmented alike, at another resolution; None as stored."""
        return replace(batch, resolution=resolution)

    def split(self, batch: Batch, parts: int) -> list[tuple[Batch, int]]:
        """The batch in so many parts, augmented alike, each with its number of examples."""
        return batch.in_parts(parts)

    def stored(self, resolution: Side | None = None) -> Batches | None:
        """All training images in order, as training shows them; None where it moves them, and for masks: too much."""
        dense = self._images.sources["train"].known()[0].ndim > self._learned.axes
        return None if self.augment is not None or dense else self._images.stored(resolution)


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


def _fitted(outputs: Tensor, side: Side) -> Tensor:
    return outputs if tuple(outputs.shape[2:]) == side else resized(outputs.float(), side)


def resized(images: Tensor, side: Side) -> Tensor:
    """`(n, c, *sides)` floating images at another side, without aliasing; nothing is done where the side is right."""
    if tuple(images.shape[2:]) == side:
        return images
    if len(side) == 2:
        return F.interpolate(images, size=side, mode="bilinear", antialias=True, align_corners=False)
    if all(new <= old for new, old in zip(side, images.shape[2:], strict=True)):
        return F.interpolate(images, size=side, mode="area")  # PyTorch 2.13 antialiases images only
    return F.interpolate(images, size=side, mode={1: "linear", 3: "trilinear"}[len(side)], align_corners=False)
