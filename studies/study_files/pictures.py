"""Pictures without labels: the image files of a folder, as a network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ...evaluators.tasks.decoded import check_normalise
from ...spaces.checked import AT_LEAST_1, check
from .readers.image_files import ENDINGS, ImageFiles, opened

_MEASURED = 256  # pictures that mean and std are measured on


@dataclass(frozen=True)
class Images:
    """The image files in a folder and in folders within, in batches of `(n, c, *side)` float tensors; no labels.

    They come in one fixed mixed order, so that the first few hundred stand for all. Colours are scaled to 0..1, and
    where mean and std are given the mean is taken off, and the rest divided by std: as the network was trained.

    Attributes:
        path: the folder.
        side: pictures are resized (shorter side) and cropped to it; None takes them as they are, all of one size.
        mode: "L" (grey) or "RGB"; None: as the first picture is.
        mean: one value a channel; None takes nothing off.
        std: one value a channel; None divides by nothing.
        normalise: "measure" measures mean and std, where they are not given, on up to 256 pictures.
        batch: pictures a batch.

    Raises:
        ValueError: a setting is off; and when it is read, where a picture is, or where there is none.
        FileNotFoundError: when it is read, where there is no such folder.
    """

    path: str | Path | None = None
    _: KW_ONLY
    side: int | tuple[int, int] | None = None
    mode: Literal["L", "RGB"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalise: Literal["measure"] | None = None
    batch: Annotated[int, AT_LEAST_1] = 16

    def __post_init__(self) -> None:
        """Refuse settings that are off."""
        check(self)
        check_normalise(self.normalise, self.mean, self.std)
        sides = (self.side,) if isinstance(self.side, int) else self.side or ()
        if any(side < 1 for side in sides):
            raise ValueError(f"side is {self.side}; expected one or two sizes of at least 1")
        if min(self.std or (1.0,)) <= 0:
            raise ValueError(f"std is {list(self.std or ())}; every channel's must be above 0")

    def __iter__(self) -> Iterator[Tensor]:
        """The batches."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in self._normal)
        for start in range(0, len(self), self.batch):
            yield (self._stored(start, start + self.batch) / 255 - mean) / std

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._files)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What turns a picture into the network's input, in this order, as JSON."""
        mean, std = self._normal
        return {
            "channels": len(mean),
            "stored_side": list(self._files.side),
            "stored_dtype": "uint8",
            "scale": 1 / 255,
            "resize": "bilinear, the shorter side; cropped in the middle",
            "mean": list(mean),
            "std": list(std),
        }

    @cached_property
    def _files(self) -> ImageFiles:
        if self.path is None:
            raise ValueError("images have no path; give the folder of the pictures")
        root = Path(self.path)
        if not root.exists():
            raise FileNotFoundError(f"the folder of pictures {root} does not exist")
        if not root.is_dir():
            raise NotADirectoryError(f"{root} is a file; expected a folder of pictures")
        found = sorted(one for one in root.rglob("*") if one.suffix.lower() in ENDINGS and one.is_file())
        if not found:
            raise ValueError(f"{root} has no pictures in it or below; endings read: {' '.join(ENDINGS)}")
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
        first = opened(found[order[0]])
        side = (self.side, self.side) if isinstance(self.side, int) else self.side
        return ImageFiles(
            paths=tuple(found[place] for place in order),
            labels=torch.zeros(len(found), dtype=torch.long),
            names=("",),
            side=side or (first.size[1], first.size[0]),
            mode=self.mode or ("L" if first.mode in ("1", "L", "LA") else "RGB"),
            exact=side is None,
        )

    @cached_property
    def _normal(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the channels."""
        channels = 1 if self._files.mode == "L" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != channels:
                raise ValueError(f"{name} is {list(values)}; expected one number for each of {channels} channels")
        if self.normalise is None:
            return self.mean or (0.0,) * channels, self.std or (1.0,) * channels
        colours = self._stored(0, _MEASURED).transpose(0, 1).flatten(1).double() / 255
        mean, std = colours.mean(1).tolist(), colours.std(1, correction=0).clamp_min(1e-6).tolist()
        return self.mean or tuple(mean), self.std or tuple(std)

    def _stored(self, start: int, stop: int) -> Tensor:
        """`(n, c, *side)` uint8."""
        with ThreadPoolExecutor() as pool:
            return torch.stack(
                [one for one, _ in pool.map(self._files.__getitem__, range(start, min(stop, len(self))))]
            )
