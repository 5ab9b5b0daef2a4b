"""GraNet for single weights: gradual magnitude pruning, and regeneration at no cost, as a callback of any loop.

It makes no smaller network, so it is no pruning method of a space: zeros alone save nothing on usual hardware. For
channels see `granet`. The functions are pure; `SparseMasks` calls them while the network trains.

Symbols: `s` sparsity, the share of weights that are zero; `r` the share of a layer's weights that move in an update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .schedules import cosine, cubic


def largest(weights: Sequence[Tensor], sparsity: float, *, strict: bool = False) -> list[Tensor]:
    """Masks of the `floor(N (1 - s))` largest magnitudes of all `N` weights together.

    Args:
        weights: of all layers; zeros count as pruned already.
        sparsity: share that goes.
        strict: keep what is strictly above the smallest of those only, one weight fewer, as the authors' CIFAR code.
    """
    every = torch.cat([weight.detach().abs().flatten() for weight in weights])
    count = min(len(every), math.floor(len(every) * (1 - sparsity) + 1e-9))
    order = torch.sort(every, descending=True, stable=True).indices[:count]
    kept = torch.zeros(len(every), dtype=torch.bool, device=every.device)
    kept[order] = True
    if strict and count:
        kept &= every > every[order[-1]]
    return [part.view_as(w) for part, w in zip(torch.split(kept, [w.numel() for w in weights]), weights, strict=True)]


def regenerate(weight: Tensor, mask: Tensor, gradient: Tensor, ratio: float) -> Tensor:
    """The mask with as many weights elsewhere: `ceil(r nnz)` of the smallest go, as many of largest gradient come.

    What has just gone may come back.

    Args:
        weight: of one layer.
        mask: which of it are active.
        gradient: of the loss, dense: not masked.
        ratio: r.
    """
    flat, magnitude = mask.flatten().clone(), weight.detach().abs().flatten()
    active = flat.nonzero().flatten()
    count = math.ceil(ratio * len(active) - 1e-9)
    if not count:
        return mask.clone()
    flat[active[torch.argsort(magnitude[active], stable=True)[:count]]] = False
    inactive = (~flat).nonzero().flatten()
    order = torch.argsort(gradient.detach().abs().flatten()[inactive], descending=True, stable=True)
    flat[inactive[order[:count]]] = True
    return flat.view_as(mask)


def erdos_renyi(shapes: Sequence[Sequence[int]], density: float) -> list[float]:
    """Density of each layer, proportional to `sum of dimensions / product of dimensions`, none above 1.

    The share of all weights that stay is `density`.

    Args:
        shapes: of the layers' weights.
        density: 0..1.
    """
    sizes = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        wanted = density * sum(sizes) - sum(sizes[i] for i in dense)
        rest = sum(raw[i] * sizes[i] for i in range(len(sizes)) if i not in dense)
        scale = wanted / rest if rest else 0.0
        over = {i for i in range(len(sizes)) if i not in dense and raw[i] * scale > 1}
        if not over:
            return [1.0 if i in dense else max(0.0, raw[i] * scale) for i in range(len(sizes))]
        dense |= over


class SparseMasks:
    """GraNet, Liu 2021 (arXiv 2106.10404), as a callback: weights of at least two axes become sparse while they train.

    Deviations: the last pruning step has the final sparsity exactly, and of equal magnitudes exactly as many stay as
    are asked for; the authors' code ends at `s_f - (s_f - s_i) / n^3`, one weight fewer.

    Attributes:
        masks: `{parameter: which weights are active}`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        final: float = 0.9,
        initial: float = 0.0,
        ratio: float = 0.5,
        last_ratio: float = 0.005,
        until: float = 0.5,
        every: int | None = None,
        seed: int = 0,
    ) -> None:
        """Nothing is masked before `prepare`.

        Args:
            model: what is trained.
            final: sparsity at the end.
            initial: sparsity at the start; above 0 the first masks are random with densities of `erdos_renyi`.
            ratio: share of a layer's weights that move in the first update; 0 is gradual magnitude pruning.
            last_ratio: the same in the last, where `ratio` is above it.
            until: share of the training after which the sparsity is the final one.
            every: steps between updates; None: 60 updates in all.
            seed: of the first masks.
        """
        for name, value in (("final", final), ("initial", initial), ("ratio", ratio), ("last_ratio", last_ratio)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}: expected a share in [0, 1)")
        if initial > final:
            raise ValueError(f"initial={initial!r} is above final={final!r}; sparsity rises")
        if not 0 < until <= 1:
            raise ValueError(f"until={until!r}: expected a share in (0, 1]")
        if every is not None and every < 1:
            raise ValueError(f"every={every!r}: expected at least 1")
        self._final, self._initial, self._ratio, self._last = final, initial, ratio, min(ratio, last_ratio)
        self._until, self._every, self._seed = until, every, seed
        self._weights = {name: p for name, p in model.named_parameters() if p.ndim > 1 and p.requires_grad}
        if not self._weights:
            raise ValueError("the model has no trainable weight of two or more axes; there is nothing to make sparse")
        self.masks: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}

    def prepare(self, loop: Any) -> None:
        """The first masks."""
        generator = torch.Generator().manual_seed(self._seed)
        densities = erdos_renyi([tuple(weight.shape) for weight in self._weights.values()], 1 - self._initial)
        self.masks = {
            name: (torch.rand(weight.shape, generator=generator) < density).to(weight.device)
            for (name, weight), density in zip(self._weights.items(), densities, strict=True)
        }
        self._hold(loop)

    def after_backward(self, loop: Any) -> None:
        """Keep the gradients of the step before an update, as they are before they are clipped."""
        self._gradients = {}
        if self._due(loop.step + 1, loop.steps):
            self._gradients = {
                name: torch.zeros_like(weight)
                if weight.grad is None
                else weight.grad.detach().nan_to_num(0.0, 0.0, 0.0)
                for name, weight in self._weights.items()
            }

    def after_step(self, loop: Any) -> None:
        """Hold the zeros; prune and regenerate where it is time."""
        self._hold(loop)
        if not self._due(loop.step, loop.steps):
            return
        if loop.step <= self._end(loop.steps):
            sparsity = cubic(self._initial, self._final, loop.step / self._end(loop.steps))
            found = largest([weight.detach() for weight in self._weights.values()], sparsity)
            self.masks = {n: m & self.masks[n] for n, m in zip(self._weights, found, strict=True)}
        ratio = cosine(self._ratio, self._last, loop.step / loop.steps)
        for name, weight in self._weights.items():
            self.masks[name] = regenerate(weight, self.masks[name], self._gradients[name], ratio)
        self._hold(loop)

    def state(self) -> dict[str, Any]:
        """The masks, as copies."""
        return {"masks": {name: mask.cpu().clone() for name, mask in self.masks.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.masks = {name: mask.to(self._weights[name].device).clone() for name, mask in state["masks"].items()}

    @property
    def sparsity(self) -> float:
        """Share of the weights that are masked."""
        return 1 - sum(int(m.sum()) for m in self.masks.values()) / sum(m.numel() for m in self.masks.values())

    def _end(self, steps: int) -> int:
        return max(1, int(self._until * steps))

    def _due(self, step: int, steps: int) -> bool:
        every = self._every or max(1, round(steps / 60))
        return step > 0 and (step % every == 0 or step == self._end(steps))

    def _hold(self, loop: Any) -> None:
        with torch.no_grad():
            for name, weight in self._weights.items():
                mask = self.masks[name] = self.masks[name].to(weight.device)
                weight.mul_(mask)
                for moment in loop.optimizer.state.get(weight, {}).values():
                    if isinstance(moment, Tensor) and moment.shape == weight.shape:
                        moment.mul_(mask)
