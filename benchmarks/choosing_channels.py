"""Which channels to keep where nothing is trained afterwards: ways of choosing, and Torch-Pruning's cuts beside them.

    pip install --no-deps torch-pruning==1.6.1
    python benchmarks/choosing_channels.py --data FOLDER [--only l2 osscar] [--seeds 1] [--again]
    python benchmarks/choosing_channels.py --page

The residual network of benchmarks/fashion.py on Fashion-MNIST (FOLDER holds its four IDX files), cut to shares of its
multiply-adds and reconstructed from 1,024 training images without their labels. Torch-Pruning's cut of the same size
is found again as a candidate and scores of ours, so that `reconstruct` can be given it. Cells are kept in
build/choosing_channels; `--page` writes docs/choosing_channels.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from fashion import commit, peer
from without_training import agreed, fashion

from secateur import Training, build, reconstruct
from secateur.evaluators import recalibrate
from secateur.pruners import Proposal, realised
from secateur.studies.proposals.pruning import Pruning, method_named
from secateur.studies.proposals.seeds import Aim

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "choosing_channels"
SHARES = (0.75, 0.5, 0.3, 0.15)
PEER = "torch-pruning l1"
WAYS = {
    "uniform": ("uniform", {}),
    "l2": ("l2", {}),
    "l2, knapsack": ("l2", {"allocation": "knapsack"}),
    "flap": ("flap", {}),
    "thinet": ("thinet", {}),
    "thinet, knapsack": ("thinet", {"allocation": "knapsack"}),
    "merge": ("merge", {}),
    "osscar, threshold": ("osscar", {"allocation": "threshold"}),
    "osscar, no swaps": ("osscar", {"swaps": 0}),
    "osscar": ("osscar", {}),
}
"""Method and settings of every row."""


def of_peer(model, space, task, limit, kind="l1", side=28):
    """Torch-Pruning's cut, as a proposal of ours that gives the very same network."""
    theirs = peer(kind, model, limit, task, side).state_dict()
    full, candidate, scores = model.state_dict(), list(space.full), {}
    for number, group in enumerate(space.groups):
        norm = next(layer.norm for layer in space.layers if layer.norm and group.holds(layer.makes).all())
        kept = torch.isin(full[norm.mean], theirs[norm.mean])  # no two channels have one mean
        assert int(kept.sum()) == len(theirs[norm.mean])
        scores[group.name], candidate[number] = kept.float(), int(kept.sum())
    found = Proposal(candidate=space.canonical(candidate), scores=scores)
    ours = build(model, space, found.candidate, scores).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    return found


def cell(name, share, model, task, space, images, seed):
    """Errors of what a way of choosing cuts: as it is, recalibrated, and reconstructed."""
    limits = {"macs": share * space.full_costs["macs"]}
    started = time.process_time()
    if name == PEER:
        found = of_peer(model, space, task, limits["macs"])
    else:
        pruning = Pruning(
            model=model, space=space, task=task, training=Training(pruning_images=1024), seed=seed,
            device=torch.device("cpu"),
        )  # fmt: skip
        method, settings = WAYS[name]
        found = pruning.propose(method_named(method, settings), Aim(limits=limits))
    seconds = time.process_time() - started
    wanted, labels = agreed(model, task), torch.cat([batch.targets for batch in task.loader("test", None, None)])
    errors, agreement = {}, {}
    for way in ("inherited", "recalibrated", "reconstructed"):
        small = realised(model, space, found)
        if way == "recalibrated":
            recalibrate(small, task, images=len(images))
        if way == "reconstructed":
            asked = {"candidate": found.candidate, "scores": found.scores, "images": images}
            reconstruct(small, model=model, space=space, **asked)
        seen = agreed(small, task)
        errors[way] = float((seen != labels).float().mean())
        agreement[way] = float((seen == wanted).float().mean())
    return {
        "errors": errors,
        "agreement": agreement,
        "seconds": seconds,
        "macs": float(space.cost_table([found.candidate])["macs"][0]) / space.full_costs["macs"],
        "full": float((wanted != labels).float().mean()),
        "tested": len(labels),
        "commit": commit(),
    }


def rows():
    """`{(share, way): cells of all seeds}` of what is kept."""
    found = {}
    for share in SHARES:
        for name in (*WAYS, PEER):
            paths = sorted(KEPT.glob(f"{name.replace(' ', '-')}-{share}-*.json"))
            if paths:
                found[share, name] = [json.loads(path.read_text()) for path in paths]
    return found


INTRODUCTION = """# Choosing channels where nothing is trained

Which channels stay, and how many of each layer, when the network is not trained afterwards: what is left is what
`secateur.reconstruct` can make of it, from {pictures} training images without their labels. A residual network on
Fashion-MNIST ({full:.1f} % error, {seeds} seed{s}); errors in percent on {tested:,} test images (standard error of a
figure: at most {half:.1f} points; differences between rows of the same images are surer). *Seconds* are those of one
core for choosing.

`l2` and `flap` allocate widths by one threshold, `uniform` and `thinet` keep the same share of every layer, and
*knapsack* measures what every width costs the layers that read it. `merge` and `osscar` have the knapsack unless it
says otherwise. `{peer}` is Torch-Pruning 1.6.1 with group-L1 importance and global ranking; its cut is the very
same network that `build` makes.

In the run below `osscar` is ahead at 30 and 15 %, of `l2` by 1.6 and 3.3 points; at 75 and 50 % the ways lie within a
point, which one seed does not tell apart. `merge` is the best to take as it is, without solving or training, down to
30 %; once layers are solved, it is among the worst below half. One threshold over the damages of `osscar` does 13
points worse at 15 % than the knapsack over the same damages.

    pip install --no-deps torch-pruning==1.6.1
    python benchmarks/choosing_channels.py --data FOLDER
    python benchmarks/choosing_channels.py --page

Commits: {commits}.
"""


def page():
    """The page, of the cells that are kept."""
    found = rows()
    flat = [cell for cells in found.values() for cell in cells]
    seeds = max(len(cells) for cells in found.values())
    text = INTRODUCTION.format(
        pictures="1,024",
        full=100 * statistics.mean(cell["full"] for cell in flat),
        seeds=seeds,
        s="s" * (seeds > 1),
        tested=flat[0]["tested"],
        half=100 * (0.25 / flat[0]["tested"]) ** 0.5,
        peer=PEER,
        commits=", ".join(sorted({cell["commit"] for cell in flat})),
    )
    lines = [text]
    for share in SHARES:
        lines += [
            f"## At most {share:.0%} of the multiply-adds",
            "",
            "| chosen by | inherited | recalibrated | reconstructed | agreement with the full one | MACs | seconds |",
            "| --- " * 7 + "|",
        ]
        for (at, name), cells in found.items():
            if at == share:
                shown = [
                    f"{100 * statistics.mean(cell['errors'][way] for cell in cells):.1f}"
                    for way in ("inherited", "recalibrated", "reconstructed")
                ]
                alike = 100 * statistics.mean(cell["agreement"]["reconstructed"] for cell in cells)
                macs, took = (statistics.mean(cell[key] for cell in cells) for key in ("macs", "seconds"))
                lines.append(f"| {name} | {' | '.join(shown)} | {alike:.1f} | {macs:.3f} | {took:.1f} |")
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of the four IDX files")
    parser.add_argument("--only", nargs="+", default=(*WAYS, PEER))
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="run cells that are kept, too")
    parser.add_argument("--page", action="store_true", help="write docs/choosing_channels.md")
    asked = parser.parse_args()
    if asked.page:
        (ROOT / "docs" / "choosing_channels.md").write_text(page())
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    for seed, *rest in fashion(asked.data, asked.seeds):
        for share in asked.shares:
            for name in asked.only:
                path = KEPT / f"{name.replace(' ', '-')}-{share}-{seed}.json"
                if path.exists() and not asked.again:
                    continue
                found = cell(name, share, *rest, seed)
                path.write_text(json.dumps(found))
                shown = ", ".join(f"{way} {100 * error:.1f}" for way, error in found["errors"].items())
                print(f"{name} at {share}, seed {seed}: {shown}; {found['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
