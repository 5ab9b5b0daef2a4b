"""Image files in folders by class, decoded with pillow (the extra `images`)."""

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
        labels: `(n,)` indices into `names`.
        names: The classes.
        side: Height and width; an image is resized by its shorter side and cropped in the middle.
        mode: "L" (grey) or "RGB".
        exact: Whether an image of another size is refused rather than resized.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    names: tuple[str, ...]
    side: tuple[int, int]
    mode: str
    exact: bool

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        """One `(c, h, w)` uint8 image and its label; for a tensor of indices, these files."""
        if isinstance(index, Tensor):
            paths = tuple(self.paths[i] for i in index.tolist())
            return dataclasses.replace(self, paths=paths, labels=self.labels[index])
        return self._decode(self.paths[index]), int(self.labels[index])

    @property
    def fingerprint(self) -> str:
        """A hash of names, sizes, classes and settings: files are not read for it."""
        files = [(path.parent.name, path.name, path.stat().st_size) for path in self.paths]
        return hashlib.sha256(repr((files, self.names, self.side, self.mode)).encode()).hexdigest()

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


def fitted(image: Any, side: tuple[int, int]) -> Tensor:
    """`(c, *side)` uint8: an image of pillow's, resized by its shorter side and cropped in the middle."""
    height, width = side
    scale = max(height / image.size[1], width / image.size[0])
    if scale != 1:
        larger = (max(width, round(image.size[0] * scale)), max(height, round(image.size[1] * scale)))
        image = image.resize(larger, _pillow().Resampling.BILINEAR)
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
    first, few = opened(paths[0]), paths[:: max(1, len(paths) // _FEW)]
    asked = (side, side) if isinstance(side, int) else side
    if asked is not None and (len(asked) != 2 or min(asked) < 1):
        raise ValueError(f"side is {side}; expected one or two sizes of at least 1")
    return ImageFiles(
        paths=paths,
        labels=torch.tensor(labels),
        names=tuple(classes),
        side=asked or (first.size[1], first.size[0]),
        mode=mode or ("L" if all(opened(path).mode in ("1", "L", "LA") for path in few) else "RGB"),
        exact=side is None,
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
