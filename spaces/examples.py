"""Example inputs: what a space remembers of those it was traced with, and a network called with new ones.

Start at `made`. A description is plain values, as study.json keeps them: shape with a batch of one, dtype, and whether
the spatial side may change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .graph.network import Examples, Side


def described(tensor: Tensor, side: Side) -> dict[str, Any]:
    """One input as plain values; it is spatial where its last axes are `side`."""
    spatial = tensor.ndim == 2 + len(side) and bool(side) and tuple(tensor.shape[2:]) == side
    return {
        "shape": [1, *tensor.shape[1:]] if tensor.ndim else [],
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "spatial": spatial,
    }


def made(description: Mapping[str, Any], side: Side | None, batch: int) -> Tensor:
    """An input of that description at a side: seeded noise, or zeros where it holds integers."""
    shape = list(description["shape"])
    if shape:
        shape[0] = batch
    if description["spatial"] and side is not None:
        shape[2:] = side
    dtype = getattr(torch, description["dtype"])
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer (the CPU where it has none)."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of the model's first floating parameter or buffer."""
    tensors = (*model.parameters(), *model.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


def fitted(tensors: Sequence[Tensor], network: nn.Module) -> tuple[Tensor, ...]:
    """The tensors on the network's device, floating ones in its dtype."""
    device, dtype = device_of(network), dtype_of(network)
    return tuple(one.to(device, dtype) if one.is_floating_point() else one.to(device) for one in tensors)


def nested(tensors: Sequence[Tensor], names: Sequence[str] | None) -> Examples:
    """The tensors as a forward takes them: a dict where it takes them by name, else a tuple."""
    return dict(zip(names, tensors, strict=True)) if names else tuple(tensors)


class ByName(nn.Module):
    """A network that takes its inputs by name, called with them in order."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        """Wrap the network; `names` are those of its inputs, in order."""
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, *inputs: Tensor) -> Any:
        """What the network gives for the inputs in order."""
        return self.network(**dict(zip(self.names, inputs, strict=True)))
