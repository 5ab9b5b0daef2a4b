"""What seeds are worth in a search: evaluations that a search without seeds needs to catch up.

    python benchmarks/seeds.py --data FOLDER [--trials 30] [--seeds 3]

The base networks and images of benchmarks/pruners.py (4,000 of them to fine-tune on, one epoch a trial), searched
within half the multiply-adds over widths, depth and resolution by `tpe`, once with no seed but the full network and
once with each set of seeds. The measure is the hypervolume of the front of error and multiply-adds, against an error of
0.5 at the whole budget. `reached` is that of a search right after its seeds; `saved` is how many more trials the search
without seeds takes to reach it. The studies are kept in build/seeds and go on after a kill.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from pruners import base, data
from secateur import Budget, Classification, Space, Study, Training
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
REFERENCE = 0.5


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
    return Classification(**splits, batch=128)


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
            path, model=model, task=task, space=space, budget=budget, sampler="tpe", seeds=SETS[name], seed=seed,
            training=training, threads=1,
        )  # fmt: skip
    found.run(trials)
    return found


def curve(found):
    """Hypervolume after each trial, and how many of the first trials are seeds."""
    table = found.trials()
    full = found.space.costs([found.space.full]).macs[0]
    points = table[["error", "macs"]].to_numpy(float) / [1.0, full]
    inside = table["within"].to_numpy(bool)
    volumes = [
        hypervolume(points[: n + 1][inside[: n + 1]], (REFERENCE, 0.5)) if inside[: n + 1].any() else 0.0
        for n in range(len(table))
    ]
    return volumes, int(table["source"].str.startswith("seed:").sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the four IDX files")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    task = small_task(arguments.data)
    without = {}
    print("| seeds | trials that are seeds | reached | at the end | saved, each search |")
    print("| --- | --- | --- | --- | --- |")
    for name in SETS:
        counts, reached, end, saved = [], [], [], []
        for seed in range(arguments.seeds):
            volumes, count = curve(study(name, seed, arguments.trials, arguments.data, task))
            if name == "none":
                without[seed] = volumes
            late = next((n for n, volume in enumerate(without[seed]) if volume >= volumes[count - 1]), None)
            saved.append(f"> {arguments.trials - count}" if late is None else str(late + 1 - count))
            counts.append(count)
            reached.append(volumes[count - 1])
            end.append(volumes[-1])
        print(
            f"| {name} | {statistics.mean(counts):.0f} | {statistics.mean(reached):.4f} | {statistics.mean(end):.4f} "
            f"| {', '.join(saved)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
