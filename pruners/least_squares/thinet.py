"""ThiNet: the units whose contributions to the next layers sum up to the least go first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...spaces import Group, Scores, Space
from ..criteria.criteria import criterion
from ..criteria.filters import completed
from ..examples import Examples
from .products import Reader, readers


@criterion("thinet", needs="images")
def thinet(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """What the next layers lack once a unit has gone, and all that went before it; the greedy order of removal.

    After Luo 2017 (arXiv 1707.06342): the sum of what removed channels contribute to an output of the next layer is to
    be small, `|| sum over removed j of x_j w_j ||^2` (eq. 6), and the channel that adds least is removed next. Weights
    are not refitted meanwhile; the paper then scales the channels that stay by least squares, which `reconstruct` does
    for all weights. All filters are summed over where the paper draws one a place; a unit that several layers read
    has the sum of their shares. It keeps the same share of every group, as in the paper.
    """
    assert examples is not None
    scores, unknown = dict[str, Tensor](), list[str]()
    for group, found in readers(model, space, examples):
        scores[group.name] = scored(*removal(contributions(group, found))) if found else torch.zeros(group.units)
        if not found:
            unknown.append(group.name)
    return completed("thinet", space, scores, unknown, "are read by no convolution or linear layer")


def contributions(group: Group, found: list[Reader]) -> Tensor:
    """`(u, u)` products of what the units contribute to the outputs of their readers, as shares of these."""
    total = torch.zeros(group.units, group.units, dtype=torch.float64)
    for reader in found:
        units, inputs = reader.inputs.shape
        places = reader.inputs.flatten()
        weight = reader.weight[places]
        shared = reader.products[places][:, places] * (weight @ weight.T)
        by_unit = shared.reshape(units, inputs, units, inputs).sum((1, 3))
        total += (by_unit / reader.spread(reader.products)).cpu()
    return total


def removal(products: Tensor) -> tuple[list[int], list[float]]:
    """Units in the order in which they go, and `1^T Q 1` over those that have gone after each."""
    order, after, total = list[int](), list[float](), 0.0
    left = torch.ones(len(products), dtype=torch.bool)
    met = torch.zeros(len(products), dtype=torch.float64)  # with those that have gone
    for _ in range(len(products)):
        more = (products.diagonal() + 2 * met).masked_fill(~left, torch.inf)
        unit = int(more.argmin())
        total += float(more[unit])
        left[unit] = False
        met += products[unit]
        order.append(unit)
        after.append(total)
    return order, after


def scored(order: list[int], after: list[float]) -> Tensor:
    """`(u,)` scores that rise in the order of removal: the damage after each, raised where it falls or stays."""
    scores, last = torch.zeros(len(order)), 0.0
    for unit, damage in zip(order, after, strict=True):
        last = max(damage, last * (1 + 1e-6) + 1e-12)  # apart from the one before also in float32
        scores[unit] = last
    return scores
