"""What each unit answers to most, by ascent from noise, and how much the network's answer depends on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Group, Layer, Scores, Space
from ..criteria.filters import by_group, layers_of
from ..examples import Examples, first_output, left_as_found

Ids = npt.NDArray[np.int64]
logger = logging.getLogger("secateur")


def patterns(
    model: nn.Module, space: Space, group: Group, *, steps: int, rate: float, batch: int, seed: int
) -> Tensor | None:
    """`(units, elements)` the input that each unit of a group answers to most, in float64.

    Ascent on the unit's mean activation, summed over the layers that make it; every unit starts from the same noise,
    and each step is as long as `rate` times the root of the number of elements. None where the inputs have no
    gradients or the network does not take a batch of another size.

    Args:
        model: the full network.
        space: its traced space.
        group: whose units.
        steps: of the ascent.
        rate: root mean square change of an input element in one step.
        batch: units at once.
        seed: of the noise.
    """
    layers = [layer for layer in layers_of(space, group) if not layer.depthwise] or layers_of(space, group)
    names = {layer.name for layer in layers}
    made_by = {layer.name: layer for layer in space.layers if layer.name in names}
    called, example = space.call(model, space.full)
    noise = [_noise(one, seed + number) for number, one in enumerate(example)]
    if not names or not any(one.is_floating_point() for one in noise):
        return None
    found = []
    with left_as_found(model):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for first in range(0, group.units, batch):
            units = group.first + np.arange(first, min(first + batch, group.units))
            inputs = [one.expand(len(units), *one.shape[1:]).clone() for one in noise]
            try:
                for _ in range(steps):
                    inputs = _ascended(model, called, made_by, inputs, units, rate)
            except (RuntimeError, ValueError) as error:
                logger.info("%s: no ascent (%s)", group.name, str(error).partition("\n")[0])
                return None
            moved = [one.flatten(1).double().cpu() for one in inputs if one.is_floating_point()]
            found.append(torch.cat(moved, dim=1))
    return torch.cat(found)


def contributions(model: nn.Module, space: Space, examples: Examples) -> Scores:
    """Mean over images and places of `|dy/dA|` of each unit; `y` is the network's largest class output.

    Summed over the layers that make the unit; of several outputs the first counts.
    """
    total = np.zeros(space.units)
    names = list(dict.fromkeys(layer.name for layer in space.layers))
    of = {layer.name: layer for layer in space.layers}
    with left_as_found(model), _kept(model, names) as outputs:
        for one in examples.batches:
            outputs.clear()
            with torch.enable_grad():
                answers = first_output(examples.outputs_of(model, one)).amax(1)
                tensors = [(name, tensor) for name, tensor in outputs if tensor.requires_grad]
                slopes = torch.autograd.grad(answers.sum(), [tensor for _, tensor in tensors], allow_unused=True)
            for (name, _), slope in zip(tensors, slopes, strict=True):
                ids = of[name].makes
                axis = _channels(of[name].kind, slope) if slope is not None else 0
                if slope is not None and slope.shape[axis] == len(ids):
                    means = slope.abs().double().movedim(axis, 0).flatten(1).mean(1).cpu().numpy()
                    total += np.bincount(ids, weights=means, minlength=space.units) / len(examples.batches)
    return by_group(space, total)


def _channels(kind: str, tensor: Tensor) -> int:
    return tensor.ndim - 1 if kind == "linear" else 1


class _Enough(Exception):
    """All wanted layers have been called."""


@contextmanager
def _kept(model: nn.Module, names: Sequence[str], *, stop: bool = False) -> Iterator[list[tuple[str, Tensor]]]:
    """The outputs of modules as they come; with `stop`, the forward ends once all have come."""
    outputs: list[tuple[str, Tensor]] = []
    modules = dict(model.named_modules(remove_duplicate=False))

    def hook(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
            if not isinstance(output, Tensor):
                return None
            outputs.append((name, output))
            if stop and {one for one, _ in outputs} == set(names):
                raise _Enough
            return output.clone()  # what follows may write into it

        return keep

    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _ascended(
    model: nn.Module, called: nn.Module, layers: Mapping[str, Layer], inputs: list[Tensor], units: Ids, rate: float
) -> list[Tensor]:
    """The inputs one step further up."""
    moving = [one.detach().requires_grad_(one.is_floating_point()) for one in inputs]
    wanted = [one for one in moving if one.requires_grad]
    slopes = torch.autograd.grad(_activation(model, called, layers, moving, units), wanted, allow_unused=True)
    given = [slope.flatten(1) for slope in slopes if slope is not None]
    length = torch.cat(given, dim=1).norm(dim=1).clamp_min(1e-30)
    scale = rate * sum(one.shape[1] for one in given) ** 0.5 / length
    for one, slope in zip(wanted, slopes, strict=True):
        if slope is not None:
            one.detach_().add_(slope * scale.reshape(-1, *[1] * (slope.ndim - 1)))
    return [one.detach() for one in moving]


def _activation(
    model: nn.Module, called: nn.Module, layers: Mapping[str, Layer], inputs: list[Tensor], units: Ids
) -> Tensor:
    """Sum over the batch of the activation of unit i on input i."""
    with torch.enable_grad(), _kept(model, list(layers), stop=True) as outputs:
        try:
            called(*inputs)
        except _Enough:
            pass
    total = inputs[0].new_zeros(())
    for name, output in outputs:
        axis, ids = _channels(layers[name].kind, output), layers[name].makes
        if output.shape[0] != len(units) or output.shape[axis] != len(ids):
            raise RuntimeError(f"{name} gives {tuple(output.shape)} for {len(units)} inputs")
        means = output.movedim(axis, 1).flatten(2).mean(2) if output.ndim > 2 else output
        mine = torch.from_numpy(units[:, None] == ids[None]).to(means)
        total = total + (means * mine).sum()
    return total


def _noise(example: Tensor, seed: int) -> Tensor:
    if not example.is_floating_point():
        return example
    return torch.randn(example.shape, generator=torch.Generator().manual_seed(seed)).to(example)
