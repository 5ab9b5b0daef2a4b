"""Statistics over channels that come back to them: a norm that the forward writes out.

A mean, deviation or length that is taken over all channels and then meets them again, element by element, is computed
from those that stay, as in the norms of the library. One that goes anywhere else mixes its channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.fx import Node

from .flow import Flow
from .labels import constant

_MEANS = {"mean", "var", "std", "var_mean", "std_mean"}  # of the channels that stay, as in a layer norm
_SUMS = {"sum", "norm", "linalg_vector_norm", "linalg_norm"}  # to which zeros add nothing
_PASSES = {
    f"aten.{name}"
    for name in (
        "view reshape unsqueeze squeeze slice expand expand_as permute transpose repeat to _to_copy type_as clone "
        "detach contiguous alias dropout"
    ).split()
} | {"getitem"}
_ALGEBRA = {  # a gate is none of them: a mean that goes through a sigmoid is a channel of its own
    f"aten.{name}"
    for name in (
        "add sub rsub mul div pow square sqrt rsqrt reciprocal abs neg addcmul addcdiv clamp clamp_min maximum where "
        "gt ge lt le eq ne"
    ).split()
}


def is_statistic(flow: Flow, node: Node, labels: Tensor, axes: Sequence[int], name: str) -> bool:
    """Whether a reduction is a norm's: of whole channels, silent where they are removed, and met by them again.

    Args:
        flow: the walk.
        node: the reduction.
        labels: of its operand.
        axes: that it takes together.
        name: of its operator.
    """
    along = [axis for axis in range(labels.ndim) if not constant(labels, axis)]
    order = 2 if len(node.args) < 2 or node.args[1] is None else node.args[1]
    counts = name in _MEANS or name == "sum" or (name in _SUMS and isinstance(order, (int, float)) and order > 0)
    if not counts or not set(along) <= set(axes) or node.args[0] not in flow.silent:
        return False
    return _comes_back(flow, node, math.prod(labels.shape[axis] for axis in along))


def _comes_back(flow: Flow, node: Node, channels: int) -> bool:
    """Whether all that is made of a statistic meets `channels` times as many elements, one by one."""
    waiting, seen = [node], {node}
    while waiting:
        value = waiting.pop()
        if not value.users:
            continue
        for user in value.users:
            name = flow.network.names[user]
            shape, own = flow.network.shapes[flow.side].get(user), flow.network.shapes[flow.side].get(value)
            if name not in _PASSES | _ALGEBRA:
                return False
            others = [one for one in user.all_input_nodes if one not in seen]
            if others and isinstance(shape, tuple) and isinstance(own, tuple):
                if math.prod(shape) >= channels * math.prod(own) or _spread(flow, value, channels):
                    continue
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return True


def _spread(flow: Flow, value: Node, channels: int) -> bool:
    """Whether a value was brought to the channels' own shape before."""
    shapes = flow.network.shapes[flow.side]
    while flow.network.names[value] in _PASSES and value.all_input_nodes:
        source = value.all_input_nodes[0]
        before, after = shapes.get(source), shapes.get(value)
        if isinstance(before, tuple) and isinstance(after, tuple) and math.prod(after) >= channels * math.prod(before):
            return True
        value = source
    return False
