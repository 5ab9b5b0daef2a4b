"""Tiny real tasks that the tests share: coloured squares to tell apart, and to outline."""

import torch

from secateur.evaluators import Classification, Segmentation


def squares(n, *, seed, classes=3, side=8):
    """uint8 images of noise with a square whose colour is the class; the labels; the squares' masks."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (n, 3, side, side), generator=g, dtype=torch.uint8)
    labels = torch.arange(n) % classes
    masks = torch.zeros(n, side, side, dtype=torch.int64)
    for i in range(n):
        y, x = torch.randint(0, side // 2 + 1, (2,), generator=g).tolist()
        images[i, labels[i], y : y + side // 2, x : x + side // 2] += 120
        masks[i, y : y + side // 2, x : x + side // 2] = labels[i] + 1
    return images, labels, masks


def classification(*, train=96, validation=40, test=24, batch=16, **settings):
    splits = {
        name: squares(n, seed=n)[:2] for name, n in (("train", train), ("validation", validation), ("test", test))
    }
    return Classification(**splits, batch=batch, **settings)


def segmentation(*, batch=8, **settings):
    splits = {name: squares(n, seed=n)[::2] for name, n in (("train", 32), ("validation", 12), ("test", 8))}
    return Segmentation(**splits, batch=batch, **settings)
