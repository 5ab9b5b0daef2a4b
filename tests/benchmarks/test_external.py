"""Replays on a table: what counts as found, and that every method proposes new networks of it."""

import json
from types import SimpleNamespace

import external
import numpy as np
import pytest
from external import OWN, Table, goal, percents, replay


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


def test_auto_is_held_against_the_best_rival(table, monkeypatch, tmp_path):
    """By medians, whoever the best is; a rival that is ahead by more than 0.2 points counts as missed."""
    monkeypatch.setattr(external, "KEPT", tmp_path)
    monkeypatch.setattr(external, "load", lambda name, folder: table)
    monkeypatch.setattr(external, "AT", (1, 2))
    monkeypatch.setattr(external, "HELD", (1, 2))
    for method, tried in (("auto", [[0, 3], [0, 3], [0, 1]]), ("random", [[3, 0]]), ("tpe", [[0, 1]])):
        for seed, rows in enumerate(tried):
            path = external.cell_path("toy", method, 0.5, 4, False, seed)
            path.write_text(json.dumps({"rows": rows, "commit": "abc"}))
    lines = goal(SimpleNamespace(on=["toy"], share=[0.5], folder=""), 4, False)
    one, both = (100 * table.volume(rows, 0.5) / table.reachable[0.5] for rows in ([0], [0, 3]))
    first = 100 * table.volume([3], 0.5) / table.reachable[0.5]
    assert f"| toy | 0.5 | {one - first:+.2f} (random) | {both - both:+.2f} (random) |" in "\n".join(lines)
    assert "in 1 of 2" in lines[1] and lines[2].endswith(": toy at 0.5 after 1.")
