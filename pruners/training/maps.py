"""Maps of attention while a network runs: what a softmax makes weights of, of every query and key. Start at `Maps`.

They are heard where PyTorch is called: in a softmax over the last of at least three axes, and in
`scaled_dot_product_attention`, whose scores are made again of its queries and keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...spaces.graph.attention import by_weights

Scores = Callable[..., Tensor]
Heard = Callable[[Sequence[Tensor], Scores], None]
"""Is told what a map is made of, and the function that makes it."""

_MASKED = -100.0  # what is as low is masked, and 0 in a map


class Maps(TorchFunctionMode):
    """Tells of every map of attention, in the order in which they are made."""

    def __init__(self, heard: Heard) -> None:
        super().__init__()
        self._heard = heard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch, and tell of the map that it makes weights of."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            self._heard(*_of_product(*args, **kwargs))
        elif name in ("softmax", "_safe_softmax"):
            scores = args[0] if args else kwargs["input"]
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if isinstance(scores, Tensor) and scores.ndim > 2 and axis in (-1, scores.ndim - 1):
                self._heard([scores], _unmasked)
        return func(*args, **kwargs)


@contextlib.contextmanager
def hearing(heard: Heard) -> Iterator[None]:
    """While the maps of attention are told; that of `nn.MultiheadAttention` is written out meanwhile."""
    with by_weights(), Maps(heard):
        yield


def _unmasked(scores: Tensor) -> Tensor:
    return scores.masked_fill(scores <= _MASKED, 0.0)


def _of_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[list[Tensor], Scores]:
    """Queries and keys, and what makes the scores of them."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale

    def scores(query: Tensor, key: Tensor) -> Tensor:
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        found = (query * factor) @ key.mT
        if is_causal:
            found = found.masked_fill(torch.ones_like(found, dtype=torch.bool).triu(1), 0.0)
        if attn_mask is None:
            return found
        return found.masked_fill(~attn_mask, 0.0) if attn_mask.dtype == torch.bool else _unmasked(found + attn_mask)

    return [query, key], scores
