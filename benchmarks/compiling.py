"""What torch.compile costs and saves in the training of a trial: seconds once, and seconds a step, beside eager.

    python benchmarks/compiling.py [--steps 20] [--rounds 5]

A trial's network is new to the compiler: other widths are another graph. Steps of the compiled and of the eager network
take turns; medians of processor seconds on one thread. *Pays from* is the number of steps after which compiling once
has been saved.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics

import torch
from torch import nn

os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # processes of its own would not be counted

import secateur as sc
from secateur.studies.study_files.networks import resnet20, resnet50

NETWORKS = {"resnet20": (resnet20, (32, 3, 32, 32)), "resnet50": (resnet50, (8, 3, 64, 64))}


def step(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Forward, backward, update."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(inputs), labels).backward()
    optimizer.step()


def spent() -> float:
    """Processor seconds of this process and of the compilers that it has run."""
    return sum(os.times()[:4])


def taken(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
    """Processor seconds of so many steps."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    start = spent()
    for _ in range(steps):
        step(network, inputs, labels, optimizer)
    return spent() - start


def measured(name: str, steps: int, rounds: int) -> str:
    """A row of the table."""
    make, shape = NETWORKS[name]
    model = make(channels=3).eval()
    inputs, labels = torch.randn(shape), torch.randint(10, shape[:1])
    space = sc.Space.trace(model, inputs[:2])
    eager = sc.build(model, space, space.uniform(width=0.5)).train()
    compiled = torch.compile(copy.deepcopy(eager))
    once = taken(compiled, inputs, labels, 2)
    turns = [[taken(one, inputs, labels, steps) / steps for one in (eager, compiled)] for _ in range(rounds)]
    plain, fast = (statistics.median(times) for times in zip(*turns, strict=True))
    pays = f"{once / (plain - fast):,.0f} steps" if fast < plain else "never"
    return f"| {name} | {once:.0f} s | {1000 * plain:.1f} ms | {1000 * fast:.1f} ms | {plain / fast:.2f} | {pays} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network at half of its widths | compiling | eager step | compiled step | ratio | pays from |")
    print("|---|---|---|---|---|---|")
    for name in NETWORKS:
        print(measured(name, given.steps, given.rounds), flush=True)


if __name__ == "__main__":
    main()
