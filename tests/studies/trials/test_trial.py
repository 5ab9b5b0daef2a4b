import json

import pytest

from secateur.evaluators import Result
from secateur.studies.trials.trial import (
    Failed,
    Scored,
    Skipped,
    Stopped,
    outcome_from_json,
    outcome_of,
    outcome_to_json,
)

NOTED = {"error_short": 0.4, "why": "so"}
FIRST = {"seconds": 2.0, "attributes": NOTED, "attempts": 2}  # as secateur 0.1 wrote all of them


@pytest.mark.parametrize(
    "outcome",
    [
        Scored(error=0.25),
        Scored(error=0.25, error_std=0.01, seconds=3.5, latency_ms=1.5, attributes=NOTED, attempts=2),
        Skipped(reason="slow", latency_ms=3.0),
        Skipped(reason="slow", latency_ms=3.0, seconds=0.5, stand_in=0.4),
        Stopped(reason="worse", rung="short", error=0.4, predicted=0.3, predicted_std=0.02, attributes=NOTED),
        Stopped(reason="Tune's", rung="tune"),
        Failed(reason="diverged", seconds=1.0, attributes=NOTED, attempts=3),
    ],
    ids=str,
)
def test_an_outcome_comes_back_from_json(outcome):
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (
            {"state": "complete", "evaluated": True, "error": 0.25, "error_std": 0.01, "latency_ms": 1.5},
            Scored(error=0.25, error_std=0.01, seconds=2.0, latency_ms=1.5, attributes=NOTED, attempts=2),
        ),
        (
            {"state": "complete", "evaluated": False, "error": 0.4, "latency_ms": 3.0, "reason": "slow"},
            Skipped(reason="slow", latency_ms=3.0, seconds=2.0, stand_in=0.4),
        ),
        (
            {"state": "complete", "evaluated": False, "latency_ms": 3.0, "reason": "slow"},  # parked, and not yet told
            Skipped(reason="slow", latency_ms=3.0, seconds=2.0),
        ),
        (
            {
                **{"state": "complete", "evaluated": False, "error": 0.3, "error_std": 0.02, "reason": "worse"},
                "attributes": {**NOTED, "stopped": "short"},
            },
            Stopped(
                **{"reason": "worse", "rung": "short", "error": 0.4, "predicted": 0.3, "predicted_std": 0.02},
                **{"seconds": 2.0, "attributes": NOTED, "attempts": 2},
            ),
        ),
        (
            {"state": "failed", "evaluated": True, "reason": "diverged"},
            Failed(reason="diverged", seconds=2.0, attributes=NOTED, attempts=2),
        ),
    ],
)
def test_an_outcome_of_a_study_of_0_1_is_read(said, outcome):
    assert outcome_from_json(FIRST | said) == outcome


@pytest.mark.parametrize("said", [3, {}, {"shell": "rm"}, {"kind": "scored"}, {"kind": "lost", "error": 0.1}])
def test_anything_else_is_no_outcome(said):
    with pytest.raises((KeyError, TypeError)):
        outcome_from_json(said)


def test_what_an_evaluator_gave_is_scored_or_failed():
    good = Result(error=0.25, error_std=None, seconds=1.0, attributes={"a": 1.0, "b": None})
    assert outcome_of(good, seconds=2.0, latency_ms=1.5) == Scored(
        error=0.25, seconds=2.0, latency_ms=1.5, attributes={"a": 1.0}
    )
    odd = Result(error=float("nan"), error_std=None, seconds=1.0)
    assert "not a finite number" in outcome_of(odd, seconds=2.0, latency_ms=1.5).reason
    bad = Result(error=float("nan"), error_std=None, seconds=1.0, state="failed", reason="out of memory: x")
    assert outcome_of(bad, seconds=2.0, latency_ms=None) == Failed(reason="out of memory: x", seconds=2.0)
