"""Functional style, attention, the state a network may be in, constants, and what cannot be traced."""

import math

import torch
import torch.nn.functional as F
from constructs_base import Construct, image, tokens, writer
from torch import nn

FUNCTIONAL: dict[str, Construct] = {}
construct = writer(FUNCTIONAL)


def conv(i, o, k=1, **how):
    return nn.Conv2d(i, o, k, padding=k // 2, **how)


def weight(*shape):
    return nn.Parameter(torch.rand(*shape) - 0.4)


def two():
    return dict(a=conv(3, 8, 3), out=conv(8, 2))


def three():
    return dict(a=conv(3, 8, 3), b=conv(8, 8, 3), out=conv(8, 2))


SMALL = image(2, 3, 4, 4)

# --- functions of bare parameters -------------------------------------------------------------------------------------


@construct(
    lambda: dict(w1=weight(8, 3, 3, 3), b1=weight(8), w2=weight(8, 1, 3, 3), w3=weight(2, 8, 1, 1)),
    SMALL,
    prunable="w1:0 w3:1",
    graph="w1:0",
)
def convolutions_of_bare_weights(self, x):
    x = F.relu(F.conv2d(x, self.w1, self.b1, padding=1))
    x = F.conv2d(x, self.w2, groups=x.shape[1], padding=1)
    return F.conv2d(x, self.w3)


@construct(
    lambda: dict(a=conv(3, 8, 3), w2=weight(8, 1, 3, 3), out=conv(8, 2)),
    SMALL,
    frozen={"a": "does not go with fewer"},
    graph="a",
)
def literal_groups(self, x):
    return self.out(F.relu(F.conv2d(F.relu(self.a(x)), self.w2, groups=8, padding=1)))


@construct(lambda: dict(w1=weight(3, 8, 2, 2), w2=weight(8, 2, 1)), SMALL, prunable="w1:1")
def transposed_convolution_of_a_bare_weight(self, x):
    x = F.relu(F.conv_transpose2d(x, self.w1, stride=2)).flatten(2)
    return F.conv_transpose1d(x, self.w2)


@construct(lambda: dict(w1=weight(16, 6), b1=weight(16), w2=weight(3, 16)), image(4, 6), prunable="w1:0 b1:0 w2:1")
def linear_of_bare_weights(self, x):
    return F.linear(F.relu(F.linear(x, self.w1, self.b1)), self.w2)


@construct(
    lambda: dict(
        a=conv(3, 8, 3, bias=False),
        mean=torch.rand(8),
        var=torch.rand(8) + 0.5,
        gain=weight(8),
        shift=weight(8),
        out=conv(8, 2),
    ),
    SMALL,
    prunable="a gain:0 mean:0",
)
def batch_norm_of_bare_tensors(self, x):
    x = F.batch_norm(self.a(x), self.mean, self.var, self.gain, self.shift, training=self.training)
    return self.out(F.relu(x))


@construct(
    lambda: dict(a=conv(3, 8, 3), gain=weight(1, 8, 1, 1), shift=weight(8), out=conv(8, 2)),
    SMALL,
    prunable="a gain:1 shift:0",
)
def affine_by_hand(self, x):
    return self.out(F.relu(self.a(x) * self.gain + self.shift.view(1, -1, 1, 1)))


@construct(lambda: dict(a=conv(3, 8, 3), w=weight(6, 8), b=weight(6), out=conv(6, 2)), SMALL, prunable="a w:0 b:0")
def einsum_of_channels(self, x):
    x = torch.einsum("nchw,oc->nohw", F.relu(self.a(x)), self.w)
    return self.out(F.relu(x + self.b[:, None, None]))


@construct(lambda: dict(a=conv(3, 8, 3), b=conv(3, 8, 3), out=conv(16, 2)), SMALL)
def einsum_of_two_maps(self, x):
    """A correlation of all positions with all others; what is summed over may stay."""
    return self.out(torch.einsum("nchw,ncij->nhwij", self.a(x), self.b(x)).flatten(1, 2))


@construct(lambda: dict(a=conv(3, 8, 3), w=weight(8, 6), fc=nn.Linear(6, 2)), SMALL, prunable="a w:1")
def matmul_with_a_weight(self, x):
    x = F.relu(self.a(x)).flatten(2).transpose(1, 2)
    return self.fc(F.relu(x @ self.w))


@construct(
    lambda: dict(w1=weight(6, 16), b1=weight(16), w2=weight(16, 3), b2=weight(3)), image(4, 6), prunable="w1:1 b1:0"
)
def addmm_of_bare_weights(self, x):
    return torch.addmm(self.b2, torch.relu(torch.addmm(self.b1, x, self.w1)), self.w2)


@construct(lambda: dict(w=weight(8, 3), c=weight(6, 8), out=conv(6, 2)), SMALL, prunable="w:0 c:0")
def matmul_from_the_left(self, x):
    n, c, h, w = x.shape
    x = torch.relu(torch.matmul(self.w, x.flatten(2)))
    return self.out(torch.matmul(self.c, x).view(n, -1, h, w))


# --- attention --------------------------------------------------------------------------------------------------------


@construct(
    lambda: dict(a=conv(3, 8, 3), theta=conv(8, 4), phi=conv(8, 4), g=conv(8, 6), w=conv(6, 8), out=conv(8, 2)),
    SMALL,
    prunable="a g w",
)
def non_local_block(self, x):
    """What is summed over (theta and phi) may stay."""
    x = F.relu(self.a(x))
    n, _, h, w = x.shape
    theta, phi, g = self.theta(x).flatten(2), self.phi(x).flatten(2), self.g(x).flatten(2)
    y = torch.softmax(theta.transpose(1, 2) @ phi, -1) @ g.transpose(1, 2)
    return self.out(x + self.w(y.transpose(1, 2).reshape(n, -1, h, w)))


def _mlp(i, h):
    return nn.Sequential(nn.Linear(i, h), nn.GELU(), nn.Dropout(0.1), nn.Linear(h, i))


@construct(
    lambda: dict(
        patch=nn.Conv2d(3, 8, 2, 2),
        cls=weight(1, 1, 8),
        position=weight(1, 5, 8),
        norm1=nn.LayerNorm(8),
        qkv=nn.Linear(8, 24),
        project=nn.Linear(8, 8),
        norm2=nn.LayerNorm(8),
        mlp=_mlp(8, 16),
        norm=nn.LayerNorm(8),
        head=nn.Linear(8, 3),
    ),
    SMALL,
    prunable="mlp.0",
    mixes={"norm1": "norm1.weight", "norm2": "norm2.weight", "norm": "norm.weight"},
)
def vision_transformer(self, x):
    """Class token, position embedding, fused qkv by hand with literal heads, scaled_dot_product_attention."""
    x = self.patch(x).flatten(2).transpose(1, 2)
    x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
    n, t, c = x.shape
    q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0)
    x = x + self.project(y.transpose(1, 2).reshape(n, t, c))
    return self.head(self.norm(x + self.mlp(self.norm2(x)))[:, 0])


@construct(
    lambda: dict(
        patch=nn.Conv2d(3, 8, 2, 2),
        position=torch.rand(1, 4, 8),
        norm1=nn.LayerNorm(8),
        norm2=nn.LayerNorm(8),
        mlp=_mlp(8, 16),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        head=nn.Linear(8, 3),
    ),
    SMALL,
    prunable="mlp.0",
    mixes={"norm1": "norm1.weight", "norm2": "norm2.weight"},
)
def multihead_attention(self, x):
    x = self.patch(x).flatten(2).transpose(1, 2) + self.position
    y = self.norm1(x)
    x = x + self.attention(y, y, y, need_weights=False)[0]
    return self.head((x + self.mlp(self.norm2(x))).mean(1))


@construct(
    lambda: dict(
        a=nn.Conv2d(3, 8, 2, 2),
        b=nn.Conv2d(8, 8, 1),
        head=nn.Linear(8, 3),
        layer=nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.1, batch_first=True),
    ),
    SMALL,
    prunable="a layer.linear1",
    mixes={"layer.norm1": "layer.norm1.weight", "layer.norm2": "layer.norm2.weight"},
)
def transformer_encoder_layer(self, x):
    return self.head(self.layer(self.b(F.relu(self.a(x))).flatten(2).transpose(1, 2)).mean(1))


@construct(
    lambda: dict(
        a=conv(3, 8, 3),
        q=nn.Linear(8, 8),
        k=nn.Linear(8, 8),
        v=nn.Linear(8, 12),
        o=nn.Linear(12, 6),
        head=nn.Linear(6, 3),
    ),
    SMALL,
    prunable="a o",
)
def attention_by_hand(self, x):
    """Two heads with the sizes written in; the projections may stay."""
    x = F.relu(self.a(x)).flatten(2).transpose(1, 2)
    q, k, v = (f(x).unflatten(-1, (2, size)).transpose(1, 2) for f, size in ((self.q, 4), (self.k, 4), (self.v, 6)))
    y = (q @ k.transpose(-2, -1) / math.sqrt(4)).softmax(-1) @ v
    return self.head(F.relu(self.o(y.transpose(1, 2).flatten(2))).mean(1))


@construct(
    lambda: dict(
        a=conv(3, 8, 3),
        norm=nn.LayerNorm(8),
        qkv=nn.Linear(8, 24),
        project=nn.Linear(8, 8),
        mlp=_mlp(8, 16),
        out=conv(8, 2),
    ),
    SMALL,
    prunable="mlp.0",
    mixes={"norm": "norm.weight"},
)
def shifted_window_attention(self, x):
    """Swin: windows of 2 x 2 after a roll."""
    x = self.a(x).permute(0, 2, 3, 1)
    n, h, w, c = x.shape
    y = torch.roll(self.norm(x), (-1, -1), (1, 2))
    y = y.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
    q, k, v = self.qkv(y).reshape(-1, 4, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
    y = ((q * (c // 2) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
    y = self.project(y.transpose(1, 2).reshape(-1, 4, c))
    y = y.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
    x = x + torch.roll(y, (1, 1), (1, 2))
    return self.out((x + self.mlp(x)).permute(0, 3, 1, 2))


@construct(
    lambda: dict(
        words=nn.Embedding(11, 8),
        places=nn.Embedding(6, 8),
        mlp=_mlp(8, 16),
        conv=nn.Conv1d(8, 12, 3, padding=1),
        head=nn.Linear(12, 3),
    ),
    tokens(2, 6, below=11),
    prunable="words places mlp.0 conv",
)
def embeddings_added(self, x):
    x = self.words(x) + self.places(torch.arange(x.shape[1]))
    return self.head(F.relu(self.conv((x + self.mlp(x)).transpose(1, 2))).mean(2))


# --- state ------------------------------------------------------------------------------------------------------------


def _backbone():
    return dict(
        backbone=nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 12, 3), nn.ReLU()),
        head=nn.Linear(12, 3),
    )


def _forward(self, x):
    return self.head(self.backbone(x).mean((2, 3)))


@construct(
    _backbone, SMALL, prunable="backbone.0 backbone.3", after=lambda model: model.backbone.requires_grad_(False).eval()
)
def frozen_backbone(self, x):
    return _forward(self, x)


@construct(_backbone, SMALL, prunable="backbone.0 backbone.3")
def backbone_without_gradient(self, x):
    with torch.no_grad():
        x = self.backbone(x)
    return self.head(x.mean((2, 3)))


@construct(_backbone, SMALL, prunable="backbone.0 backbone.3", cast=torch.float32, tolerance=1e-4)
def single_precision(self, x):
    return _forward(self, x)


@construct(_backbone, SMALL, prunable="backbone.0 backbone.3", cast=torch.bfloat16, tolerance=0.05)
def bfloat16(self, x):
    return _forward(self, x)


@construct(_backbone, SMALL, prunable="backbone.0 backbone.3", cast=torch.float16, tolerance=0.01)
def float16(self, x):
    return _forward(self, x)


@construct(_backbone, SMALL, prunable="backbone.0 backbone.3", cast=torch.float32, tolerance=0.05)
def autocast_region(self, x):
    with torch.autocast("cpu", torch.bfloat16):
        x = self.backbone(x)
    return self.head(x.float().mean((2, 3)))


@construct(
    _backbone,
    SMALL.contiguous(memory_format=torch.channels_last),
    prunable="backbone.0 backbone.3",
    after=lambda model: model.to(memory_format=torch.channels_last),
)
def channels_last(self, x):
    return _forward(self, x)


@construct(_backbone, image(1, 3, 5, 7), prunable="backbone.0 backbone.3")
def one_example_that_is_not_square(self, x):
    return _forward(self, x)


@construct(_backbone, image(5, 3, 9, 4), prunable="backbone.0 backbone.3")
def five_examples(self, x):
    return _forward(self, x)


@construct(
    lambda: dict(
        mean=torch.rand(1, 3, 1, 1),
        std=torch.rand(1, 3, 1, 1) + 0.5,
        a=conv(3, 8, 3),
        average=torch.rand(8),
        out=conv(8, 2),
        spread=torch.rand(1, 8, 1, 1) + 0.5,
    ),
    SMALL,
    prunable="a average:0 spread:1",
)
def buffers_that_follow_channels(self, x):
    x = F.relu(self.a((x - self.mean) / self.std))
    return self.out((x - self.average[None, :, None, None]) * self.spread)


@construct(
    lambda: dict(a=conv(3, 8, 3), average=torch.zeros(8), b=conv(8, 8, 3), out=conv(8, 2)), SMALL, prunable="a b"
)
def buffer_updated_while_running(self, x):
    x = F.relu(self.a(x))
    if self.training:
        with torch.no_grad():
            self.average.mul_(0.9).add_(x.mean((0, 2, 3)), alpha=0.1)
    return self.out(F.relu(self.b(x - self.average.view(1, -1, 1, 1))))


def _plain_tensor(model):
    model.scale = torch.linspace(0.5, 1.5, 8, dtype=torch.float64).view(8, 1, 1)


@construct(three, SMALL, prunable="b", after=_plain_tensor, macs=False)
def tensor_that_is_no_buffer(self, x):
    return self.out(F.relu(self.b(F.relu(self.a(x)) * self.scale)))


@construct(three, SMALL, prunable="b")
def tensor_made_in_the_forward(self, x):
    scale = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8], dtype=x.dtype)
    return self.out(F.relu(self.b(F.relu(self.a(x)) * scale[:, None, None])))


@construct(lambda: dict(a=conv(3, 8, 3), unused=conv(3, 8), out=conv(8, 2)), SMALL, prunable="a")
def module_that_is_not_used(self, x):
    return self.out(F.relu(self.a(x)))


@construct(
    two,
    SMALL,
    prunable="a",
    after=lambda model: model.a.register_forward_hook(lambda m, i, o: o * 2),
)
def forward_hook(self, x):
    return self.out(F.relu(self.a(x)))


# --- constants --------------------------------------------------------------------------------------------------------


@construct(
    three,
    SMALL,
    prunable="b",
    frozen={"a": "constant"},
    graph="a b",
)
def literal_groups_of_a_norm(self, x):
    return self.out(F.relu(self.b(F.group_norm(F.relu(self.a(x)), 8))))


@construct(
    three,
    SMALL,
    prunable="b",
    frozen={"a": "constant"},
    graph="a b",
)
def literal_expand(self, x):
    x = F.relu(self.a(x))
    gate = torch.sigmoid(x.mean((2, 3), keepdim=True)).expand(-1, 8, 4, 4)
    return self.out(F.relu(self.b(x * gate)))


@construct(
    three,
    SMALL,
    prunable="b",
    frozen={"a": "constant"},
    graph="a b",
)
def literal_zeros(self, x):
    x = F.relu(self.a(x))
    state = torch.zeros(x.shape[0], 8, 4, 4, dtype=x.dtype)
    for _ in range(2):
        state = torch.tanh(state + x)
    return self.out(F.relu(self.b(state)))


@construct(
    three,
    SMALL,
    prunable="b",
    frozen={"a": ""},
    graph="b",
)
def literal_range_of_channels(self, x):
    x = F.relu(self.a(x))
    return self.out(F.relu(self.b(sum(x[:, i : i + 1] * x for i in range(8)))))


@construct(three, SMALL, prunable="b")
def literal_divisor(self, x):
    """A number of channels that only scales: the same in the smaller network."""
    x = F.relu(self.a(x))
    return self.out(F.relu(self.b(x * (x.sum(1, keepdim=True) / 8))))


@construct(three, SMALL, prunable="b")
def divisor_that_follows(self, x):
    """A number of channels that is computed and scales: the smaller network would divide by another."""
    x = F.relu(self.a(x))
    return self.out(F.relu(self.b(x / math.sqrt(x.shape[1]))))


@construct(
    lambda: dict(a=conv(3, 8, 3), b=nn.ModuleList([conv(1, 2, 3) for _ in range(8)]), out=conv(16, 2)),
    SMALL,
    frozen={"a": ""},
)
def loop_over_channels(self, x):
    parts = F.relu(self.a(x)).split(1, dim=1)
    return self.out(F.relu(torch.cat([layer(part) for layer, part in zip(self.b, parts, strict=False)], 1)))


@construct(
    three,
    SMALL,
    prunable="b",
    frozen={"a": "does not go with fewer"},
    graph="a b",
)
def literal_assertion(self, x):
    x = F.relu(self.a(x))
    assert x.shape[1] == 8, "eight channels"
    return self.out(F.relu(self.b(x)))


@construct(
    three,
    SMALL,
    prunable="b",
    frozen={"a": ""},
)
def branch_on_the_width(self, x):
    """A smaller network would take the other way."""
    x = F.relu(self.a(x))
    x = x * 2 if x.shape[1] >= 8 else x * 3
    return self.out(F.relu(self.b(x)))


# --- what cannot be traced --------------------------------------------------------------------------------------------

REFUSED = r" at \S*constructs_functional\.py:\d+.*(rewrite|ignore|trace)"


@construct(two, SMALL, error=REFUSED)
def branch_on_data(self, x):
    x = self.a(x)
    if x.sum() > 0:
        x = F.relu(x)
    return self.out(x)


@construct(two, SMALL, error=REFUSED)
def loop_on_data(self, x):
    x = self.a(x)
    while float(x.abs().max()) > 1:
        x = x / 2
    return self.out(x)


@construct(two, SMALL, error=REFUSED)
def number_out_of_a_tensor(self, x):
    x = self.a(x)
    return self.out(x[:, :, : int(x.max().item())])


@construct(two, SMALL, error=r"constructs_functional\.py:\d+")
def forward_that_fails(self, x):
    return self.out(torch.cat([self.a(x), x], 1))


@construct(two, SMALL, macs=False)
def array_out_of_a_tensor(self, x):
    """Strict export turns NumPy into tensors."""
    x = self.a(x)
    return self.out(x + torch.from_numpy(x.detach().numpy().mean((2, 3), keepdims=True)))


@construct(two, SMALL, prunable="a", after=lambda model: model(SMALL))
def output_kept_in_an_attribute(self, x):
    """A side effect that export bears; the network has run before, so it holds a tensor with a history."""
    self.last = F.relu(self.a(x))
    return self.out(self.last)


@construct(two, SMALL, prunable="a", after=lambda model: setattr(model, "calls", 0))
def call_counted(self, x):
    """A side effect that does not touch what is computed."""
    self.calls += 1
    return self.out(F.relu(self.a(x)))


@construct(two, SMALL, prunable="a", after=lambda model: setattr(model, "log", []))
def output_kept_in_a_list(self, x):
    """A side effect that strict export bears."""
    x = F.relu(self.a(x))
    self.log.append(x)
    return self.out(x)
