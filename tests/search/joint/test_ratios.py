"""Points between candidates: costs that are exact at candidates, a projection that meets the budget, fair rounding."""

import numpy as np
import pytest
from landscapes import tiny_net, tiny_space

from secateur.search import Problem
from secateur.search.joint.ratios import Ratios, along, projected

SPACE = tiny_space(tiny_net())  # 3 widths, 2 blocks, sides 8, 10, 12
FULL = SPACE.full_costs


def ratios(**shares):
    limits = {name: share * FULL[name] for name, share in shares.items()}
    return Ratios(Problem(space=SPACE, limits=limits), limits)


def points(found, n, seed=0):
    return found.least + (1 - found.least) * np.random.default_rng(seed).random((n, len(found.least)))


def test_a_candidate_is_a_point_and_its_cost_is_exact():
    found = ratios(macs=0.5)
    sample = SPACE.sample(50, seed=0)
    v = np.stack([found.of(candidate) for candidate in sample])
    assert [SPACE.canonical(found.nearest(one)) for one in v] == sample
    macs = SPACE.cost_table(sample)["macs"]
    np.testing.assert_allclose(found.usage(v), macs / (0.5 * FULL["macs"]), rtol=1e-12)
    assert found.of(SPACE.full).tolist() == [1.0] * len(SPACE.axes)
    # The names of SPACE's axes end in depth:layer1 (of 2 blocks) and resolution (of 8, 10 and 12).
    assert found.of(SPACE.uniform(1.0, 0.5, 8 / 12))[-2:].tolist() == [0.5, pytest.approx(8 / 12)]


def test_the_tightest_limit_counts():
    both, v = ratios(macs=0.5, params=0.1), points(ratios(), 20)
    np.testing.assert_allclose(both.usage(v), np.maximum(ratios(macs=0.5).usage(v), ratios(params=0.1).usage(v)))
    assert Ratios(Problem(space=SPACE), {"latency_ms": 3.0}).limits == {}  # nothing predicts it here


def test_between_candidates_the_cost_is_continuous_and_never_falls():
    found = ratios(macs=1.0)
    v = points(found, 200)
    here = found.usage(v)
    assert np.abs(found.usage(np.clip(v + 1e-7, found.least, 1)) - here).max() < 1e-5
    for axis in range(v.shape[1]):
        more = v.copy()
        more[:, axis] = np.minimum(1, more[:, axis] + 0.2)
        assert (found.usage(more) >= here - 1e-12).all()


def test_the_mapping_to_networks_is_deterministic_and_monotone():
    """J7: more channels, depth or size never lowers the multiply-adds of the nearest network."""
    found = ratios(macs=1.0)
    for v in points(found, 60):
        small = found.nearest(v)
        assert small == found.nearest(v.copy())
        for axis in range(len(v)):
            more = v.copy()
            more[axis] = min(1.0, more[axis] + 0.3)
            costs = SPACE.cost_table([small, found.nearest(more)])["macs"]
            assert costs[1] >= costs[0]


@pytest.mark.parametrize("limits", [{"macs": 0.7}, {"macs": 0.3}, {"macs": 0.1, "params": 0.5}, {"peak_bytes": 0.6}])
def test_a_projected_point_is_on_the_budget(limits):
    found = ratios(**limits)
    for v in [*points(found, 20), found.least, np.ones_like(found.least), np.full(len(found.least), 3.0)]:
        on = found.projected(v)
        assert abs(float(found.usage(on[None])[0]) - 1) < 1e-6
        assert (on >= found.least - 1e-12).all() and (on <= 1).all()
    assert abs(float(found.usage(found.uniform()[None])[0]) - 1) < 1e-6


def test_widths_are_scaled_first_and_by_one_number():
    found = ratios(macs=0.4)
    v = np.where(found.widths, 0.6, 0.95)
    on = found.projected(v)
    assert (on[~found.widths] == 0.95).all()
    assert np.ptp(on[found.widths]) < 1e-12


def test_a_budget_out_of_reach_gives_an_end():
    for share, end in ((2.0, 1.0), (1e-9, None)):
        found = ratios(macs=share)
        on = found.projected(np.where(found.widths, 0.6, 0.7))
        np.testing.assert_allclose(on, found.least if end is None else end)


def test_without_widths_the_other_axes_move():
    least, widths = np.array([0.1, 0.1]), np.array([False, False])
    v = projected(np.array([0.8, 0.4]), lambda points: points.prod(axis=1) / 0.5, widths=widths, least=least)
    assert v.prod() == pytest.approx(0.5) and (v >= [0.8, 0.4]).all()
    root = along(lambda t: np.stack([t, t], axis=1), lambda points: points[:, 0] ** 2 / 0.25)
    assert root == pytest.approx([0.5, 0.5])


def test_rounding_keeps_within_the_budget_and_near_it():
    found = ratios(macs=0.4)
    random = np.random.default_rng(0)
    used = []
    for v in points(found, 40):
        candidate = found.rounded(found.projected(v), random)
        assert SPACE.canonical(candidate) == candidate
        used.append(float(found.usage(found.of(candidate)[None])[0]))
    assert max(used) <= 1 and np.median(used) > 0.9


def test_rounding_avoids_what_is_taken_until_nothing_is_left():
    found = ratios(macs=1.0)
    v = found.of(SPACE.uniform(0.75, 0.5, 0.8)) + 0.4 * found.sigma
    taken, random = set(), np.random.default_rng(0)
    for _ in range(200):
        candidate = found.rounded(v, random, taken)
        if candidate is None:
            break
        assert candidate not in taken
        taken.add(candidate)
    assert candidate is None and 1 < len(taken) < 64
