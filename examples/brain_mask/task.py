"""The task: volumes with the full network's masks. The error is one minus the Dice overlap with them."""

import hashlib
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from data import dice, scaled
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor, tuple[int, ...], bool]


@dataclass
class DiceError:
    """One minus the mean overlap of the volumes."""

    errors: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Volumes seen."""
        return len(self.errors)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        found = outputs.argmax(1) == 1
        self.errors += [1 - dice(one, mask > 0.5) for one, mask in zip(found, targets, strict=True)]

    def compute(self) -> float:
        """The mean."""
        return statistics.mean(self.errors)

    def std(self) -> float:
        """Its standard error over the volumes."""
        return statistics.stdev(self.errors) / self.count**0.5 if self.count > 1 else 0.0


@dataclass(frozen=True)
class BrainMask:
    """Splits of `(n, 1, s, s, s)` uint8 volumes and `(n, s, s, s)` masks, one volume a batch."""

    splits: Mapping[str, tuple[Tensor, Tensor]]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the data."""
        digest = hashlib.sha256(b"Dice of the brain")
        for tensors in self.splits.values():
            digest.update(b"".join(tensor.numpy().tobytes() for tensor in tensors))
        return digest.hexdigest()[:16]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a volume goes through, as JSON."""
        return {"scale": 1 / 255, "resize": "area", "mean": 0.449, "std": 0.226, "statistics": "of each volume"}

    @property
    def sizes(self) -> dict[str, int]:
        """Volumes a split."""
        return {name: len(masks) for name, (_, masks) in self.splits.items()}

    def loader(self, split: str, resolution: tuple[int, ...] | None, seed: int | None) -> list[Batch]:
        """A volume a batch; the training split in an order by the seed."""
        images, masks = self.splits[split]
        order = torch.randperm(len(masks), generator=torch.Generator().manual_seed(seed or 0)).tolist()
        side, training = resolution or tuple(masks.shape[1:]), split == "train"
        return [
            (images[i : i + 1], masks[i : i + 1], side, training) for i in (order if training else range(len(masks)))
        ]

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """`(1, 2, s, s, s)` scores and `(1, s, s, s)` masks, at the network's side in training, else at the masks'."""
        image, mask, side, training = batch
        device = next(model.parameters()).device
        x, targets = image.to(device) / 255, mask.to(device).float()
        outputs = model(scaled(F.interpolate(x, side, mode="area"), [0.0, 1.0]))
        if training:  # a voxel's share of brain says more than the nearest of the small ones in it
            return outputs, F.interpolate(targets[None], side, mode="area")[0]
        return F.interpolate(outputs, tuple(targets.shape[1:]), mode="trilinear"), targets

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the voxels."""
        return F.binary_cross_entropy_with_logits(outputs[:, 1] - outputs[:, 0], targets)

    def error(self) -> DiceError:
        """Nothing seen yet."""
        return DiceError()
