"""The front of hand-made trials."""

from dataclasses import replace

import pytest
from handmade import AXES, OBJECTIVES, trial
from landscapes import Instant, tiny_net, tiny_space, tiny_task

from secateur import Budget, Search, Study
from secateur.search import non_dominated
from secateur.spaces import COSTS, Candidate
from secateur.studies.exports.plot import plot_front
from secateur.studies.trials.front import front_table, on_front, trial_table
from secateur.studies.trials.trial import best_within

TRIALS = [
    trial(0, 0.01, 100),  # the full network: over the limit
    trial(1, 0.20, 50),
    trial(2, 0.30, 20),
    trial(3, 0.35, 30),  # beaten by 2
    trial(4, None, 10),  # failed
    trial(5, 0.10, 40, stopped=True),  # its error is predicted, not measured
    trial(6, 0.15, 45, told=False),  # still running
    trial(7, 0.30, 20),  # as good as 2
    trial(8, 0.90, 5),
]


def test_front_holds_what_no_other_beats_cheapest_first():
    assert [one.number for one in on_front(TRIALS, OBJECTIVES, {"macs": 50})] == [8, 2, 7, 1]


def test_front_follows_the_limits():
    assert [one.number for one in on_front(TRIALS, OBJECTIVES, {"macs": 49})] == [8, 2, 7]
    assert [one.number for one in on_front(TRIALS, OBJECTIVES, {})] == [8, 2, 7, 1, 0]
    assert on_front(TRIALS, OBJECTIVES, {"macs": 1}) == []


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_best_among_equal_errors_is_the_cheapest_so_it_is_on_the_front(order):
    trials = [trial(0, 0.2, 40), trial(1, 0.2, 30), trial(2, 0.2, 30)]
    best = best_within([trials[place] for place in order], OBJECTIVES, {"macs": 50})
    assert best.number == 1 and best in on_front(trials, OBJECTIVES, {"macs": 50})


def test_a_latency_that_was_never_measured_is_not_within():
    slow, fast = trial(0, 0.1, 10, latency_ms=3.0), trial(1, 0.2, 10, latency_ms=1.0)
    limits = {"latency_ms": 2.0}
    assert [one.number for one in on_front([slow, fast, trial(2, 0.1, 10)], OBJECTIVES, limits)] == [1]


def test_front_columns():
    table = front_table(on_front(TRIALS, OBJECTIVES, {}), AXES)
    assert list(table.columns) == [
        *("trial", "key", "error", "error_std", *COSTS, "fidelity", "ranking"),
        *("width:conv", "depth:layer1"),
    ]
    assert non_dominated(table[list(OBJECTIVES)]).all()
    assert table.key[0] == Candidate((2, 1)).key


def test_trial_table_says_what_became_of_each():
    table = trial_table(TRIALS, AXES, {"macs": 50})
    assert table.state.tolist() == ["complete"] * 4 + ["failed"] + ["complete"] + ["running"] + ["complete"] * 2
    assert table.within.tolist() == [False, True, True, True, True, True, False, True, True]
    assert table.evaluated.tolist() == [True] * 4 + [False] * 3 + [True] * 2
    assert table.reason[4] == "bang" and table.error.isna()[[4, 6]].all()


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    table = front_table(on_front(TRIALS, OBJECTIVES, {}), AXES)
    assert plot_front(tmp_path / "front.png", table, OBJECTIVES)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert not plot_front(tmp_path / "none.png", table, ("error",))
    assert not plot_front(tmp_path / "none.png", table[:0], OBJECTIVES)
    assert not (tmp_path / "none.png").exists()


def test_networks_of_no_use_are_on_no_front(tmp_path):
    """Nor exported with it; where all are of no use, all count."""
    model, task = tiny_net(), tiny_task()
    space = tiny_space(model)
    given = {"model": model, "task": task, "space": space, "budget": Budget(macs=0.5)}
    search = Search(sampler="random", threads=1, evaluator=Instant(space))
    free = Study.create(tmp_path / "free", **given, search=search)
    free.run(16)
    errors = free.front().error
    floor = float(errors.median())
    floored = Study.create(tmp_path / "floored", **given, search=replace(search, max_error=floor))
    floored.run(16)
    assert floored.front().trial.tolist() == free.front().trial[errors <= floor].tolist()
    status = floored.status()
    assert status.front == len(floored.front()) < len(errors) and status.max_error == floor and status.useless
    assert free.search.max_error is None, "an evaluator of one's own has a scale of its own"
    assert Study.look(floored.path).front().equals(floored.front())
    folders = floored.export(tmp_path / "out", pick="all", finetune_epochs=0, formats=())
    assert len(folders) == status.front
    hopeless = Study.create(tmp_path / "hopeless", **given, search=replace(search, max_error=1e-9))
    hopeless.run(16)
    assert hopeless.front().trial.tolist() == free.front().trial.tolist()
