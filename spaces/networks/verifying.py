"""A slow check of one candidate that uses nothing of the graph. Start at `verify`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..candidate import Candidate
from ..cutting.comparing import Difference, compared, prepared, sized
from ..cutting.masked import Leaking, outputs_of
from ..cutting.surgery import Scores
from ..examples import with_constants
from ..graph.network import Examples, as_call
from ..space import Space
from .build import build, stays


def verify(
    model: nn.Module, space: Space, candidate: Candidate, example_inputs: Examples, scores: Scores | None = None
) -> Difference:
    """Relative error of the built network: largest difference / largest output, the worst of all output tensors.

    The reference is a copy of `model` in which exactly the removed elements are zero and removed blocks are the
    identity. Rounding alone gives about 1e-6 in float32 and 1e-14 in float64 (`model.double()`); anything much larger
    means that a channel was followed wrongly. It serves on any network of your own, before you trust a search over it;
    it takes a few runs of the full size, and a backward pass of the small one, at the side of the example. Parameters
    that are all zero, channels that are all alike and batch norms that have seen no data would hide a difference: they
    get other numbers in the copies. Where the outputs do not react to all that is cut, both networks run once more with
    activations that leak, and the larger error counts. The result says how many of the groups that are cut reach an
    output by more than rounding.

    Args:
        model: the network the space was traced from; neither it nor its modes are changed.
        space: the traced space.
        candidate: one choice on every axis.
        example_inputs: as for `Space.trace`; where the batch is one, a second example is added if the network takes it.
        scores: which units stay; the L2 norms of `Space.default_scores` when None.

    Returns:
        A float, whose text says what it saw: 0 where both agree to the last bit, infinite where the reference is zero
        and the built network is not, NaN where one of them is not finite or no output reacts to what is cut.

    Raises:
        ValueError: the built network gives other tensors or other shapes than the full one.
    """
    scores = space.default_scores if scores is None else scores
    candidate = space.canonical(candidate)
    whole = prepared(model, space.layout)
    with torch.no_grad():
        examples = _two(whole, with_constants(example_inputs, space.settings))
    sized(whole, model, examples)
    kept, removed = stays(space, candidate, scores), space.removed(candidate)
    small = partial(build, space=space, candidate=candidate, scores=scores)
    found = compared(whole, space.layout, kept, removed, examples, small, as_graph=space.as_graph)
    if found.hidden and not space.as_graph:
        with Leaking():
            found = found.beside(compared(whole, space.layout, kept, removed, examples, small))
    return found


def _two(model: nn.Module, examples: Examples) -> Examples:
    """The example with a second one, its mirror image, where there is one only and the network takes two."""
    args, kwargs = as_call(examples)
    tensors = [tensor for tensor in (*args, *kwargs.values()) if isinstance(tensor, Tensor)]
    if any(tensor.ndim == 0 or tensor.shape[0] != 1 for tensor in tensors):
        return examples

    def double(tensor: Any) -> Any:
        return torch.cat([tensor, tensor.flip(-1)]) if isinstance(tensor, Tensor) else tensor

    named = {name: double(tensor) for name, tensor in kwargs.items()}
    two: Examples = named if named else tuple(double(tensor) for tensor in args)
    try:
        outputs_of(model, two)
    except Exception:  # noqa: BLE001 - the user's forward may raise anything
        return examples
    return two
