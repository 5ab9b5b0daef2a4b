"""Example inputs: what a space remembers of those it was traced with, and a network called with new ones.

Start at `made`. A description is plain values, as study.json keeps them: shape with a batch of one, dtype, and whether
the spatial side may change.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .graph.network import Examples, Side, as_call, spatial_axis
from .graph.refusals import of_cache

_PLAIN = (bool, int, float, str, type(None))


def completed(model: nn.Module, examples: Examples, further: Mapping[str, Any] | None) -> Examples:
    """The example with what else the forward takes; all by name where anything is given by name or is no tensor.

    Args:
        model: the network; the names are those of its forward.
        examples: tensors, as `Space.trace` takes them, and plain values.
        further: tensors and plain values by name.

    Raises:
        TypeError: a value that is neither tensor nor plain, given twice, or in a place that has no name.
    """
    args, kwargs = as_call(examples)
    for value in (*args, *kwargs.values(), *(further or {}).values()):
        if not isinstance(value, Tensor) and not _is_plain(value):
            raise TypeError(
                f"example_inputs holds a {type(value).__name__}; expected tensors, and plain values that stay as they "
                f"are (True, 3, 'mean', None, (8, 8)); wrap a forward that takes other things{of_cache(value)}"
            )
    if not further and all(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        return examples
    places = list(inspect.signature(model.forward).parameters.values())[: len(args)]
    if len(places) < len(args) or any(place.kind is place.VAR_POSITIONAL for place in places):
        raise TypeError(
            f"{type(model).__name__}.forward has no name for input {len(args)}; give tensors only, or wrap it in a "
            "module whose forward names its inputs"
        )
    found = {place.name: value for place, value in zip(places, args, strict=True)}
    for name, value in (*kwargs.items(), *(further or {}).items()):
        if name in found:
            raise TypeError(f"example_kwargs gives {name!r}, which example_inputs gives too; give it once")
        found[name] = value
    return found


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (tuple, list)) and all(_is_plain(one) for one in value))


def constants(examples: Examples) -> dict[str, Any]:
    """The plain values of a completed example, by name."""
    return {name: value for name, value in as_call(examples)[1].items() if not isinstance(value, Tensor)}


def described(tensor: Tensor, side: Side, examples: int) -> dict[str, Any]:
    """One input as plain values; it is spatial where its last axes are `side`.

    One that has another number of rows than there are examples, as a bank of prototypes, has them in every batch.
    """
    spatial = spatial_axis(tensor, side) > 0
    batched = tensor.shape[:1] == (examples,)
    return {
        "shape": [1, *tensor.shape[1:]] if batched else list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "spatial": spatial,
        **({} if batched or not tensor.ndim else {"batched": False}),
    }


def made(description: Mapping[str, Any], side: Side | None, batch: int) -> Tensor:
    """An input of that description at a side: seeded noise, or zeros where it holds integers."""
    shape = list(description["shape"])
    if shape and description.get("batched", True):
        shape[0] = batch
    if description["spatial"] and side is not None:
        shape[-len(side) :] = side
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


def nested(tensors: Sequence[Tensor], settings: Mapping[str, Any]) -> Examples:
    """The tensors as a forward takes them: a dict where it takes them by name, with its constants, else a tuple."""
    names = settings["names"]
    return dict(zip(names, tensors, strict=True)) | settings.get("constants", {}) if names else tuple(tensors)


def of_graph(examples: Examples) -> Examples:
    """Inputs of a network that was rebuilt as a graph: its plain values are written into it."""
    args, kwargs = as_call(examples)
    return {name: one for name, one in kwargs.items() if isinstance(one, Tensor)} if kwargs else args


def with_constants(examples: Examples, settings: Mapping[str, Any]) -> Examples:
    """Inputs of a network of a space, with the plain values that it was traced with."""
    if not settings.get("constants"):
        return examples
    args, kwargs = as_call(examples)
    fixed: dict[str, Any] = settings["constants"]
    return fixed | dict(zip(settings["names"], args, strict=False)) | kwargs


class ByName(nn.Module):
    """A network that takes its inputs by name, called with them in order."""

    def __init__(self, network: nn.Module, names: Sequence[str], constants: Mapping[str, Any]) -> None:
        """Wrap the network; `names` are those of its inputs, in order, `constants` are given with each call."""
        super().__init__()
        self.network = network
        self.names = tuple(names)
        self.constants = dict(constants)

    def forward(self, *inputs: Tensor) -> Any:
        """What the network gives for the inputs in order."""
        return self.network(**dict(zip(self.names, inputs, strict=True)), **self.constants)
