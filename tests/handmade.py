"""Trials made by hand: an error, some multiply-adds, and nothing behind them."""

from secateur.spaces import COSTS, Axis, Candidate
from secateur.studies.trials.trial import Failed, Scored, Stopped, Trial

AXES = (Axis("width:conv", (2, 4, 6, 8)), Axis("depth:layer1", (0, 1)))
OBJECTIVES = ("error", "macs")


def trial(number, error, macs, *, told=True, stopped=False, **changes):
    if error is None:
        outcome = Failed(reason="bang")
    elif stopped:
        outcome = Stopped(reason="stopped", rung="recalibrated", predicted=error, predicted_std=0.01, **changes)
    else:
        outcome = Scored(error=error, error_std=0.01, **changes)
    return Trial(
        number=number,
        candidate=Candidate((2 * (number % 4) + 2, 1)),
        asked=Candidate((8, 1)),
        source="sampler",
        ranking="l2:0",
        weights="inherited",
        fidelity="short",
        costs=dict.fromkeys(COSTS, macs),
        outcome=outcome,
        told=told,
    )
