"""Costs of the user's own: limited, minimised, shown and kept like ours; and what is no cost, in a sentence."""

import logging
import pickle
from itertools import count

import pytest
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task

from secateur import Budget, Cost, Search, Study
from secateur.studies.views.text import front_text, status_text

MODEL = tiny_net()
SPACE = tiny_space(MODEL)
INSTANT = Instant(SPACE)
FULL = sum(p.numel() for p in MODEL.parameters())


def size_kb(space, candidate):
    return space.costs([candidate]).param_bytes[0] / 1000


def weight(network, example):
    network(*example)
    return sum(p.numel() for p in network.parameters()) / 1000


SIZE = Cost("size_kb", of="candidate", measure=size_kb)
WEIGHT = Cost("weight", measure=weight)


class Counting:
    """Counts what is trained."""

    fingerprint = "counting"
    seen = 0

    def __call__(self, build, **rest):
        self.seen += 1
        return INSTANT(build, **rest)


def create(path, costs=(SIZE, WEIGHT), **changes):
    given = {"model": MODEL, "task": tiny_task(), "space": SPACE, "budget": Budget(macs=0.5), "threads": 1}
    return Study.create(path, **searching({**given, "evaluator": INSTANT, "costs": costs, **changes}))


def reopen(path, **changes):
    return Study.open(path, **{"model": MODEL, "task": tiny_task(), "evaluator": INSTANT, **changes})


# --- like ours --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cost", "limit"), [(SIZE, 4 * FULL / 3000), (WEIGHT, FULL / 3000)])
def test_a_cost_is_limited_minimised_shown_and_kept(tmp_path, cost, limit):
    counting, name = Counting(), cost.name
    budget = Budget(macs=0.9, **{name: limit})
    study = create(tmp_path / "s", budget=budget, evaluator=counting, objectives=("error", name))
    study.run(12)
    trials, front = study.trials(), study.front()
    expected = trials.params * {"size_kb": 0.004, "weight": 0.001}[name]
    assert trials[name].to_numpy() == pytest.approx(expected.to_numpy())
    assert (front[name] <= limit).all() and len(front) > 2 and front[name].is_monotonic_increasing
    over = trials[1:][trials[name][1:] > limit]
    assert not over.evaluated.any() and over.reason.str.contains(f"{name} .* is over the budget of").all()
    assert len(over) < 5 and counting.seen == 12 - len(over)
    again = reopen(tmp_path / "s", evaluator=counting, costs=[SIZE, WEIGHT])
    assert again.trials().equals(trials) and again.budget == budget
    again.run(13)
    assert again.trials()[name].notna().all()
    look = Study.look(tmp_path / "s")
    assert look.front()[name].tolist() == again.front()[name].tolist()
    assert f"{name}" in front_text(look.front(), again.space.full_costs | {name: 3 * limit})
    assert name in study.report(tmp_path / "report.html").read_text()


def test_shares_of_the_full_networks_own_costs_and_how_well_they_are_foretold(tmp_path):
    study = create(tmp_path / "s", budget=Budget(size_kb="50%", weight="40%"), sampler="random")
    assert study.limits() == pytest.approx({"size_kb": 0.002 * FULL, "weight": 0.0004 * FULL})
    assert study.search.objectives == ("error", "size_kb")
    study.run(4)
    assert Study.look(tmp_path / "s").status().limits == study.status().limits
    found = study.status().foretold["weight"]
    assert found["rows"] == 48 and found["spread"] == 0 and found["error"] < 0.05
    assert "weight of 48 measured networks" in status_text(study.status())


def test_the_costs_travel_to_workers(tmp_path):
    study = create(tmp_path / "s", sampler="joint", budget=Budget(size_kb="50%"))
    sent = pickle.loads(study._engine.work(study.limits()).pickled()).evaluation.rounds.problem
    assert sent.costs(SPACE.encode([SPACE.full]))["size_kb"] == pytest.approx(0.004 * FULL)


# --- what is no cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (lambda network, example: 1 / 0, "cost 'mine' raised ZeroDivisionError: division by zero"),
        (lambda network, example: float("nan"), "cost 'mine' gave nan; expected a positive, finite number"),
        (lambda network, example: float("inf"), "gave inf; expected a positive, finite number"),
        (lambda network, example: -1, "gave -1.0; expected a positive, finite number"),
        (lambda network, example: "3 ms", "cost 'mine' gave '3 ms', a str; expected a number"),
        (lambda network, example: None, "cost 'mine' gave None, a NoneType; expected a number"),
    ],
)
@pytest.mark.parametrize("of", ["candidate", "network"])
def test_a_cost_that_is_no_number_makes_no_study(tmp_path, measure, said, of):
    with pytest.raises(ValueError, match=said):
        create(tmp_path / "s", costs=[Cost("mine", of=of, measure=measure)])
    assert not (tmp_path / "s").exists()


def test_a_cost_that_breaks_on_a_later_network_fails_its_trial(tmp_path):
    def picky(network, example):
        if weight(network, example) < FULL / 1100:
            raise RuntimeError("too small for my compiler")
        return 1.0

    study = create(tmp_path / "s", costs=[Cost("mine", measure=picky)], seeds=("full", "compound"))
    study.run(2)
    assert study.trials().reason[1] == "cost 'mine' raised RuntimeError: too small for my compiler"


def test_arithmetic_that_gives_another_number_each_time_is_refused(tmp_path):
    numbers = count(1)
    with pytest.raises(
        ValueError, match="'mine' gave 1 and then 2 for the same candidate; arithmetic gives one number"
    ):
        create(tmp_path / "s", costs=[Cost("mine", of="candidate", measure=lambda space, one: next(numbers))])


def test_the_spread_of_what_is_measured_is_shown(tmp_path, caplog):
    numbers = count(1)
    shaky = Cost("mine", measure=lambda network, example: 1 + next(numbers) % 2)
    study = create(tmp_path / "s", costs=[shaky], budget=Budget(mine=1.6), sampler="random")
    with caplog.at_level(logging.WARNING, "secateur"):
        study.run(1)
    assert "cost 'mine' differs by 67% in the median when the same network is measured again" in caplog.text
    assert study._ledger.notes["foretold"]["mine"]["spread"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["macs", "latency_ms", "error", "seconds", "resolution", "two words", ""])
def test_a_name_that_is_taken_or_none(name):
    with pytest.raises(ValueError, match=f"cost '{name}': (Secateur has something|expected a name)"):
        Cost(name, measure=weight)


def test_an_error_that_a_loop_of_ones_own_tells_has_its_costs_beside_it(tmp_path):
    study = create(tmp_path / "s", budget=Budget(latency_ms=1e6, weight=FULL / 3000))
    over, within = study.ask(), study.ask()
    assert study.tell(over, 0.1).own_costs["weight"] == pytest.approx(FULL / 1000), "the full network, over the limit"
    told = study.tell(within, 0.2)
    assert told.own_costs["weight"] == pytest.approx(within.costs["params"] / 1000)
    assert told.own_costs["size_kb"] == pytest.approx(within.costs["param_bytes"] / 1000)
    assert told.latency_ms > 0 and list(study.front().trial) == [1]


def test_a_cost_that_fails_for_an_error_that_is_told(tmp_path):
    def fails(network, example):
        if sum(p.numel() for p in network.parameters()) < FULL:
            raise RuntimeError("no such device")
        return 1.0

    study = create(tmp_path / "s", costs=[Cost("joules", measure=fails)])
    study.tell(study.ask(), 0.1)
    told = study.tell(study.ask(), 0.2)
    assert told.reason == "cost 'joules' raised RuntimeError: no such device"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cost("mine", measure=3), "measure is a int; expected a function"),
        (lambda: Cost("mine", measure=weight, of="graph"), "of='graph'; expected 'candidate' or 'network'"),
        (lambda: Search(costs=[WEIGHT, WEIGHT]), "two costs are called 'weight'"),
        (lambda: Search(costs=[weight]), "expected a list of secateur.Cost"),
        (lambda: Search(objectives=("error", "weight")), "expected 'error' and different costs out of"),
    ],
)
def test_costs_that_no_search_could_use(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


def test_a_budget_that_names_an_unknown_cost(tmp_path):
    with pytest.raises(ValueError, match="budget wieght: there is no such cost here; did you mean 'weight'"):
        create(tmp_path / "s", budget=Budget(wieght=2.0))
    study = create(tmp_path / "s")
    study.budget = Budget(other=2.0)
    with pytest.raises(ValueError, match="budget other: there is no such cost here; expected one of macs"):
        study.run(2)


def test_a_study_that_is_opened_without_its_costs(tmp_path):
    create(tmp_path / "s")
    for costs, given in ((), "none"), ([WEIGHT], "weight of the network"):
        said = f"has costs of its own: size_kb of the candidate, weight of the network; given are: {given}"
        with pytest.raises(ValueError, match=said):
            reopen(tmp_path / "s", costs=costs)


def test_a_limit_that_no_network_reaches(tmp_path):
    for name in ("size_kb", "weight"):
        study = create(tmp_path / name, budget=Budget(**{name: 1e-6}))
        with pytest.raises(ValueError, match=f"budget {name}=1e-06 is below every one of .* reachable are"):
            study.run(2)
