"""What the layers that read a group's units see, as products of their inputs over examples and positions.

A reader's outputs are Z W, and what they lack once units are gone is a quadratic form of these products alone: so they
are gathered once, from the full network, and every choice of units is judged by linear algebra.

Z      (rows, d)   what a reader sees: an input is a channel at a position of the kernel
W      (d, o)      its weights
Z^T Z  (d, d)      the products
u, k   units of a group, and inputs of a reader that each of them makes
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ...spaces import Group, Layer, Space, named_tensors
from ...spaces.networks.patches import Call, as_matrix, drawn, inputs_at
from ...spaces.networks.watching import After, Watching
from ..examples import Examples, left_as_found

ROWS = 4096
"""Places that a layer is looked at, at least; twice its inputs where these are more."""
MEMORY = 2**30
"""Bytes of products that are held at once; a layer whose own are more is left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """A layer that reads units of a group.

    Attributes:
        layer: which.
        rows: places it was looked at.
        products: `(d, d)` Z^T Z over the rows, in float64.
        sums: `(d,)` of Z.
        weight: `(d, o)`.
        inputs: `(u, k)` inputs that each unit of the group makes.
        shifts: whether its bias, or the batch norm behind it, can take a constant.
    """

    layer: Layer
    rows: int
    products: Tensor = field(repr=False)
    sums: Tensor = field(repr=False)
    weight: Tensor = field(repr=False)
    inputs: Tensor = field(repr=False)
    shifts: bool

    @property
    def centred(self) -> Tensor:
        """`(d, d)` products of what varies, where a constant can be taken by the layer; of all otherwise; `shrunk`."""
        if not self.shifts:
            return shrunk(self.products, self.rows)
        return shrunk(self.products - self.sums.unsqueeze(1) * self.sums / self.rows, self.rows)

    def spread(self, products: Tensor) -> float:
        """Sum of the squares of the outputs that inputs with these products give."""
        return max(float((self.weight * (products @ self.weight)).sum()), torch.finfo(torch.float64).tiny)


def shrunk(products: Tensor, rows: int) -> Tensor:
    """`(d, d)` products drawn towards a multiple of the identity, where there are fewer rows than inputs.

    In few rows any input is a mix of the others by chance, and the removal of most of them would seem to cost nothing:
    so it is of a classifier that sees one row a picture. The share is that of the oracle approximating shrinkage, Chen
    2010 (arXiv 0907.4698).
    """
    size, mean = len(products), float(products.diagonal().mean())
    if rows >= size or not mean > 0:
        return products
    squares, own = float(products.square().sum()), size * mean**2
    share = ((1 - 2 / size) * squares + size * own) / max((rows + 1 - 2 / size) * (squares - own), 1e-300)
    share = min(1.0, share)
    return (1 - share) * products + share * mean * torch.eye(size, dtype=products.dtype)


class _Sums:
    """The products of one layer's inputs, while they are gathered."""

    def __init__(self, rows: int) -> None:
        self.wanted, self.rows = rows, 0
        self.products: Tensor | None = None
        self.sums: Tensor | None = None
        self.weight: Tensor | None = None
        self.kernel = 1

    def add(self, name: str, number: int, call: Call, output: Tensor) -> None:
        sides = tuple(output.shape[output.ndim - len(call.kernel) :])
        places = drawn(len(call.input) * int(np.prod(sides)), self.wanted, zlib.crc32(f"{name} {number}".encode()))
        z = inputs_at(call, sides, places)[:, 0].double()
        if self.products is None or self.sums is None:
            self.weight = as_matrix(call, call.weight.detach())[0].double()
            self.kernel = int(np.prod(call.kernel))
            self.products, self.sums = z.new_zeros(z.shape[1], z.shape[1]), z.new_zeros(z.shape[1])
        self.products += z.T @ z
        self.sums += z.sum(0)
        self.rows += len(z)


def readers(
    model: nn.Module, space: Space, examples: Examples, *, memory: int = MEMORY
) -> Iterator[tuple[Group, list[Reader]]]:
    """Every group with the layers that read its units, none where no such layer does.

    Convolutions without groups and linear layers count. A forward of all examples is made for every so many products
    as fit into the memory; most networks need one.
    """
    reading = {layer.name: layer for layer in space.layers if layer.groups == 1 and layer.reads.any()}
    names = {
        group.name: [name for name, layer in reading.items() if group.holds(layer.reads).any()]
        for group in space.groups
    }
    sizes = {name: 8 * _inputs(space, layer) ** 2 for name, layer in reading.items()}
    waiting = list(space.groups)
    while waiting:
        taken, held = list[Group](), dict[str, int]()
        for group in waiting:
            more = {name: sizes[name] for name in names[group.name] if sizes[name] <= memory}
            if taken and sum((held | more).values()) > memory:
                break
            taken.append(group)
            held |= more
        found = _gathered(model, {name: reading[name] for name in held}, space, examples)
        for group in taken:
            made = [_reader(reading[name], found[name], group) for name in names[group.name] if name in found]
            yield group, [one for one in made if one is not None]
        waiting = waiting[len(taken) :]


def readers_twice(
    model: nn.Module, space: Space, examples: Examples, *, memory: int = MEMORY
) -> Callable[[], Iterable[tuple[Group, list[Reader]]]]:
    """What gives `readers`, as often as it is called: held where all products fit into memory, else gathered anew."""
    sizes = [8 * _inputs(space, layer) ** 2 for layer in space.layers if layer.groups == 1 and layer.reads.any()]
    if sum(sizes) > memory:
        return partial(readers, model, space, examples, memory=memory)
    held = list(readers(model, space, examples, memory=memory))
    return lambda: held


def _inputs(space: Space, layer: Layer) -> int:
    """D of a layer."""
    return int(np.prod(space.shapes[layer.weight])) // space.shapes[layer.weight][layer.out_axis]


def _gathered(model: nn.Module, layers: Mapping[str, Layer], space: Space, examples: Examples) -> dict[str, _Sums]:
    """The products of the layers' inputs, over all examples and calls; of those that are called."""
    if not layers:
        return {}
    tensors = named_tensors(model)
    owners = {id(tensors[layer.weight]): name for name, layer in layers.items()}
    share = len(examples.batches)
    found = {
        name: _Sums(-(-max(ROWS, 2 * _inputs(space, layer)) // (share * layer.calls))) for name, layer in layers.items()
    }
    with left_as_found(model), torch.no_grad():
        for number, batch in enumerate(examples.batches):
            with Watching(owners, after=_adding(found, number)):
                examples.outputs_of(model, batch)
    return {name: one for name, one in found.items() if one.rows}


def _adding(found: Mapping[str, _Sums], number: int) -> After:
    """What adds the calls of one batch."""
    calls = Counter[str]()

    def after(name: str, call: Call, output: Tensor) -> None:
        found[name].add(f"{name} {calls[name]}", number, call, output)
        calls[name] += 1

    return after


def _reader(layer: Layer, found: _Sums, group: Group) -> Reader | None:
    assert found.products is not None and found.sums is not None and found.weight is not None
    if not bool(found.products.isfinite().all()):
        raise ValueError(
            f"what {layer.name} sees of the examples is not finite; look for NaN in them and in the weights"
        )
    if len(found.sums) != len(layer.reads) * found.kernel:
        return None  # it is called with another number of channels than the trace saw
    ids = np.repeat(layer.reads, found.kernel)
    places = np.flatnonzero(group.holds(ids))
    places = places[np.argsort(ids[places], kind="stable")]
    norm = layer.norm
    return Reader(
        layer=layer,
        rows=found.rows,
        products=found.products.cpu(),
        sums=found.sums.cpu(),
        weight=found.weight.cpu(),
        inputs=torch.from_numpy(places.reshape(group.units, -1)),
        shifts=layer.bias is not None or (norm is not None and norm.mean is not None and layer.calls == 1),
    )


def blocks(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`(u, k, k)` of a matrix: for each unit the products of its own inputs, by `(u, k)` rows and columns."""
    return matrix[rows.unsqueeze(2), columns.unsqueeze(1)]
