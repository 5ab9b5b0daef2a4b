"""PyTorch's multi-head attention with any number of heads of any size.

`nn.MultiheadAttention` takes the size of a head from the features of its input, so it cannot lose heads or features
alone. This one takes it from its weights. Networks are captured and run dry with it, so that both forwards are the
same; a network that lost heads or features keeps it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The forward of `nn.MultiheadAttention`, with the number and size of heads that the weights have.

    Raises:
        ValueError: `is_causal` without a mask, as PyTorch's.
    """
    if is_causal and attn_mask is None:
        raise ValueError("is_causal is a hint of what attn_mask holds; give attn_mask too")
    batched, itself = query.dim() == 3, query is key and key is value
    seen = {id(one): _by_length(module, one, batched) for one in (query, key, value)}  # the same one stays the same
    inputs = [seen[id(one)] for one in ((query,) if itself else (query, key, value))]
    queries, keys, values = (
        part.view(*part.shape[:2], module.num_heads, -1).permute(1, 2, 0, 3) for part in _projected(module, inputs)
    )
    only_causal = is_causal and key_padding_mask is None and not need_weights
    mask = None if only_causal else _mask(module, queries, attn_mask, key_padding_mask)
    scale, dropout = module.head_dim**-0.5, module.dropout if module.training else 0.0
    weights = None
    if need_weights:
        scores = (queries * scale) @ keys.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = F.dropout(weights, dropout) if dropout else weights
        mixed = weights @ values
        weights = weights.mean(1) if average_attn_weights else weights
        weights = weights if batched else weights.squeeze(0)
    else:
        mixed = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, only_causal, scale=scale)
    length, batch = mixed.shape[2], mixed.shape[0]
    result = module.out_proj(mixed.permute(2, 0, 1, 3).reshape(length * batch, -1)).view(length, batch, -1)
    if not batched:
        return result.squeeze(1), weights
    return (result.transpose(0, 1) if module.batch_first else result), weights


def _by_length(module: nn.MultiheadAttention, given: Tensor, batched: bool) -> Tensor:
    """`(length, batch, features)`, the order in which PyTorch works too: so both take the same memory."""
    return given.unsqueeze(1) if not batched else given.transpose(0, 1) if module.batch_first else given


def _projected(module: nn.MultiheadAttention, inputs: list[Tensor]) -> list[Tensor]:
    """Queries, keys and values, `(length, batch, features of all heads)`; made and copied as PyTorch does it."""
    weight, bias = module.in_proj_weight, module.in_proj_bias
    if weight is not None and len(inputs) == 1:
        return _parts(inputs[0], weight, bias, 3)
    if weight is not None and inputs[1] is inputs[2]:
        size = weight.shape[0] // 3
        query = F.linear(inputs[0], weight[:size], None if bias is None else bias[:size])
        return [query, *_parts(inputs[1], weight[size:], None if bias is None else bias[size:], 2)]
    weights: list[Tensor] = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    if weight is not None:
        weights = list(weight.chunk(3))
    biases = [None, None, None] if bias is None else bias.chunk(3)
    inputs = inputs * 3 if len(inputs) == 1 else inputs
    return [F.linear(one, matrix, shift) for one, matrix, shift in zip(inputs, weights, biases, strict=True)]


def _parts(given: Tensor, weight: Tensor, bias: Tensor | None, count: int) -> list[Tensor]:
    made = F.linear(given, weight, bias)
    return list(made.view(*made.shape[:-1], count, -1).movedim(-2, 0).contiguous().unbind(0))


def _mask(
    module: nn.MultiheadAttention, queries: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None
) -> Tensor | None:
    """What is added to the scores, broadcast to `(batch, heads, queries, keys)`."""
    found = []
    if attn_mask is not None:
        several = attn_mask.dim() == 3  # one for each example and head
        found.append(attn_mask.view(-1, module.num_heads, *attn_mask.shape[1:]) if several else attn_mask)
    if key_padding_mask is not None:
        given = key_padding_mask if key_padding_mask.dim() == 2 else key_padding_mask.unsqueeze(0)
        found.append(given[:, None, None, :])
    added = [
        torch.zeros_like(one, dtype=queries.dtype).masked_fill(one, float("-inf")) if one.dtype == torch.bool else one
        for one in found
    ]
    return added[0] + added[1] if len(added) == 2 else added[0] if added else None


class MultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` that lost heads or features; parameters and arguments are the same."""

    forward = attend


def resized(module: nn.MultiheadAttention) -> None:
    """Let a module whose parameters have other sizes than it was made for work."""
    module.__class__ = MultiheadAttention
    module._qkv_same_embed_dim = False  # so that no fused kernel of a layer around it takes its weights


def any_size(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Whether a module is attention that may be resized."""
    own = getattr(module, "get_base", None)  # of what export passes around where modules are shared
    kind = type(own()) if callable(own) else type(module)
    if kind is not nn.MultiheadAttention:
        return kind is MultiheadAttention
    return module.bias_k is None and not module.add_zero_attn


_OWN = nn.MultiheadAttention.forward
_lock, _within = threading.Lock(), set[object]()


@contextlib.contextmanager
def by_weights() -> Iterator[None]:
    """Attention of all networks takes its sizes from its weights, until the last thread is out of this."""
    here = object()
    with _lock:
        _within.add(here)
        nn.MultiheadAttention.forward = _forward  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        with _lock:
            _within.remove(here)
            if not _within:
                nn.MultiheadAttention.forward = _OWN  # type: ignore[method-assign]


def _forward(module: nn.MultiheadAttention, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    return attend(module, *args, **kwargs) if any_size(module) else _OWN(module, *args, **kwargs)
