"""ResRep in somebody else's training loop: a plain one, or PyTorch Lightning's.

    pip install 'secateur[mnist]'                      # and pytorch-lightning for the second one
    python examples/training_loop/run.py
    python examples/training_loop/run.py --loop lightning

A network is trained on digits, then trained on while ResRep prunes it to 40 % of its multiply-adds, then fine-tuned.
Beside it the full network is trained on for as long. Every loop is the user's own; several seeds are several splits.
"""

from __future__ import annotations

import argparse
import importlib
import time

import torch
from scipy.stats import binomtest
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur.pruners import METHODS, Request, realised
from secateur.studies.study_files.data import mnist5k, split


class Net(nn.Module):
    """Six convolutions in three levels."""

    def __init__(self, widths=(12, 24, 48)):
        super().__init__()
        layers = []
        for level, width in enumerate(widths):
            for given in (widths[level - 1] if level else 1, width):
                layers += [nn.Conv2d(given, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.features, self.head = nn.Sequential(*layers), nn.Linear(widths[-1], 10)

    def forward(self, x):
        """`(n, 10)` logits."""
        return self.head(self.features(x).mean((2, 3)))


def batches(pair, seed=None):
    """A loader of grey digits in [0, 1]; shuffled with a seed."""
    images, labels = pair[0].float() / 255, pair[1]
    shuffle = {} if seed is None else {"shuffle": True, "generator": torch.Generator().manual_seed(seed)}
    return DataLoader(TensorDataset(images, labels), batch_size=32, **shuffle)


@torch.no_grad()
def wrong(model, loader):
    """`(images,)` whether the network errs."""
    model.eval()
    return torch.cat([model(images).argmax(1) != labels for images, labels in loader])


def main():
    """Train, prune, fine-tune, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loop", choices=["plain", "lightning"], default="plain")
    parser.add_argument("--method", default="resrep", help="or aofp, granet, orthoreg, mlpruning")
    parser.add_argument("--macs", type=float, default=0.4, help="share of the multiply-adds")
    parser.add_argument("--base-epochs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=8, help="of pruning")
    parser.add_argument("--fine", type=int, default=2, help="epochs of fine-tuning")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="so small that it shows only that all runs")
    given = parser.parse_args()
    if given.tiny:
        given.base_epochs, given.epochs, given.fine, given.seeds = 1, 1, 1, 1
    fit = importlib.import_module({"plain": "plain", "lightning": "with_lightning"}[given.loop]).fit
    torch.set_num_threads(1)

    digits, errors = mnist5k(), {"full, trained on": [], "pruned": [], "pruned, fine-tuned": []}
    for seed in range(given.seeds):
        train, _, test = split(digits, validation=0.7 if given.tiny else 0.1, test=0.2, seed=seed)
        loader, held = batches(train, seed), batches(test)
        torch.manual_seed(seed)
        model = Net()
        fit(model, loader, given.base_epochs, 0.1)

        space = sc.Space.trace(model.eval(), torch.rand(1, 1, 28, 28), divisor=2)
        full_macs = float(space.costs([space.full])["macs"].iloc[0])
        phase = METHODS[given.method]().start(Request(model, space, {"macs": given.macs * full_macs}))
        fit(phase.model, loader, given.epochs, 0.05, phase)
        proposal = phase.proposal()
        small = realised(model, space, proposal)  # a Net, smaller
        errors["pruned"].append(wrong(small, held))
        fit(small, loader, given.fine, 0.02)
        errors["pruned, fine-tuned"].append(wrong(small, held))

        fit(model, loader, given.epochs, 0.05)
        fit(model, loader, given.fine, 0.02)
        errors["full, trained on"].append(wrong(model, held))
        macs = float(space.costs([proposal.candidate])["macs"].iloc[0])
        print(f"seed {seed}: {macs / 1e6:.2f} of {full_macs / 1e6:.2f} million MACs, widths {list(proposal.candidate)}")
        early = proposal.notes.get("cut_above_epsilon", {}).get("rows", 0)  # a longer training would have let them fade
        print(f"channels cut before they had faded: {early}")

    pooled = {name: torch.cat(found).double() for name, found in errors.items()}
    print(f"| network | test error, % of {given.seeds} x {len(held.dataset)} images |")
    print("| --- | --- |")
    for name, found in pooled.items():
        low, high = binomtest(int(found.sum()), len(found)).proportion_ci(method="wilson")
        print(f"| {name} | {100 * found.mean():.2f} ({100 * low:.2f} to {100 * high:.2f}) |")
    paired = 100 * (pooled["pruned, fine-tuned"] - pooled["full, trained on"])
    mean, half = float(paired.mean()), 1.96 * float(paired.std()) / len(paired) ** 0.5
    print(f"difference, image by image: {mean:+.2f} points ({mean - half:+.2f} to {mean + half:+.2f})")
    print(f"{time.process_time():.0f} s of one core")


if __name__ == "__main__":
    main()
