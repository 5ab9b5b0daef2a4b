"""JointPruning: exact and unbiased estimates, their invariances, the budget, and recovery of known optima."""

import numpy as np
import optuna
import pytest
from landscapes import LANDSCAPES, shares, tiny_net, tiny_space

from secateur.search import NOTE, SAMPLERS, Problem
from secateur.search.joint.joint import JointSampler, around, moved, one_sided_gradient, paired_gradient, standardised
from secateur.search.joint.ratios import Ratios, projected

SPACE = tiny_space(tiny_net())
FULL_MACS = SPACE.full_costs["macs"]
HALF = {"macs": 0.5 * FULL_MACS}


# --- the estimators ---------------------------------------------------------------------------------------------------


def slopes(loss, v, e, sigma):
    above = np.array([loss(v + sigma * one) for one in e])
    below = np.array([loss(v - sigma * one) for one in e])
    return paired_gradient(above, below, e, sigma)


def test_j1_coordinate_pairs_of_a_quadratic_are_exact():
    v, a, sigma = np.array([0.3, 0.9, 0.5]), np.array([0.7, 0.1, 0.4]), np.array([0.05, 0.2, 0.1])
    # Directions sqrt(d) along each axis: their mean outer product is the identity, as a Gaussian's.
    e = 3**0.5 * np.eye(3)
    np.testing.assert_allclose(slopes(lambda x: ((x - a) ** 2).sum() / 2, v, e, sigma), v - a, rtol=1e-12)


def test_j1_gaussian_pairs_of_a_quadratic_are_unbiased():
    v, a, sigma = np.array([0.3, 0.9]), np.array([0.7, 0.1]), np.array([0.05, 0.2])
    e = np.random.default_rng(0).standard_normal((100_000, 2))
    above, below = (((v + sign * sigma * e - a) ** 2).sum(axis=1) / 2 for sign in (1, -1))
    single = (above - below)[:, None] / 2 * e / sigma
    error = single.std(axis=0) / len(e) ** 0.5
    assert (np.abs(paired_gradient(above, below, e, sigma) - (v - a)) < 3 * error).all()


def test_j2_one_pair_of_a_linear_loss_gives_its_slope_along_the_direction():
    g, e = np.array([2.0, -1.0, 0.5]), np.array([[0.3, 1.0, -2.0]])
    # g.e = 0.6 - 1 - 1 = -1.4
    found = slopes(lambda x: float(g @ x), np.array([0.5, 0.5, 0.5]), e, np.ones(3))
    np.testing.assert_allclose(found, -1.4 * e[0], rtol=1e-12)


def test_j2_one_side_has_the_same_mean_and_a_larger_variance():
    g, v, random = np.array([2.0, -1.0]), np.array([0.5, 0.5]), np.random.default_rng(1)
    paired, single = [], []
    for _ in range(20_000):
        e = random.standard_normal((1, 2))
        above, below = (v + e) @ g, (v - e) @ g
        paired.append(paired_gradient(above, below, e, np.ones(2)))
        single.append(one_sided_gradient(above, e, np.ones(2)))
    for found in (np.array(paired), np.array(single)):
        assert (np.abs(found.mean(axis=0) - g) < 4 * found.std(axis=0) / 20_000**0.5).all()
    assert (np.var(single, axis=0) > np.var(paired, axis=0)).all()


def test_j3_a_constant_added_to_the_loss_changes_nothing():
    random = np.random.default_rng(2)
    e, above, below = random.standard_normal((4, 3)), random.random(4), random.random(4)
    sigma = np.full(3, 0.1)
    np.testing.assert_allclose(
        paired_gradient(above + 7, below + 7, e, sigma), paired_gradient(above, below, e, sigma), atol=1e-12
    )
    centred = one_sided_gradient(above, e, sigma, baseline=above.mean())
    np.testing.assert_allclose(one_sided_gradient(above + 7, e, sigma, baseline=above.mean() + 7), centred, atol=1e-10)
    np.testing.assert_allclose(standardised(above + 7), standardised(above), atol=1e-12)
    assert standardised(np.full(4, 0.3)).tolist() == [0.0] * 4


def test_j4_rescaling_a_group_with_its_sigma_changes_no_normalised_step():
    scale = np.array([1.0, 1.0, 10.0])

    def trajectory(factor):
        random, sigma, v = np.random.default_rng(3), 0.05 * factor, np.array([0.2, 0.8, 0.5]) * factor
        path = []
        for _ in range(20):
            e = random.standard_normal((4, 3))
            gradient = slopes(lambda x: ((x / factor - 0.4) ** 2).sum(), v, e, sigma)
            v = moved(v, gradient, sigma, rate=20.0)
            path.append(v / sigma)
        return np.array(path)

    np.testing.assert_allclose(trajectory(scale), trajectory(np.ones(3)), rtol=1e-9)


def test_an_axis_without_a_choice_stays():
    sigma = np.array([0.1, 0.0])
    gradient = paired_gradient(np.array([1.0]), np.array([0.0]), np.array([[1.0, 1.0]]), sigma)
    assert gradient.tolist() == [5.0, 0.0]  # (1 - 0) / (2 * 0.1)
    assert moved(np.array([0.5, 0.7]), gradient, sigma, 1.0)[1] == 0.7


def test_j6_a_separable_surface_is_climbed_to_its_constrained_optimum():
    """D(x) = W(x) = R(x) = x (2 - x), cost d w^2 r^2 = 10/11 * 0.8^4: the best is (10/11, 4/5, 4/5)."""
    target = 10 / 11 * 0.8**4
    widths, least, sigma = np.array([False, True, False]), np.full(3, 0.05), np.full(3, 0.05)

    def usage(x):
        return x[:, 0] * x[:, 1] ** 2 * x[:, 2] ** 2 / target

    def onto(x):
        return projected(x, usage, widths=widths, least=least)

    random, v = np.random.default_rng(4), onto(np.array([0.5, 0.7, 1.0]))
    for _ in range(150):
        e = random.standard_normal((4, 3))
        above, below = (np.stack([onto(v + sign * sigma * one) for one in e]) for sign in (1, -1))
        losses = [1 - (x * (2 - x)).prod(axis=1) for x in (above, below)]
        # As the sampler does: by the directions between the two that were really tried.
        v = onto(moved(v, paired_gradient(*losses, (above - below) / 2 / sigma, sigma), sigma, rate=80.0))
    np.testing.assert_allclose(v, [10 / 11, 0.8, 0.8], atol=0.01)


# --- the sampler ------------------------------------------------------------------------------------------------------


def search(seed=0, trials=32, batch=8, limits=HALF, landscape="bowl", fail=(), seeds=(), rounds=False, stop=None):
    """A study that proposes in batches, each by a new sampler; its trials."""
    problem = Problem(space=SPACE, limits=limits, batch=batch)
    study = optuna.create_study(directions=["minimize", "minimize"])
    resume(study, problem, seed, trials if stop is None else stop, fail, seeds, landscape, rounds)
    if stop is not None:
        copy = optuna.create_study(directions=["minimize", "minimize"])
        copy.add_trials(study.get_trials())
        study = copy
        resume(study, problem, seed, trials, fail, seeds, landscape, rounds)
    return problem, study


def resume(study, problem, seed, trials, fail, seeds, landscape, rounds):
    while len(study.trials) < trials:
        mates = []
        for _ in range(problem.batch):
            number = len(study.trials)
            study.sampler = JointSampler(seed=1000 * seed + number, problem=problem, rounds=rounds)
            if number < len(seeds):
                study.enqueue_trial(problem.params(seeds[number]))
            trial = study.ask()
            params = {a.name: trial.suggest_int(a.name, 0, len(a.choices) - 1) for a in problem.space.axes}
            if number < len(seeds):
                study._storage.get_trial(trial._trial_id).system_attrs.pop(f"{NOTE}joint", None)
            mates.append((trial, problem.candidate(params)))
        for trial, candidate in mates:
            if trial.number in fail:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            macs = float(problem.space.cost_table([candidate])["macs"][0])
            for name, limit in problem.limits.items():
                trial.set_constraint(name, macs - limit)
            study.tell(trial, [LANDSCAPES[landscape](shares(problem.space, candidate)), macs])


def said(study):
    return [trial.system_attrs[f"{NOTE}joint"] for trial in study.trials]


def candidates(problem, study):
    return [problem.candidate(trial.params) for trial in study.trials]


def test_a_generation_is_a_batch_of_pairs_around_one_center():
    _, study = search()
    notes = said(study)
    assert [one["generation"] for one in notes] == [number // 8 for number in range(32)]
    assert [(one["pair"], one["sign"]) for one in notes[:4]] == [(0, 1), (0, -1), (1, 1), (1, -1)]
    for plus, minus in zip(notes[::2], notes[1::2], strict=True):
        assert plus["e"] == minus["e"] and plus["center"] == minus["center"]
    assert notes[0]["center"] != notes[8]["center"]


def test_j5_every_center_is_on_the_budget_and_every_network_within_it():
    problem, study = search(trials=48)
    ratios = Ratios(problem, problem.limits)
    centers = np.array([one["center"] for one in said(study)])
    assert np.abs(ratios.usage(centers) - 1).max() < 1e-6
    macs = SPACE.cost_table(candidates(problem, study))["macs"]
    assert macs.max() <= HALF["macs"] and np.median(macs) > 0.85 * HALF["macs"]
    assert all(SPACE.canonical(one) == one for one in candidates(problem, study))


@pytest.mark.parametrize("landscape", ["bowl", "ridge"])
def test_it_finds_the_best_network_of_its_budget(landscape):
    positions = np.stack(np.meshgrid(*[np.arange(len(axis.choices)) for axis in SPACE.axes], indexing="ij"), axis=-1)
    problem = Problem(space=SPACE, limits=HALF)
    everything = problem.encoded(positions.reshape(-1, len(SPACE.axes)))
    everything = everything[problem.within(everything)]
    errors = np.array([LANDSCAPES[landscape](shares(SPACE, one)) for one in everything.tolist()])
    found = []
    for seed in range(3):
        _, study = search(seed=seed, trials=40, landscape=landscape)
        found.append(min(trial.values[0] for trial in study.trials))
    assert np.median(found) <= np.sort(errors)[len(errors) // 1000]  # among the best thousandth


def test_equal_seeds_and_trials_propose_alike_and_a_killed_search_goes_on_as_if_it_had_not_been():
    one, again, resumed, other = search(), search(), search(stop=16), search(seed=1)
    assert candidates(*one) == candidates(*again) == candidates(*resumed) != candidates(*other)
    assert said(one[1]) == said(resumed[1])


@pytest.mark.parametrize("fail", [{0, 5, 9, 10, 11}, set(range(8)), set(range(24))])
def test_failed_trials_do_not_break_it(fail):
    problem, study = search(fail=fail)
    assert [one["generation"] for one in said(study)][-1] == 3
    if fail >= set(range(8)):  # nothing was learned: the center stays
        assert said(study)[8]["center"] == pytest.approx(said(study)[0]["center"])
    assert SPACE.cost_table(candidates(problem, study))["macs"].max() <= HALF["macs"]


@pytest.mark.parametrize(("batch", "size"), [(1, 2), (2, 2), (3, 3), (5, 5), (6, 6)])
def test_any_batch_makes_generations(batch, size):
    _, study = search(batch=batch, trials=30)
    generations = [one["generation"] for one in said(study)]
    assert generations == [number // size for number in range(len(generations))]


def test_seeds_set_the_first_center():
    best = SPACE.repair(SPACE.uniform(1.0, 0.5, 0.7), HALF)
    seeds = [best, SPACE.smallest] + [SPACE.uniform(0.25, 0.0, 0.7)] * 6
    problem, study = search(seeds=seeds)
    ratios = Ratios(problem, problem.limits)
    first = study.trials[8].system_attrs[f"{NOTE}joint"]
    np.testing.assert_allclose(first["center"], ratios.projected(ratios.of(best)))
    assert first["generation"] == 0


def test_without_a_limit_each_generation_has_its_own_budget():
    problem, study = search(limits={}, trials=64)
    budgets = [one["limits"]["macs"] for one in said(study)[::8]]
    assert len(set(budgets)) == 8 and min(budgets) < 0.1 * FULL_MACS < 0.5 * FULL_MACS < max(budgets)
    macs = SPACE.cost_table(candidates(problem, study))["macs"]
    assert (macs <= np.repeat(budgets, 8)).all()


def test_rounds_are_noted_where_weights_are_shared():
    _, study = search(rounds=True)
    assert [trial.system_attrs[f"{NOTE}weights"] for trial in study.trials][::8] == [f"round:{k}" for k in range(4)]
    assert f"{NOTE}weights" not in search(trials=8)[1].trials[0].system_attrs


def test_nothing_is_tried_twice_unless_the_weights_are_others():
    once, shared = candidates(*search(trials=64)), candidates(*search(trials=64, rounds=True))
    assert len(set(once)) == 64 > len(set(shared))
    assert all(len(set(shared[i : i + 8])) == 8 for i in range(0, 64, 8))


def test_a_stand_in_error_is_no_error():
    problem, study = search(trials=8)
    for trial in study.trials:
        study._storage._get_trial(trial._trial_id).user_attrs["evaluated"] = False
    resume(study, problem, 0, 16, (), (), "bowl", False)
    assert said(study)[8]["center"] == pytest.approx(said(study)[0]["center"])


def test_candidates_around_a_center_are_within_its_budget():
    problem = Problem(space=SPACE, limits=HALF)
    center = Ratios(problem, HALF).uniform()
    draw = around(problem, center, HALF)
    drawn = [draw(np.random.default_rng(seed)) for seed in range(30)]
    assert len(set(drawn)) > 10 and drawn[0] == draw(np.random.default_rng(0))
    assert problem.within(SPACE.encode(drawn)).all()


def test_it_optimises_in_a_plain_study():
    problem = Problem(space=SPACE, limits=HALF, objectives=("error",))

    def objective(trial):
        params = {axis.name: trial.suggest_int(axis.name, 0, len(axis.choices) - 1) for axis in SPACE.axes}
        return LANDSCAPES["bowl"](shares(SPACE, problem.candidate(params)))

    study = optuna.create_study(sampler=JointSampler(seed=0, problem=problem, generation=4))
    study.optimize(objective, n_trials=12)
    assert [one["generation"] for one in said(study)] == [number // 4 for number in range(12)]


@pytest.mark.parametrize("wrong", [{"generation": 3}, {"generation": 0}, {"rate": 0.0}])
def test_settings_that_no_search_could_follow_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        JointSampler(seed=0, problem=Problem(space=SPACE, limits=HALF), **wrong)


def test_it_beats_random_search():
    def best(factory):
        problem, errors = Problem(space=SPACE, limits=HALF), []
        study = optuna.create_study(directions=["minimize", "minimize"])
        for number in range(16):
            study.sampler = factory(number, problem)
            trial = study.ask()
            params = {a.name: trial.suggest_int(a.name, 0, len(a.choices) - 1) for a in SPACE.axes}
            errors.append(LANDSCAPES["bowl"](shares(SPACE, problem.repair(problem.candidate(params)))))
            study.tell(trial, [errors[-1], 0.0])
        return min(errors)

    assert best(lambda seed, problem: JointSampler(seed=seed, problem=problem)) < best(SAMPLERS["random"])
