"""Networks as people write them in a script: small, by hand, each with a habit that is common in its field."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


def conv(given, made, side=3, stride=1, norm=True, **more):
    layers = [nn.Conv2d(given, made, side, stride, side // 2, bias=not norm, **more)]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(made)] if norm else []), nn.ReLU(inplace=True))


class PointNet(nn.Module):
    """Points `(batch, 3, n)`; a learned 3 x 3 transform, shared layers, a maximum over the points."""

    def __init__(self):
        super().__init__()
        self.transform = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1))
        self.matrix = nn.Linear(64, 9)
        self.layers = nn.Sequential(
            nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 128, 1), nn.BatchNorm1d(128), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))

    def forward(self, x):
        matrix = self.matrix(self.transform(x).max(dim=2)[0]).view(-1, 3, 3) + torch.eye(3).to(x)
        x = torch.bmm(x.transpose(1, 2), matrix).transpose(1, 2)
        return F.log_softmax(self.head(self.layers(x).max(dim=2)[0]), dim=1)


class DGCNN(nn.Module):
    """Edge convolutions over the nearest neighbours in feature space."""

    def __init__(self, k=4):
        super().__init__()
        self.k = k
        self.first, self.second = conv(6, 32, 1), conv(64, 64, 1)
        self.last = nn.Sequential(nn.Conv1d(96, 128, 1, bias=False), nn.BatchNorm1d(128), nn.LeakyReLU(0.2))
        self.head = nn.Linear(256, 10)

    def edges(self, x):
        batch, channels, points = x.shape
        inner = -2 * x.transpose(2, 1) @ x
        square = (x**2).sum(1, keepdim=True)
        nearest = (-square - inner - square.transpose(2, 1)).topk(self.k, dim=-1)[1]
        start = torch.arange(batch, device=x.device).view(-1, 1, 1) * points
        flat = x.transpose(2, 1).reshape(batch * points, channels)
        near = flat[(nearest + start).view(-1)].view(batch, points, self.k, channels)
        own = x.transpose(2, 1).view(batch, points, 1, channels).repeat(1, 1, self.k, 1)
        return torch.cat((near - own, own), dim=3).permute(0, 3, 1, 2)

    def forward(self, x):
        one = self.first(self.edges(x)).max(dim=-1)[0]
        two = self.second(self.edges(one)).max(dim=-1)[0]
        x = self.last(torch.cat((one, two), 1))
        return self.head(torch.cat((x.amax(2), x.mean(2)), 1))


class M5(nn.Module):
    """Raw audio, 1D convolutions."""

    def __init__(self, width=32):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(1, width, 80, 16), nn.BatchNorm1d(width)
        self.conv2, self.bn2 = nn.Conv1d(width, width, 3), nn.BatchNorm1d(width)
        self.conv3, self.bn3 = nn.Conv1d(width, 2 * width, 3), nn.BatchNorm1d(2 * width)
        self.fc1 = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x))), 4)
        x = F.max_pool1d(F.relu(self.bn2(self.conv2(x))), 4)
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.avg_pool1d(x, x.shape[-1]).permute(0, 2, 1)
        return F.log_softmax(self.fc1(x), dim=2)


class WaveNet(nn.Module):
    """Gated dilated causal convolutions with skip connections."""

    def __init__(self, width=32, layers=4):
        super().__init__()
        self.width = width
        self.start = nn.Conv1d(1, width, 1)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(layers))
        self.outs = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in range(layers))
        self.end = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 16, 1))

    def forward(self, x):
        x, skips = self.start(x), 0
        for i, (gate, out) in enumerate(zip(self.gates, self.outs, strict=True)):
            value, door = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            keep, skip = torch.split(out(torch.tanh(value) * torch.sigmoid(door)), self.width, dim=1)
            x, skips = x + keep, skips + skip
        return self.end(skips)


class TasNet(nn.Module):
    """Separation of two speakers by masks over a learned basis."""

    def __init__(self, basis=64, width=32, speakers=2):
        super().__init__()
        self.speakers, self.basis = speakers, basis
        self.encoder = nn.Conv1d(1, basis, 16, 8, bias=False)
        self.norm, self.narrow = nn.GroupNorm(1, basis), nn.Conv1d(basis, width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, basis, 1), nn.PReLU(), nn.GroupNorm(1, basis),
                nn.Conv1d(basis, basis, 3, padding=2**i, dilation=2**i, groups=basis), nn.PReLU(),
                nn.GroupNorm(1, basis), nn.Conv1d(basis, width, 1),
            )
            for i in range(3)
        )  # fmt: skip
        self.masks = nn.Conv1d(width, speakers * basis, 1)
        self.decoder = nn.ConvTranspose1d(basis, 1, 16, 8, bias=False)

    def forward(self, x):
        code = self.encoder(x)
        y = self.narrow(self.norm(code))
        for block in self.blocks:
            y = y + block(y)
        masks = torch.sigmoid(self.masks(y)).view(x.size(0), self.speakers, self.basis, -1)
        return self.decoder((masks * code.unsqueeze(1)).view(x.size(0) * self.speakers, self.basis, -1)).view(
            x.size(0), self.speakers, -1
        )


class CRNN(nn.Module):
    """Reading of text lines: columns of features go through a recurrent layer."""

    def __init__(self, classes=37):
        super().__init__()
        self.cnn = nn.Sequential(
            conv(1, 32),
            nn.MaxPool2d(2),
            conv(32, 64),
            nn.MaxPool2d(2),
            conv(64, 96),
            nn.MaxPool2d((2, 1)),
            conv(96, 96),
        )
        self.rnn = nn.LSTM(96 * 4, 48, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(96, classes)

    def forward(self, x):
        x = self.cnn(x)
        b, c, h, w = x.size()
        x = x.view(b, c * h, w).permute(0, 2, 1)
        return F.log_softmax(self.fc(self.rnn(x)[0]), dim=2)


class Generator(nn.Module):
    """DCGAN's."""

    def __init__(self, width=32):
        super().__init__()
        layers = []
        for given, made, stride in ((64, 8 * width, 1), (8 * width, 4 * width, 2), (4 * width, 2 * width, 2)):
            layers += [nn.ConvTranspose2d(given, made, 4, stride, int(stride > 1), bias=False), nn.BatchNorm2d(made)]
            layers += [nn.ReLU(True)]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(2 * width, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z):
        return self.main(z)


class Discriminator(nn.Module):
    """With spectral norm."""

    def __init__(self, width=32):
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.main = nn.Sequential(
            norm(nn.Conv2d(3, width, 4, 2, 1)), nn.LeakyReLU(0.2), norm(nn.Conv2d(width, 2 * width, 4, 2, 1)),
            nn.LeakyReLU(0.2), norm(nn.Conv2d(2 * width, 4 * width, 4, 2, 1)), nn.LeakyReLU(0.2),
            norm(nn.Conv2d(4 * width, 1, 4)),
        )  # fmt: skip

    def forward(self, x):
        return self.main(x).flatten()


class Translator(nn.Module):
    """CycleGAN's generator: reflection pads, instance norms, residual blocks."""

    def __init__(self, width=16, blocks=3):
        super().__init__()
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU(True)]
        for k in (1, 2):
            layers += [nn.Conv2d(k * width, 2 * k * width, 3, 2, 1), nn.InstanceNorm2d(2 * k * width), nn.ReLU(True)]
        layers += [Reflected(4 * width) for _ in range(blocks)]
        for k in (2, 1):
            layers += [nn.ConvTranspose2d(2 * k * width, k * width, 3, 2, 1, 1), nn.InstanceNorm2d(k * width)]
            layers += [nn.ReLU(True)]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, x):
        return self.model(x)


class Reflected(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width), nn.ReLU(True),
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width),
        )  # fmt: skip

    def forward(self, x):
        return x + self.block(x)


class EDSR(nn.Module):
    """Super-resolution: residuals scaled by a constant, pixel shuffle, mean of the colours shifted."""

    def __init__(self, width=32, blocks=4):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1))
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(True), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(blocks)
        )
        self.tail = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        x = self.head(x - self.mean)
        res = x
        for block in self.body:
            res = res + block(res) * 0.1
        return self.last(self.tail(x + res)) + self.mean


class DnCNN(nn.Module):
    """Predicts the noise, which is taken from the picture."""

    def __init__(self, width=32, depth=6):
        super().__init__()
        layers = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU(True)]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
        self.dncnn = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x):
        return x - self.dncnn(x)


class SimSiam(nn.Module):
    """Two views in, a loss out in training; features in eval."""

    def __init__(self, dim=64):
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 32), conv(32, 64, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.projector = nn.Sequential(nn.Linear(64, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, dim))
        self.predictor = nn.Sequential(nn.Linear(dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim))

    def forward(self, x):
        features = self.encoder(x)
        if not self.training:
            return features
        z = self.projector(features)
        return -F.cosine_similarity(self.predictor(z), z.detach(), dim=1).mean()


class VAE(nn.Module):
    """Samples in training, takes the mean in eval."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(conv(1, 32, stride=2), conv(32, 64, stride=2), nn.Flatten())
        self.mu, self.logvar = nn.Linear(64 * 64, 16), nn.Linear(64 * 64, 16)
        self.grow = nn.Linear(16, 64 * 64)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, x):
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu) if self.training else mu
        return self.decoder(self.grow(z).view(-1, 64, 8, 8)), mu, logvar


class Hourglass(nn.Module):
    """Recursive, with intermediate supervision of two stacks."""

    def __init__(self, width=32, stacks=2, joints=8):
        super().__init__()
        self.stem = conv(3, width, stride=2)
        self.glasses = nn.ModuleList(Glass(width, 2) for _ in range(stacks))
        self.heads = nn.ModuleList(nn.Conv2d(width, joints, 1) for _ in range(stacks))
        self.back = nn.ModuleList(nn.Conv2d(joints, width, 1) for _ in range(stacks))

    def forward(self, x):
        x, maps = self.stem(x), []
        for glass, head, back in zip(self.glasses, self.heads, self.back, strict=True):
            y = glass(x)
            maps.append(head(y))
            x = x + y + back(maps[-1])
        return torch.stack(maps, 1)


class Glass(nn.Module):
    def __init__(self, width, levels):
        super().__init__()
        self.up, self.down, self.out = conv(width, width), conv(width, width), conv(width, width)
        self.inner = Glass(width, levels - 1) if levels > 1 else conv(width, width)

    def forward(self, x):
        low = self.out(self.inner(self.down(F.max_pool2d(x, 2))))
        return self.up(x) + F.interpolate(low, scale_factor=2)


class CenterNet(nn.Module):
    """Deep layer sums and a dict of heads."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = conv(3, 32, stride=2), conv(32, 64, stride=2), conv(64, 128, stride=2)
        self.lateral, self.up = nn.Conv2d(64, 64, 1), nn.ConvTranspose2d(128, 64, 4, 2, 1)
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, made, 1))
                for name, made in (("hm", 5), ("wh", 2), ("reg", 2))
            }
        )

    def forward(self, x):
        two = self.c2(self.c1(x))
        x = F.relu(self.up(self.c3(two)) + self.lateral(two))
        return {name: head(x) for name, head in self.heads.items()}


class TextCNN(nn.Module):
    """Convolutions of several sizes over words."""

    def __init__(self, words=100, dim=48):
        super().__init__()
        self.embedding = nn.Embedding(words, dim)
        self.convs = nn.ModuleList(nn.Conv2d(1, 32, (k, dim)) for k in (3, 4, 5))
        self.fc = nn.Linear(96, 4)

    def forward(self, x):
        x = self.embedding(x).unsqueeze(1)
        x = [F.relu(conv(x)).squeeze(3) for conv in self.convs]
        return self.fc(torch.cat([F.max_pool1d(i, i.size(2)).squeeze(2) for i in x], 1))


class STN(nn.Module):
    """A spatial transformer before a classifier."""

    def __init__(self):
        super().__init__()
        self.localization = nn.Sequential(nn.Conv2d(1, 16, 7), nn.MaxPool2d(2), nn.ReLU(True), nn.Conv2d(16, 24, 5))
        self.fc_loc = nn.Sequential(nn.Linear(24 * 7 * 7, 32), nn.ReLU(True), nn.Linear(32, 6))
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 48, 5)
        self.fc1, self.fc2 = nn.Linear(48 * 16, 64), nn.Linear(64, 10)

    def forward(self, x):
        theta = self.fc_loc(self.localization(x).view(-1, 24 * 7 * 7)).view(-1, 2, 3)
        x = F.grid_sample(x, F.affine_grid(theta, x.size(), align_corners=False), align_corners=False)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.dropout(F.relu(self.fc1(x.view(-1, 48 * 16))), training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class Correlation(nn.Module):
    """Optical flow from a cost volume, normalised by a tensor that the forward makes of the number of channels."""

    def __init__(self, reach=2):
        super().__init__()
        self.reach = reach
        self.features = nn.Sequential(conv(3, 32, stride=2, norm=False), conv(32, 64, stride=2, norm=False))
        self.estimator = nn.Sequential(conv((2 * reach + 1) ** 2 + 64, 64, norm=False), nn.Conv2d(64, 2, 3, padding=1))

    def forward(self, one, two):
        one, two = self.features(one), self.features(two)
        b, c, h, w = one.shape
        padded, costs = F.pad(two, (self.reach,) * 4), []
        for i in range(2 * self.reach + 1):
            for j in range(2 * self.reach + 1):
                costs.append((one * padded[:, :, i : i + h, j : j + w]).sum(1, keepdim=True))
        volume = torch.cat(costs, 1) / torch.sqrt(torch.tensor(float(c)))
        flow = self.estimator(torch.cat([F.leaky_relu(volume, 0.1), one], 1))
        return F.interpolate(flow, scale_factor=4, mode="bilinear", align_corners=False) * 4.0


class NonLocal(nn.Module):
    """Attention by hand over positions, with a learned scale."""

    def __init__(self, width=64):
        super().__init__()
        self.stem = conv(3, width, stride=2)
        self.theta, self.phi, self.g = (nn.Conv2d(width, width // 2, 1) for _ in range(3))
        self.out, self.gamma = nn.Conv2d(width // 2, width, 1), nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        b, c, h, w = x.shape
        theta = self.theta(x).view(b, c // 2, -1).permute(0, 2, 1)
        phi, g = self.phi(x).view(b, c // 2, -1), self.g(x).view(b, c // 2, -1).permute(0, 2, 1)
        f = F.softmax(torch.matmul(theta, phi) / math.sqrt(c // 2), dim=-1)
        y = torch.matmul(f, g).permute(0, 2, 1).contiguous().view(b, c // 2, h, w)
        return self.head((x + self.gamma * self.out(y)).mean((2, 3)))


class Mixer(nn.Module):
    """Written from the paper's figure, with a transpose in the block."""

    def __init__(self, width=64, depth=3):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 8, 8)
        self.blocks = nn.ModuleList(MixerBlock(width, 16) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class MixerBlock(nn.Module):
    def __init__(self, width, tokens):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 32), nn.GELU(), nn.Linear(32, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class SlowFast(nn.Module):
    """Two rates of frames with lateral connections, on a list of inputs made inside."""

    def __init__(self):
        super().__init__()
        self.slow, self.fast = nn.Conv3d(3, 32, (1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.Conv3d(3, 8, 3, (1, 2, 2), 1)
        self.lateral = nn.Conv3d(8, 16, (5, 1, 1), (4, 1, 1), (2, 0, 0))
        self.slow2, self.fast2 = nn.Conv3d(48, 64, 3, padding=1), nn.Conv3d(8, 16, 3, padding=1)
        self.head = nn.Linear(80, 10)

    def forward(self, x):
        slow, fast = F.relu(self.slow(x[:, :, ::4])), F.relu(self.fast(x))
        slow = torch.cat([slow, self.lateral(fast)], 1)
        slow, fast = F.relu(self.slow2(slow)), F.relu(self.fast2(fast))
        return self.head(torch.cat([p.mean((2, 3, 4)) for p in (slow, fast)], 1))


class PostNorm(nn.Module):
    """A small transformer as in the first paper, on patches of a picture, with a class token."""

    def __init__(self, width=64):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 8, 8)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 17, width) / 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 4, 128, batch_first=True), 2)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.encoder(x)[:, 0])


class Unpool(nn.Module):
    """SegNet's way: places of maxima are kept for the way up."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = conv(3, 32), conv(32, 64)
        self.up2, self.up1 = conv(64, 32), conv(32, 32)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, x):
        x, one = self.pool(self.down1(x))
        x, two = self.pool(self.down2(x))
        x = self.up2(self.unpool(x, two))
        return self.head(self.up1(self.unpool(x, one)))


class ArcFace(nn.Module):
    """A face network whose head normalises its weight and features."""

    def __init__(self, classes=20):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.PReLU(32), nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64),
            nn.PReLU(64), nn.Flatten(), nn.Linear(64 * 64, 64), nn.BatchNorm1d(64),
        )  # fmt: skip
        self.weight = nn.Parameter(torch.randn(classes, 64))

    def forward(self, x):
        return F.linear(F.normalize(self.backbone(x)), F.normalize(self.weight)) * 30


class Fourier(nn.Module):
    """A coordinate network."""

    def __init__(self, width=64):
        super().__init__()
        self.register_buffer("bands", 2.0 ** torch.arange(6))
        self.one = nn.Sequential(nn.Linear(39, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.two = nn.Sequential(nn.Linear(width + 39, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        angles = (x[..., None] * self.bands).flatten(-2)
        x = torch.cat([x, angles.sin(), angles.cos()], -1)
        return self.two(torch.cat([self.one(x), x], -1))


class ConvLSTM(nn.Module):
    """Frames in, frames out; first states of zeros, a gate that sees the cell."""

    def __init__(self, width=16):
        super().__init__()
        self.width = width
        self.given, self.state = nn.Conv2d(1, 4 * width, 3, padding=1), nn.Conv2d(width, 4 * width, 3, padding=1)
        self.peephole, self.out = nn.Parameter(torch.zeros(1, width, 1, 1)), nn.Conv2d(width, 1, 1)

    def forward(self, x):
        batch, frames, _, rows, columns = x.shape
        h = torch.zeros(batch, self.width, rows, columns).to(x)
        c, outs = torch.zeros(batch, self.width, rows, columns).to(x), []
        for t in range(frames):
            i, f, g, o = torch.split(self.given(x[:, t]) + self.state(h), self.width, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i + self.peephole * c) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outs.append(self.out(h))
        return torch.stack(outs, 1)


class MaskedAutoencoder(nn.Module):
    """Patches are shuffled by noise that is an input; a quarter is encoded, all are decoded."""

    def __init__(self, width=64, patch=8):
        super().__init__()
        self.embed, self.position = nn.Linear(3 * patch**2, width), nn.Parameter(torch.randn(1, 16, width) / 8)
        layer = nn.TransformerEncoderLayer(width, 4, 128, batch_first=True, norm_first=True)
        self.encoder, self.narrow = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, 32)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.randn(1, 16, 32) / 8)
        self.decoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.out, self.patch = nn.Linear(32, 3 * patch**2), patch

    def forward(self, x, noise):
        b, c, h, w = x.shape
        p = self.patch
        x = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, p * p * c)
        x = self.embed(x) + self.position
        n, order = x.shape[1], noise.argsort(1)
        x = torch.gather(x, 1, order[:, : n // 4].unsqueeze(-1).repeat(1, 1, x.shape[2]))
        x = self.narrow(self.encoder(x))
        x = torch.cat([x, self.token.repeat(b, n - x.shape[1], 1)], 1)
        x = torch.gather(x, 1, order.argsort(1).unsqueeze(-1).repeat(1, 1, x.shape[2]))
        return self.out(self.decoder(x + self.places))


class Splines(nn.Module):
    """A layer of a Kolmogorov-Arnold network, as efficient-kan has it: splines over a table of knots."""

    def __init__(self, given, made, knots=5, order=3):
        super().__init__()
        self.made, self.order = made, order
        grid = (torch.arange(-order, knots + order + 1) * (2 / knots) - 1).expand(given, -1).contiguous()
        self.register_buffer("grid", grid)
        self.base, self.scale = nn.Parameter(torch.randn(made, given) / 5), nn.Parameter(torch.randn(made, given))
        self.splines = nn.Parameter(torch.randn(made, given, knots + order) / 10)

    def bases(self, x):
        g, x = self.grid, x.unsqueeze(-1)
        found = ((x >= g[:, :-1]) & (x < g[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x - g[:, : -(k + 1)]) / (g[:, k:-1] - g[:, : -(k + 1)])
            right = (g[:, k + 1 :] - x) / (g[:, k + 1 :] - g[:, 1:-k])
            found = left * found[:, :, :-1] + right * found[:, :, 1:]
        return found

    def forward(self, x):
        weight = (self.splines * self.scale.unsqueeze(-1)).view(self.made, -1)
        return F.linear(F.silu(x), self.base) + F.linear(self.bases(x).view(len(x), -1), weight)


class GraphNet(nn.Module):
    """Messages along the edges of one graph, added up at its nodes, in rounds."""

    def __init__(self, nodes=8, width=32):
        super().__init__()
        self.register_buffer("source", torch.arange(3 * nodes) % nodes)
        self.register_buffer("target", (torch.arange(3 * nodes) * 5 + 1) % nodes)
        self.embed, self.update = nn.Linear(6, width), nn.GRUCell(width, width)
        self.message = nn.Sequential(nn.Linear(2 * width, 48), nn.ReLU(), nn.Linear(48, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        h = F.relu(self.embed(x))
        b, n, c = h.shape
        for _ in range(2):
            message = self.message(torch.cat([h[:, self.source], h[:, self.target]], -1))
            total = torch.zeros(b, n, c, device=h.device, dtype=h.dtype)
            total = total.scatter_add_(1, self.target.view(1, -1, 1).expand(b, -1, c), message)
            h = self.update(total.reshape(-1, c), h.reshape(-1, c)).view(b, n, c)
        return self.head(h.sum(1))


def _shuffled(batch, side, generator):
    return torch.rand((batch, 3, *side), generator=generator) * 2 - 1, torch.rand((batch, 16), generator=generator)


def _pair(batch, side, generator):
    return tuple(torch.rand((batch, 3, *side), generator=generator) * 2 - 1 for _ in range(2))


def _words(batch, side, generator):
    return torch.randint(0, 100, (batch, *side), generator=generator)


SCRIPTS = {  # name: (make, shape, inputs)
    "PointNet": (PointNet, (3, 128), None),
    "DGCNN": (DGCNN, (3, 64), None),
    "M5": (M5, (1, 4000), None),
    "WaveNet": (WaveNet, (1, 400), None),
    "Conv-TasNet": (TasNet, (1, 800), None),
    "CRNN": (CRNN, (1, 32, 64), None),
    "DCGAN, generator": (Generator, (64, 1, 1), None),
    "DCGAN, discriminator with spectral norm": (Discriminator, (3, 32, 32), None),
    "CycleGAN, generator": (Translator, (3, 32, 32), None),
    "EDSR": (EDSR, (3, 24, 24), None),
    "DnCNN": (DnCNN, (1, 32, 32), None),
    "SimSiam": (SimSiam, (3, 32, 32), None),
    "VAE": (VAE, (1, 32, 32), None),
    "Hourglass": (Hourglass, (3, 32, 32), None),
    "CenterNet": (CenterNet, (3, 64, 64), None),
    "TextCNN": (TextCNN, (1, 20), _words),
    "spatial transformer": (STN, (1, 28, 28), None),
    "flow by correlation": (Correlation, (3, 32, 32), _pair),
    "non-local attention": (NonLocal, (3, 32, 32), None),
    "MLP-Mixer": (Mixer, (3, 32, 32), None),
    "SlowFast": (SlowFast, (3, 8, 32, 32), None),
    "post-norm transformer": (PostNorm, (3, 32, 32), None),
    "SegNet": (Unpool, (3, 32, 32), None),
    "ArcFace": (ArcFace, (3, 32, 32), None),
    "coordinate network": (Fourier, (3,), None),
    "convolutional LSTM": (ConvLSTM, (4, 1, 16, 16), None),
    "masked autoencoder": (MaskedAutoencoder, (3, 32, 32), _shuffled),
    "Kolmogorov-Arnold network": (
        lambda: nn.Sequential(Splines(8, 24), Splines(24, 16), Splines(16, 3)),
        (8,),
        None,
    ),
    "graph network": (GraphNet, (8, 6), None),
}
