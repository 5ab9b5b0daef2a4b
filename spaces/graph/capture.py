"""The network as a graph of ATen operators, captured once by `torch.export`.

Start at `capture`: it exports the model in eval mode (each module's flag is put back) with a batch of two, because a
batch of one hides mistakes, and with symbolic sides where several resolutions are asked for and the network allows it,
else once a side. `Network` then answers, for each node, its shape at each side.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from .callers import callers
from .known import reading_items
from .modes import DataAsDetached, evaluating, fixing, keeping, quietly, returning_plainly, uncollected
from .network import (
    BATCH,
    Examples,
    Network,
    Side,
    as_call,
    operator_name,
    own_side,
    resized,
    spatial_axis,
    where,
)
from .refusals import MEND, explained, line, refusal


@uncollected()
def capture(
    model: nn.Module,
    examples: Examples,
    sides: Sequence[Side],
    *,
    any_batch: bool = False,
    each: bool = False,
    training: bool = False,
) -> Network:
    """The graph of `model`, with shapes at each of `sides` (ascending).

    Args:
        model: the network.
        examples: example inputs.
        sides: spatial sides, ascending.
        any_batch: the graph must run with any number of examples, at all sides.
        each: export once a side, though one export for all seems to do.
        training: capture what the forward does in training, whatever number of rows it gives then.

    Raises:
        ValueError: `torch.export` cannot take the network; the text names the user's line and the ways out.
    """
    with evaluating(model, training=training):
        if (len(sides) > 1 or any_batch) and not each:
            program = _symbolic(model, examples, sides, any_batch)
            if program is not None:
                return _check_batch(_read(program, tuple(sides), model))
        if any_batch:
            raise ValueError(
                f"as_graph=True: {type(model).__name__} does not export as one graph for any batch size and all "
                f"resolutions {[list(side) for side in sides]}; give one resolution, or leave as_graph out"
            )
        networks = [_read(_export(model, resized(examples, side, BATCH), None), (side,), model) for side in sides]
    return _joined(networks) if training else _check_batch(_joined(networks))


def _export(
    model: nn.Module, examples: Examples, dynamic: Any, *, buffers: bool = True, ways: Sequence[bool] = (False, True)
) -> ExportedProgram:
    """The program; items of the forward's own constants are numbers in it, and those of buffers if wanted.

    Args:
        model: the network.
        examples: example inputs.
        dynamic: what may vary, as `torch.export` takes it.
        buffers: whether items of buffers are numbers.
        ways: strict or not, in the order in which they are tried.
    """
    args, kwargs = as_call(examples)
    with quietly(), torch.no_grad():
        failure: Exception | None = None
        for strict in ways:
            try:
                items = DataAsDetached() if strict else reading_items(model, buffers=buffers)
                with keeping(model), returning_plainly(model), items:
                    program = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=strict)
                if not any(isinstance(value, FakeTensor) for value in program.constants.values()):
                    return program
                failure = failure or RuntimeError("a value of the forward became a constant")
            except Exception as error:  # noqa: BLE001 - export raises whatever the user's forward and dynamo raise
                failure = failure or error
                if dynamic is not None:
                    break
        refused = refusal(model, args, kwargs) if dynamic is None else ""
    raise ValueError(refused or explained(model, failure)) from failure


def _symbolic(model: nn.Module, examples: Examples, sides: Sequence[Side], any_batch: bool) -> ExportedProgram | None:
    """One export for all sides, or None where the network fixes a side (or the batch, where any is asked for)."""
    example = resized(examples, sides[-1], BATCH)
    side = own_side(example)
    moving = [axis for axis in range(len(sides[-1])) if len({s[axis] for s in sides}) > 1]

    def dims(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return pytree.tree_map(lambda _: None, tensor)
        free: dict[int, Any] = {0: Dim.AUTO} if any_batch and tensor.ndim and tensor.shape[0] == BATCH else {}
        if first := spatial_axis(tensor, side):
            free |= {first + axis: Dim.AUTO for axis in moving}
        return free or None

    args, kwargs = as_call(example)
    dynamic: Any = {name: dims(t) for name, t in kwargs.items()} if kwargs else tuple(dims(t) for t in args)
    program, at = None, ""
    for strict in (False, True) if any_batch else (False,):  # `len(x)` is free for dynamo alone
        with contextlib.suppress(ValueError), fixing() as places:  # a graph reads buffers as they are then
            program = _export(model, example, dynamic, buffers=not any_batch, ways=(strict,))
            fixed = _fixed_batch(program, example) if any_batch else None
            if fixed is None:
                break
            at = at or line(places.get(fixed, []))
    else:
        if program is not None:
            raise ValueError(
                f"as_graph=True: {type(model).__name__} fixes the number of its examples{at}, so a graph of it takes "
                f"{BATCH} only; read that number as a size (x.shape[0]) and go through no examples one by one, or "
                "leave as_graph out"
            )
    if program is None:
        return None
    for node in _user_inputs(program):
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            continue
        first = value.ndim - len(side)
        if first != 2 and (first != 1 or len(side) != 1 or value.is_floating_point()):
            continue
        for axis in moving:
            size = value.shape[first + axis]
            expression = getattr(getattr(size, "node", None), "expr", None)
            if not isinstance(expression, sympy.Symbol):
                return None
            bounds = program.range_constraints.get(expression)
            if bounds is not None and not all(bounds.lower <= s[axis] <= bounds.upper for s in sides):
                return None
    return program


def _fixed_batch(program: ExportedProgram, examples: Examples) -> Any:
    """The symbol of a number of examples that is written into a program, if it has one; None: all are free."""
    for node, given in zip(_user_inputs(program), pytree.tree_leaves(as_call(examples)), strict=True):
        if isinstance(given, Tensor) and given.ndim and given.shape[0] == BATCH:
            size = getattr(node.meta["val"].shape[0], "node", None)
            if size is None or not size.expr.free_symbols:
                return getattr(size, "_expr", BATCH)
    return None


def _user_inputs(program: ExportedProgram) -> list[Node]:
    kinds = {spec.arg.name: spec.kind for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    return [node for node in placeholders if kinds.get(node.name) == InputKind.USER_INPUT]


def _read(program: ExportedProgram, sides: tuple[Side, ...], model: nn.Module) -> Network:
    module = program.graph_module
    _inline(module)
    nodes = list(module.graph.nodes)
    sources, inputs, constants, held = _placeholders(program, module, model)
    calls = {node: callers(node, model) for node in nodes}
    shapes, numbers = _at_sides(module.graph, inputs, sides)
    result = next(node for node in nodes if node.op == "output")
    returned = list(result.args[0]) if isinstance(result.args[0], (list, tuple)) else [result.args[0]]
    return Network(
        graph=module.graph,
        sources=sources,
        inputs=inputs,
        sides=sides,
        shapes=shapes,
        numbers=numbers,
        dtypes=_dtypes(nodes),
        outputs=[node for node in result.all_input_nodes if isinstance(node.meta.get("val"), (Tensor, list, tuple))],
        calls={node: tuple(re.sub(r"@\d+", "", path) for path in paths) for node, paths in calls.items()},
        repeated=frozenset(
            re.sub(r"@\d+", "", path) for paths in calls.values() for path in paths if re.search(r"@\d", path)
        ),
        returned=returned,
        structure=program.call_spec.out_spec,
        constants=constants,
        held=held,
    )


def _placeholders(
    program: ExportedProgram, module: GraphModule, model: nn.Module
) -> tuple[dict[Node, str], list[Node], dict[str, Tensor], dict[Node, str]]:
    """Parameters and buffers by node, the nodes of inputs, constants by the name of their node, paths of held ones."""
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
    sources: dict[Node, str] = {}
    inputs: list[Node] = []
    constants: dict[str, Tensor] = {}
    held: dict[Node, str] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for node in module.graph.nodes:
        if node.op == "placeholder":
            spec = kinds.get(node.name)
            if spec is None or spec.kind == InputKind.USER_INPUT:
                inputs.append(node)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                sources[node] = str(spec.target)
            elif isinstance(constant := program.constants.get(str(spec.target)), Tensor):
                constants[node.name] = constant
                path, _, name = str(spec.target).rpartition(".")
                if path in modules and isinstance(vars(modules[path]).get(name), Tensor):
                    held[node] = str(spec.target)
        elif node.op == "get_attr" and isinstance(constant := getattr(module, str(node.target), None), Tensor):
            constants[node.name] = constant
    return sources, inputs, constants, held


def _dtypes(nodes: Sequence[Node]) -> dict[Node, torch.dtype]:
    found = {}
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, (list, tuple)):
            value = next((item for item in value if isinstance(item, Tensor)), None)
        if isinstance(value, Tensor):
            found[node] = value.dtype
    return found


def _at_sides(
    graph: Graph, inputs: list[Node], sides: tuple[Side, ...]
) -> tuple[tuple[dict[Node, Any], ...], tuple[dict[Node, Any], ...]]:
    """Shapes and integers of every node at each side."""
    symbols = _symbols(inputs, sides)
    found = []
    for index, side in enumerate(sides):
        try:
            found.append(_evaluated(graph, {symbol: values[index] for symbol, values in symbols.items()}))
        except ZeroDivisionError:
            raise ValueError(
                f"the network cannot take the resolution {'x'.join(map(str, side))}: it divides a size by zero "
                "there; ask for others, or make the network independent of its input size"
            ) from None
    return tuple(shapes for shapes, _ in found), tuple(numbers for _, numbers in found)


def _symbols(inputs: list[Node], sides: tuple[Side, ...]) -> dict[sympy.Symbol, list[int]]:
    symbols: dict[sympy.Symbol, list[int]] = {}
    for node in inputs:
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            continue
        first = max(1, value.ndim - len(sides[0]))  # of tokens it is behind the batch
        for axis, size in enumerate(value.shape):
            expression = getattr(getattr(size, "node", None), "expr", None)
            if isinstance(expression, sympy.Symbol):
                symbols[expression] = [side[axis - first] if axis >= first else BATCH for side in sides]
    return symbols


def _evaluated(graph: Graph, symbols: dict[sympy.Symbol, int]) -> tuple[dict[Node, Any], dict[Node, Any]]:
    """Shapes and integers of every node with the symbols replaced."""
    known: dict[Any, float] = {}

    def number(value: Any) -> Any:
        expression = getattr(getattr(value, "node", None), "expr", None)
        if expression is None:
            return value
        if expression not in known:
            result = sympy.sympify(expression.xreplace(symbols))
            if result.free_symbols:
                raise _Unknown
            known[expression] = int(result) if result.is_integer is not False else float(result)
        return known[expression]

    shapes: dict[Node, Any] = {}
    numbers: dict[Node, Any] = {}
    for node in graph.nodes:
        value = node.meta.get("val")
        try:
            if isinstance(value, Tensor):
                shapes[node] = tuple(number(size) for size in value.shape)
            elif isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
                shapes[node] = [
                    tuple(number(size) for size in item.shape) if isinstance(item, Tensor) else None for item in value
                ]
            elif isinstance(value, (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)):
                numbers[node] = number(value)
        except _Unknown:
            raise ValueError(
                f"a size depends on the values of a tensor at {where(node)} (operator {operator_name(node)}); {MEND}"
            ) from None
    return shapes, numbers


class _Unknown(Exception):
    """A size that depends on the values of tensors."""


def _inline(module: GraphModule) -> None:
    """Put the nodes of sub-graphs (`no_grad`, autocast and checkpoint regions) where they are called."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        bodies = [arg for arg in node.args if isinstance(arg, Node) and arg.op == "get_attr"]
        body = getattr(module, str(bodies[0].target), None) if len(bodies) == 1 else None
        if not isinstance(body, GraphModule):
            continue
        _inline(body)
        given = node.args[node.args.index(bodies[0]) + 1 :]
        places = [n for n in body.graph.nodes if n.op == "placeholder"]
        if len(places) != len(given):
            continue
        mapping: dict[Node, Any] = dict(zip(places, given, strict=True))
        with module.graph.inserting_before(node):
            for inner in body.graph.nodes:
                if inner.op in ("placeholder", "output"):
                    continue
                copy = module.graph.node_copy(inner, mapping.__getitem__)
                mapping[inner] = copy
                outer = node.meta.get("nn_module_stack") or {}
                copy.meta["nn_module_stack"] = {**outer, **(copy.meta.get("nn_module_stack") or {})}
        output = next(n for n in body.graph.nodes if n.op == "output").args[0]
        results = list(output) if isinstance(output, (tuple, list)) else [output]
        for user in list(node.users):
            if operator_name(user) == "getitem":
                user.replace_all_uses_with(mapping[results[user.args[1]]])
                module.graph.erase_node(user)
        if node.users:
            node.replace_all_uses_with(mapping[results[0]])
        module.graph.erase_node(node)


def _check_batch(network: Network) -> Network:
    """The network, if every input that is one batch gives one batch.

    Raises:
        ValueError: at some side the forward folds positions into the batch, as `view(-1, 144)` does.
    """
    for node in network.outputs:
        batches = [shapes[node][0] for shapes in network.shapes if isinstance(shapes[node], tuple) and shapes[node]]
        for side, batch in zip(network.sides, batches, strict=False):
            if batch != (BATCH if BATCH in batches else batches[-1]):
                raise ValueError(
                    f"the network cannot take the resolution {'x'.join(map(str, side))}: its output has {batch} rows "
                    f"for {BATCH} examples there; ask for others, or make the network independent of its input size"
                )
    return network


def _joined(networks: list[Network]) -> Network:
    """Networks captured once a side, as one; their graphs must be the same but for sizes."""
    first = networks[-1]
    for other in networks[:-1]:
        if list(first.names.values()) != list(other.names.values()):
            raise ValueError(
                f"the network runs other operators at side {other.sides[0]} than at {first.sides[0]}; "
                "trace it with the resolutions at which it behaves alike"
            )
    shapes, numbers = [], []
    for other in networks:
        twins = dict(zip(other.graph.nodes, first.graph.nodes, strict=True))
        shapes.append({twins[node]: shape for node, shape in other.shapes[0].items()})
        numbers.append({twins[node]: value for node, value in other.numbers[0].items()})
    sides = tuple(other.sides[0] for other in networks)
    return replace(first, sides=sides, shapes=tuple(shapes), numbers=tuple(numbers))
