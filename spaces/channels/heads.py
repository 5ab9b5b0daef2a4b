"""Channels in two axes, such as attention's heads and the features of a head.

A reshape splits channels into an outer axis and an inner one, and an operator such as a product of queries and keys
treats the two differently. Then either whole heads go, or the same features go in every head; `components.py` chooses
once all joins are known. Until then the value holds one layer of labels for each axis (`apart`), and channels that are
made of both axes again have labels of their own (`together`).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .flow import Flow
from .labels import BLANK, Attribute, Blocks, Labels, Layers, constant, flat, packed, spread, squashed

_HEADS = "*head*"  # num_heads, n_head, num_key_value_heads, ...
_FEATURES = ("all_head_size", "inner_dim", "attn_dim", "attention_dim", "qkv_dim")


def apart(flow: Flow, layer: Tensor, outer: int | None = None) -> Tensor | Layers:
    """Labels that change along two axes as two layers, one an axis; others as they are.

    Args:
        flow: the walk.
        layer: labels of a value.
        outer: the axis of heads; None for the one whose step between labels is the larger.
    """
    axes = [axis for axis in range(layer.ndim) if not constant(layer, axis)]
    if len(axes) != 2:
        return layer
    grid = flat(squashed(layer)).reshape(layer.shape[axes[0]], layer.shape[axes[1]])
    if (grid <= BLANK).any():
        return layer
    key = (grid.shape, grid.tobytes())
    if key not in flow.grids:
        steps = [int(np.abs(np.diff(grid, axis=axis)).max()) for axis in (0, 1)]
        first = axes.index(outer) if outer in axes else int(steps[1] > steps[0])
        lines = flow.fresh(grid.shape[first]), flow.fresh(grid.shape[1 - first])
        _either(flow, grid if first == 0 else grid.T, *lines)
        flow.grids[key] = lines if first == 0 else (lines[1], lines[0])
    shape = tuple(layer.shape)
    return packed([spread(line, axis, shape) for line, axis in zip(flow.grids[key], axes, strict=True)], shape)


def together(flow: Flow, one: Tensor, other: Tensor, axis: int) -> Tensor:
    """New labels of channels that two axes were merged into; the outer axis changes less often."""
    lines = [flat(squashed(layer)) for layer in (one, other)]
    heads, features = sorted(lines, key=lambda line: int((line[1:] != line[:-1]).sum()))
    made = flow.fresh(len(heads))
    _choice(flow, made, heads, features)
    return spread(made, axis, tuple(one.shape))


def _either(flow: Flow, grid: Labels, heads: Labels, features: Labels) -> None:
    """Whole heads go, or the same features in each: labels of both, `(heads, features)`, and of each axis."""
    _choice(flow, grid.ravel(), np.repeat(heads, len(features)), np.tile(features, len(heads)))
    own = np.sort(np.unique(grid, axis=0, return_index=True)[1])  # several may be one that was repeated
    for labels in (heads, heads[own]) if len(own) < len(heads) else (heads,):
        _count(flow, _HEADS, labels)


def _choice(flow: Flow, both: Labels, heads: Labels, features: Labels) -> None:
    zeros = np.zeros_like(both)
    whole = [(both, heads), (features, zeros)]
    aligned = [(both, features), (heads, zeros)]
    assert flow.node is not None
    flow.constraints.blocks.append(Blocks(flow.node, whole, aligned, np.unique(heads), None, shared=True))
    for name in _FEATURES:
        _count(flow, name, both)


def _count(flow: Flow, name: str, labels: Labels) -> None:
    """An attribute of the calling module, or of the one around it, counts these."""
    assert flow.node is not None
    for module in flow.network.calls[flow.node][-2:]:
        flow.constraints.attributes.append(Attribute(module, name, labels))
