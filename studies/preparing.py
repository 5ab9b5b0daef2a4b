"""Pictures as an exported network takes them: what its record says of preprocessing, done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ..evaluators.tasks.sources import resized
from .study_files.readers.image_files import fitted, opened

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@final
class Preprocess:
    """Called with pictures, it gives the inputs of an exported network; made by `sc.preprocess`.

    Attributes:
        said: what is done: `channels`, `stored_side`, `scale`, `resize`, `mean`, `std`.
        side: of the network's inputs.
    """

    def __init__(self, said: Mapping[str, Any], side: tuple[int, ...]) -> None:
        """What a record says."""
        self.said, self.side = said, side

    def __call__(self, pictures: Any) -> Tensor:
        """`(n, channels, *side)` float32, on the CPU; `.numpy()` of it is what ONNX Runtime takes.

        Args:
            pictures: one picture or a list of them, each a path, an image of pillow's, or a uint8 array `(h, w)` or
                `(h, w, channels)`. They are resized by their shorter side and cropped to the side that the task had.

        Raises:
            ValueError: a picture cannot be read, or is of another kind.
        """
        many = pictures if isinstance(pictures, list | tuple) else [pictures]
        if not many:
            raise ValueError("there is no picture in the list; give one or more")
        images = torch.stack([self._stored(one) for one in many]).to(torch.float32) * self.said["scale"]
        images = resized(images, self.side)
        mean, std = (torch.tensor(self.said[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
        return (images - mean) / std

    def _stored(self, picture: Any) -> Tensor:
        from PIL import Image

        if isinstance(picture, str | Path):
            picture = opened(Path(picture))
        elif isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim in (2, 3):
            picture = Image.fromarray(picture)
        elif not isinstance(picture, Image.Image):
            kind = f"{picture.dtype} {picture.shape}" if hasattr(picture, "dtype") else type(picture).__name__
            raise ValueError(f"a picture is {kind}; expected a path, an image of pillow's, or a uint8 array (h, w, c)")
        height, width = self.said["stored_side"]
        return fitted(picture.convert(_MODES[self.said["channels"]]), (height, width))


def preprocess(folder: str | Path) -> Preprocess:
    """What turns pictures into the inputs of the network exported to `folder`, as `config.json` says.

    Raises:
        FileNotFoundError: there is no export.
        ValueError: its inputs are no pictures of 8 bits in 2D, or a transform of the user's own prepared them.
    """
    place = Path(folder) / "config.json"
    if not place.is_file():
        raise FileNotFoundError(f"{place} does not exist; give the folder of an exported network")
    config = json.loads(place.read_text())
    said = config.get("preprocessing") or {}
    missing = [name for name in ("scale", "mean", "std", "stored_side", "channels") if name not in said]
    if missing:
        raise ValueError(
            f"{place} says nothing of {', '.join(missing)}, so pictures cannot be prepared as it was trained"
        )
    if said.get("transform"):
        names = ", ".join(sorted(set(map(str, said["transform"].values()))))
        raise ValueError(f"{place}: inputs were prepared by a transform of your own ({names}); call that")
    if len(said["stored_side"]) != 2 or said["channels"] not in _MODES or said.get("stored_dtype", "uint8") != "uint8":
        kind = f"{said['channels']} channels, {said['stored_side']}, {said.get('stored_dtype')}"
        raise ValueError(f"{place}: inputs are {kind}; expected pictures of 8 bits with 1, 3 or 4 channels")
    return Preprocess(said, tuple(config.get("resolution") or said["stored_side"]))
