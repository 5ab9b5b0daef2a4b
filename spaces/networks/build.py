"""From a candidate to a smaller network: which channels stay, and the network itself. Start at `build`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ..candidate import Candidate
from ..cutting.surgery import Cut, Scores, assemble, forget, named_tensors, plan, smaller
from ..space import Space


def cut(space: Space, candidate: Candidate, scores: Scores | None = None) -> Cut:
    """What the candidate changes: the best-scored units of each group stay, in their own order.

    Args:
        space: the traced space.
        candidate: one choice on every axis.
        scores: importance of every unit; the L2 norms of `Space.default_scores` when None.

    Raises:
        ValueError: the candidate is not of this space, or the scores do not fit its groups.
    """
    candidate = space.canonical(candidate)
    changes = plan(space.layout, stays(space, candidate, scores), space.removed(candidate))
    return replace(changes, as_graph=space.as_graph)


def channel_map(space: Space, candidate: Candidate, scores: Scores | None = None) -> dict[str, dict[int, Tensor]]:
    """Which indices of which parameters and buffers stay: `{name: {dim: LongTensor of kept indices}}`.

    Tensors of removed blocks and tensors that stay whole are not listed. Arguments and errors as of `build`.
    """
    return cut(space, candidate, scores).kept


def build(
    model: nn.Module,
    space: Space,
    candidate: Candidate,
    scores: Scores | None = None,
    *,
    weights: Mapping[str, Tensor] | None = None,
    as_graph: bool | None = None,
) -> nn.Module:
    """A new, smaller network of the user's own class, with the weights of the channels that stay; `model` is untouched.

    From a space that was traced with `as_graph=True` it is a `torch.fx.GraphModule` with the same parameter names.

    Args:
        model: the network the space was traced from, or one of the same shapes.
        space: the traced space.
        candidate: one choice on every axis.
        scores: which units stay; the L2 norms of `Space.default_scores` when None.
        weights: a state dict of the full network to take the weights from; those of `model` when None.
        as_graph: whether a graph is wanted; None: as the space was traced.

    Raises:
        ValueError: candidate, scores or model do not fit the space, or it was not traced for what `as_graph` asks.
    """
    if as_graph is not None and as_graph is not (space.as_graph):
        raise ValueError(
            f"as_graph={as_graph}, but the space was traced with as_graph={space.as_graph}; "
            f"trace it with Space.trace(..., as_graph={as_graph})"
        )
    changes = cut(space, candidate, scores)
    gone = tuple(f"{name}." for name in changes.removed)
    taken: dict[str, Tensor] = {}
    first: dict[int, Tensor] = {}
    for name, tensor in named_tensors(model).items():
        if name.startswith(gone):
            continue
        if space.shapes.get(name) != tuple(tensor.shape):
            raise ValueError(
                f"model does not fit the space: {name} is {tuple(tensor.shape)}, the traced network's is "
                f"{space.shapes.get(name)}; build from the network that was traced"
            )
        if id(tensor) not in first:
            own = tensor if weights is None else weights.get(name, tensor)
            if own.shape != tensor.shape:
                raise ValueError(
                    f"weights do not fit the model: {name} is {tuple(own.shape)}, not {tuple(tensor.shape)}"
                )
            first[id(tensor)] = own.detach().to(tensor)
        taken[name] = first[id(tensor)]
    tensors = smaller(taken, changes)
    if space.writer is not None:
        return space.writer.module(model, tensors, stays(space, space.canonical(candidate), scores), changes.removed)
    small = assemble(model, tensors, changes.attributes, changes.removed, changes.gives, changes.numbers)
    forget(small, changes.keeping)
    return small


def stays(space: Space, candidate: Candidate, scores: Scores | None) -> npt.NDArray[np.bool_]:
    """`(u,)` whether each unit stays; unit 0 always does."""
    layout = space.layout
    ranking = space.ranking(scores)
    kept = np.zeros(layout.units, bool)
    kept[0] = True
    for number, group in enumerate(layout.groups):
        count = candidate[number] // group.unit
        kept[group.first + ranking[number][:count]] = True
    return kept
