"""Predicted against measured latency of networks that the model has not seen, and a search within milliseconds.

    python benchmarks/latency.py [--networks residual residual64 volumes] [--search] [--page]

For each network a few dozen candidates calibrate the model as in a study; then 100 others are measured, eight at a
time, interleaved, on one thread. Half of those are drawn evenly over all axes, half are brought within a random budget
of multiply-adds, as a search does it. With each eight goes one network that is always the same: how far its medians
scatter is the noise that no model can predict. `--search` runs a study within `latency_ms`, exports its front and
measures the exported networks again. What was measured is kept under `build/latency/`, so that a second call goes on;
`--page` writes `docs/latency.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from landscapes import tiny_task, tiny_training  # noqa: E402
from networks3d import unet3d  # noqa: E402

from secateur import Budget, Search, Space, Study, load  # noqa: E402
from secateur.evaluators import Latency  # noqa: E402
from secateur.studies.disk.files import write_atomic  # noqa: E402
from secateur.studies.outcomes.latency import GROUP, Latencies  # noqa: E402
from secateur.studies.study_files.networks import resnet20  # noqa: E402

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "latency"
TARGET = 0.05


def residual():
    """A residual network of 14 layers, 32 to 128 channels, for 32x32."""
    return resnet20(channels=3, widths=(32, 64, 128), blocks=(2, 2, 2), stride=1), (3, 32, 32), (32, 28, 24, 20, 16)


def residual64():
    """A residual network of 20 layers, 16 to 64 channels, for 64x64."""
    return resnet20(channels=3, stride=1), (3, 64, 64), (64, 56, 48, 40, 32)


def volumes():
    """A 3D U-Net, 16 to 128 channels, for 24x24x24."""
    return unet3d(1, 4, base=16), (1, 24, 24, 24), (24, 16)


NETWORKS = {"residual": (residual, 30), "residual64": (residual64, 30), "volumes": (volumes, 9)}


def made(name):
    make, repeats = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, shape, sides = make()
    space = Space.trace(model.eval(), torch.zeros(1, *shape), resolutions=sides, divisor=1)
    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    options = Latency(threads=1, repeats=repeats)
    return space, Latencies(folder, model=model, space=space, device=torch.device("cpu"), options=options)


def unseen(space, known, count, seed):
    """Candidates that calibrate nothing: drawn evenly, and by turns brought within 10 to 80 % of the multiply-adds."""
    random, full = np.random.default_rng(seed), space.full_costs["macs"]
    least = float(space.cost_table([space.smallest])["macs"][0])
    found = {}
    for number, candidate in enumerate(space.sample(4 * count, seed)):
        if number % 2:
            candidate = space.repair(candidate, {"macs": max(random.uniform(0.1, 0.8) * full, least)})
        if candidate not in known:
            found[candidate] = None
    return list(found)[:count]


def measured(name, count, networks, seed):
    """Calibrate and measure what is missing; returns the latencies, the unseen rows, and the noise."""
    space, latencies = made(name)
    latencies.calibrate(count)
    wanted = unseen(space, {row.candidate for row in latencies.rows}, networks, seed)
    same = latencies.rows[len(latencies.rows) // 2].candidate
    path = latencies.path.with_name(latencies.path.name.replace("latency", f"unseen-{networks}-{seed}"))
    rows = json.loads(path.read_text()) if path.exists() else []
    while len(rows) < len(wanted):
        group = wanted[len(rows) : len(rows) + GROUP]
        *timings, again = latencies.measure([*group, same])
        rows += [[timing.ms, timing.spread, again.ms] for timing in timings]
        write_atomic(path, json.dumps(rows))
    repeated = np.unique(np.array(rows)[:, 2])
    return space, latencies, space.encode(wanted), np.array(rows)[:, 0], np.abs(repeated / np.median(repeated) - 1)


def cell(name, arguments):
    """One line of the table."""
    space, latencies, encoded, ms, noise = measured(name, arguments.count, arguments.unseen, arguments.seed)
    start = time.perf_counter()
    model = latencies.model()
    fitting = time.perf_counter() - start
    off = np.abs(model.predict(encoded) / ms - 1)
    many = np.repeat(encoded, 100, axis=0)
    start = time.perf_counter()
    model.predict(many)
    each = (time.perf_counter() - start) / len(many)
    macs = space.cost_table(encoded)["macs"].astype(float)
    full = latencies.rows[0]
    by_macs = np.median(np.abs(np.median(ms / macs) * macs / ms - 1))
    return {
        "network": name,
        "axes": len(space.axes),
        "full_ms": full.latency_ms,
        "range_ms": [float(ms.min()), float(ms.max())],
        "measured": model.rows,
        "unseen": len(ms),
        "stated": model.error,
        "median": float(np.median(off)),
        "ninety": float(np.quantile(off, 0.9)),
        "macs_alone": float(by_macs),
        "margin": model.margin,
        "within": float(np.mean(ms <= model.predict(encoded) * (1 + model.margin))),
        "noise": float(np.median(noise)),
        "step": model.step,
        "native": model.native,
        "us": 1e6 * each,
        "fit_s": fitting,
    }


def search(arguments):
    """A study within 60 % of the full network's latency; its exported front, measured again."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet20(classes=4, widths=(32, 64, 128), blocks=(2, 2, 2), stride=1)
    space = Space.trace(model.eval(), torch.zeros(1, 1, 12, 12), resolutions=(8, 10, 12), divisor=2)
    folder = KEPT / f"search-{commit()}"
    task = tiny_task(images=256)
    if (folder / "study").exists():
        study = Study.open(folder / "study", model=model, task=task)
    else:
        study = Study.create(
            folder / "study",
            model=model,
            task=task,
            space=space,
            budget=Budget(latency_ms="60%"),
            training=tiny_training(),
            search=Search(objectives=("error", "latency_ms"), threads=1),
        )
    study.run(arguments.trials)
    exported = folder / "exported"
    if not exported.exists() and len(study.front()):
        study.export(exported, pick="all", finetune_epochs=1, formats=["safetensors", "pt2"])
    trials, limit = study.trials(), study.status().limits["latency_ms"]
    latencies = Latencies(folder, model=model, space=space, device=torch.device("cpu"), options=Latency(threads=1))
    networks = []
    for path in sorted(path for path in exported.glob("*") if path.is_dir()):
        config = json.loads((path / "config.json").read_text())
        candidate = space.check(config["candidate"])
        networks.append((candidate, config["costs"]["latency_ms"], load(path, model)))
    again = (
        [] if not networks else latencies.measure([one for one, *_ in networks], [network for *_, network in networks])
    )
    tried = trials[trials.source != "seed:full"]
    return {
        "limit": limit,
        "trials": len(trials),
        "over": int((tried.latency_ms > limit).sum()),
        "exported": [[ms, timing.ms, timing.spread] for (_, ms, _), timing in zip(networks, again, strict=True)],
    }


def commit():
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return said.stdout.strip() or "unknown"


COLUMNS = (
    "network, axes, full ms, unseen ms, rows, stated error, median error, 90 %, by MACs alone, noise, limit held, "
    "step, small inputs apart, us each"
).split(", ")
NOTES = """\
*Rows*: networks measured to calibrate. *Stated*: the model's own cross-validated median error; *median* and *90 %*: of
|predicted / measured - 1| over the unseen networks. *By MACs alone*: the same median where milliseconds are
proportional to multiply-adds. *Noise*: the same for one network that is measured again with every eight. *Limit held*:
the share that took no longer than the prediction with the model's margin, which is made for 80 %. *Step*: channels are
rounded up to it; where several steps do as well, the smallest. *Small inputs apart*: PyTorch computes convolutions of
small inputs on the CPU another way, and the model counts them apart."""
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def line(one):
    low, high = one["range_ms"]
    return (
        f"| {one['network']} | {one['axes']} | {one['full_ms']:.2f} | {low:.2f} to {high:.2f} | {one['measured']} "
        f"| {one['stated']:.1%} | {one['median']:.1%} | {one['ninety']:.1%} | {one['macs_alone']:.0%} "
        f"| {one['noise']:.1%} | {one['within']:.0%} | {one['step']} | {'yes' if one['native'] else 'no'} "
        f"| {one['us']:.1f} |"
    )


def said(found):
    """What the search found, in a paragraph."""
    under = sum(again <= found["limit"] for _, again, _ in found["exported"])
    pairs = ", ".join(f"{again:.3f} ({ms:.3f})" for ms, again, _ in found["exported"])
    return (
        f"{found['trials']} trials within latency_ms = 60 % of the full network, {found['limit']:.3f} ms: "
        f"{found['over']} of the candidates were over it when they were measured, and not trained. Of "
        f"{len(found['exported'])} exported networks {under} meet it when measured again; milliseconds again (as in "
        f"their trial): {pairs}."
    )


def page(text):
    """docs/latency.md."""
    (ROOT / "docs" / "latency.md").write_text(
        "\n".join(
            [
                "# Latency",
                "",
                __doc__.strip().splitlines()[0],
                "",
                "    python benchmarks/latency.py --search --page",
                "",
                *(f"- `{name}`: {make.__doc__}" for name, (make, _) in NETWORKS.items()),
                "",
                text,
                "",
                NOTES,
                "",
            ]
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--count", type=int, default=48, help="networks that calibrate")
    parser.add_argument("--unseen", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7, help="of the unseen networks")
    parser.add_argument("--search", action="store_true", help="a study within latency_ms, too")
    parser.add_argument("--trials", type=int, default=24, help="of that study")
    parser.add_argument("--page", action="store_true", help="write docs/latency.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [HEAD]
    print(HEAD, flush=True)
    for name in arguments.networks:
        lines.append(line(cell(name, arguments)))
        print(lines[-1], flush=True)
    last = f"commit {commit()}, seed {arguments.seed}, n = {arguments.unseen} unseen networks each, one thread"
    lines += ["", last + "."]
    if arguments.search:
        lines += ["", said(search(arguments))]
    print("\n".join(lines[1 + len(arguments.networks) :]))
    if arguments.page:
        page("\n".join(lines))


if __name__ == "__main__":
    main()
