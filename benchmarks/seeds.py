"""What seeds are worth in a search: evaluations that a search without seeds needs to catch up.

    python benchmarks/seeds.py --data FOLDER [--trials 30] [--seeds 3]

The base networks and images of benchmarks/fashion.py (4,000 of them to fine-tune on, one epoch a trial), searched
within half the multiply-adds over widths, depth and resolution by `tpe`, once with no seed but the full network and
once with each set of seeds. Two measures: the lowest error within the budget, and the hypervolume of the front of error
and multiply-adds against twice the full network's error at the whole budget. For each, what a search has reached right
after its seeds, and how many trials the search without seeds takes to reach it (`> N`: not within N). The studies are
kept in build/seeds and go on after a kill.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import torch
from fashion import base, data

from secateur import Budget, Classification, Search, Space, Study, Training
from secateur.search import hypervolume

KEPT = Path(__file__).parents[1] / "build" / "seeds"
SETS = {
    "none": ("full",),
    "default": ("full", "uniform", "magnitude"),
    "ranp-f": ("full", "ranp-f"),
    "taylor": ("full", "taylor"),
    "epruner": ("full", "epruner"),
    "all of these": ("full", "uniform", "magnitude", "taylor", "ranp-f", "epruner"),
}


def small_task(folder):
    task = data(folder)
    batches = {name: list(task.loader(name, None, None)) for name in ("train", "validation")}
    count = {"train": 4000, "validation": 2000}
    splits = {
        name: (
            torch.cat([b.inputs for b in found])[: count[name]],
            torch.cat([b.targets for b in found])[: count[name]],
        )
        for name, found in batches.items()
    }
    return Classification(**splits, batch=128, normalise="measure")


def study(name, seed, trials, folder, task):
    model = base(seed, data(folder))
    space = Space.trace(model, torch.rand(1, 1, 28, 28), resolutions=(28, 24, 20, 16), divisor=2)
    path = KEPT / f"{name.replace(' ', '-')}-{seed}"
    budget = Budget(macs=0.5)
    if (path / "study.json").exists():
        found = Study.open(path, model=model, task=task)
    else:
        training = Training(lr=0.05, warmup=0.1, short_epochs=1, recalibration_images=1024)
        found = Study.create(
            path,
            model=model,
            task=task,
            space=space,
            budget=budget,
            training=training,
            search=Search(sampler="tpe", seeds=SETS[name], seed=seed, threads=1),
        )
    found.run(trials)
    return found


def curves(found):
    """Lowest error and hypervolume after each trial, and how many of the first trials are seeds."""
    table = found.trials()
    full = table.iloc[0]
    points = table[["error", "macs"]].to_numpy(float) / [1.0, full.macs]
    inside = table["within"].to_numpy(bool)
    errors, volumes = [], []
    for n in range(1, len(table) + 1):
        within = points[:n][inside[:n]]
        errors.append(float(within[:, 0].min()) if len(within) else math.inf)
        volumes.append(hypervolume(within, (2 * full.error, 0.5)) if len(within) else 0.0)
    return errors, volumes, int(table["source"].str.startswith("seed:").sum())


def needed(values, reached):
    """Trials until a value is as good, as text."""
    late = next((n for n, value in enumerate(values, 1) if reached(value)), None)
    return f"> {len(values)}" if late is None else str(late)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the four IDX files")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    task = small_task(arguments.data)
    without = {}
    print("| seeds | of them trials | error % after them | without seeds, trials | hypervolume after them |", end="")
    print(" without seeds, trials | error % at the end | hypervolume at the end |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in SETS:
        rows = []
        for seed in range(arguments.seeds):
            errors, volumes, count = curves(study(name, seed, arguments.trials, arguments.data, task))
            without.setdefault(seed, (errors, volumes))
            error, volume = errors[count - 1], volumes[count - 1]
            rows.append(
                (
                    count,
                    error,
                    needed(without[seed][0], lambda value, error=error: value <= error),
                    volume,
                    needed(without[seed][1], lambda value, volume=volume: value >= volume),
                    errors[-1],
                    volumes[-1],
                )
            )
        count, error, late, volume, later, last, end = zip(*rows, strict=True)
        mean = statistics.mean
        if name == "none":
            print(f"| none | 1 | - | - | - | - | {100 * mean(last):.1f} | {mean(end):.4f} |", flush=True)
            continue
        print(
            f"| {name} | {mean(count):.0f} | {100 * mean(error):.1f} | {', '.join(late)} | {mean(volume):.4f} "
            f"| {', '.join(later)} | {100 * mean(last):.1f} | {mean(end):.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
