"""Dry runs on fake tensors: what shares memory, and whether the smaller network really behaves as predicted.

Export erases whether a size was written in the forward or computed from a shape. So the shrunken network is run once,
without arithmetic, and the shape of every operator's result is compared with the predicted one; a run that merely does
not crash proves nothing. The record of the run is a list of the operators that PyTorch dispatches; the captured graph,
run the same way, tells which of them belong to which node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._export.utils import _compiling_state_context
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

from ..cutting.surgery import Cut, assemble, named_tensors
from ..graph.known import Known
from ..graph.modes import Still, quietly, switch, unfused
from ..graph.network import (
    BATCH,
    Examples,
    Maker,
    Network,
    Number,
    Rehearsal,
    Shape,
    Side,
    Step,
    as_call,
    dispatched_name,
    resized,
)
from .shortcuts import dispatched
from .values import Values

_FOLLOW = {  # sizes: the shapes of results say the same
    *("size", "sizes", "shape", "self_size", "split_size", "split_sizes", "normalized_shape", "repeats", "chunks"),
    *("length", "indices_or_sections", "sections", "N", "C", "HxW", "unflattened_size", "hidden_size"),
}
WRITTEN = "a size is written as a constant, or taken from other channels,"
ODD = "the forward, run with fewer of its channels, does not behave as their labels predict"
NUMBER = "it is calculated with the number of its channels"
_GROUPS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"}
_STRIDED = {"as_strided", "empty_strided", "new_empty_strided", "_reshape_alias"}
_PLACES = {"start", "end", "index"}  # along an axis
_SIZES = {*_FOLLOW, "start", "end", "num_groups"} - {"N", "C", "HxW"}  # that a forward may write down
_SILENT = {
    f"aten.{name}"
    for name in "detach alias lift_fresh lift_fresh_copy scalar_tensor empty clone _assert_tensor_metadata".split()
}
_SAME = {"aten.detach", "aten.alias", "aten.lift_fresh", "aten.clone"}  # they give what they take
_VIEWS = {"aten._unsafe_view": "aten.view", "aten._reshape_alias": "aten.view"}  # which one depends on the strides


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps every dispatched operator; what single numbers and tensors are made of goes with the next one."""

    def __init__(self, values: Values | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.makers: MutableMapping[Tensor, Maker] = WeakIdKeyDictionary()
        self._waiting: list[Number] = []
        self._values = values

    def note(self, value: Tensor) -> None:
        """Keep a value that the forward did not calculate."""
        with _disable_current_modes():
            held = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        self._waiting.append((0, (str(value.dtype), tuple(value.shape), hash(held))))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = dispatched(func, args, kwargs or {})
        if self._values is not None:
            self._values.note(func, args, kwargs or {}, result)
        name = dispatched_name(func)
        found = [result] if isinstance(result, Tensor) else result if isinstance(result, (list, tuple)) else []
        shapes = tuple(tuple(tensor.shape) for tensor in found if isinstance(tensor, Tensor))
        self._waiting += numbers_of(func, args, kwargs or {})
        if any(shapes) and name not in _SILENT:  # a single number is made in many ways
            for number, tensor in enumerate(found):
                if isinstance(tensor, Tensor):
                    self.makers[tensor] = (len(self.steps), number)
            self.steps.append(Step(_VIEWS.get(name, name), shapes, tuple(self._waiting)))
            self._waiting = []
        elif name in _SAME and isinstance(args[0], Tensor) and args[0] in self.makers:
            self.makers[result] = self.makers[args[0]]
        return result

    def ended(self) -> list[Step]:
        """The steps of a whole run."""
        if self._waiting and self.steps:
            last = self.steps.pop()
            self.steps.append(replace(last, numbers=(*last.numbers, *self._waiting)))
        return self.steps


def numbers_of(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shape: Callable[[Any], Any] = lambda value: value.shape
) -> Iterator[Number]:
    """The plain values that an operator calculates with; those that are sizes only are left out.

    Args:
        func: the operator.
        args: its operands.
        kwargs: those given by name.
        shape: the shape of an operand.
    """
    if not isinstance(func, torch._ops.OpOverload) or func._opname in _STRIDED:
        return
    call: dict[str, Any] = {}
    for place, argument in enumerate(func._schema.arguments):
        if place < len(args):
            call[argument.name] = args[place]
        else:
            call[argument.name] = kwargs.get(argument.name, argument.default_value)
    for name, value in call.items():
        if name in _FOLLOW or (name == "groups" and func._opname in _GROUPS) or name in ("group", "num_groups"):
            continue
        if name in _PLACES and isinstance(call.get("dim"), int) and (value is None or isinstance(value, int)):
            size = int(shape(args[0])[call["dim"]])
            bound = size if value is None and name == "end" else value or 0
            yield size, min(bound + size if bound < 0 else bound, size)
        elif name == "pad" and func._opname in ("constant_pad_nd", "pad"):
            for place, amount in enumerate(value):
                yield int(shape(args[0])[-1 - place // 2]), amount
        else:
            for one in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(one, (int, float, complex, str)):
                    yield 0, one


def _differ(numbers: Sequence[Number], others: Sequence[Number]) -> bool:
    """Whether two calls of an operator calculate with other numbers; those along an axis that was cut may differ."""
    if len(numbers) != len(others):
        return True
    return any(
        size == other_size and number != other and (number == number or other == other)
        for (size, number), (other_size, other) in zip(numbers, others, strict=True)
    )


def rehearse(network: Network, model: nn.Module, examples: Examples, *, quick: bool = False) -> Rehearsal:
    """Run the graph at its largest side on fake tensors, or on the meta device, where PyTorch splits some operators."""
    side = network.sides[-1] if network.sides and network.sides[-1] else None
    state = named_tensors(model)
    device = "meta" if quick else None
    mode: Any = torch.device("meta") if quick else FakeTensorMode(allow_non_fake_inputs=True)
    given = enumerate(pytree.tree_leaves(as_call(resized(examples, side, BATCH))))
    values: dict[Node, Any] = {}
    steps: dict[Node, list[Step]] = {}
    storages: dict[Node, Node] = {}
    makers: dict[Node, Maker] = {}
    owners: dict[int, Node] = {}
    kept: list[Any] = []
    with quietly(), torch.no_grad(), mode, _Record() as record:
        for node in network.graph.nodes:
            before = len(record.steps)
            if node.op == "placeholder":
                if node in network.sources:  # operators are dispatched otherwise for what has gradients
                    source = state[network.sources[node]]
                    values[node] = empty_like(source, device).requires_grad_(source.requires_grad)
                elif node in network.inputs:
                    number, leaf = next(given)
                    values[node] = empty_like(leaf, device)
                    makers[node] = (-1, number)
                else:
                    values[node] = _like(node.meta.get("val"), device)
            elif node.op == "get_attr":
                values[node] = _like(node.meta.get("val"), device)
            elif node.op == "call_function" and not network.names[node].startswith("aten._assert"):
                call = torch.fx.node.map_arg(node.args, lambda n: values[n])
                named = dict(torch.fx.node.map_arg(node.kwargs, lambda n: values[n]))
                if device and "device" in named:
                    named["device"] = device
                values[node] = node.target(*call, **named)
                steps[node] = record.steps[before:]
            value = values.get(node)
            if isinstance(value, Tensor):
                if node.op == "call_function":
                    makers |= {node: record.makers[value]} if value in record.makers else {}
                elif node in makers:
                    record.makers[value] = makers[node]
                else:
                    record.makers.pop(value, None)
                storage = value.untyped_storage()
                kept.append(storage)
                storages[node] = owners.setdefault(storage._cdata, node)
            if node.op != "call_function":
                del record.steps[before:]  # what stands in for tensors is no step
    return Rehearsal(steps, storages, makers)


def _like(value: Any, device: str | None) -> Any:
    if isinstance(value, Tensor):
        return torch.empty([int(size) for size in value.shape], dtype=value.dtype, device=device or value.device)
    return value


def empty_like(tensor: Any, device: str | None = None) -> Any:
    """A tensor of the same shape, strides and type; fake where fake tensors are made. A plain value is itself."""
    if not isinstance(tensor, Tensor):
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device or tensor.device)


def run(
    model: nn.Module,
    changes: Cut,
    examples: Examples,
    side: Side | None,
    *,
    quick: bool = False,
    training: bool = False,
    watch: Callable[[nn.Module, MutableMapping[Tensor, Maker]], None] | None = None,
    values: Values | None = None,
) -> tuple[list[Step], Exception | None]:
    """Run a smaller network without arithmetic; the steps it took, and what it raised if it did.

    Args:
        model: the full network.
        changes: what is smaller.
        examples: example inputs, brought to `side`.
        side: spatial side, or None for the example's own.
        quick: on the meta device instead of fake tensors: several times faster when shapes are new, but a forward that
            makes tensors on another device fails there.
        training: in training mode instead of eval mode, but for dropouts and norms.
        watch: is given the network before it runs, and what will say which step makes each tensor.
        values: told all that is calculated.

    A forward that asks whether it is exported does as in the captured graph.
    """
    args, kwargs = as_call(resized(examples, side, BATCH))
    device = "meta" if quick else None
    mode: Any = torch.device("meta") if quick else FakeTensorMode(allow_non_fake_inputs=True)
    failure: Exception | None = None
    with mode:
        tensors = sketched(model, changes, device, fake=None if quick else mode)
    small = assemble(model, tensors, changes.attributes, changes.removed, changes.gives)
    switch(small, training=training)
    still = Still() if training else contextlib.nullcontext()
    recorder = _Record(values)
    known = Known(recorder.note)
    with quietly(), torch.no_grad(), unfused(), still, mode, recorder, _compiling_state_context():
        known.know(small.named_buffers(), dict(model.named_buffers()))
        fakes = [empty_like(tensor, device) for tensor in args]
        named = {name: empty_like(tensor, device) for name, tensor in kwargs.items()}
        recorder.steps.clear()
        for number, leaf in enumerate(pytree.tree_leaves((fakes, named))):
            if isinstance(leaf, Tensor):
                recorder.makers[leaf] = (-1, number)
        if watch is not None:
            watch(small, recorder.makers)
        if values is not None:
            values.begin(named_tensors(small), [*fakes, *named.values()])
        try:
            with known:
                outputs = small(*fakes, **named)
            if values is not None:
                values.end(outputs)
        except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
            failure = error
    return recorder.ended(), failure


def sketch(model: nn.Module, changes: Cut, device: str | None, fake: FakeTensorMode | None = None) -> nn.Module:
    """The smaller network with tensors of the right shapes and no contents, fake ones where a mode is given."""
    return assemble(model, sketched(model, changes, device, fake), changes.attributes, changes.removed, changes.gives)


def sketched(
    model: nn.Module, changes: Cut, device: str | None, fake: FakeTensorMode | None = None
) -> dict[str, Tensor]:
    """Tensors of the right shapes and no contents, by name; fake ones where a mode is given."""
    prefixes = tuple(f"{name}." for name in changes.removed)
    sketches: dict[int, Tensor] = {}
    tensors = {}
    for name, tensor in named_tensors(model).items():
        if not name.startswith(prefixes):
            shape = list(tensor.shape)
            for axis, indices in changes.kept.get(name, {}).items():
                shape[axis] = len(indices)
            if id(tensor) not in sketches:
                sketches[id(tensor)] = _blank(tensor, shape, device, fake)
            tensors[name] = sketches[id(tensor)]
    return tensors


def _blank(tensor: Tensor, shape: list[int], device: str | None, fake: FakeTensorMode | None) -> Tensor:
    """A tensor without contents; a fake parameter is made at once, because what `nn.Parameter` does takes a while."""
    if fake is None or type(tensor) not in (Tensor, nn.Parameter):
        return torch.empty(shape, dtype=tensor.dtype, device=device or tensor.device)
    with torch._C._DisableTorchDispatch():
        made = FakeTensor(fake, torch.empty(shape, dtype=tensor.dtype, device="meta"), tensor.device)
    if isinstance(tensor, nn.Parameter):
        made._is_param = True
        made.requires_grad_(tensor.requires_grad)
    return made


# --- two runs, held against each other --------------------------------------------------------------------------------


def first_surprise(
    network: Network,
    rehearsal: Rehearsal,
    steps: Sequence[Step],
    failure: Exception | None,
    predicted: Mapping[Node, tuple[Shape, ...]],
    skipped: frozenset[Node],
    constants: frozenset[Node] = frozenset(),
    full: Sequence[Step] = (),
) -> tuple[Node, str] | None:
    """What happens first, and the node: a result of another shape than predicted, other numbers, the end of the run.

    Args:
        network: the captured graph.
        rehearsal: its run.
        steps: the run that is compared.
        failure: what ended it.
        predicted: shapes of the results, by node.
        skipped: nodes that are not run.
        constants: nodes whose values do not depend on the inputs.
        full: a run of the full network, whose numbers are those that the forward writes down; none where blocks are
            gone, which leave no number behind.

    Raises:
        LookupError: the run took other operators than the graph, so the two cannot be compared; the second argument is
            the node at which they part.
    """
    position = 0
    nodes = [node for node in network.operators if node not in skipped and rehearsal.steps.get(node)]
    names = [[step.name for step in rehearsal.steps[node]] for node in nodes]
    others, parting = _compared(steps, full)
    for number, node in enumerate(nodes):
        expected = rehearsal.steps[node]
        here = steps[position : position + len(expected)]
        if [step.name for step in here] != names[number]:
            if node in constants:  # a mask may be filled by one operator or by several
                position = _resumed(steps, position, [name for more in names[number + 1 : number + 3] for name in more])
                continue
            if len(here) == len(expected) or failure is None:
                raise LookupError(f"the run took {here} where the graph has {expected}", node)
            return node, _sized(network, node, f"it stops: {failure}")
        if not others.isdisjoint(range(position, position + len(expected))):
            return node, NUMBER
        if parting < position + len(expected):
            raise LookupError("the run took other operators than that of the full network", node)
        own, foreseen = results(network, node), predicted.get(node, ())
        if expected[-1].shapes[: len(own)] == own and here[-1].shapes[: len(foreseen)] != foreseen:
            given, wanted = (", ".join(map(str, shapes)) for shapes in (here[-1].shapes[: len(foreseen)], foreseen))
            return node, _sized(network, node, f"it gives {given} instead of {wanted}")
        position += len(expected)
    if failure is not None or position != len(steps):
        raise LookupError(f"the run has {len(steps)} steps, the graph {position}: {failure}", network.operators[-1])
    return None


def _sized(network: Network, node: Node, what: str) -> str:
    """Why an operator does not go with fewer channels: a size that it is given, or else what happens."""
    names = {argument.name for argument in getattr(getattr(node.target, "_schema", None), "arguments", ())}
    if names & _SIZES:
        return WRITTEN
    return f"{network.names[node]} does not go with fewer of its channels ({' '.join(what.split())[:120]})"


def results(network: Network, node: Node) -> tuple[Shape, ...]:
    """Shapes of the tensors that an operator gives, at the largest side."""
    shapes = network.shapes[-1][node]
    return (shapes,) if isinstance(shapes, tuple) else tuple(shape for shape in shapes if shape is not None)


def _compared(steps: Sequence[Step], full: Sequence[Step]) -> tuple[set[int], float]:
    """Where a run calculates with other numbers than that of the full network, and where it takes other operators."""
    others = set[int]()
    for place, (one, other) in enumerate(zip(steps, full, strict=False)):
        if one.name != other.name:
            return others, place
        if _differ(one.numbers, other.numbers):
            others.add(place)
    return others, float("inf")


def _resumed(steps: Sequence[Step], position: int, names: list[str]) -> int:
    """Where a run comes to operators of these names again, soon after a position; else the position."""
    for start in range(position, position + 8):
        if [step.name for step in steps[start : start + len(names)]] == names:
            return start
    return position


def first_difference(
    network: Network, other: Network, predicted: Mapping[Node, tuple[Shape, ...]], skipped: frozenset[Node]
) -> Node | None:
    """As `first_surprise`, from a second capture of the smaller network instead of a run."""
    theirs = iter([twin for twin in other.operators if other.names[twin] != "aten.contiguous"])
    for node in network.operators:
        if node in skipped or network.names[node] == "aten.contiguous":  # export leaves out those that change nothing
            continue
        twin = next(theirs, None)
        if twin is None or other.names[twin] != network.names[node]:
            return node
        if node in predicted and results(other, twin) != predicted[node][: len(results(other, twin))]:
            return node
        if not skipped and _differ(_written(network, node), _written(other, twin)):
            return node
    return None


def _written(network: Network, node: Node) -> list[Number]:
    """The plain values and constants that an operator of a graph calculates with."""
    constants = [network.constants[source.name] for source in node.all_input_nodes if source.name in network.constants]
    values = [(0, (str(one.dtype), tuple(one.shape), one.tolist())) for one in constants]
    return [*numbers_of(node.target, node.args, node.kwargs, network.shapes[-1].__getitem__), *values]
