"""The main job with several seeds: test error at half the multiply-adds beside the full network's.

    python benchmarks/main_job.py --seeds 3 --out runs/main-job

For each seed a base network is trained, searched within half its multiply-adds, and the network of lowest validation
error exported; both are tested once on the same held-out images. The interval is 95 %, from the paired differences of
the single images, all seeds together.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from secateur.spaces import named_tensors
from secateur.studies import load
from secateur.studies.launch import search
from secateur.studies.study_files.file import read


def wrong(model, task, side):
    """`(images,)` 1 where the network errs on the test split."""
    model.eval()
    with torch.no_grad():
        pairs = [task.forward(model, batch) for batch in task.loader("test", side, None)]
    return torch.cat([(outputs.argmax(1) != targets).double() for outputs, targets in pairs])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--study", default="mnist")
    parser.add_argument("--out", type=Path, default=Path("runs/main-job"))
    arguments = parser.parse_args()
    differences = []
    rows = []
    for seed in range(arguments.seeds):
        start = time.perf_counter()
        study = search(read(arguments.study).changed(seed=seed), arguments.out / f"seed-{seed}")
        front = study.front()
        [folder] = study.export(arguments.out / f"out-{seed}", pick="best")
        small, space, task = load(folder, model=study.model), study.space, study.task
        record = json.loads((folder / "config.json").read_text())
        full_side, side = space.side(space.full) or None, tuple(record["resolution"] or ()) or None
        full_wrong, small_wrong = wrong(study.model, task, full_side), wrong(small, task, side)
        differences.append(small_wrong - full_wrong)
        macs = record["costs"]["macs"] / record["full_costs"]["macs"]
        rows.append((full_wrong.mean(), small_wrong.mean()))
        params = sum(tensor.numel() for tensor in small.parameters()) / sum(
            tensor.numel() for name, tensor in named_tensors(study.model).items() if "running" not in name
        )
        print(
            f"seed {seed}: {len(study.trials())} trials, {len(front)} on the front, "
            f"{time.perf_counter() - start:.0f} s; "
            f"{macs:.3f} of the MACs, {params:.3f} of the parameters; test error full {100 * full_wrong.mean():.2f} %, "
            f"exported {100 * small_wrong.mean():.2f} % of {len(full_wrong)} images",
            flush=True,
        )
    paired = 100 * torch.cat(differences)
    half = 1.96 * paired.std() / len(paired) ** 0.5
    full, small = (100 * torch.stack(list(column)).mean() for column in zip(*rows, strict=True))
    print(
        f"mean of {arguments.seeds} seeds: full {full:.2f} %, exported {small:.2f} %, difference {paired.mean():+.2f} "
        f"points, 95 % interval {paired.mean() - half:+.2f} to {paired.mean() + half:+.2f} ({len(paired)} images)"
    )


if __name__ == "__main__":
    main()
