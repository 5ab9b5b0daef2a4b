"""Layers: every kind of convolution, linear layer, norm, activation and gate."""

import torch
import torch.nn.functional as F
from constructs_base import Construct, image, stack, writer
from torch import nn
from torch.nn.utils import parametrizations

LAYERS: dict[str, Construct] = {}
construct = writer(LAYERS)
SIDES = {1: (9,), 2: (6, 6), 3: (4, 4, 4)}
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def sequence(name, layers, example, **expected):
    stack(LAYERS, name, layers, example, **expected)


def between(name, middle, width=8, axes=2, **expected):
    """The layers between a convolution ("0") that makes `width` channels and one (the last) that reads them."""
    layers, example = CONVOLUTIONS[axes], image(2, 3, *SIDES[axes])
    expected.setdefault("prunable", "0")
    sequence(name, lambda: [layers(3, width, 3, padding=1), *middle(), layers(width, 2, 1)], example, **expected)


# --- convolutions -----------------------------------------------------------------------------------------------------

for n, layer in CONVOLUTIONS.items():
    between(f"conv{n}d", lambda layer=layer: [nn.ReLU(), layer(8, 8, 3, dilation=2, padding=2)], axes=n, prunable="0 2")
for n, layer in TRANSPOSED.items():
    between(
        f"conv_transpose{n}d",
        lambda layer=layer: [
            layer(8, 12, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            layer(12, 8, 2, bias=False),
        ],
        axes=n,
        prunable="0 1 3",
    )
for n in (2, 4, 8):
    between(f"groups_of_{16 // n}", lambda n=n: [nn.ReLU(), nn.Conv2d(16, 16, 3, groups=n)], 16, prunable="0 2")
between(
    "groups_widening", lambda: [nn.Conv2d(12, 24, 1, groups=3), nn.ReLU(), nn.Conv2d(24, 12, 1)], 12, prunable="0 1 3"
)
between(
    "groups_narrowing", lambda: [nn.Conv2d(12, 6, 1, groups=3), nn.ReLU(), nn.Conv2d(6, 12, 1)], 12, prunable="0 1 3"
)
between("groups_one_each_1d", lambda: [nn.Conv1d(8, 8, 3, groups=8), nn.ReLU()], axes=1, prunable="0 1")
between("groups_one_each_3d", lambda: [nn.Conv3d(8, 8, 3, padding=1, groups=8), nn.ReLU()], axes=3, prunable="0 1")
between("depthwise", lambda: [nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()], prunable="0 1")
between("depthwise_twice", lambda: [nn.Conv2d(8, 16, 3, groups=8), nn.ReLU(), nn.Conv2d(16, 8, 1)], prunable="0 1 3")
between(
    "depthwise_thrice_3d",
    lambda: [nn.Conv3d(4, 12, 3, groups=4), nn.ReLU(), nn.Conv3d(12, 4, 1)],
    4,
    3,
    prunable="0 1 3",
)
between(
    "groups_in_a_row",
    lambda: [
        nn.Conv2d(16, 16, 1, groups=4),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1, groups=4),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1, groups=2),
    ],
    16,
    prunable="0 1 3 5",
)
between("transposed_groups", lambda: [nn.ConvTranspose2d(8, 12, 2, groups=4), nn.Conv2d(12, 8, 1)], prunable="0 2")
between("transposed_depthwise", lambda: [nn.ConvTranspose2d(8, 8, 2, 2, groups=8), nn.ReLU()], prunable="0 1")
between("transposed_depthwise_bare", lambda: [nn.ConvTranspose1d(8, 8, 4, 2, 1, groups=8, bias=False)], axes=1)
between(
    "transposed_depthwise_twice",
    lambda: [nn.ConvTranspose3d(4, 8, 2, 2, groups=4), nn.Conv3d(8, 4, 1)],
    4,
    3,
    prunable="0 2",
)
for mode in ("reflect", "replicate", "circular"):
    between(f"padding_{mode}", lambda mode=mode: [nn.Conv2d(8, 8, 3, padding=1, padding_mode=mode)], prunable="0 1")
between("padding_same", lambda: [nn.Conv2d(8, 8, 3, padding="same")], prunable="0 1")


@construct(
    lambda: dict(a=nn.Conv2d(8, 8, 3, padding=1), b=nn.Conv2d(8, 8, 3, padding=1, groups=4), c=nn.Conv2d(8, 3, 1)),
    image(2, 8, 6, 6),
    prunable="a b",
)
def groups_in_a_residual(self, x):
    x = F.relu(self.a(x))
    return self.c(F.relu(x + self.b(x)))


# --- linear -----------------------------------------------------------------------------------------------------------

sequence(
    "linear",
    lambda: [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)],
    image(4, 6),
    prunable="0 2",
)


@construct(
    lambda: dict(a=nn.Conv2d(3, 8, 1), fc1=nn.Linear(8, 16), fc2=nn.Linear(16, 8), out=nn.Conv2d(8, 2, 1)),
    image(2, 3, 4, 4),
    prunable="a fc1 fc2",
)
def linear_on_the_last_of_four_axes(self, x):
    x = self.fc2(F.gelu(self.fc1(F.relu(self.a(x)).permute(0, 2, 3, 1))))
    return self.out(x.permute(0, 3, 1, 2))


@construct(
    lambda: dict(
        a=nn.Conv2d(3, 8, 1),
        tokens1=nn.Linear(16, 12),
        tokens2=nn.Linear(12, 16),
        b=nn.Linear(8, 12),
        out=nn.Linear(12, 2),
    ),
    image(2, 3, 4, 4),
    prunable="a tokens1 b",
)
def linear_over_positions(self, x):
    x = self.a(x).flatten(2)
    x = x + self.tokens2(F.gelu(self.tokens1(x)))
    return self.out(F.relu(self.b(x.transpose(1, 2))))


# --- norms ------------------------------------------------------------------------------------------------------------

between("batch_norm_1d", lambda: [nn.BatchNorm1d(8), nn.ReLU()], axes=1)
between("batch_norm_2d", lambda: [nn.BatchNorm2d(8), nn.ReLU()])
between("batch_norm_3d", lambda: [nn.BatchNorm3d(8), nn.ReLU()], axes=3)
between("batch_norm_plain", lambda: [nn.BatchNorm2d(8, affine=False), nn.ReLU()])
between("batch_norm_without_statistics", lambda: [nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU()])
sequence(
    "batch_norm_of_rows",
    lambda: [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)],
    image(4, 6),
    prunable="0",
)
between("instance_norm_1d", lambda: [nn.InstanceNorm1d(8), nn.ReLU()], axes=1)
between("instance_norm_affine", lambda: [nn.InstanceNorm2d(8, affine=True), nn.ReLU()])
between("instance_norm_3d_statistics", lambda: [nn.InstanceNorm3d(8, affine=True, track_running_stats=True)], axes=3)
between("group_norm", lambda: [nn.GroupNorm(4, 16), nn.ReLU()], 16, mixes={"1": "1.weight"})
between("group_norm_plain", lambda: [nn.GroupNorm(4, 16, affine=False), nn.ReLU()], 16, mixes={"1": "0.weight"})
between("group_norm_3d", lambda: [nn.GroupNorm(2, 8), nn.ReLU()], 8, 3, mixes={"1": "1.weight"})
between("group_norm_one_group", lambda: [nn.GroupNorm(1, 8), nn.ReLU()], mixes={"1": "1.weight"})
between("group_norm_one_channel_each", lambda: [nn.GroupNorm(8, 8), nn.ReLU()], mixes={"1": "1.weight"})
between(
    "group_norm_before_groups",
    lambda: [nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=2), nn.GroupNorm(8, 16)],
    16,
    prunable="0 3",
    mixes={"1": "1.weight", "4": "4.weight"},
)
between("layer_norm_of_an_image", lambda: [nn.LayerNorm((8, 6, 6)), nn.ReLU()], mixes={"1": "1.weight"})
between("layer_norm_of_space", lambda: [nn.LayerNorm((6, 6)), nn.ReLU()])
between("local_response_norm", lambda: [nn.ReLU(), nn.LocalResponseNorm(3)], mixes={"2": "0.weight"})
sequence(
    "layer_norm_of_rows",
    lambda: [nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3)],
    image(4, 6),
    prunable="0",
    mixes={"1": "1.weight"},
)
sequence(
    "rms_norm",
    lambda: [nn.Linear(6, 16), nn.RMSNorm(16), nn.GELU(), nn.Linear(16, 3)],
    image(4, 5, 6),
    prunable="0",
    mixes={"1": "1.weight"},
)
sequence(
    "layer_norm_plain",
    lambda: [nn.Linear(6, 16), nn.LayerNorm(16, elementwise_affine=False), nn.Linear(16, 3)],
    image(4, 6),
    prunable="0",
    mixes={"1": "0.weight"},
)


@construct(
    lambda: dict(
        stem=nn.Conv2d(3, 8, 2, 2),
        deep=nn.Conv2d(8, 8, 3, padding=1, groups=8),
        norm=nn.LayerNorm(8, eps=1e-6),
        fc1=nn.Linear(8, 16),
        fc2=nn.Linear(16, 8),
        gamma=nn.Parameter(torch.rand(8) + 0.5),
        out=nn.Conv2d(8, 2, 1),
    ),
    image(2, 3, 8, 8),
    prunable="stem deep fc1 fc2",
    mixes={"norm": "norm.weight"},
)
def layer_norm_channels_last(self, x):
    x = self.stem(x)
    y = self.deep(x).permute(0, 2, 3, 1)
    y = self.gamma * self.fc2(F.gelu(self.fc1(self.norm(y))))
    return self.out(x + y.permute(0, 3, 1, 2))


@construct(
    lambda: dict(
        a=nn.Conv2d(3, 8, 1), weight=nn.Parameter(torch.rand(8) + 0.5), b=nn.Conv2d(8, 8, 1), out=nn.Conv2d(8, 2, 1)
    ),
    image(2, 3, 4, 4),
    prunable="b",
)
def layer_norm_by_hand(self, x):
    x = self.a(x)
    centred = x - x.mean(1, keepdim=True)
    x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-5)
    return self.out(F.relu(self.b(self.weight[:, None, None] * x)))


# --- weights that are computed ----------------------------------------------------------------------------------------

between(
    "weight_norm",
    lambda: [
        nn.ReLU(),
        parametrizations.weight_norm(nn.Conv2d(8, 8, 3)),
        nn.ReLU(),
        parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
    ],
    prunable="0 2.parametrizations.weight.original1:0 4.parametrizations.weight.original1:0",
)
between(
    "spectral_norm",
    lambda: [
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Conv2d(8, 8, 1)),
    ],
    prunable="0 2.parametrizations.weight.original:0 4.parametrizations.weight.original:0",
    macs=False,  # PyTorch's counter leaves out products of a matrix and a vector
)
sequence(
    "weight_norm_linear",
    lambda: [parametrizations.weight_norm(nn.Linear(6, 16)), nn.ReLU(), parametrizations.weight_norm(nn.Linear(16, 3))],
    image(4, 6),
    prunable="0.parametrizations.weight.original1:0",
)
sequence(
    "spectral_norm_linear",
    lambda: [
        parametrizations.spectral_norm(nn.Linear(6, 16)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Linear(16, 3)),
    ],
    image(4, 6),
    prunable="0.parametrizations.weight.original:0",
    macs=False,
)


class Standardised(nn.Conv2d):
    """A convolution whose weight has mean 0 and variance 1 in each row, with a gain (BiT, NFNet)."""

    def forward(self, x):
        flat = self.weight.flatten(1)
        mean, variance = flat.mean(1), flat.var(1, unbiased=False)
        weight = (self.weight - mean.view(-1, 1, 1, 1)) / torch.sqrt(variance.view(-1, 1, 1, 1) + 1e-6)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class StandardisedByNorm(nn.Conv2d):
    """The same through a batch norm, as timm has it."""

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


between(
    "standardised_weights", lambda: [nn.ReLU(), Standardised(8, 8, 3), nn.ReLU()], prunable="2", mixes={"2": "2.weight"}
)
between(
    "standardised_weights_by_norm",
    lambda: [nn.ReLU(), StandardisedByNorm(8, 8, 3), nn.ReLU()],
    prunable="2",
    mixes={"2": "2.weight"},
)

# --- activations, gates, dropout --------------------------------------------------------------------------------------

between("prelu_per_channel", lambda: [nn.PReLU(8), nn.Conv2d(8, 8, 1), nn.PReLU()], prunable="0 2")
between(
    "activations",
    lambda: [nn.ELU(), nn.Hardtanh(), nn.LogSigmoid(), nn.Softsign(), nn.Hardswish(), nn.Mish(), nn.CELU()],
)
between(
    "activations_not_zero_at_zero",
    lambda: [nn.Sigmoid(), nn.Softplus(), nn.Conv2d(8, 8, 3, padding=1), nn.Hardsigmoid()],
    prunable="0 3",
)
between(
    "dropouts", lambda: [nn.Dropout(0.3), nn.Conv2d(8, 8, 1), nn.Dropout2d(0.3), nn.AlphaDropout(0.2)], prunable="0 2"
)


@construct(
    lambda: dict(a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(8, 6, 1), out=nn.Conv2d(6, 2, 1)), image(2, 3, 4, 4), prunable="a b"
)
def gated_linear_unit(self, x):
    return self.out(F.relu(self.b(F.glu(self.a(x), 1))))


@construct(
    lambda: dict(
        a=nn.Conv2d(3, 8, 1),
        gamma=nn.Parameter(torch.rand(8, 1, 1) + 0.5),
        b=nn.Conv2d(8, 8, 3, padding=1),
        out=nn.Conv2d(8, 2, 1),
    ),
    image(2, 3, 4, 4),
    prunable="a b",
)
def layer_scale(self, x):
    x = self.a(x)
    return self.out(x + self.gamma * self.b(F.relu(x)))


@construct(
    lambda: dict(a=nn.Conv2d(3, 8, 3), squeeze=nn.Conv2d(8, 4, 1), excite=nn.Conv2d(4, 8, 1), out=nn.Conv2d(8, 2, 1)),
    image(2, 3, 6, 6),
    prunable="a squeeze excite",
)
def squeeze_excite_by_convolution(self, x):
    x = F.relu(self.a(x))
    return self.out(x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))))


@construct(
    lambda: dict(
        a=nn.Conv2d(3, 8, 3),
        pool=nn.AdaptiveAvgPool2d(1),
        out=nn.Conv2d(8, 2, 1),
        gate=nn.Sequential(
            nn.Linear(8, 4, bias=False), nn.ReLU(inplace=True), nn.Linear(4, 8, bias=False), nn.Sigmoid()
        ),
    ),
    image(2, 3, 6, 6),
    prunable="a gate.0 gate.2",
)
def squeeze_excite_by_linear_and_view(self, x):
    x = F.relu(self.a(x))
    b, c, _, _ = x.size()
    y = self.pool(x).view(b, c)
    y = self.gate(y).view(b, c, 1, 1)
    return self.out(x * y.expand_as(x))


@construct(
    lambda: dict(a=nn.Conv2d(3, 8, 3), squeeze=nn.Linear(8, 4), excite=nn.Linear(4, 8), out=nn.Conv2d(8, 2, 1)),
    image(2, 3, 6, 6),
    prunable="squeeze",
    frozen={"a": "constant", "excite": "constant"},
    graph="a squeeze excite",
)
def squeeze_excite_with_literal_view(self, x):
    x = F.relu(self.a(x))
    y = F.adaptive_avg_pool2d(x, 1).view(-1, 8)
    y = torch.sigmoid(self.excite(F.relu(self.squeeze(y)))).view(-1, 8, 1, 1)
    return self.out(x * y)


@construct(
    lambda: dict(
        a=nn.Conv2d(3, 8, 3),
        mix=nn.Conv1d(1, 1, 3, padding=1, bias=False),
        out=nn.Conv2d(8, 2, 1),
        b=nn.Conv2d(8, 8, 1),
    ),
    image(2, 3, 6, 6),
    prunable="b",
)
def channel_attention_by_conv1d(self, x):
    """ECA: a convolution over the channels; their order and number count, so the first stays whole."""
    x = F.relu(self.a(x))
    y = self.mix(x.mean((2, 3)).unsqueeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
    return self.out(F.relu(self.b(x * torch.sigmoid(y))))


@construct(
    lambda: dict(a=nn.Conv2d(3, 8, 3), gate=nn.Conv2d(8, 1, 1), out=nn.Conv2d(8, 2, 1)), image(2, 3, 6, 6), prunable="a"
)
def spatial_gate_of_one_channel(self, x):
    x = F.relu(self.a(x))
    return self.out(x * torch.sigmoid(self.gate(x)))


@construct(
    lambda: dict(
        a=nn.Conv2d(3, 8, 3), gate=nn.Conv2d(2, 1, 3, padding=1), b=nn.Conv2d(8, 8, 1), out=nn.Conv2d(8, 2, 1)
    ),
    image(2, 3, 6, 6),
    prunable="b",
)
def spatial_gate_of_statistics(self, x):
    """CBAM: mean and maximum over channels."""
    x = F.relu(self.a(x))
    y = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return self.out(F.relu(self.b(x * torch.sigmoid(self.gate(y)))))


@construct(lambda: dict(a=nn.Conv2d(3, 16, 3), out=nn.Conv2d(8, 2, 1)), image(2, 3, 6, 6), prunable="a")
def maxout_neighbours(self, x):
    x = self.a(x)
    n, c, h, w = x.shape
    return self.out(x.view(n, c // 2, 2, h, w).max(2)[0])


@construct(lambda: dict(a=nn.Conv2d(3, 16, 3), out=nn.Conv2d(8, 2, 1)), image(2, 3, 6, 6), prunable="a")
def maxout_halves(self, x):
    x = self.a(x)
    return self.out(x.reshape(x.shape[0], 2, -1, *x.shape[2:]).amax(1))


class StochasticDepth(nn.Module):
    """Drops the branch of whole examples while training."""

    def forward(self, x):
        if not self.training:
            return x
        keep = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(0.7)
        return x * keep / 0.7


@construct(
    lambda: dict(a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 8, 3, padding=1), drop=StochasticDepth(), out=nn.Conv2d(8, 2, 1)),
    image(2, 3, 6, 6),
    prunable="a b",
)
def stochastic_depth(self, x):
    x = F.relu(self.a(x))
    return self.out(F.relu(x + self.drop(self.b(x))))


# --- recurrent layers -------------------------------------------------------------------------------------------------


@construct(
    lambda: dict(
        a=nn.Conv1d(3, 8, 3, padding=1),
        lstm=nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True),
        fc=nn.Linear(12, 8),
        out=nn.Linear(8, 2),
    ),
    image(2, 3, 7),
    prunable="a fc lstm.weight_ih_l0:1",
    macs=False,
)
def lstm_of_two_ways(self, x):
    y, (h, c) = self.lstm(F.relu(self.a(x)).transpose(1, 2))
    return self.out(F.relu(self.fc(y)))


@construct(
    lambda: dict(a=nn.Conv1d(3, 8, 3, padding=1), gru=nn.GRU(8, 6), out=nn.Linear(6, 2)),
    image(2, 3, 7),
    prunable="a gru.weight_ih_l0:1",
    macs=False,
)
def gru_of_the_last_state(self, x):
    _, h = self.gru(F.relu(self.a(x)).permute(2, 0, 1))
    return self.out(h[-1])


@construct(
    lambda: dict(a=nn.Conv2d(3, 8, 3), cell=nn.LSTMCell(8, 6), out=nn.Linear(6, 2)),
    image(2, 3, 5, 5),
    prunable="a",
    macs=False,
)
def lstm_cell(self, x):
    x = F.relu(self.a(x)).mean(3)
    h = c = x.new_zeros(x.shape[0], 6)
    for step in range(x.shape[2]):
        h, c = self.cell(x[:, :, step], (h, c))
    return self.out(h)


@construct(
    lambda: dict(gates=nn.Conv2d(3 + 4, 16, 3, padding=1), out=nn.Conv2d(4, 2, 1)),
    image(2, 2, 3, 5, 5),
    graph="gates",
)
def convolutional_lstm(self, x):
    h = c = x.new_zeros(x.shape[0], self.out.in_channels, *x.shape[3:])
    for step in range(x.shape[1]):
        i, f, o, g = self.gates(torch.cat([x[:, step], h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return self.out(h)
