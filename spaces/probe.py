"""Dry runs on fake tensors: what shares memory, and whether the smaller network really behaves as predicted.

Export erases whether a size was written in the forward or computed from a shape. So the shrunken network is run once,
without arithmetic, and the shape of every operator's result is compared with the predicted one; a run that merely does
not crash proves nothing. The record of the run is a list of the operators that PyTorch dispatches; the captured graph,
run the same way, tells which of them belong to which node.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode

from .graph import BATCH, Examples, Network, Side, as_call, operator_name, resized

Step = tuple[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class Rehearsal:
    """A run of the captured graph on fake tensors.

    Attributes:
        steps: for each node, the dispatched operators, in order.
        storages: for each tensor node, the first node that shares its memory.
    """

    steps: dict[Node, list[str]]
    storages: dict[Node, Node]


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the name and result shapes of every dispatched operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = f"{func.namespace}.{func._opname.removesuffix('_')}"
        found = [result] if isinstance(result, Tensor) else result if isinstance(result, (list, tuple)) else []
        shapes = tuple(tuple(tensor.shape) for tensor in found if isinstance(tensor, Tensor))
        if shapes and name not in _SILENT:
            self.steps.append((name, shapes))
        return result


_SILENT = {"aten.detach", "aten.alias", "aten.lift_fresh", "aten.empty", "aten._assert_tensor_metadata"}


def rehearse(network: Network, model: nn.Module, examples: Examples) -> Rehearsal:
    """Run the graph at its largest side on fake tensors."""
    side = network.sides[-1] if network.sides and network.sides[-1] else None
    state = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    args, kwargs = as_call(resized(examples, side, BATCH))
    given = iter([*args, *kwargs.values()])
    values: dict[Node, Any] = {}
    steps: dict[Node, list[str]] = {}
    storages: dict[Node, Node] = {}
    owners: dict[int, Node] = {}
    kept: list[Any] = []
    with warnings.catch_warnings(), torch.no_grad(), fake, _Record() as record:
        warnings.simplefilter("ignore")
        for node in network.graph.nodes:
            if node.op == "placeholder":
                if node in network.sources:
                    values[node] = _empty(state[network.sources[node]])
                elif node in network.inputs:
                    values[node] = _empty(next(given))
                else:
                    values[node] = _like(node.meta.get("val"))
            elif node.op == "get_attr":
                values[node] = _like(node.meta.get("val"))
            elif node.op == "call_function":
                before = len(record.steps)
                call = torch.fx.node.map_arg(node.args, lambda n: values[n])
                named = torch.fx.node.map_arg(dict(node.kwargs), lambda n: values[n])
                values[node] = node.target(*call, **named)
                steps[node] = [name for name, _ in record.steps[before:]]
            value = values.get(node)
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                kept.append(storage)
                storages[node] = owners.setdefault(storage._cdata, node)
    return Rehearsal(steps, storages)


def _like(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty([int(size) for size in value.shape], dtype=value.dtype, device=value.device)
    return value


def _empty(tensor: Tensor, device: str | None = None) -> Tensor:
    """A tensor of the same shape, strides and type; fake where fake tensors are made."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device or tensor.device)


def run(
    sketch: Callable[[str | None], nn.Module], examples: Examples, side: Side | None, *, quick: bool = False
) -> tuple[list[Step], Exception | None]:
    """Run a network without arithmetic; the steps it took, and what it raised if it did.

    Args:
        sketch: makes the network, its tensors on a device, or on the model's own for None; they are fake.
        examples: example inputs, brought to `side`.
        side: spatial side, or None for the example's own.
        quick: on the meta device instead of fake tensors: several times faster when shapes are new, but a forward that
            makes tensors on another device fails there.
    """
    args, kwargs = as_call(resized(examples, side, BATCH))
    device = "meta" if quick else None
    mode = torch.device("meta") if quick else FakeTensorMode(allow_non_fake_inputs=True)
    failure: Exception | None = None
    early = sketch(device).eval() if quick else None
    with warnings.catch_warnings(), torch.no_grad(), mode, _Record() as record:
        warnings.simplefilter("ignore")
        model = early if early is not None else sketch(device).eval()
        fakes = [_empty(tensor, device) for tensor in args]
        named = {name: _empty(tensor, device) for name, tensor in kwargs.items()}
        record.steps.clear()
        try:
            model(*fakes, **named)
        except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
            failure = error
    return record.steps, failure


def first_surprise(
    network: Network,
    rehearsal: Rehearsal,
    steps: Sequence[Step],
    failure: Exception | None,
    predicted: Mapping[Node, tuple[int, ...]],
    skipped: frozenset[Node],
) -> Node | None:
    """The first node whose result has another shape than predicted, or at which the run stopped.

    Raises:
        LookupError: the run took other operators than the graph, so the two cannot be compared; the second argument is
            the node at which they part.
    """
    position = 0
    for node in network.operators:
        if node in skipped:
            continue
        expected = rehearsal.steps.get(node, [])
        if not expected:
            continue
        here = steps[position : position + len(expected)]
        if len(here) < len(expected):
            if failure is not None:
                return node
            raise LookupError(f"the run ended before {node}", node)
        if [name for name, _ in here] != expected:
            raise LookupError(f"the run took {[name for name, _ in here]} where the graph has {expected}", node)
        shapes = here[-1][1]
        if node in predicted and shapes and shapes[0] != predicted[node]:
            return node
        position += len(expected)
    if failure is not None or position != len(steps):
        raise LookupError(f"the run has {len(steps)} steps, the graph {position}: {failure}", network.operators[-1])
    return None


def first_difference(
    network: Network, other: Network, predicted: Mapping[Node, tuple[int, ...]], skipped: frozenset[Node]
) -> Node | None:
    """As `first_surprise`, from a second capture of the smaller network instead of a run."""
    theirs = iter(other.operators)
    for node in network.operators:
        if node in skipped:
            continue
        twin = next(theirs, None)
        if twin is None or operator_name(twin) != operator_name(node):
            return node
        if node in predicted and other.shapes[-1][twin] != predicted[node]:
            return node
    return None
