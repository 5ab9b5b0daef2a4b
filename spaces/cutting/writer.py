"""The network as a graph whose constants follow the channels, for forwards that write channel numbers down.

A module keeps the numbers of its forward; here every operator's sizes, bounds and counts are computed again from the
labels, and the result is a `torch.fx.GraphModule` with the user's parameter names. Batch norms and dropouts stay
modules, so that it can be trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from ..channels.flow import Flow
from ..channels.labels import constant, tensors_in
from ..channels.layout import Ids, Layout
from ..graph.blocks import Block
from ..graph.network import Network, Shape
from .surgery import named_tensors

logger = logging.getLogger("secateur")
Kept = npt.NDArray[np.bool_]
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_DROPOUTS: dict[str, Any] = {"aten.dropout": nn.Dropout, "aten.feature_dropout": nn.Dropout2d}
SIZED = {  # operators that take the sizes of their result: name -> position of the sizes
    "aten.view": 1,
    "aten.reshape": 1,
    "aten._unsafe_view": 1,
    "aten.expand": 1,
    "aten.new_zeros": 1,
    "aten.new_ones": 1,
    "aten.new_full": 1,
    "aten.new_empty": 1,
    "aten.zeros": 0,
    "aten.ones": 0,
    "aten.full": 0,
    "aten.empty": 0,
    "aten.rand": 0,
    "aten.randn": 0,
}


def shrunk(layout: Layout, stays: Kept, shape: Shape, value: Any) -> Shape:
    """A shape when only some units stay, from the labels of the value."""
    result = list(shape)
    for labels in tensors_in(value):
        for axis, left in left_along(layout.ids(labels), stays).items():
            result[axis] = left
    return tuple(result)


def left_along(ids: Ids, stays: Kept) -> dict[int, int]:
    """How many indices stay along each axis of which some go, of an array of unit numbers."""
    kept = stays[ids]
    if kept.all():
        return {}
    found = {}
    for axis, size in enumerate(kept.shape):
        lines = kept.any(axis=tuple(other for other in range(kept.ndim) if other != axis))
        if size > 1 and not lines.all():
            found[axis] = int(lines.sum())
    return found


def kept_along(layout: Layout, stays: Kept, value: Any, axis: int, size: int) -> Kept:
    """`(size,)` whether each index along an axis of a value stays."""
    for labels in tensors_in(value):
        if not constant(labels, axis):
            moved = np.moveaxis(stays[layout.ids(labels)], axis, 0)
            return np.asarray(moved.reshape(len(moved), -1).any(axis=1), bool)
    return np.ones(size, bool)


@dataclass(frozen=True)
class GraphWriter:
    """All that is needed to write the graph of a candidate.

    Attributes:
        network: the captured graph.
        flow: the labels of its values.
        layout: units and groups.
        whole: grouped operators that lose whole blocks.
        blocks: removable blocks by name.
    """

    network: Network
    flow: Flow
    layout: Layout
    whole: frozenset[Node]
    blocks: Mapping[str, Block]

    @cached_property
    def modules(self) -> dict[Node, str]:
        """Batch norms and dropouts, which behave otherwise in training: their paths."""
        found = {}
        for node in self.network.operators:
            name = self.network.names[node]
            if name in _DROPOUTS:
                found[node] = f"_dropout.{node.name}"
            elif name == "aten.batch_norm":
                given = [self.network.sources.get(arg) for arg in node.args[1:5] if isinstance(arg, Node)]
                paths = {str(source).rpartition(".")[0] for source in given}
                if len(given) >= 2 and len(paths) == 1 and None not in given and paths != {""}:
                    found[node] = paths.pop()
        return found

    def graph(self, stays: Kept, removed: Sequence[str]) -> tuple[Graph, dict[Node, Node]]:
        """The smaller graph, and for each node of the full one its copy.

        Args:
            stays: `(u,)` whether each unit stays.
            removed: names of blocks that are gone.
        """
        network, constants = self.network, _Constants(self, stays)
        exits = {self.blocks[name].exit: self.blocks[name].entry for name in removed}
        gone = {node for name in removed for node in self.blocks[name].nodes}
        graph, copies = Graph(), {}
        for node in network.graph.nodes:
            if node in network.inputs and node in network.shapes[0]:  # plain values are written into the graph
                copies[node] = graph.placeholder(node.name)
        for node in network.graph.nodes:
            if node in exits:
                copies[node] = copies[exits[node]]
            elif (
                node in gone
                or node in copies
                or node in network.inputs
                or network.names[node].startswith("aten._assert")
            ):
                continue
            elif node in network.sources:
                if not network.sources[node].startswith(tuple(f"{name}." for name in removed)):
                    copies[node] = graph.get_attr(network.sources[node])
            elif node.op == "call_function":
                target, args, kwargs = constants.call(node)
                args = torch.fx.node.map_arg(args, copies.__getitem__)
                kwargs = torch.fx.node.map_arg(kwargs, copies.__getitem__)
                module = self.modules.get(node)
                if module is not None:
                    copies[node] = graph.call_module(module, args[:1])
                else:
                    copies[node] = graph.call_function(target, args, kwargs)
            elif node.op == "get_attr" or node.op == "placeholder":
                copies[node] = graph.get_attr(f"_constants.{node.name}")
        values = [copies[value] if isinstance(value, Node) else value for value in network.returned]
        graph.output(pytree.tree_unflatten(values, network.structure) if network.structure else tuple(values))
        return graph, copies

    def module(
        self, model: nn.Module, tensors: Mapping[str, Tensor], stays: Kept, removed: Sequence[str]
    ) -> GraphModule:
        """The smaller network.

        Args:
            model: the full network; its batch norms, dropouts and constants are copied.
            tensors: its smaller parameters and buffers, by name; they are used as they are.
            stays: `(u,)` whether each unit stays.
            removed: names of blocks that are gone.
        """
        return self.written(model, tensors, *self.graph(stays, removed))

    def written(
        self, model: nn.Module, tensors: Mapping[str, Tensor], graph: Graph, copies: Mapping[Node, Node]
    ) -> GraphModule:
        """A graph of `graph` as a module that holds the tensors it takes."""
        root, made = nn.Module(), dict[int, Tensor]()
        for node, path in self.modules.items():
            if node in copies and copies[node].op == "call_module":
                _attach(root, path, self._stateful(model, node, path, tensors))
        originals = named_tensors(model)
        for node in graph.nodes:
            if node.op == "get_attr":
                name = str(node.target)
                if name.startswith("_constants."):
                    _attach(root, name, self.network.constants[name.removeprefix("_constants.")].clone())
                    continue
                tensor, original = tensors[name], originals[name]
                if isinstance(original, nn.Parameter):
                    tensor = made.setdefault(id(tensor), nn.Parameter(tensor, requires_grad=original.requires_grad))
                _attach(root, name, tensor)
        result = GraphModule(root, graph, class_name=type(model).__name__)
        result.train(model.training)
        return result

    def _stateful(self, model: nn.Module, node: Node, path: str, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A batch norm with its smaller tensors, or a dropout."""
        name = self.network.names[node]
        if name in _DROPOUTS:
            dropout: nn.Module = _DROPOUTS[name](node.args[1])
            return dropout
        rank = len(self.network.shapes[0][node])
        held = {key: tensors[f"{path}.{key}"] for key in _NORM if f"{path}.{key}" in tensors}
        size = next(tensor.shape[0] for tensor in held.values() if tensor.ndim)
        kind = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(rank, nn.BatchNorm1d)
        running = "running_mean" in held
        settings: dict[str, Any] = {"eps": node.args[7], "momentum": node.args[6]}
        norm = kind(size, affine="weight" in held, track_running_stats=running, **settings)
        original = model.get_submodule(path)
        for key, tensor in held.items():
            old = getattr(original, key)
            own = isinstance(old, nn.Parameter)
            setattr(norm, key, nn.Parameter(tensor, requires_grad=old.requires_grad) if own else tensor)
        return norm

    def run(
        self, module: GraphModule, copies: Mapping[Node, Node], inputs: Sequence[Tensor]
    ) -> tuple[dict[Node, Shape], Node | None]:
        """Run a graph; the shapes of its values by node of the full one, and the node at which it failed, if it did."""
        recorder = _Recorder(module)
        failed = ""
        try:
            recorder.run(*inputs)
        except Exception as error:  # noqa: BLE001 - any operator may refuse its operands
            failed = recorder.now
            logger.debug("%s: %s", failed, error)
        names = {node: copy.name for node, copy in copies.items() if copy.op in ("call_function", "call_module")}
        shapes = {node: recorder.shapes[name] for node, name in names.items() if name in recorder.shapes}
        return shapes, next((node for node, name in names.items() if name == failed), None)


class _Recorder(Interpreter):
    """Runs a graph and keeps the shapes of its values."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, Shape] = {}
        self.now = ""

    def run_node(self, n: Node) -> Any:
        self.now = n.name
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
        return result


def _attach(root: nn.Module, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = getattr(root, parent)
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        root.register_buffer(name, value)
    else:
        setattr(root, name, value)


class _Constants:
    """An operator's call with its constants as they must be when only some units stay."""

    def __init__(self, writer: GraphWriter, stays: Kept) -> None:
        self.writer, self.stays = writer, stays
        self.layout, self.flow = writer.layout, writer.flow
        self.full = writer.network.shapes[writer.flow.side]

    def size(self, node: Node) -> Shape:
        return shrunk(self.layout, self.stays, self.full[node], self.flow.values[node])

    def source_size(self, node: Node) -> Shape:
        name = self.writer.network.sources.get(node)
        if name is None:
            return self.size(node)
        slots = self.layout.slots.get(name, {})
        shape = self.full[node]
        return tuple(int(self.stays[slots[a]].sum()) if a in slots else size for a, size in enumerate(shape))

    def kept(self, node: Node, axis: int) -> Kept:
        return kept_along(self.layout, self.stays, self.flow.values[node], axis, self.full[node][axis])

    def call(self, node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        name = self.writer.network.names[node]
        args: list[Any] = list(node.args)
        kwargs: dict[str, Any] = dict(node.kwargs)
        target: Any = node.target
        if name in SIZED:
            args[SIZED[name]] = self._sizes(node, args[SIZED[name]])
        elif name == "aten.unflatten":
            axis = args[1] % len(self.full[args[0]])
            args[2] = [
                size if not isinstance(size, int) or size < 0 else self.size(node)[axis + place]
                for place, size in enumerate(args[2])
            ]
        elif name in ("aten.slice", "aten.narrow", "aten.select"):
            args = self._bounds(name, node, args)
        elif name in ("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.tensor_split"):
            axis = int(args[2] if len(args) > 2 else kwargs.get("dim", 0)) % len(self.full[args[0]])
            kept = self.kept(args[0], axis)
            if not kept.all():
                edges = np.cumsum([0, *(shape[axis] for shape in self.full[node])])
                sizes = [int(kept[start:end].sum()) for start, end in zip(edges, edges[1:], strict=False)]
                return torch.ops.aten.split_with_sizes.default, (args[0], sizes, axis), {}
        elif name in ("aten.pad", "aten.constant_pad_nd"):
            args[1] = self._padding(node, list(args[1]))
        elif name.startswith("aten.conv"):
            self._groups(name, node, args, kwargs)
        elif name == "aten.group_norm":
            channels, left = self.full[node][1], self.size(node)[1]
            if node in self.writer.whole or args[1] == channels:
                args[1] = args[1] * left // channels
        elif name in ("aten.layer_norm", "aten.rms_norm"):
            args[1] = list(self.size(node)[-len(args[1]) :])
        elif name == "aten.scaled_dot_product_attention" and self.size(args[0])[-1] < self.full[args[0]][-1]:
            kwargs["scale"] = kwargs.get("scale") or self.full[args[0]][-1] ** -0.5  # which it makes of the features
        return target, tuple(args), kwargs

    def _sizes(self, node: Node, sizes: Sequence[Any]) -> list[Any]:
        full, small = self.full[node], self.size(node)
        return [
            small[axis] if isinstance(size, int) and size == full[axis] else size for axis, size in enumerate(sizes)
        ]

    def _bounds(self, name: str, node: Node, args: list[Any]) -> list[Any]:
        axis = (args[1] if len(args) > 1 else 0) % len(self.full[args[0]])
        kept = self.kept(args[0], axis)
        if kept.all():
            return args
        before = np.concatenate([[0], np.cumsum(kept)])
        size = len(kept)

        def moved(bound: Any) -> Any:
            if not isinstance(bound, int) or bound >= size:
                return bound
            return int(before[max(0, bound + size) if bound < 0 else bound])

        if name == "aten.narrow":
            args[2], args[3] = moved(args[2]), int(before[args[2] + args[3]] - before[args[2]])
        else:
            args[2:4] = [moved(bound) for bound in args[2:4]]
        return args

    def _padding(self, node: Node, amounts: list[Any]) -> list[Any]:
        rank = len(self.full[node])
        for place in range(len(amounts) // 2):
            axis = rank - 1 - place
            kept = self.kept(node, axis)
            before, after = amounts[2 * place], amounts[2 * place + 1]
            if kept.all() or not isinstance(before, int) or not isinstance(after, int):
                continue
            amounts[2 * place] = int(kept[:before].sum())
            amounts[2 * place + 1] = int(kept[len(kept) - after :].sum())
        return amounts

    def _groups(self, name: str, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
        names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
        place = names.index("groups")
        groups = args[place] if len(args) > place else kwargs.get("groups", 1)
        if groups == 1:
            return
        rank = len(self.full[args[1]])
        wide = self.size(node if "transpose" in name else args[0])[1 - rank]
        count = wide // max(1, self.source_size(args[1])[1])
        if len(args) > place:
            args[place] = count
        else:
            kwargs["groups"] = count
