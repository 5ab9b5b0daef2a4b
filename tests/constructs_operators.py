"""Everyday operators beside the layers: masks, comparisons, picks, transforms, each between two convolutions."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from constructs_base import Construct, image, writer
from torch import Tensor, nn

OPERATORS: dict[str, Construct] = {}
construct = writer(OPERATORS)
MAPS = image(2, 3, 4, 4)


def between(name: str, function: Callable[[Tensor], Tensor], **expected: Any) -> None:
    """A network that has the function between its first and second convolution."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = function(self.a(x))
        return self.out(F.relu(self.b(y)))

    forward.__name__ = name
    parts = lambda: dict(a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 8, 1), out=nn.Conv2d(8, 2, 1))  # noqa: E731
    construct(parts, MAPS, **{"prunable": "" if "frozen" in expected else "a", **expected})(forward)


def written(y: Tensor, place: Any, value: Any) -> Tensor:
    """A copy with a part assigned."""
    y = y.clone()
    y[place] = value
    return y


def masked_in_place(y: Tensor) -> Tensor:
    """The mask is narrowed in place."""
    mask = y > -1
    mask &= y < 1
    return y * mask


def column(y: Tensor) -> Tensor:
    """An index of the first column."""
    return torch.zeros_like(y[..., :1], dtype=torch.long)


# --- masks and comparisons --------------------------------------------------------------------------------------------

between("and_of_masks", lambda y: y * ((y > 0) & (y < 1)))
between("or_and_not_of_masks", lambda y: y * ~((y > 0) | (y < -1)))
between("xor_of_masks", lambda y: y * ((y > 0) ^ (y < -1)))
between("and_in_place", masked_in_place)
between("where_with_a_number", lambda y: torch.where(y > 0, y, 0.0))
between("where_with_a_number_first", lambda y: torch.where(y > 0, 0.0, y))
between("where_with_numbers", lambda y: y * torch.where(y > 0, 1.0, 2.0))
between("assigned_by_a_mask", lambda y: written(y, y < 0, 0.0))
between("isclose", lambda y: y * torch.isclose(y, torch.zeros_like(y)).logical_not())
between("isin", lambda y: y * torch.isin(y.round(), torch.tensor([0.0, 1.0])))
between("floor_divide", lambda y: y - torch.floor_divide(y.detach(), 0.3))
between("spelled_out_names", lambda y: torch.arctan2(y, torch.absolute(y) + 1).multiply(2.0))
between("triangle_of_positions", lambda y: y.tril())
between("triangle_of_channels", lambda y: y.transpose(1, 2).tril().transpose(1, 2), frozen={"a": "triangle"})

# --- picked and placed ------------------------------------------------------------------------------------------------

between("gather", lambda y: y.gather(3, torch.zeros_like(y, dtype=torch.long)))
between("gather_some", lambda y: y.gather(3, column(y)))
between("gather_channels", lambda y: y.gather(1, torch.zeros_like(y, dtype=torch.long)), frozen={"a": "picked"})
between("take_along_dim", lambda y: torch.take_along_dim(y, y.argsort(-1), -1))
between("scatter_a_number", lambda y: y.scatter(3, column(y), 0.0))
between("scatter", lambda y: torch.zeros_like(y).scatter(3, column(y), y[..., :1]))
between("scatter_add", lambda y: y.scatter_add(3, column(y), y[..., :1]))
between("scatter_reduce", lambda y: y.scatter_reduce(3, column(y), y[..., :1], "sum"))
between("scatter_channels", lambda y: y.scatter(1, column(y), 0.0), frozen={"a": "some of its channels"})
between("index_put", lambda y: written(y, (slice(None), slice(None), torch.tensor([0, 2])), 0.0))
between("index_add", lambda y: y.index_add(3, torch.tensor([0, 1]), y[..., :2]))
between("index_copy", lambda y: y.index_copy(3, torch.tensor([0, 1]), y[..., 2:]))
between("index_fill", lambda y: y.index_fill(2, torch.tensor([0]), 0.0))
between("index_fill_channels", lambda y: y.index_fill(1, torch.tensor([0]), 0.0), frozen={"a": "picked"})
between("one_hot", lambda y: y + F.one_hot(y.flatten(2).argmax(-1), 16).to(y.dtype).view_as(y))
between("bucketize", lambda y: y + torch.bucketize(y, torch.linspace(-1, 1, 5)))
between("searchsorted", lambda y: y + torch.searchsorted(torch.linspace(-1, 1, 5, dtype=y.dtype), y))
between("diff", lambda y: y.diff(dim=-1))
between("diff_of_channels", lambda y: torch.cat([y.diff(dim=1), y[:, :1]], 1), frozen={"a": "diff"})
between("cummax", lambda y: y.cummax(-1)[0])
between("aminmax", lambda y: y - torch.aminmax(y, dim=-1, keepdim=True)[0])
between("hstack", lambda y: torch.hstack(y.chunk(2, 1)))

# --- transforms and complex numbers -----------------------------------------------------------------------------------

between("fft2", lambda y: torch.fft.ifft2(torch.fft.fft2(y)).real, uncounted=("aten.fft_fft2", "aten.fft_ifft2"))
between("rfft", lambda y: torch.fft.irfft(torch.fft.rfft(y), n=4), uncounted=("aten.fft_irfft", "aten.fft_rfft"))
between("fftn", lambda y: torch.fft.fftn(y, dim=(2, 3)).imag, uncounted=("aten.fft_fftn",))
between("fftshift", lambda y: torch.fft.fftshift(torch.fft.fft2(y), dim=(2, 3)).abs(), uncounted=("aten.fft_fft2",))
between("fft_of_channels", lambda y: torch.fft.fft(y, dim=1).real, frozen={"a": "mixed"}, uncounted=("aten.fft_fft",))
between("complex_numbers", lambda y: torch.view_as_real(torch.complex(y, y)).sum(-1))
between("view_as_complex", lambda y: torch.view_as_complex(torch.stack([y, y], -1)).abs())
between("polar", lambda y: torch.polar(y.abs(), y).imag)

# --- that nothing counts ----------------------------------------------------------------------------------------------

between(
    "inverse",
    lambda y: torch.linalg.inv(y + 8 * torch.eye(4, dtype=y.dtype)),
    frozen={"a": "linalg_inv"},
    uncounted=("aten.linalg_inv",),
)
between(
    "distances",
    lambda y: y * torch.cdist(y.flatten(2), y.flatten(2)).mean(-1)[..., None, None],
    frozen={"a": "cdist"},
    uncounted=("aten.cdist",),
    macs=False,
)


# --- positions with numbers of their own, of which some are picked ----------------------------------------------------


def picked(name: str, pick: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Patches with a learned table of positions, of which some go on, as of a masked autoencoder."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        t = self.a(x).flatten(2).transpose(1, 2) + self.table
        some = F.avg_pool2d(x, 2).sum(1).flatten(1).argsort(1)[:, :2, None].repeat(1, 1, t.shape[2])
        return self.out(torch.tanh(pick(t, some)))

    forward.__name__ = name
    parts = lambda: dict(  # noqa: E731
        a=nn.Conv2d(3, 8, 2, 2), table=nn.Parameter(torch.rand(1, 4, 8) - 0.5), out=nn.Linear(8, 2)
    )
    construct(parts, MAPS, "a table:2")(forward)


picked("positions_gathered", lambda t, some: t.gather(1, some))
picked("positions_scattered", lambda t, some: t.scatter(1, some, t[:, :2]))
picked("positions_written", lambda t, _: written(t, (torch.arange(2)[:, None], torch.tensor([[0, 2]])), t[:, 1:3]))
picked("positions_added", lambda t, _: t.index_add(1, torch.tensor([0, 3]), t[:, 1:3]))


def put(name: str, into: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
    """Nodes of a graph are written into zeros at their neighbours' places, which a buffer holds."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.out(into(self, h, h.new_zeros(len(h), 5, h.shape[2])).flatten(0, 1)).unflatten(0, (len(h), 5))

    forward.__name__ = name
    parts = lambda: dict(a=nn.Linear(3, 8), place=torch.tensor([0, 4, 2, 1]), out=nn.Linear(8, 2))  # noqa: E731
    construct(parts, image(2, 4, 3), "a")(forward)


put("rows_added", lambda net, h, empty: empty.index_add_(1, net.place, h))
put("rows_copied", lambda net, h, empty: empty.index_copy(1, net.place, h))
put(
    "rows_scattered",
    lambda net, h, empty: empty.scatter_add_(1, net.place.view(1, -1, 1).expand(len(h), -1, h.shape[2]), h),
)
put("rows_assigned", lambda net, h, empty: written(empty, (slice(None), net.place), h))


# --- one value for every channel --------------------------------------------------------------------------------------


def gated(name: str, expanded: Callable[[Tensor, Tensor], Tensor], **expected: Any) -> None:
    """A map of one channel, which another convolution makes, is brought to the shape of what it weighs."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(F.relu(self.b(y * expanded(torch.sigmoid(self.gate(y)), y))))

    forward.__name__ = name
    parts = lambda: dict(  # noqa: E731
        a=nn.Conv2d(3, 8, 3, padding=1), gate=nn.Conv2d(8, 1, 1), b=nn.Conv2d(8, 8, 1), out=nn.Conv2d(8, 2, 1)
    )
    how = {"prunable": "" if "frozen" in expected else "a", **expected}
    construct(parts, MAPS, **how)(forward)


gated("gate_expanded_as", lambda g, y: g.expand_as(y))
gated("gate_expanded", lambda g, y: g.expand(-1, y.shape[1], -1, -1))
gated("gate_repeated", lambda g, y: g.repeat(1, y.shape[1], 1, 1))
gated("gate_repeated_and_changed", lambda g, y: 1 - g.repeat_interleave(y.shape[1], 1))
gated("gate_beside_itself", lambda g, y: torch.cat([g] * y.shape[1], 1))
gated("gate_as_a_mask", lambda g, y: (g > 0.5).expand_as(y))
gated("gate_expanded_to_a_literal", lambda g, y: g.expand(-1, 8, -1, -1), frozen={"a": "a size is written"}, graph="a")
gated("channel_as_gate", lambda g, y: y[:, 3:4].expand_as(y), frozen={"a": ""})
between("noise_shared_by_positions", lambda y: y * y.new_empty(*y.shape[:2], 1, 1).fill_(0.9).expand_as(y))
between("number_expanded", lambda y: y * y.new_tensor(0.5).expand(y.shape))
between("mask_of_examples", lambda y: y * (y.flatten(1).norm(dim=1) > 0).view(-1, 1, 1, 1).expand_as(y))
