"""Two tasks on volumes of real brains, for benchmarks/ranp.py: tissues of every voxel, and names of structures.

Both read NIfTI files of packages: nilearn 0.14.1 (PyPI; the averages of 152 brains) and mricron-data (Debian; one man's
brain, and the structures of the AAL atlas drawn on it). How to get them is in ranp.py.
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from networks3d import UNet3d, unet3d
from torch import Tensor, nn

from secateur.pruners.one_shot.fresh import fresh

FOLDER = Path(__file__).parents[1] / "build" / "ranp"
TEMPLATES = FOLDER / "usr" / "share" / "mricron" / "templates"
SIDE, BASE = 16, 16
STRUCTURES = {  # names of the AAL atlas, and its numbers of the left part; the right part has the next one
    "precentral": 1,
    "superior frontal": 3,
    "insula": 29,
    "mid cingulum": 33,
    "hippocampus": 37,
    "mid occipital": 51,
    "caudate": 71,
    "thalamus": 77,
    "mid temporal": 85,
    "cerebellum crus 1": 91,
}

Pairs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """What is learned: patches `(n, 1, side, side, side)` and labels, and how well, in per cent, a network does it."""

    training: Pairs
    test: Pairs
    make: Callable[[], nn.Module]
    quality: Callable[[nn.Module, Pairs], float]
    said: str
    batch: int

    def network(self, seed: int) -> nn.Module:
        """A network with weights drawn with this seed."""
        model = self.make()
        fresh(model, seed)
        return model.eval()


# --- tissues: a label for every voxel ---------------------------------------------------------------------------------


def tissues() -> Task:
    """Grey matter, white matter or the rest: the front half of the average head for training, the back half for tests.

    (Not left and right: this template is symmetric, each half is the mirror image of the other.)
    """
    wheels = sorted(FOLDER.glob("nilearn-*.whl"))
    if not wheels:
        raise SystemExit("no volumes; get them at the root with: pip download --no-deps nilearn==0.14.1 -d build/ranp")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        t1, grey, white = (
            nifti(wheel.read(f"nilearn/datasets/data/mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"))
            for kind in ("t1", "gm", "wm")
        )
    image = torch.from_numpy(t1 / 255).float()
    labels = torch.from_numpy(np.argmax(np.stack([255 - grey - white, grey, white]), axis=0))
    middle, end = image.shape[1] // 2, image.shape[1]
    return Task(
        patches(image, labels, (middle, end), 600, seed=1),
        patches(image, labels, (0, middle), 300, seed=2),
        lambda: unet3d(1, 3, base=BASE),
        mean_iou,
        "mIoU",
        batch=4,
    )


def patches(image: Tensor, labels: Tensor, y: tuple[int, int], count: int, seed: int) -> Pairs:
    """`(count, 1, side^3)` patches within this range of y and their labels; a third of each is brain at least."""
    generator = torch.Generator().manual_seed(seed)
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    low = torch.tensor([0, y[0], 0])
    room = torch.tensor([image.shape[0], y[1], image.shape[2]]) - low - SIDE
    while len(inputs) < count:
        corner = low + (torch.rand(3, generator=generator) * (room + 1)).long()
        cut = tuple(slice(int(c), int(c) + SIDE) for c in corner)
        if float((labels[cut] > 0).float().mean()) > 1 / 3:
            inputs.append(image[cut][None])
            targets.append(labels[cut])
    return torch.stack(inputs), torch.stack(targets)


@torch.no_grad()
def mean_iou(model: nn.Module, data: Pairs) -> float:
    """Mean over the classes of intersection over union of all test voxels, in per cent."""
    classes = 3
    table = torch.zeros(classes, classes)
    for inputs, targets in zip(data[0].split(16), data[1].split(16), strict=True):
        found = model(inputs).argmax(1)
        table += torch.bincount((targets * classes + found).flatten(), minlength=classes**2).view(classes, classes)
    hits = table.diagonal()
    return 100 * float((hits / (table.sum(0) + table.sum(1) - hits)).mean())


# --- structures: a label for every patch ------------------------------------------------------------------------------


class Encoder3d(nn.Module):
    """The way down of the 3D U-Net, a mean over the volume, and a linear layer."""

    def __init__(self, channels: int, classes: int, *, base: int) -> None:
        """`base` channels on the first of four levels."""
        super().__init__()
        unet: UNet3d = unet3d(channels, classes, base=base)
        self.down, self.pool = unet.down, unet.pool
        self.head = nn.Linear(8 * base, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, classes)` scores."""
        for number, level in enumerate(self.down):
            x = level(x if number == 0 else self.pool(x))
        return self.head(x.mean((2, 3, 4)))


def structures() -> Task:
    """In which of ten structures the middle of a patch of 32 mm lies: left half for training, the right one for tests.

    The right half is mirrored, so that both look alike: the same man, but no voxel of a test patch's middle was seen.
    """
    if not TEMPLATES.is_dir():
        raise SystemExit(
            "no volumes; get them in build/ranp with: apt-get download mricron-data && dpkg-deb -x mricron-data_*.deb ."
        )
    image, atlas = (nifti((TEMPLATES / f"{name}.nii.gz").read_bytes()) for name in ("ch2", "aal"))
    assert image.shape == atlas.shape and image.shape[0] % 2 == 1  # so that the middle of the head is a plane of voxels
    return Task(
        around(image, atlas, 0, 300, seed=1),
        around(image[::-1].copy(), atlas[::-1].copy(), 1, 150, seed=2),
        lambda: Encoder3d(1, len(STRUCTURES), base=BASE),
        accuracy,
        "accuracy",
        batch=8,
    )


def around(image: np.ndarray, atlas: np.ndarray, side: int, count: int, seed: int) -> Pairs:
    """`count` patches a structure of every second voxel, around voxels of its left (0) or right (1) part."""
    random = np.random.default_rng(seed)
    padded = np.pad(image / image.max(), SIDE)
    inputs, targets = [], []
    for label, number in enumerate(STRUCTURES.values()):
        inside = np.argwhere(atlas == number + side)
        for x, y, z in random.permutation(inside)[:count]:
            inputs.append(padded[x : x + 2 * SIDE : 2, y : y + 2 * SIDE : 2, z : z + 2 * SIDE : 2])
            targets.append(label)
    return torch.from_numpy(np.stack(inputs)).float()[:, None], torch.tensor(targets)


@torch.no_grad()
def accuracy(model: nn.Module, data: Pairs) -> float:
    """Patches that are told right, in per cent."""
    hits = [
        (model(inputs).argmax(1) == targets)
        for inputs, targets in zip(data[0].split(50), data[1].split(50), strict=True)
    ]
    return 100 * float(torch.cat(hits).float().mean())


# --- files ------------------------------------------------------------------------------------------------------------


def nifti(packed: bytes) -> np.ndarray:
    """The voxels of a NIfTI-1 file of unsigned bytes, as float32 in `(x, y, z)` order."""
    raw = gzip.decompress(packed)
    axes, *shape = struct.unpack_from("<8h", raw, 40)
    (kind,), (offset,) = struct.unpack_from("<h", raw, 70), struct.unpack_from("<f", raw, 108)
    if kind != 2:
        raise SystemExit(f"NIfTI data type {kind}; expected 2, unsigned bytes")
    shape = shape[:axes]
    flat = np.frombuffer(raw, np.uint8, math.prod(shape), int(offset))
    return flat.reshape(shape, order="F").astype(np.float32)
