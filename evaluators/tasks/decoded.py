"""Splits of images as they are given, and what is asked of them: tensors in memory, a dataset, or a loader.

What is wrong with an example is said once, as early as it can be known, with its split and index: tensors are looked
through when they are given, of a dataset a few examples then and the others whenever they are read.
"""

from __future__ import annotations

import hashlib
import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Literal, NotRequired, Protocol, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from .examples import check_pixels, finite, image_of, pair_of, read, target_of
from .loading import Loaded, Passes, Rows, sown
from .sources import Augment, Indexed, Source, Stored

logger = logging.getLogger("secateur")

_FEW = 16  # examples of a dataset that stand for all where reading it whole would take long
_READINGS = 4  # of these, to see whether they are the same each time
_ROWS = 256  # of images that are looked through at once


class LazyImages(Protocol):
    """A dataset that decodes on demand: one image and its target an index, all of the same shape.

    An item is a pair, or a dict or dataclass with an image and a target under usual names, such as `image` and `label`.
    An image is a `(c, *sides)` tensor or array, or a picture of pillow's. With a `fingerprint` attribute (str) the
    dataset says itself what it holds; otherwise a few examples are hashed.
    """

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def __getitem__(self, index: int) -> Any:
        """One image and its target."""
        ...


Split = tuple[Any, Any] | LazyImages | DataLoader[Any] | IterableDataset[Any]


Transform = Callable[[Any], Any]

SPLITS = ("train", "validation", "test")
BATCH = 128


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


def by_split(transform: Any, given: Mapping[str, Any]) -> dict[str, Transform]:
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


def stream_batch(split: Any) -> int | None:
    """The usual batch, for what must be told one."""
    return BATCH if isinstance(split, IterableDataset) else None


def checked_batch(batch: int) -> int:
    """A number of images a batch."""
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


def per_channel(name: str, values: Sequence[float], channels: int) -> list[float]:
    """One value a channel."""
    if len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values; the images have {channels} channels")
    return [float(value) for value in values]


class _FewKnown(Sized):
    """A source of which a few examples are read at the start, and stand for all."""

    name: str
    dataset: Any

    @abstractmethod
    def few(self, seed: int) -> tuple[Tensor, Tensor, list[int]]:
        """A few examples and their places; what they draw comes from the seed."""

    @cached_property
    def _known(self) -> tuple[Tensor, list[int]]:
        return self.few(0)[1:]

    def known(self) -> tuple[Tensor, list[int]]:
        """The targets of a few."""
        return self._known

    @cached_property
    def _readings(self) -> tuple[tuple[Tensor, Tensor], set[bytes], set[bytes]]:
        """One reading of a few examples, and the hashes of several: of the examples, and of their targets."""
        found = [self.few(seed)[:2] for seed in range(_READINGS)]
        return found[0], {Stored(*one).digest() for one in found}, {Stored(one[1], one[1]).digest() for one in found}

    def digest(self) -> bytes:
        """A hash of what the dataset says it holds; or of a few examples, or of what stays the same of them."""
        own = getattr(self.dataset, "fingerprint", None)
        if own is not None:
            return str(own).encode()
        (images, targets), whole, of_targets = self._readings
        if len(whole) == 1:
            return hashlib.sha256(f"{len(self)}".encode() + Stored(images, targets).digest()).digest()
        logger.info(
            "%s gives other images at every reading, as random transforms do: a study knows it again by its class, its "
            "length and a few targets; a text `fingerprint` of the dataset says more",
            self.name,
        )
        kind = type(self.dataset)
        said = (len(self), kind.__module__, kind.__qualname__, images.shape[1:], images.dtype)
        return hashlib.sha256(repr(said).encode() + (next(iter(of_targets)) if len(of_targets) == 1 else b"")).digest()


class Decoded(_FewKnown, Indexed):
    """A dataset that decodes on demand, a batch at a time.

    Batches are read by worker processes ahead of their use; without these on several threads when they are needed
    (decoders release the interpreter), or, where reading draws at random, one example after another: threads would
    share a generator.
    """

    def __init__(
        self,
        name: str,
        dataset: Any,
        transform: Callable[[Any], Any] | None = None,
        workers: int = 0,
        target: Callable[[str, Any], Tensor] | None = None,
    ) -> None:
        """Read a few examples, so that what is wrong with all of them is known now."""
        self.name, self.dataset, self.transform, self.target = name, dataset, transform, target or target_of
        self.targets = torch.as_tensor(dataset.targets) if isinstance(dataset, _Pairs) else None
        self._like: tuple[Tensor, Tensor] | None = None
        with sown(0):
            self._like = self._example(0)
        self._few = list(range(0, len(dataset), max(1, len(dataset) // _FEW)))
        self._passes = Passes(self._rows, persist=True, num_workers=workers) if workers else None
        self.known()

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.dataset)

    @cached_property
    def still(self) -> bool:
        """Whether a few examples are the same at every reading."""
        return len(self._readings[1]) == 1

    def few(self, seed: int) -> tuple[Tensor, Tensor, list[int]]:
        """See `_FewKnown`."""
        with sown(seed):
            return *_stacked([self._example(index) for index in self._few]), self._few

    def batches(self, batch: int | None, train: bool, seed: int | None) -> Iterator[Rows]:
        """See `Source`; what an example draws comes from the seed too."""
        order = self.order(batch, train, seed)
        if self._passes is not None:
            yield from self._passes(seed or 0, [chosen.tolist() for chosen in order])
            return
        for number, chosen in enumerate(order):
            if self.still:
                yield *self.fetch(chosen.tolist()), chosen
            else:
                with sown(seed or 0, number):
                    rows = self._rows(chosen.tolist())
                yield rows

    def fetch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """`(n, c, *sides)` images and `(n, ...)` targets of these places."""
        if len(indices) == 1 or not self.still:
            with sown(0):
                return _stacked([self._example(index) for index in indices])
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return _stacked(list(pool.map(self._example, indices)))

    def _rows(self, places: list[int]) -> Rows:
        return *_stacked([self._example(index) for index in places]), torch.tensor(places)

    def _example(self, index: int) -> tuple[Tensor, Tensor]:
        """One image and its target as tensors.

        Raises:
            TypeError: it is no pair of an image and a target.
            ValueError: it is not like the first one, not finite, or the dataset raised something.
        """
        place = f"{self.name}[{index}]"
        given, target = pair_of(place, read(place, self.dataset, index))
        if self.transform is not None:
            try:
                given = self.transform(given)
            except Exception as error:  # of the user's transform
                said = " ".join(f"{type(error).__name__}: {error}".split())
                raise ValueError(
                    f"transform raised {said} on the image of {place}, a {type(given).__name__}"
                ) from error
        found = image_of(place, given), self.target(place, target)
        for what, one, like in zip(("image", "target"), found, self._like or found, strict=True):
            if (one.shape, one.dtype) != (like.shape, like.dtype):
                raise ValueError(
                    f"the {what} of {place} is {one.dtype} of shape {tuple(one.shape)}, that of {self.name}[0] "
                    f"{like.dtype} of {tuple(like.shape)}; give all of one kind and size"
                )
        return found


class Streams(Loaded, _FewKnown):
    """A `DataLoader`, of which a few examples are looked at now."""

    still, targets = False, None

    def __init__(self, name: str, loader: DataLoader[Any]) -> None:
        """Read a few examples."""
        super().__init__(name, loader)
        self.known()

    def few(self, seed: int) -> tuple[Tensor, Tensor, list[int]]:
        """See `_FewKnown`."""
        return self.sample(_FEW, seed)


class _Pairs:
    """Images and targets in memory, one by one, for a transform."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.inputs[index], self.targets[index]


def source_of(
    name: str,
    split: Any,
    transform: Callable[[Any], Any] | None = None,
    workers: int = 0,
    batch: int | None = None,
    target: Callable[[str, Any], Tensor] | None = None,
) -> Source:
    """The examples of a split as a task was given it.

    Args:
        name: of the split.
        split: a pair of tensors or arrays, a dataset, or a loader.
        transform: of its images, one at a time.
        workers: processes that read a dataset.
        batch: examples a batch of an iterable dataset.
        target: what makes a tensor of one target of a dataset or a list, given its place; None: the usual way.

    Raises:
        TypeError: it is none of these.
        ValueError: it is empty, its parts do not fit together, or an image is not finite.
    """
    if isinstance(split, DataLoader | IterableDataset):
        if transform is not None:
            raise ValueError(
                f"{name} is a {type(split).__name__}, whose dataset has transforms of its own; give it there"
            )
        if isinstance(split, IterableDataset):
            split = DataLoader(split, batch_size=batch, num_workers=workers)
        elif name == "train" and (workers or batch is not None):
            what = f"workers={workers}" if workers else f"batch={batch}"
            raise ValueError(f"{what}, but {name} is a DataLoader, which has its own; leave it out")
        return Streams(name, split)
    if not isinstance(split, tuple | list):
        if isinstance(split, Tensor) or not hasattr(split, "__getitem__") or not hasattr(split, "__len__"):
            raise TypeError(
                f"{name} is a {type(split).__name__}; expected a pair of tensors (images, targets), a DataLoader, "
                "or a dataset with a length that gives one (image, target) an index"
            )
        if not len(split):
            raise ValueError(f"the {name} split is empty; give at least one example")
        return Decoded(name, split, transform, workers, target)
    if len(split) != 2:
        raise ValueError(f"{name} has {len(split)} parts; expected a pair (images, targets)")
    if target is not None and isinstance(split[1], list | tuple) and len(split[1]):
        split = (split[0], torch.stack([target(f"{name}[{place}]", one) for place, one in enumerate(split[1])]))
    if transform is None:
        return _stored(name, *(torch.as_tensor(part).cpu() for part in split))
    if len(split[0]) != len(split[1]):
        raise ValueError(f"{name} has {len(split[0])} images and {len(split[1])} targets; expected as many of each")
    return Decoded(name, _Pairs(*split), transform, workers)


def _stored(name: str, inputs: Tensor, targets: Tensor) -> Stored:
    if not inputs.ndim or not targets.ndim or len(inputs) != len(targets):
        counts = [len(one) if one.ndim else "no list of" for one in (inputs, targets)]
        raise ValueError(f"{name} has {counts[0]} images and {counts[1]} targets; expected as many of each")
    if not len(inputs):
        raise ValueError(f"the {name} split is empty; give at least one example")
    if not 2 <= inputs.ndim <= 5:
        raise ValueError(f"{name} images have shape {tuple(inputs.shape)}; expected (n, channels, *sides)")
    check_pixels(f"{name} images are", inputs)
    for start in range(0, len(inputs), _ROWS):
        if not finite(inputs[start : start + _ROWS]):
            index = next(index for index in range(start, len(inputs)) if not finite(inputs[index]))
            raise ValueError(f"{name}[{index}] has a pixel that is not finite; repair it, or leave the example out")
    return Stored(inputs, targets)


def _stacked(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([image for image, _ in pairs]), torch.stack([target for _, target in pairs])
