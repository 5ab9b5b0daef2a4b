"""Dry runs on fake tensors: what shares memory, and whether the smaller network really behaves as predicted.

Export erases whether a size was written in the forward or computed from a shape. So the shrunken network is run once,
without arithmetic, and the shape of every operator's result is compared with the predicted one; a run that merely does
not crash proves nothing. The record of the run is a list of the operators that PyTorch dispatches; the captured graph,
run the same way, tells which of them belong to which node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..cutting.surgery import named_tensors
from ..graph.modes import quietly, unfused
from ..graph.network import BATCH, Examples, Network, Rehearsal, Side, Step, as_call, dispatched_name, resized

_FILLS = {"full", "new_full", "full_like", "fill_", "fill"}
_SILENT = {
    f"aten.{name}"
    for name in "detach alias lift_fresh lift_fresh_copy scalar_tensor empty clone _assert_tensor_metadata".split()
}
_VIEWS = {"aten._unsafe_view": "aten.view", "aten._reshape_alias": "aten.view"}  # which one depends on the strides


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps every dispatched operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = dispatched_name(func)
        found = [result] if isinstance(result, Tensor) else result if isinstance(result, (list, tuple)) else []
        shapes = tuple(tuple(tensor.shape) for tensor in found if isinstance(tensor, Tensor))
        if any(shapes) and name not in _SILENT:  # a single number is made in many ways
            self.steps.append(Step(_VIEWS.get(name, name), shapes, _numbers(func, args, kwargs or {})))
        return result


def _numbers(func: Any, args: Any, kwargs: Any) -> tuple[float, ...]:
    """The plain numbers an operator calculates with; those of other operators are sizes."""
    if torch.Tag.pointwise not in func.tags and func._opname not in _FILLS:
        return ()
    given = [value for value in args if not isinstance(value, (list, tuple))] + [kwargs.get("fill_value")]
    return tuple(float(v) for v in given if isinstance(v, (int, float)) and not isinstance(v, bool))


def rehearse(network: Network, model: nn.Module, examples: Examples) -> Rehearsal:
    """Run the graph at its largest side on fake tensors."""
    side = network.sides[-1] if network.sides and network.sides[-1] else None
    state = named_tensors(model)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    given = iter(pytree.tree_leaves(as_call(resized(examples, side, BATCH))))
    values: dict[Node, Any] = {}
    steps: dict[Node, list[Step]] = {}
    storages: dict[Node, Node] = {}
    owners: dict[int, Node] = {}
    kept: list[Any] = []
    with quietly(), torch.no_grad(), fake, _Record() as record:
        for node in network.graph.nodes:
            if node.op == "placeholder":
                if node in network.sources:
                    values[node] = empty_like(state[network.sources[node]])
                elif node in network.inputs:
                    values[node] = empty_like(next(given))
                else:
                    values[node] = _like(node.meta.get("val"))
            elif node.op == "get_attr":
                values[node] = _like(node.meta.get("val"))
            elif node.op == "call_function" and not network.names[node].startswith("aten._assert"):
                before = len(record.steps)
                call = torch.fx.node.map_arg(node.args, lambda n: values[n])
                named = torch.fx.node.map_arg(dict(node.kwargs), lambda n: values[n])
                values[node] = node.target(*call, **named)
                steps[node] = record.steps[before:]
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


def empty_like(tensor: Any, device: str | None = None) -> Any:
    """A tensor of the same shape, strides and type; fake where fake tensors are made. A plain value is itself."""
    if not isinstance(tensor, Tensor):
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device or tensor.device)


def run(
    sketch: Callable[[str | None], nn.Module],
    examples: Examples,
    side: Side | None,
    *,
    quick: bool = False,
    record: bool = True,
) -> tuple[list[Step], Exception | None]:
    """Run a network without arithmetic; the steps it took, and what it raised if it did.

    Args:
        sketch: makes the network, its tensors on a device, or on the model's own for None; they are fake.
        examples: example inputs, brought to `side`.
        side: spatial side, or None for the example's own.
        quick: on the meta device instead of fake tensors: several times faster when shapes are new, but a forward that
            makes tensors on another device fails there.
        record: whether the steps are wanted.
    """
    args, kwargs = as_call(resized(examples, side, BATCH))
    device = "meta" if quick else None
    mode = torch.device("meta") if quick else FakeTensorMode(allow_non_fake_inputs=True)
    failure: Exception | None = None
    early = sketch(device).eval() if quick else None
    recorder = _Record()
    with quietly(), torch.no_grad(), unfused(), mode, recorder if record else contextlib.nullcontext():
        model = early if early is not None else sketch(device).eval()
        fakes = [empty_like(tensor, device) for tensor in args]
        named = {name: empty_like(tensor, device) for name, tensor in kwargs.items()}
        recorder.steps.clear()
        try:
            model(*fakes, **named)
        except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
            failure = error
    return recorder.steps, failure


def first_surprise(
    network: Network,
    rehearsal: Rehearsal,
    steps: Sequence[Step],
    failure: Exception | None,
    predicted: Mapping[Node, tuple[int, ...]],
    skipped: frozenset[Node],
    constants: frozenset[Node] = frozenset(),
) -> Node | None:
    """The first node whose result has another shape than predicted, or at which the run stopped.

    Args:
        network: the captured graph.
        rehearsal: its run.
        steps: the run that is compared.
        failure: what ended it.
        predicted: shapes by node.
        skipped: nodes that are not run.
        constants: nodes whose values do not depend on the inputs.

    Raises:
        LookupError: the run took other operators than the graph, so the two cannot be compared; the second argument is
            the node at which they part.
    """
    position = 0
    nodes = [node for node in network.operators if node not in skipped and rehearsal.steps.get(node)]
    names = [[step.name for step in rehearsal.steps[node]] for node in nodes]
    for number, node in enumerate(nodes):
        expected = rehearsal.steps[node]
        here = steps[position : position + len(expected)]
        if [step.name for step in here] != names[number]:
            if node in constants:  # a mask may be filled by one operator or by several
                position = _resumed(steps, position, [name for more in names[number + 1 : number + 3] for name in more])
                continue
            if len(here) == len(expected) or failure is None:
                raise LookupError(f"the run took {here} where the graph has {expected}", node)
            return node
        if any(one.numbers != other.numbers for one, other in zip(here, expected, strict=True)):
            return node
        shape = network.shapes[-1][node]
        full = expected[-1].shapes
        if node in predicted and full[:1] == (shape,) and here[-1].shapes[:1] != (predicted[node],):
            return node
        position += len(expected)
    if failure is not None or position != len(steps):
        raise LookupError(f"the run has {len(steps)} steps, the graph {position}: {failure}", network.operators[-1])
    return None


def _resumed(steps: Sequence[Step], position: int, names: list[str]) -> int:
    """Where a run comes to operators of these names again, soon after a position; else the position."""
    for start in range(position, position + 8):
        if [step.name for step in steps[start : start + len(names)]] == names:
            return start
    return position


def first_difference(
    network: Network, other: Network, predicted: Mapping[Node, tuple[int, ...]], skipped: frozenset[Node]
) -> Node | None:
    """As `first_surprise`, from a second capture of the smaller network instead of a run."""
    theirs = iter(other.operators)
    for node in network.operators:
        if node in skipped:
            continue
        twin = next(theirs, None)
        if twin is None or other.names[twin] != network.names[node]:
            return node
        if node in predicted and other.shapes[-1][twin] != predicted[node]:
            return node
    return None
