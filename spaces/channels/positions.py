"""Rules of the operators that mix positions or swap them with channels: pixel shuffles, Fourier transforms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from ..graph.network import operator_name
from .flow import MIXED, Flow, Unfollowed
from .labels import Labels, constant, spread
from .rules import a_layer, arguments, elementwise, result_shape, rule

# --- pixel shuffles ---------------------------------------------------------------------------------------------------


def _together(flow: Flow, line: Labels, size: int) -> Labels:
    """The first of each `size` labels in a row, which go together."""
    rows = line.reshape(-1, size)
    flow.join(np.repeat(rows[:, :1], size - 1, axis=1).ravel(), rows[:, 1:].ravel())
    return rows[:, 0].copy()


@rule("pixel_shuffle")
@a_layer
def _pixel_shuffle(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    return spread(_together(flow, flow.axis(args[0], -3), int(args[1]) ** 2), -3, result_shape(flow, node))


@rule("pixel_unshuffle")
@a_layer
def _pixel_unshuffle(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    return spread(np.repeat(flow.axis(args[0], -3), int(args[1]) ** 2), -3, result_shape(flow, node))


@rule("im2col")
@a_layer
def _im2col(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    return spread(np.repeat(flow.axis(args[0], -3), math.prod(args[1])), -2, result_shape(flow, node))


@rule("col2im")
@a_layer
def _col2im(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    return spread(_together(flow, flow.axis(args[0], -2), math.prod(args[2])), -3, result_shape(flow, node))


@rule("channel_shuffle", "native_channel_shuffle")
@a_layer
def _channel_shuffle(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """The same positions go in each of the groups that are shuffled."""
    rows = flow.axis(args[0], 1).reshape(int(args[1]), -1)
    flow.join(np.tile(rows[0], len(rows) - 1), rows[1:].ravel())
    return spread(rows.T.ravel(), 1, result_shape(flow, node))


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
@a_layer
def _grid_sampler(flow: Flow, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    for layer in flow.layers(args[1]):
        flow.freeze(layer, "it says where to sample")
    return spread(flow.axis(args[0], 1), 1, result_shape(flow, node))


# --- Fourier transforms and complex numbers ---------------------------------------------------------------------------

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
