"""Budgets, repair by arithmetic, and widths by one global threshold."""

import pytest
import torch
from networks import Residual, image

from secateur.spaces import Budget, Space, threshold_candidate, within


@pytest.fixture(scope="module")
def space():
    return Space.trace(Residual(), image(1, 3, 12, 12), resolutions=(12, 10, 7), divisor=2)


@pytest.mark.parametrize("ratio", [0.9, 0.5, 0.2, 0.05])
@pytest.mark.parametrize("name", ["macs", "params", "peak_bytes"])
def test_repaired_candidates_meet_the_budget(space, name, ratio):
    full = space.costs([space.full]).iloc[0]
    least = space.costs([space.smallest])[name][0]
    limits = {name: max(ratio * full[name], least), "latency_ms": 1e-9}
    for candidate in [space.full, *space.sample(10, seed=5)]:
        fixed = space.repair(candidate, limits)
        assert within(space, space.encode([fixed]), limits).all()
        assert space.repair(fixed, limits) == fixed
        if within(space, space.encode([candidate]), limits).all():
            assert fixed == candidate


def test_repair_removes_no_more_than_it_needs(space):
    full = space.costs([space.full]).macs[0]
    fixed = space.repair(space.full, {"macs": full / 2})
    assert space.costs([fixed]).macs[0] > 0.4 * full
    assert fixed[-3:] == space.full[-3:]  # widths alone were enough


def test_below_the_smallest_the_range_is_told(space):
    with pytest.raises(ValueError, match="below the smallest network of this space: reachable are"):
        space.repair(space.full, {"macs": 10})
    with pytest.raises(ValueError, match="reachable"):
        space.check_limits({"macs": 1e9, "params": 3})


def test_threshold_keeps_the_best_units(space):
    full = space.costs([space.full]).macs[0]
    previous = None
    for ratio in (0.9, 0.6, 0.3):
        candidate = threshold_candidate(space, None, {"macs": ratio * full})
        assert 0.5 * ratio * full < space.costs([candidate]).macs[0] <= ratio * full
        assert previous is None or all(a <= b for a, b in zip(candidate, previous, strict=True))
        previous = candidate
    # a group whose best units stand out keeps fewer of the rest
    scores = {group.name: torch.ones(group.units) for group in space.groups}
    scores["stem"] = torch.tensor([8.0] + [0.01] * 7)
    candidate = threshold_candidate(space, scores, {"macs": 0.6 * full})
    assert candidate[0] == 2 and candidate[1] == 8


def test_budget_meanings():
    full = {"macs": 1000, "params": 200, "peak_bytes": 50}
    assert Budget(macs=0.5, params=100).limits(full) == {"macs": 500, "params": 100}
    assert Budget(macs=1).limits(full) == {"macs": 1} and Budget(macs=1.0).limits(full) == {"macs": 1000}
    assert Budget(latency_ms=0.5).limits(full) == {"latency_ms": 0.5}
    assert Budget(latency_ms="50%").limits(full, 8.0) == {"latency_ms": 4.0}
    assert Budget(latency_ms="50%", macs=0.5).limits(full) == {"macs": 500}  # what was not measured is left out
    assert Budget.parse(["macs=0.5", "params=2e6", "latency_ms=3"]) == Budget(macs=0.5, params=2e6, latency_ms=3)


def test_a_reserve_divides_a_limit_in_bytes():
    budget = Budget.parse(["peak_bytes=1300", "macs=0.5", "reserve=1.3"])
    assert budget == Budget(peak_bytes=1300, macs=0.5, reserve=1.3)
    assert budget.limits({"macs": 10}) == {"macs": 5, "peak_bytes": 1000}
    assert list(budget.asked()) == ["macs", "peak_bytes"]
    assert Budget(**budget.given()) == budget and Budget(macs=1.0).given() == {"macs": 1.0}


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Budget(macs=0), "positive"),
        (lambda: Budget(macs=-0.5), "positive"),
        (lambda: Budget(macs="half"), "percentage"),
        (lambda: Budget(macs="150%"), "percentage"),
        (lambda: Budget(macs=[1]), "expected a number"),
        (lambda: Budget(macs=float("nan")), "positive"),
        (lambda: Budget(peak_bytes=100, reserve=0.9), "at least 1"),
        (lambda: Budget(peak_bytes=100, reserve="2"), "at least 1"),
        (lambda: Budget(peak_bytes=0.5, reserve=1.3), "goes with peak_bytes in bytes"),
        (lambda: Budget(macs=0.5, reserve=1.3), "goes with peak_bytes in bytes"),
        (lambda: Budget.parse(["mac=0.5"]).check(), "did you mean 'macs'"),
        (lambda: Budget.parse(["1st=0.5"]), "one of macs"),
        (lambda: Budget.parse(["macs"]), "NAME=VALUE"),
        (lambda: Budget.parse(["macs=x"]), "number or a percentage"),
        (lambda: Budget.parse(["macs=1", "macs=2"]), "twice"),
    ],
)
def test_wrong_budgets(make, error):
    with pytest.raises((ValueError, TypeError), match=error):
        make()
