"""Photographs that packages ship, for networks that were trained on ImageNet.

GCompris (Debian's gcompris-qt-data) has pictures of animals, buildings, tools and fish in Qt's resource files; Tux
Paint's stamps (tuxpaint-stamps-default) are photographs cut out of their background. Half of the former and six tenths
of the latter are to solve on; what is left is to judge by, and nothing else sees it.

    solve, judges = pictures(gcompris=FOLDER, stamps=FOLDER, side=224)
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples" / "photo_mobilenet"))
import photos  # noqa: E402 - of the example beside it

FILES = ("categorization", "explore_monuments", "erase", "explore_world_animals", "explore_farm_animals")
ALIKE = 0.95  # correlation of two pictures of 8 x 8 grey pixels from which on they are one
LEAST = 100  # pixels that the shorter side has


@dataclass(frozen=True)
class Judges:
    """What networks are judged by.

    Attributes:
        images: `(pictures, views, 3, side, side)` uint8.
        name: what they are.
    """

    images: Tensor
    name: str


def pictures(*, gcompris, stamps, side, views=2):
    """`(n, 3, side, side)` uint8 to solve on, views of one picture one after another; and what to judge by.

    Args:
        gcompris: folder of the `.rcc` files.
        stamps: folder of Tux Paint's stamps.
        side: of the pictures.
        views: of every photograph; of a cut-out half as many to solve on.
    """
    solve, judge = [], []
    for place, (name, image) in enumerate(photographs(Path(gcompris))):
        found = torch.stack([crop(image, side, [place, view] if view else None) for view in range(views)])
        (solve if _draw(name) >= 2 else judge).append(found)
    parts = photos.split(photos.pictures(Path(stamps)), [])
    few = max(1, views // 2)
    cut = photos.views(parts["train"], count=few, side=side, seed=0)
    solve += list(cut.view(-1, few, *cut.shape[1:]))
    others = photos.views(parts["validation"] + parts["test"], count=1, side=side, seed=2)
    mixed = [solve[place] for place in np.random.default_rng(0).permutation(len(solve))]
    return torch.cat(mixed), [
        Judges(torch.stack(judge), "photographs"),
        Judges(others[:, None], "cut-outs on white"),
    ]


def photographs(folder):
    """Name and picture of every photograph in GCompris' resource files; of two that are alike the first."""
    found, seen = [], []
    for name in FILES:
        data = (folder / f"{name}.rcc").read_bytes()
        for number, image in enumerate(_held(data)):
            small = np.asarray(image.convert("L").resize((8, 8)), float).ravel()
            small = (small - small.mean()) / (small.std() + 1e-9)
            if min(image.size) >= LEAST and all(small @ other / 64 < ALIKE for other in seen):
                found.append((f"{name}-{number}", image.convert("RGB")))
                seen.append(small)
    return found


def crop(image, side, seed=None):
    """`(3, side, side)` uint8: the middle of a picture; or, with a seed, a part of it, mirrored or not."""
    width, height = image.size
    share, mirrored, at = 0.875, False, (0.5, 0.5)
    if seed is not None:
        random = np.random.default_rng(seed)
        share, at, mirrored = random.uniform(0.5, 1.0), random.uniform(0, 1, 2), random.random() < 0.5
    size = share * min(width, height)
    left, top = at[0] * (width - size), at[1] * (height - size)
    found = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + size, top + size))
    array = np.asarray(found)
    return torch.from_numpy(array[:, ::-1].copy() if mirrored else array.copy()).permute(2, 0, 1)


def _held(data):
    """The WebP pictures in a file, which begin with their own length."""
    for match in re.finditer(rb"RIFF(....)WEBP", data, re.DOTALL):
        size = 8 + int.from_bytes(match[1], "little")
        try:
            with Image.open(io.BytesIO(data[match.start() : match.start() + size])) as image:
                image.load()
                yield image
        except (UnidentifiedImageError, OSError):
            continue


def _draw(name):
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 4
