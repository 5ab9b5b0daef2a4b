"""Linear layers cut into blocks that do not exchange anything, after Partition Pruning. Start at `partitioned`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Layer, Space, copied, named_tensors
from ..examples import Examples, left_as_found
from .partitions import Labels, inside, partition

Ids = npt.NDArray[np.int64]
_RIDGE = 1e-3  # of the mean of the inputs' squares, where blocks are solved again


class GroupedLinear(nn.Module):
    """A linear layer whose weight is P blocks: part p of the outputs reads part p of the inputs only.

    Attributes:
        weight: `(P, outputs / P, inputs / P)`.
        bias: `(P, outputs / P)`, or None.
        order: `(inputs,)` where each input is taken from, or None: as they come.
        back: `(outputs,)` where each output is put from, or None: as they are made.
    """

    order: Tensor | None
    back: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, order: Tensor | None = None, back: Tensor | None = None
    ) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias)
        self.register_buffer("order", order)
        self.register_buffer("back", back)

    def blocks(self, given: Tensor) -> Tensor:
        """`(P, n, inputs / P)` what each part is given of `(..., inputs)`."""
        parts, _, inputs = self.weight.shape
        given = given if self.order is None else given.index_select(-1, self.order)
        return given.reshape(-1, parts, inputs).transpose(0, 1)

    def forward(self, given: Tensor) -> Tensor:
        """`(..., outputs)` of `(..., inputs)`."""
        blocks, weights = self.blocks(given), self.weight.transpose(1, 2)
        found = torch.bmm(blocks, weights) if self.bias is None else torch.baddbmm(self.bias[:, None], blocks, weights)
        found = found.transpose(0, 1).reshape(*given.shape[:-1], -1)
        return found if self.back is None else found.index_select(-1, self.back)


def partitioned(
    model: nn.Module,
    space: Space,
    layers: Sequence[str],
    partitions: int,
    *,
    examples: Examples | None = None,
    seed: int = 0,
) -> tuple[nn.Module, dict[str, float]]:
    """A copy whose linear layers are blocks, and the share of their damages that stays inside (`kept`).

    After Shahhosseini 2019 (arXiv 1901.11391), whose way to find the parts is not public: here a weight's damage is its
    square times the mean square of its input on the examples (1 without), and balanced parts with the most of it inside
    are found by `partition`. Of layers that follow one another, the output parts of one are the input parts of the
    next. Units are put in the order of their parts wherever they are made and read, so that nothing is moved about at
    run time but inputs and outputs of the network. With examples, each block is solved again, in forward order, for the
    outputs that the full layer gives.

    The layers become `GroupedLinear`, not the user's own class; nothing of it is an axis of a search.

    Args:
        model: a network of the space.
        space: its traced space.
        layers: names of linear layers, each reading what the one before makes.
        partitions: P; 1 cuts nothing. It must divide all widths; inputs behind a flattened map count as channels.
        examples: what mean squares, and the solved blocks, are taken from; without labels.
        seed: of the search for parts.

    Raises:
        ValueError: a name is no linear layer, the layers are no chain, or P does not divide a width.
    """
    chain = _chain(space, layers)
    squares = None if examples is None else _squares(model, layers, examples)
    reads = [layer.reads if bool((layer.reads > 0).all()) else -1 - np.arange(len(layer.reads)) for layer in chain]
    makes = [layer.makes if bool((layer.makes > 0).all()) else -1 - np.arange(len(layer.makes)) for layer in chain]
    units = [np.unique(reads[0]), *[np.unique(one) for one in makes]]
    coupled = [int(unit) for one in units for unit in one if unit > 0]
    if len(coupled) != len(set(coupled)):
        raise ValueError(f"{', '.join(layers)} read and make the same channels, which can't be in two orders at once")
    named, damages = named_tensors(model), []
    for number, layer in enumerate(chain):
        s = named[layer.weight].detach().double().cpu().numpy() ** 2 * (1.0 if squares is None else squares[number])
        rows, columns = np.searchsorted(units[number + 1], makes[number]), np.searchsorted(units[number], reads[number])
        found = np.zeros((len(units[number + 1]), len(units[number])))
        np.add.at(found, (rows[:, None], columns), s)
        damages.append(found)
    labels = partition(damages, partitions, seed)
    small = _reordered(model, space, units, labels)
    full = copied(small) if examples is not None else small
    order = _new_places(space, units, labels)
    for number, layer in enumerate(chain):
        inputs = labels[number][np.searchsorted(units[number], _after(reads[number], order))]
        outputs = labels[number + 1][np.searchsorted(units[number + 1], _after(makes[number], order))]
        dense = small.get_submodule(layer.name)
        grouped = _grouped(dense, inputs, outputs, partitions)
        parent, _, name = layer.name.rpartition(".")
        setattr(small.get_submodule(parent), name, grouped)
        if examples is not None:
            _solve(small, full, layer.name, np.argsort(outputs, kind="stable"), examples)
    total = sum(float(s.sum()) for s in damages)
    return small, {"kept": inside(damages, labels) / total if total else 1.0}


def partition_costs(space: Space, layers: Sequence[str], partitions: int) -> dict[str, float]:
    """Exact multiply-adds and parameters of the network whose layers are cut into so many blocks."""
    costs = {name: float(space.full_costs[name]) for name in ("macs", "params")}
    for layer in _chain(space, layers):
        gone = 1 - 1 / partitions
        costs["macs"] -= gone * layer.macs
        costs["params"] -= gone * len(layer.makes) * len(layer.reads)
    return costs


def _chain(space: Space, layers: Sequence[str]) -> list[Layer]:
    known = {layer.name: layer for layer in space.layers if layer.kind == "linear"}
    unknown = [name for name in layers if name not in known]
    if unknown or not layers:
        raise ValueError(f"{unknown or 'nothing'} is no linear layer; expected names out of {', '.join(known)}")
    chain = [known[name] for name in layers]
    for one, two in zip(chain, chain[1:], strict=False):
        if not bool((one.makes > 0).all()) or set(one.makes.tolist()) != set(two.reads.tolist()):
            raise ValueError(
                f"{two.name} does not read what {one.name} makes, or that stays whole; cut them in calls of their own"
            )
    return chain


def _new_places(space: Space, units: Sequence[Ids], labels: Sequence[Labels]) -> Ids:
    """`(u,)` which unit comes to the place of each, so that every group is in the order of its parts."""
    order = np.arange(space.units)
    for one, two in zip(units, labels, strict=True):
        if one[0] > 0:
            order[one] = one[np.argsort(two, kind="stable")]
    return order


def _after(ids: Ids, order: Ids) -> Ids:
    return order[ids] if ids[0] > 0 else ids


def _reordered(model: nn.Module, space: Space, units: Sequence[Ids], labels: Sequence[Labels]) -> nn.Module:
    """A copy that computes the same with its units in the order of their parts."""
    order, small, done = _new_places(space, units, labels), copied(model), set[int]()
    for name, tensor in named_tensors(small).items():
        if id(tensor) in done:
            continue
        done.add(id(tensor))
        for axis, ids in space.slots.get(name, {}).items():
            places: dict[int, list[int]] = {}
            for place, unit in enumerate(ids.tolist()):
                places.setdefault(unit, []).append(place)
            index = np.arange(len(ids))
            for unit, own in places.items():
                if unit:
                    index[own] = places[int(order[unit])]
            with torch.no_grad():
                tensor.copy_(tensor.index_select(axis, torch.from_numpy(index).to(tensor.device)))
    return small


def _grouped(dense: nn.Module, inputs: Labels, outputs: Labels, parts: int) -> GroupedLinear:
    rows, columns = (torch.from_numpy(np.argsort(one, kind="stable")) for one in (outputs, inputs))
    weight, bias = dense.weight, dense.bias
    assert isinstance(weight, Tensor)
    rows, columns = rows.to(weight.device), columns.to(weight.device)
    ordered = weight.detach()[rows][:, columns].reshape(parts, len(rows) // parts, parts, -1)
    blocks = torch.stack([ordered[part, :, part] for part in range(parts)])
    shift = bias.detach()[rows].reshape(parts, -1) if isinstance(bias, Tensor) else None
    as_they_are = [torch.equal(one, torch.arange(len(one), device=one.device)) for one in (rows, columns)]
    return GroupedLinear(
        blocks.contiguous(), shift, None if as_they_are[1] else columns, None if as_they_are[0] else torch.argsort(rows)
    )


def _watched(model: nn.Module, names: Sequence[str], examples: Examples) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and outputs of modules on the examples, `(n, inputs)` and `(n, outputs)`, in float64 on the CPU."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}

    def noting(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name].append((inputs[0].flatten(0, -2).double().cpu(), output.flatten(0, -2).double().cpu()))

        return note

    hooks = [model.get_submodule(name).register_forward_hook(noting(name)) for name in names]
    try:
        with left_as_found(model), torch.no_grad():
            for batch in examples.batches:
                examples.outputs_of(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: (torch.cat([one for one, _ in own]), torch.cat([two for _, two in own])) for name, own in seen.items()
    }


def _squares(model: nn.Module, names: Sequence[str], examples: Examples) -> list[npt.NDArray[np.float64]]:
    found = _watched(model, names, examples)
    return [found[name][0].square().mean(0).numpy() for name in names]


def _solve(small: nn.Module, full: nn.Module, name: str, rows: Ids, examples: Examples) -> None:
    """Solve the blocks of a layer for what the full layer gives, from what the small network's layer is given."""
    layer = small.get_submodule(name)
    assert isinstance(layer, GroupedLinear)
    given, wanted = _watched(small, [name], examples)[name][0], _watched(full, [name], examples)[name][1][:, rows]
    layer.cpu()
    z, y = layer.blocks(given), wanted.reshape(len(wanted), len(layer.weight), -1).transpose(0, 1)
    old = layer.weight.detach().double().transpose(1, 2)
    mean_z, mean_y = (z.mean(1, keepdim=True), y.mean(1, keepdim=True)) if layer.bias is not None else (0.0, 0.0)
    centred, rest = z - mean_z, (y - mean_y) - (z - mean_z) @ old
    products = centred.transpose(1, 2) @ centred
    ridge = _RIDGE * products.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    regular = products + ridge[:, None, None] * torch.eye(products.shape[1], dtype=torch.float64)
    solved = old + torch.linalg.solve(regular, centred.transpose(1, 2) @ rest)
    with torch.no_grad():
        layer.weight.copy_(solved.transpose(1, 2))
        if layer.bias is not None:
            layer.bias.copy_((mean_y - mean_z @ solved).squeeze(1))
    layer.to(next(full.parameters()).device)
