"""The two ready-made tasks: images with a label each, and images with a mask each.

Both are an `ImageTask`: splits of images (`Images`), and what is learned of them (`Labels` or `Masks`). Scaling,
augmentation, resizing and normalisation happen in `ImageTask.prepare`, on the model's device.

inputs   (n, channels, *sides)  floating, as a network takes them
outputs  (n, classes, ...)      of a network, before any softmax
targets  (n,) or (n, *sides)    labels or masks
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Unpack, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .images import Augment, Batch, Batches, Images, ImageSettings
from .task import ErrorRate, OverlapError, Side

_IGNORED = -100  # the label that PyTorch's losses leave out
_OFTEN_IGNORED = 255  # what files of masks write for it


class ImageTask:
    """Images and what is learned of them. `Classification` and `Segmentation` are its constructors.

    Attributes:
        train: the training split as it was given; `validation` and `test` likewise.
        batch: images a batch.
        augment: how training images are moved.
        mean: one value a channel, of the scaled images; `std` likewise.
        classes: number of classes.
        sizes: number of images of each split.
    """

    def __init__(self, images: Images, learned: Labels | Masks) -> None:
        """Put both together."""
        self._images, self._learned = images, learned
        self.train, self.validation, self.test = (images.given.get(name) for name in ("train", "validation", "test"))
        self.batch, self.augment, self.mean, self.std = images.batch, images.augment, images.mean, images.std
        self.classes, self.sizes = learned.classes, images.sizes

    def __repr__(self) -> str:
        """The settings, and the sizes instead of the data."""
        sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        shape = (self._images.channels, *self._images.side)
        settings = (
            f"images={shape}, mean={self.mean}, std={self.std}, batch={self.batch}, augment={self.augment}, "
            f"{self._learned}"
        )
        return f"{type(self).__name__}({sizes}, {settings})"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of data and settings."""
        return hashlib.sha256(f"{self._images.digest()} {self._learned.settings}".encode()).hexdigest()[:16]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What turns a stored image into the network's input, as JSON."""
        return self._images.preprocessing | {"stored_dtype": self._images.dtype, "classes": self.classes}

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
        return self._learned.guess if self.classes > 1 else None

    def _with(self, images: Images) -> ImageTask:
        other = copy.copy(self)
        other._images, other.batch, other.mean, other.std = images, images.batch, images.mean, images.std
        other.__dict__.pop("fingerprint", None)
        return other

    def loader(self, split: str, resolution: Side | None = None, seed: int | None = None) -> Batches:
        """The batches of a split; see `Task.loader`."""
        return self._images.loader(split, resolution, seed)

    def prepare(self, batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Inputs of a batch on `device`, as a network takes them, and targets, as `loss` takes them."""
        learned, augment, maps = self._learned, self.augment, None
        places = range(len(batch.targets)) if batch.indices is None else batch.indices.tolist()
        _check_labels(batch.split, batch.targets, places, learned.classes, learned.ignore)
        images = batch.inputs.to(device, non_blocking=True).to(torch.float32) * self._images.scale
        targets = batch.targets.to(device, non_blocking=True)
        if augment is not None and batch.seed is not None:
            generator = torch.Generator().manual_seed(batch.seed)
            whole = augment.maps(batch.whole or len(images), images.ndim - 2, generator)
            maps = whole[batch.start : batch.start + len(images)]
            images = augment.images(images, maps)
        if batch.resolution is not None:
            images = _resized(images, batch.resolution)
        shape = (1, -1) + (1,) * (images.ndim - 2)
        mean = torch.tensor(self.mean, device=device).view(shape)
        std = torch.tensor(self.std, device=device).view(shape)
        moved = None if augment is None or maps is None else (augment, maps)
        side = tuple(images.shape[2:]) if batch.split == "train" else None
        return ((images - mean) / std).to(dtype), learned.prepared(targets, moved, side)

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs and targets of a batch; outputs for masks are resized to these."""
        own = (tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
        like = next(own, torch.empty(0))
        inputs, targets = self.prepare(batch, like.device, like.dtype)
        outputs = model(inputs)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"the network returned a {type(outputs).__name__}; this task expects one tensor: write your own Task"
            )
        expected = (len(inputs), self.classes, *self._learned.pixels(outputs))
        if tuple(outputs.shape) != expected:
            raise ValueError(f"the network returned {tuple(outputs.shape)}; the labels need {expected}")
        return _fitted(outputs, tuple(targets.shape[1:])), targets

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the images, or over the pixels that count."""
        return self._learned.loss(outputs, targets)

    def error(self) -> ErrorRate | OverlapError:
        """A fresh error to accumulate over a split."""
        return self._learned.error()

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """How far the outputs are from a teacher's, resized to them, both softened by the temperature.

        Every pixel counts, those too whose label does not: a teacher has an answer there.
        """
        return divergence(outputs, _fitted(teacher_outputs, tuple(outputs.shape[2:])), temperature)

    def at(self, batch: Batch, resolution: Side | None) -> Batch:
        """The batch, augmented alike, at another resolution; None as stored."""
        return replace(batch, resolution=resolution)

    def split(self, batch: Batch, parts: int) -> list[tuple[Batch, int]]:
        """The batch in so many parts, augmented alike, each with its number of examples."""
        return batch.in_parts(parts)

    def stored(self, resolution: Side | None = None) -> Batches | None:
        """All training images in order, as training shows them; None where it moves them, and for masks: too much."""
        return None if self.augment is not None or isinstance(self._learned, Masks) else self._images.stored(resolution)


@final
class Classification(ImageTask):
    """Images with one label each; the loss is cross-entropy, the error the share of wrong answers.

    A split is a pair of tensors, `(n, c, *sides)` images and `(n,)` labels, or a dataset that decodes on demand
    (see `LazyImages`). uint8 images are scaled to 0..1, floating ones are taken as they are.
    """

    def __init__(
        self,
        *,
        classes: int | None = None,
        label_smoothing: float = 0.0,
        **given: Unpack[ImageSettings],
    ) -> None:
        """Keep the splits where they are.

        Args:
            train: what networks learn from, and what recalibrates them.
            validation: what candidates are compared on.
            test: what an exported network is measured on, once.
            batch: images a batch; 128 when it is left out.
            augment: how training images are moved.
            mean: one value a channel, taken off the scaled images; None takes nothing off.
            std: one value a channel, by which the rest is divided; None divides by nothing.
            normalise: "measure" measures mean and std, where they are not given, on training images: for networks
                that are trained on this task. None takes images as they are, as a network that was trained elsewhere
                must see them just as it did there.
            classes: number of classes; None takes the largest training label plus one.
            label_smoothing: share of the target spread over all classes, 0..1.
        """
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; expected 0..1")
        self.label_smoothing = label_smoothing
        images = Images(**given)
        super().__init__(images, Labels(_classes_of(images, classes, 1), label_smoothing))


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
        **given: Unpack[ImageSettings],
    ) -> None:
        """Keep the splits where they are: `(n, c, *sides)` images and `(n, *sides)` integer masks.

        Args:
            train: what networks learn from, and what recalibrates them.
            validation: what candidates are compared on.
            test: what an exported network is measured on, once.
            batch: images a batch; 16 when it is left out.
            augment: how training images and their masks are moved.
            mean: one value a channel, taken off the scaled images; None takes nothing off.
            std: one value a channel, by which the rest is divided; None divides by nothing.
            normalise: "measure" measures mean and std, where they are not given, on training images: for networks
                that are trained on this task. None takes images as they are, as a network that was trained elsewhere
                must see them just as it did there.
            classes: number of classes; None takes the largest training label plus one.
            overlap: "iou" (mIoU) or "dice".
            ignore: the label of pixels that count for nothing; None: every pixel counts.
        """
        self.overlap, self.ignore = overlap, ignore
        given.setdefault("batch", 16)
        images = Images(**given)
        for name, source in images.sources.items():
            side = tuple(source.known()[0].shape[1:])
            if side != images.side:
                raise ValueError(f"{name} masks are {side}, images {images.side}; make them equal")
        super().__init__(images, Masks(_classes_of(images, classes, 1 + len(images.side), ignore), overlap, ignore))
        self.error()  # refuses an unknown overlap now rather than after an epoch


@dataclass(frozen=True)
class Labels:
    """One label an image."""

    classes: int
    smoothing: float = 0.0
    ignore: int | None = None

    def __str__(self) -> str:
        return f"classes={self.classes}"

    @property
    def settings(self) -> tuple[object, ...]:
        """All that a fingerprint depends on."""
        return "classification", self.classes, self.smoothing

    @property
    def guess(self) -> float:
        """Nine tenths of what a guess is wrong in, all classes being as frequent."""
        return 0.9 * (1 - 1 / self.classes)

    def prepared(self, labels: Tensor, moved: tuple[Augment, Tensor] | None, side: Side | None) -> Tensor:
        """The labels, wherever their images were moved."""
        return labels.long()

    def pixels(self, outputs: Tensor) -> Side:
        """No axes beside examples and classes."""
        return ()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(outputs.float(), labels, label_smoothing=self.smoothing)

    def error(self) -> ErrorRate:
        """The share of wrong answers."""
        return ErrorRate()


@dataclass(frozen=True)
class Masks:
    """One label a pixel."""

    classes: int
    overlap: str = "iou"
    ignore: int | None = None

    def __str__(self) -> str:
        return f"classes={self.classes}, overlap={self.overlap!r}"

    @property
    def settings(self) -> tuple[object, ...]:
        """All that a fingerprint depends on."""
        return "segmentation", self.classes, self.overlap, self.ignore

    @property
    def guess(self) -> float:
        """What a mask of a single class can't fall below."""
        return 1 - 1 / self.classes

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
        return F.cross_entropy(outputs.float(), masks, ignore_index=_IGNORED)

    def error(self) -> OverlapError:
        """One minus the overlap."""
        return OverlapError(classes=self.classes, overlap=self.overlap, ignore=_IGNORED)


def divergence(outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over examples and pixels.

    Hinton 2015 (arXiv 1503.02531), section 2: T^2 keeps the gradient's size whatever T is.
    """
    student = F.log_softmax(outputs.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_outputs.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="none").sum(1).mean()


def _classes_of(images: Images, classes: int | None, axes: int, ignore: int | None = None) -> int:
    """The number of classes, after every label that is known was looked at: `(n,)` or `(n, *sides)`, so many axes."""
    known = {name: source.known() for name, source in images.sources.items()}
    for name, (labels, _) in known.items():
        if axes == 1 and labels.ndim == 2 and labels.shape[1] > 1 and bool(((labels != 0).sum(1) == 1).all()):
            raise ValueError(
                f"{name} labels have shape {tuple(labels.shape)} and look one-hot; expected (n,), the number of the "
                "class: give labels.argmax(1)"
            )
        if labels.ndim != axes:
            raise ValueError(f"{name} labels have shape {tuple(labels.shape)}; expected (n,), one a picture")
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(f"{name} labels are {labels.dtype}; expected whole numbers")
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
    for name, (labels, places) in known.items():
        _check_labels(name, labels, places, classes, ignore)
    return classes


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


def _fitted(outputs: Tensor, side: Side) -> Tensor:
    return outputs if tuple(outputs.shape[2:]) == side else _resized(outputs.float(), side)


def _resized(images: Tensor, side: Side) -> Tensor:
    """`(n, c, *sides)` floating images at another side, without aliasing; nothing is done where the side is right."""
    if tuple(images.shape[2:]) == side:
        return images
    if len(side) == 2:
        return F.interpolate(images, size=side, mode="bilinear", antialias=True, align_corners=False)
    if all(new <= old for new, old in zip(side, images.shape[2:], strict=True)):
        return F.interpolate(images, size=side, mode="area")  # PyTorch 2.13 antialiases images only
    return F.interpolate(images, size=side, mode={1: "linear", 3: "trilinear"}[len(side)], align_corners=False)
