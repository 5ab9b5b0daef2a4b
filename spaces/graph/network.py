"""The captured network, as the rest of the room sees it: operators, shapes at each side, names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

BATCH = 2
Side = tuple[int, ...]
Shape = tuple[int, ...]
Examples = Tensor | Sequence[Any] | Mapping[str, Any]
Number = tuple[int, Any]
"""The size of the axis along which a plain value counts, 0 where it counts along none, and the value."""
BY_SHAPE = {f"aten.{name}" for name in "new_zeros new_ones new_full new_empty zeros_like ones_like empty_like".split()}
"""Operators that take nothing of their operand but its shape."""
PYTORCH = re.compile(r"(^|[/\\])torch[/\\]")
"""Where the files of PyTorch itself are."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """The captured graph.

    Attributes:
        graph: calls of ATen operators; a batch of two.
        sources: for each placeholder that is a parameter or buffer of the model, its name there.
        inputs: placeholders of the example inputs.
        sides: spatial sides, ascending; one that is traced when no resolutions were asked for.
        shapes: for each side, the output shapes of each node: one for a tensor, a tuple of them for several.
        numbers: for each side, the value of nodes that yield an integer.
        dtypes: element type of each tensor node.
        outputs: what the network returns, flat.
        calls: for each node, the paths of the modules it was called in, outermost first.
        repeated: modules that are called several times.
        returned: what the graph returns, flat: nodes and plain values.
        structure: how the forward nests what it returns.
        constants: tensors that are neither parameters nor buffers, by the name of their node.
        held: nodes of those that are attributes of modules, with the attribute's path.
    """

    graph: Graph
    sources: dict[Node, str]
    inputs: list[Node]
    sides: tuple[Side, ...]
    shapes: tuple[dict[Node, Any], ...]
    numbers: tuple[dict[Node, Any], ...]
    dtypes: dict[Node, torch.dtype]
    outputs: list[Node]
    calls: dict[Node, tuple[str, ...]]
    repeated: frozenset[str]
    returned: list[Any]
    structure: Any
    constants: dict[str, Tensor]
    held: dict[Node, str]

    @cached_property
    def operators(self) -> list[Node]:
        """The nodes that call an operator and give tensors, in order."""
        return [node for node in self.graph.nodes if node.op == "call_function" and node in self.shapes[0]]

    @cached_property
    def names(self) -> dict[Node, str]:
        """The name of every node's operator, as `operator_name` gives it."""
        return {node: operator_name(node) for node in self.graph.nodes}


@dataclass(frozen=True)
class Step:
    """One dispatched operator: its name, the shapes of its results, the plain values it calculates with."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    numbers: tuple[Number, ...]


Maker = tuple[int, int]
"""The step that makes a tensor, and which of its results it is; step -1 makes the inputs."""


@dataclass(frozen=True)
class Rehearsal:
    """A run of the captured graph on fake tensors.

    Attributes:
        steps: for each node, what was dispatched, in order.
        storages: for each tensor node, the first node that shares its memory.
        makers: for each tensor node, what makes it, counted over all nodes; parameters and constants are left out.
    """

    steps: dict[Node, list[Step]]
    storages: dict[Node, Node]
    makers: dict[Node, Maker]


def depending(network: Network, starts: Iterable[Node]) -> set[Node]:
    """The nodes whose values depend on the values of these."""
    found = set(starts)
    for node in network.graph.nodes:
        given = node.all_input_nodes[: 1 if network.names[node] == "aten.type_as" else None]
        if network.names[node] not in BY_SHAPE and not found.isdisjoint(given):
            found.add(node)
    return found


def unread(network: Network) -> set[Node]:
    """The nodes of which no output is made, such as weights of attention that are averaged and thrown away."""
    read = set(network.outputs)
    for node in reversed(network.graph.nodes):
        if node in read or is_mutable(node):
            read.update(node.all_input_nodes)
    return set(network.graph.nodes) - read


def is_mutable(node: Node) -> bool:
    """Whether the operator writes into what it is given."""
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))


def operator_name(node: Node) -> str:
    """Such as `"aten.conv2d"`: without the overload and the underscore of the in-place form."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return dispatched_name(target)
    return getattr(target, "__name__", str(target))


def dispatched_name(operator: torch._ops.OpOverload | torch._ops.OpOverloadPacket) -> str:
    """As `operator_name`, of an operator itself; `aten.__and__` is no in-place form."""
    full = operator._schema.name if isinstance(operator, torch._ops.OpOverload) else operator._qualified_op_name
    space, _, name = full.partition("::")
    return f"{space}.{name if name.endswith('__') else name.removesuffix('_')}"


@cache
def is_pointwise(name: str) -> bool:
    """Whether an operator of this name works element by element, as PyTorch's tag says."""
    return any(torch.Tag.pointwise in overload.tags for overload in overloads(name))


def overloads(name: str) -> list[torch._ops.OpOverload]:
    """The overloads of an operator, by a name as of `operator_name`; none where it is no operator."""
    space, _, called = name.partition(".")
    packet = getattr(getattr(torch.ops, space), called, None) if called else None
    return [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []


def where(node: Node) -> str:
    """File and line of the user's code that a node comes from, or the nearest node before it; empty when unknown."""
    for _ in range(20):
        frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
        ours = [f"{name}:{line}" for name, line in frames if not PYTORCH.search(name)]
        if ours or node.op == "root":
            return ours[-1] if ours else ""
        node = node.prev
    return ""


def as_call(examples: Examples) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the forward that a tensor, a tuple or a dict of tensors stands for."""
    if isinstance(examples, Tensor):
        return (examples,), {}
    if isinstance(examples, Mapping):
        return (), dict(examples)
    if isinstance(examples, (tuple, list)):
        return tuple(examples), {}
    raise TypeError(f"example_inputs is a {type(examples).__name__}; expected a tensor, or a tuple or dict of tensors")


def plain(outputs: Any) -> Any:
    """What a forward returns, in tuples, lists and dicts: of dataclasses and mappings of every kind their entries."""
    if isinstance(outputs, Mapping):
        return {name: plain(value) for name, value in outputs.items()}
    if is_dataclass(outputs) and not isinstance(outputs, type):
        return {field.name: plain(getattr(outputs, field.name)) for field in fields(outputs)}
    if isinstance(outputs, (tuple, list)):
        return (list if isinstance(outputs, list) else tuple)(plain(value) for value in outputs)
    return outputs


def unknown_leaves(outputs: Any) -> list[Any]:
    """What a forward returns that is neither tensor nor plain value, in the containers that PyTorch knows."""
    known = (Tensor, bool, int, float, complex, str, torch.dtype, torch.device, type(None))
    symbols = (torch.SymInt, torch.SymFloat, torch.SymBool)
    return [leaf for leaf in pytree.tree_leaves(outputs) if not isinstance(leaf, (*known, *symbols))]


def flat_examples(examples: Examples) -> list[Tensor]:
    """The tensors of the example, in order; plain values beside them are left out."""
    args, kwargs = as_call(examples)
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if not tensors and (args or kwargs):
        given = [*enumerate(args), *kwargs.items()]
        held = ", ".join(f"{name} (a {type(value).__name__})" for name, value in given)
        raise ValueError(
            f"example_inputs holds no tensor, only {held}; give tensors, as a tokenizer does that is called with "
            "return_tensors='pt'"
        )
    if not tensors:
        raise ValueError("example_inputs is empty; give at least one tensor, as the forward takes it")
    return tensors


def spatial_side(examples: Examples) -> Side:
    """Side of the first input that has spatial axes: `(batch, c, *side)`; empty when there is none."""
    return next((tuple(tensor.shape[2:]) for tensor in flat_examples(examples) if tensor.ndim > 2), ())


def own_side(examples: Examples) -> Side:
    """As `spatial_side`; where there is none, the length of the first input of whole numbers `(batch, length)`."""
    lengths = (tuple(tensor.shape[1:]) for tensor in flat_examples(examples) if _counts(tensor) and tensor.ndim == 2)
    return spatial_side(examples) or next(lengths, ())


def spatial_axis(tensor: Tensor, side: Side) -> int:
    """The first of an input's axes that are this side; 0 where it has none.

    They are behind the batch and the channels; of tokens and their masks, which have no channels, behind the batch.
    """
    if side and tensor.ndim == 2 + len(side) and tuple(tensor.shape[2:]) == side:
        return 2
    return int(len(side) == 1 and tensor.ndim == 2 and _counts(tensor) and tuple(tensor.shape[1:]) == side)


def _counts(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()


def resized(examples: Examples, side: Side | None, batch: int) -> Examples:
    """The example with `batch` examples, its spatial inputs brought to `side` (contents repeated, never read)."""
    old = own_side(examples)
    size = flat_examples(examples)[0].shape[0] if flat_examples(examples)[0].ndim else 0

    def fit(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        if tensor.ndim and tensor.shape[0] == size:
            tensor = tensor[:1].expand(batch, *tensor.shape[1:])
        first = spatial_axis(tensor, old) if side and side != old else 0
        if side and first:
            tensor = tensor.flatten(first)[..., :1].reshape(*tensor.shape[:first], *(1,) * len(old))
            tensor = tensor.expand(*tensor.shape[:first], *side)
        return tensor.contiguous()

    return each(fit, examples)


def each(fit: Callable[[Any], Any], examples: Examples) -> Examples:
    """The example with every one of its inputs made another."""
    if isinstance(examples, Mapping):
        return {name: fit(value) for name, value in examples.items()}
    made: Examples = fit(examples) if isinstance(examples, Tensor) else tuple(fit(value) for value in examples)
    return made
