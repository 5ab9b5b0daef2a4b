"""Rules of the operators by which channels and positions change places, such as pixel shuffles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from .flow import Flow
from .labels import Labels, spread
from .rules import a_layer, result_shape, rule


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
