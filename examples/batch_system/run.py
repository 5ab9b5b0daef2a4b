"""A search whose trials are jobs of a batch system, each trained by PyTorch Lightning.

    pip install 'secateur[mnist,examples]'
    python examples/batch_system/run.py begin --out runs/jobs
    sbatch examples/batch_system/array.sbatch           # each job does some trials
    secateur front runs/jobs

On several machines the trials are on a database server: `--storage postgresql://ann@host/trials`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from trainer import ByLightning

import secateur as sc
from secateur.studies.study_files.data import mnist5k, split


class Net(nn.Module):
    """Four convolutions."""

    def __init__(self, width=16):
        super().__init__()
        layers = []
        for given, made in ((1, width), (width, width), (width, 2 * width), (2 * width, 2 * width)):
            layers += [nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if given == made else []
        self.features, self.head = nn.Sequential(*layers), nn.Linear(2 * width, 10)

    def forward(self, x):
        """`(n, 10)` logits."""
        return self.head(self.features(x).mean((2, 3)))


def parts(tiny):
    """The same in every job: the network, the data, and who trains."""
    torch.manual_seed(0)
    pairs = split(mnist5k(), validation=0.8 if tiny else 0.2, test=0.1)
    train, validation = ((images.float() / 255, labels) for images, labels in pairs[:2])
    if tiny:
        validation = tuple(part[:200] for part in validation)
    evaluator = ByLightning(train, validation, epochs=1 if tiny else 5)
    return {"model": Net(), "task": sc.Classification(train=train, validation=validation, classes=10)}, evaluator


def begin(out, storage, tiny):
    """Make the study."""
    given, evaluator = parts(tiny)
    space = sc.Space.trace(given["model"].eval(), torch.rand(1, 1, 28, 28), divisor=4)
    settings = dict(budget=sc.Budget(macs=0.5), search=sc.Search(evaluator=evaluator), expect_error="untrained")
    sc.Study.create(out, **given, space=space, storage=storage, **settings)


def work(out, trials, tiny):
    """Do so many trials of the study, beside whoever else does."""
    given, evaluator = parts(tiny)
    study = sc.Study.open(out, **given, evaluator=evaluator)
    for _ in range(trials):
        trial = study.ask()
        if trial is None:  # the space has no other network
            break
        study.tell(trial, study.evaluate(trial))


def main():
    """Begin, or work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["begin", "work"])
    parser.add_argument("--out", type=Path, default=Path("runs/jobs"))
    parser.add_argument("--trials", type=int, default=8, help="of one job")
    parser.add_argument("--storage", help="the URL of a database server")
    parser.add_argument("--tiny", action="store_true", help="so small that it shows only that all runs")
    given = parser.parse_args()
    if given.what == "begin":
        begin(given.out, given.storage, given.tiny)
    else:
        work(given.out, given.trials, given.tiny)


if __name__ == "__main__":
    main()
