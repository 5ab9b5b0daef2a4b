"""One split of labelled images into train, validation and test: drawn, seeded and stratified, or as files list it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...disk.files import read_whole
from .image_files import ImageFiles

Images = Tensor | ImageFiles
Pair = tuple[Images, Tensor]


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Labelled images as a reader found them.

    Attributes:
        train: Images, `(n, c, *sides)` or files, and their `(n,)` labels, `(n, ...)` targets or `(n, *sides)` masks.
        validation: The data's own validation split, if there is one.
        test: The data's own test split, if there is one.
        names: The classes' names, where the data know them.
        places: What files that list images call each training image; None: by its number.
    """

    train: Pair
    validation: Pair | None = None
    test: Pair | None = None
    names: tuple[str, ...] | None = None
    places: tuple[str, ...] | None = None


Held = int | float | Tensor
"""Images held out: a number of them, a fraction, or which ones."""


def split(
    images: ImageSet, validation: Held | None = 0.2, test: Held | None = None, *, seed: int = 0
) -> tuple[Pair, Pair, Pair]:
    """Train, validation and test images; of what is drawn every class has its share of each, give or take one image.

    Whole numbers count images, others are fractions of the training images, tensors are their numbers. A split that the
    data bring is kept.
    """
    for name, own, asked in (("validation", images.validation, validation), ("test", images.test, test)):
        if own is not None and (isinstance(asked, Tensor) or (name == "test" and asked is not None)):
            what = f"{len(asked)} listed images were" if isinstance(asked, Tensor) else f"{name}={asked} was"
            raise ValueError(f"these data bring their own {name} split, and {what} asked; leave `{name}` out")
    inputs, labels = images.train
    count = len(labels)
    if len(inputs) != count:
        raise ValueError(f"there are {len(inputs)} images and {count} labels; expected as many of each")
    chosen = {name: one for name, one in (("validation", validation), ("test", test)) if isinstance(one, Tensor)}
    taken = torch.zeros(count, dtype=torch.long)
    for one in chosen.values():
        taken[one] += 1
    if bool((taken > 1).any()):
        both = int((taken > 1).nonzero()[0][0])
        said = both if images.places is None else images.places[both]
        raise ValueError(f"image {said} is listed for validation and for test; list it once")
    left = (taken == 0).nonzero().flatten()
    own_test, own_validation = images.test is not None or "test" in chosen, images.validation is not None
    tests = 0 if own_test or isinstance(test, Tensor) else _share("test", 0.2 if test is None else test, count)
    drawn = 0.2 if validation is None else validation
    validations = 0 if own_validation or isinstance(drawn, Tensor) else _share("validation", drawn, count)
    if tests + validations >= len(left):
        first, second = (f"{len(one)} listed" if isinstance(one, Tensor) else one for one in (validation, test))
        raise ValueError(
            f"validation={first} and test={second} leave nothing of {count} images to train on; lower them"
        )
    order = left[_interleaved(labels[left], seed)]
    parts = order[:tests], order[tests : tests + validations], order[tests + validations :]
    places = chosen.get("test", parts[0]), chosen.get("validation", parts[1]), parts[2]
    held, compared, learned = ((inputs[part], labels[part]) for part in places)
    return learned, images.validation or compared, images.test or held


def existing(path: str | Path | None, mend: str) -> Path:
    """The path, where there is something; `mend` ends the error's sentence."""
    if path is None:
        raise FileNotFoundError(f"this reader has no place of its own and no path was given; {mend}")
    place = Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{place} does not exist; {mend}")
    return place


def listed(asked: int | float | str, images: ImageSet) -> Held:
    """What `Data` was asked to hold out; the images that a file lists, by number.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line names no image, or one twice.
    """
    if not isinstance(asked, str):
        return asked
    path = Path(asked).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file that lists images; give one, a number of images or a fraction")
    names = images.places or tuple(map(str, range(len(images.train[1]))))
    numbers = {name: number for number, name in enumerate(names)}
    found: dict[int, None] = {}
    try:
        lines = read_whole(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}); expected the name or number of an image a line") from None
    for line, text in enumerate(lines, start=1):
        name = text.strip().replace("\\", "/").removeprefix("./")
        if not name:
            continue
        if numbers.get(name) is None or numbers[name] in found:
            wrong = "is listed twice" if name in numbers else f"is no training image; expected such as {names[0]}"
            raise ValueError(f"{path}, line {line}: {name!r:.200} {wrong}")
        found[numbers[name]] = None
    if not found:
        raise ValueError(f"{path} lists no image; give one a line, such as {names[0]}")
    return torch.tensor(list(found))


def _share(name: str, asked: int | float, count: int) -> int:
    if isinstance(asked, bool) or not isinstance(asked, int | float):
        raise TypeError(f"{name} is {asked!r}; expected a number of images or a fraction of them")
    number = asked if isinstance(asked, int) else round(asked * count)
    if asked <= 0 or (isinstance(asked, float) and asked >= 1) or not 0 < number < count:
        raise ValueError(
            f"{name}={asked} of {count} images; expected a number of images below that, or a fraction 0..1"
        )
    return number


def _interleaved(labels: Tensor, seed: int) -> Tensor:
    """`(n,)` shuffled indices of which any stretch holds every class in proportion, give or take one.

    Targets that are no classes are shuffled alone.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if labels.ndim != 1 or labels.is_floating_point():
        return shuffled
    _, classes, sizes = torch.unique(labels[shuffled], return_inverse=True, return_counts=True)
    by_class = torch.argsort(classes, stable=True)
    firsts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    place = torch.empty(len(labels), dtype=torch.float64)  # of each image within its class, 0..1
    place[by_class] = (torch.arange(len(labels)) - firsts + 0.5).double() / torch.repeat_interleave(sizes, sizes)
    return shuffled[torch.argsort(place, stable=True)]
