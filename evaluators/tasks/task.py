"""What is to be learned: data, loss and error. `Task` is all a study needs; two kinds come ready-made."""

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...spaces import device_of, dtype_of
from .augment import Augment
from .images import Batch, Batches, Images, Side, Split, resized
from .metrics import ErrorRate, Metric, OverlapError

if TYPE_CHECKING:
    pass

_IGNORED = -100  # the label that PyTorch's losses leave out


class Task(Protocol):
    """Data, loss and error of a network. Everything else in Secateur is told about data by these names alone.

    More methods are used where a task has them. `with_batch(batch)`: the same task with another number of examples a
    batch. `distill(outputs, teacher_outputs, temperature)`: the scalar by which a network's outputs differ from a
    teacher's; without it, networks learn from the data alone. `at(batch, resolution)`: a batch as a network of that
    resolution sees it; without it, a teacher sees what its student sees. `stored(resolution)`: all training examples
    in order, as batches, or None where training shows them otherwise; with it, and batches that know their `indices`,
    a teacher answers once rather than at every epoch. `split(batch, parts)`: the batch in so many parts, each
    with its number of examples, for networks that a whole one does not fit into memory with; without it, a batch is
    taken for a tree of tensors with its examples along their first axes.
    """

    @property
    def fingerprint(self) -> str:
        """Changes with the data and with every setting: a study refuses to be resumed with another."""
        ...

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """JSON: what turns raw data into the network's input. It is written beside every exported network."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of examples of each split."""
        ...

    def loader(self, split: str, resolution: Side | None, seed: int | None) -> Iterable[Any]:
        """The batches of "train", "validation" or "test", at a resolution (None: as stored).

        A seed shuffles and augments the training split; None gives it un-augmented, in an order whose beginning
        stands for the whole. The same arguments give the same batches. A length spares a pass that counts them.
        """
        ...

    def forward(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        """Outputs and targets of a batch, which is moved to the model's device. `targets` has the batch's length."""
        ...

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The scalar that training lowers."""
        ...

    def error(self) -> Metric:
        """A fresh error to accumulate over a split."""
        ...


class Classification:
    """Images with one label each; the loss is cross-entropy, the error the share of wrong answers.

    A split is a pair of tensors, `(n, c, *sides)` images and `(n,)` labels, or a dataset that decodes on demand
    (see `LazyImages`). uint8 images are scaled to 0..1, floating ones are taken as they are.
    """

    def __init__(
        self,
        *,
        train: Split,
        validation: Split,
        test: Split | None = None,
        batch: int = 128,
        augment: Augment | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        """Keep the splits where they are.

        Args:
            train: What networks learn from, and what recalibrates them.
            validation: What candidates are compared on.
            test: What an exported network is measured on, once.
            batch: Images a batch.
            augment: How training images are moved.
            mean: One value a channel, of the scaled images; None measures it on training images.
            std: As `mean`.
            classes: Number of classes; None takes the largest training label plus one.
            label_smoothing: Share of the target spread over all classes, 0..1.
        """
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; expected 0..1")
        self.train, self.validation, self.test = train, validation, test
        self.batch, self.augment, self.label_smoothing = batch, augment, label_smoothing
        self._images = Images(
            train=train, validation=validation, test=test, batch=batch, augment=augment, mean=mean, std=std
        )
        self.mean, self.std = self._images.mean, self._images.std
        self.classes = _classes_of(self._images, classes)
        for name, source in self._images.sources.items():
            labels = getattr(source, "targets", None)
            if labels is not None and labels.ndim != 1:
                raise ValueError(f"{name} labels have shape {tuple(labels.shape)}; expected (n,)")

    def __repr__(self) -> str:
        """The settings, and the sizes instead of the data."""
        return f"Classification({_described(self._images)}, classes={self.classes})"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of data and settings."""
        return _digest_of(self._images, "classification", self.classes, self.label_smoothing)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What turns a stored image into the network's input, as JSON."""
        return self._images.preprocessing | {"classes": self.classes}

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images of each split."""
        return self._images.sizes

    def with_batch(self, batch: int) -> "Classification":
        """The same task with another number of images a batch."""
        other = copy.copy(self)
        other.batch, other._images = batch, self._images.with_batch(batch)
        other.__dict__.pop("fingerprint", None)
        return other

    def loader(self, split: str, resolution: Side | None = None, seed: int | None = None) -> Batches:
        """The batches of a split; see `Task.loader`."""
        return self._images.loader(split, resolution, seed)

    def prepare(self, batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a batch on `device`, as a network takes them."""
        _check_labels(batch.split, batch.targets, self.classes)
        inputs, labels, _ = self._images.prepare(batch, device, dtype)
        return inputs, labels.long()

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """`(n, classes)` outputs and `(n,)` labels."""
        inputs, labels = self.prepare(batch, device_of(model), dtype_of(model))
        outputs = model(inputs)
        _check_outputs(outputs, (len(inputs), self.classes))
        return outputs, labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(outputs.float(), targets, label_smoothing=self.label_smoothing)

    def at(self, batch: Batch, resolution: Side | None) -> Batch:
        """The batch, augmented alike, at another resolution; None as stored."""
        return replace(batch, resolution=resolution)

    def split(self, batch: Batch, parts: int) -> list[tuple[Batch, int]]:
        """The batch in so many parts, augmented alike, each with its number of examples."""
        return batch.in_parts(parts)

    def stored(self, resolution: Side | None = None) -> Batches | None:
        """All training images in their order, as training shows them; None where it augments them."""
        return self._images.stored(resolution) if self.augment is None else None

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """How far the `(n, classes)` outputs are from a teacher's, both softened by the temperature."""
        return divergence(outputs, teacher_outputs, temperature)

    def error(self) -> ErrorRate:
        """The share of wrong answers."""
        return ErrorRate()


class Segmentation:
    """Images with a mask each; the loss is cross-entropy a pixel, the error one minus mIoU or Dice of the whole split.

    Training masks are resized (nearest) with their images. Validation and test masks stay as they are stored and the
    outputs are resized to them: candidates of every resolution are judged on the same pixels.
    """

    def __init__(
        self,
        *,
        train: Split,
        validation: Split,
        test: Split | None = None,
        batch: int = 16,
        augment: Augment | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: int | None = None,
        overlap: str = "iou",
        ignore: int | None = None,
    ) -> None:
        """Keep the splits where they are: `(n, c, *sides)` images and `(n, *sides)` integer masks.

        Args:
            train: What networks learn from, and what recalibrates them.
            validation: What candidates are compared on.
            test: What an exported network is measured on, once.
            batch: Images a batch.
            augment: How training images and their masks are moved.
            mean: One value a channel, of the scaled images; None measures it on training images.
            std: As `mean`.
            classes: Number of classes; None takes the largest training label plus one.
            overlap: "iou" (mIoU) or "dice".
            ignore: The label of pixels that count for nothing; None: every pixel counts.
        """
        self.train, self.validation, self.test = train, validation, test
        self.batch, self.augment, self.overlap, self.ignore = batch, augment, overlap, ignore
        self._images = Images(
            train=train, validation=validation, test=test, batch=batch, augment=augment, mean=mean, std=std
        )
        self.mean, self.std = self._images.mean, self._images.std
        self.classes = _classes_of(self._images, classes, ignore)
        self.error()  # refuses an unknown overlap now rather than after an epoch
        for name, source in self._images.sources.items():
            masks = getattr(source, "targets", None)
            if masks is not None and tuple(masks.shape[1:]) != self._images.side:
                raise ValueError(
                    f"{name} masks are {tuple(masks.shape[1:])}, images {self._images.side}; make them equal"
                )

    def __repr__(self) -> str:
        """The settings, and the sizes instead of the data."""
        return f"Segmentation({_described(self._images)}, classes={self.classes}, overlap={self.overlap!r})"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of data and settings."""
        return _digest_of(self._images, "segmentation", self.classes, self.overlap, self.ignore)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What turns a stored image into the network's input, as JSON."""
        return self._images.preprocessing | {"classes": self.classes}

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images of each split."""
        return self._images.sizes

    def with_batch(self, batch: int) -> "Segmentation":
        """The same task with another number of images a batch."""
        other = copy.copy(self)
        other.batch, other._images = batch, self._images.with_batch(batch)
        other.__dict__.pop("fingerprint", None)
        return other

    def loader(self, split: str, resolution: Side | None = None, seed: int | None = None) -> Batches:
        """The batches of a split; see `Task.loader`."""
        return self._images.loader(split, resolution, seed)

    def prepare(self, batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Inputs and masks of a batch on `device`; pixels that count for nothing are labelled -100."""
        _check_labels(batch.split, batch.targets, self.classes, self.ignore)
        inputs, masks, maps = self._images.prepare(batch, device, dtype)
        masks = masks.long()
        if self.ignore is not None:
            masks = masks.where(masks != self.ignore, _IGNORED)
        if maps is not None and self.augment is not None:
            masks = self.augment.masks(masks, maps, outside=_IGNORED)
        if batch.split == "train" and tuple(masks.shape[1:]) != tuple(inputs.shape[2:]):
            masks = _nearest(masks, tuple(inputs.shape[2:]))
        return inputs, masks

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """`(n, classes, *sides)` outputs, resized to the masks where a network gives fewer pixels, and the masks."""
        inputs, masks = self.prepare(batch, device_of(model), dtype_of(model))
        outputs = model(inputs)
        _check_outputs(outputs, (len(inputs), self.classes, *outputs.shape[2:]))
        return _linear(outputs, tuple(masks.shape[1:])), masks

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the pixels that count."""
        return F.cross_entropy(outputs.float(), targets, ignore_index=_IGNORED)

    def at(self, batch: Batch, resolution: Side | None) -> Batch:
        """The batch, augmented alike, at another resolution; None as stored."""
        return replace(batch, resolution=resolution)

    def split(self, batch: Batch, parts: int) -> list[tuple[Batch, int]]:
        """The batch in so many parts, augmented alike, each with its number of examples."""
        return batch.in_parts(parts)

    def distill(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """How far the `(n, classes, *sides)` outputs are, a pixel, from a teacher's, which are resized to them.

        Every pixel counts, those too whose label does not: a teacher has an answer there.
        """
        return divergence(outputs, _linear(teacher_outputs, tuple(outputs.shape[2:])), temperature)

    def error(self) -> OverlapError:
        """One minus the overlap."""
        return OverlapError(classes=self.classes, overlap=self.overlap, ignore=_IGNORED)


def _classes_of(images: Images, classes: int | None, ignore: int | None = None) -> int:
    """The number of classes, after every label in memory was held against it."""
    stored = {name: getattr(source, "targets", None) for name, source in images.sources.items()}
    for name, labels in stored.items():
        if labels is not None and (labels.is_floating_point() or labels.is_complex()):
            raise TypeError(f"{name} labels are {labels.dtype}; expected whole numbers")
    if classes is None:
        labels = stored["train"]
        if labels is None:
            raise ValueError("classes is None and the training labels are not in memory; give the number of classes")
        counted = labels if ignore is None else labels[labels != ignore]
        classes = int(counted.max()) + 1 if counted.numel() else 1
    if classes < 1:
        raise ValueError(f"classes is {classes}; expected at least 1")
    for name, labels in stored.items():
        if labels is not None:
            _check_labels(name, labels, classes, ignore)
    return classes


def _check_labels(split: str, labels: Tensor, classes: int, ignore: int | None = None) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if ignore is not None:
        wrong &= labels != ignore
    if bool(wrong.any()):
        example = int(labels[wrong][0])
        raise ValueError(
            f"{split} has the label {example}, outside 0..{classes - 1}; correct the labels or give `classes`"
        )


def _check_outputs(outputs: Any, expected: tuple[int, ...]) -> None:
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"the network returned a {type(outputs).__name__}; this task expects one tensor: write your own Task"
        )
    if tuple(outputs.shape) != expected:
        raise ValueError(f"the network returned {tuple(outputs.shape)}; the labels need {expected}")


def _nearest(masks: Tensor, side: Side) -> Tensor:
    """Masks at another side; float64 holds every label exactly."""
    return F.interpolate(masks.unsqueeze(1).double(), size=side, mode="nearest-exact").squeeze(1).to(masks.dtype)


def _linear(outputs: Tensor, side: Side) -> Tensor:
    return outputs if tuple(outputs.shape[2:]) == side else resized(outputs.float(), side)


def _described(images: Images) -> str:
    sizes = ", ".join(f"{name}={size}" for name, size in images.sizes.items())
    return f"{sizes}, images={(images.channels, *images.side)}, batch={images.batch}, augment={images.augment}"


def _digest_of(images: Images, *settings: object) -> str:
    return hashlib.sha256(f"{images.digest()} {settings}".encode()).hexdigest()[:16]


def divergence(outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over examples and pixels.

    Hinton 2015 (arXiv 1503.02531), section 2: T^2 keeps the gradient's size whatever T is.
    """
    student = F.log_softmax(outputs.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_outputs.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="none").sum(1).mean()
