"""Slow: methods that score keep more of a trained network than chance does. `pytest -m slow -s` prints by how much.

The network that comes with the package reads digits. It is cut to two budgets and judged right after its batch norms
are measured anew: by every method that does not train, and by random channels and widths of six seeds. What counts is
the mean error over the budgets: a method must be better than the mean of chance by two standard errors of that mean.
"""

import statistics
from functools import cache

import pytest
import torch

import secateur as sc
from secateur.evaluators import measure_error, recalibrate
from secateur.pruners import METHODS, realised
from secateur.studies.proposals.pruning import Pruning, method_named
from secateur.studies.proposals.seeds import Aim

BUDGETS, SEEDS = (0.6, 0.4), 6
TRAINING = sc.Training(pruning_images=256)
WORSE = ("grasp", "synflow", "hrank", "lamp", "ranp", "epruner")  # 52 to 73 %, where chance has 51
NEAR = ("taylor", "snip", "obd", "anpyc", "ranp-w", "ranp-f", "ranp-m", "ranp-p", "functionality")  # 38 to 51 %
"""No better than chance here, or by less than what tells them apart for sure; docs/methods.md has them."""


@cache
def subject():
    task = sc.data.Data(reader="mnist5k", batch=64, mean=[0.1307], std=[0.3081]).task()
    model = sc.networks.digits()
    return model, sc.Space.trace(model, torch.rand(1, 1, 28, 28), divisor=1), task


def error(name, seed):
    """Mean validation error over the budgets of what a method cuts."""
    model, space, task = subject()
    place, found = torch.device("cpu"), []
    for budget in BUDGETS:
        pruning = Pruning(model=model, space=space, task=task, training=TRAINING, seed=seed, device=place)
        proposal = pruning.propose(method_named(name), Aim(limits={"macs": budget * space.full_costs["macs"]}))
        small = realised(model, space, proposal)
        recalibrate(small, task, images=512)
        found.append(measure_error(small, task, split="validation").compute())
    return statistics.mean(found)


@cache
def chance():
    """Mean and standard deviation over the seeds of what random channels give."""
    found = [error("random", seed) for seed in range(SEEDS)]
    return statistics.mean(found), statistics.stdev(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name for name, make in METHODS.items() if name not in ("random", *WORSE, *NEAR) and make().needs != "training"],
)
def test_a_method_is_better_than_chance(name):
    mean, deviation = chance()
    found = error(name, 0)
    print(f"\n{name}: {100 * found:.1f} %; chance {100 * mean:.1f} ± {100 * deviation:.1f} %")
    assert found < mean - 2 * deviation / SEEDS**0.5
