"""Segmentation in 2D: a U-Net made smaller within multiply-adds and memory, over width, depth and resolution together.

    pip install nilearn 'secateur[plot]'
    python examples/segmentation/run.py --out runs/segmentation

The network is in `unet.py`, the pictures are in `slices.py`; copy both and put yours there. Prints and draws the full
network and every network of the front with their overlap on the test slices: OUT/networks, OUT/front.png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import bootstrap
from slices import task
from unet import UNet

import secateur as sc
from secateur.evaluators import measure_error, train

SLABS = 7  # of test slices, see `slices.py`
SIDES = [(192, 160), (168, 140), (144, 120), (120, 100), (96, 80)]


def pixels(model, data, side):
    """`(SLABS, classes, classes)` pixels of the test slices, by label and by prediction."""
    found = []
    with torch.no_grad():
        for batch in data.loader("test", side, None):
            outputs, masks = data.forward(model.eval(), batch)
            pairs = (masks * data.classes + outputs.argmax(1)).flatten(1)
            found += [torch.bincount(one, minlength=data.classes**2).numpy() for one in pairs]
    return np.stack([slab.sum(0).reshape(data.classes, -1) for slab in np.array_split(np.stack(found), SLABS)])


def overlap(found):
    """Mean IoU, in percent, of slabs taken together."""
    table = found.sum(0)
    both = table.diagonal()
    return 100 * (both / (table.sum(0) + table.sum(1) - both)).mean()


def interval(figure):
    """The ends of 95 % of a figure of slabs drawn with replacement; single slices are much like their neighbours."""
    random = np.random.default_rng(0)
    numbers = (np.arange(SLABS),)
    drawn = bootstrap(numbers, figure, vectorized=False, method="percentile", n_resamples=2000, rng=random)
    return drawn.confidence_interval


def row(name, side, costs, found, full):
    """What is printed and drawn of a network, with what it differs by from the full one on the same slabs."""
    own = interval(lambda drawn: overlap(found[drawn]))
    less = interval(lambda drawn: overlap(found[drawn]) - overlap(full[drawn]))
    figures = {"overlap": overlap(found), "low": own.low, "high": own.high}
    figures |= {"less": overlap(found) - overlap(full), "under": less.low, "over": less.high}
    return {"name": name, "side": side, "macs": costs["macs"], "peak_bytes": costs["peak_bytes"]} | figures


def rows_of(study, folders):
    """The full network and every exported one."""
    model, data, space = study.model, study.task, study.space
    side, costs = space.side(space.full), space.costs([space.full]).iloc[0]
    full = pixels(model, data, side)
    rows = [row("full", side, costs, full, full)]
    for folder in folders:
        record = json.loads((folder / "config.json").read_text())
        side, small = tuple(record["resolution"]), sc.load(folder, model=model)
        rows.append(row(f"trial {record['trial']}", side, record["costs"], pixels(small, data, side), full))
    return rows


def show(rows):
    """Print a table."""
    print("| network | side | million MACs | peak memory, MB | mean IoU, % | minus the full network's |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one in rows:
        shares = [f"{one[cost] / 1e6:.2f} ({one[cost] / rows[0][cost]:.0%})" for cost in ("macs", "peak_bytes")]
        own = f"{one['overlap']:.1f} ({one['low']:.1f} to {one['high']:.1f})"
        less = f"{one['less']:+.1f} ({one['under']:+.1f} to {one['over']:+.1f})" if one is not rows[0] else ""
        print(f"| {one['name']} | {one['side'][0]}x{one['side'][1]} | {' | '.join(shares)} | {own} | {less} |")


def draw(rows, path):
    """The same as a picture: overlap against both costs."""
    figure, both = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
    for axes, cost, name in zip(both, ("macs", "peak_bytes"), ("million MACs", "peak memory, MB"), strict=True):
        for part, mark, label in ((rows[1:], "o", "found within both budgets"), (rows[:1], "s", "full network")):
            points = np.array([(one[cost] / 1e6, one["overlap"], one["low"], one["high"]) for one in part]).T
            bars = (points[1] - points[2], points[3] - points[1])
            axes.errorbar(points[0], points[1], yerr=bars, fmt=mark, capsize=2, label=label)
        axes.set(xlabel=name, xlim=0)
        axes.grid(alpha=0.3)
    both[0].set(ylabel="mean IoU on the test slices, %")
    both[1].legend()
    figure.savefig(path, dpi=100)


def main():
    """Train, search, export, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/segmentation"))
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--base-epochs", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=6, help="of every network of the front")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="so small that it shows only that all runs")
    given = parser.parse_args()
    if given.tiny:
        given.trials, given.base_epochs, given.epochs = 2, 1, 0

    torch.manual_seed(given.seed)
    model, data = UNet(), task(every=2 if given.tiny else 1)
    training = sc.Training(optimizer="adam", lr=2e-3, base_lr=5e-3, warmup=0.1)
    train(model, data, training.from_scratch(), epochs=given.base_epochs, seed=given.seed)

    space = sc.Space.trace(model, torch.rand(1, 1, 192, 160), resolutions=SIDES, divisor=2)
    study = sc.Study.create(
        given.out / "study",
        model=model,
        task=data,
        space=space,
        budget=sc.Budget(macs=0.25, peak_bytes=0.5),
        training=training,
        search=sc.Search(seed=given.seed, threads=1),
        expect_error=measure_error(model, data).compute(),
    )
    study.run(trials=given.trials)
    folders = study.export(given.out / "networks", pick="all", finetune_epochs=given.epochs)

    rows = rows_of(study, folders)
    show(rows)
    draw(rows, given.out / "front.png")
    print(f"{data.sizes} slices; {len(study.trials())} trials, {len(study.front())} on the front")
    print(f"{time.process_time():.0f} s of one core")


if __name__ == "__main__":
    main()
