"""Which blocks a network can do without: each is dropped, and the change of the outputs is measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...spaces import Candidate, Space, build, plain
from ..examples import Examples, left_as_found


def block_damages(model: nn.Module, space: Space, examples: Examples) -> dict[str, list[float]]:
    """`{stage: damage of each block, in the order of the network}`: what `Space.with_block_order` takes.

    A damage is the squared change of the outputs when that block alone is dropped, over the spread of the full
    network's outputs over the examples. No labels are needed; it takes a forward of all examples a block.

    Args:
        model: the full network.
        space: its traced space.
        examples: batches, of more than one example together.

    Raises:
        ValueError: outputs are not finite.
    """
    if not space.stages:
        return {}
    wanted = _outputs(model, examples)
    spread = sum(float((one - one.mean(0)).square().sum()) for one in wanted) or 1.0
    found = dict[str, list[float]]()
    for number, stage in enumerate(space.stages):
        found[stage.name] = []
        for place in range(len(stage.blocks)):
            first = space.with_block_order({stage.name: [float(other != place) for other in range(len(stage.blocks))]})
            candidate = list(first.full)
            candidate[len(space.groups) + number] -= 1
            outputs = _outputs(build(model, first, first.canonical(Candidate(candidate))), examples)
            lost = sum(float((one - other).square().sum()) for one, other in zip(outputs, wanted, strict=True))
            found[stage.name].append(lost / spread)
    return found


def _outputs(network: nn.Module, examples: Examples) -> list[Tensor]:
    """Every floating output of all examples, in float64."""
    with left_as_found(network), torch.no_grad():
        batches = [_floating(examples.outputs_of(network, batch)) for batch in examples.batches]
    found = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    if not all(bool(one.isfinite().all()) for one in found):
        raise ValueError(
            "the network's outputs for the examples are not finite; look for NaN in them and in its weights"
        )
    return found


def _floating(outputs: Any) -> list[Tensor]:
    leaves = [leaf for leaf in pytree.tree_leaves(plain(outputs)) if isinstance(leaf, Tensor)]
    return [leaf.double().cpu() for leaf in leaves if leaf.is_floating_point() and leaf.ndim]
