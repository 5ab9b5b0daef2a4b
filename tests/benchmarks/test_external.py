"""Replays on a table: what counts as found, and that every method proposes new networks of it."""

import numpy as np
import pytest
from external import OWN, Table, percents, replay


@pytest.fixture(scope="module")
def table():
    levels = np.indices((3, 3, 3)).reshape(3, -1).T + 1
    macs = (levels[:, 0] * levels[:, 1] + levels[:, 1] * levels[:, 2]).astype(float)
    truth = 0.5 - 0.02 * levels.sum(axis=1) - 0.03 * levels[:, 1]
    runs = truth[:, None] + 0.001 * np.random.default_rng(0).normal(size=(27, 3))
    return Table("toy", levels, {"macs": macs, "params": macs}, runs, truth)


def test_the_volume_is_the_area_that_the_front_dominates(table):
    # (1, 1, 1) costs 2 of 18 and errs 0.41, of at most 2 * 0.23: 0.05 * (0.5 - 2 / 18). (1, 2, 1) at 4 errs 0.36.
    assert table.volume([0], 0.5) == pytest.approx(0.05 * (0.5 - 1 / 9))
    assert table.volume([0, 3], 0.5) == pytest.approx(0.05 / 9 + 0.1 * (0.5 - 2 / 9))
    assert table.volume([26], 0.5) == 0.0  # over the budget


@pytest.mark.parametrize(
    "method", ["auto", "random", *(name for name in OWN if name not in ("gp", "forest", "random"))]
)
def test_a_replay_proposes_new_networks_within_the_budget(table, method):
    found = replay(table, method, share=0.5, batch=4, seeded=False, seed=0, trials=10)
    rows = found["rows"]
    assert len(rows) == len(set(rows)) == 10 and (table.shares[rows] <= 0.5).all()
    assert percents(table, rows, 0.5)[0] > 50
    assert found["best"][10] in rows


def test_with_seeds_the_full_network_comes_first(table):
    rows = replay(table, "evolution", share=0.5, batch=1, seeded=True, seed=0, trials=4)["rows"]
    assert rows[0] == 26 and (table.shares[rows[1:]] <= 0.5).all()
