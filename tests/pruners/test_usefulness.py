"""Slow: every method keeps more of a trained network than chance does. `pytest -m slow -s` prints by how much.

The network that comes with the package reads digits and is cut to three budgets. Methods that score are judged right
after batch norms are measured anew, and so are random channels with random widths, of six seeds; methods that prune
while they train are judged after one epoch, and random channels after one epoch of fine-tuning. What counts is the mean
error over the budgets: a method must be better than the mean of chance by two standard deviations of its seeds.
"""

import statistics
from functools import cache

import pytest
import torch

import secateur as sc
from secateur.evaluators import measure_error, recalibrate, train
from secateur.pruners import METHODS, realised
from secateur.studies.proposals.pruning import Pruning, method_named
from secateur.studies.proposals.seeds import Aim

BUDGETS = (0.6, 0.45, 0.3)
TRAINING = sc.Training(lr=0.02, warmup=0.1, pruning_epochs=1, pruning_images=512)
NO_BETTER: dict[str, str] = {}
"""Methods that are no better than chance here, and why."""


@cache
def subject():
    task = sc.data.Data(reader="mnist5k", batch=64, mean=[0.1307], std=[0.3081]).task()
    model = sc.networks.digits()
    return model, sc.Space.trace(model, torch.rand(1, 1, 28, 28), divisor=1), task


def error(name, seed, *, epochs=0):
    """Mean validation error over the budgets of what a method makes, after so many epochs of training."""
    model, space, task = subject()
    found = []
    for budget in BUDGETS:
        pruning = Pruning(model=model, space=space, task=task, training=TRAINING, seed=seed, device=torch.device("cpu"))
        proposal = pruning.propose(method_named(name), Aim(limits={"macs": budget * space.full_costs["macs"]}))
        small = realised(model, space, proposal)
        if epochs:
            train(small, task, TRAINING, epochs=epochs, seed=seed)
        recalibrate(small, task, images=1024)
        found.append(measure_error(small, task, split="validation").compute())
    return statistics.mean(found)


@cache
def chance(epochs):
    """Mean and standard deviation over the seeds of what random channels give."""
    found = [error("random", seed, epochs=epochs) for seed in range(6 if not epochs else 3)]
    return statistics.mean(found), statistics.stdev(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("random", "mlpruning")])
def test_a_method_is_better_than_chance(name, request):
    """`mlpruning` is about transformers, and `random` is chance."""
    if name in NO_BETTER:
        request.applymarker(pytest.mark.xfail(reason=NO_BETTER[name], strict=False))
    mean, deviation = chance(1 if METHODS[name]().needs == "training" else 0)
    found = error(name, 0)
    print(f"{name}: {100 * found:.1f} %; chance {100 * mean:.1f} ± {100 * deviation:.1f} %")
    assert found < mean - 2 * deviation
