"""ManiDP beside static networks of the same average cost: error, who uses how much, and milliseconds for one image.

    python benchmarks/manidp.py --data FOLDER [--seeds 2]
    python benchmarks/manidp.py --times

The networks of benchmarks/fashion.py (FOLDER holds Fashion-MNIST's four IDX files), a base network a seed. ManiDP
trains for EPOCHS with each of KEEPS; `l2` and `taylor` cut the base network to the multiply-adds that ManiDP's network
takes on average over the test images, and are fine-tuned for as many epochs by the same loop, without a teacher.

Prints a table in Markdown. Multiply-adds are shares of the full network's, gates included: the mean over the test
images, the 90th percentile and the largest. Spearman's rho: between the multiply-adds of a test image and the base
network's loss on it. Milliseconds: one image, one thread, median.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from fashion import base, data, network
from scipy.stats import spearmanr

from secateur import Space, Training
from secateur.evaluators import measure_error, recalibrate, train
from secateur.pruners import ManiDP, Request, realised
from secateur.studies.proposals.pruning import Pruning, method_named
from secateur.studies.proposals.seeds import Aim

EPOCHS, KEEPS, CALLS = 8, (0.6, 0.4), 50
TRAINING = Training(lr=0.05, warmup=0.1, distillation=0.0)


def milliseconds(model, images):
    """The least of several calls with one image."""
    model.eval()
    seen = []
    with torch.no_grad():
        for number in range(CALLS):
            started = time.perf_counter()
            model(images[number : number + 1])
            seen.append(1000 * (time.perf_counter() - started))
    return min(seen)


def rows(seed, task):
    """What is printed of a seed."""
    model = base(seed, task)
    space = Space.trace(model, torch.rand(1, 1, 28, 28), divisor=1)
    full = space.full_costs["macs"]
    batches = [task.prepare(batch, torch.device("cpu")) for batch in task.loader("test", None, None)]
    with torch.no_grad():
        losses = torch.cat([F.cross_entropy(model(images), labels, reduction="none") for images, labels in batches])
    error = 100 * measure_error(model, task, split="test").compute()
    yield "base network", error, [1.0] * 3, None
    for keep in KEEPS:
        phase = ManiDP(keep=keep).start(Request(model, space, {"macs": full}, seed=seed))
        train(phase.model, task, TRAINING, epochs=EPOCHS, seed=seed, callbacks=[phase])
        recalibrate(phase.model, task, images=2048)
        dynamic, wrong, macs = phase.dynamic(), 0, []
        with torch.no_grad():
            for inputs, labels in batches:
                wrong += int((dynamic(inputs).argmax(1) != labels).sum())
                macs.append(dynamic.macs() / full)
        macs = torch.cat(macs)
        mean, shares = float(macs.mean()), [float(macs.mean()), float(macs.quantile(0.9)), float(macs.max())]
        rho = float(spearmanr(macs.numpy(), losses.numpy()).statistic)
        yield f"manidp, keep={keep}", 100 * wrong / len(losses), shares, rho
        for name in ("l2", "taylor"):
            pruning = Pruning(
                model=model, space=space, task=task, training=TRAINING, seed=seed, device=torch.device("cpu")
            )
            proposal = pruning.propose(method_named(name), Aim(limits={"macs": mean * full}))
            small = realised(model, space, proposal)
            recalibrate(small, task, images=2048)
            train(small, task, TRAINING, epochs=EPOCHS, seed=seed)
            share = float(space.cost_table([proposal.candidate])["macs"][0]) / full
            error = 100 * measure_error(small, task, split="test").compute()
            yield f"{name} for keep={keep}", error, [share] * 3, None


def times():
    """Print the milliseconds of the full network and of a dynamic one."""
    model, images = network(0).eval(), torch.rand(64, 1, 28, 28)
    space = Space.trace(model, images[:1], divisor=1)
    dynamic = ManiDP().start(Request(model, space, dict(space.full_costs))).dynamic()
    with torch.no_grad():
        dynamic(images)
        for gate in dynamic.gates:
            gate.threshold.copy_(gate.saliencies.quantile(0.4))
        dynamic(images)
    share = float(dynamic.macs().mean()) / space.full_costs["macs"]
    full, some = milliseconds(model, images), milliseconds(dynamic, images)
    print(f"full network {full:.2f} ms; dynamic, {share:.2f} of its multiply-adds on average, {some:.2f} ms")


def main():
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.times:
        return times()
    task = data(options.data)
    print("| seed | network | test error % | MACs: mean, 90 %, most | rho |")
    print("| --- | --- | --- | --- | --- |")
    for seed in range(options.seeds):
        for name, error, shares, rho in rows(seed, task):
            said = ", ".join(f"{share:.3f}" for share in shares)
            found = "" if rho is None else f"{rho:.2f}"
            print(f"| {seed} | {name} | {error:.2f} | {said} | {found} |", flush=True)


if __name__ == "__main__":
    main()
