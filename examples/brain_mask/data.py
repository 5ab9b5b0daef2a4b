"""Real heads, the way deepbet's package prepares them, and moved copies of a head with the full network's masks."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

HEADS = {
    "Colin27": "usr/share/mricron/templates/ch2.nii.gz",
    "ICBM 2009a": "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
}
NETWORK, BOX_NETWORK = "data/models/model.pt", "data/models/bbox_model.pt"


class Head:
    """A volume of 1 mm voxels with the box around its brain.

    Attributes:
        volume: `(x, y, z)` intensities.
        range: its 0.5 and 99.5 percent quantiles.
        box: three slices, a tenth wider on each side than the brain that `boxes` sees.
    """

    def __init__(self, volume: Tensor, boxes: nn.Module) -> None:
        self.volume = volume
        small = F.interpolate(volume[None, None], (128,) * 3, mode="nearest-exact")
        self.range = [float(small.quantile(share)) for share in (0.005, 0.995)]
        brain = cleaned(brain_of(boxes, scaled(small, self.range)))[0]
        if not brain.any():
            raise ValueError("the network sees no brain in the volume; give the head of a human, x to the right, z up")
        ends = [torch.where(brain.float().mean(others) > 0.02)[0][[0, -1]] for others in ((1, 2), (0, 2), (0, 1))]
        low, high = torch.stack([end + torch.tensor([0, 1]) for end in ends]).T * torch.tensor(volume.shape) / 128
        center, half = ((low + high) / 2).round(), (1.2 * (high - low)).round() / 2
        self.box = [
            slice(max(0, int(c - h)), min(n, int(c + h))) for c, h, n in zip(center, half, volume.shape, strict=True)
        ]

    def at(self, side: int) -> Tensor:
        """`(1, 1, side, side, side)` the box as it is, ready for the network."""
        inside = F.interpolate(self.volume[tuple(self.box)][None, None], (side,) * 3, mode="nearest-exact")
        return scaled(inside, self.range)

    def moved(self, what: Tensor, seed: int, side: int) -> Tensor:
        """`(1, 1, side, side, side)` the box of a volume such as the head's, turned, shifted and scaled at random.

        By up to 15 degrees an axis, by up to 8 mm, and by 0.95 to 1.1. The same seed gives the same copy at any side.
        """
        random, size = np.random.default_rng(seed), np.array(what.shape)
        turns, shift = random.uniform(-15, 15, 3) * math.pi / 180, random.uniform(-8, 8, 3)
        low, high = np.array([[one.start, one.stop] for one in self.box]).T
        turn = np.eye(3)
        for axis, angle in enumerate(turns):
            turn = turn @ np.roll(_turned(angle), (axis, axis), (0, 1))
        grow = np.diag((high - low) / 2 * random.uniform(0.95, 1.1))  # half the box in millimetres, a coordinate of 1
        maps = np.column_stack([2 / size[:, None] * (turn @ grow), 2 / size * ((low + high) / 2 + shift) - 1])
        maps = np.ascontiguousarray(maps[::-1, [2, 1, 0, 3]])  # grid_sample counts the last axis first
        grid = F.affine_grid(torch.from_numpy(maps).float()[None], [1, 1, side, side, side], align_corners=False)
        return F.grid_sample(what[None, None], grid, align_corners=False)

    def put_back(self, mask: Tensor) -> Tensor:
        """`(x, y, z)` a mask of the box, of any side, in the volume; cleaned."""
        shape, whole = [one.stop - one.start for one in self.box], torch.zeros(self.volume.shape, dtype=torch.bool)
        whole[tuple(self.box)] = cleaned(F.interpolate(mask[None].byte(), shape, mode="nearest-exact")[0])[0]
        return whole


def read(file: Path) -> Tensor:
    """`(x, y, z)` intensities of a NIfTI file, x to the right, y to the front, z up."""
    import nibabel

    found = nibabel.as_closest_canonical(nibabel.load(file))
    return torch.from_numpy(found.get_fdata(dtype=np.float32))


def unit(x: Tensor, ends: list[float]) -> Tensor:
    """Intensities between two ends as 0 to 1, clipped."""
    return ((x - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)


def scaled(x: Tensor, ends: list[float]) -> Tensor:
    """Intensities as the network was trained: clipped, then of mean 0.449 and standard deviation 0.226."""
    x = unit(x, ends)
    return 0.226 * (x - x.mean()) / x.std() + 0.449


@torch.no_grad()
def brain_of(model: nn.Module, x: Tensor) -> Tensor:
    """`(n, s, s, s)` whether a voxel is brain, by the network alone."""
    return model(x).argmax(1) == 1


def cleaned(masks: Tensor) -> Tensor:
    """`(n, x, y, z)` masks' largest pieces, without holes."""
    result = []
    for mask in masks.numpy():
        pieces, count = ndimage.label(mask)
        largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel(), minlength=count + 1)[1:]) if count else mask
        result.append(torch.from_numpy(ndimage.binary_fill_holes(largest)))
    return torch.stack(result)


def copies(head: Head, seeds: Iterable[int], side: int, *, mask: Tensor) -> tuple[Tensor, Tensor]:
    """`(n, 1, s, s, s)` uint8 copies, one a seed, and `(n, s, s, s)` masks: the head's own, moved along."""
    images = [unit(head.moved(head.volume, seed, side), head.range) for seed in seeds]
    masks = [head.moved(mask.float(), seed, side)[0, 0] > 0.5 for seed in seeds]
    return (255 * torch.cat(images)).round().byte(), torch.stack(masks).byte()


def judged(head: Head, seeds: Iterable[int], side: int, *, teacher: nn.Module, at: int) -> tuple[Tensor, Tensor]:
    """The same with the masks that the teacher gives every copy, which it sees at its own side."""
    images = [unit(head.moved(head.volume, seed, side), head.range) for seed in seeds]
    masks = [brain_of(teacher, scaled(head.moved(head.volume, seed, at), head.range)) for seed in seeds]
    masks = [cleaned(F.interpolate(mask[None].byte(), (side,) * 3, mode="nearest-exact")[0])[0] for mask in masks]
    return (255 * torch.cat(images)).round().byte(), torch.stack(masks).byte()


def dice(a: Tensor, b: Tensor) -> float:
    """Overlap of two masks, 1 where they agree."""
    return 2 * float((a & b).sum()) / max(1.0, float(a.sum() + b.sum()))


def _turned(angle: float) -> np.ndarray:
    """A rotation around the last axis."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
