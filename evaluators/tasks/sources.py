"""The examples of a split, and their batches. A source that is no pair of tensors in memory is in `decoded.py`.

`Augment` moves a batch on its device: shifts, turns, zooms and mirror images, one affine map an example.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modes import derived_seed
from .batches import bounds
from .loading import Rows
from .task import Side


class Source(Protocol):
    """The examples of one split."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    @property
    def batch(self) -> int | None:
        """Examples a batch, where the source has its own batches; None leaves it to the task."""
        ...

    def count(self, batch: int | None, train: bool) -> int:
        """Number of batches of a pass, of so many examples; None: of its own."""
        ...

    def batches(self, batch: int | None, train: bool, seed: int | None) -> Iterator[Rows]:
        """A pass; training ones are shuffled, and the last batch of theirs is left out where it is smaller.

        The same arguments give the same batches. The seed None is one fixed mixed order for training (stored images
        are often sorted by class, and the first few of them must be able to stand for all).
        """
        ...

    def sample(self, count: int) -> tuple[Tensor, Tensor, list[int]]:
        """So many images, targets and their places, from all over the split."""
        ...

    def known(self) -> tuple[Tensor, list[int]]:
        """`(n, ...)` targets that can be looked at now, and their places."""
        ...

    def digest(self) -> bytes:
        """A hash of what it holds."""
        ...

    @property
    def targets(self) -> Tensor | None:
        """All `(n, ...)` targets, where they are in memory."""
        ...

    @property
    def still(self) -> bool:
        """Whether every pass shows the same images, in places that are known."""
        ...


@dataclass(frozen=True)
class Batch:
    """Some examples as they are stored, and what is to be done with them on the device.

    Attributes:
        inputs: `(n, c, *sides)` stored images.
        targets: `(n, ...)` stored targets.
        split: where they come from.
        resolution: the side to resize to; None leaves the stored one.
        seed: of the augmentation; None augments nothing.
        indices: `(n,)` places in the split; None where they are not known.
        start: where it begins in the batch that it is a part of.
        whole: examples of that batch; None where it is a batch itself.
    """

    inputs: Tensor
    targets: Tensor
    split: str
    resolution: Side | None
    seed: int | None
    indices: Tensor | None = None
    start: int = 0
    whole: int | None = None

    def in_parts(self, parts: int) -> list[tuple[Batch, int]]:
        """The batch in so many parts, each with its number of examples, which are augmented as in the whole."""
        return [
            (
                replace(
                    self,
                    inputs=self.inputs[start:stop],
                    targets=self.targets[start:stop],
                    indices=None if self.indices is None else self.indices[start:stop],
                    start=self.start + start,
                    whole=self.whole or len(self.inputs),
                ),
                stop - start,
            )
            for start, stop in bounds(len(self.inputs), parts)
        ]


class Batches:
    """The batches of one split, with a length, and the same ones at every iteration.

    With a seed the training split is shuffled and augmented. Without, it comes as it is stored, in one fixed mixed
    order (stored images are often sorted by class, and the first few of them must be able to stand for all).
    Its last batch is left out when it is smaller than the others. The other splits come whole and in their order.
    """

    def __init__(
        self, source: Source, split: str, *, resolution: Side | None, seed: int | None, batch: int | None
    ) -> None:
        """Nothing is read before the first iteration; the batch None leaves its size to the source."""
        self._source, self._split, self._resolution, self._seed, self._batch = source, split, resolution, seed, batch

    def __len__(self) -> int:
        """Number of batches."""
        return self._source.count(self._batch, self._split == "train")

    def __iter__(self) -> Iterator[Batch]:
        """The batches."""
        train = self._split == "train"
        rows = self._source.batches(self._batch, train, self._seed)
        for number, (inputs, targets, chosen) in enumerate(rows):
            seed = derived_seed(self._seed, number) if train and self._seed is not None else None
            yield Batch(inputs, targets, self._split, self._resolution, seed, chosen)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How far each training example may be moved; all zeros moves nothing.

    Attributes:
        shift: largest shift along each axis, as a fraction of that side.
        rotate: largest turn, in degrees, in the plane of the last two axes.
        scale: largest relative zoom in or out.
        flip: whether half of the examples are mirrored along the last axis.
        padding: what comes in from outside: "zeros", "border" or "reflection".
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False
    padding: str = "zeros"

    def __post_init__(self) -> None:
        """Refuse what no image survives."""
        for name, limit in (("shift", 1.0), ("rotate", 180.0), ("scale", 0.9)):
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ValueError(f"augment {name}={value} is outside 0..{limit:g}")
        if self.padding not in ("zeros", "border", "reflection"):
            raise ValueError(f"augment padding={self.padding!r}; expected 'zeros', 'border' or 'reflection'")

    def maps(self, n: int, sides: int, generator: torch.Generator) -> Tensor:
        """`(n, sides, sides + 1)` affine maps, drawn on the generator's device (the CPU: alike on every device)."""
        draws = 2 * torch.rand(n, sides + 3, generator=generator) - 1
        zoom, turn, mirror = 1 + self.scale * draws[:, 0], draws[:, 1] * self.rotate * torch.pi / 180, draws[:, 2]
        maps = torch.eye(sides, sides + 1).repeat(n, 1, 1)
        if sides > 1:  # the last two axes of the image are the first two of an affine map
            maps[:, 0, 0] = maps[:, 1, 1] = turn.cos()
            maps[:, 1, 0] = turn.sin()
            maps[:, 0, 1] = -maps[:, 1, 0]
        maps[:, :, :sides] *= zoom[:, None, None]
        maps[:, :, sides] = 2 * self.shift * draws[:, 3:]  # the coordinates of a side run from -1 to 1
        if self.flip:
            maps[:, :, 0] *= mirror.sign().where(mirror != 0, 1.0)[:, None]
        return maps

    def images(self, images: Tensor, maps: Tensor) -> Tensor:
        """`(n, c, *sides)` floating images moved by the maps, bilinear."""
        return _moved(images, maps, mode="bilinear", padding=self.padding)

    def masks(self, masks: Tensor, maps: Tensor, *, outside: int) -> Tensor:
        """`(n, *sides)` integer masks moved by the maps, nearest; what comes in from outside is labelled `outside`."""
        from_one = (masks + 1).unsqueeze(1).to(torch.float32)  # so that the padding's zero is no label
        moved = _moved(from_one, maps, mode="nearest", padding=self.padding).squeeze(1).round().to(masks.dtype)
        return torch.where(moved == 0, outside, moved - 1)


def _moved(images: Tensor, maps: Tensor, *, mode: str, padding: str) -> Tensor:
    maps = maps.to(images.device, images.dtype)
    if images.ndim == 3:  # grid_sample knows 2D and 3D: a signal is an image one pixel high
        wide = torch.eye(2, 3, dtype=maps.dtype, device=maps.device).repeat(len(maps), 1, 1)
        wide[:, 0, 0], wide[:, 0, 2] = maps[:, 0, 0], maps[:, 0, 1]
        return _moved(images.unsqueeze(2), wide, mode=mode, padding=padding).squeeze(2)
    # PyTorch 2.13's affine_grid multiplies in half precision under autocast, which would blur the images.
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=False)


def resized(images: Tensor, side: Side) -> Tensor:
    """`(n, c, *sides)` floating images at another side, without aliasing; nothing is done where the side is right."""
    if tuple(images.shape[2:]) == side:
        return images
    if len(side) == 2:
        return F.interpolate(images, size=side, mode="bilinear", antialias=True, align_corners=False)
    if all(new <= old for new, old in zip(side, images.shape[2:], strict=True)):
        return F.interpolate(images, size=side, mode="area")  # PyTorch 2.13 antialiases images only
    return F.interpolate(images, size=side, mode={1: "linear", 3: "trilinear"}[len(side)], align_corners=False)


class Indexed(ABC):
    """A source whose examples are fetched by their places, in an order of ours."""

    batch = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """`(n, c, *sides)` images and `(n, ...)` targets of these places."""

    def count(self, batch: int | None, train: bool) -> int:
        """See `Source`."""
        batch = batch or 1
        return len(self) // batch if train and len(self) >= batch else math.ceil(len(self) / batch)

    def order(self, batch: int | None, train: bool, seed: int | None) -> list[Tensor]:
        """The places of every batch."""
        places = torch.arange(len(self))
        if train:
            places = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed or 0))
        batch = batch or 1
        return [places[number * batch : (number + 1) * batch] for number in range(self.count(batch, train))]

    def batches(self, batch: int | None, train: bool, seed: int | None) -> Iterator[Rows]:
        """See `Source`."""
        for chosen in self.order(batch, train, seed):
            yield *self.fetch(chosen.tolist()), chosen

    def sample(self, count: int) -> tuple[Tensor, Tensor, list[int]]:
        """See `Source`."""
        places = list(range(0, len(self), max(1, len(self) // count)))[:count]
        return *self.fetch(places), places


class Stored(Indexed):
    """A pair of tensors in memory."""

    still = True

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        """Keep them where they are."""
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.inputs)

    def fetch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """`(n, c, *sides)` images and `(n, ...)` targets of these places."""
        return self.inputs[indices], self.targets[indices]

    def known(self) -> tuple[Tensor, list[int]]:
        """All targets."""
        return self.targets, list(range(len(self)))

    def digest(self) -> bytes:
        """A hash of every byte."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            digest.update(repr((tensor.shape, tensor.dtype)).encode())
            digest.update(tensor.flatten().contiguous().view(torch.uint8).numpy().data)
        return digest.digest()
