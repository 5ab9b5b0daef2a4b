"""ResRep on the 5,000 digits: test error at half the multiply-adds beside the full network's, with several seeds.

    python benchmarks/resrep.py --seeds 3

For each seed a residual network of 20 layers is trained, compacted within half its multiply-adds, merged and
fine-tuned; `--control` trains the full network on for as many epochs. All are tested once, at the end, on the same
held-out images of that seed's split. The interval is 95 %, from the paired differences of the single images, all seeds
together. What a seed has finished is kept under `build/resrep/`, so that a second call goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch

from secateur.evaluators import Augment, Training, train
from secateur.pruners import Request, realised
from secateur.pruners.resrep.resrep import ResRep
from secateur.spaces import Space
from secateur.studies.study_files.data import Data
from secateur.studies.study_files.networks import resnet20

AUGMENT = Augment(shift=0.1, rotate=10.0, scale=0.1)
FINE_TUNING = Training(lr=0.02)


def wrong(model, task):
    """`(images,)` 1 where the network errs on the test split."""
    model.eval()
    with torch.no_grad():
        pairs = [task.forward(model, batch) for batch in task.loader("test", None, None)]
    return [int(value) for outputs, targets in pairs for value in outputs.argmax(1) != targets]


def base(task, seed, epochs, folder):
    """The full network, trained once for all settings of a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = resnet20(channels=1, classes=10)
    kept = folder / f"base-{seed}-{epochs}.pt"
    if not kept.exists():
        train(model, task, Training(lr=0.1, warmup=0.1), epochs=epochs, seed=seed)
        torch.save(model.state_dict(), kept)
    model.load_state_dict(torch.load(kept, weights_only=True))
    return model


def cell(arguments, seed):
    """The figures of one seed."""
    task = Data(validation=0.1, test=0.3, split_seed=seed, batch=64, augment=AUGMENT, normalise="measure").task()
    model = base(task, seed, arguments.base, arguments.out)
    space = Space.trace(model, torch.zeros(1, 1, 28, 28), divisor=2)
    full = space.costs([space.full]).iloc[0]
    start = time.perf_counter()
    phase = ResRep().start(Request(model, space, {"macs": arguments.budget * float(full["macs"])}, seed=seed))
    train(phase.model, task, Training(lr=arguments.lr), epochs=arguments.epochs, seed=seed + 1000, callbacks=[phase])
    seconds = time.perf_counter() - start
    proposal = phase.proposal()
    small = realised(model, space, proposal)
    unmerged, merged = wrong(phase.model, task), wrong(small, task)
    train(small, task, FINE_TUNING, epochs=arguments.fine, seed=seed + 2000)
    found = {
        "full": wrong(model, task),
        "unmerged": unmerged,
        "merged": merged,
        "tuned": wrong(small, task),
        "notes": dict(proposal.notes),
        "widths": list(proposal.candidate),
        "macs": float(space.costs([proposal.candidate])["macs"].iloc[0] / full["macs"]),
        "params": float(space.costs([proposal.candidate])["params"].iloc[0] / full["params"]),
        "seconds": seconds,
    }
    if arguments.control:
        longer = copy.deepcopy(model)
        train(longer, task, Training(lr=arguments.lr), epochs=arguments.epochs, seed=seed + 1000)
        train(longer, task, FINE_TUNING, epochs=arguments.fine, seed=seed + 2000)
        found["control"] = wrong(longer, task)
    return found


def interval(pairs):
    """Mean and half a 95 % interval, in points, of `(images,)` differences of two lists of errors."""
    differences = 100 * torch.cat([torch.tensor(a).double() - torch.tensor(b).double() for a, b in pairs])
    return float(differences.mean()), float(1.96 * differences.std() / len(differences) ** 0.5), len(differences)


def percent(errors):
    return 100 * sum(errors) / len(errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", type=int, default=20, help="epochs of the full network")
    parser.add_argument("--epochs", type=int, default=50, help="epochs with compactors")
    parser.add_argument("--fine", type=int, default=10, help="epochs after merging")
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--control", action="store_true", help="train the full network on, too")
    parser.add_argument("--out", type=Path, default=Path("build/resrep"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cells = []
    for seed in range(arguments.seeds):
        settings = f"{arguments.base}-{arguments.epochs}-{arguments.fine}-{arguments.lr:g}-{arguments.budget:g}"
        kept = arguments.out / f"seed-{seed}-{settings}{'-control' if arguments.control else ''}.json"
        if not kept.exists():
            kept.write_text(json.dumps(cell(arguments, seed)))
        cells.append(json.loads(kept.read_text()))
        one, notes = cells[-1], cells[-1]["notes"]
        print(
            f"seed {seed}: {one['macs']:.3f} of the MACs, {one['params']:.3f} of the parameters; "
            f"test error full {percent(one['full']):.2f} %, compacted {percent(one['unmerged']):.2f}, "
            f"merged {percent(one['merged']):.2f}, fine-tuned {percent(one['tuned']):.2f} of "
            f"{len(one['full'])} images; {notes['masked']} rows masked, {notes['faded']} faded, cut above epsilon "
            f"{notes.get('cut_above_epsilon')}, merging changed outputs by {notes['merge_error']:.1e}; "
            f"{one['seconds']:.0f} s; schedule {notes['schedule']}; widths {one['widths']}",
            flush=True,
        )
    for name in ["merged", "tuned", *(["control"] if arguments.control else [])]:
        mean, half, images = interval([(one[name], one["full"]) for one in cells])
        print(
            f"{name} minus full, mean of {len(cells)} seeds: {mean:+.2f} points, 95 % interval {mean - half:+.2f} to "
            f"{mean + half:+.2f} ({images} images)"
        )


if __name__ == "__main__":
    main()
