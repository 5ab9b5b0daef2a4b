"""Image files as labelled images: a folder a class, masks beside their images, or a table that lists them."""

import os
from pathlib import Path
from typing import Literal

import torch

from .image_files import image_files, masked, table_files
from .splits import ImageSet, existing


def folder(
    path: str | Path | None,
    *,
    side: int | tuple[int, int] | None = None,
    lazy: bool = False,
    mode: Literal["L", "RGB"] | None = None,
) -> ImageSet:
    """Images in one folder a class; or the same in the folders train, test, and validation or val."""
    place = existing(path, "expected a folder with one folder of images a class")
    root, others = _roots(place)
    found = {name: image_files(one, side=side, mode=mode) for name, one in {"train": root, **others}.items()}
    names = found["train"].names
    alike = {name: files.alike(found["train"]) for name, files in found.items()}
    splits = {name: (files if lazy else files.decoded(), files.labels) for name, files in alike.items()}
    places = tuple(f"{one.parent.name}/{one.name}" for one in found["train"].paths)
    validation, test = splits.get("validation"), splits.get("test")
    return ImageSet(train=splits["train"], validation=validation, test=test, names=names, places=places)


def _roots(place: Path) -> tuple[Path, dict[str, Path]]:
    """The folder to learn from, and those of the splits beside it."""
    if not (place / "train").is_dir():
        return place, {}
    named = {"validation": place / ("validation" if (place / "validation").is_dir() else "val"), "test": place / "test"}
    return place / "train", {name: one for name, one in named.items() if one.is_dir()}


def table(
    path: str | Path | None,
    *,
    kind: str = "classification",
    side: int | tuple[int, int] | None = None,
    lazy: bool = False,
    mode: Literal["L", "RGB"] | None = None,
) -> ImageSet:
    """Image files and their targets, a line each, as a CSV lists them; see `table_files`."""
    place = existing(path, "expected a CSV of image files and their targets")
    files, splits = table_files(place, kind=kind, side=side, mode=mode)
    rows = {name: [number for number, one in enumerate(splits) if one == name] for name in set(splits)}
    found = {name or "train": files[torch.tensor(numbers)] for name, numbers in rows.items()}
    if "train" not in found:
        raise ValueError(f"{place} has no line whose split is train; expected images to learn from")
    pairs = {name: (one if lazy else one.decoded(), one.labels) for name, one in found.items()}
    names = (files.names or None) if kind == "classification" else None  # numbers of classes have none
    places = tuple(Path(os.path.relpath(one, place.parent)).as_posix() for one in found["train"].paths)
    validation, test = pairs.get("validation"), pairs.get("test")
    return ImageSet(train=pairs["train"], validation=validation, test=test, names=names, places=places)


def masks(path: str | Path | None, *, side: int | tuple[int, int] | None, mode: Literal["L", "RGB"] | None) -> ImageSet:
    """Images and masks in folders of these names; or the same in the folders train, test, and validation or val."""
    place = existing(path, "expected a folder with the folders 'images' and 'masks'")
    train, others = _roots(place)
    *learned, places = masked(train, side=side, mode=mode)
    side = (int(learned[0].shape[2]), int(learned[0].shape[3])) if side is None else side
    held = {name: masked(root, side=side, mode=mode)[:2] for name, root in others.items()}
    validation, test = held.get("validation"), held.get("test")
    return ImageSet(train=(learned[0], learned[1]), validation=validation, test=test, places=places)
