"""Light augmentation of a batch on its device: shifts, turns, zooms and mirror images, one affine map an example."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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
