"""One training over several devices: each takes a part of every batch, and their gradients are added up.

The weights live on the first device. In every step they are copied to the others, within the graph: autograd brings
the gradients back and adds them, so that optimizer, callbacks and clipping know nothing of it. The outputs of a batch
are those of one device, but where an example's depend on its batch mates: batch norms see the examples of their device
only, and the running statistics are those of the first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...spaces import copied
from ..tasks.batches import cut, joined, mapped


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a training runs, and how much of a batch at once.

    Attributes:
        devices: what shares every batch, see `Parallel`; the model is on the first. Empty: where the model is.
        accumulate: in how many parts every batch is taken, one after another, to save memory: their gradients make one
            step, weighted by their examples. It is the step of the whole batch, to rounding, where the loss is a mean
            over examples and their outputs do not depend on one another: batch norms see the parts, and dropout is
            drawn again in each.
    """

    devices: tuple[torch.device, ...] = ()
    accumulate: int = 1


class Parallel(nn.Module):
    """Gives the outputs of a network, computed on several devices."""

    def __init__(self, model: nn.Module, devices: Sequence[torch.device]) -> None:
        """Wrap a network that is on the first of the devices; later changes of its weights and modes are seen."""
        super().__init__()
        self.model = model
        self.devices = tuple(devices)
        # Without weights: those are given to them in every step. In a tuple, so that they are no submodules.
        self._copies = tuple(copied(model).to("meta") for _ in self.devices[1:])

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The network's outputs, on the first device.

        Raises:
            Unsplittable: the arguments are no tensors of as many examples each.
        """
        parts = [part for part, _ in cut((arguments, named), len(self.devices))]
        kind, grad = self.devices[0].type, torch.is_grad_enabled()
        amp, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        weights = [self._weights(device) for device in self.devices[1 : len(parts)]]

        def run(index: int) -> Any:
            device = self.devices[index]
            given, named = mapped(parts[index], lambda tensor: tensor.to(device, non_blocking=True))
            # Devices, gradients and autocast are each thread's own.
            with _current(device), torch.set_grad_enabled(grad), torch.autocast(kind, dtype=dtype, enabled=amp):
                if index == 0:
                    return self.model(*given, **named)
                return functional_call(self._like_model(index), weights[index - 1], given, named)

        with ThreadPoolExecutor(len(parts)) as threads:
            outputs = list(threads.map(run, range(len(parts))))
        return joined([mapped(output, lambda tensor: tensor.to(self.devices[0])) for output in outputs])

    def _weights(self, device: torch.device) -> dict[str, Tensor]:
        found = {name: parameter.to(device, non_blocking=True) for name, parameter in self.model.named_parameters()}
        return found | {name: buffer.detach().to(device, copy=True) for name, buffer in self.model.named_buffers()}

    def _like_model(self, index: int) -> nn.Module:
        found = self._copies[index - 1]
        for mine, its in zip(self.model.modules(), found.modules(), strict=True):
            its.training = mine.training
        return found


def _current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
