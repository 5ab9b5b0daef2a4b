"""What a dataset or a loader gives, as tensors: pairs, dicts and dataclasses; tensors, arrays and pictures.

A sentence about what is wrong begins with the place, such as `train[7]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_IMAGES = ("image", "images", "pixel_values", "img", "input", "inputs", "x", "data")
_TARGETS = ("label", "labels", "target", "targets", "mask", "masks", "y")


def read(place: str, dataset: Any, index: Any) -> Any:
    """What a dataset has at an index.

    Raises:
        ValueError: it raised something that names no place; what passes, as a failing disk, is raised as it is.
    """
    try:
        return dataset[index]
    except (OSError, MemoryError):  # these pass: a trial is begun again
        raise
    except RuntimeError as error:  # memory that runs out is one
        raise RuntimeError(f"{place} raised {type(error).__name__}: {error}") from error
    except Exception as error:  # of the user's dataset
        raise ValueError(f"{place} raised {type(error).__name__}: {error}") from error


def pair_of(place: str, given: Any) -> tuple[Any, Any]:
    """Image and target of an example, or of a batch.

    Raises:
        TypeError: it is no pair, nor a dict or dataclass with an image and a target of usual names.
    """
    fields = _fields(given)
    if fields is not None:
        found = [[name for name in names if name in fields] for names in (_IMAGES, _TARGETS)]
        if len(found[0]) == len(found[1]) == 1:
            return fields[found[0][0]], fields[found[1][0]]
        raise TypeError(
            f"{place} is {described(given)}; expected one image, as {_listed(_IMAGES)}, and one target, as "
            f"{_listed(_TARGETS)}, or a pair (image, target)"
        )
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(f"{place} is {described(given)}; expected a pair (image, target) from the dataset")
    return given[0], given[1]


def image_of(place: str, given: Any) -> Tensor:
    """`(c, *sides)` of one image: a tensor, an array or a picture of pillow's.

    Raises:
        TypeError: it is none of these, or has whole numbers that are no bytes.
        ValueError: it has another number of axes, or values that are not finite.
    """
    if hasattr(given, "convert") and hasattr(given, "getbands"):  # a picture of pillow's, which is not imported for it
        if given.mode.startswith(("I", "F")):
            raise ValueError(f"the image of {place} has more than 8 bits a pixel (mode {given.mode}); give an array")
        picture = np.array(given.convert("L" if given.mode in ("1", "L", "LA") else "RGB"))
        return torch.from_numpy(picture.reshape(*picture.shape[:2], -1)).permute(2, 0, 1).contiguous()
    if not isinstance(given, Tensor | np.ndarray):
        raise TypeError(f"the image of {place} is {described(given)}; expected a tensor, an array or a pillow image")
    image = torch.as_tensor(given)
    if not 1 <= image.ndim <= 4:
        raise ValueError(f"the image of {place} has shape {tuple(image.shape)}; expected (channels, *sides)")
    check_pixels(f"the image of {place} is", image)
    if not finite(image):
        raise ValueError(f"{place} has a pixel that is not finite; repair it, or leave the example out")
    return image


def target_of(place: str, given: Any) -> Tensor:
    """One target: a number, several, or a mask; a TypeError where it is none."""
    try:
        return torch.as_tensor(np.array(given) if hasattr(given, "getbands") else given)
    except (TypeError, ValueError, RuntimeError):
        said = f"the target of {place} is {described(given)}; expected a whole number, or a mask of them"
        raise TypeError(said) from None


def batch_of(place: str, given: Any) -> tuple[Tensor, Tensor]:
    """`(n, c, *sides)` images and `(n, ...)` targets of a batch that a loader gave.

    Raises:
        TypeError: they are no tensors or arrays.
        ValueError: they are not as many of each, or not finite.
    """
    images, targets = pair_of(place, given)
    for what, one in (("images", images), ("targets", targets)):
        if not isinstance(one, Tensor | np.ndarray):
            raise TypeError(f"the {what} of {place} are {described(one)}; expected one tensor of them all")
    images, targets = torch.as_tensor(images), torch.as_tensor(targets)
    if not 2 <= images.ndim <= 5 or not targets.ndim or len(images) != len(targets):
        raise ValueError(
            f"{place} has images of shape {tuple(images.shape)} and targets of shape {tuple(targets.shape)}; expected "
            "(n, channels, *sides) and (n, ...)"
        )
    check_pixels(f"the images of {place} are", images)
    if not finite(images):
        row = next(row for row in range(len(images)) if not finite(images[row]))
        raise ValueError(f"image {row} of {place} has a pixel that is not finite; repair it, or leave the example out")
    return images, targets


def check_pixels(what: str, images: Tensor) -> None:
    """Refuse images that are neither bytes nor floating; a TypeError."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"{what} {images.dtype}; expected uint8 (0..255) or floating point")


def finite(tensor: Tensor) -> bool:
    """Whether every value is; whole numbers always are."""
    if not tensor.is_floating_point():
        return True
    # A sum takes a fraction of the time, and is finite only where every value is; it may overflow where all are.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def described(given: Any) -> str:
    """What a value is, in words."""
    if given is None or isinstance(given, str):
        return repr(given)
    if isinstance(given, Mapping):
        return f"a {type(given).__name__} with the keys {', '.join(map(str, given))}"
    return f"a {type(given).__name__}" + (f" of {len(given)}" if isinstance(given, tuple | list) else "")


def _fields(given: Any) -> Mapping[str, Any] | None:
    if isinstance(given, Mapping):
        return given
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        return {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    return None


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
