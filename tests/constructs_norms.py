"""Norms over channels as published code writes them out; each is also run on the kept channels alone."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from constructs_base import Construct, image, stack, writer
from torch import Tensor, nn

NORMS: dict[str, Construct] = {}
construct = writer(NORMS)


class Norm(nn.Module):
    """A function of `(batch, channels, *side)`, a scale and a shift of the channels."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(channels) + 0.5), nn.Parameter(torch.rand(channels))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        sides = (1,) * (x.ndim - 2)
        return self.function(x, self.weight.view(-1, *sides), self.bias.view(-1, *sides))


def by_hand(
    name: str, function: Callable[[Tensor, Tensor, Tensor], Tensor], before: nn.Module | None = None, **expected: Any
) -> None:
    """A norm between two convolutions."""
    if "frozen" not in expected:
        expected |= {"prunable": "0", "mixes": {"2": "0.weight"}}
    layers = lambda: [nn.Conv2d(3, 8, 3), before or nn.GELU(), Norm(function), nn.Conv2d(8, 2, 1)]  # noqa: E731
    stack(NORMS, name, layers, image(2, 3, 6, 6), **expected)


def on_tokens(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The same with the channels last."""
    return lambda x, w, b: function(x.permute(0, 2, 3, 1), w.flatten(), b.flatten()).permute(0, 3, 1, 2)


def layer_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """As in ConvNeXt."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return w * ((x - mean) / torch.sqrt(variance + 1e-6)) + b


def in_place(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """On a copy."""
    y = x.clone()
    y.sub_(x.mean(1, keepdim=True))
    y = y / (y * y).mean(1, keepdim=True).add_(1e-6).sqrt()
    return y.mul_(w).add_(b)


def of_two(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Variance and mean at once."""
    variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-6) * w


def response(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """As in ConvNeXt V2."""
    size = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
    return w * (x * (size / (size.mean(1, keepdim=True) + 1e-6))) + b + x


def deviation(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Of tokens."""
    return w * (x - x.mean(-1, keepdim=True)) / (x.std(-1, correction=0, keepdim=True) + 1e-6) + b


by_hand("layer_norm_by_hand", layer_norm)
by_hand("layer_norm_in_place", in_place)
by_hand("layer_norm_of_all", lambda x, w, b: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))
by_hand("variance_and_mean", of_two)
by_hand("deviation_of_tokens", on_tokens(deviation))
by_hand("centred", lambda x, w, b: x - x.mean(1, keepdim=True))
by_hand("rms_norm_by_hand", lambda x, w, b: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * w)
by_hand("rms_norm_without_keepdim", lambda x, w, b: w * x / (x * x).mean(1).add(1e-6).sqrt().unsqueeze(1))
by_hand("pixel_norm", lambda x, w, b: x / torch.sqrt((x**2).mean(1, keepdim=True) + 1e-8))
by_hand("l2_norm", lambda x, w, b: F.normalize(x, dim=1) * w)
by_hand("l1_norm", lambda x, w, b: F.normalize(x, p=1, dim=1))
by_hand("norm_of_linalg", lambda x, w, b: x / torch.linalg.norm(x, dim=1, keepdim=True).clamp(min=1e-6))
by_hand("l2_norm_of_centred", lambda x, w, b: F.normalize(x - x.mean(1, keepdim=True), dim=1) * w)
by_hand("response_norm", response)
by_hand("share_of_sum", lambda x, w, b: x / (x.sum(1, keepdim=True) + 1e-6), before=nn.ReLU())

# --- true mixers: what is removed would have counted ------------------------------------------------------------------

by_hand("softmax_of_channels", lambda x, w, b: x.softmax(1), frozen={"0": "softmax mixes its channels"})
by_hand(
    "softmax_by_hand", lambda x, w, b: x.exp() / x.exp().sum(1, keepdim=True), frozen={"0": "sum mixes its channels"}
)
by_hand("largest_channel", lambda x, w, b: x / (x.amax(1, keepdim=True) + 9), frozen={"0": "amax mixes its channels"})
by_hand("gate_of_mean", lambda x, w, b: x * x.mean(1, keepdim=True).sigmoid(), frozen={"0": "mean mixes its channels"})
by_hand("norm_of_gates", layer_norm, before=nn.Sigmoid(), frozen={"0": "mixes its channels"})
by_hand(
    "number_of_channels",
    lambda x, w, b: x / ((x * x).sum(1, keepdim=True) / x.shape[1] + 1e-6).sqrt(),
    frozen={"0": "it is calculated with the number of its channels at"},
)
by_hand(
    "pooled_channels",
    lambda x, w, b: x * torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1).mean(1, keepdim=True),
    frozen={"0": "amax mixes its channels"},
)
