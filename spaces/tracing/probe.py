"""Dry runs without arithmetic: what shares memory, and the operators that a smaller network takes.

Export erases whether a size was written in the forward or computed from a shape. So the shrunken network is run once,
without arithmetic, and the shape of every operator's result is compared with the predicted one; a run that merely does
not crash proves nothing. The record of the run is a list of the operators that PyTorch dispatches; the captured graph,
run the same way, tells which of them belong to which node. `surprises.py` holds two runs against each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._export.utils import _compiling_state_context
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

from ..cutting.surgery import Cut, assemble, named_tensors, parameters_and_buffers
from ..graph.known import Known
from ..graph.modes import Still, quietly, switch, uncollected, unfused
from ..graph.network import (
    BATCH,
    Examples,
    Maker,
    Network,
    Number,
    Rehearsal,
    Side,
    Step,
    as_call,
    dispatched_name,
    resized,
)
from ..graph.values import Values
from .shortcuts import dispatched

FOLLOW = {  # sizes: the shapes of results say the same
    *("size", "sizes", "shape", "self_size", "split_size", "split_sizes", "normalized_shape", "repeats", "chunks"),
    *("length", "indices_or_sections", "sections", "N", "C", "HxW", "unflattened_size", "hidden_size"),
}
_GROUPS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"}
_STRIDED = {"as_strided", "empty_strided", "new_empty_strided", "_reshape_alias"}
_PLACES = {"start", "end", "index"}  # along an axis
_SILENT = {
    f"aten.{name}"
    for name in "detach alias lift_fresh lift_fresh_copy scalar_tensor empty clone _assert_tensor_metadata".split()
}
_SAME = {"aten.detach", "aten.alias", "aten.lift_fresh", "aten.clone"}  # they give what they take
_VIEWS = {"aten._unsafe_view": "aten.view", "aten._reshape_alias": "aten.view"}  # which one depends on the strides


class Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps every dispatched operator; what single numbers and tensors are made of goes with the next one."""

    def __init__(self, values: Values | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.makers: MutableMapping[Tensor, Maker] = WeakIdKeyDictionary()
        self._waiting: list[Number] = []
        self._values = values

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch 2.13 wraps each call otherwise; nothing is compiled here

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
    if not isinstance(func, torch._ops.OpOverload) or func._opname.removesuffix("_") in _STRIDED:
        return
    for place, name, default, along in _counting(func):
        value = args[place] if place < len(args) else kwargs.get(name, default)
        if isinstance(value, Tensor):
            continue
        if name == "scale" and value is None and "scaled_dot_product" in func._opname:
            value = int(shape(args[0])[-1]) ** -0.5  # what it makes of the number of features
        dim = None if along is None else args[along[0]] if along[0] < len(args) else kwargs.get("dim", along[1])
        if name in _PLACES and isinstance(dim, int) and (value is None or isinstance(value, int)):
            size = int(shape(args[0])[dim])
            bound = size if value is None and name == "end" else value or 0
            yield size, min(bound + size if bound < 0 else bound, size)
        elif name == "pad" and func._opname in ("constant_pad_nd", "pad"):
            for place, amount in enumerate(value):
                yield int(shape(args[0])[-1 - place // 2]), amount
        else:
            for one in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(one, (int, float, complex, str)):
                    yield 0, one


@cache
def _counting(func: torch._ops.OpOverload) -> list[tuple[int, str, Any, tuple[int, Any] | None]]:
    """Operands that may be plain values but no sizes: place, name, default, and place and default of its `dim`."""
    operands = list(enumerate(func._schema.arguments))
    along = next(((place, one.default_value) for place, one in operands if one.name == "dim"), None)
    sizes = {*FOLLOW, "group", "num_groups", *(["groups"] if func._opname in _GROUPS else [])}
    return [(place, one.name, one.default_value, along) for place, one in operands if one.name not in sizes]


def differ(numbers: Sequence[Number], others: Sequence[Number]) -> bool:
    """Whether two calls of an operator calculate with other numbers; those along an axis that was cut may differ."""
    if len(numbers) != len(others):
        return True
    return any(
        size == other_size and number != other and (number == number or other == other)
        for (size, number), (other_size, other) in zip(numbers, others, strict=True)
    )


@uncollected()
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
    with quietly(), torch.no_grad(), mode, Record() as record:
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


Watch = Callable[[nn.Module, MutableMapping[Tensor, Maker]], None]
"""Is given a network before it runs, and what will say which step makes each tensor."""

Around = Callable[[list[Step]], contextlib.AbstractContextManager[object]]
"""Gives a mode in which a forward is called, of the steps that it will take."""


@uncollected()
def run(
    model: nn.Module,
    changes: Cut,
    examples: Examples,
    side: Side | None,
    *,
    quick: bool = False,
    training: bool = False,
    batch: int = BATCH,
    watch: Watch | None = None,
    values: Values | None = None,
    around: Around | None = None,
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
        batch: examples.
        watch: is given the network before it runs.
        values: told all that is calculated.
        around: gives a mode in which the forward is called.

    A forward that asks whether it is exported does as in the captured graph.
    """
    args, kwargs = as_call(resized(examples, side, batch))
    device = "meta" if quick else None
    mode: Any = torch.device("meta") if quick else FakeTensorMode(allow_non_fake_inputs=True)
    failure: Exception | None = None
    with mode:
        tensors = sketched(model, changes, device, fake=None if quick else mode)
    small = assemble(model, tensors, changes.attributes, changes.removed, changes.gives, changes.numbers)
    switch(small, training=training)
    still = Still() if training else contextlib.nullcontext()
    recorder = Record(values)
    known = Known(recorder.note)
    with quietly(), torch.no_grad(), unfused(), still, mode, recorder, _compiling_state_context():
        known.know(parameters_and_buffers(small)[1].items(), parameters_and_buffers(model)[1])
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
            with known, contextlib.nullcontext() if around is None else around(recorder.steps):
                outputs = small(*fakes, **named)
            if values is not None:
                values.end(outputs)
        except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
            failure = error
    return recorder.ended(), failure


def sketch(model: nn.Module, changes: Cut, device: str | None, fake: FakeTensorMode | None = None) -> nn.Module:
    """The smaller network with tensors of the right shapes and no contents, fake ones where a mode is given."""
    tensors = sketched(model, changes, device, fake)
    return assemble(model, tensors, changes.attributes, changes.removed, changes.gives, changes.numbers)


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
