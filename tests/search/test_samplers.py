"""Every sampler by name, ours and Optuna's: the contract that every sampler must keep."""

import dataclasses
import math

import optuna
import pytest
from landscapes import LANDSCAPES, shares, tiny_net, tiny_space

from secateur.search import SAMPLERS, Problem, sampler_factory
from secateur.search.polynomial.polynomial import PolynomialSampler
from secateur.search.samplers import choose
from secateur.testing import SamplerContract

SPACE = tiny_space(tiny_net())
FULL = SPACE.full_costs["macs"]
PROBLEM = Problem(space=SPACE, limits={"macs": 0.5 * FULL}, batch=2)


def asked(name, seed, trials, problem=PROBLEM):
    """What a sampler asks for in a plain Optuna study, an axis at a time."""
    storage = optuna.storages.InMemoryStorage()
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE] * len(problem.objectives), "toy")
    study = optuna.load_study(study_name="toy", storage=storage, sampler=SAMPLERS[name](seed, problem))
    found = []
    for _ in range(trials):
        trial = study.ask()
        params = {axis.name: trial.suggest_int(axis.name, 0, len(axis.choices) - 1) for axis in SPACE.axes}
        candidate = problem.space.canonical(problem.candidate(params))
        costs = problem.space.cost_table([candidate])
        trial.set_constraint("macs", float(costs["macs"][0]) / problem.limits["macs"] - 1)
        error = LANDSCAPES["bowl"](shares(SPACE, candidate))
        values = [error if goal == "error" else float(costs[goal][0]) for goal in problem.objectives]
        study.tell(trial, values, state=optuna.trial.TrialState.COMPLETE)
        found.append(candidate)
    return found


class TestEverySampler(SamplerContract):
    @pytest.fixture(autouse=True, params=SAMPLERS)
    def chosen(self, request):
        self.name = request.param

    def sampler(self, seed, problem):
        known, factory = sampler_factory(self.name)
        assert known == self.name
        return factory(seed, problem)


def test_a_sequence_goes_on_where_it_stood():
    """Whichever process asks, and whatever was told: point k is point k; it covers every axis evenly."""
    found = asked("qmc", 0, 64)
    assert found == asked("qmc", 99, 64)  # the problem's seed counts, not the proposal's
    by_axis = list(zip(*[PROBLEM.params(candidate).values() for candidate in found], strict=True))
    side = by_axis[-1]
    assert {side.count(position) for position in set(side)} <= {21, 22}  # 64 points on 3 sides


def _quasi(seed, problem):
    return optuna.samplers.RandomSampler(seed=seed)


def test_a_factory_is_known_by_where_it_lives():
    name, factory = sampler_factory(_quasi)
    assert name.endswith("._quasi") and factory is _quasi


@pytest.mark.parametrize(
    ("given", "error"),
    [("cmaes", ValueError), (optuna.samplers.RandomSampler(seed=0), TypeError), (3, TypeError)],
)
def test_what_is_neither_a_name_nor_a_factory_is_refused(given, error):
    with pytest.raises(error, match="auto, random, qmc, tpe, nsga2"):
        sampler_factory(given)


@pytest.mark.parametrize(
    ("axes", "trials", "seconds", "name"),
    [
        (40, 100, math.inf, "polynomial"),  # unknown counts as long
        (40, 100, 0.2, "polynomial"),  # a proposal takes about 0.003 * 40 + 0.0004 * 100 = 0.16 s
        (40, 100, 0.15, "tpe"),
        (40, 1000, 0.15, "nsga2"),
        (400, 100, 1.0, "tpe"),
    ],
)
def test_the_rule_of_auto(axes, trials, seconds, name):
    assert choose(axes, trials, seconds) == name


def test_auto_is_the_sampler_that_its_rule_names():
    quick = dataclasses.replace(PROBLEM, trials=10, seconds=lambda: 1e-6)
    assert isinstance(SAMPLERS["auto"](0, quick), optuna.samplers.TPESampler)
    assert isinstance(SAMPLERS["auto"](0, PROBLEM), PolynomialSampler)
