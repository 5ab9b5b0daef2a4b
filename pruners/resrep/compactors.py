"""Compactors: a matrix for each coupled group, multiplied onto every tensor that a layer of the group makes.

Ding 2021 (arXiv 2007.03260) puts a 1x1 convolution behind one convolution and its batch norm. Here one such matrix Q
serves a whole group, so that residual additions stay consistent: `Q(a) + Q(b) = Q(a + b)`. Start at `Compacted`.

Symbols: `c` channels of one tensor, `u` units of a group; row `i` of Q makes what unit `i` holds afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ...spaces import Layer, Norm, Space

Ids = npt.NDArray[np.int64]
Kind = Literal["dense", "diagonal", "whole"]
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
_RATE = 0.1  # of the running variance behind a compactor, as of batch norms


@dataclass(frozen=True)
class Place:
    """An output that compactors multiply.

    Attributes:
        module: path of the module whose output it is.
        axis: channel axis of the output.
        ids: `(c,)` unit number of each channel.
        layer: the layer that makes it; None for a follower, which takes the diagonals only.
        norm: the batch norm between the layer and the compactor, if there is one.
        variance: name of the running variance behind the compactor, where there is a norm.
    """

    module: str
    axis: int
    ids: Ids
    layer: Layer | None
    norm: Norm | None
    variance: str | None = None


class Compacted:
    """A network with compactors in it, and the plan they follow.

    The compactors are parameters of the network's root, so that they are saved, moved and trained with it; forward
    hooks apply them.

    Attributes:
        model: the network; of its own class, with more parameters and buffers.
        space: the traced space.
        kinds: of each group in the order of the space: a full matrix, one factor a unit, or no compactor.
        places: what is multiplied.
        names: parameter of each group's compactor, None where it has none.
    """

    def __init__(
        self, model: nn.Module, space: Space, kinds: Sequence[Kind], gated: frozenset[str] = frozenset()
    ) -> None:
        """Put identities in.

        Args:
            model: it is changed.
            space: the traced space of it.
            kinds: of each group.
            gated: names of the groups whose followers are switched off by the diagonal too.
        """
        self.model, self.space, self.kinds, self.gated = model, space, tuple(kinds), gated
        stem = "compactor"
        while any(name.startswith(stem) for name in vars(model) | model._parameters | model._buffers | model._modules):
            stem = f"_{stem}"
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
        self.names: list[str | None] = []
        for number, (group, kind) in enumerate(zip(space.groups, kinds, strict=True)):
            self.names.append(None if kind == "whole" else f"{stem}_{number}")
            start = torch.ones(group.units) if kind == "diagonal" else torch.eye(group.units)
            if kind != "whole":
                model.register_parameter(f"{stem}_{number}", nn.Parameter(start.to(like)))
        self._watch = _Switch()
        self.places = find_places(model, space, self.kinds, gated, f"{stem}_var")
        for place in self.places:
            if place.variance is not None and place.norm is not None and place.norm.weight and place.norm.var:
                scale = model.get_parameter(place.norm.weight).detach()
                var = model.get_buffer(place.norm.var)
                model.register_buffer(place.variance, scale.square() * var / (var + place.norm.eps))
            model.get_submodule(place.module).register_forward_hook(_Hook(self, place))

    def watch(self, on: bool) -> None:
        """Whether train mode follows the variances behind the compactors; it does until this says otherwise."""
        self._watch.on = on

    @property
    def extra(self) -> set[str]:
        """Names of the parameters and buffers that the network did not have before."""
        variances = [place.variance for place in self.places]
        return {name for name in [*self.names, *variances] if name is not None}

    def compactor(self, number: int) -> nn.Parameter | None:
        """Of a group: `(u, u)`, or `(u,)` where it is diagonal."""
        name = self.names[number]
        return None if name is None else self.model.get_parameter(name)

    def norms(self) -> list[Tensor | None]:
        """`(u,)` L2 norm of each row, of each group with a compactor."""
        found = [self.compactor(number) for number in range(len(self.names))]
        return [None if q is None else row_norms(q.detach()) for q in found]


def row_norms(compactor: Tensor) -> Tensor:
    """`(u,)` L2 norm of each row."""
    return torch.linalg.vector_norm(compactor, dim=1) if compactor.ndim > 1 else compactor.abs()


class Mixer:
    """The matrix of one place, put together from the compactors of the groups that are there."""

    def __init__(self, place: Place, space: Space, kinds: Sequence[Kind]) -> None:
        """Find which channels of the place each group owns."""
        self.size = len(place.ids)
        self.parts: list[tuple[int, Tensor, Tensor]] = []
        self.dense = False
        for number, (group, kind) in enumerate(zip(space.groups, kinds, strict=True)):
            at = np.flatnonzero(group.holds(place.ids))
            if kind != "whole" and len(at):
                self.parts.append((number, torch.from_numpy(at), torch.from_numpy(place.ids[at] - group.first)))
                self.dense = self.dense or (kind == "dense" and place.layer is not None)
        units = torch.arange(self.size)
        self.direct = len(self.parts) == 1 and torch.equal(self.parts[0][1], units)
        self.direct = self.direct and torch.equal(self.parts[0][2], units)

    def matrix(self, compactors: Sequence[Tensor | None]) -> Tensor | None:
        """`(c, c)`, or `(c,)` where it only scales; None where the place is left alone."""
        found: Tensor | None = None
        for number, at, of in self.parts:
            q = compactors[number]
            assert q is not None
            if q.ndim > 1 and not self.dense:
                q = q.diagonal()
            if self.direct and (q.ndim > 1) == self.dense and len(q) == self.size:
                return q
            if found is None:
                found = (torch.eye(self.size) if self.dense else torch.ones(self.size)).to(q)
            at, of = at.to(q.device), of.to(q.device)
            if q.ndim > 1:
                found = found.index_put((at[:, None], at[None, :]), q[of][:, of])
            else:
                found = found.index_put((at, at) if self.dense else (at,), q[of])
        return found


def multiplied(output: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """The output with its channels mixed or scaled."""
    axis %= output.ndim
    if matrix.ndim == 1:
        return output * matrix.view([-1 if a == axis else 1 for a in range(output.ndim)])
    if axis == output.ndim - 1:
        return F.linear(output, matrix)
    values = output.flatten(axis + 1)
    if axis == 1 and len(matrix) <= values.shape[2]:  # twice as fast as matmul, and its gradient is no larger than this
        return torch.bmm(matrix.expand(len(values), -1, -1), values).view_as(output)
    return torch.matmul(matrix, values).view_as(output)


def find_places(
    model: nn.Module, space: Space, kinds: Sequence[Kind], gated: frozenset[str], variances: str
) -> list[Place]:
    """Where the compactors go: one place a layer, behind its batch norm where that is its own."""
    active = np.zeros(space.units, bool)
    switched = np.zeros(space.units, bool)
    for group, kind in zip(space.groups, kinds, strict=True):
        active[group.slice] = kind != "whole"
        switched[group.slice] = kind != "whole" and group.name in gated
    places: list[Place] = []
    modules = dict(model.named_modules())
    for layer in space.layers:
        ids = layer.makes
        if layer.depthwise or not active[ids].any():
            continue
        norm = own_norm(space, layer)
        if norm is not None and norm.weight is not None:
            variance = f"{variances}_{len(places)}" if norm.var is not None else None
            places.append(Place(norm.weight.rpartition(".")[0], 1, ids, layer, norm, variance))
        else:
            places += [Place(name, _axis(layer), ids, layer, None) for name in owners(modules, layer.weight)]
    taken = {place.module for place in places}
    for name, module in modules.items():
        given = _follows(space, name, module)
        if given is not None and name not in taken and switched[given].any():
            places.append(Place(name, -1 if isinstance(module, nn.LayerNorm) else 1, given, None, None))
    return places


def own_norm(space: Space, layer: Layer) -> Norm | None:
    """The batch norm that belongs to this layer alone and has a scale and a shift."""
    norm = layer.norm
    if norm is None or norm.weight is None or norm.bias is None:
        return None
    users = [other for other in space.layers if other.norm is not None and other.norm.weight == norm.weight]
    return norm if len(users) == 1 else None


def owners(modules: Mapping[str, nn.Module], weight: str) -> list[str]:
    """Modules that hold a weight, several where it is tied."""
    path, _, name = weight.rpartition(".")
    tensor = modules[path]._parameters[name]
    return [path for path, module in modules.items() if any(p is tensor for p in module._parameters.values())]


def _axis(layer: Layer) -> int:
    return -1 if layer.kind == "linear" else -(len(layer.side) + 1)


def _follows(space: Space, name: str, module: nn.Module) -> Ids | None:
    """Unit numbers of what a norm or a depthwise convolution gives, where it adds a constant to each channel."""
    slots = space.slots.get(f"{name}.bias" if name else "bias", {})
    weight = getattr(module, "weight", None)
    if 0 not in slots or not isinstance(weight, Tensor) or getattr(module, "bias", None) is None:
        return None
    depthwise = isinstance(module, _ConvNd) and module.groups == module.in_channels == module.out_channels
    return slots[0] if depthwise or (isinstance(module, _NORMS) and weight.ndim == 1) else None


@dataclass
class _Switch:
    """One for all hooks of a network."""

    on: bool = True


class _Hook:
    """Multiplies what a module gives; the compactors are found through the root: a copied network has its own."""

    def __init__(self, compacted: Compacted, place: Place) -> None:
        self.root, self.names = compacted.model, list(compacted.names)
        self.axis, self.variance = place.axis, place.variance
        self.mixer, self.watch = Mixer(place, compacted.space, compacted.kinds), compacted._watch

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        axis = self.axis
        if not isinstance(output, Tensor) or not -output.ndim <= axis < output.ndim:
            return output
        if output.shape[axis] != self.mixer.size:
            return output  # no channels where they were expected: the check at the start sees that nothing happened
        matrix = self.mixer.matrix([None if name is None else self.root.get_parameter(name) for name in self.names])
        if matrix is None:
            return output
        result = multiplied(output, matrix, axis)
        if self.variance is not None and module.training and self.watch.on:
            with torch.no_grad():
                values = result.detach().movedim(axis, 0).flatten(1)
                if values.shape[1] > 1:
                    running = self.root.get_buffer(self.variance)
                    running.lerp_(values.var(1).to(running), _RATE)
        return result
