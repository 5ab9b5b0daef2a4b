"""Rules of Fourier transforms and complex numbers: channels follow where positions are transformed."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Node

from ..graph.network import operator_name
from .flow import MIXED, Flow, Unfollowed
from .labels import constant
from .rules import a_layer, arguments, elementwise, result_shape, rule

_LINES = [f"fft_{kind}" for kind in "fft ifft rfft irfft hfft ihfft".split()]
_PLANES = [f"fft_{kind}2" for kind in "fft ifft rfft irfft hfft ihfft".split()]
_BOXES = [f"fft_{kind}n" for kind in "fft ifft rfft irfft hfft ihfft".split()]

rule("complex", "polar")(elementwise)


@rule(*_LINES, *_PLANES, *_BOXES)
@a_layer
def _transformed(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """All positions of a line are mixed."""
    labels: Tensor = args[0]
    name = operator_name(node).removeprefix("aten.")
    call = arguments(node, args, kwargs)
    dims = call.get("dim", {"2": [-2, -1], "n": None}.get(name[-1], -1))
    axes = range(labels.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    flow.tie(labels, [axis % labels.ndim for axis in axes], MIXED)
    kept = labels
    for axis in axes:
        kept = kept.narrow(axis, 0, 1)
    return kept.expand(result_shape(flow, node))


@rule("fft_fftshift", "fft_ifftshift")
@a_layer
def _shifted(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    labels: Tensor = args[0]
    dims = arguments(node, args, kwargs).get("dim")
    axes = range(labels.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    if any(not constant(labels, axis) for axis in axes):
        raise Unfollowed("its channels are rolled by a fixed number")
    return labels


rule("real", "imag", "resolve_conj", "resolve_neg", "conj", "_conj")(a_layer(lambda flow, node, args, kwargs: args[0]))
