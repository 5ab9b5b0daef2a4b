"""A network that chooses its channels for every input, and what that costs. Start at `Dynamic`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...spaces import Layer, Space
from ..examples import left_as_found
from .gates import Gate


@dataclass(frozen=True)
class Site:
    """A convolution of which a part may be left out.

    Attributes:
        layer: the convolution.
        gate: number of the gate that chooses among its outputs; None: it makes all of them.
        source: number of the gate that chose among its inputs; None: it reads all of them.
        places: `(inputs,)` the channel of the source that each input is.
    """

    layer: Layer
    gate: int | None
    source: int | None
    places: tuple[int, ...] = ()


class Selected(nn.Module):
    """A convolution that multiplies, for a batch of one outside of training, by the rows and columns that are on."""

    def __init__(self, conv: nn.Module, gate: Gate | None, source: Gate | None, places: Sequence[int]) -> None:
        super().__init__()
        self.conv: Any = conv
        self._gates = (gate, source)  # a tuple, since they have a place in the network already
        self._places = torch.tensor(places)

    def forward(self, given: Tensor) -> Tensor:
        """As the convolution, but that channels which are off are zero."""
        found: Tensor
        gate, source = self._gates
        if gate is not None:
            gate.look(self, (given,))
        if len(given) != 1 or self.training or torch.is_grad_enabled():
            found = self.conv(given)
            return found
        weight, bias = self.conv.weight, self.conv.bias
        if source is not None:
            columns = _some(source.on[0, self._places.to(given.device)])
            given, weight = given[:, columns], weight[:, columns]
        if gate is None:
            found = self.conv._conv_forward(given, weight, bias)
            return found
        rows = _some(gate.on[0])
        shift = bias[rows] if isinstance(bias, Tensor) else None
        some = self.conv._conv_forward(given, weight[rows], shift)
        found = some.new_zeros(1, len(weight), *some.shape[2:])
        found[:, rows] = some
        return found


def _some(on: Tensor) -> Tensor:
    """Numbers of what is on; where nothing is, the first: it is zero, or multiplied by zero."""
    found = on.nonzero().flatten()
    return found if len(found) else found.new_zeros(1)


class Dynamic(nn.Module):
    """A trained network with its gates and thresholds, which chooses channels for every input.

    For a batch of one, in eval mode and without gradients, only the weights that are on are multiplied; larger batches
    multiply all of them and then mask, which saves nothing. Its multiply-adds differ from input to input: they are
    measured (`macs`, `mean_macs`), and no limit of a budget is about them. A state dict holds the thresholds too.
    """

    def __init__(self, network: nn.Module, space: Space, sites: Sequence[Site]) -> None:
        """Take a copy of the network, whose gates are `gates_of_manidp`.

        Args:
            network: as a phase trains it.
            space: of the full network.
            sites: as of `sites_of`.
        """
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.gates = [
            gate for gate in self.network.get_submodule("gates_of_manidp").children() if isinstance(gate, Gate)
        ]
        self.sites, self._full = tuple(sites), float(space.full_costs["macs"])
        for site in self.sites:
            conv = self.network.get_submodule(site.layer.name)
            gate = None if site.gate is None else self.gates[site.gate]
            source = None if site.source is None else self.gates[site.source]
            if gate is not None:
                conv._forward_pre_hooks.clear()  # it is looked at by what takes its place
            chosen = Selected(conv, gate, source, site.places)
            parent, _, name = site.layer.name.rpartition(".")
            setattr(self.network.get_submodule(parent), name, chosen)
        self.eval()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The outputs of the network."""
        return self.network(*inputs, **named)

    def macs(self) -> Tensor:
        """`(n,)` multiply-adds of every example of the last forward, gates included."""
        return macs_of(self._full, self.sites, [gate.on for gate in self.gates], [gate.macs for gate in self.gates])


def macs_of(full: float, sites: Sequence[Site], on: Sequence[Tensor], extra: Sequence[int] = ()) -> Tensor:
    """`(n,)` multiply-adds of examples of which these channels were on.

    Args:
        full: those of the full network.
        sites: its convolutions of which a part may be left out.
        on: of every gate, `(n, c)`.
        extra: multiply-adds of every gate.
    """
    total = torch.full((len(on[0]),), full + sum(extra), dtype=torch.float64)
    for site in sites:
        made = torch.ones(len(total)) if site.gate is None else on[site.gate].double().mean(1).cpu()
        read = torch.ones(len(total))
        if site.source is not None:
            read = on[site.source][:, list(site.places)].double().mean(1).cpu()
        total -= site.layer.macs * (1 - made.double() * read.double())
    return total


def mean_macs(dynamic: Dynamic, batches: Iterable[Any]) -> dict[str, float]:
    """`mean`, 90th percentile `p90` and `most` of the multiply-adds over examples; `share`: of the full network's.

    Args:
        dynamic: the network.
        batches: of inputs, tensors `(n, ...)`; a split of the data, the one that a claim is about.
    """
    found = []
    with torch.no_grad():
        for batch in batches:
            dynamic(batch)
            found.append(dynamic.macs())
    every = torch.cat(found).numpy()
    mean = float(every.mean())
    most, p90 = float(every.max()), float(np.quantile(every, 0.9))
    return {"mean": mean, "p90": p90, "most": most, "share": mean / dynamic._full}


def sites_of(network: nn.Module, space: Space, layers: Sequence[Layer], gates: Sequence[Gate]) -> list[Site]:
    """Where channels are left out: at gated layers, and at convolutions that read zeros where a gate is off.

    Args:
        network: with the gates on it.
        space: of the full network.
        layers: that have a gate.
        gates: theirs.
    """
    numbers = {layer.weight: number for number, layer in enumerate(layers)}
    found = []
    for layer in space.layers:
        source = None
        if layer.kind == "conv" and layer.groups == 1 and layer.calls == 1:
            source = next((n for n, one in enumerate(layers) if _feeds(space, one, layer)), None)
        places: tuple[int, ...] = ()
        if source is not None:
            channel = {int(unit): place for place, unit in enumerate(layers[source].makes)}
            places = tuple(channel[int(unit)] for unit in layer.reads)
            if not _reads_zeros(network, space, layer, gates[source]):
                source, places = None, ()
        if source is not None or layer.weight in numbers:
            found.append(Site(layer, numbers.get(layer.weight), source, places))
    return found


def _feeds(space: Space, maker: Layer, reader: Layer) -> bool:
    """Whether a reader's inputs are channels of that maker alone, each a unit."""
    units = set(maker.makes.tolist())
    makers = sum(bool(np.isin(layer.makes, maker.makes).any()) for layer in space.layers)
    return makers == 1 and len(units) == len(maker.makes) and set(reader.reads.tolist()) <= units


def _reads_zeros(network: nn.Module, space: Space, reader: Layer, gate: Gate) -> bool:
    """Whether the reader is given zeros, and nothing else, where all of the gate is off."""
    seen: list[bool] = []
    hook = network.get_submodule(reader.name).register_forward_pre_hook(
        lambda module, inputs: seen.append(not bool(inputs[0].any()))
    )
    try:
        with left_as_found(network), torch.no_grad():
            gate.threshold.fill_(torch.inf)
            called, inputs = space.call(network, space.full)
            called(*inputs)
    finally:
        hook.remove()
    return bool(seen) and all(seen)
