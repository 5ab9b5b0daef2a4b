"""Every pruning method alone, at three budgets, with the same total epochs: error of the network it ends with.

    python benchmarks/pruners.py --data FOLDER [--only taylor resrep] [--seeds 3] [--again] [--page]

One small residual network on 10,000 training images of Fashion-MNIST (FOLDER holds its four IDX files; Debian's package
dataset-fashion-mnist brings them), a base network a seed. A method that prunes while it trains uses half of the epochs
for that, and the rest for fine-tuning; all others use all of them for fine-tuning. Cells run one by one and are kept in
build/pruners, so the table can be filled over several sittings. The peer, Torch-Pruning, prunes the same base networks
to the same multiply-adds (counted by Secateur's convention on its network) and is fine-tuned by the same loop.

`--page` writes docs/pruners.md from what is kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from scipy.stats import t as student

from secateur import Classification, Space, Training
from secateur.evaluators import measure_error, recalibrate, train
from secateur.pruners import METHODS, realised
from secateur.studies.proposals.pruning import Pruning, method_named
from secateur.studies.proposals.seeds import Aim
from secateur.studies.study_files.data import Data
from secateur.studies.study_files.networks import resnet20

KEPT = Path(__file__).parents[1] / "build" / "pruners"
SHARES = (0.5, 0.3, 0.15)
IMAGES, EPOCHS, BASE_EPOCHS = 10_000, 8, 15
PEERS = {"torch-pruning l1": "l1", "torch-pruning taylor": "taylor"}
SETTINGS = {"lr": 0.05, "warmup": 0.1, "pruning_epochs": EPOCHS // 2, "pruning_images": 1024}


def data(folder):
    """10,000 training, 5,000 validation and 10,000 test images."""
    task = Data(reader="fashion_mnist", path=folder, validation=5000).task()
    splits = {}
    for name, count in (("train", IMAGES), ("validation", 5000), ("test", 10_000)):
        batches = list(task.loader(name, None, None))
        images = torch.cat([batch.inputs for batch in batches])[:count]
        splits[name] = images, torch.cat([batch.targets for batch in batches])[:count]
    return Classification(**splits, batch=128, normalise="measure")


def network(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return resnet20(widths=(16, 32, 64), blocks=(1, 1, 1))


def errors(model, task):
    return {split: measure_error(model, task, split=split).compute() for split in ("validation", "test")}


def base(seed, task):
    """The trained full network of a seed, and its errors."""
    path = KEPT / f"base-{seed}.safetensors"
    model = network(seed)
    if path.exists():
        model.load_state_dict(load_file(path))
    else:
        train(model, task, Training(lr=0.1, warmup=0.1), epochs=BASE_EPOCHS, seed=seed)
        KEPT.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), path)
    return model.eval()


def cell(name, share, seed, task):
    """What a method makes at a share of the multiply-adds."""
    model, training = base(seed, task), Training(**SETTINGS)
    space = Space.trace(model, torch.rand(1, 1, 28, 28), divisor=1)
    full = space.full_costs["macs"]
    started = time.process_time()
    phase, notes = 0, {}
    if name in PEERS:
        small = peer(PEERS[name], model, share * full, task)
    elif name == "full":
        small = copy.deepcopy(model)
    else:
        method = method_named(name)
        pruning = Pruning(model=model, space=space, task=task, training=training, seed=seed, device=torch.device("cpu"))
        proposal = pruning.propose(method, Aim(limits={"macs": share * full}))
        phase = training.pruning_epochs if method.needs == "training" else 0
        small, notes = realised(model, space, proposal), dict(proposal.notes)
    seconds = time.process_time() - started
    macs = macs_of(small)
    assert name == "full" or macs <= share * full, (name, macs, share * full)
    recalibrate(small, task, images=2048)
    before = errors(small, task)
    train(small, task, training, epochs=EPOCHS - phase, seed=seed)
    return {
        "method": name,
        "share": share,
        "seed": seed,
        "macs": macs / full,
        "seconds": seconds,
        "phase": phase,
        "before": before,
        "errors": errors(small, task),
        "notes": notes,
        "commit": commit(),
    }


def macs_of(model):
    space = Space.trace(model.eval(), torch.rand(1, 1, 28, 28), divisor=1)
    return space.full_costs["macs"]


def peer(kind, model, limit, task):
    """Torch-Pruning's network within the limit: global pruning, the largest ratio of a bisection."""
    import torch_pruning as tp

    importance = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "taylor": tp.importance.GroupTaylorImportance,
    }
    example = torch.rand(1, 1, 28, 28)

    def pruned(ratio):
        small = copy.deepcopy(model)
        if kind == "taylor":
            for _, batch in zip(range(8), task.loader("train", None, None), strict=False):
                outputs, targets = task.forward(small, batch)
                task.loss(outputs, targets).backward()
        tp.pruner.MetaPruner(
            small,
            example,
            importance=importance[kind](),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=0.95,
            ignored_layers=[small.head],
        ).step()
        small.zero_grad(set_to_none=True)
        return small

    low, high = 0.0, 0.95
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if macs_of(pruned(middle)) <= limit else (middle, high)
    return pruned(high)


def commit():
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=KEPT.parents[1])
    return said.stdout.strip() or "unknown"


def kept(name, share, seed):
    return KEPT / f"{name.replace(' ', '-')}-{share}-{seed}.json"


def rows(seeds):
    """`{(method, share): cells of all seeds}` of what is kept."""
    found = {}
    for name in ("full", *METHODS, *PEERS):
        for share in SHARES:
            paths = [kept(name, share, seed) for seed in range(seeds)]
            cells = [json.loads(path.read_text()) for path in paths if path.exists()]
            if cells:
                found[name, share] = cells
    return found


def mean_and_error(values):
    """Mean and standard error; NaN with one value."""
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def said(cells, split):
    mean, error = mean_and_error([100 * cell["errors"][split] for cell in cells])
    if len(cells) < 2:
        return f"{mean:.2f} (1 seed)"
    half = error * student.ppf(0.975, len(cells) - 1)
    return f"{mean:.2f} ± {half:.2f}"


INTRODUCTION = """# Pruning methods, each alone

One residual network of 8 layers (2.55 million multiply-adds, 77,754 parameters) on Fashion-MNIST: 10,000 images to
train on, 5,000 for validation, 10,000 to test; {seeds} seeds, each with a base network of its own ({base} epochs).
Every method gets the same {epochs} epochs after the base network: one that prunes while it trains uses {phase} of them
for that. Errors in percent with the 95 % interval of the mean over the seeds (Student's t: with 3 seeds it is wide);
nothing was chosen by the test error. Seconds are processor seconds of one core for scoring and choosing, or for the
pruning phase, median of all cells.

`full` is the whole network, trained for the same epochs more. `torch-pruning` is Torch-Pruning 1.6.1 with group-L1
and group-Taylor importance, global ranking, at most the same multiply-adds, fine-tuned by the same loop.

    python benchmarks/pruners.py --data FOLDER
    python benchmarks/pruners.py --page

Commits: {commits}. n: 10,000 test images a seed."""


def page(seeds):
    found = rows(seeds)
    commits = sorted({cell["commit"] for cells in found.values() for cell in cells})
    out = INTRODUCTION.format(
        seeds=seeds, base=BASE_EPOCHS, epochs=EPOCHS, phase=EPOCHS // 2, commits=", ".join(commits)
    )
    out = out.splitlines()
    left = ", ".join(f"`{name}`" for name in METHODS if all(name != one for one, _ in found))
    out += ["", f"Not run here: {left}; [methods.md](methods.md) lists all."] if left else []
    for share in SHARES:
        here = {name: cells for (name, at), cells in found.items() if at == share}
        order = sorted(here, key=lambda name: statistics.mean(cell["errors"]["validation"] for cell in here[name]))
        out += ["", f"## At most {share:.0%} of the multiply-adds", ""]
        out += ["| method | validation error % | test error % | before fine-tuning, test % | MACs | seconds |"]
        out += ["| --- | --- | --- | --- | --- | --- |"]
        for name in order:
            cells = here[name]
            before = statistics.mean(100 * cell["before"]["test"] for cell in cells)
            macs = statistics.mean(cell["macs"] for cell in cells)
            seconds = statistics.median(cell["seconds"] for cell in cells)
            shown = f"{before:.1f} | {macs:.3f} | {seconds:.1f}"
            out.append(f"| {name} | {said(cells, 'validation')} | {said(cells, 'test')} | {shown} |")
    out += ["", "## Against the same criterion in Torch-Pruning", ""]
    out += [
        "| pair | MACs | difference of test errors, points | standard error over the seeds |",
        "| --- | --- | --- | --- |",
    ]
    for twin, name in PEERS.items():
        for share in SHARES:
            ours, theirs = found.get((name, share), []), found.get((twin, share), [])
            pairs = {cell["seed"]: cell["errors"]["test"] for cell in theirs}
            gaps = [100 * (cell["errors"]["test"] - pairs[cell["seed"]]) for cell in ours if cell["seed"] in pairs]
            if gaps:
                mean, error = mean_and_error(gaps)
                out.append(f"| {name} - {twin} | {share} | {mean:+.2f} | {error:.2f} |")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of the four IDX files")
    parser.add_argument("--only", nargs="+", default=["full", *METHODS, *PEERS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="run cells that are kept, too")
    parser.add_argument("--page", action="store_true", help="write docs/pruners.md")
    arguments = parser.parse_args()
    if arguments.page:
        (KEPT.parents[1] / "docs" / "pruners.md").write_text(page(arguments.seeds))
        return
    task = data(arguments.data)
    for seed in range(arguments.seeds):
        for name in arguments.only:
            for share in SHARES:
                path = kept(name, share, seed)
                if name == "full" and share != SHARES[0] or path.exists() and not arguments.again:
                    continue
                try:
                    found = cell(name, share, seed, task)
                except ValueError as error:
                    print(f"{name} at {share}, seed {seed}: {error}", file=sys.stderr, flush=True)
                    continue
                path.write_text(json.dumps(found))
                test = 100 * found["errors"]["test"]
                print(f"{name} at {share}, seed {seed}: test {test:.2f} %, {found['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
