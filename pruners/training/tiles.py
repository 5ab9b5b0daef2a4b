"""MLPruning's second step: blocks of single matrices become zero while they train, as a callback of any loop.

It makes no smaller network, so it is no pruning method of a space: only a kernel that skips zero blocks saves their
multiply-adds, and the usual ones do not. Start at `TileMasks`.

Symbols: a weight is `(out, in)`; its tiles are `(rows, columns)`, those at the far borders filled up with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...spaces import Space
from .thresholds import Thresholds, rate_for, slope

Size = tuple[int, int]


def tile_sums(weight: Tensor, size: Size) -> Tensor:
    """`(rows, columns)` the sum over each tile of a matrix."""
    rows, columns = (math.ceil(have / one) for have, one in zip(weight.shape, size, strict=True))
    padded = F.pad(weight, (0, columns * size[1] - weight.shape[1], 0, rows * size[0] - weight.shape[0]))
    return padded.view(rows, size[0], columns, size[1]).sum((1, 3))


def spread(tiles: Tensor, shape: tuple[int, ...], size: Size) -> Tensor:
    """`(out, in)` what each entry's tile holds."""
    return tiles.repeat_interleave(size[0], 0).repeat_interleave(size[1], 1)[: shape[0], : shape[1]]


class TileMasks:
    """The blocks of MLPruning, Yao 2021 (arXiv 2105.14636): every matrix learns scores of its tiles and a threshold.

    Matrices are the trainable weights of two axes that are as large as a tile, embeddings left out. Deviations: as of
    `MLPruning`; the teacher is the loop's own, such as the network before this step.

    Attributes:
        masks: `{parameter: (rows, columns) which tiles stay}`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        size: Size = (16, 16),
        density: float = 0.4,
        ignore: Collection[str] = (),
        rate: float | None = None,
        pressure: float = 20_000.0,
        until: float = 0.6,
    ) -> None:
        """Nothing is masked at first.

        Args:
            model: what is trained.
            size: rows and columns of a tile.
            density: share of the tiles that stay, of all matrices together.
            ignore: names of parameters to leave whole.
            rate: of scores and thresholds, falling to zero; None: as of `MLPruning`.
            pressure: of the penalty.
            until: share of the training after which what stays is settled.
        """
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size={size!r}: expected rows and columns of a tile, such as (16, 16)")
        for name, value in (("density", density), ("until", until)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}={value!r}: expected a share in (0, 1]")
        tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        self._weights = {
            name: p
            for name, p in model.named_parameters()
            if p.ndim == 2 and p.requires_grad and id(p) not in tables and name not in ignore
            if p.shape[0] >= size[0] and p.shape[1] >= size[1]
        }
        if not self._weights:
            raise ValueError(f"the model has no trainable matrix as large as a tile of {size[0]} x {size[1]}; lower it")
        self._size, self._density, self._rate, self._pressure, self._until = size, density, rate, pressure, until
        squares = [tile_sums(weight.detach().square(), size) for weight in self._weights.values()]
        self._learned = Thresholds([one.flatten() for one in squares])
        self.masks = {
            name: torch.ones_like(one, dtype=torch.bool) for name, one in zip(self._weights, squares, strict=True)
        }
        self._kept: dict[str, Tensor] = {}
        self._settled = False

    def after_backward(self, loop: Any) -> None:
        """Move scores and thresholds; what is closed gets no gradient."""
        end, full = self._end(loop.steps), self._full()
        if not self._settled and loop.step < end:
            found = {
                name: torch.zeros_like(weight) if weight.grad is None else weight.grad.nan_to_num(0.0, 0.0, 0.0)
                for name, weight in self._weights.items()
            }
            gradients = [tile_sums(found[name] * full[name], self._size).flatten() for name in self._weights]
            tiles = torch.tensor([float(len(one)) for one in gradients], dtype=torch.float64)
            parts = tiles / tiles.sum()
            density = float((self._learned.shares * parts).sum())
            by_density = slope(density, self._density, self._pressure) if self._density < 1 else 0.0
            rate = self._rate or rate_for(end)
            self._learned.step(gradients, by_density * parts, rate * (1 - loop.step / end))
        for name, weight in self._weights.items():
            if weight.grad is not None:
                weight.grad.masked_fill_(~self._open(name), 0)

    def after_step(self, loop: Any) -> None:
        """Hold the zeros; close and open what the scores say, and settle it where it is time."""
        if not self._settled:
            self._put(self._learned.kept())
        if not self._settled and loop.step >= self._end(loop.steps):
            self._settle()
        self._hold(loop)

    def finalise(self, loop: Any) -> None:
        """Where the training was too short, settle."""
        if not self._settled:
            self._settle()
        self._hold(loop)

    def state(self) -> dict[str, Any]:
        """What is open, and the weights behind the zeros, as copies."""
        return {
            "masks": {name: mask.cpu().clone() for name, mask in self.masks.items()},
            "kept": {name: kept.detach().cpu().clone() for name, kept in self._kept.items()},
            "learned": self._learned.state(),
            "settled": self._settled,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.masks = {name: mask.to(self._weights[name].device).clone() for name, mask in state["masks"].items()}
        self._kept = {name: kept.to(self._weights[name].device).clone() for name, kept in state["kept"].items()}
        self._learned.restore(state["learned"])
        self._settled = bool(state["settled"])

    @property
    def density(self) -> float:
        """Share of the tiles that stay."""
        return sum(int(m.sum()) for m in self.masks.values()) / sum(m.numel() for m in self.masks.values())

    def costs(self, space: Space) -> dict[str, float]:
        """Multiply-adds and parameters of the network if zero blocks were skipped; usual kernels skip none.

        Args:
            space: the traced space of the network that was trained.
        """
        full = space.full_costs
        zeros = {name: 1 - float(self._open(name).double().mean()) for name in self.masks}
        macs = full["macs"] - sum(layer.macs * zeros.get(layer.weight, 0.0) for layer in space.layers)
        params = full["params"] - sum(zeros[name] * weight.numel() for name, weight in self._weights.items())
        return {"macs": macs, "params": params}

    def _end(self, steps: int) -> int:
        return max(1, int(self._until * steps))

    def _open(self, name: str) -> Tensor:
        weight = self._weights[name]
        return spread(self.masks[name].to(weight.device), tuple(weight.shape), self._size)

    def _full(self) -> dict[str, Tensor]:
        """The weights with what is behind the zeros."""
        return {
            name: torch.where(self._open(name), weight.detach(), self._kept[name].to(weight.device))
            if name in self._kept
            else weight.detach().clone()
            for name, weight in self._weights.items()
        }

    def _put(self, kept: list[Tensor]) -> None:
        masks = dict(zip(self._weights, kept, strict=True))
        self._kept = self._full()
        self.masks = {
            name: masks[name].view_as(mask).to(self._weights[name].device) for name, mask in self.masks.items()
        }
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(self._kept[name] * self._open(name))

    def _settle(self) -> None:
        tiles = sum(mask.numel() for mask in self.masks.values())
        shift = self._learned.settled(lambda kept: sum(int(one.sum()) for one in kept) <= self._density * tiles)
        self._put(self._learned.kept(shift))
        self._settled = True

    def _hold(self, loop: Any) -> None:
        with torch.no_grad():
            for name, weight in self._weights.items():
                mask = self._open(name)
                weight.mul_(mask)
                for moment in loop.optimizer.state.get(weight, {}).values():
                    if isinstance(moment, Tensor) and moment.shape == weight.shape:
                        moment.mul_(mask)
