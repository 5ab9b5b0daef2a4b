"""What PyTorch's own counter says of operators that no candidate changes, and for which there is no formula of ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode

from ..graph.modes import quietly
from ..graph.network import Network


def counted(network: Network, node: Node) -> tuple[float, ...]:
    """Multiply-adds of one call at each side, for the whole batch; zeros where the counter knows none."""
    return tuple(_counted(network, node, side) for side in range(len(network.sides)))


def _counted(network: Network, node: Node, side: int) -> float:
    target: Any = node.target
    counter = FlopCounterMode(display=False)
    with quietly(), torch.no_grad(), FakeTensorMode(), counter:
        args, kwargs = torch.fx.node.map_arg(
            (tuple(node.args), dict(node.kwargs)), lambda source: _operand(network, source, side)
        )
        try:
            target(*args, **kwargs)
        except Exception:  # noqa: BLE001 - a custom operator need not run without data
            return 0.0
    return counter.get_total_flops() / 2  # a multiply-add is two of its operations


def _operand(network: Network, node: Node, side: int) -> Any:
    shapes, value = network.shapes[side].get(node), node.meta.get("val")
    if isinstance(shapes, tuple) and isinstance(value, Tensor):
        return torch.empty(shapes, dtype=value.dtype)
    if shapes is None or not isinstance(value, (list, tuple)):
        return network.numbers[side].get(node)
    pairs = zip(shapes, value, strict=True)
    return [None if shape is None else torch.empty(shape, dtype=tensor.dtype) for shape, tensor in pairs]
