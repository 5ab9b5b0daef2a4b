"""A network of timm, by its name in a study file: traced, searched and exported from the command line.

    pip install timm 'secateur[mnist,plot]'
    python examples/timm_model/run.py --out runs/timm_model

runs `secateur trace`, `search` and `export` on `study.toml`, and prints and draws the test errors. Another network is
another name in that file; `by_name.py` is all the code there is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import binomtest

from secateur.__main__ import main as secateur
from secateur.evaluators import measure_error
from secateur.studies.launch import open_study


def row(name, side, macs, error, images):
    """What is printed and drawn of a network, with the 95 % Wilson interval of its error."""
    low, high = binomtest(round(error * images), images).proportion_ci(method="wilson")
    return {"name": name, "side": side[0], "macs": macs, "error": 100 * error, "low": 100 * low, "high": 100 * high}


def rows_of(study, networks):
    """The full network and every exported one."""
    space, images = study.space, study.task.sizes["test"]
    side = space.side(space.full)
    error = measure_error(study.model, study.task, split="test", resolution=side).compute()
    rows = [row("full", side, space.costs([space.full])["macs"].iloc[0], error, images)]
    for folder in sorted(networks.glob("trial-*")):
        record = json.loads((folder / "config.json").read_text())
        macs, error = record["costs"]["macs"], record["errors"]["test_error"]
        rows.append(row(f"trial {record['trial']}", record["resolution"], macs, error, images))
    return sorted(rows, key=lambda one: -one["macs"])


def show(rows, images):
    """Print a table."""
    print(f"| network | side | million MACs | test error, % of {images} images |")
    print("| --- | --- | --- | --- |")
    for one in rows:
        costs = f"{one['macs'] / 1e6:.2f} ({one['macs'] / rows[0]['macs']:.0%})"
        print(
            f"| {one['name']} | {one['side']} | {costs} | {one['error']:.1f} ({one['low']:.1f} to {one['high']:.1f}) |"
        )


def draw(rows, path):
    """The same as a picture."""
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for part, mark, label in ((rows[1:], "o", "found within the budget"), (rows[:1], "s", "full network")):
        macs, error, low, high = (np.array([one[key] for one in part]) for key in ("macs", "error", "low", "high"))
        axes.errorbar(macs / 1e6, error, yerr=(error - low, high - error), fmt=mark, capsize=2, label=label)
    axes.set(xlabel="million MACs", ylabel="test error, %", xlim=0, ylim=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


def main():
    """Trace, search, export, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=Path(__file__).with_name("study.toml"))
    parser.add_argument("--out", type=Path, default=Path("runs/timm_model"))
    given = parser.parse_args()
    study, networks = given.out / "study", given.out / "networks"
    for command in (
        ["trace", given.study],
        ["search", given.study, "--out", study, "--quiet"],
        ["export", study, "--to", networks, "--pick", "all", "--quiet"],
    ):
        if code := secateur([str(word) for word in command]):
            raise SystemExit(code)
    opened = open_study(study)
    rows = rows_of(opened, networks)
    show(rows, opened.task.sizes["test"])
    draw(rows, given.out / "front.png")
    print(f"{len(opened.trials())} trials, {len(opened.front())} on the front")
    print(f"{time.process_time():.0f} s of one core")


if __name__ == "__main__":
    main()
