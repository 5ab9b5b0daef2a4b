"""A task of images: splits of them in memory or decoded on demand, and what is learned of them.

`Images` are the splits, as they were given (uint8 in memory), `ImageTask` adds what is learned (`learned.py`) and what
the user gives in place of loss and error (`Own`). Scaling, augmentation, resizing and normalisation happen in
`ImageTask.prepare`, on the model's device. `ready_made.py` has the tasks by name.

inputs   (n, channels, *sides)  floating, as a network takes them
outputs  (n, classes, ...)      of a network, before any softmax
targets  (n,), (n, classes) or (n, *sides)  labels, values or masks
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .decoded import (
    BATCH,
    SPLITS,
    Split,
    Transform,
    by_split,
    check_normalise,
    checked_batch,
    per_channel,
    source_of,
    stream_batch,
)
from .learned import Learned
from .loading import Loaded
from .own import Own, name_of
from .sources import Augment, Batch, Batches, Stored, resized
from .task import Metric, Side

logger = logging.getLogger("secateur")

_SAMPLE = 4096  # images that mean and std are measured on


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
        self._in_memory = {name for name, source in images.sources.items() if isinstance(source, Stored)}
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
        if batch.split not in self._in_memory:  # of which every target was looked at when it was given
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
        outputs = model(inputs)
        if not isinstance(outputs, Tensor) or callable(self._own.output):
            outputs = self._own.picked(outputs, lambda one: tuple(one.shape) == self._shape(one, inputs))
        if callable(self._own.output):  # the user's loss and metric know what it is
            return outputs, targets
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        if found != (expected := self._shape(outputs, inputs)):
            raise ValueError(f"the network returned {found}; the labels need {expected}")
        return _fitted(outputs, tuple(targets.shape[self._learned.axes :])), targets

    def _place(self, model: nn.Module) -> tuple[torch.device, torch.dtype]:
        """Where a network takes its inputs, and as what."""
        own = (tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
        like = next(own, torch.empty(0))
        return like.device, like.dtype

    def _shape(self, outputs: Any, inputs: Tensor) -> tuple[int, ...]:
        """That outputs must have, of which pixels are their own matter."""
        sides = outputs.shape[2:] if self._learned.dense and isinstance(outputs, Tensor) else ()
        return len(inputs), self.classes, *sides

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The user's loss, or the usual one: a mean over the images, or over the pixels that count."""
        return self._learned.loss(outputs, targets) if self._own.loss is None else self._own.loss_of(outputs, targets)

    def error(self) -> Metric:
        """A fresh error to accumulate over a split."""
        return self._learned.error() if self._own.metric is None else self._own.error()

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


class Images:
    """Splits of images with the settings that prepare them.

    Attributes:
        read: what makes a tensor of one target, given its place; None takes numbers and masks.
    """

    read: Callable[[str, Any], Tensor] | None = None

    def __init__(
        self,
        *,
        train: Split,
        validation: Split,
        test: Split | None = None,
        batch: int | None = None,
        augment: Augment | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        normalise: Literal["measure"] | None = None,
        transform: Transform | Mapping[str, Transform] | None = None,
        workers: int = 0,
    ) -> None:
        """Check the splits; images are taken as they are where nothing else is asked."""
        self.given = {"train": train, "validation": validation} | ({} if test is None else {"test": test})
        self.transforms = by_split(transform, self.given)
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers is {workers!r}; expected a whole number of processes, 0 for none")
        asked = None if batch is None else checked_batch(batch)
        self.sources = {
            name: source_of(name, split, self.transforms.get(name), workers, asked or stream_batch(split), self.read)
            for name, split in self.given.items()
        }
        self.batch, self.augment, self._own_batches = asked or self.sources["train"].batch or BATCH, augment, True
        examples = {name: source.sample(1)[0] for name, source in self.sources.items()}
        self.channels, self.side = examples["train"].shape[1], tuple(examples["train"].shape[2:])
        self.dtype = str(examples["train"].dtype).removeprefix("torch.")
        self.scale = 1.0 if examples["train"].dtype.is_floating_point else 1 / 255
        for name, example in examples.items():
            shape = tuple(example.shape[1:])
            if shape != (self.channels, *self.side):
                raise ValueError(
                    f"{name} images are {shape}, train images {(self.channels, *self.side)}; make them equal"
                )
            if shape[2:] and shape[-1] in (1, 3) and shape[0] == shape[1] > 4:
                logger.warning(
                    "%s images have shape %s, which is %d channels of %d x %d; where channels come last, give "
                    "numpy.moveaxis(images, -1, 1)",
                    *(name, (len(self.sources[name]), *shape), *shape),
                )
        if augment is not None and not self.side:
            raise ValueError("augment moves images, and these are rows of numbers; leave it out")
        check_normalise(normalise, mean, std)
        self._asked: tuple[Sequence[float] | None, Sequence[float] | None] = mean, std
        self._normalise((0.0,) * self.channels, (1.0,) * self.channels)
        if normalise is not None:
            self._normalise(*self._measure())

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {name: len(source) for name, source in self.sources.items()}

    @property
    def targets(self) -> dict[str, Tensor]:
        """`(n, ...)` targets of every split that is in memory."""
        return {name: one.targets for name, one in self.sources.items() if one.targets is not None}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What turns a stored image into the network's input, in this order, as JSON."""
        transforms = {name: name_of(one) for name, one in self.transforms.items()}
        return {
            **({"transform": transforms} if transforms else {}),
            "channels": self.channels,
            "stored_side": list(self.side),
            "scale": self.scale,
            "resize": "antialiased bilinear" if len(self.side) == 2 else "area when shrinking, else linear",
            "mean": self.mean,
            "std": self.std,
        }

    def with_batch(self, batch: int) -> Images:
        """The same images with another number of them a batch."""
        other = copy.copy(self)
        other.batch, other._own_batches = checked_batch(batch), False
        return other

    def normalised(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> Images:
        """The same images with other values, as if these had been given."""
        other = copy.copy(self)
        other._asked = mean, std
        other._normalise((0.0,) * self.channels, (1.0,) * self.channels)
        return other

    def measured(self) -> Images:
        """The same images, normalised by what is measured on training images, but for what was given."""
        other = copy.copy(self)
        other._normalise(*self._measure())
        return other

    def digest(self) -> str:
        """A hash of the data and of all that prepares them."""
        digest = hashlib.sha256(repr((self.batch, self.augment, self.preprocessing)).encode())
        for name, source in self.sources.items():
            digest.update(name.encode() + source.digest())
        return digest.hexdigest()

    def loader(self, split: str, resolution: Side | None, seed: int | None) -> Batches:
        """The batches of a split; see `Batches` for order and augmentation."""
        if split not in self.sources:
            missing = f"there is no {split} split" if split in SPLITS else f"split is {split!r}"
            raise ValueError(f"{missing}; this task has {', '.join(self.sources)}")
        if resolution is not None and (len(resolution) != len(self.side) or min(resolution) < 1):
            raise ValueError(f"resolution {resolution} does not fit images of side {self.side}: give one size an axis")
        side = None if resolution == self.side else resolution
        source = self.sources[split]
        own = self._own_batches and isinstance(source, Loaded)
        return Batches(source, split, resolution=side, seed=seed, batch=None if own else self.batch)

    def stored(self, resolution: Side | None) -> Batches | None:
        """All training images, un-augmented and in their order; None where no two passes are the same."""
        source = self.sources["train"]
        if not source.still:
            return None
        return Batches(source, "train as stored", resolution=resolution, seed=None, batch=self.batch)

    def _normalise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take mean and std as given to the task, or else these."""
        given = self._asked
        self.mean = per_channel("mean", mean if given[0] is None else given[0], self.channels)
        self.std = per_channel("std", std if given[1] is None else given[1], self.channels)
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; every channel's must be above 0")

    def _measure(self) -> tuple[list[float], list[float]]:
        source = self.sources["train"]
        images = source.sample(_SAMPLE)[0].transpose(0, 1).flatten(1)
        # One channel at a time: float64 of all at once would be eight times the stored bytes. By numpy: the last digits
        # of PyTorch's sums depend on the number of threads, and these numbers are part of the fingerprint.
        values = [channel.double().numpy() * self.scale for channel in images]
        return [_rounded(value.mean()) for value in values], [max(_rounded(value.std()), 1e-6) for value in values]


def _fitted(outputs: Tensor, side: Side) -> Tensor:
    return outputs if tuple(outputs.shape[2:]) == side else resized(outputs.float(), side)


def _rounded(value: float) -> float:
    """The number to seven digits, which is all that single precision has."""
    return float(f"{value:.7g}")
