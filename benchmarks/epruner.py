"""Seconds that EPruner's clustering takes on the filters of VGG-16, ResNet-56 and ResNet-152: `python epruner.py`.

Only the shapes are those networks': no trained weights are at hand. Filters are Gaussian directions with log-normal
norms, which prune at the published betas; plain Gaussian filters are equidistant and would all stay. Layers are those
the paper prunes: every convolution of VGG-16, the first of each basic block, the first two of each bottleneck.
Time is that of similarities and affinity propagation over all layers once, in seconds of the processor on one thread;
medians of three runs. A budget costs some twelve times as much: each step of the bisection clusters anew.
"""

from __future__ import annotations

import statistics
import time

import torch

from secateur.pruners.one_shot.exemplars import exemplars, similarities

VGG = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


def vgg16() -> list[tuple[int, int]]:
    """`(filters, elements of each)` of every convolution, in order."""
    return [(out, 9 * given) for given, out in zip([3, *VGG], VGG, strict=False)]


def resnet56() -> list[tuple[int, int]]:
    """Of the first convolution of each basic block."""
    stages = [(16, 16), (16, 32), (32, 64)]
    return [(width, 9 * (given if block == 0 else width)) for given, width in stages for block in range(9)]


def resnet152() -> list[tuple[int, int]]:
    """Of the first two convolutions of each bottleneck."""
    shapes = []
    for number, blocks in enumerate((3, 8, 36, 3)):
        width = 64 * 2**number
        for block in range(blocks):
            given = 4 * width if block else (64 if number == 0 else 2 * width)
            shapes += [(width, given), (width, 9 * width)]
    return shapes


NETWORKS = [("VGG-16", vgg16, 0.73), ("ResNet-56", resnet56, 0.76), ("ResNet-152", resnet152, 0.63)]


def filters(shapes: list[tuple[int, int]], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for units, elements in shapes:
        rows = torch.randn(units, elements, generator=generator) / elements**0.5
        found.append(rows * torch.randn(units, 1, generator=generator).exp())
    return found


def main() -> None:
    torch.set_num_threads(1)
    for name, shapes, beta in NETWORKS:
        layers = filters(shapes())
        seconds, found = [], []
        for _ in range(3):
            start = time.process_time()
            found = [exemplars(similarities(rows), beta) for rows in layers]
            seconds.append(time.process_time() - start)
        units = sum(len(rows) for rows in layers)
        kept = sum(len(one.kept) for one in found)
        restless = sum(one.damping is None for one in found)
        print(
            f"{name}: {len(layers)} layers, {units} filters, beta {beta}: {statistics.median(seconds):.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f}); {kept} exemplars, {restless} layers without convergence"
        )


if __name__ == "__main__":
    main()
