"""The pool hands out nothing but what is legal, canonical, affordable, distinct and new."""

import numpy as np
import pytest
from landscapes import line_net, line_space, tiny_net, tiny_space

from secateur.search import Foretold, Problem
from secateur.search.polynomial import pool as pools
from secateur.search.polynomial.pool import Canonical, Pool
from secateur.spaces import threshold_candidate

SPACE = tiny_space(tiny_net())
FULL = SPACE.full_costs["macs"]
HALF = Problem(space=SPACE, limits={"macs": 0.5 * FULL})
NOTHING = np.zeros((0, len(SPACE.axes)), np.int64)


def fresh(problem=HALF, tried=NOTHING, seed=0):
    return Pool(problem, tried, np.random.default_rng(seed))


@pytest.fixture
def unlisted(monkeypatch):
    """A space that counts as too large to be listed whole."""
    monkeypatch.setattr(pools, "ENUMERATED", 1)


def everything():
    """All combinations of choices."""
    choices = [axis.choices for axis in SPACE.axes]
    return np.stack(np.meshgrid(*choices, indexing="ij"), axis=-1).reshape(-1, len(choices))


def test_one_name_for_many_is_one_name_for_each():
    rows = everything()[::7]
    assert Canonical(SPACE)(rows).tolist() == [list(SPACE.canonical(row)) for row in rows.tolist()]
    assert (Canonical(SPACE)(rows) != rows).any()


def test_one_name_follows_the_order_in_which_blocks_go():
    space = SPACE.with_block_order({SPACE.stages[0].name: [0.0, 1.0]})  # the first block goes first
    rows = everything()[::7]
    assert Canonical(space)(rows).tolist() == [list(space.canonical(row)) for row in rows.tolist()]
    assert (Canonical(space)(rows) != Canonical(SPACE)(rows)).any()


@pytest.mark.parametrize(
    "limits", [{}, {"macs": 0.5 * FULL}, {"macs": 0.1 * FULL}, {"params": 900, "peak_bytes": 9000}]
)
def test_all_that_is_handed_out_is_legal_canonical_affordable_distinct_and_new(limits, unlisted):
    problem = Problem(space=SPACE, limits=limits)
    tried = fresh(problem).start(300)[::5]
    pool = fresh(problem, tried)
    first = pool.start(500)
    second = pool.children(first[:10], 500)
    rows = np.concatenate([first, second])
    assert len(first) > 20 and len(second) > 5
    assert problem.within(rows).all()
    assert [list(SPACE.canonical(row)) for row in rows.tolist()] == rows.tolist()  # legal too, or it raises
    assert len({*map(tuple, rows.tolist())} | {*map(tuple, tried.tolist())}) == len(rows) + len(tried)


def test_a_predicted_latency_is_a_limit_like_another(unlisted):
    """Here a latency that only depth and side decide: 1 ms a block and 1 ms a side."""
    groups = len(SPACE.groups)
    problem = Problem(
        space=SPACE,
        limits={"latency_ms": 2.0},
        foretold={"latency_ms": Foretold(predict=lambda encoded: encoded[:, groups:].sum(axis=1).astype(float))},
    )
    rows = fresh(problem).start(300)
    assert len(rows) > 20
    assert rows[:, groups:].sum(axis=1).max() == 2


def test_a_small_space_is_listed_whole():
    pool = fresh()
    names = {tuple(SPACE.canonical(row)) for row in everything().tolist()}
    allowed = {name for name in names if HALF.within(np.array([name]))[0]}
    assert {*map(tuple, pool.whole.tolist())} == allowed
    assert len(pool.whole) == len(allowed)


def test_what_was_tried_does_not_come_again_and_in_the_end_nothing_does():
    problem = Problem(space=line_space(line_net()))
    everything = fresh(problem, np.zeros((0, 1), np.int64)).whole
    assert len(everything) == 4  # widths 2, 4, 6, 8
    assert len(fresh(problem, everything[:3]).whole) == 1
    assert len(fresh(problem, everything).whole) == 0
    assert len(fresh(problem, everything).start(50)) == 0


def test_what_fits_is_not_made_smaller_and_what_does_not_comes_near_the_limit():
    pool = fresh()
    fits = HALF.positions(np.array([SPACE.uniform(0.4, 1.0, 1.0)]))
    assert pool.shrunk(fits).tolist() == fits.tolist()
    full = np.repeat(HALF.positions(np.array([SPACE.full])), 200, axis=0)
    rows = HALF.encoded(pool.shrunk(full))
    macs = HALF.costs(rows)["macs"]
    assert len(rows) == 200 and HALF.within(rows).all()
    assert np.median(macs) > 0.6 * HALF.limits["macs"]
    kept = rows[:, len(SPACE.groups) :] == np.array(SPACE.full)[len(SPACE.groups) :]
    assert kept.all(axis=1).mean() > 0.9  # widths suffice


def test_threshold_families_hold_what_a_ranking_would_propose(unlisted):
    """The very network that is the seed of the space's own scores, up to the rows left out of the family."""
    pool = fresh(Problem(space=SPACE))
    rows = {*map(tuple, pool.problem.encoded(pool.thresholds()).tolist())}
    found = [
        tuple(threshold_candidate(SPACE, None, {"macs": share * FULL})) in rows for share in np.linspace(0.3, 0.95, 12)
    ]
    assert sum(found) >= 9


def test_the_same_chance_gives_the_same_pool(unlisted):
    one, two, other = fresh(seed=3), fresh(seed=3), fresh(seed=4)
    start = one.start(300)
    assert start.tolist() == two.start(300).tolist() != other.start(300).tolist()
    assert one.children(start[:5], 200).tolist() == two.children(start[:5], 200).tolist()


def test_a_space_of_thousands_is_listed_whole_once_and_without_what_was_tried():
    everyone = fresh().whole
    assert everyone is not None and HALF.within(everyone).all()
    left = fresh(tried=everyone[:3]).whole
    assert len(left) == len(everyone) - 3
    assert not {*map(tuple, left.tolist())} & {*map(tuple, everyone[:3].tolist())}
