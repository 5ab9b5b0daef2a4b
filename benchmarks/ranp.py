"""RANP on 3D networks and real volumes: what each variant keeps of the costs, and the quality after how much training.

    pip download --no-deps nilearn==0.14.1 -d build/ranp
    apt-get download mricron-data
    dpkg-deb -x mricron-data_*.deb build/ranp
    python benchmarks/ranp.py [--seeds 3] [--kappa 0.75] [--only structures] [--print]

Two tasks (benchmarks/volumes.py): tissues of every voxel by a 3D U-Net, and ten brain structures by its way down. As in
Xu 2020 (arXiv 2010.02488), mask gradients are taken before any training, one patch at a time, and every network is
trained from new weights, with a schedule of its own for each number of steps. The full network is also trained for as
many steps as cost what the pruned network's training costs, in multiply-adds. Cells are kept in build/ranp, so that a
killed run goes on; `--print` prints those that are there. One core, about 40 minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import time

import numpy as np
import torch
from conventions import count_as_ranp
from torch import nn
from volumes import FOLDER, SIDE, Pairs, Task, structures, tissues

from secateur.pruners import METHODS, Examples, Request
from secateur.pruners.one_shot.fresh import fresh
from secateur.pruners.one_shot.neurons import kept_by, threshold
from secateur.spaces import Candidate, Space, build

TASKS = {"structures": structures, "tissues": tissues}
MASKS = 24  # patches that mask gradients are taken of
STEPS = {"tissues": (250, 500, 1000, 2000), "structures": (125, 250, 500, 1000)}
EXAMPLE = torch.zeros(1, 1, SIDE, SIDE, SIDE)
NAMES = {
    "random": "Random NP",
    "layer-wise": "Layer-wise NP",
    "ranp": "Vanilla NP",
    "ranp-w": "Weighted NP",
    "ranp-m": "RANP-m",
    "ranp-f": "RANP-f",
}


# --- widths -----------------------------------------------------------------------------------------------------------


def widths(row: str, task: Task, options: argparse.Namespace, seed: int) -> tuple[nn.Module, Space, Candidate, dict]:
    """The full network of a seed, its space, how wide a row makes each layer, and what the method says of it.

    A row is `"full"` or a method, with ` least=1` behind it for the paper's rows.
    """
    model = task.network(seed)
    space = Space.trace(model, EXAMPLE, divisor=1)
    method, _, least = row.partition(" least=")
    kappa = options.kappa
    if method == "full":
        return model, space, space.full, {}
    if method == "layer-wise":
        shares = [math.ceil(group.units * (1 - kappa) - 1e-9) for group in space.groups]
        return model, space, space.check(shares), {}
    if method == "random":
        last = int(task.training[1].max()) + 1
        random = np.random.default_rng(seed)
        s = [random.random(group.units) for group in space.groups] + [random.random(last)]
        theta = threshold(s, kept_by(kappa, sum(map(len, s))))
        return model, space, space.check([max(1, int((layer >= theta).sum())) for layer in s[:-1]]), {}
    every = len(task.training[0]) // MASKS
    pairs = zip(task.training[0][::every], task.training[1][::every], strict=True)
    examples = Examples(batches=[(x[None], y[None]) for x, y in pairs], loss=nn.functional.cross_entropy)
    settings = {} if method in ("ranp", "ranp-w") else {"strength": options.strength}
    settings |= {"least": int(least)} if least else {}
    proposal = METHODS[method](kappa=kappa, weights="fresh", **settings).propose(
        Request(model, space, {}, examples=examples, seed=seed)
    )
    return model, space, proposal.candidate, dict(proposal.notes)


def costs_of(model: nn.Module) -> dict[str, float]:
    found = count_as_ranp(model, EXAMPLE)
    return {
        "neurons": found.neurons,
        "mflops": 1000 * found.gflops,
        "memory_mib": found.memory_mib,
        "params_kib": 1024 * found.params_mib,
    }


# --- training ---------------------------------------------------------------------------------------------------------


def train(model: nn.Module, data: Pairs, steps: int, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(data[0]), (batch,), generator=generator)
        loss = nn.functional.cross_entropy(model(data[0][chosen]), data[1][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def kept(name: str, row: str, steps: int, seed: int, options: argparse.Namespace):
    settings = f"-{options.kappa:g}-{options.strength:g}" if row != "full" else ""
    return FOLDER / f"{name}-{row.replace(' ', '-')}-{seed}-{steps}{settings}.json"


def cell(name: str, row: str, steps: int, seed: int, options: argparse.Namespace, task: Task) -> dict:
    """A row trained for so many steps: its costs and quality."""
    file = kept(name, row, steps, seed, options)
    if file.exists():
        return json.loads(file.read_text())
    model, space, candidate, _ = widths(row, task, options, seed)
    small = build(model, space, candidate)
    fresh(small, seed)
    found = costs_of(small)
    start = time.process_time()
    train(small, task.training, steps, task.batch, seed)
    seconds = time.process_time() - start
    found |= {"seconds": seconds, "quality": task.quality(small, task.test), "widths": list(candidate)}
    found |= {"steps": steps, "teraflops": found["mflops"] * steps * task.batch / 1e6, "commit": commit()}
    file.write_text(json.dumps(found))
    print(f"{name}, {row}, {steps} steps, seed {seed}: {found['quality']:.2f} %, {seconds:.0f} s", flush=True)
    return found


def commit() -> str:
    said = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=FOLDER.parents[1]
    )
    return said.stdout.strip() or "unknown"


def equal(name: str, row: str, steps: int, seed: int, options: argparse.Namespace, full: float) -> int:
    """Steps of the full network that cost what these steps of a row cost."""
    found = json.loads(kept(name, row, steps, seed, options).read_text())
    return math.ceil(steps * found["mflops"] / full)


# --- the run ----------------------------------------------------------------------------------------------------------


def run(names: list[str], options: argparse.Namespace) -> None:
    """All cells, those that matter most first, of all tasks in turns."""
    tasks = {name: TASKS[name]() for name in names}
    full = {name: costs_of(task.network(0))["mflops"] for name, task in tasks.items()}
    first, second, third, last = range(4)
    order = [
        *(("ranp-f", third), ("full", second), ("ranp-f", first), ("ranp-f least=1", third), ("ranp-f", second)),
        *(("ranp-f", last), ("full", first), ("full", third), ("layer-wise", third), ("ranp-m", third)),
    ]
    for row, rung in order:
        for name, task in tasks.items():
            steps = STEPS[name][rung]
            for seed in range(options.seeds):
                cell(name, row, steps, seed, options, task)
                if row == "ranp-f":
                    cell(name, "full", equal(name, row, steps, seed, options, full[name]), seed, options, task)


def spread(values: list[float], digits: int) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(set(values)) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def print_costs(name: str, options: argparse.Namespace) -> None:
    """What each variant keeps of the costs; nothing is trained for it."""
    task = TASKS[name]()
    full = costs_of(task.network(0))
    print(f"\n{name}: kappa {options.kappa:g}, lambda {options.strength:g}, {options.seeds} seeds\n")
    print("| | neurons | parameters KiB | MFLOPs | memory MiB | kappa_max | held at 1 | least kept |")
    print("|---|---|---|---|---|---|---|---|")
    numbers = f"{full['params_kib']:.1f} | {full['mflops']:.1f} | {full['memory_mib']:.2f}"
    print(f"| Full | {full['neurons']} | {numbers} | | | |")
    for row in [name + " least=1" if "ranp" in name else name for name in NAMES] + ["ranp-m", "ranp-f"]:
        found, notes, least = [], [], []
        for seed in range(options.seeds):
            model, space, candidate, said = widths(row, task, options, seed)
            found.append(costs_of(build(model, space, candidate)))
            notes.append(said)
            least.append(min(candidate))
        mean = {key: [one[key] for one in found] for key in full}
        less = {key: f"{100 * (statistics.mean(mean[key]) / full[key] - 1):+.1f} %" for key in ("mflops", "memory_mib")}
        method, _, asked = row.partition(" ")
        most = spread([one["kappa_max"] for one in notes], 3) if "kappa_max" in notes[0] else "-"
        held = spread([len(one.get("held", [])) for one in notes], 1) if "kappa_max" in notes[0] else "-"
        print(
            f"| {NAMES[method]}{', `' + asked + '`' if asked else ''} | {spread(mean['neurons'], 0)} "
            f"| {spread(mean['params_kib'], 1)} | {spread(mean['mflops'], 1)} ({less['mflops']}) "
            f"| {spread(mean['memory_mib'], 2)} ({less['memory_mib']}) | {most} | {held} | {min(least)} |"
        )


def print_quality(name: str, options: argparse.Namespace) -> None:
    """Quality against steps and against compute, and what is paired with the full network of the same compute."""
    ladder, seeds = STEPS[name], range(options.seeds)
    full = costs_of(TASKS[name]().network(0))
    commits = set()
    print(f"\n| {name}: row | steps | FLOPs | memory | compute, TFLOPs | processor seconds | quality % |")
    print("|---|---|---|---|---|---|---|")
    pairs = []
    for row in ("full", "ranp-f", "ranp-f least=1", "ranp-m", "layer-wise"):
        for steps in ladder:
            paths = [kept(name, row, steps, seed, options) for seed in seeds]
            if not all(path.exists() for path in paths):
                continue
            cells = [json.loads(path.read_text()) for path in paths]
            commits |= {one["commit"] for one in cells}
            print_row(row, f"{steps:,}", cells, full)
            if row != "ranp-f":
                continue
            same = [
                kept(name, "full", equal(name, row, steps, seed, options, full["mflops"]), seed, options)
                for seed in seeds
            ]
            if all(path.exists() for path in same):
                pairs.append((steps, cells, [json.loads(path.read_text()) for path in same]))
    for steps, ours, theirs in pairs:
        print_row("full, same compute", f"{statistics.mean(one['steps'] for one in theirs):.0f}", theirs, full)
        gaps = [mine["quality"] - other["quality"] for mine, other in zip(ours, theirs, strict=True)]
        said = f"{spread(gaps, 2)} ({', '.join(f'{gap:+.2f}' for gap in gaps)})"
        print(f"| `ranp-f` at {steps:,} steps less that | | | | | | {said} |")
        commits |= {one["commit"] for one in theirs}
    print(f"\nCommits: {', '.join(sorted(commits))}")


def print_row(row: str, steps: str, cells: list[dict], full: dict[str, float]) -> None:
    less = [
        f"{100 * (statistics.mean(one[key] for one in cells) / full[key] - 1):+.1f} %"
        for key in ("mflops", "memory_mib")
    ]
    columns = (("teraflops", 3), ("seconds", 0), ("quality", 2))
    shown = [spread([one[key] for one in cells], digits) for key, digits in columns]
    print(f"| {row} | {steps} | {' | '.join(less + shown)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kappa", type=float, default=0.75, help="share of neurons to go, of all methods")
    parser.add_argument("--strength", type=float, default=11.0, help="lambda of RANP-f and RANP-m")
    parser.add_argument("--only", choices=list(TASKS), nargs="+", default=list(TASKS))
    parser.add_argument("--costs", action="store_true", help="print what every variant keeps of the costs, too")
    parser.add_argument("--print", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.print:
        run(options.only, options)
    for name in options.only:
        if options.costs:
            print_costs(name, options)
        print_quality(name, options)


if __name__ == "__main__":
    main()
