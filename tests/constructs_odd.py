"""Less usual operators: each must at least be followed or frozen with a reason, and never wrong."""

import torch
import torch.nn.functional as F
from constructs_base import Construct, image, writer
from torch import nn

ODD: dict[str, Construct] = {}
construct = writer(ODD)
SMALL = image(2, 3, 4, 4)


def conv(i, o, k=1, **how):
    return nn.Conv2d(i, o, k, padding=k // 2, **how)


def three(first=8, second=8, third=8):
    return lambda: dict(a=conv(3, first, 3), b=conv(second, third, 3), out=conv(third, 2))


@construct(three(8, 16, 8), SMALL, prunable="a b")
def channels_repeated(self, x):
    return self.out(F.relu(self.b(F.relu(self.a(x)).repeat(1, 2, 1, 1))))


@construct(three(8, 16, 8), SMALL, prunable="a b")
def channels_repeated_in_place(self, x):
    return self.out(F.relu(self.b(F.relu(self.a(x)).repeat_interleave(2, 1))))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(3, 8, 3), out=conv(8, 2)), SMALL, prunable="a b")
def where_one_is_larger(self, x):
    a, b = self.a(x), self.b(x)
    return self.out(
        torch.where(a > b, a, torch.zeros_like(a)) + torch.maximum(a, b).clamp(-1, 1).masked_fill(b < 0, 0.5)
    )


@construct(three(8, 10, 8), SMALL, prunable="a b")
def coordinates_beside(self, x):
    """CoordConv: two constant maps beside the channels."""
    x = F.relu(self.a(x))
    line = torch.linspace(-1, 1, 4, dtype=x.dtype)
    maps = torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(x.shape[0], -1, -1, -1)
    return self.out(F.relu(self.b(torch.cat([maps, x], 1))))


@construct(lambda: dict(a=conv(3, 8, 3), flow=conv(8, 2), b=conv(8, 8, 3), out=conv(8, 2)), SMALL, prunable="a b")
def sampled_on_a_grid(self, x):
    """The channels of the map that says where to look must stay."""
    x = F.relu(self.a(x))
    grid = torch.tanh(self.flow(x)).permute(0, 2, 3, 1)
    return self.out(F.relu(self.b(F.grid_sample(x, grid, align_corners=False))))


@construct(lambda: dict(a=conv(3, 16, 3), b=conv(4, 8, 3), out=conv(8, 2)), SMALL, prunable="b")
def folded(self, x):
    """The opposite of unfold: 16 channels are 2 x 2 patches of 4."""
    x = F.relu(self.a(x)).flatten(2)
    return self.out(F.relu(self.b(F.fold(x, (8, 8), 2, stride=2))))


@construct(three(), SMALL, prunable="b")
def unit_length(self, x):
    return self.out(F.relu(self.b(F.normalize(self.a(x), dim=1))))


@construct(three(), SMALL, prunable="b")
def softmax_over_channels(self, x):
    return self.out(F.relu(self.b(self.a(x).softmax(1))))


@construct(three(), SMALL, prunable="b")
def sums_along_channels(self, x):
    return self.out(F.relu(self.b(torch.cumsum(self.a(x), 1))))


@construct(three(8, 3, 8), SMALL, prunable="b")
def three_largest_channels(self, x):
    return self.out(F.relu(self.b(torch.topk(self.a(x), 3, dim=1).values)))


@construct(three(), SMALL, prunable="b")
def sorted_channels(self, x):
    return self.out(F.relu(self.b(torch.sort(self.a(x), dim=1, descending=True)[0])))


@construct(lambda: dict(a=conv(3, 6, 3), b=conv(6, 4), fc=nn.Linear(24, 3)), SMALL)
def bilinear_pooling(self, x):
    """All products of the channels of two maps."""
    a = F.relu(self.a(x))
    b = self.b(a)
    return self.fc((a.flatten(2) @ b.flatten(2).transpose(1, 2)).flatten(1))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(8, 4), out=conv(4, 2)), SMALL, prunable="a b")
def several_statistics(self, x):
    x = F.relu(self.a(x))
    x = (
        x
        - x.mean((2, 3), keepdim=True)
        + x.std((2, 3), keepdim=True) * x.amax(2, keepdim=True)
        + x.norm(dim=3, keepdim=True)
    )
    return self.out(F.relu(self.b(x)))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(8, 8), out=nn.Linear(8, 2)), SMALL, prunable="a b")
def mean_and_maximum_side_by_side(self, x):
    x = F.relu(self.b(F.relu(self.a(x))))
    return self.out(x.mean(-1).mean(-1) + x.flatten(2).max(-1)[0])


@construct(lambda: dict(a=conv(3, 8, 3), out=conv(8, 5)), SMALL, prunable="a")
def classes_as_numbers(self, x):
    y = self.out(F.relu(self.a(x)))
    return y, y.argmax(1), y > 0, y.shape[2]


@construct(
    lambda: dict(a=nn.Conv1d(3, 8, 3, padding=1), b=nn.Conv1d(8, 8, 3, padding=2, dilation=2), out=nn.Conv1d(8, 2, 1)),
    image(2, 3, 9),
    prunable="a b",
)
def gated_dilated_residual(self, x):
    """WaveNet's block."""
    x = self.a(x)
    y = self.b(F.pad(x, (2, 0)))[..., : x.shape[-1]]
    return self.out(x + torch.tanh(y) * torch.sigmoid(y))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(8, 8), norm=nn.BatchNorm2d(8), out=conv(8, 2)), SMALL, prunable="a b")
def in_place_operators(self, x):
    x = F.relu_(self.a(x))
    y = self.norm(self.b(x)).mul_(2).add_(x)
    y += 1
    y *= x
    return self.out(y.sigmoid_())


@construct(
    lambda: dict(a=conv(3, 8, 3), fc=nn.Linear(8, 16), b=conv(8, 8, 3), out=conv(8, 2)), SMALL, prunable="a b fc"
)
def modulated_by_scale_and_shift(self, x):
    """FiLM: a linear layer gives a scale and a shift of every channel."""
    x = F.relu(self.a(x))
    scale, shift = self.fc(x.mean((2, 3))).chunk(2, 1)
    return self.out(F.relu(self.b(x * scale[..., None, None] + shift[..., None, None])))


@construct(
    lambda: dict(a=conv(3, 8, 3), route=nn.Linear(8, 3), w=nn.Parameter(torch.rand(3, 6, 8, 1, 1)), out=conv(6, 2)),
    image(1, 3, 4, 4),
    prunable="a",
)
def convolution_with_mixed_weights(self, x):
    """CondConv, of one example: the weight is a sum of experts."""
    x = F.relu(self.a(x))
    mixture = torch.sigmoid(self.route(x.mean((0, 2, 3))))
    return self.out(F.relu(F.conv2d(x, (mixture[:, None, None, None, None] * self.w).sum(0))))


@construct(lambda: dict(a=conv(3, 12, 3), heads=nn.ModuleList([conv(4, 2, 3) for _ in range(3)])), SMALL, prunable="a")
def a_head_for_every_third(self, x):
    return tuple(head(part) for head, part in zip(self.heads, F.relu(self.a(x)).tensor_split(3, 1), strict=True))


@construct(
    lambda: dict(a=conv(3, 8, 3, groups=1), b=nn.Conv2d(1, 1, 3, padding=1), c=nn.Conv2d(1, 8, 1), out=conv(8, 2)),
    SMALL,
    prunable="c",
)
def one_channel_between(self, x):
    """A convolution from one channel to one is no depthwise one."""
    x = F.relu(self.a(x)).sum(1, keepdim=True)
    return self.out(F.relu(self.c(self.b(x))))


@construct(
    lambda: dict(a=nn.Linear(6, 12), b=nn.Linear(12, 12), bi=nn.Bilinear(12, 12, 5), out=nn.Linear(5, 2)),
    image(4, 6),
    macs=False,
)
def bilinear_layer(self, x):
    x = F.relu(self.a(x))
    return self.out(self.bi(x, F.relu(self.b(x))))


@construct(
    lambda: dict(a=conv(3, 8, 3), b=conv(8, 8, 3), out=conv(8, 2)),
    SMALL,
    prunable="a b",
    uncounted=("aten.fft_irfft2", "aten.fft_rfft2"),
)
def complex_spectrum(self, x):
    """A filter in the frequencies of space: complex numbers."""
    x = F.relu(self.a(x))
    x = torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * 0.5, s=(4, 4), norm="ortho")
    return self.out(F.relu(self.b(x)))
