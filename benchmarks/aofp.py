"""AOFP on the 5,000 digits: test error at half the multiply-adds beside the full network's, with several seeds.

    python benchmarks/aofp.py --seeds 3

For each seed a residual network of 20 layers is trained, pruned within half its multiply-adds while it trains on, cut,
and fine-tuned; the full network is trained on for as many epochs beside it. All are tested once, at the end, on the
same held-out images of that seed's split. The interval is 95 %, from the paired differences of the single images, all
seeds together. What a seed has finished is kept under `build/aofp/`, so that a second call goes on.
`--method granet` and `--method orthoreg` do the same with those.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch

from secateur.evaluators import Augment, Training, train
from secateur.pruners import METHODS, Request, realised
from secateur.spaces import Space
from secateur.studies.study_files.data import Data
from secateur.studies.study_files.networks import resnet20

AUGMENT = Augment(shift=0.1, rotate=10.0, scale=0.1)
PRUNING, FINE_TUNING = Training(lr=0.05), Training(lr=0.02)


def wrong(model, task):
    """`(images,)` 1 where the network errs on the test split."""
    model.eval()
    with torch.no_grad():
        pairs = [task.forward(model, batch) for batch in task.loader("test", None, None)]
    return [int(value) for outputs, targets in pairs for value in outputs.argmax(1) != targets]


def base(task, seed, epochs, folder):
    """The full network, trained once for all methods."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = resnet20(channels=1, classes=10)
    kept = folder / f"base-{seed}-{epochs}.pt"
    if not kept.exists():
        train(model, task, Training(lr=0.1, warmup=0.1), epochs=epochs, seed=seed)
        torch.save(model.state_dict(), kept)
    model.load_state_dict(torch.load(kept, weights_only=True))
    return model


def longer(model, task, arguments, seed):
    """The full network's errors after as many epochs more; once for all methods."""
    kept = arguments.out / f"longer-{seed}-{arguments.base}-{arguments.epochs}-{arguments.fine}.json"
    if not kept.exists():
        other = copy.deepcopy(model)
        train(other, task, PRUNING, epochs=arguments.epochs, seed=seed + 1000)
        train(other, task, FINE_TUNING, epochs=arguments.fine, seed=seed + 2000)
        kept.write_text(json.dumps(wrong(other, task)))
    return json.loads(kept.read_text())


def cell(arguments, seed):
    """The figures of one seed."""
    task = Data(validation=0.1, test=0.3, split_seed=seed, batch=64, augment=AUGMENT, normalise="measure").task()
    model = base(task, seed, arguments.base, arguments.out)
    space = Space.trace(model, torch.zeros(1, 1, 28, 28), divisor=2)
    full = space.costs([space.full]).iloc[0]
    start = time.perf_counter()
    phase = METHODS[arguments.method]().start(
        Request(model, space, {"macs": arguments.budget * float(full["macs"])}, seed=seed)
    )
    train(phase.model, task, PRUNING, epochs=arguments.epochs, seed=seed + 1000, callbacks=[phase])
    seconds = time.perf_counter() - start
    proposal = phase.proposal()
    small = realised(model, space, proposal)
    masked, cut = wrong(phase.model, task), wrong(small, task)
    train(small, task, FINE_TUNING, epochs=arguments.fine, seed=seed + 2000)
    costs = space.costs([proposal.candidate]).iloc[0]
    return {
        "full": wrong(model, task),
        "masked": masked,
        "cut": cut,
        "tuned": wrong(small, task),
        "longer": longer(model, task, arguments, seed),
        "notes": dict(proposal.notes),
        "widths": list(proposal.candidate),
        "macs": float(costs["macs"] / full["macs"]),
        "params": float(costs["params"] / full["params"]),
        "seconds": seconds,
    }


def interval(pairs):
    """Mean and half a 95 % interval, in points, of `(images,)` differences of two lists of errors."""
    differences = 100 * torch.cat([torch.tensor(a).double() - torch.tensor(b).double() for a, b in pairs])
    return float(differences.mean()), float(1.96 * differences.std() / len(differences) ** 0.5), len(differences)


def percent(errors):
    return f"{100 * sum(errors) / len(errors):.2f} %"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=("aofp", "granet", "orthoreg"), default="aofp")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", type=int, default=20, help="epochs of the full network")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of the pruning phase")
    parser.add_argument("--fine", type=int, default=5, help="epochs after the cut")
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("build/aofp"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cells = []
    for seed in range(arguments.seeds):
        settings = f"{arguments.base}-{arguments.epochs}-{arguments.fine}-{arguments.budget:g}"
        kept = arguments.out / f"{arguments.method}-{seed}-{settings}.json"
        if not kept.exists():
            kept.write_text(json.dumps(cell(arguments, seed)))
        one = json.loads(kept.read_text())
        cells.append(one)
        print(
            f"seed {seed}: {one['macs']:.3f} of the MACs, {one['params']:.3f} of the parameters; test error "
            f"full {percent(one['full'])}, masked {percent(one['masked'])}, cut {percent(one['cut'])}, "
            f"fine-tuned {percent(one['tuned'])}, full trained on {percent(one['longer'])} of {len(one['full'])} "
            f"images; {one['seconds']:.0f} s; {one['notes']}; widths {one['widths']}",
            flush=True,
        )
    for name, other in (("cut", "full"), ("tuned", "full"), ("tuned", "longer")):
        mean, half, images = interval([(one[name], one[other]) for one in cells])
        print(
            f"{arguments.method}: {name} minus {other}, mean of {len(cells)} seeds: {mean:+.2f} points, "
            f"95 % interval {mean - half:+.2f} to {mean + half:+.2f} ({images} images)"
        )


if __name__ == "__main__":
    main()
