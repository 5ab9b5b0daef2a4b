"""Criteria that look at feature maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...spaces import Layer, Scores, Space, named_tensors
from ..examples import Examples, left_as_found
from .criteria import criterion
from .filters import by_group, completed

Ids = npt.NDArray[np.int64]
Add = Callable[[Tensor, Ids], None]
_TIE = 1e-3  # weight of the effective rank, which decides between maps of equal rank


@criterion("hrank", needs="images")
def hrank(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Mean rank of a unit's feature maps, after Lin 2020 (arXiv 2002.10179).

    Maps are taken where convolutions read them, behind batch norm, addition and activation; where none does, behind
    the layer that makes them and its own batch norm and activation. A map with three spatial axes is the matrix of its
    first axis against the rest; one with a single axis is put together over the images of a batch, as are the tokens
    of linear layers. Most maps have full rank, so the entropy of their singular values decides between equals: it adds
    at most 0.001. Groups without maps are ranked by their L2 norms.
    """
    return _means("hrank", model, space, examples, _ranks)


@criterion("chip", needs="images")
def chip(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Mean independence of a unit's feature maps: Sui 2021 (CHIP, arXiv 2110.13981).

    By how much the nuclear norm of all maps of a layer, a row each, falls when one is left out; the mean over images.
    Maps are taken where `hrank` takes them. Groups without maps are ranked by their L2 norms.
    """
    return _means("chip", model, space, examples, _independence)


def _means(
    name: str, model: nn.Module, space: Space, examples: Examples | None, values: Callable[[Tensor], Tensor]
) -> Scores:
    """The mean over examples of what `values` gives, `(n or 1, c)`, of the maps `(n, c, *side)` of every unit."""
    assert examples is not None
    total, count = np.zeros(space.units), np.zeros(space.units)

    def add(maps: Tensor, ids: Ids) -> None:
        found = values(maps).mean(0).double().cpu().numpy()
        total[:] += np.bincount(ids, weights=found, minlength=space.units)
        count[:] += np.bincount(ids, minlength=space.units)

    with left_as_found(model), torch.no_grad(), _observed(model, space, add):
        for batch in examples.batches:
            examples.outputs_of(model, batch)
    scores = by_group(space, total / np.maximum(count, 1))
    unknown = [group.name for group in space.groups if not count[group.slice].all()]
    return completed(name, space, scores, unknown, "have no feature maps")


@contextmanager
def _observed(model: nn.Module, space: Space, add: Add) -> Iterator[None]:
    """While it is open, `add(maps, ids)` is told the maps of every unit."""
    read = np.zeros(space.units, bool)
    read[0] = True
    handles: list[RemovableHandle] = []
    modules = dict(model.named_modules(remove_duplicate=False))
    tensors = named_tensors(model)
    try:
        for layer in space.layers:
            module, ids = modules[layer.name], unit_inputs(layer, space)
            if layer.kind != "linear" and ids is not None and isinstance(module, nn.modules.conv._ConvNd):
                read[ids] = True
                handles.append(module.register_forward_pre_hook(_reader(ids, add)))
        for layer in space.layers:
            module, ids = modules[layer.name], layer.makes
            if not read[ids].all() and isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                handles.append(module.register_forward_hook(_maker(layer, np.where(read[ids], 0, ids), tensors, add)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def unit_inputs(layer: Layer, space: Space) -> Ids | None:
    """Unit numbers of a layer's input channels; None where the weight does not say."""
    if layer.groups == 1:
        return layer.reads
    if layer.depthwise:
        return layer.makes[:: space.shapes[layer.weight][0] // layer.groups]
    return None


def _reader(ids: Ids, add: Add) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs and inputs[0].ndim >= 3 and inputs[0].shape[1] == len(ids):
            add(inputs[0], ids)

    return hook


def _maker(layer: Layer, ids: Ids, tensors: dict[str, Tensor], add: Add) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        maps = output.movedim(-1, 1) if layer.kind == "linear" else output
        if maps.ndim >= 3 and maps.shape[1] == len(ids):
            add(_activated(maps.clone(), layer, tensors), ids)

    return hook


def _activated(maps: Tensor, layer: Layer, tensors: dict[str, Tensor]) -> Tensor:
    norm = layer.norm
    if norm is not None:
        mean, var, weight, bias = (
            tensors[name] if name else None for name in (norm.mean, norm.var, norm.weight, norm.bias)
        )
        maps = F.batch_norm(maps, mean, var, weight, bias, training=mean is None, eps=norm.eps)
    if layer.activation in ("relu6", "hardtanh"):  # torch exports ReLU6 as a hardtanh
        return F.relu6(maps)
    if layer.activation is None or layer.activation == "prelu":
        return maps
    activated: Tensor = getattr(torch.ops.aten, layer.activation)(maps)
    return activated


def _ranks(maps: Tensor) -> Tensor:
    """`(n, c)` ranks of `(n, c, *side)` maps; `(1, c)` of maps with one axis."""
    matrices = maps.transpose(0, 1)[None] if maps.ndim == 3 else maps.flatten(3)
    values = torch.linalg.svdvals(matrices if matrices.dtype == torch.float64 else matrices.float())
    largest = values.amax(-1, keepdim=True)
    tolerance = largest * max(matrices.shape[-2:]) * torch.finfo(values.dtype).eps  # as torch.linalg.matrix_rank
    shares = values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    entropy = torch.special.entr(shares).sum(-1) / np.log(max(values.shape[-1], 2))
    ranks: Tensor = (values > tolerance).sum(-1) + _TIE * entropy
    return ranks


def _independence(maps: Tensor) -> Tensor:
    """`(n, c)` what each of `(n, c, *side)` maps adds to the nuclear norm of all maps of its image."""
    return torch.stack([_added(rows) for rows in maps.double().flatten(2)])


def _added(rows: Tensor) -> Tensor:
    """`(c,)` what each of `(c, elements)` rows adds to their nuclear norm, from Gram matrices of the smaller side."""
    count, elements = rows.shape
    if elements < count:
        whole = rows.T @ rows
        return _nuclear(whole) - torch.stack([_nuclear(whole - torch.outer(row, row)) for row in rows])
    whole = rows @ rows.T
    others = ~torch.eye(count, dtype=torch.bool, device=rows.device)
    return _nuclear(whole) - torch.stack([_nuclear(whole[other][:, other]) for other in others])


def _nuclear(gram: Tensor) -> Tensor:
    """The sum of the singular values of a matrix with this Gram matrix."""
    norm: Tensor = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum()
    return norm
