"""Attention in the ways in which it is written, and a network around it."""

import torch
import torch.nn.functional as F
from torch import nn


class Fused(nn.Module):
    """One linear layer makes queries, keys and values."""

    def __init__(self, d=32, heads=4, how="sdpa"):
        super().__init__()
        self.heads, self.how, self.scale = heads, how, (d // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        if how in ("masked", "hand"):
            self.bias = nn.Parameter(torch.randn(heads, 6, 6))
        if how == "normed":
            self.norm = nn.LayerNorm(d // heads)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.how == "normed":
            q, k = self.norm(q), self.norm(k)
        if self.how == "rotary":
            angle = torch.arange(length)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.03]).repeat(2)
            q, k = (one * angle.cos() + turned(one) * angle.sin() for one in (q, k))
        if self.how in ("sdpa", "normed", "rotary"):
            x = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "masked":
            x = F.scaled_dot_product_attention(q, k, v, self.bias)
        else:
            x = (q @ k.transpose(-2, -1) * self.scale + self.bias).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).flatten(2))


def turned(x):
    """Half of the features in the place of the other half."""
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


class Grouped(nn.Module):
    """Two heads of queries share one of keys and values."""

    def __init__(self, d=32, own=False):
        super().__init__()
        self.own, self.num_heads, self.num_kv_heads, self.head_dim = own, 4, 2, 8
        self.q, self.k, self.v, self.o = nn.Linear(d, 32), nn.Linear(d, 16), nn.Linear(d, 16), nn.Linear(32, d)

    def forward(self, x):
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
        k, v = (
            one(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2) for one in (self.k, self.v)
        )
        if not self.own:
            k, v = (
                one[:, :, None]
                .expand(batch, -1, self.num_heads // self.num_kv_heads, length, self.head_dim)
                .reshape(batch, self.num_heads, length, self.head_dim)
                for one in (k, v)
            )
        return self.o(F.scaled_dot_product_attention(q, k, v, enable_gqa=self.own).transpose(1, 2).flatten(2))


class Apart(nn.Module):
    """Queries, keys and values of three layers, as transformers' models have them."""

    def __init__(self, d=32, heads=4):
        super().__init__()
        self.head_dim = d // heads
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x):
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (one(x).view(shape).transpose(1, 2) for one in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:-1], -1))


def causal(x):
    """Each position sees those before it."""
    return nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)


class Crossed(nn.Module):
    """PyTorch's attention: on itself, then on fewer positions of other features."""

    def __init__(self, d=32):
        super().__init__()
        self.own = nn.MultiheadAttention(d, 4, batch_first=True)
        self.across = nn.MultiheadAttention(d, 4, kdim=d, vdim=d, bias=False)

    def forward(self, x):
        y = x + self.own(x, x, x, attn_mask=causal(x))[0]
        given = y[:, ::2].transpose(0, 1)
        return self.across(y.transpose(0, 1), given, given, need_weights=False)[0].transpose(0, 1)


class Net(nn.Module):
    """A stream that attention adds to, and what reads it."""

    def __init__(self, attention, d=32):
        super().__init__()
        self.embed, self.norm, self.attention, self.head = nn.Linear(5, d), nn.LayerNorm(d), attention, nn.Linear(d, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head((x + self.attention(self.norm(x))).mean(1))


KINDS = {
    **{how: (lambda how=how: Fused(how=how), "attention.qkv", 4) for how in "sdpa masked normed rotary hand".split()},
    "grouped": (Grouped, "attention.q", 2),
    "grouped by PyTorch": (lambda: Grouped(own=True), "attention.q", 2),
    "apart": (Apart, "attention.q", 4),
    "module": (Crossed, "attention.own", 4),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), "attention.self_attn", 4),
}
