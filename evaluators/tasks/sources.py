"""Where examples come from: tensors in memory, or a dataset that gives one at a time.

What is wrong with an example is said once, as early as it can be known, with its split and index: tensors are looked
through when they are given, of a dataset a few examples then and the others whenever they are read.
"""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger("secateur")

_FEW = 16  # examples of a dataset that stand for all where reading it whole would take long
_READINGS = 4  # of these, to see whether they are the same each time
_ROWS = 256  # of images that are looked through at once


class LazyImages(Protocol):
    """A dataset that decodes on demand: one image and its target an index, all of the same shape.

    An image is a `(c, *sides)` tensor or array, or a picture of pillow's. With a `fingerprint` attribute (str) the
    dataset says itself what it holds; otherwise a few examples are hashed.
    """

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """One image and its target."""
        ...


Split = tuple[Tensor, Tensor] | LazyImages


class Source(Protocol):
    """The examples of one split."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def fetch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """`(n, c, *sides)` images and `(n, ...)` targets of these places."""
        ...

    def known(self) -> tuple[Tensor, list[int]]:
        """`(n, ...)` targets that can be looked at now, and their places."""
        ...

    def digest(self) -> bytes:
        """A hash of what it holds."""
        ...


class Stored:
    """A pair of tensors in memory."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        """Keep them where they are."""
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.inputs)

    def fetch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """See `Source`."""
        return self.inputs[indices], self.targets[indices]

    def known(self) -> tuple[Tensor, list[int]]:
        """All targets."""
        return self.targets, list(range(len(self)))

    def digest(self) -> bytes:
        """A hash of every byte."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            digest.update(repr((tensor.shape, tensor.dtype)).encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.digest()


class Decoded:
    """A dataset that decodes on demand, a batch at a time on several threads (decoders release the interpreter)."""

    def __init__(self, name: str, dataset: LazyImages) -> None:
        """Read a few examples, so that what is wrong with all of them is known now."""
        self.name, self.dataset = name, dataset
        self._like: tuple[Tensor, Tensor] | None = None
        self._like = self._example(0)
        self._few = list(range(0, len(dataset), max(1, len(dataset) // _FEW)))
        self._known = self.fetch(self._few)[1]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.dataset)

    def fetch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """See `Source`."""
        if len(indices) == 1:
            pairs = [self._example(indices[0])]
        else:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                pairs = list(pool.map(self._example, indices))
        return torch.stack([image for image, _ in pairs]), torch.stack([target for _, target in pairs])

    def known(self) -> tuple[Tensor, list[int]]:
        """The targets of a few."""
        return self._known, self._few

    def digest(self) -> bytes:
        """A hash of what the dataset says it holds; or of a few examples, or of what stays the same of them."""
        own = getattr(self.dataset, "fingerprint", None)
        if own is not None:
            return str(own).encode()
        readings = [self.fetch(self._few) for _ in range(_READINGS)]
        images, targets = readings[0]
        if len({Stored(*reading).digest() for reading in readings}) == 1:
            return hashlib.sha256(f"{len(self)}".encode() + Stored(images, targets).digest()).digest()
        logger.info(
            "%s gives other images at every reading, as random transforms do: a study knows it again by its class, its "
            "length and a few targets; a text `fingerprint` of the dataset says more",
            self.name,
        )
        steady = len({Stored(other, other).digest() for _, other in readings}) == 1
        kind = type(self.dataset)
        said = (len(self), kind.__module__, kind.__qualname__, images.shape[1:], images.dtype)
        return hashlib.sha256(repr(said).encode() + (Stored(targets, targets).digest() if steady else b"")).digest()

    def _example(self, index: int) -> tuple[Tensor, Tensor]:
        """One image and its target as tensors.

        Raises:
            TypeError: it is no pair of an image and a target.
            ValueError: it is not like the first one, not finite, or the dataset raised something.
        """
        place = f"{self.name}[{index}]"
        try:
            given = self.dataset[index]
        except (OSError, MemoryError):  # these pass: a trial is begun again
            raise
        except RuntimeError as error:  # memory that runs out is one
            raise RuntimeError(f"{place} raised {type(error).__name__}: {error}") from error
        except Exception as error:  # of the user's dataset
            raise ValueError(f"{place} raised {type(error).__name__}: {error}") from error
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise TypeError(f"{place} is {_described(given)}; expected a pair (image, target) from the dataset")
        image, target = _image(place, given[0]), _target(place, given[1])
        if not finite(image):
            raise ValueError(f"{place} has a pixel that is not finite; repair it, or leave the example out")
        for what, one, like in zip(("image", "target"), (image, target), self._like or (image, target), strict=True):
            if (one.shape, one.dtype) != (like.shape, like.dtype):
                raise ValueError(
                    f"the {what} of {place} is {one.dtype} of shape {tuple(one.shape)}, that of {self.name}[0] "
                    f"{like.dtype} of {tuple(like.shape)}; give all of one kind and size"
                )
        return image, target


def source_of(name: str, split: Any) -> Source:
    """The examples of a split as a task was given it.

    Raises:
        TypeError: it is neither a pair of tensors nor a dataset.
        ValueError: it is empty, its parts do not fit together, or an image is not finite.
    """
    if not isinstance(split, tuple | list):
        if isinstance(split, Tensor) or not hasattr(split, "__getitem__") or not hasattr(split, "__len__"):
            mend = "; give its dataset, and `batch` to the task" if hasattr(split, "dataset") else ""
            raise TypeError(
                f"{name} is a {type(split).__name__}; expected a pair of tensors (images, targets), "
                f"or a dataset with a length that gives one (image, target) an index{mend}"
            )
        if not len(split):
            raise ValueError(f"the {name} split is empty; give at least one example")
        return Decoded(name, split)
    if len(split) != 2:
        raise ValueError(f"{name} has {len(split)} parts; expected a pair (images, targets)")
    inputs, targets = (torch.as_tensor(part).cpu() for part in split)
    if len(inputs) != len(targets):
        raise ValueError(f"{name} has {len(inputs)} images and {len(targets)} targets; expected as many of each")
    if not len(inputs):
        raise ValueError(f"the {name} split is empty; give at least one example")
    if not 3 <= inputs.ndim <= 5:
        raise ValueError(f"{name} images have shape {tuple(inputs.shape)}; expected (n, channels, *sides)")
    if inputs.ndim == 4 and inputs.shape[-1] in (1, 3) and inputs.shape[1] == inputs.shape[2] > 4:
        logger.warning(
            "%s images have shape %s, which is %d channels of %d x %d; where channels come last, give "
            "numpy.moveaxis(images, -1, 1)",
            *(name, tuple(inputs.shape), *inputs.shape[1:]),
        )
    _check_pixels(f"{name} images are", inputs)
    for start in range(0, len(inputs), _ROWS):
        if not finite(inputs[start : start + _ROWS]):
            index = next(index for index in range(start, len(inputs)) if not finite(inputs[index]))
            raise ValueError(f"{name}[{index}] has a pixel that is not finite; repair it, or leave the example out")
    return Stored(inputs, targets)


def finite(tensor: Tensor) -> bool:
    """Whether every value is; whole numbers always are."""
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _image(place: str, given: Any) -> Tensor:
    if hasattr(given, "convert") and hasattr(given, "getbands"):  # a picture of pillow's, which is not imported for it
        if given.mode.startswith(("I", "F")):
            raise ValueError(f"the image of {place} has more than 8 bits a pixel (mode {given.mode}); give an array")
        picture = np.array(given.convert("L" if given.mode in ("1", "L", "LA") else "RGB"))
        return torch.from_numpy(picture.reshape(*picture.shape[:2], -1)).permute(2, 0, 1).contiguous()
    if not isinstance(given, Tensor | np.ndarray):
        raise TypeError(f"the image of {place} is {_described(given)}; expected a tensor, an array or a pillow image")
    image = torch.as_tensor(given)
    if not 2 <= image.ndim <= 4:
        raise ValueError(f"the image of {place} has shape {tuple(image.shape)}; expected (channels, *sides)")
    _check_pixels(f"the image of {place} is", image)
    return image


def _check_pixels(what: str, images: Tensor) -> None:
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"{what} {images.dtype}; expected uint8 (0..255) or floating point")


def _target(place: str, given: Any) -> Tensor:
    try:
        return torch.as_tensor(np.array(given) if hasattr(given, "getbands") else given)
    except (TypeError, ValueError, RuntimeError):
        said = f"the target of {place} is {_described(given)}; expected a whole number, or a mask of them"
        raise TypeError(said) from None


def _described(given: Any) -> str:
    """What a value is, in words."""
    if given is None or isinstance(given, str):
        return repr(given)
    if isinstance(given, dict):
        return f"a dict with the keys {', '.join(map(str, given))}"
    return f"a {type(given).__name__}" + (f" of {len(given)}" if isinstance(given, tuple | list) else "")
