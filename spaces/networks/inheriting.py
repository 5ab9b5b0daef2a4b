"""A smaller network's weights out of those of a larger one that was trained: both are cut from the same full network.

What a network keeps is a choice of indices along the axes of the full network's tensors. Where the child keeps nothing
that its parent lacks, its tensors are the parent's at the child's indices, counted among the parent's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..candidate import Candidate
from ..cutting.surgery import Cut, Scores
from ..space import Space
from .build import cut, stays


def inherited(
    space: Space,
    parent: Candidate,
    child: Candidate,
    tensors: Mapping[str, Tensor],
    scores: Scores | None = None,
) -> dict[str, Tensor]:
    """The state dict of a child's network, from the state dict of its parent's.

    `build(model, space, child, scores)` takes it with `load_state_dict`. Input sides may differ either way.

    Args:
        space: the traced space.
        parent: the larger network; it keeps every block and every channel that the child keeps.
        child: the smaller one.
        tensors: state dict of the parent's network; the result shares no memory with it.
        scores: the ranking by which both were cut; the space's own when None.

    Raises:
        ValueError: the child keeps a block or a channel that the parent does not, or the tensors are not the parent's.
    """
    parent, child = space.canonical(parent), space.canonical(child)
    large, small = cut(space, parent, scores), cut(space, child, scores)
    lost = sorted(set(large.removed) - set(small.removed))
    if lost:
        raise ValueError(
            f"the child keeps block {lost[0]}, which its parent has not; start from a parent of at least its depth"
        )
    gone = tuple(f"{name}." for name in small.removed)
    unused = _unused_constants(space, child, small, scores)
    result = {}
    for name, tensor in tensors.items():
        if name.startswith(gone) or name in unused:
            continue
        full = space.shapes.get(name, tuple(tensor.shape))
        have = {axis: len(indices) for axis, indices in large.kept.get(name, {}).items()}
        expected = tuple(have.get(axis, size) for axis, size in enumerate(full))
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}; the parent's network has {expected}: give its own state dict"
            )
        result[name] = _selected(space, name, tensor, large, small)
    return result


def _selected(space: Space, name: str, tensor: Tensor, large: Cut, small: Cut) -> Tensor:
    """A contiguous copy of what the child keeps of one of the parent's tensors."""
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    for axis, size in enumerate(space.shapes.get(name, ())):
        had = _indices(large, name, axis, size)
        wanted = _indices(small, name, axis, size)
        if len(had) == len(wanted) == size:
            continue
        missing = np.setdiff1d(wanted, had)
        if len(missing):
            raise ValueError(
                f"the child keeps channels of {_group(space, name, axis, missing[0])} that its parent has not (index "
                f"{missing[0]} along axis {axis} of {name}); start from a parent that is nowhere narrower, cut by the "
                "same scores"
            )
        places = torch.from_numpy(np.searchsorted(had, wanted)).to(tensor.device)
        tensor = tensor.index_select(axis, places)
    return tensor


def _indices(changes: Cut, name: str, axis: int, size: int) -> npt.NDArray[np.int64]:
    kept = changes.kept.get(name, {}).get(axis)
    return np.arange(size) if kept is None else kept.numpy()


def _group(space: Space, name: str, axis: int, index: int) -> str:
    unit = space.layout.slots[name][axis][index]
    return next(group.name for group in space.groups if group.holds(unit))


def _unused_constants(space: Space, child: Candidate, small: Cut, scores: Scores | None) -> set[str]:
    """Constants of a network built as a graph that only its removed blocks used."""
    if space.writer is None:
        return set()
    graph, _ = space.writer.graph(stays(space, child, scores), small.removed)
    used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return {name for name in (f"_constants.{constant}" for constant in space.writer.network.constants)} - used
