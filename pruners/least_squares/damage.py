"""What every width of every group costs the layers that read it: the table that a knapsack allocates widths by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ...spaces import Group, Scores, Space
from ..criteria.filters import completed
from ..examples import Examples
from ..proposal import checked
from .elimination import Elimination
from .products import Reader, readers
from .thinet import scored

logger = logging.getLogger("secateur")
OrderOf = Callable[[Group, list[Reader]], tuple[list[int], list[float]]]


def damages(model: nn.Module, space: Space, examples: Examples, scores: Scores | None = None) -> dict[str, list[float]]:
    """For each group, the damage of each of its legal widths, narrowest first: what `spaces.knapsack` takes.

    A damage is what the outputs of the layers that read the group lack of the full network's, once their weights are
    solved again for the units that stay: squares, as shares of the outputs' own, summed over the layers. The units go
    from the lowest score. Of a group that no convolution or linear layer reads it is the share of the squared L2 norms.

    Args:
        model: the full network.
        space: its traced space.
        examples: batches without labels.
        scores: which units stay; the L2 norms of the space when None.
    """
    ranking = {group.name: ranks.tolist() for group, ranks in zip(space.groups, space.ranking(scores), strict=True)}
    return {
        group.name: of_group(space, group, found, ranking[group.name][::-1])
        for group, found in readers(model, space, examples)
    }


def in_order(
    name: str, space: Space, read: Iterable[tuple[Group, list[Reader]]], order_of: OrderOf
) -> tuple[Scores, dict[str, list[float]]]:
    """Scores that rise in the order in which a method lets units go, and the damage of each legal width.

    Args:
        name: of the method.
        space: the traced space.
        read: each group, with what reads it.
        order_of: units of a group in the order in which they go, and the damage after each.
    """
    scores: Scores = {}
    table, unknown = dict[str, list[float]](), list[str]()
    for group, found in read:
        if found:
            order, after = order_of(group, found)
            scores[group.name], table[group.name] = scored(order, after), at_widths(group, after)
        else:
            scores[group.name] = torch.zeros(group.units)
            order = space.ranking(None)[space.groups.index(group)].tolist()[::-1]
            table[group.name] = of_group(space, group, found, order)
            unknown.append(group.name)
    scores = completed(name, space, scores, unknown, "are read by no convolution or linear layer")
    return checked(name, space, scores), table


def of_group(space: Space, group: Group, found: list[Reader], order: list[int]) -> list[float]:
    """The damage of each legal width of a group whose units go in an order."""
    kept = [width // group.unit for width in group.widths]
    if found:
        return falling(Elimination(group.units, found).along(order, kept[::-1])[::-1])
    logger.info(
        "%s is read by no convolution or linear layer; its damage is the share of L2 norms that goes", group.name
    )
    energy: Tensor = space.default_scores[group.name].double().square()
    gone = torch.cat([torch.zeros(1), energy[order].cumsum(0)]).double() / energy.sum().clamp_min(1e-300)
    return falling([float(gone[group.units - number]) for number in kept])


def at_widths(group: Group, after: list[float]) -> list[float]:
    """The damage of each legal width, of a group whose units went one by one with these damages."""
    whole = [0.0, *after]
    return falling([whole[group.units - width // group.unit] for width in group.widths])


def falling(damages: list[float]) -> list[float]:
    """The damages, never negative and never rising with the width: rounding makes no unit harmful."""
    found, last = list[float](), 0.0
    for damage in reversed(damages):
        last = max(last, damage)
        found.append(last)
    return found[::-1]
