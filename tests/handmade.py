"""Trials made by hand: an error, some multiply-adds, and nothing behind them."""

from secateur.spaces import COSTS, Axis, Candidate
from secateur.studies.trials.trial import Outcome, Trial, failed

AXES = (Axis("width:conv", (2, 4, 6, 8)), Axis("depth:layer1", (0, 1)))
OBJECTIVES = ("error", "macs")


def trial(number, error, macs, *, told=True, latency_ms=None, **changes):
    outcome = Outcome(state="complete", error=error, error_std=0.01, latency_ms=latency_ms, **changes)
    return Trial(
        number=number,
        candidate=Candidate((2 * (number % 4) + 2, 1)),
        asked=Candidate((8, 1)),
        source="sampler",
        ranking="l2:0",
        weights="inherited",
        fidelity="short",
        costs=dict.fromkeys(COSTS, macs),
        outcome=failed("bang") if error is None else outcome,
        told=told,
    )
