"""Wiring: how layers are joined, shared, fed and read."""

import torch
import torch.nn.functional as F
from constructs_base import Construct, image, tokens, writer
from torch import nn
from torch.utils.checkpoint import checkpoint

WIRING: dict[str, Construct] = {}
construct = writer(WIRING)


def conv(i, o, k=3, **how):
    return nn.Conv2d(i, o, k, padding=k // 2, **how)


@construct(
    lambda: dict(
        a=conv(3, 8),
        b=conv(8, 12, stride=2),
        c=conv(12, 12),
        d=nn.Conv2d(8, 12, 1, stride=2),
        bn=nn.BatchNorm2d(12),
        head=nn.Linear(12, 5),
    ),
    image(2, 3, 8, 8),
    prunable="a b c d",
)
def residual_with_stride_and_projection(self, x):
    x = F.relu(self.a(x))
    y = self.bn(self.c(F.relu(self.b(x))))
    return self.head(F.relu(y + self.d(x)).mean((2, 3)))


@construct(
    lambda: dict(a=conv(3, 8), b=conv(8, 16, stride=2), c=conv(16, 16), head=nn.Linear(16, 5)),
    image(2, 3, 8, 8),
    prunable="a b",
    partly="c",
    graph="a b c",
)
def option_a_literal_padding(self, x):
    x = F.relu(self.a(x))
    y = self.c(F.relu(self.b(x)))
    shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0)
    return self.head(F.relu(y + shortcut).mean((2, 3)))


@construct(
    lambda: dict(a=conv(3, 8), b=conv(8, 16, stride=2), c=conv(16, 16), head=nn.Linear(16, 5)),
    image(2, 3, 8, 8),
    prunable="b",
    partly="a c",
)
def option_a_computed_padding(self, x):
    x = F.relu(self.a(x))
    y = self.c(F.relu(self.b(x)))
    extra = y.shape[1] - x.shape[1]
    shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra - extra // 2))
    return self.head(F.relu(y + shortcut).mean((2, 3)))


@construct(
    lambda: dict(a=conv(3, 8), b=conv(8, 16, stride=2), c=conv(16, 16), head=nn.Linear(16, 5)),
    image(2, 3, 8, 8),
    prunable="a b c",
)
def option_a_concatenated_zeros(self, x):
    x = F.relu(self.a(x))
    y = self.c(F.relu(self.b(x)))
    shortcut = F.avg_pool2d(x, 2)
    shortcut = torch.cat((shortcut, torch.zeros_like(shortcut)), 1)
    return self.head(F.relu(y + shortcut).mean((2, 3)))


@construct(
    lambda: dict(
        a=conv(3, 8),
        bn1=nn.BatchNorm2d(8),
        b=conv(8, 12),
        bn2=nn.BatchNorm2d(12),
        c=conv(12, 8),
        bn3=nn.BatchNorm2d(8),
        head=nn.Linear(8, 5),
    ),
    image(2, 3, 8, 8),
    prunable="a b c",
)
def pre_activation(self, x):
    x = self.a(x)
    x = x + self.c(F.relu(self.bn2(self.b(F.relu(self.bn1(x))))))
    return self.head(F.relu(self.bn3(x)).mean((2, 3)))


@construct(
    lambda: dict(a=conv(3, 8), b=conv(8, 6, 1), c=conv(8, 10), d=conv(8, 4, 5), e=conv(8, 8, 1), last=conv(28, 3)),
    image(2, 3, 8, 8),
    prunable="a b c d e",
)
def concat_of_four(self, x):
    x = F.relu(self.a(x))
    branches = [self.b(x), self.c(x), self.d(x), self.e(F.max_pool2d(x, 3, 1, 1))]
    return self.last(F.relu(torch.cat(branches, 1)))


@construct(
    lambda: dict(
        stem=conv(3, 8),
        norms=nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(4)),
        convs=nn.ModuleList(conv(8 + 6 * i, 6) for i in range(3)),
        head=nn.Linear(26, 5),
    ),
    image(2, 3, 6, 6),
    prunable="stem convs.0 convs.1 convs.2",
)
def norm_over_concat(self, x):
    features = [self.stem(x)]
    for norm, layer in zip(self.norms[:3], self.convs, strict=True):
        features.append(layer(F.relu(norm(torch.cat(features, 1)))))
    return self.head(F.relu(self.norms[3](torch.cat(features, 1))).mean((2, 3)))


def _unet(axes, depthwise):
    convolution = (nn.Conv2d, nn.Conv3d)[axes - 2]
    up = (nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 2]
    norm = (nn.BatchNorm2d, nn.InstanceNorm3d)[axes - 2]

    def parts():
        groups = 8 if depthwise else 1
        return dict(
            pool=(nn.MaxPool2d, nn.AvgPool3d)[axes - 2](2),
            down1=convolution(1, 6, 3, padding=1), down2=convolution(6, 8, 3, padding=1),
            mid=convolution(8, 8, 3, padding=1),
            up2=up(8, 8, 2, stride=2, groups=groups), join2=convolution(16, 6, 3, padding=1), norm=norm(6),
            up1=up(6, 6, 2, stride=2, groups=6 if depthwise else 1, bias=not depthwise),
            join1=convolution(12, 6, 3, padding=1), out=convolution(6, 2, 1),
        )  # fmt: skip

    return parts


def _unet_forward(self, x):
    first = F.relu(self.down1(x))
    second = F.relu(self.down2(self.pool(first)))
    y = self.up2(F.relu(self.mid(self.pool(second))))
    y = F.relu(self.norm(self.join2(torch.cat([second, y], 1))))
    return self.out(F.relu(self.join1(torch.cat([first, self.up1(y)], 1))))


@construct(_unet(2, False), image(2, 1, 8, 8), prunable="down1 down2 mid up2 join2 up1 join1")
def unet_2d(self, x):
    return _unet_forward(self, x)


@construct(_unet(2, True), image(2, 1, 8, 8), prunable="down1 down2 mid up2 join2 join1")
def unet_2d_depthwise(self, x):
    return _unet_forward(self, x)


@construct(_unet(3, False), image(2, 1, 4, 4, 4), prunable="down1 down2 mid up2 join2 up1 join1")
def unet_3d(self, x):
    return _unet_forward(self, x)


@construct(_unet(3, True), image(2, 1, 4, 4, 4), prunable="down1 down2 mid up2 join2 join1")
def unet_3d_depthwise(self, x):
    return _unet_forward(self, x)


@construct(
    lambda: dict(a=conv(3, 8), body=nn.Sequential(conv(8, 8), nn.BatchNorm2d(8), nn.ReLU()), out=conv(8, 3)),
    image(2, 3, 6, 6),
    prunable="a body.0",
)
def module_used_several_times(self, x):
    x = self.a(x)
    for _ in range(3):
        x = self.body(x)
    return self.out(x)


@construct(
    lambda: dict(
        a=conv(3, 8),
        b=conv(8, 8, stride=2),
        c=conv(8, 12, stride=2),
        lateral=nn.ModuleList([conv(8, 8, 1), conv(8, 8, 1), conv(12, 8, 1)]),
        head=nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 4)),
    ),
    image(2, 3, 8, 8),
    prunable="a b c lateral.0 lateral.1 lateral.2 head.0",
)
def head_shared_by_levels(self, x):
    a = F.relu(self.a(x))
    b = F.relu(self.b(a))
    c = F.relu(self.c(b))
    levels = [self.lateral[2](c)]
    for lateral, feature in ((self.lateral[1], b), (self.lateral[0], a)):
        levels.append(lateral(feature) + F.interpolate(levels[-1], scale_factor=2.0, mode="nearest"))
    return [self.head(level) for level in levels]


def _tie(model):
    model.out.weight = model.embed.weight


@construct(
    lambda: dict(
        embed=nn.Embedding(11, 8), conv=nn.Conv1d(8, 12, 3, padding=1), fc=nn.Linear(12, 8), out=nn.Linear(8, 11)
    ),
    tokens(2, 6, below=11),
    prunable="embed conv fc",
    after=_tie,
)
def tied_embedding_and_linear(self, x):
    x = F.relu(self.conv(self.embed(x).transpose(1, 2))).transpose(1, 2)
    return self.out(self.fc(x))


@construct(
    lambda: dict(image=conv(3, 8), depth=conv(1, 8), fuse=conv(8, 6), fc=nn.Linear(4, 6), out=conv(6, 2)),
    (image(2, 3, 6, 6), image(2, 1, 6, 6, seed=1), image(2, 4, seed=2)),
    prunable="image depth fuse fc",
)
def three_inputs(self, x, y, z):
    x = self.fuse(F.relu(self.image(x) + self.depth(y)))
    return self.out(x + self.fc(z)[:, :, None, None])


@construct(
    lambda: dict(a=conv(3, 8), b=conv(1, 8), out=conv(16, 2)),
    {"picture": image(2, 3, 6, 6), "mask": image(2, 1, 6, 6, seed=1)},
    prunable="a b",
)
def inputs_by_name(self, picture, mask):
    return self.out(torch.cat([self.a(picture), self.b(mask)], dim=1))


@construct(lambda: dict(a=conv(3, 8), b=conv(8, 8), x=conv(8, 2), y=nn.Linear(8, 3)), image(2, 3, 6, 6), prunable="a b")
def outputs_in_a_dict(self, x):
    x = F.relu(self.a(x))
    y = F.relu(self.b(x))
    return {"map": self.x(x), "scores": self.y(y.mean((2, 3)))}


@construct(lambda: dict(a=conv(3, 8), b=conv(8, 6), x=conv(8, 2), y=conv(6, 3)), image(2, 3, 6, 6), prunable="a b")
def outputs_in_a_tuple(self, x):
    x = F.relu(self.a(x))
    return self.x(x), self.y(F.relu(self.b(x)))


@construct(
    lambda: dict(a=conv(3, 8), b=conv(8, 6), x=conv(8, 2), y=conv(6, 3)),
    image(2, 3, 6, 6),
    prunable="a",
    frozen={"b": "output"},
)
def outputs_nested(self, x):
    x = F.relu(self.a(x))
    y = F.relu(self.b(x))
    return {"main": (self.x(x), [self.y(y)]), "features": {"last": y}, "nothing": None}


@construct(
    lambda: dict(
        a=conv(3, 8), block=nn.Sequential(conv(8, 12), nn.BatchNorm2d(12), nn.ReLU(), conv(12, 8)), out=conv(8, 2)
    ),
    image(2, 3, 6, 6),
    prunable="a block.0 block.3",
)
def checkpoint_reentrant(self, x):
    x = self.a(x)
    return self.out(x + checkpoint(self.block, x, use_reentrant=True))


@construct(
    lambda: dict(
        a=conv(3, 8), block=nn.Sequential(conv(8, 12), nn.BatchNorm2d(12), nn.ReLU(), conv(12, 8)), out=conv(8, 2)
    ),
    image(2, 3, 6, 6),
    prunable="a block.0 block.3",
)
def checkpoint_not_reentrant(self, x):
    x = self.a(x)
    return self.out(x + checkpoint(self.block, x, use_reentrant=False))


@construct(
    lambda: dict(layers=nn.ModuleList([conv(3, 8), conv(8, 12), conv(12, 8)]), out=conv(8, 2)),
    image(2, 3, 6, 6),
    prunable="layers.0 layers.1 layers.2",
)
def modules_in_a_list(self, x):
    for layer in self.layers:
        x = F.relu(layer(x))
    return self.out(x)


@construct(
    lambda: dict(
        stages=nn.ModuleDict({"low": conv(3, 8), "high": conv(8, 12)}),
        acts=nn.ModuleDict({"low": nn.ReLU(), "high": nn.SiLU()}),
        out=conv(12, 2),
    ),
    image(2, 3, 6, 6),
    prunable="stages.low stages.high",
)
def modules_in_a_dict(self, x):
    for name, stage in self.stages.items():
        x = self.acts[name](stage(x))
    return self.out(x)


def _list_modules(model):
    model.order = [(model.b, model.c), (model.c, model.b)]
    model.by_name = {"first": model.a}


@construct(
    lambda: dict(a=conv(3, 8), b=conv(8, 8), c=conv(8, 8), out=conv(8, 2)),
    image(2, 3, 6, 6),
    prunable="a b c",
    after=_list_modules,
)
def modules_in_plain_containers(self, x):
    x = self.by_name["first"](x)
    for first, second in self.order:
        x = second(F.relu(first(x)))
    return self.out(x)


@construct(lambda: dict(a=conv(3, 8), b=conv(8, 8), c=conv(8, 8), out=conv(24, 2)), image(2, 3, 6, 6), prunable="a b c")
def same_value_concatenated_twice(self, x):
    x = F.relu(self.a(x))
    y = F.relu(self.b(x))
    return self.out(torch.cat([x, y, x + self.c(y)], 1))


@construct(
    lambda: dict(w=nn.ParameterList([nn.Parameter(torch.rand(8, 3, 1, 1)), nn.Parameter(torch.rand(4, 8, 1, 1))])),
    image(2, 3, 6, 6),
    prunable="w.0:0",
)
def parameters_in_a_list(self, x):
    return F.conv2d(F.relu(F.conv2d(x, self.w[0])), self.w[1])
