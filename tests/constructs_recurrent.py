"""Recurrence that the forward writes out, whose first states it makes itself."""

from collections.abc import Callable
from typing import Any

import torch
from constructs_base import Construct, image, writer
from torch import Tensor, nn

RECURRENT: dict[str, Construct] = {}
construct = writer(RECURRENT)


def two_states(name: str, first: Callable[[nn.Module, Tensor], Tensor], **expected: Any) -> None:
    """A recurrent convolution with two first states, `first` of the network and its input."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h, c = first(self, x), first(self, x)
        for step in range(x.shape[1]):
            i, f, o, g = (self.given(x[:, step]) + self.gates(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)

    forward.__name__ = name
    parts = lambda: dict(  # noqa: E731
        given=nn.Conv2d(3, 16, 3, padding=1), gates=nn.Conv2d(4, 16, 3, padding=1), out=nn.Conv2d(4, 2, 1)
    )
    what = {} if "frozen" in expected else {"prunable": "gates gates.weight:1 out.weight:1"}
    construct(parts, image(2, 2, 3, 5, 5), **what, **expected)(forward)


two_states("states_of_zeros", lambda net, x: x.new_zeros(len(x), net.out.in_channels, 5, 5))
two_states("states_brought_to_a_type", lambda net, x: torch.zeros(len(x), net.out.in_channels, 5, 5).to(x).contiguous())
two_states(
    "states_expanded", lambda net, x: x.new_zeros(net.out.in_channels)[None, :, None, None].expand(len(x), -1, 5, 5)
)
two_states("states_of_noise", lambda net, x: 0 * torch.randn(len(x), net.out.in_channels, 5, 5).to(x))
two_states(
    "states_of_a_literal", lambda _, x: x.new_zeros(len(x), 4, 5, 5), frozen={"gates": "a size is"}, graph="gates"
)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(*shape) - 0.4)


@construct(
    lambda: dict(w=weight(3, 16), u=weight(4, 16), b=weight(16), out=nn.Linear(4, 2)),
    image(2, 5, 3),
    "w:1 u:0 u:1 b:0 out.weight:1",
)
def lstm_of_bare_weights(self: nn.Module, x: Tensor) -> Tensor:
    h, c = (x.new_zeros(len(x), self.out.in_features) for _ in range(2))
    for step in range(x.shape[1]):
        i, f, o, g = (x[:, step] @ self.w + h @ self.u + self.b).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return self.out(h)


@construct(lambda: dict(w=nn.Linear(3, 8), u=nn.Linear(8, 8), out=nn.Linear(8, 2)), image(2, 5, 3), "w u u.weight:1")
def state_that_is_replaced(self: nn.Module, x: Tensor) -> Tensor:
    h = x.new_zeros(1, self.out.in_features)  # which nobody reads
    h = x.new_zeros(len(x), self.u.in_features)
    for step in range(x.shape[1]):
        h = torch.tanh(self.w(x[:, step]) + self.u(h))
    return self.out(h)
