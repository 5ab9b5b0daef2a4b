"""Splits of images, in memory or decoded on demand, and their batches.

Images stay as they were given (uint8 in memory); `sources.py` reads them. Reading order: `Images`, then `Batch`.
`image_task.py` prepares the batches for a network. `Augment` moves a batch on its device: shifts, turns, zooms and
mirror images, one affine map an example.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NotRequired, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset

from ..modes import derived_seed
from .loading import Loaded
from .own import name_of
from .sources import Source, Split, source_of
from .splitting import bounds
from .task import Side

logger = logging.getLogger("secateur")

Transform = Callable[[Any], Any]

SPLITS = ("train", "validation", "test")
_BATCH = 128
_SAMPLE = 4096  # images that mean and std are measured on


class ImageSettings(TypedDict):
    """What every task of images takes; see `Classification`."""

    train: Split
    validation: Split
    test: NotRequired[Split | None]
    batch: NotRequired[int | None]
    augment: NotRequired[Augment | None]
    mean: NotRequired[Sequence[float] | None]
    std: NotRequired[Sequence[float] | None]
    normalise: NotRequired[Literal["measure"] | None]
    transform: NotRequired[Transform | Mapping[str, Transform] | None]
    workers: NotRequired[int]


@dataclass(frozen=True)
class Batch:
    """Some examples as they are stored, and what is to be done with them on the device.

    Attributes:
        inputs: `(n, c, *sides)` stored images.
        targets: `(n, ...)` stored targets.
        split: where they come from.
        resolution: the side to resize to; None leaves the stored one.
        seed: of the augmentation; None augments nothing.
        indices: `(n,)` places in the split; None where they are not known.
        start: where it begins in the batch that it is a part of.
        whole: examples of that batch; None where it is a batch itself.
    """

    inputs: Tensor
    targets: Tensor
    split: str
    resolution: Side | None
    seed: int | None
    indices: Tensor | None = None
    start: int = 0
    whole: int | None = None

    def in_parts(self, parts: int) -> list[tuple[Batch, int]]:
        """The batch in so many parts, each with its number of examples, which are augmented as in the whole."""
        return [
            (
                replace(
                    self,
                    inputs=self.inputs[start:stop],
                    targets=self.targets[start:stop],
                    indices=None if self.indices is None else self.indices[start:stop],
                    start=self.start + start,
                    whole=self.whole or len(self.inputs),
                ),
                stop - start,
            )
            for start, stop in bounds(len(self.inputs), parts)
        ]


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
        self.transforms = _by_split(transform, self.given)
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers is {workers!r}; expected a whole number of processes, 0 for none")
        asked = None if batch is None else _checked_batch(batch)
        self.sources = {
            name: source_of(name, split, self.transforms.get(name), workers, asked or _stream_batch(split), self.read)
            for name, split in self.given.items()
        }
        self.batch, self.augment, self._own_batches = asked or self.sources["train"].batch or _BATCH, augment, True
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
        other.batch, other._own_batches = _checked_batch(batch), False
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
        self.mean = _per_channel("mean", mean if given[0] is None else given[0], self.channels)
        self.std = _per_channel("std", std if given[1] is None else given[1], self.channels)
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; every channel's must be above 0")

    def _measure(self) -> tuple[list[float], list[float]]:
        source = self.sources["train"]
        images = source.sample(_SAMPLE)[0].transpose(0, 1).flatten(1)
        # One channel at a time: float64 of all at once would be eight times the stored bytes. By numpy: the last digits
        # of PyTorch's sums depend on the number of threads, and these numbers are part of the fingerprint.
        values = [channel.double().numpy() * self.scale for channel in images]
        return [_rounded(value.mean()) for value in values], [max(_rounded(value.std()), 1e-6) for value in values]


def _rounded(value: float) -> float:
    """The number to seven digits, which is all that single precision has."""
    return float(f"{value:.7g}")


class Batches:
    """The batches of one split, with a length, and the same ones at every iteration.

    With a seed the training split is shuffled and augmented. Without, it comes as it is stored, in one fixed mixed
    order (stored images are often sorted by class, and the first few of them must be able to stand for all).
    Its last batch is left out when it is smaller than the others. The other splits come whole and in their order.
    """

    def __init__(
        self, source: Source, split: str, *, resolution: Side | None, seed: int | None, batch: int | None
    ) -> None:
        """Nothing is read before the first iteration; the batch None leaves its size to the source."""
        self._source, self._split, self._resolution, self._seed, self._batch = source, split, resolution, seed, batch

    def __len__(self) -> int:
        """Number of batches."""
        return self._source.count(self._batch, self._split == "train")

    def __iter__(self) -> Iterator[Batch]:
        """The batches."""
        train = self._split == "train"
        rows = self._source.batches(self._batch, train, self._seed)
        for number, (inputs, targets, chosen) in enumerate(rows):
            seed = derived_seed(self._seed, number) if train and self._seed is not None else None
            yield Batch(inputs, targets, self._split, self._resolution, seed, chosen)


def _by_split(transform: Any, given: Mapping[str, Any]) -> dict[str, Transform]:
    """The transform of every split that has one."""
    if transform is None:
        return {}
    found = dict(transform) if isinstance(transform, Mapping) else dict.fromkeys(given, transform)
    strange = sorted(set(found) - set(SPLITS))
    wrong = next((name for name, one in found.items() if not callable(one)), None)
    if strange or wrong is not None:
        what = f"has the key {strange[0]!r}" if strange else f"of {wrong} is a {type(found[wrong or '']).__name__}"
        raise ValueError(f"transform {what}; expected a function of an image, or a dict of them by split")
    return found


def _stream_batch(split: Any) -> int | None:
    """The usual batch, for what must be told one."""
    return _BATCH if isinstance(split, IterableDataset) else None


def _checked_batch(batch: int) -> int:
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch is {batch!r}; expected a whole number of images, at least 1")
    return batch


def check_normalise(normalise: object, mean: object, std: object) -> None:
    """Refuse a way to normalise that is none, or that leaves nothing to be measured."""
    if normalise not in (None, "measure"):
        raise ValueError(
            f"normalise is {normalise!r}; expected None, which takes images as they are but for mean and std, "
            "or 'measure'"
        )
    if normalise is not None and mean is not None and std is not None:
        raise ValueError("normalise='measure' with both mean and std, which leaves nothing to measure; leave it out")


def _per_channel(name: str, values: Sequence[float], channels: int) -> list[float]:
    if len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values; the images have {channels} channels")
    return [float(value) for value in values]


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How far each training example may be moved; all zeros moves nothing.

    Attributes:
        shift: largest shift along each axis, as a fraction of that side.
        rotate: largest turn, in degrees, in the plane of the last two axes.
        scale: largest relative zoom in or out.
        flip: whether half of the examples are mirrored along the last axis.
        padding: what comes in from outside: "zeros", "border" or "reflection".
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False
    padding: str = "zeros"

    def __post_init__(self) -> None:
        """Refuse what no image survives."""
        for name, limit in (("shift", 1.0), ("rotate", 180.0), ("scale", 0.9)):
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ValueError(f"augment {name}={value} is outside 0..{limit:g}")
        if self.padding not in ("zeros", "border", "reflection"):
            raise ValueError(f"augment padding={self.padding!r}; expected 'zeros', 'border' or 'reflection'")

    def maps(self, n: int, sides: int, generator: torch.Generator) -> Tensor:
        """`(n, sides, sides + 1)` affine maps, drawn on the generator's device (the CPU: alike on every device)."""
        draws = 2 * torch.rand(n, sides + 3, generator=generator) - 1
        zoom, turn, mirror = 1 + self.scale * draws[:, 0], draws[:, 1] * self.rotate * torch.pi / 180, draws[:, 2]
        maps = torch.eye(sides, sides + 1).repeat(n, 1, 1)
        if sides > 1:  # the last two axes of the image are the first two of an affine map
            maps[:, 0, 0] = maps[:, 1, 1] = turn.cos()
            maps[:, 1, 0] = turn.sin()
            maps[:, 0, 1] = -maps[:, 1, 0]
        maps[:, :, :sides] *= zoom[:, None, None]
        maps[:, :, sides] = 2 * self.shift * draws[:, 3:]  # the coordinates of a side run from -1 to 1
        if self.flip:
            maps[:, :, 0] *= mirror.sign().where(mirror != 0, 1.0)[:, None]
        return maps

    def images(self, images: Tensor, maps: Tensor) -> Tensor:
        """`(n, c, *sides)` floating images moved by the maps, bilinear."""
        return _moved(images, maps, mode="bilinear", padding=self.padding)

    def masks(self, masks: Tensor, maps: Tensor, *, outside: int) -> Tensor:
        """`(n, *sides)` integer masks moved by the maps, nearest; what comes in from outside is labelled `outside`."""
        from_one = (masks + 1).unsqueeze(1).to(torch.float32)  # so that the padding's zero is no label
        moved = _moved(from_one, maps, mode="nearest", padding=self.padding).squeeze(1).round().to(masks.dtype)
        return torch.where(moved == 0, outside, moved - 1)


def _moved(images: Tensor, maps: Tensor, *, mode: str, padding: str) -> Tensor:
    maps = maps.to(images.device, images.dtype)
    if images.ndim == 3:  # grid_sample knows 2D and 3D: a signal is an image one pixel high
        wide = torch.eye(2, 3, dtype=maps.dtype, device=maps.device).repeat(len(maps), 1, 1)
        wide[:, 0, 0], wide[:, 0, 2] = maps[:, 0, 0], maps[:, 0, 1]
        return _moved(images.unsqueeze(2), wide, mode=mode, padding=padding).squeeze(2)
    # PyTorch 2.13's affine_grid multiplies in half precision under autocast, which would blur the images.
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=False)
