"""Linear layers cut into P blocks: what is left inside, errors, parameters, and milliseconds on one and two threads.

    python benchmarks/partitions.py --data FOLDER

Two networks on 10,000 training images of Fashion-MNIST (FOLDER holds its four IDX files), one seed: an MLP
784-512-512-10, whose first two layers are cut, and a VGG-like network (two convolutions of 32 and 64 channels, linear
layers 3136-512-256-10), whose first two linear layers are cut. Beside every P, `l2` at the same parameters.

Prints a table in Markdown: test errors of the network as it was cut, with its blocks solved again on 1,024 images
without labels, and after two epochs; milliseconds of the two layers alone, for 1 and 256 examples, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from pruners import data
from secateur import Space, Training
from secateur.evaluators import measure_error, recalibrate, train
from secateur.pruners import METHODS, Examples, Request, partition_costs, partitioned, realised

PARTS, BASE_EPOCHS, EPOCHS = (1, 2, 4, 8), 6, 2
TRAINING = Training(lr=0.02, warmup=0.1)


class Mlp(nn.Module):
    """784-512-512-10."""

    cut = ("fc1", "fc2")

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 512), nn.Linear(512, 512), nn.Linear(512, 10)

    def forward(self, x):
        return self.fc3(self.fc2(self.fc1(x.flatten(1)).relu()).relu())


class Vgg(nn.Module):
    """Two convolutions with pooling, three linear layers."""

    cut = ("fc1", "fc2")

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.fc1, self.fc2, self.fc3 = nn.Linear(3136, 512), nn.Linear(512, 256), nn.Linear(256, 10)

    def forward(self, x):
        return self.fc3(self.fc2(self.fc1(self.features(x).flatten(1)).relu()).relu())


def milliseconds(model, count, threads):
    """Median of the two layers, one after the other."""
    torch.set_num_threads(threads)
    width = 784 if isinstance(model, Mlp) else 3136
    given, seen = torch.rand(count, width), []
    with torch.no_grad():
        for _ in range(60):
            started = time.perf_counter()
            model.fc2(model.fc1(given).relu())
            seen.append(1000 * (time.perf_counter() - started))
    torch.set_num_threads(1)
    return statistics.median(seen)


def error(model, task):
    return 100 * measure_error(model, task, split="test").compute()


def main():
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = data(options.data)
    batches = [task.prepare(batch, torch.device("cpu")) for batch in task.loader("train", None, None)][:8]
    examples = Examples(batches=batches)
    print("| network | P | kept | parameters | cut | solved | 2 epochs | l2 | ms of 1: 1, 2 threads | of 256 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in (Mlp, Vgg):
        torch.manual_seed(0)
        model = kind()
        train(model, task, TRAINING, epochs=BASE_EPOCHS, seed=0)
        space = Space.trace(model.eval(), torch.rand(1, 1, 28, 28), divisor=1)
        for parts in PARTS:
            small, notes = partitioned(model, space, kind.cut, parts)
            cut = error(small, task)
            small, notes = partitioned(model, space, kind.cut, parts, examples=examples)
            solved = error(small, task)
            train(small, task, TRAINING, epochs=EPOCHS, seed=0)
            params = partition_costs(space, kind.cut, parts)["params"]
            assert params == sum(parameter.numel() for parameter in small.parameters())
            other = realised(model, space, METHODS["l2"]().propose(Request(model, space, {"params": params})))
            recalibrate(other, task, images=1024)
            train(other, task, TRAINING, epochs=EPOCHS, seed=0)
            times = [", ".join(f"{milliseconds(small, n, t):.3f}" for t in (1, 2)) for n in (1, 256)]
            print(
                f"| {kind.__name__} | {parts} | {notes['kept']:.2f} | {int(params):,} | {cut:.1f} | {solved:.1f} | "
                f"{error(small, task):.1f} | {error(other, task):.1f} | {times[0]} | {times[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
