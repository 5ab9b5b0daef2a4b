"""How much the neurons of every layer matter, and how many of them one threshold keeps: the formulas of RANP.

Xu 2020 (arXiv 2010.02488). A neuron is an output of a layer. The steps in order: `mask_gradients`, `neuron_scores`,
`balanced`, `reweighted`, `threshold`; `kappa_max` says how far it may rise.

Symbols: layer `l` has `N_l` neurons, all layers together `N`; `s` are lists with one array `(N_l,)` for each layer;
`tau` is `(L,)` costs of the layers; `kappa` is the share of neurons to go, `k` the number that one threshold keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ...spaces import Space

Array = npt.NDArray[np.float64]


def mask_gradients(weights: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`dL/dc` where a mask `c = 1` multiplies every weight: by the chain rule, weight times gradient."""
    return {name: weights[name].detach() * grad for name, grad in grads.items()}


def neuron_scores(
    weight: Tensor, bias: Tensor | None = None, *, axis: int = 0, reduce: str = "sum", absolute: bool = True
) -> Array:
    """`(N_l,)` importance of a layer's neurons, from the mean mask gradients of its weight and bias.

    Args:
        weight: of all elements of the weight; magnitudes for MPMG, signed ones for MNMG.
        bias: of the bias; one more term of each neuron, ignored by the maximum.
        axis: along which the neurons lie.
        reduce: `"sum"`, `"mean"` or `"max"` over the terms of a neuron.
        absolute: take the magnitude of the result.
    """
    rows = (
        weight.detach().double().movedim(axis, 0).flatten(1) if weight.ndim > 1 else weight.detach().double()[:, None]
    )
    if reduce == "max":
        found = rows.amax(1)
    else:
        found, terms = rows.sum(1), rows.shape[1]
        if bias is not None:  # that of a grouped transposed convolution is longer than its weight's axis
            own = bias.detach().double().reshape(-1, len(rows))
            found, terms = found + own.sum(0), terms + len(own)
        found = found / terms if reduce == "mean" else found
    values: Array = (found.abs() if absolute else found).cpu().numpy()
    return values


def balanced(s: Sequence[Array]) -> list[Array]:
    """The scores with every layer's mean raised to the largest one; a layer of zeros stays as it is."""
    means = np.array([layer.mean() if len(layer) else 0.0 for layer in s])
    return [layer * (means.max() / mean if mean > 0 else 1.0) for layer, mean in zip(s, means, strict=True)]


def multipliers(tau: npt.ArrayLike, strength: float) -> Array:
    """`(L,)` factors `1 + strength * softmax(-tau / max tau)`: the cheaper a layer, the larger."""
    costs = np.asarray(tau, float)
    shares = np.exp(-costs / max(costs.max(), 1e-300))
    factors: Array = 1 + strength * shares / shares.sum()
    return factors


def reweighted(s: Sequence[Array], tau: npt.ArrayLike, strength: float) -> list[Array]:
    """The scores times the `multipliers` of their layers."""
    return [layer * factor for layer, factor in zip(s, multipliers(tau, strength), strict=True)]


def kept_by(kappa: float, neurons: int) -> int:
    """`k = int(N (1 - kappa))`, unmoved by the rounding of the product, and at least 1."""
    return max(1, math.floor(neurons * (1 - kappa) + 1e-9))


def threshold(s: Sequence[Array], k: int) -> float:
    """The `k`-th largest of all scores; what is not below it stays, so that ties may keep more than `k`."""
    everything = np.concatenate(list(s))
    return float(np.partition(everything, len(everything) - k)[len(everything) - k])


def rank_of(s: Sequence[Array], layer: Array, needed: int = 1) -> int:
    """The least `k` that keeps `needed` of these neurons: 1 + how many scores are above their `needed`-th best."""
    worst = np.sort(layer)[-needed]
    return 1 + sum(int((other > worst).sum()) for other in s)


def kappa_max(s: Sequence[Array], ranks: Sequence[int] | None = None) -> float:
    """The largest sparsity that leaves no layer empty, `1 - max rank / N`.

    Args:
        s: scores.
        ranks: for all that must not be empty, its `rank_of`; every layer but the last when None.
    """
    ranks = [rank_of(s, layer) for layer in s[:-1]] if ranks is None else ranks
    return 1 - max(ranks, default=1) / max(1, sum(map(len, s)))


def bisected(feasible: Callable[[float], bool], *, tolerance: float = 1e-4) -> float:
    """The last feasible midpoint of a bisection of [0, 1] that goes up where feasible; 0 where none was."""
    low, high, found = 0.0, 1.0, 0.0
    while high - low > tolerance:
        middle = (low + high) / 2
        if feasible(middle):
            low = found = middle
        else:
            high = middle
    return found


def resources(space: Space, resource: str) -> Array:
    """`(L,)` what each layer of the full network costs by itself, at the largest side.

    FLOPs are multiply-adds and one addition of each bias (linear layers too; the authors count those twice), memory is
    the elements it gives, parameters those of weight and bias.
    """
    if resource == "flops":
        return np.array([layer.macs + layer.outputs * (layer.bias is not None) for layer in space.layers], float)
    if resource == "memory":
        return np.array([layer.outputs for layer in space.layers], float)
    sizes = {name: math.prod(shape) for name, shape in space.shapes.items()}
    return np.array([sizes[layer.weight] + sizes.get(layer.bias or "", 0) for layer in space.layers], float)
