"""How a study searches: the same trials however it is interrupted, none twice, all within the budget."""

import logging

import numpy as np
import pandas as pd
import pytest
from killing import table
from landscapes import (
    LANDSCAPES,
    Instant,
    line_net,
    line_space,
    searching,
    tiny_net,
    tiny_space,
    tiny_task,
    tiny_training,
)
from pairs import quick_in, quick_some

from secateur import Budget, Search, Study
from secateur.evaluators import Result, Timing
from secateur.search import SAMPLERS, hypervolume, non_dominated
from secateur.studies.outcomes.work import perform
from secateur.studies.runners.executor import Executor
from secateur.studies.trials.events import Message

MODEL = tiny_net()
SPACE = tiny_space(MODEL)
TASK = tiny_task()
INSTANT = Instant(SPACE)
AXES = [axis.name for axis in SPACE.axes]
QUICK = [name for name in SAMPLERS if name != "gp"]


def create(path, **changes):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.5), "threads": 1}
    return Study.create(path, **searching({**given, "evaluator": INSTANT, **changes}))


def reopen(path, **changes):
    return Study.open(path, **{"model": MODEL, "task": TASK, "evaluator": INSTANT, **changes})


class Counting:
    """Counts how often each candidate is evaluated, and does as told on some trials."""

    fingerprint = "counting"

    def __init__(self, act=lambda count: None):
        self.seen = []
        self.act = act

    def __call__(self, build, *, candidate, **rest):
        self.seen.append(candidate)
        return self.act(len(self.seen)) or INSTANT(build, candidate=candidate, **rest)


# --- every sampler on every landscape ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "landscape"), quick_in(1 / 3, SAMPLERS, LANDSCAPES))
def test_search(tmp_path, sampler, landscape):
    # A Gaussian process takes half a second a proposal; it begins after ten trials.
    slow = {"seeds": ("full",)} if sampler == "gp" else {}
    study = create(tmp_path / "s", sampler=sampler, evaluator=Instant(SPACE, landscape), **slow)
    study.run(13 if slow else 28)
    trials, front = study.trials(), study.front()
    limit = study.status().limits["macs"]

    assert not trials.duplicated(["key", "weights"]).any()
    assert trials.source.isin(["sampler", "reference"]).sum() > 3
    assert trials.within.tolist() == (trials.macs <= limit).tolist()
    assert trials.within[1:][trials.source != "reference"].all(), "all but references are repaired"
    assert not trials.within[0] and trials.source[0] == "seed:full"

    assert non_dominated(front[["error", "macs"]]).all()
    assert front.macs.is_monotonic_increasing and front.error.is_monotonic_decreasing
    assert set(front.trial) <= set(trials.trial[trials.within])
    fit = trials[trials.within][["error", "macs"]].to_numpy()
    grown = [hypervolume(fit[:n], [1.0, limit]) for n in range(1, len(fit) + 1)]
    assert (np.diff(grown) >= 0).all()
    assert hypervolume(front[["error", "macs"]], [1.0, limit]) == pytest.approx(grown[-1])


@pytest.mark.parametrize(
    ("sampler", "objectives"), quick_in(1 / 2, QUICK, [("error",), ("error", "params", "peak_bytes")])
)
def test_search_with_one_and_three_objectives(tmp_path, sampler, objectives):
    study = create(tmp_path / "s", sampler=sampler, objectives=objectives)
    study.run(16)
    assert non_dominated(study.front()[list(objectives)]).all()


def test_genetic_sampler_takes_seeds_for_its_first_generation_and_breeds(tmp_path):
    study = create(tmp_path / "s", sampler="nsga2")
    study.run(24)
    generations = [trial.memory["NSGAIISampler:generation"] for trial in study._ledger.trials]
    assert generations == [0] * 20 + [1] * 4


# --- the same however it is interrupted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    # Samplers of Optuna that are alike in what they remember stand for one another in the quick run.
    [pytest.param(name, marks=pytest.mark.slow) if name in ("random", "qmc", "nsga3") else name for name in QUICK],
)
def test_interrupted_equals_uninterrupted(tmp_path, sampler):
    straight = create(tmp_path / "a", sampler=sampler)
    straight.run(26)
    cut = create(tmp_path / "b", sampler=sampler)
    for total in (3, 6, 21, 22):  # in the middle of seeds, of a batch, and of a generation
        cut.run(total)
    reopen(tmp_path / "b").run(26)
    pd.testing.assert_frame_equal(table(straight), table(cut))


@pytest.mark.slow
def test_interrupted_equals_uninterrupted_with_gaussian_processes(tmp_path):
    straight = create(tmp_path / "a", sampler="gp")
    straight.run(26)
    for total in (3, 18, 26):
        cut = create(tmp_path / "b", sampler="gp") if total == 3 else reopen(tmp_path / "b")
        cut.run(total)
    pd.testing.assert_frame_equal(table(straight), table(cut))


def test_another_seed_is_another_search(tmp_path):
    tables = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        study = create(tmp_path / name, sampler="random", seed=seed)
        study.run(16)
        tables.append(table(study))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].key.equals(tables[2].key)


def test_running_trials_are_adopted(tmp_path):
    def stop(count):
        if count in (3, 7):
            raise KeyboardInterrupt

    straight = create(tmp_path / "a", evaluator=Counting())
    straight.run(12)
    counting = Counting(stop)
    study = create(tmp_path / "b", evaluator=counting)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            study.run(12)
        assert study.status().running > 0
        study = reopen(tmp_path / "b", evaluator=counting)
    study.run(12)
    assert study.status().running == 0
    pd.testing.assert_frame_equal(table(straight), table(study))
    assert len(counting.seen) == 12 + 2  # only what was being evaluated is evaluated again
    assert len(set(counting.seen)) == 12


class Backwards(Executor):
    """Takes four jobs, then does the last one first; it may die after the first outcome."""

    slots = 4
    apart = False

    def __init__(self, dies: bool = False) -> None:
        self.dies, self.jobs, self.told = dies, {}, 0

    def open(self, work, listen):
        self.work = work

    def submit(self, slot, job):
        self.jobs[slot] = job

    def wait(self, timeout_s):
        if self.dies and self.told:
            raise KeyboardInterrupt
        slot = max(self.jobs)
        self.told += 1
        end = perform(self.work.evaluation, self.jobs.pop(slot), lambda event: None)
        return [Message(slot=slot, said=end)]

    def cancel(self, slot):
        self.jobs.pop(slot, None)

    def close(self):
        self.jobs.clear()


def test_outcomes_may_come_in_any_order(tmp_path):
    straight, other = create(tmp_path / "a"), create(tmp_path / "b")
    told = []
    straight.run(14)
    other.run(14, progress=lambda event: told.append(event.last.number), runner=Backwards())
    assert told == list(range(14))
    pd.testing.assert_frame_equal(table(straight), table(other))


def test_parked_outcomes_are_told_without_evaluating_again(tmp_path):
    counting = Counting()
    study = create(tmp_path / "a", evaluator=counting)
    with pytest.raises(KeyboardInterrupt):
        study.run(4, runner=Backwards(dies=True))
    assert study.status().told == 0
    reopen(tmp_path / "a", evaluator=counting).run(4)
    assert study.status().told == 4
    assert len(counting.seen) == 4


# --- no candidate twice -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", quick_some(1 / 3, SAMPLERS, 0))
def test_a_small_space_is_tried_whole_once_and_then_left(tmp_path, sampler, caplog):
    model = line_net()
    space = line_space(model)
    counting = Counting(lambda count: Result(error=1 / count, error_std=0.0, seconds=0.0))
    study = Study.create(
        tmp_path / "s",
        model=model,
        task=TASK,
        space=space,
        budget=Budget(macs=0.8),
        search=Search(sampler=sampler, evaluator=counting, threads=1),
    )
    with caplog.at_level(logging.WARNING, "secateur"):
        study.run(50)
    # Widths 2, 4, 6 of 8 cost 12, 24, 36 of 48 multiply-adds: all within 0.8 * 48 = 38.4; and the full one.
    assert sorted(set(study.trials().macs)) == [12, 24, 36, 48]
    assert not study.trials().duplicated(["key", "weights"]).any()
    seen = len(counting.seen)
    assert seen == len(study.trials()) and (seen == 4 or sampler == "joint")  # which looks again with other weights
    assert "every network within the budget was tried" in caplog.text
    study.run(60)
    assert len(counting.seen) == seen


def test_no_seeds_leaves_all_to_the_sampler(tmp_path):
    study = create(tmp_path / "s", seeds=(), sampler="random")
    study.run(5)
    assert set(study.trials().source) == {"sampler"}


@pytest.mark.parametrize("budget", [Budget(macs=0.3), Budget(params=0.4, peak_bytes=0.6), Budget(latency_ms=1e9)])
def test_seeds_are_different_networks_within_the_budget_at_several_costs(tmp_path, budget):
    study = create(tmp_path / "s", budget=budget, seeds=("full", "uniform", "magnitude"))
    study.run(12)
    seeds = study.trials()[study.trials().source.str.startswith("seed:")]
    assert seeds.source.tolist()[:3] == ["seed:full", "seed:uniform", "seed:magnitude"]
    assert seeds.key.is_unique and len(seeds) >= 6
    assert seeds.within[1:].all()
    assert seeds.macs.nunique() >= 5


# --- the budget may change --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", quick_some(1 / 3, SAMPLERS, 1))
def test_a_changed_budget_uses_all_trials_again(tmp_path, sampler):
    study = create(tmp_path / "s", sampler=sampler, batch=3)
    study.run(9)
    before = study.trials()
    other = reopen(tmp_path / "s", budget=Budget(params=0.3, macs=0.9))
    assert (other.front().params <= other.status().limits["params"]).all()
    other.run(12)
    after = other.trials()
    pd.testing.assert_frame_equal(before.drop(columns="within"), after[:9].drop(columns="within"))
    new = after[(after.trial >= 9) & (after.source != "reference")]
    assert new.within.all() and (new.params <= other.status().limits["params"]).all()
    assert reopen(tmp_path / "s").budget == Budget(params=0.3, macs=0.9), "the last budget is remembered"


# --- failures ---------------------------------------------------------------------------------------------------------


def failing(count):
    return Result(error=float("nan"), error_std=float("nan"), seconds=0.0, state="failed", reason=f"bang {count}")


def test_a_search_stops_when_everything_fails(tmp_path):
    study = create(tmp_path / "s", evaluator=Counting(failing))
    with pytest.raises(RuntimeError, match="last 10 trials all failed.*bang 10"):
        study.run(30)
    trials = study.trials()
    assert len(trials) == 12  # the third batch of four was proposed
    assert (trials.state[:10] == "failed").all() and trials.reason[4] == "bang 5"
    assert len(study.front()) == 0


@pytest.mark.parametrize("sampler", quick_some(1 / 3, SAMPLERS, 2))
def test_single_failures_do_not_stop_a_search(tmp_path, sampler):
    def sometimes(count):
        return failing(count) if count % 3 == 0 else None

    study = create(tmp_path / "s", sampler=sampler, evaluator=Counting(sometimes))
    study.run(16)
    status = study.status()
    assert (status.failed, status.told) == (5, 16)
    assert not set(study.front().trial) & set(study.trials().trial[study.trials().state == "failed"])


def test_an_error_that_is_no_number_is_a_failure(tmp_path):
    study = create(
        tmp_path / "s", evaluator=Counting(lambda count: Result(error=float("inf"), error_std=0.0, seconds=0.0))
    )
    study.run(3)
    assert study.status().failed == 3 and "not a finite number" in study.trials().reason[0]


# --- latency ----------------------------------------------------------------------------------------------------------


def test_a_latency_that_no_network_reaches_ends_the_search_at_once_with_what_can_be_had(tmp_path):
    counting = Counting()
    study = create(tmp_path / "s", budget=Budget(latency_ms=1e-6), evaluator=counting)
    with pytest.raises(ValueError, match=r"latency_ms=1e-06 is below.*reachable are [\d.]+ to [\d.]+ ms"):
        study.run(6)
    assert len(study.trials()) == 0 and not counting.seen


def timed(study, milliseconds):
    """A study on a device where every network takes so long as it is told by its multiply-adds."""

    def measure(calls, options):
        return [Timing(milliseconds(sum(p.numel() for p in network.parameters())), 0.01) for network, _ in calls]

    study._engine.latencies._measure = measure
    return study


def test_latencies_are_predicted_so_that_few_are_too_slow_and_those_are_never_trained(tmp_path, caplog):
    """A device whose networks take a microsecond a parameter."""
    full = sum(p.numel() for p in MODEL.parameters())
    limit = 0.3 * full / 1000
    counting = Counting()
    study = timed(create(tmp_path / "s", budget=Budget(latency_ms=limit), evaluator=counting), lambda n: n / 1000)
    study.run(24)
    trials = study.trials()
    assert trials.latency_ms.to_numpy() == pytest.approx(trials.params.to_numpy() / 1000)
    assert trials.evaluated[0] and not trials.within[0]  # the reference
    assert trials.within[1:].sum() > 18
    slow = trials[1:][~trials.within[1:]]
    assert not slow.evaluated.any() and slow.reason.str.startswith("latency").all()
    assert len(counting.seen) == 1 + trials.within.sum()
    assert (study.front().latency_ms <= limit).all() and len(study.front()) > 2


def test_what_is_too_slow_when_measured_again_is_not_exported(tmp_path, caplog):
    study = timed(create(tmp_path / "s", budget=Budget(latency_ms=1.0)), lambda n: n / 10_000)
    study.run(8)
    timed(study, lambda n: 2.0)
    with (
        caplog.at_level(logging.WARNING, "secateur"),
        pytest.raises(ValueError, match="measured again, no trial is within"),
    ):
        study.export(tmp_path / "out")
    assert "measured again it takes 2 ms" in caplog.text


def test_a_search_without_a_network_within_its_latency_says_so(tmp_path, caplog):
    study = timed(create(tmp_path / "s", budget=Budget(latency_ms=1.0)), lambda n: 1.05)
    with caplog.at_level(logging.WARNING, "secateur"):
        study.run(6)
    assert len(study.front()) == 0 and "the front is empty" in caplog.text
    with pytest.raises(ValueError, match="the front is empty"):
        study.export(tmp_path / "out")


def test_a_share_of_the_full_networks_latency_is_measured_once_and_kept(tmp_path):
    study = create(tmp_path / "s", budget=Budget(latency_ms="100%"), seeds=("full",))
    study.run(2)
    assert reopen(tmp_path / "s").status().limits == study.status().limits


def test_a_latency_budget_that_comes_later_measures_what_was_told(tmp_path):
    study = create(tmp_path / "s")
    study.run(6)
    assert study.trials().latency_ms.isna().all()
    later = reopen(tmp_path / "s", budget=Budget(macs=0.5, latency_ms=1e9))
    assert len(later.front()) == 0  # what was never measured is not said to be within
    later.run(6)
    assert (reopen(tmp_path / "s").trials().latency_ms > 0).all()
    assert later.front().key.tolist() == reopen(tmp_path / "s", budget=Budget(macs=0.5)).front().key.tolist()


def test_what_was_too_slow_may_be_tried_under_a_looser_budget(tmp_path):
    counting = Counting()
    seeds = ("full", "uniform")
    study = timed(create(tmp_path / "s", budget=Budget(latency_ms=1.0), evaluator=counting, seeds=seeds), lambda n: 0.1)
    study._engine.latencies.calibrate()
    timed(study, lambda n: 1.05).run(4)  # slower than predicted
    skipped = study.trials()[1:]
    assert len(skipped) == 3 and not skipped.evaluated.any()
    later = timed(reopen(tmp_path / "s", budget=Budget(latency_ms=1e9), evaluator=counting), lambda n: 1.05)
    later.run(8)
    assert later.trials().evaluated[4:].all()


def test_latency_as_an_objective(tmp_path):
    study = create(tmp_path / "s", objectives=("error", "latency_ms"))
    study.run(4)
    front = study.front()
    assert non_dominated(front[["error", "latency_ms"]]).all()
    assert front.latency_ms.is_monotonic_increasing


# --- real training ----------------------------------------------------------------------------------------------------


def test_real_training_is_reproducible_and_keeps_lower_rungs(tmp_path):
    tables = []
    for name in "ab":
        study = create(tmp_path / name, evaluator=None, training=tiny_training())
        study.run(4)
        tables.append(table(study))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert tables[0]["evaluator:error_recalibrated"].notna().all()
    assert (tables[0].error == tables[0]["evaluator:error_short"]).all()
