"""Compactors merged away: the same function in the user's own class, with convolution and batch norm still two layers.

With the scale `s = weight / sqrt(var + eps)` of the batch norm behind a filter `K`,

    K'_i = sum_d Q[i, d] s_d K_d        b'_i = sum_d Q[i, d] (bias_d - mean_d s_d)

is one convolution with a bias (Ding 2021, arXiv 2007.03260, eq. 5 to 8). A batch norm with the statistics `(m, v)`, the
scale `sqrt(v + eps)` and the shift `b' + m` adds `b'` whatever `m` and `v` are; they are those of the new filter's
outputs, so that training, too, goes on where it was.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import copied, named_tensors
from .compactors import Compacted, Mixer, Place


def merged(compacted: Compacted, plain: nn.Module, stay: npt.NDArray[np.bool_] | None = None) -> nn.Module:
    """A copy of `plain` of full size with the weights of the compacted network and no compactors.

    Args:
        compacted: the network with compactors; it is left as it is.
        plain: a network of the same class without them.
        stay: `(all units,)` whether each stays; the rows of the others count as zero.
    """
    model = copied(plain)
    trained = named_tensors(compacted.model)
    space = compacted.space
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            tensor.copy_(trained[name])
        compactors = [_rows(compacted, number, stay) for number in range(len(space.groups))]
        modules = dict(model.named_modules())
        done: set[int] = set()
        for place in compacted.places:
            matrix = Mixer(place, space, compacted.kinds).matrix(compactors)
            if matrix is not None:
                _merge(model, modules, place, matrix, trained, done)
    return model


def merged_filter(weight: Tensor, scale: Tensor, shift: Tensor, compactor: Tensor) -> tuple[Tensor, Tensor]:
    """`(rows, inputs, ...)` filter and `(rows,)` bias of filter, then scale and shift, then compactor.

    Args:
        weight: `(c, inputs, ...)` filters.
        scale: `(c,)` of the batch norm, `weight / sqrt(var + eps)`.
        shift: `(c,)` of the batch norm, `bias - mean * scale`.
        compactor: `(rows, c)`.
    """
    return torch.tensordot(compactor * scale, weight, dims=1), compactor @ shift


def _rows(compacted: Compacted, number: int, stay: npt.NDArray[np.bool_] | None) -> Tensor | None:
    q = compacted.compactor(number)
    if q is None:
        return None
    rows = q.detach().double()
    if stay is None:
        return rows
    group = compacted.space.groups[number]
    kept = torch.from_numpy(stay[group.slice]).to(rows)
    return rows * (kept[:, None] if rows.ndim > 1 else kept)


def _merge(
    model: nn.Module,
    modules: dict[str, nn.Module],
    place: Place,
    matrix: Tensor,
    trained: dict[str, Tensor],
    done: set[int],
) -> None:
    module = modules[place.module]
    if place.layer is None or (matrix.ndim == 1 and place.norm is not None):  # a scale: the module's own
        for name in ("weight", "bias"):
            tensor = module._parameters.get(name)
            if tensor is not None:
                tensor.copy_(_mixed(tensor, matrix, 0))
        return
    axis, layer = place.layer.out_axis, place.layer
    tensors = named_tensors(model)
    weight = tensors[layer.weight]
    if place.norm is None:
        if id(weight) not in done:
            weight.copy_(_mixed(weight, matrix, axis))
            done.add(id(weight))
        own = module._parameters.get("bias")
        if own is not None and id(own) not in done:
            own.copy_(_mixed(own, matrix, 0))
            done.add(id(own))
        return
    norm = place.norm
    assert norm.weight and norm.bias and norm.mean and norm.var and place.variance
    names = (norm.weight, norm.bias, norm.mean, norm.var)
    gamma, beta, mean, var = (tensors[name].double() for name in names)
    scale = gamma / (var + norm.eps).sqrt()
    kernels, bias = merged_filter(weight.movedim(axis, 0).double(), scale, beta - mean * scale, matrix)
    new_mean = matrix @ (scale * mean)
    new_var = trained[place.variance].double().clamp(min=0)
    weight.copy_(kernels.movedim(0, axis))
    if layer.bias:
        tensors[layer.bias].copy_(matrix @ (scale * tensors[layer.bias].double()))
    tensors[norm.weight].copy_((new_var + norm.eps).sqrt())
    tensors[norm.bias].copy_(bias + new_mean)
    tensors[norm.mean].copy_(new_mean)
    tensors[norm.var].copy_(new_var)


def _mixed(tensor: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """The matrix, or a scale, along one axis, in double precision."""
    first = tensor.double().movedim(axis, 0)
    if matrix.ndim > 1:
        mixed: Tensor = torch.tensordot(matrix, first, dims=1)
        return mixed.movedim(0, axis)
    return (first * matrix.view(-1, *[1] * (first.ndim - 1))).movedim(0, axis)
