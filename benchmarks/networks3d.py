"""The networks that RANP was measured on: a 3D U-Net, MobileNetV2 in 3D, I3D and PSMNet.

Written from their papers' definitions, with the widths, sides and classes of Xu 2020 (arXiv 2010.02488); counted by
`conventions.py` they give the costs of its full networks. All but `psmnet` take volumes or clips.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --- 3D U-Net ---------------------------------------------------------------------------------------------------------


class UNet3d(nn.Module):
    """A U-Net of four levels (Cicek 2016, arXiv 1606.06650) for volumes of any side of at least 8.

    Two 3x3x3 convolutions with batch norm a level; pooling halves the side, nearest neighbours double it, and a level's
    first maps are joined to what comes from below.
    """

    def __init__(self, channels: int, classes: int, *, base: int = 64, softmax: bool = False) -> None:
        """`base` channels on the first level, twice as many on each that follows."""
        super().__init__()
        widths = [base, 2 * base, 4 * base, 8 * base]
        inputs = [channels, *widths[:-1]]
        self.down = nn.ModuleList(
            _double(before, max(before, width // 2), width) for before, width in zip(inputs, widths, strict=True)
        )
        self.up = nn.ModuleList(
            _double(width + below, width, width) for width, below in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.pool = nn.MaxPool3d(2)
        self.head = nn.Conv3d(base, classes, 1)
        self.softmax = nn.Softmax(1) if softmax else None

    def forward(self, x: Tensor) -> Tensor:
        """`(n, classes, d, h, w)` scores of every voxel, or probabilities with `softmax`."""
        skips = []
        for number, level in enumerate(self.down):
            x = level(x if number == 0 else self.pool(x))
            skips.append(x)
        for level, skip in zip(self.up, skips[-2::-1], strict=True):
            x = level(torch.cat([skip, F.interpolate(x, size=skip.shape[2:], mode="nearest")], 1))
        x = self.head(x)
        if self.softmax is not None:
            x = self.softmax(x)
        return x


def unet3d(channels: int = 1, classes: int = 50, *, base: int = 64, softmax: bool = False) -> UNet3d:
    """For ShapeNet's parts, 64^3 (with the softmax); for BraTS, 128^3: 4 channels, 5 classes, base 32."""
    return UNet3d(channels, classes, base=base, softmax=softmax)


def _double(before: int, middle: int, after: int) -> nn.Sequential:
    return nn.Sequential(*_unit3d(before, middle), *_unit3d(middle, after))


def _unit3d(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv3d(before, after, 3, padding=1, bias=False), nn.BatchNorm3d(after), nn.ReLU(inplace=True)]


# --- MobileNetV2 in 3D ------------------------------------------------------------------------------------------------


class Inverted3d(nn.Module):
    """MobileNetV2's block: widen, convolve each channel by itself, narrow, and add where the shape stays."""

    def __init__(self, before: int, after: int, stride: Sequence[int], widen: int) -> None:
        """A block whose middle is `widen` times as wide as its input."""
        super().__init__()
        middle = before * widen
        layers = [] if widen == 1 else _relu6(nn.Conv3d(before, middle, 1, bias=False))
        layers += _relu6(nn.Conv3d(middle, middle, 3, tuple(stride), 1, groups=middle, bias=False))  # type: ignore[arg-type]
        layers += [nn.Conv3d(middle, after, 1, bias=False), nn.BatchNorm3d(after)]
        self.conv = nn.Sequential(*layers)
        self.adds = before == after and set(stride) == {1}

    def forward(self, x: Tensor) -> Tensor:
        """`(n, after, ...)` maps."""
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


_STAGES = (  # widen, channels, blocks, stride of the first
    (1, 16, 1, (1, 1, 1)),
    (6, 24, 2, (2, 2, 2)),
    (6, 32, 3, (2, 2, 2)),
    (6, 64, 4, (2, 2, 2)),
    (6, 96, 3, (1, 1, 1)),
    (6, 160, 3, (2, 2, 2)),
    (6, 320, 1, (1, 1, 1)),
)


class MobileNetV2In3d(nn.Module):
    """MobileNetV2 (Sandler 2018, arXiv 1801.04381) with 3x3x3 kernels, for clips `(n, 3, 16, 112, 112)`."""

    def __init__(self, classes: int) -> None:
        """At width 1."""
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*_relu6(nn.Conv3d(3, 32, 3, (1, 2, 2), 1, bias=False)))]
        before = 32
        for widen, after, blocks, stride in _STAGES:
            for number in range(blocks):
                layers.append(Inverted3d(before, after, (1, 1, 1) if number else stride, widen))
                before = after
        layers.append(nn.Sequential(*_relu6(nn.Conv3d(before, 1280, 1, bias=False))))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        """`(n, classes)` scores."""
        scores: Tensor = self.classifier(self.features(x).mean((2, 3, 4)))
        return scores


def mobilenet_v2_3d(classes: int = 101) -> MobileNetV2In3d:
    """For UCF101's clips."""
    return MobileNetV2In3d(classes)


def _relu6(conv: nn.Conv3d) -> list[nn.Module]:
    return [conv, nn.BatchNorm3d(conv.out_channels), nn.ReLU6(inplace=True)]


# --- I3D --------------------------------------------------------------------------------------------------------------


class Unit3d(nn.Module):
    """A convolution with batch norm, padded so that a stride divides the side, and a ReLU."""

    def __init__(self, before: int, after: int, side: int = 1, *, stride: int = 1) -> None:
        """A cubic kernel."""
        super().__init__()
        self.stride, self.side = stride, side
        self.conv = nn.Conv3d(before, after, side, stride, bias=False)
        self.norm = nn.BatchNorm3d(after)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, after, ...)` maps."""
        return F.relu(self.norm(self.conv(_same(x, (self.side,) * 3, (self.stride,) * 3))))


class SameMaxPool3d(nn.MaxPool3d):
    """A maximum over windows that cover the border."""

    def forward(self, x: Tensor) -> Tensor:
        """`(n, c, ...)` maps."""
        return F.max_pool3d(_same(x, self.kernel_size, self.stride), self.kernel_size, self.stride)  # type: ignore[arg-type]


class Inception3d(nn.Module):
    """Four branches side by side: 1x1x1, two with a 3x3x3 after a narrow 1x1x1, and a maximum."""

    def __init__(self, before: int, widths: Sequence[int]) -> None:
        """`widths` of the six convolutions, in order."""
        super().__init__()
        one, narrow1, wide1, narrow2, wide2, pooled = widths
        self.one = Unit3d(before, one)
        self.first = nn.Sequential(Unit3d(before, narrow1), Unit3d(narrow1, wide1, 3))
        self.second = nn.Sequential(Unit3d(before, narrow2), Unit3d(narrow2, wide2, 3))
        self.pooled = nn.Sequential(SameMaxPool3d((3, 3, 3), (1, 1, 1)), Unit3d(before, pooled))

    def forward(self, x: Tensor) -> Tensor:
        """`(n, sum of the branches, ...)` maps."""
        return torch.cat([self.one(x), self.first(x), self.second(x), self.pooled(x)], 1)


class I3d(nn.Module):
    """Inception-v1 in 3D (Carreira 2017, arXiv 1705.07750), for clips `(n, 3, frames >= 16, 224, 224)`."""

    def __init__(self, classes: int) -> None:
        """The network of one stream."""
        super().__init__()
        self.stem = nn.Sequential(
            Unit3d(3, 64, 7, stride=2),
            SameMaxPool3d((1, 3, 3), (1, 2, 2)),
            Unit3d(64, 64),
            Unit3d(64, 192, 3),
            SameMaxPool3d((1, 3, 3), (1, 2, 2)),
        )
        self.mixed3 = nn.Sequential(
            Inception3d(192, (64, 96, 128, 16, 32, 32)), Inception3d(256, (128, 128, 192, 32, 96, 64))
        )
        self.pool4 = SameMaxPool3d((3, 3, 3), (2, 2, 2))
        self.mixed4 = nn.Sequential(
            Inception3d(480, (192, 96, 208, 16, 48, 64)),
            Inception3d(512, (160, 112, 224, 24, 64, 64)),
            Inception3d(512, (128, 128, 256, 24, 64, 64)),
            Inception3d(512, (112, 144, 288, 32, 64, 64)),
            Inception3d(528, (256, 160, 320, 32, 128, 128)),
        )
        self.pool5 = SameMaxPool3d((2, 2, 2), (2, 2, 2))
        self.mixed5 = nn.Sequential(
            Inception3d(832, (256, 160, 320, 32, 128, 128)), Inception3d(832, (384, 192, 384, 48, 128, 128))
        )
        self.mean = nn.AvgPool3d((2, 7, 7), 1)
        self.dropout = nn.Dropout(0.5)
        self.logits = nn.Conv3d(1024, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, classes)` scores, the mean over time."""
        x = self.mixed5(self.pool5(self.mixed4(self.pool4(self.mixed3(self.stem(x))))))
        scores: Tensor = self.logits(self.dropout(self.mean(x)))
        return scores.mean((2, 3, 4))


def i3d(classes: int = 101) -> I3d:
    """For UCF101's clips."""
    return I3d(classes)


def _same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Padded with zeros so that a window of that side and stride gives `ceil(side / stride)` places."""
    pads: list[int] = []
    for size, side, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        missing = max(side - (size % step or step), 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x, pads)


# --- PSMNet -----------------------------------------------------------------------------------------------------------


class Residual2d(nn.Module):
    """Two 3x3 convolutions around an addition, no ReLU after it."""

    def __init__(self, before: int, after: int, *, stride: int = 1, dilation: int = 1) -> None:
        """The shortcut is the identity unless width or side change."""
        super().__init__()
        self.conv1 = nn.Sequential(*_norm2d(before, after, 3, stride, dilation), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(*_norm2d(after, after, 3, 1, dilation))
        changes = stride != 1 or before != after
        self.shortcut = nn.Sequential(*_norm2d(before, after, 1, stride)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """`(n, after, ...)` maps."""
        y: Tensor = self.conv2(self.conv1(x))
        return y + (x if self.shortcut is None else self.shortcut(x))


class StereoFeatures(nn.Module):
    """Features of one image at a quarter of its side, 32 channels, with means over windows of four sides."""

    def __init__(self, windows: Sequence[int]) -> None:
        """`windows`, from large to small."""
        super().__init__()
        stem: list[nn.Module] = []
        for before, stride in ((3, 2), (32, 1), (32, 1)):
            stem += [*_norm2d(before, 32, 3, stride), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem)
        self.layer1 = _stage(32, 32, 3)
        self.layer2 = _stage(32, 64, 16, stride=2)
        self.layer3 = _stage(64, 128, 3)
        self.layer4 = _stage(128, 128, 3, dilation=2)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(side, side), *_norm2d(128, 32, 1), nn.ReLU(inplace=True)) for side in windows
        )
        self.last = nn.Sequential(*_norm2d(320, 128, 3), nn.ReLU(inplace=True), nn.Conv2d(128, 32, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 32, h / 4, w / 4)` features."""
        raw = self.layer2(self.layer1(self.stem(x)))
        skip = self.layer4(self.layer3(raw))
        pooled = [
            F.interpolate(branch(skip), size=skip.shape[2:], mode="bilinear", align_corners=False)
            for branch in self.branches
        ]
        features: Tensor = self.last(torch.cat([raw, skip, *pooled[::-1]], 1))
        return features


class Hourglass(nn.Module):
    """3D convolutions down to a quarter of the side and up again, with what the hourglass before found."""

    def __init__(self, c: int) -> None:
        """`c` channels in and out, twice as many inside."""
        super().__init__()
        self.conv1 = nn.Sequential(*_norm3d(c, 2 * c, 2), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(*_norm3d(2 * c, 2 * c))
        self.conv3 = nn.Sequential(*_norm3d(2 * c, 2 * c, 2), nn.ReLU(inplace=True))
        self.conv4 = nn.Sequential(*_norm3d(2 * c, 2 * c), nn.ReLU(inplace=True))
        self.conv5 = nn.Sequential(*_up3d(2 * c, 2 * c))
        self.conv6 = nn.Sequential(*_up3d(2 * c, c))
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x: Tensor, before: Tensor | None, after: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """What it gives, and its maps on the way down and on the way up; those of others are added."""
        down = self.conv2(self.conv1(x))
        down = self.relu1(down if after is None else down + after)
        up = self.conv5(self.conv4(self.conv3(down)))
        up = self.relu2(up + (down if before is None else before))
        return self.conv6(up), down, up


class PsmNet(nn.Module):
    """Disparities of a stereo pair (Chang 2018, arXiv 1803.08669): a volume of costs and three stacked hourglasses.

    The sides of the images are multiples of 16, and of at least four times the largest window.
    """

    def __init__(self, disparities: int, windows: Sequence[int]) -> None:
        """Disparities from 0 on, a multiple of 16 of them; windows of the features' means, from large to small."""
        super().__init__()
        if disparities % 16 or disparities < 16:
            raise ValueError(f"disparities={disparities}: expected a multiple of 16")
        self.disparities = disparities
        self.features = StereoFeatures(windows)
        self.dres0 = nn.Sequential(*_norm3d(64, 32), nn.ReLU(inplace=True), *_norm3d(32, 32), nn.ReLU(inplace=True))
        self.dres1 = nn.Sequential(*_norm3d(32, 32), nn.ReLU(inplace=True), *_norm3d(32, 32))
        self.hourglasses = nn.ModuleList(Hourglass(32) for _ in range(3))
        self.heads = nn.ModuleList(
            nn.Sequential(*_norm3d(32, 32), nn.ReLU(inplace=True), nn.Conv3d(32, 1, 3, padding=1, bias=False))
            for _ in range(3)
        )

    def forward(self, left: Tensor, right: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """`(n, h, w)` disparities of the left image; in train mode after each of the three hourglasses."""
        x = self.dres0(cost_volume(self.features(left), self.features(right), self.disparities // 4))
        x = self.dres1(x) + x
        costs: list[Tensor] = []
        out, first, up = self.hourglasses[0](x, None, None)
        for number, head in enumerate(self.heads):
            if number:
                out, _, up = self.hourglasses[number](out, first, up)
            out = out + x
            costs.append(head(out) + costs[-1] if costs else head(out))
        found = [self._disparity(cost, left.shape[2:]) for cost in (costs if self.training else costs[-1:])]
        return found[0] if len(found) == 1 else (found[0], found[1], found[2])

    def _disparity(self, cost: Tensor, side: Sequence[int]) -> Tensor:
        full = F.interpolate(cost, size=(self.disparities, *side), mode="trilinear", align_corners=False)
        return mean_disparity(F.softmax(full.squeeze(1), 1))


def psmnet(disparities: int = 192, *, windows: Sequence[int] = (64, 32, 16, 8)) -> PsmNet:
    """For SceneFlow's pairs, cropped to 256 x 512; smaller windows take smaller images."""
    return PsmNet(disparities, windows)


def mean_disparity(probabilities: Tensor) -> Tensor:
    """`(n, h, w)` mean disparity under `(n, disparities, h, w)` probabilities."""
    values = torch.arange(probabilities.shape[1], device=probabilities.device, dtype=probabilities.dtype)
    return (probabilities * values.view(1, -1, 1, 1)).sum(1)


def cost_volume(left: Tensor, right: Tensor, disparities: int) -> Tensor:
    """`(n, 2 c, disparities, h, w)`: at disparity `i`, the left features and the right ones moved by `i`; 0 outside."""
    pairs = [torch.cat([left, right], 1)]
    for i in range(1, disparities):
        pairs.append(F.pad(torch.cat([left[..., i:], right[..., :-i]], 1), (i, 0)))
    return torch.stack(pairs, 2)


def _stage(before: int, after: int, blocks: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = Residual2d(before, after, stride=stride, dilation=dilation)
    return nn.Sequential(first, *[Residual2d(after, after, dilation=dilation) for _ in range(blocks - 1)])


def _norm2d(before: int, after: int, side: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation if side > 1 else 0
    return [nn.Conv2d(before, after, side, stride, padding, dilation, bias=False), nn.BatchNorm2d(after)]


def _norm3d(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv3d(before, after, 3, stride, 1, bias=False), nn.BatchNorm3d(after)]


def _up3d(before: int, after: int) -> list[nn.Module]:
    return [nn.ConvTranspose3d(before, after, 3, 2, 1, output_padding=1, bias=False), nn.BatchNorm3d(after)]
