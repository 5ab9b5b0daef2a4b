"""The layers of the network: which tensors each convolution and linear layer uses, and what follows it at once.

Facts for the pruning methods, which speak of filters, of the batch norm behind them and of the layer that reads them;
groups and slots say which of those hang together.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.fx import Node

from ..graph.network import BATCH, Network

if TYPE_CHECKING:
    from ..channels.layout import Ids, Slots

_KINDS = {
    **{f"aten.conv{n}d": "conv" for n in (1, 2, 3)},
    **{f"aten.conv_transpose{n}d": "conv_transpose" for n in (1, 2, 3)},
    "aten.linear": "linear",
}
_ACTIVATIONS = set(
    "relu relu6 hardtanh hardswish hardsigmoid sigmoid tanh gelu silu mish elu celu selu leaky_relu prelu "
    "softplus".split()
)


@dataclass(frozen=True)
class Norm:
    """A batch norm; the names of its tensors, None for what it lacks.

    Attributes:
        weight: its scale.
        bias: its shift.
        mean: its running mean.
        var: its running variance.
        eps: added to the variance.
    """

    weight: str | None
    bias: str | None
    mean: str | None
    var: str | None
    eps: float


@dataclass(frozen=True)
class Layer:
    """A convolution, transposed convolution or linear layer whose weight is a parameter; costs are of one example.

    Attributes:
        name: path of the module that owns the weight.
        kind: `"conv"`, `"conv_transpose"` or `"linear"`.
        weight: name of its weight.
        bias: name of its bias, None without one.
        out_axis: the weight's axis of outputs (1 for a transposed convolution).
        in_axis: the weight's axis of inputs.
        groups: of the convolution; 1 for a linear layer.
        padding: whether its input is padded, so that a constant input gives other outputs at the border.
        norm: the batch norm that alone reads its output, None where there is none.
        activation: the operator that alone reads the norm's output (its own without a norm), such as `"relu"`, if it is
            elementwise in one argument; None otherwise.
        calls: how often the forward uses it.
        macs: of all its calls in the full network at the largest side, bias not counted.
        outputs: elements it gives in all its calls, there.
        side: spatial side of its output, there; of the last call.
        positions: how often its whole weight meets an input, in all its calls, at each side of the network's input.
        given: spatial sides of its input at each side of the network's; of the last call.
        depthwise: whether each output channel reads one input channel only.
        makes: `(size of the weight's out_axis,)` unit number of each output; unit 0 always stays.
        reads: `(size of the weight's in_axis,)` unit number of each input; all 0 for a grouped convolution.
    """

    name: str
    kind: str
    weight: str
    bias: str | None
    out_axis: int
    in_axis: int
    groups: int
    padding: bool
    norm: Norm | None
    activation: str | None
    calls: int
    macs: int
    outputs: int
    side: tuple[int, ...]
    positions: tuple[int, ...]
    given: tuple[tuple[int, ...], ...]
    depthwise: bool
    makes: Ids = field(repr=False, compare=False)
    reads: Ids = field(repr=False, compare=False)


def find_layers(network: Network, batched: Collection[Node], slots: Slots) -> tuple[Layer, ...]:
    """Every layer of the graph once, in the order of its first call.

    Args:
        network: the captured graph.
        batched: nodes whose size goes with the number of examples.
        slots: which unit each index belongs to.
    """
    found: dict[str, Layer] = {}
    for node in network.operators:
        layer = _layer(network, node, BATCH if node in batched else 1, slots)
        if layer is None:
            continue
        known = found.get(layer.weight)
        if known is not None:
            same = (known.norm, known.activation) == (layer.norm, layer.activation)
            layer = replace(
                layer,
                norm=layer.norm if same else None,
                activation=layer.activation if same else None,
                calls=known.calls + 1,
                macs=known.macs + layer.macs,
                outputs=known.outputs + layer.outputs,
                positions=tuple(map(sum, zip(known.positions, layer.positions, strict=True))),
            )
        found[layer.weight] = layer
    return tuple(found.values())


def _layer(network: Network, node: Node, examples: int, slots: Slots) -> Layer | None:
    kind = _KINDS.get(network.names[node])
    if kind is None:
        return None
    call = _call(node)
    weight = network.sources.get(call["weight"])
    if weight is None:
        return None
    shapes = network.shapes[-1]
    out, given, shape = shapes[node], shapes[call["input"]], shapes[call["weight"]]
    groups = int(call.get("groups") or 1)
    transposed = kind == "conv_transpose"
    elements = int(np.prod(out)) // examples
    taken = int(np.prod(given)) // examples if transposed else elements
    inner = int(np.prod(shape[1:])) if kind != "linear" else int(shape[1])
    channels = int(shape[0])  # what a position takes of a transposed convolution's input, and gives of the others
    meets = call["input"] if transposed else node
    norm_node = _sole(network, node, "aten.batch_norm")
    last = norm_node or node
    after = next(iter(last.users)) if len(last.users) == 1 else None
    axes, (out_axis, in_axis) = slots.get(weight, {}), (1, 0) if transposed else (0, 1)
    padding = call.get("padding", 0)  # a number, several, or "same" / "valid"
    return Layer(
        name=weight.rpartition(".")[0],
        kind=kind,
        weight=weight,
        bias=_named(network, call.get("bias")),
        out_axis=out_axis,
        in_axis=in_axis,
        groups=groups,
        padding=padding != "valid" if isinstance(padding, str) else bool(np.any(padding)),
        norm=_norm(network, norm_node),
        activation=_activation(network, after),
        calls=1,
        macs=taken * inner,
        outputs=elements,
        side=tuple(int(size) for size in out[2:]) if kind != "linear" else (),
        positions=tuple(int(np.prod(one[meets])) // examples // channels for one in network.shapes),
        given=tuple(tuple(map(int, one[call["input"]][2:])) if kind != "linear" else () for one in network.shapes),
        depthwise=groups > 1 and shape[1] == 1,
        makes=axes.get(out_axis, np.zeros(shape[out_axis], np.int64)),
        reads=np.zeros(shape[in_axis], np.int64) if groups > 1 or in_axis not in axes else axes[in_axis],
    )


def _call(node: Node) -> dict[str, Any]:
    """The arguments of an operator's call, by name."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    names = [argument.name for argument in schema]
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}


def _sole(network: Network, node: Node, name: str) -> Node | None:
    """The only user of a node, where it is a call of that operator with the node as its input."""
    if len(node.users) != 1:
        return None
    user = next(iter(node.users))
    return user if user.op == "call_function" and network.names[user] == name and user.args[0] is node else None


def _norm(network: Network, node: Node | None) -> Norm | None:
    if node is None:
        return None
    call = _call(node)
    names = {key: _named(network, call.get(key)) for key in ("weight", "bias", "running_mean", "running_var")}
    return Norm(names["weight"], names["bias"], names["running_mean"], names["running_var"], float(call["eps"]))


def _activation(network: Network, node: Node | None) -> str | None:
    if node is None or node.op != "call_function":
        return None
    name = network.names[node].removeprefix("aten.")
    return name if name in _ACTIVATIONS else None


def _named(network: Network, value: Any) -> str | None:
    """The parameter or buffer that an argument is, if it is one."""
    return network.sources.get(value) if isinstance(value, Node) else None
