"""The size of every axis of every value, for any candidate: read off the labels.

A *form* counts the channels of an axis: `constant + sum of factor * units kept`. A `Size` is a form times a number that
depends on the side of the input only; the elements of a value are the product of its sizes. Forms are kept in lowest
terms (the largest number that divides all of a form goes into the size), so that equal ones are found and all numbers
stay whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from ..graph.network import BATCH, Network

if TYPE_CHECKING:
    from ..channels.flow import Flow
    from ..channels.layout import Ids, Layout

Form = tuple[float, tuple[tuple[int, float], ...]]
"""`(constant, ((group, factor), ...))`."""
_REDUCTIONS = {f"aten.{name}" for name in "mean sum amax amin var std prod logsumexp linalg_vector_norm".split()}


@dataclass(frozen=True)
class Size:
    """Size of one axis: the number `form` times `counts[side]`; form 0 is always 1."""

    form: int
    counts: tuple[float, ...]


class Sizes:
    """Sizes of the values of a network.

    Attributes:
        network: the captured graph.
        forms: number of each form; what a form with a negative constant counts is 1 at most.
    """

    def __init__(self, flow: Flow, layout: Layout, batched: set[Node]) -> None:
        """Sizes of what was walked.

        Args:
            flow: labels of each value.
            layout: units and groups.
            batched: nodes whose size goes with the number of examples.
        """
        self.network = flow.network
        self.forms: dict[Form, int] = {(1.0, ()): 0}
        self._flow, self._layout, self._batched = flow, layout, batched
        self._known: dict[tuple[Node, int | None], list[Size]] = {}
        self._group_of = np.zeros(layout.units, np.int64)
        for number, group in enumerate(layout.groups):
            self._group_of[group.first] = number + 1

    def examples(self, node: Node) -> int:
        """How many examples a value of the graph holds."""
        return BATCH if node in self._batched else 1

    def number(self, value: Size | int | float) -> Size:
        """A plain number as a size."""
        return value if isinstance(value, Size) else Size(0, (float(value),) * len(self.network.sides))

    def alone(self, size: Size) -> int | None:
        """The group of which one unit may stay, where a size counts its units; None where it does not."""
        constant, pairs = list(self.forms)[size.form]
        if constant or size.counts[-1] != 1 or len(pairs) != 1 or pairs[0][1] != 1:
            return None
        group = self._layout.groups[pairs[0][0]]
        return pairs[0][0] if group.widths[0] == group.unit and group.units > 1 else None

    def several(self, group: int) -> Size:
        """0 where one unit of a group stays, else 1: the units kept less one, at most 1 as its constant is negative."""
        form = self.forms.setdefault((-1.0, ((group, 1.0),)), len(self.forms))
        return Size(form, (1.0,) * len(self.network.sides))

    def left(self, size: Size, group: int) -> int:
        """A size where one unit of a group stays, and all of the others, at the largest side."""
        constant, pairs = list(self.forms)[size.form]
        units = (factor * (1 if number == group else self._layout.groups[number].units) for number, factor in pairs)
        return round((constant + sum(units)) * size.counts[-1])

    def depend(self, node: Node) -> bool:
        """Whether the channels of an operator's operands or results differ between candidates."""
        values = (node, *node.all_input_nodes)
        return any(size.form for value in values for item in self._items(value) for size in self.axes(value, item))

    def _items(self, node: Node) -> list[int | None]:
        shapes = self.network.shapes[0].get(node)
        if isinstance(shapes, tuple):
            return [None]
        return [number for number, shape in enumerate(shapes or ()) if shape is not None]

    def axes(self, node: Node, item: int | None = None) -> list[Size]:
        """Sizes of the axes of a value, or of one item of a value that is several tensors."""
        key = node, item
        if key not in self._known:
            name = self.network.sources.get(node)
            self._known[key] = self._of_value(node, item) if name is None else self.of_tensor(name)
        return self._known[key]

    def of_tensor(self, name: str) -> list[Size]:
        """Sizes of the axes of a parameter or buffer."""
        slots, sides = self._layout.slots.get(name, {}), len(self.network.shapes)
        return [self._size(slots.get(axis), [size] * sides) for axis, size in enumerate(self._flow.shapes[name])]

    def _of_value(self, node: Node, item: int | None) -> list[Size]:
        shapes = [shapes[node] if item is None else shapes[node][item] for shapes in self.network.shapes]
        labels = self._flow.values.get(node)
        if item is not None:
            labels = labels[item] if isinstance(labels, list) else None
        along = self._along(labels)
        return [self._size(along.get(axis), [shape[axis] for shape in shapes]) for axis in range(len(shapes[0]))]

    def _along(self, labels: Any) -> dict[int, Ids]:
        """Units along each axis of a value along which they change."""
        found: dict[int, Ids] = {}
        for layer in labels if isinstance(labels, tuple) else (labels,):
            if not isinstance(layer, Tensor):
                continue
            ids = self._layout.ids(layer)
            for axis, size in enumerate(ids.shape):
                if size > 1 and axis not in found:
                    lines = np.moveaxis(ids, axis, 0).reshape(size, -1)
                    if (lines != lines[:1]).any():
                        found[axis] = lines[:, 0]
        return found

    def _size(self, ids: Ids | None, sizes: Sequence[float]) -> Size:
        if ids is None or not ids.any():
            return Size(0, tuple(float(size) for size in sizes))
        groups = np.bincount(self._group_of[ids])
        whole = [int((ids == 0).sum()), *groups[1:].tolist()]
        common = math.gcd(*whole)
        pairs = tuple((number, float(n // common)) for number, n in enumerate(whole[1:]) if n)
        form = self.forms.setdefault((float(whole[0] // common), pairs), len(self.forms))
        return Size(form, tuple(size * common / len(ids) for size in sizes))


def batched(network: Network, storages: Mapping[Node, Node], seen: Callable[[], Mapping[Node, bool]]) -> set[Node]:
    """The nodes whose size goes with the number of examples.

    Those that depend on an input do that has a row an example, through memory that is written to as well. What is made
    of nothing may have a row an example too, as the first state of a recurrent layer, or positions that are expanded
    before they are multiplied: then a run with another number of examples says of each operator.

    Args:
        network: the captured graph.
        storages: for each tensor node, the node that owns its memory.
        seen: gives what such a run says, as far as it does.
    """
    found = _following(network, storages, {})
    made = [network.shapes[0][node] for node in network.operators if node not in found]
    if any(BATCH in shape for one in made for shape in ([one] if isinstance(one, tuple) else one) if shape):
        found = _following(network, storages, seen())
    return found


def _following(network: Network, storages: Mapping[Node, Node], seen: Mapping[Node, bool]) -> set[Node]:
    """Inputs with a row an example, and what is made of them; what was seen of a node holds."""
    found = {node for node in network.inputs if network.shapes[0].get(node, ())[:1] == (BATCH,)}
    found |= {node for node, goes in seen.items() if goes}
    before = 0
    while before < len(found):
        before = len(found)
        for node in network.graph.nodes:
            root = storages.get(node, node)
            given = [source for source in node.all_input_nodes if source in found]
            if seen.get(node, root in found or (given and not _mixes_examples(network, node))):
                found |= {one for one in (node, root) if seen.get(one, True)} - network.sources.keys()
    return found


def _mixes_examples(network: Network, node: Node) -> bool:
    """Whether an operator takes the mean, or the like, over all examples."""
    names = [argument.name for argument in getattr(getattr(node.target, "_schema", None), "arguments", ())]
    call = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    dims = call.get("dim")
    if network.names[node] not in _REDUCTIONS or dims is None:
        return False
    source = network.shapes[0].get(node.all_input_nodes[0])
    if not isinstance(source, tuple) or source[:1] != (BATCH,):
        return False
    return any(axis % len(source) == 0 for axis in ([dims] if isinstance(dims, int) else dims))
