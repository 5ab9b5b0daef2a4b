"""A small detector with a head as published ones have it: anchors kept by shape, strides, bins, best ones picked."""

import torch
from torch import nn


class Conv(nn.Module):
    """Convolution, norm and an activation that all of them share."""

    activation = nn.SiLU()

    def __init__(self, given, made, size=1, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(given, made, size, stride, size // 2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(made), self.activation

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = Conv(width, width, 3), Conv(width, width, 3)

    def forward(self, x):
        return x + self.second(self.first(x))


class Stage(nn.Module):
    """Halves, one of which goes through blocks; all that comes by is put together."""

    def __init__(self, given, made, blocks):
        super().__init__()
        self.width = made // 2
        self.first, self.last = Conv(given, made), Conv((2 + blocks) * self.width, made)
        self.blocks = nn.ModuleList(Bottleneck(self.width) for _ in range(blocks))

    def forward(self, x):
        parts = list(self.first(x).chunk(2, 1))
        parts.extend(block(parts[-1]) for block in self.blocks)
        return self.last(torch.cat(parts, 1))


class Head(nn.Module):
    """Boxes and classes at each position of every map; the best ones where `best` is set."""

    shape = None
    anchors = strides = torch.empty(0)

    def __init__(self, widths, classes=3, bins=4, best=0):
        super().__init__()
        self.classes, self.bins, self.best = classes, bins, best
        self.boxes = nn.ModuleList(nn.Sequential(Conv(c, 16, 3), nn.Conv2d(16, 4 * bins, 1)) for c in widths)
        self.scores = nn.ModuleList(nn.Sequential(Conv(c, 16, 3), nn.Conv2d(16, classes, 1)) for c in widths)
        self.project = nn.Conv2d(bins, 1, 1, bias=False)
        self.project.weight.data[:] = torch.arange(bins).view(1, bins, 1, 1)
        self.stride = torch.tensor([4.0 * 2**level for level in range(len(widths))])  # neither parameter nor buffer

    def forward(self, maps):
        shape = maps[0].shape
        boxes = torch.cat(
            [head(x).view(shape[0], 4 * self.bins, -1) for head, x in zip(self.boxes, maps, strict=True)], 2
        )
        scores = torch.cat(
            [head(x).view(shape[0], self.classes, -1) for head, x in zip(self.scores, maps, strict=True)], 2
        )
        if self.shape != shape:
            self.anchors, self.strides = (made.transpose(0, 1) for made in self.made(maps))
            self.shape = shape
        b, _, places = boxes.shape
        edges = self.project(boxes.view(b, 4, self.bins, places).transpose(2, 1).softmax(1)).view(b, 4, places)
        before, after = edges.chunk(2, 1)
        low, high = self.anchors.unsqueeze(0) - before, self.anchors.unsqueeze(0) + after
        found = torch.cat([torch.cat([(low + high) / 2, high - low], 1) * self.strides, scores.sigmoid()], 1)
        return (self.picked(found.transpose(1, 2)) if self.best else found), {"boxes": boxes, "maps": maps}

    def made(self, maps):
        anchors, strides = [], []
        for level, x in enumerate(maps):
            height, width = x.shape[2:]
            across, down = torch.arange(width).type_as(x) + 0.5, torch.arange(height).type_as(x) + 0.5
            down, across = torch.meshgrid(down, across, indexing="ij")
            anchors.append(torch.stack((across, down), -1).view(-1, 2))
            strides.append(x.new_full((height * width, 1), self.stride[level]))
        return torch.cat(anchors), torch.cat(strides)

    def picked(self, found):
        boxes, scores = found.split([4, self.classes], -1)
        place = scores.amax(-1).topk(min(self.best, found.shape[1]))[1].unsqueeze(-1)
        boxes = boxes.gather(1, place.expand(-1, -1, 4))
        scores, kinds = scores.gather(1, place.repeat(1, 1, self.classes)).max(-1, keepdim=True)
        return torch.cat([boxes, scores, kinds.to(boxes.dtype)], -1)


class Detector(nn.Module):
    """Layers that say from where they take their inputs."""

    def __init__(self, best=0):
        super().__init__()
        layers = [Conv(3, 16, 3, 2), Conv(16, 16, 3, 2), Stage(16, 16, 2), Conv(16, 32, 3, 2), Stage(32, 32, 1)]
        sources = [-1] * len(layers)
        layers += [nn.Upsample(scale_factor=2), None, Stage(48, 16, 1), Head((16, 32), best=best)]
        layers[6] = Joined()
        sources += [-1, [-1, 2], -1, [7, 4]]
        self.model = nn.Sequential(*layers)
        for layer, source in zip(self.model, sources, strict=True):
            layer.source = source

    def forward(self, x):
        kept = []
        for layer in self.model:
            if layer.source != -1:
                x = [x if source == -1 else kept[source] for source in layer.source]
            x = layer(x)
            kept.append(x)
        return x


class Joined(nn.Module):
    def forward(self, maps):
        return torch.cat(maps, 1)


def detector(best=0, ran=None):
    """In eval mode, with seeded weights and statistics; it has run on an input of shape `ran` before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Detector(best)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    model = model.double().eval()
    if ran is not None:
        model(torch.zeros(ran, dtype=torch.double))
    return model
