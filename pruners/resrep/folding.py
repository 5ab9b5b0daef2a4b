"""What a removed channel still emitted, added to the layer that read it.

A channel whose filter is zero gives zero; a batch norm, a bias or an activation with f(0) != 0 between it and the next
dense layer turns that into a constant `c`. The reader loses the channel and gains `W c` in its bias, or in the batch
norm behind it. That is exact where nothing is padded: at a border, padding would put zeros in the constant's place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Candidate, Layer, Scores, Space, as_call, build, copied, named_tensors, plain, stays
from ...spaces.graph.standin import in_place_of
from .compactors import owners

_EXAMPLES = 4
_STEADY = 256.0  # times the rounding of the dtype: constants differ by no more than that
Kept = npt.NDArray[np.bool_]


def folded(
    model: nn.Module, space: Space, candidate: Candidate, scores: Scores
) -> tuple[nn.Module, list[dict[str, Any]], float]:
    """The smaller network with the constants of what was removed; what could not be folded exactly; and the error.

    The error is the largest difference of the outputs to those of `model` on noise, over the largest output.

    Args:
        model: the full network, in which what makes a removed unit is zero.
        space: the traced space.
        candidate: one choice on every axis.
        scores: which units stay.
    """
    small = build(model, space, candidate, scores)
    stay = stays(space, candidate, scores)
    whole = copied(model)
    for name in space.removed(candidate):
        whole.set_submodule(name, in_place_of(whole.get_submodule(name), space.layout.gives.get(name)))
    inputs = examples(whole, space)
    constants, wanted = _constants(whole, space, stay, inputs)
    notes = []
    with torch.no_grad():
        for layer in space.layers:
            if layer.weight in constants:
                problem = _fold(whole, small, space, layer, stay, constants[layer.weight])
                if problem:
                    notes.append({"reader": layer.name, "groups": _groups(space, layer, stay), "why": problem})
    return small, notes, difference(outputs(small, inputs), wanted)


def examples(model: nn.Module, space: Space) -> Any:
    """Noise as the forward takes it: several examples where the network takes them, else one."""
    several = space.inputs(model, space.full, batch=_EXAMPLES)
    try:
        outputs(model, several)
        return space.inputs(model, space.full, batch=_EXAMPLES)  # a forward may write into what it is given
    except Exception:  # noqa: BLE001 - the user's forward may raise anything
        return space.inputs(model, space.full)


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All output tensors, in eval mode; modes and generators are put back."""
    with torch.no_grad(), _eval(model):
        args, kwargs = as_call(inputs)
        return _flat(plain(model(*args, **kwargs)))


def difference(got: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest difference over the largest wanted number; infinite where one is not finite."""
    scale = max([float(tensor.detach().abs().max()) for tensor in wanted if tensor.numel()], default=0.0)
    largest = max([float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True) if a.numel()], default=0.0)
    error = largest / scale if scale else largest
    return error if np.isfinite(error) else float("inf")


def _constants(
    model: nn.Module, space: Space, stay: Kept, inputs: Any
) -> tuple[dict[str, tuple[Tensor, Tensor]], list[Tensor]]:
    """By weight, the least and the largest value of each removed input of its layer; and the outputs."""
    modules = dict(model.named_modules())
    found: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []
    for layer in space.layers:
        gone = torch.from_numpy(np.flatnonzero(~stay[layer.reads]))
        if layer.groups > 1 or not len(gone) or layer.name not in modules:
            continue

        def look(module: nn.Module, given: tuple[Any, ...], layer: Layer = layer, gone: Tensor = gone) -> None:
            axis, size = -1 if layer.kind == "linear" else -(len(layer.side) + 1), len(layer.reads)
            if not given or not isinstance(given[0], Tensor) or given[0].ndim < -axis or given[0].shape[axis] != size:
                return  # its weight is used by something else
            values = given[0].detach().movedim(axis, 0).reshape(size, -1).index_select(0, gone.to(given[0].device))
            low, high = values.amin(1), values.amax(1)
            if layer.weight in found:
                low, high = found[layer.weight][0].minimum(low), found[layer.weight][1].maximum(high)
            found[layer.weight] = low, high

        for name in owners(modules, layer.weight):
            handles.append(modules[name].register_forward_pre_hook(look))
    try:
        return found, outputs(model, inputs)
    finally:
        for handle in handles:
            handle.remove()


def _fold(
    whole: nn.Module, small: nn.Module, space: Space, layer: Layer, stay: Kept, seen: tuple[Tensor, Tensor]
) -> str | None:
    """Put the constants into the smaller network; why that is not exact, None where it is."""
    low, high = (tensor.double() for tensor in seen)
    rounding = _STEADY * torch.finfo(seen[0].dtype).eps
    if float(torch.maximum(low.abs(), high.abs()).max()) <= 1e-12:
        return None
    steady = (high - low) <= rounding * torch.maximum(high.abs(), torch.ones_like(high))
    values = torch.where(steady, (low + high) / 2, 0)
    weight = named_tensors(whole)[layer.weight].double().movedim(layer.out_axis, 0)
    gone = torch.from_numpy(np.flatnonzero(~stay[layer.reads])).to(weight.device)
    kept = torch.from_numpy(np.flatnonzero(stay[layer.makes])).to(weight.device)
    sums = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    gain = sums.index_select(0, kept).index_select(1, gone) @ values
    if layer.kind == "conv_transpose" and bool(gain.any()):
        return "a transposed convolution spreads it unevenly"
    tensors = named_tensors(small)
    biases = {
        id(bias): bias
        for name in owners(dict(small.named_modules()), layer.weight)
        if (bias := tensors.get(f"{name}.bias" if name else "bias")) is not None and len(bias) == len(gain)
    }
    if biases:
        for bias in biases.values():
            bias += gain.to(bias)
    elif layer.norm is not None and layer.norm.mean is not None:
        mean = tensors[layer.norm.mean]
        mean -= gain.to(mean)
    elif bool(gain.any()):
        return "the layer has neither a bias nor a batch norm"
    if not bool(steady.all()):
        return "it depends on the input"
    return "padding" if layer.padding and bool(gain.any()) else None


def _groups(space: Space, layer: Layer, stay: Kept) -> list[str]:
    reads = layer.reads
    gone = reads[~stay[reads]]
    return [group.name for group in space.groups if group.holds(gone).any()]


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for one in value for tensor in _flat(one)] if isinstance(value, (list, tuple)) else []


@contextmanager
def _eval(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):  # a forward may draw in eval mode too
            torch.manual_seed(0)
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
