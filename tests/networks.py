"""Tiny networks that the tests share."""

import torch
import torch.nn.functional as F
from torch import nn


class Plain(nn.Module):
    """conv-bn-relu twice, pooled, linear."""

    def __init__(self, c=8, classes=5):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), nn.BatchNorm2d(2 * c)
        self.fc = nn.Linear(2 * c, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, i, o, stride=1, conv=nn.Conv2d, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.bn1 = conv(i, o, 3, stride, 1, bias=False), norm(o)
        self.conv2, self.bn2 = conv(o, o, 3, 1, 1, bias=False), norm(o)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(conv(i, o, 1, stride, bias=False), norm(o)) if stride != 1 or i != o else None

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.down is None else self.down(x)))


class Residual(nn.Module):
    """A stem, two stages of basic blocks (the second strided), pooled, linear."""

    def __init__(self, c=8, blocks=3, classes=5, conv=nn.Conv2d, norm=nn.BatchNorm2d, pool=nn.AdaptiveAvgPool2d):
        super().__init__()
        self.stem, self.bn = conv(3, c, 3, 1, 1, bias=False), norm(c)
        self.layer1 = nn.Sequential(*[Block(c, c, 1, conv, norm) for _ in range(blocks)])
        self.layer2 = nn.Sequential(
            Block(c, 2 * c, 2, conv, norm), *[Block(2 * c, 2 * c, 1, conv, norm) for _ in range(blocks - 1)]
        )
        self.pool, self.head = pool(1), nn.Linear(2 * c, classes)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        return self.head(torch.flatten(self.pool(self.layer2(self.layer1(x))), 1))


class Residual3d(Residual):
    def __init__(self, c=4):
        super().__init__(c, 2, 3, nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d)


class Residual1d(Residual):
    def __init__(self, c=4):
        super().__init__(c, 2, 3, nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d)


class Inverted(nn.Module):
    """MobileNetV2's block with squeeze-excite: expand, depthwise, gate, project, add."""

    def __init__(self, c=8, t=2):
        super().__init__()
        h = c * t
        self.expand, self.bn1 = nn.Conv2d(c, h, 1, bias=False), nn.BatchNorm2d(h)
        self.depthwise, self.bn2 = nn.Conv2d(h, h, 3, 1, 1, groups=h, bias=False), nn.BatchNorm2d(h)
        self.squeeze, self.excite = nn.Conv2d(h, 4, 1), nn.Conv2d(4, h, 1)
        self.project, self.bn3 = nn.Conv2d(h, c, 1, bias=False), nn.BatchNorm2d(c)

    def forward(self, x):
        y = F.hardswish(self.bn1(self.expand(x)))
        y = F.relu6(self.bn2(self.depthwise(y)))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.bn3(self.project(y))


class Mobile(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3, 2, 1)
        self.features = nn.Sequential(Inverted(c), Inverted(c))
        self.head = nn.Linear(c, 4)

    def forward(self, x):
        return self.head(self.features(F.relu(self.stem(x))).mean([2, 3]))


class Grouped(nn.Module):
    """A free grouped convolution (whole groups go), and one after a channel shuffle (positions go)."""

    def __init__(self, c=16, g=4):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, c, 1), nn.Conv2d(c, 2 * c, 3, padding=1, groups=g), nn.Conv2d(2 * c, 6, 1)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class Shuffled(nn.Module):
    def __init__(self, c=16, g=2):
        super().__init__()
        self.g = g
        self.a, self.b = nn.Conv2d(3, c, 1), nn.Conv2d(c, c, 1, groups=g)
        self.d = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.e, self.f = nn.Conv2d(c, c, 1, groups=g), nn.Conv2d(c, 4, 1)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x))))
        n, c, h, w = x.shape
        x = x.view(n, self.g, c // self.g, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.f(F.relu(self.e(F.relu(self.d(x)))))


class Dense(nn.Module):
    """Concat, and a norm over the concat, before each convolution (DenseNet's order); flatten into a linear layer."""

    def __init__(self, c=4):
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(c), nn.Conv2d(c, 6, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(c + 6), nn.Conv2d(c + 6, 6, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(c + 12)
        self.fc = nn.Linear((c + 12) * 9, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.bn2(x)))], 1)
        x = F.adaptive_max_pool2d(F.relu(self.bn3(x)), 3)
        return self.fc(x.view(x.shape[0], -1))


class UNet(nn.Module):
    """Two levels with a transposed convolution and a skip; any number of spatial axes."""

    def __init__(self, axes=2, c=4):
        super().__init__()
        conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][axes - 1]
        up = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d][axes - 1]
        self.pool = [F.max_pool1d, F.max_pool2d, F.max_pool3d][axes - 1]
        self.enc, self.mid = conv(1, c, 3, padding=1), conv(c, 2 * c, 3, padding=1)
        self.up, self.dec = up(2 * c, c, 2, stride=2), conv(2 * c, c, 3, padding=1)
        self.norm, self.out = nn.InstanceNorm2d(c) if axes == 2 else nn.Identity(), conv(c, 2, 1)

    def forward(self, x):
        skip = F.relu(self.enc(x))
        y = self.up(F.relu(self.mid(self.pool(skip, 2))))
        return self.out(F.relu(self.norm(self.dec(torch.cat([skip, y], 1)))))


class Chunked(nn.Module):
    """ShuffleNet v2's split: half goes on, half is convolved, then both are mixed."""

    def __init__(self, c=16):
        super().__init__()
        self.stem, self.conv, self.last = nn.Conv2d(3, c, 1), nn.Conv2d(c // 2, c // 2, 1), nn.Conv2d(c, 3, 1)

    def forward(self, x):
        a, b = self.stem(x).chunk(2, 1)
        return self.last(torch.cat([a, F.relu(self.conv(b))], 1))


class Shared(nn.Module):
    """One convolution used twice, a tied linear weight, and a layer scale."""

    def __init__(self, c=8):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.gamma = nn.Parameter(torch.rand(c, 1, 1) + 0.5)
        self.fc1, self.fc2, self.out = nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, 3)
        self.fc2.weight = self.fc1.weight

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.body(F.relu(self.body(x)))) * self.gamma
        return self.out(F.relu(self.fc2(F.relu(self.fc1(x.mean((2, 3)))))))


class Literal(nn.Module):
    """A forward that writes a channel number as a constant: the convolution before it cannot be cut."""

    def __init__(self, c=8):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, c, 1), nn.Conv2d(c, c, 1), nn.Conv2d(c, 2, 1)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = x.view(-1, 8, x.shape[2] * x.shape[3]).view(-1, 8, x.shape[2], x.shape[3])
        return self.c(F.relu(self.b(x)))


class Sliced(nn.Module):
    """A literal slice clamps silently when its input is narrower."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x))[:, :8])))


class Gate(nn.Module):
    """A one-channel spatial gate, a maxout by reshape, an attention over the mean of channels."""

    def __init__(self, c=8):
        super().__init__()
        self.a, self.gate, self.b = nn.Conv2d(3, 2 * c, 3, padding=1), nn.Conv2d(c, 1, 1), nn.Conv2d(c, c, 1)
        self.prelu, self.c = nn.PReLU(c), nn.Conv2d(c, 3, 1)

    def forward(self, x):
        x = self.a(x)
        n, c, h, w = x.shape
        x = x.reshape(n, c // 2, 2, h, w).amax(2)
        x = x * torch.sigmoid(self.gate(x))
        return self.c(self.prelu(self.b(x)))


class Norms(nn.Module):
    """Group norm in whole groups, a layer norm on the last axis after a permute."""

    def __init__(self, c=16, g=4):
        super().__init__()
        self.a, self.gn, self.b = nn.Conv2d(3, c, 1), nn.GroupNorm(g, c), nn.Conv2d(c, c, 1)
        self.ln, self.fc = nn.LayerNorm(c), nn.Linear(c, 4)

    def forward(self, x):
        x = self.b(F.relu(self.gn(self.a(x))))
        return self.fc(self.ln(x.permute(0, 2, 3, 1)))


class Branchy(nn.Module):
    """Two inputs, a dictionary of outputs, a block whose input is also used later (a skip over a removable block)."""

    def __init__(self, c=8):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(1, c, 3, padding=1)
        self.blocks = nn.Sequential(Block(c, c), Block(c, c), Block(c, c))
        self.out, self.aux = nn.Conv2d(2 * c, 3, 1), nn.Conv2d(c, 2, 1)

    def forward(self, image, depth):
        x = F.relu(self.a(image) + self.b(depth))
        y = self.blocks(x)
        return {"out": self.out(torch.cat([x, y], 1)), "aux": (self.aux(y),)}


def image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


NETWORKS = {
    "plain": (Plain, lambda: image(1, 3, 12, 12)),
    "residual": (Residual, lambda: image(1, 3, 12, 12)),
    "residual1d": (Residual1d, lambda: image(1, 3, 16)),
    "residual3d": (Residual3d, lambda: image(1, 3, 6, 6, 6)),
    "mobile": (Mobile, lambda: image(1, 3, 12, 12)),
    "grouped": (Grouped, lambda: image(1, 3, 8, 8)),
    "shuffled": (Shuffled, lambda: image(1, 3, 8, 8)),
    "dense": (Dense, lambda: image(1, 3, 9, 9)),
    "unet1d": (lambda: UNet(1), lambda: image(1, 1, 8)),
    "unet2d": (lambda: UNet(2), lambda: image(1, 1, 8, 8)),
    "unet3d": (lambda: UNet(3), lambda: image(1, 1, 4, 4, 4)),
    "chunked": (Chunked, lambda: image(1, 3, 6, 6)),
    "shared": (Shared, lambda: image(1, 3, 6, 6)),
    "literal": (Literal, lambda: image(1, 3, 6, 6)),
    "sliced": (Sliced, lambda: image(1, 3, 6, 6)),
    "gate": (Gate, lambda: image(1, 3, 6, 6)),
    "branchy": (Branchy, lambda: {"image": image(1, 3, 6, 6), "depth": image(1, 1, 6, 6)}),
}


def network(name):
    """A network of the list with random weights and statistics (seeded, float64, eval), and its example."""
    make, example = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.5, 0.5)
    example = example()
    if isinstance(example, dict):
        return model.double().eval(), {k: v.double() for k, v in example.items()}
    return model.double().eval(), example.double()
