"""An independent, slow reference of a cut network: the full one, with exactly the removed elements zeroed.

A layer that takes statistics over channels would count the zeros. Such layers are named by the caller and replaced by
`Scattered`: the same layer on the kept channels alone, put back among zeros.
"""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from secateur.spaces import named_tensors
from secateur.spaces.networks.build import stays


class Scattered(nn.Module):
    """A layer that sees only the kept channels; its result stands among zeros.

    Args:
        layer: a norm, or a convolution that computes its weight; its weights are cut here.
        given: `(channels,)` whether each channel of the input stays.
        made: `(channels,)` whether each channel of the output stays.
        axis: of the channels.
    """

    def __init__(self, layer, given, made, axis):
        super().__init__()
        self.given, self.made, self.axis = torch.as_tensor(given), torch.as_tensor(made), axis
        self.layer = copy.deepcopy(layer)
        rows = self.made.nonzero().flatten()
        columns = self.given.nonzero().flatten()
        for name, tensor in named_tensors(self.layer).items():
            tensor.data = tensor.data.index_select(0, rows)
            if name == "weight" and isinstance(layer, nn.Conv2d):
                tensor.data = tensor.data.index_select(1, columns)
        if isinstance(layer, nn.Conv2d):
            self.layer.in_channels, self.layer.out_channels = len(columns), len(rows)
        if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
            last = -1 if axis == -1 else 0
            shape = list(layer.normalized_shape)
            shape[last] = len(rows)
            self.layer.normalized_shape = tuple(shape)

    def forward(self, x):
        axis = self.axis % x.ndim
        small = x.index_select(axis, self.given.nonzero().flatten())
        small = self.by_groups(small) if isinstance(self.layer, nn.GroupNorm) else self.layer(small)
        shape = list(small.shape)
        shape[axis] = len(self.made)
        return small.new_zeros(shape).index_copy_(axis, self.made.nonzero().flatten(), small)

    def by_groups(self, x):
        """Group norm, each of the original groups by itself."""
        kept = self.made.nonzero().flatten() // (len(self.made) // self.layer.num_groups)
        y = torch.zeros_like(x)
        for group in range(self.layer.num_groups):
            inside = (kept == group).nonzero().flatten()
            if len(inside):
                part = x[:, inside].flatten(1)
                centred = part - part.mean(1, keepdim=True)
                part = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + self.layer.eps)
                y[:, inside] = part.view_as(x[:, inside])
        if self.layer.weight is not None:
            shape = (-1,) + (1,) * (x.ndim - 2)
            y = y * self.layer.weight.view(shape) + self.layer.bias.view(shape)
        return y


class Constant(nn.Module):
    """In place of a parametrisation: its weight once and for all; a row of zeros has no direction and stays zero."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight.detach().nan_to_num(0))

    def forward(self):
        return self.weight


def masked(model, space, candidate, mixes=None, scores=None):
    """The full network with exactly the removed elements zeroed and removed blocks the identity.

    Args:
        model: the traced network.
        space: its space.
        candidate: one choice on every axis.
        mixes: `{module that mixes channels: tensor whose axis 0 tells which channels stay}`.
        scores: which units stay, as for `build`.
    """
    kept_results = [one for module in model.modules() for one in vars(module).values() if isinstance(one, torch.Tensor)]
    full, model = model, copy.deepcopy(model, {id(tensor): tensor.detach() for tensor in kept_results})
    kept = stays(space, space.canonical(candidate), scores)
    slots = space.slots
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, axes in slots.items():
            for axis, ids in axes.items():
                tensors[name].index_fill_(axis, torch.from_numpy(np.flatnonzero(~kept[ids])), 0)
    for name, teller in (mixes or {}).items():
        layer = full.get_submodule(name)
        channels = dict(full.named_parameters())[teller].shape[0]
        made = kept[slots[teller][0]] if 0 in slots.get(teller, {}) else np.ones(channels, bool)
        given = made
        if isinstance(layer, nn.Conv2d):
            given = kept[slots[teller][1]] if 1 in slots.get(teller, {}) else np.ones(layer.in_channels, bool)
        last = isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and len(layer.normalized_shape) == 1
        model.set_submodule(name, Scattered(layer, given, made, -1 if last else 1))
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            module.parametrizations["weight"] = Constant(module.weight)
    for name in space.removed(space.canonical(candidate)):
        model.set_submodule(name, nn.Identity())
    return model


def flat(outputs):
    """All tensors of a result."""
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    if isinstance(outputs, (tuple, list)):
        return [tensor for output in outputs for tensor in flat(output)]
    return [outputs] if isinstance(outputs, torch.Tensor) else []


def relative_error(got, want):
    """The largest difference of two results over the largest value, the worst of all tensors."""
    got, want = ([tensor.detach().double() for tensor in flat(result)] for result in (got, want))
    assert [tuple(one.shape) for one in got] == [tuple(one.shape) for one in want]
    errors = [
        float((one - other).abs().max()) / max(float(other.abs().max()), 1e-12)
        for one, other in zip(got, want, strict=True)
    ]
    assert all(np.isfinite(errors))
    return max(errors)
