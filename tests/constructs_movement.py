"""Data movement: operators that put channels elsewhere, with sizes that are computed or written in."""

import torch
import torch.nn.functional as F
from constructs_base import Construct, image, writer
from torch import nn

MOVEMENT: dict[str, Construct] = {}
construct = writer(MOVEMENT)


def conv(i, o, k=1, **how):
    return nn.Conv2d(i, o, k, padding=k // 2, **how)


def three(first=8, second=8, third=8):
    """A convolution that makes `first` channels, one that reads `second` of them and makes `third`, and a last one."""
    return lambda: dict(a=conv(3, first, 3), b=conv(second, third, 3), out=conv(third, 2))


SMALL = image(2, 3, 4, 4)

# --- flatten, view, reshape -------------------------------------------------------------------------------------------


@construct(lambda: dict(a=conv(3, 8, 3), fc1=nn.Linear(8 * 16, 12), fc2=nn.Linear(12, 3)), SMALL, prunable="a fc1")
def flatten_into_linear(self, x):
    return self.fc2(F.relu(self.fc1(torch.flatten(F.relu(self.a(x)), 1))))


@construct(
    lambda: dict(a=conv(3, 8, 3), fc1=nn.Linear(8 * 4, 12), fc2=nn.Linear(12, 3)), image(2, 3, 7, 7), prunable="a fc1"
)
def pool_then_view_into_linear(self, x):
    x = F.adaptive_avg_pool2d(F.relu(self.a(x)), 2)
    return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


@construct(
    lambda: dict(a=conv(3, 8, 3), fc1=nn.Linear(8 * 4, 12), fc2=nn.Linear(12, 3)),
    image(2, 3, 8, 8),
    prunable="fc1",
    frozen={"a": "constant"},
    graph="a fc1",
)
def view_into_linear_written_in(self, x):
    x = F.max_pool2d(F.relu(self.a(x)), 4)
    return self.fc2(F.relu(self.fc1(x.view(-1, 8 * 2 * 2))))


@construct(lambda: dict(a=nn.Conv3d(3, 4, 3, padding=1), fc=nn.Linear(4 * 8, 3)), image(2, 3, 2, 2, 2), prunable="a")
def flatten_a_volume(self, x):
    return self.fc(self.a(x).reshape(x.shape[0], -1))


@construct(lambda: dict(a=conv(3, 8, 3), fc=nn.Linear(8 * 4, 3)), image(2, 3, 4, 4), prunable="a")
def flatten_channels_last(self, x):
    return self.fc(F.max_pool2d(self.a(x), 2).permute(0, 2, 3, 1).flatten(1))


@construct(three(), SMALL, prunable="a b")
def view_computed(self, x):
    x = F.relu(self.a(x))
    n, c, h, w = x.shape
    x = x.view(n, c, h * w).relu().view(n, c, h, w)
    return self.out(F.relu(self.b(x)))


@construct(three(), SMALL, prunable="b", frozen={"a": "constant"}, graph="a b")
def view_written_in(self, x):
    x = F.relu(self.a(x)).view(-1, 8, 16)
    return self.out(F.relu(self.b(x.view(-1, 8, 4, 4))))


def _width(model):
    model.width = 8


@construct(three(), SMALL, prunable="a b", after=_width)
def view_by_attribute(self, x):
    x = F.relu(self.a(x)).reshape(x.shape[0], self.width, -1)
    return self.out(F.relu(self.b(x.reshape(x.shape[0], self.width, 4, 4))))


@construct(
    lambda: dict(fc=nn.Linear(5, 8 * 4), up=nn.ConvTranspose2d(8, 6, 2, 2), out=conv(6, 2)),
    image(2, 5),
    prunable="up",
    frozen={"fc": "constant"},
    graph="fc up",
)
def unflatten_written_in(self, x):
    """A generator: linear, then an image of 8 channels."""
    return self.out(F.relu(self.up(self.fc(x).view(-1, 8, 2, 2))))


@construct(
    lambda: dict(fc=nn.Linear(5, 8 * 4), up=nn.ConvTranspose2d(8, 6, 2, 2), out=conv(6, 2)),
    image(2, 5),
    prunable="fc up",
)
def unflatten_computed(self, x):
    return self.out(F.relu(self.up(self.fc(x).view(x.shape[0], -1, 2, 2))))


@construct(three(), SMALL, prunable="a b")
def permute_there_and_back(self, x):
    x = F.relu(self.a(x)).permute(0, 2, 3, 1).contiguous() * 2.0
    return self.out(F.relu(self.b(torch.movedim(x, -1, 1))))


@construct(
    lambda: dict(a=conv(3, 8, 3), b=nn.Conv3d(8, 6, 1), out=nn.Conv3d(6, 2, 1)), image(2, 4, 3, 4, 4), prunable="a b"
)
def frames_merged_into_the_batch(self, x):
    """A 2D convolution on every frame of a video, then a 3D one."""
    n, t = x.shape[:2]
    y = F.relu(self.a(x.flatten(0, 1)))
    y = y.view(n, t, *y.shape[1:]).transpose(1, 2)
    return self.out(F.relu(self.b(y)))


@construct(three(), SMALL, prunable="a b")
def squeeze_unsqueeze_expand(self, x):
    x = F.relu(self.a(x)).unsqueeze(2).expand(-1, -1, 3, -1, -1).mean(2)
    return self.out(F.relu(self.b(x[:, :, None].squeeze(2))))


# --- chunk, split, unbind, stack --------------------------------------------------------------------------------------


@construct(three(16, 8, 8), SMALL, prunable="a b")
def chunk_two(self, x):
    left, right = self.a(x).chunk(2, 1)
    return self.out(F.relu(self.b(F.relu(left) + torch.tanh(right))))


@construct(lambda: dict(a=conv(3, 12, 3), b=conv(4, 4, 3), c=conv(4, 4, 3), out=conv(12, 2)), SMALL, prunable="a b c")
def chunk_three_in_turn(self, x):
    first, second, third = torch.chunk(F.relu(self.a(x)), 3, dim=1)
    second = F.relu(self.b(second + first))
    return self.out(torch.cat([first, second, self.c(third + second)], 1))


@construct(three(16, 8, 8), SMALL, prunable="b", frozen={"a": "constant"}, graph="a b")
def split_equal_written_in(self, x):
    left, right = torch.split(self.a(x), 8, dim=1)
    return self.out(F.relu(self.b(F.relu(left) + torch.tanh(right))))


@construct(three(16, 8, 8), SMALL, prunable="a b")
def split_equal_computed(self, x):
    x = self.a(x)
    left, right = torch.split(x, x.shape[1] // 2, dim=1)
    return self.out(F.relu(self.b(F.relu(left) + torch.tanh(right))))


@construct(
    lambda: dict(a=conv(3, 16, 3), b=conv(4, 6, 3), c=conv(12, 6, 3), out=conv(6, 2)),
    SMALL,
    prunable="b c",
    frozen={"a": "constant"},
    graph="a b c",
)
def split_unequal_written_in(self, x):
    left, right = torch.split(F.relu(self.a(x)), [4, 12], dim=1)
    return self.out(F.relu(self.b(left) + self.c(right)))


@construct(lambda: dict(a=conv(3, 16, 3), b=conv(4, 6, 3), c=conv(12, 6, 3), out=conv(6, 2)), SMALL, prunable="a b c")
def split_unequal_by_layers(self, x):
    sizes = [self.b.in_channels, self.c.in_channels]
    left, right = torch.split(F.relu(self.a(x)), sizes, dim=1)
    return self.out(F.relu(self.b(left) + self.c(right)))


@construct(
    lambda: dict(a=conv(3, 8, 3), b=conv(2, 2, 3), c=conv(2, 2, 3), d=conv(2, 2, 3), out=conv(8, 2)),
    SMALL,
    prunable="a b c d",
)
def hierarchical_split(self, x):
    """Res2Net: a quarter goes straight on, each other is added to the one before."""
    parts = torch.chunk(F.relu(self.a(x)), 4, 1)
    results, y = [parts[0]], None
    for part, layer in zip(parts[1:], (self.b, self.c, self.d), strict=True):
        y = layer(part if y is None else part + y)
        results.append(y)
    return self.out(F.relu(torch.cat(results, 1)))


@construct(three(16, 8, 8), SMALL, prunable="a b")
def unbind_pairs(self, x):
    x = self.a(x)
    left, right = x.view(x.shape[0], 2, -1, *x.shape[2:]).unbind(1)
    return self.out(F.relu(self.b(left * torch.sigmoid(right))))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(3, 8, 3), c=conv(8, 6), out=conv(6, 2)), SMALL, prunable="a b c")
def stack_and_weigh(self, x):
    """Selective kernels: two branches, a softmax over the branches."""
    x = torch.stack([self.a(x), self.b(x)], dim=1)
    weights = torch.softmax(x.mean((3, 4), keepdim=True), dim=1)
    return self.out(F.relu(self.c((x * weights).sum(1))))


@construct(lambda: dict(a=conv(3, 6, 3), b=conv(3, 6, 3), c=conv(12, 6), out=conv(6, 2)), SMALL, prunable="a b c")
def stack_and_interleave(self, x):
    x = torch.stack([self.a(x), self.b(x)], dim=2)
    return self.out(F.relu(self.c(x.flatten(1, 2))))


# --- slices and indices -----------------------------------------------------------------------------------------------


@construct(three(16, 8, 8), SMALL, prunable="b", frozen={"a": "constant"}, graph="a b")
def slice_written_in(self, x):
    return self.out(F.relu(self.b(F.relu(self.a(x))[:, :8])))


@construct(
    lambda: dict(a=conv(3, 16, 3), b=conv(8, 8, 3), c=conv(8, 8, 3), out=conv(8, 2)),
    SMALL,
    prunable="b c",
    frozen={"a": "constant"},
    graph="a b c",
)
def slices_written_in_both_halves(self, x):
    x = F.relu(self.a(x))
    return self.out(F.relu(self.b(x[:, :8]) + self.c(x[:, 8:])))


@construct(lambda: dict(a=conv(3, 16, 3), b=conv(8, 8, 3), c=conv(8, 8, 3), out=conv(8, 2)), SMALL, prunable="a b c")
def slices_computed(self, x):
    x = F.relu(self.a(x))
    half = x.shape[1] // 2
    return self.out(F.relu(self.b(x[:, :half]) + self.c(x[:, half:])))


@construct(three(), SMALL, prunable="a b")
def slice_larger_than_the_input(self, x):
    """It clamps, and goes on clamping when the input is pruned."""
    return self.out(F.relu(self.b(F.relu(self.a(x))[:, :32])))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(4, 8, 3), out=conv(8, 2)), SMALL, prunable="b")
def every_second_channel(self, x):
    return self.out(F.relu(self.b(F.relu(self.a(x))[:, ::2])))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(8, 8, 3), out=conv(8, 2)), SMALL, prunable="b")
def one_channel_picked(self, x):
    x = F.relu(self.a(x))
    return self.out(F.relu(self.b(x) * torch.sigmoid(x[:, 5:6]) + x[:, 2].unsqueeze(1)))


@construct(three(), image(2, 3, 6, 6), prunable="a b")
def slices_of_space(self, x):
    x = F.relu(self.a(x))
    x = torch.cat([x[:, :, 0::2, :], x[:, :, 1::2, :]], 2)
    return self.out(F.relu(self.b(x[..., 1:-1, :4])))


@construct(lambda: dict(a=conv(12, 8, 3), b=conv(8, 8, 3), out=conv(8, 2)), image(2, 3, 6, 6), prunable="a b")
def space_to_depth_by_slices(self, x):
    """YOLO's focus layer."""
    x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
    return self.out(F.relu(self.b(F.relu(self.a(x)))))


@construct(
    lambda: dict(a=conv(3, 8, 3), b=conv(8, 8, 3), out=conv(8, 2), order=torch.tensor([3, 1, 0, 2, 7, 6, 4, 5])),
    SMALL,
    prunable="b",
)
def index_select_of_channels(self, x):
    return self.out(F.relu(self.b(torch.index_select(F.relu(self.a(x)), 1, self.order))))


@construct(
    lambda: dict(a=conv(3, 8, 3), b=conv(8, 8, 3), out=conv(8, 2), rows=torch.tensor([3, 1, 0])), SMALL, prunable="a b"
)
def index_select_of_rows(self, x):
    x = torch.index_select(F.relu(self.a(x)), 2, self.rows)
    return self.out(F.relu(self.b(x)))


@construct(
    lambda: dict(a=conv(3, 8, 3), b=conv(4, 8, 3), out=conv(8, 2), some=torch.tensor([3, 1, 0, 6])), SMALL, prunable="b"
)
def channels_by_a_list(self, x):
    return self.out(F.relu(self.b(F.relu(self.a(x))[:, self.some])))


@construct(three(), SMALL, prunable="a b")
def roll_of_space(self, x):
    x = torch.roll(F.relu(self.a(x)), shifts=(-1, 1), dims=(2, 3))
    return self.out(F.relu(self.b(x)))


@construct(three(), SMALL, prunable="b")
def roll_of_channels(self, x):
    return self.out(F.relu(self.b(torch.roll(F.relu(self.a(x)), 1, 1))))


@construct(three(), SMALL, prunable="a b")
def flip_of_space(self, x):
    x = F.relu(self.a(x))
    return self.out(F.relu(self.b(x + x.flip(3))))


# --- slice assignment -------------------------------------------------------------------------------------------------


def volume(c=4):
    return lambda: dict(
        a=conv(3, 2 * c, 3),
        b=conv(2 * c, c, 3),
        fuse=nn.Conv3d(2 * c, 6, 3, padding=1),
        out=nn.Conv3d(6, 1, 3, padding=1),
    )


@construct(volume(), (image(2, 3, 4, 6), image(2, 3, 4, 6, seed=1)), prunable="a b fuse")
def cost_volume_computed(self, left, right):
    """PSMNet: left features beside right ones that are shifted by every disparity."""
    left, right = (self.b(F.relu(self.a(x))) for x in (left, right))
    n, c, h, w = left.shape
    cost = left.new_zeros(n, 2 * c, 3, h, w)
    for i in range(3):
        if i > 0:
            cost[:, :c, i, :, i:] = left[:, :, :, i:]
            cost[:, c:, i, :, i:] = right[:, :, :, :-i]
        else:
            cost[:, :c, i] = left
            cost[:, c:, i] = right
    return self.out(F.relu(self.fuse(cost.contiguous())))


@construct(
    volume(),
    (image(2, 3, 4, 6), image(2, 3, 4, 6, seed=1)),
    prunable="a fuse",
    frozen={"b": "constant"},
    graph="a b fuse",
)
def cost_volume_written_in(self, left, right):
    left, right = (self.b(F.relu(self.a(x))) for x in (left, right))
    cost = torch.zeros(left.shape[0], 8, 3, left.shape[2], left.shape[3], dtype=left.dtype)
    for i in range(3):
        cost[:, :4, i, :, i:] = left[:, :, :, i:]
        cost[:, 4:, i, :, i:] = right[:, :, :, : 6 - i]
    return self.out(F.relu(self.fuse(cost)))


@construct(volume(), (image(2, 3, 4, 6), image(2, 3, 4, 6, seed=1)), prunable="a b fuse")
def cost_volume_of_zeros_by_attribute(self, left, right):
    """The width is asked of the layer that makes it, which follows."""
    left, right = (self.b(F.relu(self.a(x))) for x in (left, right))
    c = self.b.out_channels
    cost = torch.zeros(left.size(0), 2 * c, 2, left.size(2), left.size(3), dtype=left.dtype, device=left.device)
    cost[:, :c, 0], cost[:, c:, 0] = left, right
    cost[:, :c, 1, :, 1:], cost[:, c:, 1, :, 1:] = left[..., 1:], right[..., :-1]
    return self.out(F.relu(self.fuse(cost)))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(3, 6, 3), c=conv(14, 6, 3), out=conv(6, 2)), SMALL, prunable="a b c")
def halves_assigned(self, x):
    a, b = F.relu(self.a(x)), self.b(x)
    y = a.new_empty(a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:])
    y[:, : a.shape[1]] = a
    y[:, a.shape[1] :] = b
    return self.out(F.relu(self.c(y)))


@construct(three(), SMALL, prunable="a b")
def border_assigned(self, x):
    x = self.a(x).clone()
    x[:, :, 0, :] = 0
    x[:, :, -1] = 1.5
    x[..., 1:3, 1:3] *= 2
    return self.out(F.relu(self.b(x)))


@construct(
    lambda: dict(a=conv(3, 8, 3), b=conv(8, 6, 3), out=conv(6, 2)),
    image(8, 3, 4, 4),
    prunable="b",
    frozen={"a": "constant"},
    graph="a b",
)
def temporal_shift_written_in(self, x):
    """TSM: two of eight channels come from the frame after, two from the frame before."""
    x = self.a(x)
    frames = x.view(-1, 2, *x.shape[1:])
    shifted = torch.zeros_like(frames)
    shifted[:, :-1, :2] = frames[:, 1:, :2]
    shifted[:, 1:, 2:4] = frames[:, :-1, 2:4]
    shifted[:, :, 4:] = frames[:, :, 4:]
    return self.out(F.relu(self.b(shifted.view(x.shape))))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(8, 6, 3), out=conv(6, 2)), image(8, 3, 4, 4), prunable="b", partly="a")
def temporal_shift_computed(self, x):
    x = self.a(x)
    frames = x.view(-1, 2, *x.shape[1:])
    fold = x.shape[1] // 4
    shifted = torch.zeros_like(frames)
    shifted[:, :-1, :fold] = frames[:, 1:, :fold]
    shifted[:, 1:, fold : 2 * fold] = frames[:, :-1, fold : 2 * fold]
    shifted[:, :, 2 * fold :] = frames[:, :, 2 * fold :]
    return self.out(F.relu(self.b(shifted.view(x.shape))))


# --- padding ----------------------------------------------------------------------------------------------------------


@construct(three(), SMALL, prunable="a b")
def pads_of_space(self, x):
    x = F.pad(self.a(x), (1, 2, 0, 1), value=0.5)
    for mode in ("reflect", "replicate", "circular"):
        x = F.pad(F.relu(x), (1, 1, 1, 0), mode=mode)
    return self.out(F.relu(self.b(x)))


@construct(three(8, 12, 8), SMALL, prunable="a b")
def pad_of_channels(self, x):
    return self.out(F.relu(self.b(F.pad(F.relu(self.a(x)), (0, 0, 0, 0, 0, 4)))))


@construct(three(8, 12, 8), SMALL, prunable="a b")
def pad_of_channels_by_concat(self, x):
    x = F.relu(self.a(x))
    return self.out(F.relu(self.b(torch.cat([x.new_zeros(x.shape[0], 4, *x.shape[2:]), x], 1))))


# --- channels and positions change places -----------------------------------------------------------------------------


@construct(lambda: dict(a=conv(3, 4, 3), fc=nn.Linear(4 * 9, 6), out=nn.Linear(6, 2)), SMALL, prunable="a fc")
def unfold_into_linear(self, x):
    x = F.unfold(F.relu(self.a(x)), 3, padding=1)
    return self.out(F.relu(self.fc(x.transpose(1, 2))))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(8, 6), out=conv(6, 2)), image(2, 3, 6, 6), prunable="a b")
def windows_by_unfold(self, x):
    x = F.relu(self.a(x)).unfold(2, 3, 2).unfold(3, 3, 2)
    return self.out(F.relu(self.b(x.mean((-1, -2)))))


@construct(
    lambda: dict(a=conv(3, 16, 3), shuffle=nn.PixelShuffle(2), b=conv(4, 6, 3), out=conv(6, 2)), SMALL, prunable="a b"
)
def pixel_shuffle(self, x):
    return self.out(F.relu(self.b(F.relu(self.shuffle(self.a(x))))))


@construct(
    lambda: dict(a=conv(3, 4, 3), down=nn.PixelUnshuffle(2), b=conv(16, 6, 3), out=conv(6, 2)), SMALL, prunable="a b"
)
def pixel_unshuffle(self, x):
    return self.out(F.relu(self.b(self.down(F.relu(self.a(x))))))


def _shuffled(c, groups):
    return lambda: dict(
        a=conv(3, c, 3), b=conv(c, c, 1, groups=groups), c=conv(c, c, 1, groups=groups), out=conv(c, 2), groups=groups
    )


def _shuffle(x, groups):
    n, c, h, w = x.size()
    x = x.view(n, groups, c // groups, h, w)
    return torch.transpose(x, 1, 2).contiguous().view(n, -1, h, w)


@construct(_shuffled(32, 4), SMALL, prunable="a b c")
def channel_shuffle_by_view(self, x):
    """ShuffleNet v1: grouped, shuffled, grouped again."""
    return self.out(F.relu(self.c(_shuffle(F.relu(self.b(F.relu(self.a(x)))), self.groups))))


@construct(_shuffled(16, 4), SMALL, prunable="a c")
def channel_shuffle_of_a_square(self, x):
    """As many groups as channels in each: what one convolution has as positions, the next has as groups."""
    return self.out(F.relu(self.c(_shuffle(F.relu(self.b(F.relu(self.a(x)))), self.groups))))


@construct(
    lambda: dict(a=conv(3, 36, 3), shuffle=nn.ChannelShuffle(3), b=conv(36, 36, groups=3), out=conv(36, 2)),
    SMALL,
    prunable="a b",
)
def channel_shuffle_by_module(self, x):
    return self.out(F.relu(self.b(self.shuffle(F.relu(self.a(x))))))


def _shuffle_unit(c):
    return nn.Sequential(
        conv(c, c), nn.BatchNorm2d(c), nn.ReLU(), conv(c, c, 3, groups=c), nn.BatchNorm2d(c), conv(c, c)
    )


@construct(lambda: dict(a=conv(3, 16, 3), unit=_shuffle_unit(8), out=conv(16, 2)), SMALL, prunable="a unit.0 unit.5")
def shuffle_net_v2(self, x):
    """Half goes straight on, half is convolved; then both are mixed."""
    left, right = F.relu(self.a(x)).chunk(2, dim=1)
    return self.out(F.relu(_shuffle(torch.cat((left, self.unit(right)), dim=1), 2)))


@construct(
    lambda: dict(a=conv(3, 16, 3), units=nn.ModuleList([_shuffle_unit(8) for _ in range(4)]), out=conv(16, 2)),
    SMALL,
    prunable="units.0.0 units.1.0 units.2.0 units.3.0",
)
def shuffle_net_v2_in_a_row(self, x):
    """Both halves of every split must keep equally many; the widths inside the units are free in any case."""
    x = F.relu(self.a(x))
    for unit in self.units:
        left, right = x.chunk(2, dim=1)
        x = _shuffle(torch.cat((left, unit(right)), dim=1), 2)
    return self.out(x)


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(8, 6, 3), out=conv(6, 2)), image(2, 3, 6, 6), prunable="a b")
def unpooling_by_indices(self, x):
    """SegNet."""
    x, indices = F.max_pool2d(F.relu(self.a(x)), 2, return_indices=True)
    return self.out(F.relu(self.b(F.max_unpool2d(x, indices, 2))))


# --- interpolation and pooling ----------------------------------------------------------------------------------------


@construct(three(), SMALL, prunable="a b")
def interpolate_to_literal_sizes(self, x):
    x = F.interpolate(F.relu(self.a(x)), size=(6, 8), mode="nearest")
    x = F.interpolate(self.b(x), size=(5, 5), mode="bilinear", align_corners=True)
    return self.out(F.relu(x))


@construct(
    lambda: dict(
        a=nn.Conv3d(3, 8, 1),
        up=nn.Upsample(scale_factor=2, mode="trilinear"),
        b=nn.Conv3d(8, 6, 1),
        out=nn.Conv3d(6, 2, 1),
    ),
    image(2, 3, 2, 2, 2),
    prunable="a b",
)
def interpolate_a_volume(self, x):
    x = F.interpolate(self.up(self.a(x)), size=(3, 4, 5), mode="nearest-exact")
    return self.out(F.relu(self.b(x)))


@construct(
    lambda: dict(a=nn.Conv1d(3, 8, 1), b=nn.Conv1d(8, 6, 1), out=nn.Conv1d(6, 2, 1)), image(2, 3, 6), prunable="a b"
)
def interpolate_a_line(self, x):
    x = F.interpolate(self.a(x), scale_factor=2, mode="linear")
    return self.out(F.relu(self.b(F.interpolate(x, size=7))))


@construct(three(), image(2, 3, 7, 7), prunable="a b")
def interpolate_to_another_value(self, x):
    a = F.relu(self.a(x))
    b = self.b(F.max_pool2d(a, 2, ceil_mode=True))
    return self.out(F.relu(F.interpolate(b, size=a.shape[-2:], mode="bicubic", align_corners=False)))


@construct(three(), image(2, 3, 7, 7), prunable="a b")
def pools(self, x):
    x = F.adaptive_avg_pool2d(F.relu(self.a(x)), (5, 4))
    x = F.adaptive_max_pool2d(x, (4, None)) + F.lp_pool2d(x, 2, (2, 1), stride=1)
    return self.out(F.relu(self.b(F.avg_pool2d(x, 2, count_include_pad=False))))


@construct(
    lambda: dict(a=conv(3, 8, 3), b=nn.ModuleList([conv(8, 2) for _ in range(3)]), out=conv(14, 2)),
    image(2, 3, 6, 6),
    prunable="a b.0 b.1 b.2",
)
def pyramid_pooling(self, x):
    x = F.relu(self.a(x))
    levels = [F.relu(layer(F.adaptive_avg_pool2d(x, k))) for k, layer in enumerate(self.b, 1)]
    levels = [F.interpolate(level, size=6) for level in levels]
    return self.out(torch.cat([x, *levels], 1))
