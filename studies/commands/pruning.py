"""`secateur prune`, once its file is read: with labels and training, or with pictures alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import at_once
from .. import prune as alone
from ..study_files.file import StudyFile
from ..study_files.pictures import Images
from .options import PICTURES, TRAINING


def pruned(file: StudyFile, out: Path, method: str | None, way: Mapping[str, Any], given: Mapping[str, Any]) -> Path:
    """The folder of the network that a method made.

    Args:
        file: the study file.
        out: the new folder.
        method: its name, None for the default.
        way: options of `TRAINING` and `PICTURES` that were given.
        given: `settings`, `study` and `progress`.

    Raises:
        ValueError: an option is of the other way, or no method is named; and as of `prune.prune` and
            `at_once.prune_file`.
    """
    alike = "images" in way or (file.data is None and file.images is not None and file.images.path is not None)
    for name in way:
        if name in (TRAINING if alike else PICTURES):
            option = "--trust-images" if name == "trust" else f"--{name.replace('_', '-')}"
            mend = "nothing is trained with --images" if alike else "it is of --images FOLDER"
            raise ValueError(f"{option} is given, but {mend}; leave one of the two out")
    if not alike:
        if method is None:
            raise ValueError("no method is named; give one, such as --method ranp-f, or pictures, --images FOLDER")
        return alone.prune(file, method, out, finetune_epochs=way.get("finetune_epochs"), **given)
    images = Images() if file.images is None else file.images
    if "images" in way:
        images = replace(images, path=Path(way["images"]).absolute())
    if "side" in way:
        images = replace(images, side=way["side"])
    asked = {name: way[name] for name in ("depth", "resolution", "most", "distill", "trust") if name in way}
    file = file.model_copy(update={"images": images})
    return at_once.prune_file(file, out, method=method or "l2", **asked, **given)
