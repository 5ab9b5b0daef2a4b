"""What pruned gradients and thinned batches save, and what they cost, in the short fine-tuning of a search's trials.

    python benchmarks/gradients.py --data FOLDER [--seeds 3]

The networks of benchmarks/fashion.py (FOLDER holds Fashion-MNIST's four IDX files): a base network a seed, cut to
SHARE of its multiply-adds at one ratio, and fine-tuned for one, two and four epochs with the base network as teacher.

whole              every example of every batch of 128
examples_kept=...  of every batch so many are drawn by how far the network is off
batch=...          as many examples a step, all of a smaller batch, for as many steps: chance in the place of the draw
gradients_pruned=  the stochastic rule on the gradients of convolutions

Prints a table in Markdown: test errors, processor seconds of one core, and the zeros that the rule makes.
"""

from __future__ import annotations

import argparse
import time

import torch
from fashion import base, data, mean_and_error

from secateur import Classification, Space, Training
from secateur.evaluators import PrunedGradients, Teacher, measure_error, recalibrate, train
from secateur.spaces import build

SHARE, EPOCHS, BATCH = 0.3, (1, 2, 4), 128
WAYS = {
    "whole": {},
    "examples_kept=0.5": {"examples_kept": 0.5},
    "batch=64": {"batch": 64},
    "examples_kept=0.25": {"examples_kept": 0.25},
    "batch=32": {"batch": 32},
    "gradients_pruned=0.9": {"gradients_pruned": 0.9},
}


def fine_tuned(way, epochs, seed, task):
    """Test error in percent, processor seconds, and the mean share of zeros in the gradients."""
    model = base(seed, task)
    space = Space.trace(model, torch.rand(1, 1, 28, 28), divisor=1)
    small = build(model, space, space.repair(space.uniform(0.55), {"macs": SHARE * space.full_costs["macs"]}))
    recalibrate(small, task, images=2048)
    settings = dict(WAYS[way])
    task = fewer(task, settings["batch"] / BATCH, seed) if "batch" in settings else task
    watch = PrunedGradients(settings.pop("gradients_pruned", 0.0))
    started = time.process_time()
    train(
        small,
        task,
        Training(lr=0.05, warmup=0.1, **settings),
        epochs=epochs,
        seed=seed,
        teacher=Teacher(model=model),
        callbacks=[watch],
    )
    seconds = time.process_time() - started
    zeros = list(watch.zeros.values())
    error = 100 * measure_error(small, task, split="test").compute()
    return error, seconds, sum(zeros) / len(zeros) if zeros else None


def fewer(task, share, seed):
    """The task with a part of its training examples, so that smaller batches make as many steps."""
    splits = {}
    for name in ("train", "test"):
        batches = list(task.loader(name, None, None))
        splits[name] = tuple(torch.cat([getattr(batch, part) for batch in batches]) for part in ("inputs", "targets"))
    images, labels = splits["train"]
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[: int(share * len(images))]
    return Classification(
        train=(images[rows], labels[rows]), validation=splits["test"], test=splits["test"], mean=task.mean, std=task.std
    )


def main():
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = data(options.data)
    print("| way | epochs | test error % | seconds | zeros |\n| --- | --- | --- | --- | --- |")
    for way in WAYS:
        for epochs in EPOCHS:
            cells = [fine_tuned(way, epochs, seed, task) for seed in range(options.seeds)]
            error, spread = mean_and_error([cell[0] for cell in cells])
            seconds = sorted(cell[1] for cell in cells)[len(cells) // 2]
            zeros = cells[0][2]
            print(
                f"| {way} | {epochs} | {error:.2f} ± {spread:.2f} | {seconds:.1f} | "
                f"{'' if zeros is None else f'{zeros:.2f}'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
