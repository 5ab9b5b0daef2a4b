"""The neuron campaign: weights for a network of found widths, chosen among many candidates before any training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..examples import Examples, left_as_found

_MOST = 1000
_TRANSPOSED: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
}
_TRANSPOSED[nn.ConvTranspose3d] = F.conv_transpose3d
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


def campaign(
    model: nn.Module, examples: Examples, *, factor: int = 5, alpha: float = 0.5, seed: int = 0
) -> dict[str, str]:
    """Choose the weights of every layer but the last, in place; what was done by layer: Mao 2021 (CIKM).

    Layer by layer in forward order: `factor` times as many He normal candidates as the layer has units (1000 at most,
    never fewer than the units) see the examples through the layers chosen before. Each is scored by `separation` and
    belongs to the class it answers to most; `elected` takes equally many of each class. Biases become 0.

    The paper has linear layers only. The response of a convolution's candidate is the mean over places of its rectified
    map; batch norms take the statistics of the batch meanwhile. Layers in groups keep their weights.

    Args:
        model: a network, usually a fresh one of found widths.
        examples: batches whose targets are class numbers `(n,)`.
        factor: candidates for each unit.
        alpha: of `separation`.
        seed: of the candidates.

    Raises:
        ValueError: the targets are no class numbers.
    """
    if factor < 1 or not 0 <= alpha <= 1:
        raise ValueError(f"factor={factor}, alpha={alpha}: expected at least 1, and a number in [0, 1]")
    generator = torch.Generator().manual_seed(seed)
    report: dict[str, str] = {}
    with left_as_found(model), torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
        names, labels = _called(model, examples)
        for name in names[:-1]:
            layer = model.get_submodule(name)
            if getattr(layer, "groups", 1) > 1:
                report[name] = "kept: a convolution in groups"
                continue
            axis = 1 if type(layer) in _TRANSPOSED else 0
            weight: Tensor = layer.weight  # type: ignore[assignment]
            units = weight.shape[axis]
            count = max(units, min(factor * units, _MOST))
            candidates = _drawn(weight, axis, count, generator)
            responses = _responses(model, layer, examples, candidates)
            score, classes = separation(responses, labels.to(responses.device), alpha)
            chosen = elected(score, classes, candidates.movedim(axis, 0).flatten(1), units)
            weight.copy_(candidates.index_select(axis, chosen))
            if isinstance(layer.bias, Tensor):
                layer.bias.zero_()
            report[name] = f"{units} of {count} candidates"
    for name in names[-1:]:
        report[name] = "kept: the last layer"
    return report


def separation(responses: Tensor, labels: Tensor, alpha: float = 0.5) -> tuple[Tensor, Tensor]:
    """Score of each candidate, and the class it answers to most.

    `alpha * (std of the class means - mean std within a class) + (1 - alpha) * std of all`, each std divided by its
    largest over the candidates.

    Args:
        responses: `(n, candidates)`.
        labels: `(n,)` class numbers.
        alpha: weight of the classes against the plain spread.
    """
    of_class = [responses[labels == label].double() for label in torch.unique(labels)]
    means = torch.stack([one.mean(0) for one in of_class])
    between, overall = means.std(0, correction=0), responses.double().std(0, correction=0)
    within = torch.stack([one.std(0, correction=0) for one in of_class]).mean(0)
    between, within, overall = (one / one.max().clamp_min(1e-300) for one in (between, within, overall))
    return alpha * (between - within) + (1 - alpha) * overall, means.argmax(0)


def elected(score: Tensor, classes: Tensor, vectors: Tensor, count: int) -> Tensor:
    """`(count,)` numbers of the candidates chosen, ascending.

    The classes take turns; each time the candidate of the class is chosen that has the largest score times the norm of
    what is left of its direction after projecting out those chosen before. Scores count from the worst candidate's.
    Once nothing is left of any direction, all start again, but no copy of a chosen candidate is taken while there are
    others.

    Args:
        score: `(candidates,)`.
        classes: `(candidates,)` class of each.
        vectors: `(candidates, elements)` weights.
        count: how many are wanted.
    """
    merit = score.double() - score.double().min()
    merit = merit / merit.max().clamp_min(1e-300) + 1e-3
    directions = F.normalize(vectors.double(), dim=1)
    left = directions.clone()
    free = torch.ones(len(score), dtype=torch.bool, device=score.device)
    copies = torch.zeros_like(free)
    chosen: list[int] = []
    turns = torch.unique(classes).tolist()
    while len(chosen) < count:
        for turn in turns:
            mine = free & (classes == turn)
            if len(chosen) == count or not bool(mine.any()):
                continue
            if bool((mine & ~copies).any()):
                mine &= ~copies
            elif bool((free & ~copies).any()):
                continue
            if float(left[free & ~copies].norm(dim=1).max() if bool((free & ~copies).any()) else 0) < 1e-6:
                left = directions.clone()
            best = int(torch.where(mine, merit * left.norm(dim=1) + 1e-12, -1.0).argmax())
            chosen.append(best)
            free[best] = False
            copies |= (directions - directions[best]).norm(dim=1) < 1e-6
            axis = left[best] / left[best].norm().clamp_min(1e-300)
            if float(left[best].norm()) > 1e-6:
                left = left - torch.outer(left @ axis, axis)
    return torch.tensor(sorted(chosen), device=score.device)


class _Enough(Exception):
    """The layer has been called."""


@contextmanager
def _hooked(hooks: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _called(model: nn.Module, examples: Examples) -> tuple[list[str], Tensor]:
    """Layers in the order of their first call, and the class of every example."""
    order: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs: None if name in order else order.append(name)

    layers = {module: hook(name) for name, module in model.named_modules() if type(module) in _LAYERS}
    labels = []
    with _hooked(layers):
        for batch in examples.batches:
            targets = examples.forward(model, batch)[1]
            if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
                kind = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
                raise ValueError(f"the campaign needs class numbers (n,) as integers; the targets are {kind}")
            labels.append(targets)
    return order, torch.cat(labels)


def _drawn(weight: Tensor, axis: int, count: int, generator: torch.Generator) -> Tensor:
    """He normal candidates, shaped as the weight but `count` long along its axis of outputs."""
    shape = [count if number == axis else size for number, size in enumerate(weight.shape)]
    inputs = weight.numel() // weight.shape[axis]
    return torch.randn(shape, generator=generator).to(weight) * math.sqrt(2 / inputs)


def _responses(model: nn.Module, layer: nn.Module, examples: Examples, candidates: Tensor) -> Tensor:
    """`(n, candidates)` mean rectified response of every candidate to every example."""
    found: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maps = _applied(module, inputs[0], candidates).relu()
        maps = maps if isinstance(module, nn.Linear) else maps.movedim(1, -1)
        found.append(maps.reshape(len(maps), -1, candidates.shape[1 if type(module) in _TRANSPOSED else 0]).mean(1))
        raise _Enough

    with _hooked({layer: hook}):
        for batch in examples.batches:
            try:
                examples.outputs_of(model, batch)
            except _Enough:
                pass
    return torch.cat(found)


def _applied(layer: nn.Module, given: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(given, weight)
    if type(layer) in _TRANSPOSED:
        return _TRANSPOSED[type(layer)](
            given, weight, None, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        )
    return layer._conv_forward(given, weight, None)  # type: ignore[operator,no-any-return]  # knows the padding modes
