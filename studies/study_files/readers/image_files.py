"""Image files in folders by class, in a table, or with a mask each, decoded with pillow (the extra `images`)."""

import csv
import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Of the image files that are read."""


_FEW = 16  # files that say whether all are grey


@dataclass(frozen=True)
class ImageFiles:
    """Image files and their labels; indexing decodes one, indexing with a tensor selects some.

    Attributes:
        paths: The files.
        labels: `(n,)` indices into `names`; of a table `(n, columns)` numbers too.
        names: The classes, or the columns.
        side: Height and width; an image is resized by its shorter side and cropped in the middle.
        mode: "L" (grey) or "RGB".
        exact: Whether an image of another size is refused rather than resized.
        listed: Whether a table says the labels, rather than the folders.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    names: tuple[str, ...]
    side: tuple[int, int]
    mode: str
    exact: bool
    listed: bool = False

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        """One `(c, h, w)` uint8 image and its label; for a tensor of indices, these files."""
        if isinstance(index, Tensor):
            paths = tuple(self.paths[i] for i in index.tolist())
            return dataclasses.replace(self, paths=paths, labels=self.labels[index])
        label = self.labels[index]
        return self._decode(self.paths[index]), label if self.listed else int(label)

    @property
    def fingerprint(self) -> str:
        """A hash of names, sizes, classes and settings: files are not read for it."""
        files = [(path.parent.name, path.name, path.stat().st_size) for path in self.paths]
        labels = (self.labels.tolist(),) if self.listed else ()
        return hashlib.sha256(repr((files, self.names, self.side, self.mode, *labels)).encode()).hexdigest()

    def decoded(self) -> Tensor:
        """`(n, c, h, w)` uint8: all of them in memory."""
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(self._decode, self.paths)))

    def alike(self, other: "ImageFiles") -> "ImageFiles":
        """The same files with the side, mode and class numbers of others."""
        names = other.names
        strange = set(self.names) - set(names)
        if strange:
            raise ValueError(f"{self.paths[0].parents[1]} has the classes {', '.join(sorted(strange))}, train has not")
        labels = torch.tensor([names.index(self.names[label]) for label in self.labels.tolist()])
        return dataclasses.replace(self, labels=labels, names=names, side=other.side, mode=other.mode)

    def _decode(self, path: Path) -> Tensor:
        image = opened(path).convert(self.mode)
        height, width = self.side
        if self.exact and image.size != (width, height):
            raise ValueError(
                f"{path} is {image.size[1]}x{image.size[0]}, the first image {height}x{width}; "
                "give `side` to resize them"
            )
        return fitted(image, self.side)


def fitted(image: Any, side: tuple[int, int], *, nearest: bool = False) -> Tensor:
    """`(c, *side)` uint8: an image of pillow's, resized by its shorter side and cropped in the middle."""
    height, width = side
    scale = max(height / image.size[1], width / image.size[0])
    if scale != 1:
        larger = (max(width, round(image.size[0] * scale)), max(height, round(image.size[1] * scale)))
        ways = _pillow().Resampling
        image = image.resize(larger, ways.NEAREST if nearest else ways.BILINEAR)
    left, top = (image.size[0] - width) // 2, (image.size[1] - height) // 2
    values = np.array(image.crop((left, top, left + width, top + height)))
    return torch.from_numpy(values.reshape(height, width, -1)).permute(2, 0, 1).contiguous()


def image_files(root: Path, *, side: int | tuple[int, int] | None = None, mode: str | None = None) -> ImageFiles:
    """The images of one folder a class, by class and name; where `mode` is None, a few say whether all are grey."""
    _pillow()
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; expected a folder with one folder of images a class")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    classes = {entry.name: sorted(p for p in entry.iterdir() if p.suffix.lower() in ENDINGS) for entry in folders}
    if not classes:
        raise ValueError(f"{root} has no folder in it; expected one folder of images a class")
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise ValueError(f"{root} has no images in {', '.join(empty)}; endings read: {' '.join(ENDINGS)}")
    paths = tuple(path for found in classes.values() for path in found)
    labels = [number for number, found in enumerate(classes.values()) for _ in found]
    return _files(paths, torch.tensor(labels), tuple(classes), side=side, mode=mode)


def table_files(
    path: Path, *, kind: str = "classification", side: int | tuple[int, int] | None = None, mode: str | None = None
) -> tuple[ImageFiles, list[str]]:
    """The images that a CSV lists, a line each, and the split of each, "" where it has none.

    The first line names the columns. The first column is the file, from the table's folder; one that is called `split`
    says train, validation or test; the others are the targets: one name or number of a class, 0 or 1 for each of
    several labels, or values.

    Raises:
        ValueError: it is no such table; the line is named.
    """
    heads, found = _rows(path)
    lines, rows = list(found), list(found.values())
    if not rows or len(heads) < 2:
        raise ValueError(f"{path} has {len(rows)} lines of {', '.join(heads) or 'nothing'}; {_COLUMNS}")
    at = heads.index("split") if "split" in heads[1:] else None
    columns = [number for number in range(1, len(heads)) if number != at]
    if not columns or (kind == "classification" and len(columns) > 1):
        several = "; several are for the kinds 'multi-label' and 'regression'" if columns else ""
        raise ValueError(f"{path} has {len(columns)} columns of targets; {_COLUMNS}{several}")
    splits = [{"val": "validation"}.get(row[at].strip(), row[at].strip()) if at is not None else "" for row in rows]
    for line, one in zip(lines, splits, strict=True):
        if at is not None and one not in ("train", "validation", "test"):
            raise ValueError(f"{path}, line {line}: the split is {one!r}; expected train, validation or test")
    paths = tuple(path.parent / row[0].strip() for row in rows)
    seen: dict[Path, int] = {}
    for line, place in zip(lines, paths, strict=True):
        if not place.is_file():
            raise ValueError(f"{path}, line {line}: there is no file {place}; expected it from the table's folder")
        if seen.setdefault(place, line) != line:  # it could be learned from and held out
            raise ValueError(f"{path}, line {line}: {place} stands in line {seen[place]} too; list it once")
    if kind == "classification":
        given = [row[columns[0]].strip() for row in rows]
        whole = all(one.isdecimal() and len(one) < 10 for one in given)
        names = () if whole else tuple(sorted(set(given)))
        labels = torch.tensor([int(one) if whole else names.index(one) for one in given])
    else:
        names = tuple(heads[number] for number in columns)
        labels = torch.tensor([_numbers(path, line, row, columns) for line, row in zip(lines, rows, strict=True)])
    return _files(paths, labels, names, side=side, mode=mode, listed=True), splits


_COLUMNS = "expected a line of names and then a file and its targets a line, such as file,class"


def _rows(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """The names of the columns, and the other lines that hold something, by number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            given = [(reader.line_num, row) for row in reader if row]
    except (csv.Error, UnicodeDecodeError, IsADirectoryError) as error:
        raise ValueError(f"{path} is no CSV ({error}); {_COLUMNS}") from None
    heads = given[0][1] if given else []
    for line, row in given:
        if len(row) != len(heads):
            raise ValueError(f"{path}, line {line} has {len(row)} columns, the first line {len(heads)}; {_COLUMNS}")
    return [head.strip() for head in heads], dict(given[1:])


def _numbers(path: Path, line: int, row: list[str], columns: list[int]) -> list[float]:
    try:
        return [float(row[number]) for number in columns]
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}; expected a number for each target") from None


def masked(
    root: Path, *, side: int | tuple[int, int] | None = None, mode: str | None = None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """`(n, c, *side)` images of the folder `images`, their `(n, *side)` masks in `masks`, and their names.

    An image and its mask are called alike but for their endings; a mask has the number of the class in each pixel, as
    grey or in a palette.

    Raises:
        ValueError: an image has no mask, or a mask is none.
    """
    _pillow()
    found: list[dict[str, Path]] = []
    for name in ("images", "masks"):
        if not (root / name).is_dir():
            raise NotADirectoryError(f"{root} has no folder {name!r}; expected images in 'images' and masks in 'masks'")
        there = sorted(one for one in (root / name).iterdir() if one.suffix.lower() in ENDINGS)
        found.append({one.stem: one for one in there})
        if len(found[-1]) < len(there):
            raise ValueError(f"{root / name} has two files of one name but for their endings; keep one")
    images, masks = found
    alone = sorted(images.keys() ^ masks.keys())
    if alone or not images:
        said = f"{alone[0]!r} in only one of them" if alone else "no image"
        raise ValueError(f"{root / 'images'} and {root / 'masks'}: {said}; expected a mask of its name for every image")
    files = _files(tuple(images.values()), torch.zeros(len(images), dtype=torch.long), (), side=side, mode=mode)
    with ThreadPoolExecutor() as pool:
        values = list(pool.map(lambda name: _mask(masks[name], files), images))
    return files.decoded(), torch.stack(values), tuple(one.name for one in files.paths)


def _mask(path: Path, files: ImageFiles) -> Tensor:
    image = opened(path)
    if image.mode not in ("1", "L", "P"):
        raise ValueError(f"{path} has several values a pixel (mode {image.mode}); expected the number of the class")
    if files.exact and image.size != files.side[::-1]:
        raise ValueError(f"{path} is {image.size[1]}x{image.size[0]}, the images {files.side[0]}x{files.side[1]}")
    return fitted(image, files.side, nearest=True)[0].long()


def _files(
    paths: tuple[Path, ...],
    labels: Tensor,
    names: tuple[str, ...],
    *,
    side: int | tuple[int, int] | None,
    mode: str | None,
    listed: bool = False,
) -> ImageFiles:
    _pillow()
    first, few = opened(paths[0]), paths[:: max(1, len(paths) // _FEW)]
    asked = (side, side) if isinstance(side, int) else side
    if asked is not None and (len(asked) != 2 or min(asked) < 1):
        raise ValueError(f"side is {side}; expected one or two sizes of at least 1")
    return ImageFiles(
        paths=paths,
        labels=labels,
        names=names,
        side=asked or (first.size[1], first.size[0]),
        mode=mode or ("L" if all(opened(path).mode in ("1", "L", "LA") for path in few) else "RGB"),
        exact=side is None,
        listed=listed,
    )


def opened(path: Path) -> Any:
    """A decoded image of pillow's; ValueError naming the file where that fails."""
    try:
        with _pillow().open(path) as image:
            image.load()
    except (OSError, SyntaxError, EOFError) as problem:
        raise ValueError(f"{path} is no readable image ({problem}); remove or replace it") from None
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{path} has more than 8 bits a pixel (mode {image.mode}); convert it, or use an .npz file")
    return image


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ModuleNotFoundError("reading image files needs pillow: pip install 'secateur[images]'") from None
    return Image
