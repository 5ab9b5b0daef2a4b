"""Operators that copy what they are given, but not once an axis of it has one element: the reshape behind one head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import Node

from ..graph.network import Network
from .sizes import Size, Sizes

_VIEWS = ("aten.reshape", "aten.flatten", "aten.contiguous")


def copies(network: Network, sizes: Sizes, storages: Mapping[Node, Node]) -> dict[Node, Size]:
    """The operators that give a view of their operand where one unit of a group stays; sizes are 0 there, else 1."""
    found: dict[Node, Size] = {}
    for node in network.operators:
        if network.names[node] in _VIEWS and storages.get(node) is node:
            source = node.all_input_nodes[0]
            for axis, size in enumerate(sizes.axes(source)):
                group = sizes.alone(size)
                if group is not None and _is_view(network, node, source, sizes, axis, group):
                    found[node] = sizes.several(group)
                    break
    return found


def _is_view(network: Network, node: Node, source: Node, sizes: Sizes, axis: int, group: int) -> bool:
    """Whether an operator needs no copy once an axis of its operand has one element."""
    value = node.all_input_nodes[0].meta.get("val")
    if not isinstance(value, Tensor):
        return False
    shape, strides = [int(size) for size in value.shape], [int(stride) for stride in value.stride()]
    across = shape[axis] * strides[axis]
    if not across:
        return False
    strides = [stride // shape[axis] if stride % across == 0 else stride for stride in strides]
    given, gives = ([sizes.left(size, group) for size in sizes.axes(one)] for one in (source, node))
    tensor = torch.empty_strided(given, strides, device="meta")
    if network.names[node] == "aten.contiguous":
        return tensor.is_contiguous()
    return _viewed(tensor, gives)


def _viewed(tensor: Tensor, shape: Sequence[int]) -> bool:
    try:
        tensor.view(shape)
    except RuntimeError:
        return False
    return True
