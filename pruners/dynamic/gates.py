"""Gates that say, for every input, how salient each output channel of a convolution is; the terms that train them.

Symbols: `n` examples, `c` channels of a gated layer, `l` gated layers; saliencies `pi` are `(n, c)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...spaces import Layer, Space
from ..proposal import inner_groups

_MOST = 1000.0  # a saliency
_NARROW = 80  # layers of fewer channels have no narrower middle


class Gate(nn.Module):
    """Saliencies of a layer's channels from the pooled input of the layer; what is below the threshold is off.

    A layer's output, behind its norm, is multiplied by what this gives; saliencies are never negative, so that a ReLU
    behind it gives the same as one before. `on` and `saliencies` are those of the last forward.

    Attributes:
        threshold: xi, a buffer; as low as can be until channels are to go off.
        on: `(n, c)` which channels were on.
        saliencies: `(n, c)` before the threshold, with their graph.
        features: `(n, c)` means of the layer's maps behind the activation, before they are multiplied.
    """

    threshold: Tensor

    def __init__(self, given: int, made: int, *, rectified: bool) -> None:
        """Draw the gate; its bias is 1.

        Args:
            given: channels that the layer reads.
            made: channels that it makes.
            rectified: whether a ReLU is behind it.
        """
        super().__init__()
        middle = made // (2 if made >= _NARROW else 1)
        self.squeeze, self.excite = nn.Linear(given, middle, bias=False), nn.Linear(middle, made)
        for layer in (self.squeeze, self.excite):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.ones_(self.excite.bias)
        self.register_buffer("threshold", torch.tensor(-1e4))
        self.rectified = rectified
        self.macs = self.squeeze.weight.numel() + self.excite.weight.numel()
        self.on = self.saliencies = self.features = torch.zeros(0, made)
        self.reset()

    def reset(self) -> None:
        """Forget the means."""
        self._sums, self._count = torch.zeros(2, self.excite.out_features, dtype=torch.float64), 0

    @property
    def means(self) -> Tensor:
        """`(2, c)` mean saliencies, and mean factors, of the training examples since `reset`."""
        return self._sums / max(1, self._count)

    def forward(self, pooled: Tensor) -> Tensor:
        """`(n, c)` saliencies from `(n, given)` means of the layer's input."""
        hidden = torch.relu(self.squeeze(pooled))
        found: Tensor = torch.relu(self.excite(hidden)).clamp_max(_MOST)
        return found

    def look(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """What is called before the layer."""
        given = inputs[0]
        with torch.autocast(given.device.type, enabled=False):
            self.saliencies = self(given.to(self.squeeze.weight.dtype).flatten(2).mean(2))
        self.on = self.saliencies.detach() >= self.threshold

    def multiply(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """What is called behind the layer or its norm."""
        factors = self.saliencies * self.on
        if self.training and torch.is_grad_enabled():
            self.features = (torch.relu(output) if self.rectified else output).flatten(2).mean(2)
            with torch.no_grad():
                self._sums += torch.stack([self.saliencies.sum(0), factors.sum(0)]).double().cpu()
                self._count += len(factors)
        return output * factors.to(output.dtype).view(*factors.shape, *[1] * (output.ndim - 2))

    def forget(self) -> None:
        """Let go of the graph of the last forward."""
        self.saliencies, self.features = self.saliencies.detach(), self.features.detach()


def complexity(losses: Tensor, bound: float, gamma: float = 1.0) -> Tensor:
    """`(n,)` how hard each example is pulled at: `(1 - loss / bound)^gamma` where that is positive; without gradient.

    Args:
        losses: `(n,)` of the examples.
        bound: C, half of their mean in the epoch before.
        gamma: of the formula.
    """
    losses = losses.detach()
    share = ((bound - losses) / bound if bound > 0 else torch.zeros_like(losses)).clamp_min(1e-10)
    return torch.where(losses < bound, share**gamma, 0.0)


def lasso(weights: Tensor, saliencies: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the mean of `weights` `(n,)` times mean saliency."""
    return torch.stack([(weights.to(pi.dtype) * pi.mean(1)).mean() for pi in saliencies]).sum()


def manifold(features: Sequence[Tensor], saliencies: Sequence[Tensor]) -> Tensor:
    """Sum over layers of how far the cosines among examples by features are from those by saliencies, squared, mean."""

    def cosines(rows: Tensor) -> Tensor:
        rows = nn.functional.normalize(rows.float(), dim=1)
        return rows @ rows.T

    pairs = zip(features, saliencies, strict=True)
    return torch.stack([(cosines(one) - cosines(two)).square().mean() for one, two in pairs]).sum()


def share_at(keep: float, epoch: int, epochs: int) -> float:
    """The share of a layer's channels that stay on after an epoch, counted from 0: from about 1 to `keep`."""
    return (1 - keep) / 2 * math.cos(math.pi * (epoch + 1) / epochs) + (1 + keep) / 2


def threshold_of(means: Tensor, share: float) -> float:
    """The `ceil(share c)`-th largest of the mean saliencies `(c,)`."""
    count = min(len(means), max(1, math.ceil(share * len(means) - 1e-9)))
    return float(means.sort(descending=True).values[count - 1])


def gated(model: nn.Module, space: Space) -> list[Layer]:
    """The layers that get a gate: dense convolutions inside of blocks, and those that lead back into the stream.

    Stems, projections and what makes the output have none. A norm that is behind it belongs to the layer alone.
    """
    inner = [space.groups[number] for number in inner_groups(space)]
    norms = [layer.norm.weight for layer in space.layers if layer.norm is not None]
    found = []
    for layer in space.layers:
        module = model.get_submodule(layer.name)
        dense = layer.kind == "conv" and layer.groups == 1 and layer.calls == 1
        inside = any(group.holds(layer.makes).any() or group.holds(layer.reads).any() for group in inner)
        own = layer.norm is None or (layer.norm.weight is not None and norms.count(layer.norm.weight) == 1)
        whole = isinstance(module, nn.modules.conv._ConvNd)
        if dense and inside and own and whole and bool((layer.makes > 0).all()):
            found.append(layer)
    return found


def insert(model: nn.Module, layers: Sequence[Layer], seed: int) -> list[Gate]:
    """Gates for these layers, as `model.gates_of_manidp`, and their hooks; drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gates = []
        for layer in layers:
            conv = model.get_submodule(layer.name)
            weight = conv.weight
            assert isinstance(weight, Tensor)
            gate = Gate(weight.shape[1], weight.shape[0], rectified=layer.activation == "relu")
            behind = conv if layer.norm is None else model.get_submodule(str(layer.norm.weight).rpartition(".")[0])
            conv.register_forward_pre_hook(gate.look)
            behind.register_forward_hook(gate.multiply)
            gates.append(gate.to(weight))
    model.gates_of_manidp = nn.ModuleList(gates)
    return gates
