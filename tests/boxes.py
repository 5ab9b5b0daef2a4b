"""Drawn squares of three colours with their boxes, and tiny networks that find them: torchvision's kind, and YOLO's.

Both have a map of cells of 4 pixels; each cell says of which label its square is, and where its edges are.
"""

import torch
import torch.nn.functional as F
from torch import nn

from secateur.evaluators import Detection

CELL, SIDE, CLASSES, BEST = 4, 24, 3, 12


def drawn(n, *, seed, side=SIDE):
    """`(n, 3, side, side)` uint8 noise with one or two squares a picture, side by side, and a list of targets."""
    g = torch.Generator().manual_seed(seed)

    def whole(low, high):
        return int(torch.randint(low, high, (), generator=g))

    images, targets = torch.randint(0, 100, (n, 3, side, side), generator=g, dtype=torch.uint8), []
    for image in images:
        boxes, labels = [], []
        for half in range(whole(1, 3)):
            size, label = whole(side // 4, side // 2 - 1), whole(0, CLASSES)
            x, y = half * side // 2 + whole(0, side // 2 - size), whole(0, side - size)
            image[label, y : y + size, x : x + size] += 140
            boxes.append([x, y, x + size, y + size])
            labels.append(label)
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)})
    return images, targets


def detection(kind="torchvision", *, train=64, validation=24, test=16, batch=16, **settings):
    splits = {name: drawn(n, seed=n) for name, n in (("train", train), ("validation", validation), ("test", test))}
    own = {"loss": yolo_loss, "decode": decode} if kind == "yolo" else {}
    return Detection(**{**splits, "classes": CLASSES, "batch": batch, **own, **settings})


class Cells(nn.Module):
    """`(n, 1 + CLASSES + 4, rows, columns)`: whether there is a square, its label, and the way to its edges."""

    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.deeper = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.context = nn.Sequential(nn.Conv2d(width, width, 5, 1, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(width, 1 + CLASSES + 4, 1)

    def forward(self, images):
        return self.head(self.context(self.deeper(self.stem(images))))


class Finder(nn.Module):
    """As torchvision's detectors are called."""

    def __init__(self, width=16):
        super().__init__()
        self.cells = Cells(width)

    def forward(self, images, targets=None):
        cells = self.cells(images)
        if self.training:
            return losses(cells, targets)
        return answers(cells)


def centres(cells):
    rows, columns = cells.shape[2:]
    y, x = (torch.arange(size).to(cells) * CELL + CELL / 2 for size in (rows, columns))
    return torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)]).flatten(1)


def edges(cells):
    """`(n, 4, cells)` boxes in pixels."""
    ways, middle = F.softplus(cells[:, -4:].flatten(2)) * CELL, centres(cells)
    return torch.cat([middle - ways[:, :2], middle + ways[:, 2:]], 1)


def answers(cells):
    """The best cells of each picture."""
    scores, labels = (cells[:, :1].sigmoid() * cells[:, 1:-4].softmax(1)).flatten(2).max(1)
    best, places = scores.topk(min(BEST, scores.shape[1]))
    boxes = edges(cells).transpose(1, 2).gather(1, places.unsqueeze(-1).expand(-1, -1, 4))
    parts = zip(boxes.unbind(0), best.unbind(0), labels.gather(1, places).unbind(0), strict=True)
    return [{"boxes": one, "scores": score, "labels": label} for one, score, label in parts]


def losses(cells, targets):
    middle, found = centres(cells), edges(cells)
    there, kinds, boxes = torch.zeros_like(cells[:, 0].flatten(1)), [], []
    for row, target in enumerate(targets):
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            own = ((middle - ((box[:2] + box[2:]) / 2)[:, None]).abs() <= CELL).all(0).nonzero()[:, 0]
            there[row, own] = 1.0
            kinds += [F.cross_entropy(cells[row, 1:-4].flatten(1)[:, cell][None], label[None]) for cell in own]
            boxes += [(found[row, :, cell] - box).abs().mean() / CELL for cell in own]
    nothing = cells.sum() * 0
    return {
        "there": F.binary_cross_entropy_with_logits(cells[:, 0].flatten(1), there),
        "kind": torch.stack([*kinds, nothing]).mean(),
        "box": torch.stack([*boxes, nothing]).mean(),
    }


def yolo_loss(outputs, targets):
    return sum(losses(outputs, targets).values())


decode = answers
