"""Linear layers cut into P blocks: what is left inside, errors, parameters, and milliseconds on one and two threads.

    python benchmarks/partitions.py --data FOLDER [--only Mlp]
    python benchmarks/partitions.py --times

Two networks on 10,000 training images of Fashion-MNIST (FOLDER holds its four IDX files), one seed: an MLP
784-512-512-10, whose first two layers are cut, and a VGG-like network (two convolutions of 32 and 64 channels, linear
layers 3136-512-256-10), whose first two linear layers are cut. Beside every P, `l2` at the same parameters.

Prints a table in Markdown: test errors of the network as it was cut, with its blocks solved again on 1,024 images
without labels, and after two epochs. `--times`: milliseconds of the two layers alone, for 1 and 256 examples on one and
two threads, the least of several calls; nothing is trained for it.
"""

from __future__ import annotations

import argparse
import time

import torch
from fashion import data
from torch import nn

from secateur import Space, Training
from secateur.evaluators import measure_error, recalibrate, train
from secateur.pruners import METHODS, Examples, Request, partition_costs, partitioned, realised

PARTS, BASE_EPOCHS, EPOCHS, CALLS = (1, 2, 4, 8), 6, 2, 100
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
    """The least of several times of the two layers, one after the other."""
    torch.set_num_threads(threads)
    width = 784 if isinstance(model, Mlp) else 3136
    given, seen = torch.rand(count, width), []
    with torch.no_grad():
        for _ in range(CALLS):
            started = time.perf_counter()
            model.fc2(model.fc1(given).relu())
            seen.append(1000 * (time.perf_counter() - started))
    torch.set_num_threads(1)
    return min(seen)


def error(model, task):
    return 100 * measure_error(model, task, split="test").compute()


def main():
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--only", choices=["Mlp", "Vgg"])
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [kind for kind in (Mlp, Vgg) if options.only in (None, kind.__name__)]
    for line in times(kinds) if options.times else errors(kinds, data(options.data)):
        print(line, flush=True)


def times(kinds):
    """Lines of the table of milliseconds."""
    yield "| network | P | 1 example, 1 thread | 1, 2 threads | 256, 1 thread | 256, 2 threads |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for kind in kinds:
        model = kind().eval()
        space = Space.trace(model, torch.rand(1, 1, 28, 28), divisor=1)
        for parts in PARTS:
            small = model if parts == 1 else partitioned(model, space, kind.cut, parts)[0]
            found = [f"{milliseconds(small, count, threads):.3f}" for count in (1, 256) for threads in (1, 2)]
            yield f"| {kind.__name__} | {parts} | {' | '.join(found)} |"


def errors(kinds, task):
    """Lines of the table of errors."""
    batches = [task.prepare(batch, torch.device("cpu")) for batch in task.loader("train", None, None)][:8]
    examples = Examples(batches=batches)
    yield "| network | P | kept | parameters | cut | solved | 2 epochs | l2, 2 epochs |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for kind in kinds:
        torch.manual_seed(0)
        model = kind()
        train(model, task, TRAINING, epochs=BASE_EPOCHS, seed=0)
        space = Space.trace(model.eval(), torch.rand(1, 1, 28, 28), divisor=1)
        for parts in PARTS:
            cut = error(partitioned(model, space, kind.cut, parts)[0], task)
            small, notes = partitioned(model, space, kind.cut, parts, examples=examples)
            solved = error(small, task)
            train(small, task, TRAINING, epochs=EPOCHS, seed=0)
            params = partition_costs(space, kind.cut, parts)["params"]
            assert params == sum(parameter.numel() for parameter in small.parameters())
            other = realised(model, space, METHODS["l2"]().propose(Request(model, space, {"params": params})))
            recalibrate(other, task, images=1024)
            train(other, task, TRAINING, epochs=EPOCHS, seed=0)
            yield (
                f"| {kind.__name__} | {parts} | {notes['kept']:.2f} | {int(params):,} | {cut:.1f} | {solved:.1f} | "
                f"{error(small, task):.1f} | {error(other, task):.1f} |"
            )


if __name__ == "__main__":
    main()
