"""Criteria that weigh the weights which read a unit by what arrives there; no labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Layer, Scores, Space, named_tensors
from ..examples import Examples, left_as_found
from .criteria import criterion
from .features import unit_inputs
from .filters import by_group, completed

Values = npt.NDArray[np.float64]


@dataclass
class _Moments:
    """Of what arrives at each input channel of a layer, over all examples, positions and calls."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, channels: Tensor) -> None:
        """More values: `(n, channels)`."""
        values = channels.double()
        self.count += len(values)
        self.total = self.total + values.sum(0)
        self.squares = self.squares + values.square().sum(0)


@criterion("wanda", needs="images")
def wanda(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Magnitudes of the weights that read a unit, times the root mean square of what they read.

    After Sun 2023 (arXiv 2306.11695), whose metric is that of single weights; here it is summed over all weights that
    leave the readers with the unit. The paper compares within a layer, so `METHODS["wanda"]` keeps the same share of
    every group. Readers are convolutions and linear layers; depthwise ones count where nothing else reads the unit.
    """
    assert examples is not None
    return _scored("wanda", model, space, examples, torch.abs, lambda mean, square: np.sqrt(square))


@criterion("flap", needs="images")
def flap(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Squares of the weights that read a unit, times the variance of what they read: its fluctuation.

    After An 2023 (arXiv 2312.11983): a unit that hardly varies is replaced by its mean, which the readers' biases take
    (`reconstruct` sets them). Scores of different groups compare once each group's are standardised, as in the paper
    and in `METHODS["flap"]`. Readers are those of `wanda`; the variance is over examples and positions together.
    """
    assert examples is not None
    return _scored("flap", model, space, examples, torch.square, lambda mean, square: square - mean**2)


def _scored(
    name: str,
    model: nn.Module,
    space: Space,
    examples: Examples,
    magnitude: Callable[[Tensor], Tensor],
    arrives: Callable[[Values, Values], Values],
) -> Scores:
    readers = [(layer, ids) for layer in space.layers if (ids := unit_inputs(layer, space)) is not None]
    with left_as_found(model), torch.no_grad(), _watched(model, [layer for layer, _ in readers]) as moments:
        for batch in examples.batches:
            examples.outputs_of(model, batch)
    tensors = named_tensors(model)
    dense, depthwise = np.zeros((2, space.units)), np.zeros((2, space.units))  # the sums, and how often
    for layer, ids in readers:
        if (seen := moments[layer.name]).count:
            mean, square = _array(seen.total) / seen.count, _array(seen.squares) / seen.count
            weight = magnitude(tensors[layer.weight].detach().double())
            axis = layer.out_axis if layer.depthwise else layer.in_axis
            weights = _array(weight.movedim(axis, 0).flatten(1).sum(1)).reshape(len(ids), -1).sum(1)
            to = depthwise if layer.depthwise else dense
            to[0] += np.bincount(ids, weights=weights * arrives(mean, square), minlength=space.units)
            to[1] += np.bincount(ids, minlength=space.units)
    sums, often = np.where(dense[1] > 0, dense, depthwise)
    unknown = [group.name for group in space.groups if not often[group.slice].all()]
    return completed(name, space, by_group(space, sums), unknown, "are read by no convolution or linear layer")


@contextmanager
def _watched(model: nn.Module, layers: list[Layer]) -> Iterator[dict[str, _Moments]]:
    """While it is open, what the layers read is summed up, by their names."""
    modules = dict(model.named_modules(remove_duplicate=False))
    moments = {layer.name: _Moments() for layer in layers}
    handles = []
    try:
        for layer in layers:
            module = modules[layer.name]
            if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                handles.append(module.register_forward_pre_hook(_watching(module, moments[layer.name])))
        yield moments
    finally:
        for handle in handles:
            handle.remove()


def _watching(module: nn.modules.conv._ConvNd | nn.Linear, moments: _Moments) -> Callable[..., None]:
    axis = -1 if isinstance(module, nn.Linear) else 1 - module.weight.ndim  # an example may come without a batch

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs:
            moments.add(inputs[0].movedim(axis, -1).flatten(0, -2))

    return hook


def _array(values: Tensor | float) -> Values:
    return torch.as_tensor(values, dtype=torch.float64).cpu().numpy()
