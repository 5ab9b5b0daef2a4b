"""A call of a convolution or linear layer as a product of matrices: what it saw and gave at some of its places.

r   places that are looked at: an example, and a position in its output
g   groups of the convolution; 1 for a linear layer
d   inputs of one output: input channels of its group times positions of the kernel
o   outputs of a group
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_ARGUMENTS = {
    "linear": _CONV[:3],
    **{f"conv{n}d": _CONV for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _TRANSPOSED for n in (1, 2, 3)},
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a layer.

    Attributes:
        transposed: whether it is a transposed convolution.
        input: `(n, c, *sides)`; of a linear layer `(n, c)`, all axes but the last as one.
        weight: as the layer holds it.
        bias: as the layer holds it, None without one.
        stride: along every spatial axis, as `padding` (the lower one) and `dilation`.
        padding: see `stride`.
        dilation: see `stride`.
        groups: of the convolution.
    """

    transposed: bool
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sides of the kernel."""
        return tuple(self.weight.shape[2:])

    @property
    def unknowns(self) -> int:
        """d, inputs of one output."""
        return int(self.input.shape[1]) // self.groups * math.prod(self.kernel)


def call_of(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Call | None:
    """The call of a layer that a call of a function is; None where it is none."""
    name = str(getattr(function, "__name__", "")).partition(".")[0]
    names = _ARGUMENTS.get(name)
    if names is None:
        return None
    given = dict(zip(names, args, strict=False)) | kwargs
    if not isinstance(given.get("input"), Tensor) or not isinstance(given.get("weight"), Tensor):
        return None
    weight: Tensor = given["weight"]
    axes = weight.ndim - 2
    spread = {key: _each(given.get(key, 1), axes) for key in ("stride", "dilation")}
    padding = given.get("padding", 0)
    if isinstance(padding, str):  # "same" puts the odd one behind
        whole = [step * (side - 1) for step, side in zip(spread["dilation"], weight.shape[2:], strict=True)]
        padding = [size // 2 for size in whole] if padding == "same" else 0
    seen: Tensor = given["input"]
    seen = seen.reshape(-1, seen.shape[-1]) if axes == 0 else seen if seen.ndim == weight.ndim else seen.unsqueeze(0)
    return Call(
        transposed="transpose" in name,
        input=seen,
        weight=weight,
        bias=given.get("bias"),
        padding=_each(padding, axes),
        groups=int(given.get("groups", 1)),
        **spread,
    )


def _each(value: Any, axes: int) -> tuple[int, ...]:
    values = [int(one) for one in value] if isinstance(value, Sequence) else [int(value)]
    return tuple(values * axes if len(values) == 1 else values)


def by_places(output: Tensor, call: Call | None = None) -> Tensor:
    """`(n, c, positions)` of a layer's output, or of a network's, whose channels are its second axis."""
    if call is not None and call.weight.ndim == 2:
        return output.reshape(-1, output.shape[-1], 1)
    if call is not None and output.ndim < call.weight.ndim:
        output = output.unsqueeze(0)
    return output.flatten(2) if output.ndim > 2 else output.reshape(len(output), -1, 1)


def drawn(places: int, rows: int, seed: int) -> Tensor:
    """`(r,)` places out of so many: all where they are few; with repetition where they are very many."""
    if places <= rows:
        return torch.arange(places)
    generator = torch.Generator().manual_seed(seed)
    if places > 64 * rows:
        return torch.randint(places, (rows,), generator=generator)
    return torch.randperm(places, generator=generator)[:rows]


def outputs_at(values: Tensor, places: Tensor) -> Tensor:
    """`(r, c)` of `(n, c, positions)` values at places, which count positions of one example after another."""
    places = places.to(values.device)
    found: Tensor = values[places // values.shape[2], :, places % values.shape[2]]
    return found


def inputs_at(call: Call, sides: Sequence[int], places: Tensor) -> Tensor:
    """`(r, g, d)` of what the outputs at these places are made from; zero where padding is.

    Args:
        call: of the layer.
        sides: of its output.
        places: which count positions of one example after another.
    """
    seen, positions = call.input, math.prod(sides)
    places = places.to(seen.device)
    if not call.kernel:
        return seen[places].unsqueeze(1)
    examples, position = places // positions, places % positions
    kernel = torch.arange(math.prod(call.kernel), device=seen.device)
    source = torch.zeros((), dtype=torch.long, device=seen.device)
    inside = torch.ones((), dtype=torch.bool, device=seen.device)
    at, step = _unravelled(position, sides), _unravelled(kernel, call.kernel)
    for axis, size in enumerate(seen.shape[2:]):
        stride, shift = call.stride[axis], (step[axis] * call.dilation[axis]).unsqueeze(0)
        if call.transposed:  # output q = stride p - padding + dilation k
            reached = at[axis].unsqueeze(1) + call.padding[axis] - shift
            inside = inside & (reached % stride == 0)
            reached = torch.div(reached, stride, rounding_mode="floor")
        else:
            reached = at[axis].unsqueeze(1) * stride - call.padding[axis] + shift
        inside = inside & (reached >= 0) & (reached < size)
        source = source * size + reached.clamp(0, size - 1)
    found = seen.flatten(2)[examples.unsqueeze(1), :, source]  # (r, kernel, c)
    found = found.masked_fill(~inside.unsqueeze(2), 0)
    return found.transpose(1, 2).reshape(len(places), call.groups, -1)


def _unravelled(flat: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """The place along each axis, of places that count the last axis fastest."""
    found = []
    for side in reversed(sides):
        found.append(flat % side)
        flat = flat // side
    return found[::-1]


def as_matrix(call: Call, weight: Tensor) -> Tensor:
    """`(g, d, o)` of a weight of the call's shape."""
    if call.transposed:
        inputs, outputs = weight.shape[:2]
        parts = weight.reshape(call.groups, inputs // call.groups, outputs, -1)
        return parts.transpose(2, 3).reshape(call.groups, -1, outputs)
    return weight.reshape(call.groups, len(weight) // call.groups, -1).transpose(1, 2)


def as_weight(call: Call, matrix: Tensor) -> Tensor:
    """The weight that is this `(g, d, o)` matrix."""
    shape = call.weight.shape
    if call.transposed:
        parts = matrix.reshape(call.groups, shape[0] // call.groups, -1, shape[1])
        return parts.transpose(2, 3).reshape(shape)
    return matrix.transpose(1, 2).reshape(shape)
