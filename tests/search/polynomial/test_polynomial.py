"""`PolynomialSampler`: what it proposes, what it says of it, and that it finds more than chance does."""

import json
import logging
import random as global_random
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch
from landscapes import LANDSCAPES, TinyNet, line_net, line_space, shares, tiny_net, tiny_space
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from secateur.search import NOTE, Problem, distributions, hypervolume
from secateur.search.polynomial import pool as pools
from secateur.search.polynomial.features import Features
from secateur.search.polynomial.improvement import (
    expected_hypervolume_improvement,
    expected_improvement,
    hypervolume_improvement,
)
from secateur.search.polynomial.polynomial import PolynomialSampler
from secateur.spaces import Space

SPACE = tiny_space(tiny_net())
FULL = SPACE.full_costs
LIMITS = {"macs": 0.5 * FULL["macs"]}
PROBLEM = Problem(space=SPACE, limits=LIMITS)


@pytest.fixture
def unlisted(monkeypatch):
    """A space that counts as too large to be listed whole."""
    monkeypatch.setattr(pools, "ENUMERATED", 1)


def error_of(problem, candidate, landscape="bowl"):
    return LANDSCAPES[landscape](shares(problem.space, candidate))


def study_of(problem, candidates, errors, running=(), **attributes):
    """An Optuna study that was told these."""
    storage = InMemoryStorage()
    storage.create_new_study([StudyDirection.MINIMIZE] * len(problem.objectives), "toy")
    study = optuna.load_study(study_name="toy", storage=storage)
    for candidate, error in zip(candidates, errors, strict=True):
        row = np.array([candidate])
        costs = problem.costs(row)
        trial = create_trial(
            params=problem.params(candidate),
            distributions=distributions(problem.space.axes),
            values=problem.values(row, np.array([error]))[0].tolist(),
            constraints={name: float(costs[name][0] - limit) for name, limit in problem.limits.items()},
            user_attrs=attributes,
        )
        study.add_trial(trial)
    for candidate in running:
        trial = create_trial(
            state=TrialState.RUNNING,
            params=problem.params(candidate),
            distributions=distributions(problem.space.axes),
        )
        study.add_trial(trial)
    return study


def proposal(problem, study, seed=0, **settings):
    """The next candidate, and what is noted on it."""
    sampler = PolynomialSampler(seed=seed, problem=problem, **settings)
    storage = study._storage
    trial = storage.get_trial(storage.create_new_trial(study._study_id))
    space = sampler.infer_relative_search_space(study, trial)
    candidate = problem.candidate(sampler.sample_relative(study, trial, space))
    notes = storage.get_trial(trial._trial_id).system_attrs
    return candidate, {key.removeprefix(NOTE): json.loads(json.dumps(value)) for key, value in notes.items()}


def drawn(problem, n, seed=0):
    """Different candidates within the limits."""
    found = {problem.repair(candidate): None for candidate in problem.space.sample(3 * n, seed)}
    return list(found)[:n]


def searched(problem, n, landscape, seed=0):
    """The candidates of a whole search, one told after another."""
    found = []
    for number in range(n):
        study = study_of(problem, found, [error_of(problem, one, landscape) for one in found])
        candidate, _ = proposal(problem, study, 100 * seed + number, candidates=2000)
        found.append(candidate)
    return found


# --- how much a candidate is expected to add -------------------------------------------------------------------------


def test_what_a_network_costs_says_nothing_of_its_error(monkeypatch):
    """Costs are objectives of their own: as features they had searches after parameters that cost few multiply-adds."""
    encoded = SPACE.encode(drawn(PROBLEM, 20))
    told = Features(PROBLEM)(encoded)
    dear = {name: 10 * column for name, column in PROBLEM.costs(encoded).items()}
    monkeypatch.setattr(Problem, "costs", lambda self, encoded: dear)
    for mine, other in zip(told, Features(PROBLEM)(encoded), strict=True):
        assert np.array_equal(mine, other)


def test_expected_improvement_is_what_it_says():
    draws = np.random.default_rng(0).normal(0.3, 0.1, 400_000)
    found = expected_improvement(np.array([0.3]), np.array([0.1]), 0.25)
    assert found[0] == pytest.approx(np.maximum(0.25 - draws, 0).mean(), rel=0.01)
    assert expected_improvement(np.array([0.1, 0.3]), np.zeros(2), 0.25) == pytest.approx([0.15, 0.0])


FRONT = np.array([[0.5, 1.0], [0.3, 2.0], [0.35, 2.5], [0.2, 4.0]])  # the third is dominated
CORNER = np.array([0.8, 5.0])
MEAN, STD, COST = np.array([0.25, 0.6, 0.1, 0.9]), np.array([0.1, 0.05, 0.02, 0.1]), np.array([1.5, 0.5, 4.5, 3.0])


def test_in_two_objectives_the_closed_form_is_the_mean_over_many_outcomes():
    draws = np.random.default_rng(1).standard_normal(4000)
    before = hypervolume(FRONT, CORNER)
    expected = [
        np.mean([hypervolume([*FRONT, [m + s * z, c]], CORNER) - before for z in draws])
        for m, s, c in zip(MEAN, STD, COST, strict=True)
    ]
    found = expected_hypervolume_improvement(MEAN, STD, COST[:, None], FRONT, CORNER)
    assert found == pytest.approx(expected, rel=0.05, abs=2e-4)


def test_without_doubt_it_is_the_improvement_itself():
    expected = [
        hypervolume([*FRONT, [m, c]], CORNER) - hypervolume(FRONT, CORNER) for m, c in zip(MEAN, COST, strict=True)
    ]
    assert hypervolume_improvement(MEAN, COST[:, None], FRONT, CORNER) == pytest.approx(expected)
    # 0.25 at a cost of 1.5: (0.5 - 0.25) x (2 - 1.5) + (0.3 - 0.25) x (4 - 2).
    assert expected[0] == pytest.approx(0.225)
    found = expected_hypervolume_improvement(MEAN, 1e-9 + 0 * STD, COST[:, None], FRONT, CORNER)
    assert found == pytest.approx(expected)


def test_three_objectives_agree_with_two_where_the_third_never_matters():
    """All third costs are 0 and the corner is at 1: volumes are areas."""
    zeros = np.zeros((4, 1))
    corner = np.append(CORNER, 1.0)
    expected = expected_hypervolume_improvement(MEAN, STD, COST[:, None], FRONT, CORNER)
    found = expected_hypervolume_improvement(MEAN, STD, np.c_[COST, zeros], np.c_[FRONT, zeros], corner)
    assert found == pytest.approx(expected, rel=0.1, abs=0.01)
    certain = hypervolume_improvement(MEAN, np.c_[COST, zeros], np.c_[FRONT, zeros], corner)
    assert certain == pytest.approx(hypervolume_improvement(MEAN, COST[:, None], FRONT, CORNER), rel=0.1, abs=0.02)


def test_an_empty_front_is_no_trouble():
    none = np.zeros((0, 2))
    found = hypervolume_improvement(np.array([0.5]), np.array([[2.0]]), none, CORNER)
    assert found == pytest.approx([0.3 * 3.0])
    assert expected_improvement(np.array([0.5]), np.array([1e-9]), 0.8) == pytest.approx([0.3])


# --- what is proposed -------------------------------------------------------------------------------------------------


def test_the_first_trials_are_spread_over_the_sizes():
    found = searched(PROBLEM, 4, "bowl")
    macs = PROBLEM.costs(SPACE.encode(found))["macs"] / LIMITS["macs"]
    assert macs[0] > 0.9 and macs.min() < 0.2
    assert len(set(found)) == 4 and PROBLEM.within(SPACE.encode(found)).all()


@pytest.mark.parametrize("objectives", [("error",), ("error", "macs"), ("macs", "error", "params")])
def test_proposals_are_new_canonical_and_affordable_for_any_number_of_objectives(objectives, unlisted):
    problem = replace(PROBLEM, objectives=objectives)
    before = drawn(problem, 9)
    for seed in range(3):
        study = study_of(problem, before, [error_of(problem, one) for one in before])
        candidate, notes = proposal(problem, study, seed, candidates=2000)
        assert candidate == SPACE.canonical(candidate) and candidate not in before
        assert problem.within(np.array([candidate]))[0]
        assert notes["predicted"]["std"] > 0
        before.append(candidate)


def test_the_same_seed_and_trials_give_the_same_proposal(unlisted):
    before = drawn(PROBLEM, 10)
    errors = [error_of(PROBLEM, one) for one in before]
    found = []
    for noise in (1, 2):
        np.random.seed(noise)
        global_random.seed(noise)
        found.append(proposal(PROBLEM, study_of(PROBLEM, before, errors), 7, candidates=2000))
    assert found[0] == found[1]


def test_mates_of_a_batch_are_not_proposed_again_nor_their_like(unlisted):
    before = drawn(PROBLEM, 12)
    errors = [error_of(PROBLEM, one) for one in before]
    first, alone = proposal(PROBLEM, study_of(PROBLEM, before, errors), candidates=2000)
    running = [first]
    for _ in range(3):
        candidate, _ = proposal(PROBLEM, study_of(PROBLEM, before, errors, running), candidates=2000)
        assert candidate not in running
        running.append(candidate)
    _, crowded = proposal(PROBLEM, study_of(PROBLEM, before, errors, running), candidates=2000)
    assert crowded["model"] == alone["model"]  # mates have no error yet: they are in no figure


def test_it_says_what_it_foresees_and_how_well_it_foresaw():
    before = drawn(PROBLEM, 25)
    errors = [error_of(PROBLEM, one) for one in before]
    candidate, notes = proposal(PROBLEM, study_of(PROBLEM, before, errors))
    model = notes["model"]
    assert model["kind"] == "polynomial" and model["trials"] == 25 and model["degree"] in (1, 2)
    assert model["mean_rmse"] == pytest.approx(np.std(errors) * 25 / 24)  # each against the mean of 24 others
    assert model["rmse"] < 0.3 * model["mean_rmse"] and model["r2"] > 0.9
    assert notes["predicted"]["error"] == pytest.approx(error_of(PROBLEM, candidate), abs=0.1)


def test_on_noise_it_falls_back_to_the_mean_and_says_so(caplog):
    # Neighbours that contradict one another: what is left out is predicted the wrong way round.
    before = sorted(drawn(PROBLEM, 16), key=lambda one: shares(SPACE, one).sum())
    errors = [0.2 + 0.2 * (number % 2) for number in range(16)]
    with caplog.at_level(logging.INFO, logger="secateur"):
        candidate, notes = proposal(PROBLEM, study_of(PROBLEM, before, errors))
    assert notes["model"]["kind"] == "mean" and notes["model"]["degree"] == 0
    assert notes["model"]["r2"] <= 0
    assert "trials left out" in caplog.text
    assert candidate not in before and PROBLEM.within(np.array([candidate]))[0]


@pytest.mark.parametrize("factor", [1000, 1e-3])
def test_the_unit_of_the_error_changes_no_proposal(factor, unlisted):
    before = drawn(PROBLEM, 14)
    errors = np.array([error_of(PROBLEM, one) for one in before])
    found = [proposal(PROBLEM, study_of(PROBLEM, before, one), candidates=2000) for one in (errors, factor * errors)]
    assert found[0][0] == found[1][0]
    assert found[1][1]["predicted"]["error"] == pytest.approx(factor * found[0][1]["predicted"]["error"], rel=1e-3)


def test_errors_below_zero_are_searched_too(unlisted):
    before = drawn(PROBLEM, 14)
    errors = [error_of(PROBLEM, one) - 3 for one in before]
    candidate, notes = proposal(PROBLEM, study_of(PROBLEM, before, errors), candidates=2000)
    assert PROBLEM.within(np.array([candidate]))[0] and notes["model"]["kind"] == "polynomial"
    assert notes["predicted"]["error"] == pytest.approx(error_of(PROBLEM, candidate) - 3, abs=0.2)


def test_errors_that_stand_in_are_never_used():
    before = drawn(PROBLEM, 8)
    stood_in = study_of(PROBLEM, before, [0.5] * 8, evaluated=False)
    candidate, notes = proposal(PROBLEM, stood_in)
    assert notes["model"] == {"kind": "start", "trials": 0}
    assert candidate not in before


def test_trials_beyond_a_limit_teach_but_are_on_no_front():
    """With trials beyond the limits alone there is a model and no front; what is proposed is within them."""
    tight = replace(PROBLEM, limits={"macs": 0.1 * FULL["macs"]})
    wide = [one for one in drawn(PROBLEM, 40) if not tight.within(np.array([one]))[0]][:12]
    study = study_of(tight, wide, [error_of(PROBLEM, one) for one in wide])
    candidate, notes = proposal(tight, study)
    assert notes["model"]["trials"] == 12
    assert tight.within(np.array([candidate]))[0]


def test_a_space_of_widths_alone_will_do():
    problem = Problem(space=line_space(line_net()))
    assert len(set(searched(problem, 4, "bowl"))) == 4


def test_a_space_of_depth_and_side_alone_will_do(unlisted):
    """Widths of one choice each: 3 depths x 3 sides are left."""
    space = Space.trace(TinyNet(width=1), torch.zeros(1, 1, 12, 12), resolutions=(8, 10, 12), ignore=("down",))
    assert [(axis.kind, len(axis.choices)) for axis in space.axes if len(axis.choices) > 1] == [
        ("depth", 3),
        ("resolution", 3),
    ]
    problem = Problem(space=space)
    found = searched(problem, 9, "bowl")
    assert len(set(found)) == 9
    assert problem.space.check(searched(problem, 10, "bowl")[-1])


def test_with_nothing_left_it_says_something_legal():
    space = line_space(line_net())  # four networks
    problem = Problem(space=space)
    found = searched(problem, 6, "bowl")
    assert len(set(found[:4])) == 4
    assert all(space.check(one) == one for one in found)


def test_it_serves_a_plain_optuna_study():
    sampler = PolynomialSampler(seed=0, problem=PROBLEM, candidates=1000)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)

    def objective(trial):
        params = {axis.name: trial.suggest_int(axis.name, 0, len(axis.choices) - 1) for axis in SPACE.axes}
        extra = trial.suggest_float("something else", 0, 1)
        candidate = PROBLEM.candidate(params)
        return error_of(PROBLEM, candidate) + 0 * extra, float(PROBLEM.costs(np.array([candidate]))["macs"][0])

    study.optimize(objective, n_trials=8)
    rows = np.array([PROBLEM.candidate(trial.params) for trial in study.trials])
    assert len({*map(tuple, rows.tolist())}) == 8 and PROBLEM.within(rows).all()
    assert NOTE + "predicted" in study.trials[-1].system_attrs


@pytest.mark.parametrize("landscape", LANDSCAPES)
def test_it_finds_in_12_trials_more_than_chance_does_in_as_many(landscape):
    corner = np.array([0.9, 1.1 * LIMITS["macs"]])

    def volume(candidates):
        rows = SPACE.encode(candidates)
        errors = np.array([error_of(PROBLEM, one, landscape) for one in candidates])
        return hypervolume(PROBLEM.values(rows, errors), corner)

    by_chance = np.median([volume(drawn(PROBLEM, 12, seed)) for seed in range(8)])
    assert volume(searched(PROBLEM, 12, landscape)) > by_chance


def test_on_a_smooth_landscape_12_trials_find_more_than_48_by_chance():
    corner = np.array([0.9, 1.1 * LIMITS["macs"]])
    rows = [SPACE.encode(searched(PROBLEM, 12, "bowl"))]
    rows += [SPACE.encode(drawn(PROBLEM, 48, seed)) for seed in range(8)]
    errors = [np.array([error_of(PROBLEM, one) for one in each.tolist()]) for each in rows]
    found, *by_chance = [hypervolume(PROBLEM.values(*pair), corner) for pair in zip(rows, errors, strict=True)]
    assert found > np.median(by_chance)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="start=1"):
        PolynomialSampler(seed=0, problem=PROBLEM, start=1)
