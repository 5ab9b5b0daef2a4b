"""Photographs cut out of their background: split by picture, laid on backgrounds, labelled by the full network."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's photographs
LEAST = 64  # pixels that the longer side of a picture has
NO_PHOTOS = {"cartoon", "symbols", "roadsigns", "flags"}  # folders of Tux Paint's stamps


def pictures(folder: Path) -> list[Path]:
    """The photographs of Tux Paint's stamps, or of any folder: no cartoons, mirror images or very small ones."""
    found = []
    for file in sorted(folder.rglob("*.png")):
        if NO_PHOTOS & set(file.relative_to(folder).parts) or "mirror" in file.stem:
            continue
        with Image.open(file) as image:
            if max(image.size) >= LEAST:
                found.append(file)
    return found


def labels_of(files: Sequence[Path], names: Sequence[str]) -> dict[Path, int]:
    """The class of each picture whose title or file name is exactly a class's name."""
    places = {letters(name): place for place, name in enumerate(names)}
    found = {}
    for file in files:
        title = file.with_suffix(".txt")
        lines = title.read_text(encoding="utf-8", errors="replace").splitlines() if title.exists() else []
        for name in (letters(lines[0] if lines else ""), letters(file.stem)):
            if name in places:
                found.setdefault(file, places[name])
    return found


def letters(text: str) -> str:
    """Lower-case letters alone."""
    return re.sub("[^a-z]", "", text.lower())


def split(files: Sequence[Path], labelled: Sequence[Path]) -> dict[str, list[Path]]:
    """Pictures of each split: all with a label are test, a fifth of the rest too; those of one name stay together."""
    test = {_family(file) for file in labelled}
    parts: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    for file in files:
        draw = int(hashlib.sha256(_family(file).encode()).hexdigest(), 16) % 10
        part = "test" if _family(file) in test or draw < 2 else "validation" if draw < 4 else "train"
        parts[part].append(file)
    return parts


def views(files: Sequence[Path], *, count: int, side: int, seed: int) -> Tensor:
    """`(files * count, 3, side, side)` uint8: every picture `count` times, each on a background of its own."""
    found = []
    for place, file in enumerate(files):
        with Image.open(file) as image:
            cut = image.convert("RGBA")
        for number in range(count):
            random = np.random.default_rng([seed, place, number])
            longest = side * (0.9 if number == 0 else random.uniform(0.5, 0.95))
            size = [max(1, round(length * longest / max(cut.size))) for length in cut.size]
            colour = (255,) * 3 if number == 0 else tuple(int(value) for value in random.integers(0, 256, 3))
            room = [side - length for length in size]
            corner = [left // 2 if number == 0 else int(random.integers(0, left + 1)) for left in room]
            frame, moved = Image.new("RGB", (side, side), colour), cut.resize(size, Image.Resampling.LANCZOS)
            frame.paste(moved, (corner[0], corner[1]), moved)
            found.append(torch.from_numpy(np.array(frame)).permute(2, 0, 1))
    return torch.stack(found)


@torch.no_grad()
def answers(model: nn.Module, images: Tensor) -> Tensor:
    """`(n,)` classes that the network sees in uint8 images."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return torch.cat([model((part / 255 - mean) / std).argmax(1) for part in images.split(32)])


def _family(file: Path) -> str:
    """The picture's name without numbers, so that two pictures of one thing are never in two splits."""
    return f"{file.parent.name}/{letters(file.stem)}"
