"""Our samplers in studies of Optuna's own: its suite for samplers, part of the axes, other parameters, directions."""

import warnings

import optuna
import pytest
import torch
from optuna.samplers import BruteForceSampler, GridSampler, PartialFixedSampler, RandomSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from secateur import Budget, Search, Space, Study
from secateur.search import SAMPLERS, Problem, distributions
from secateur.testing.toys import Instant, tiny_net, tiny_task

OURS = ("polynomial", "three-dimensions", "joint", "qmc")
SPACE = Space.trace(tiny_net(), torch.rand(1, 1, 12, 12), resolutions=(12, 10, 8), divisor=4)
LIMITS = Budget(macs=0.6).limits(SPACE)
AXES = distributions(SPACE.axes)


def problem(*objectives):
    return Problem(space=SPACE, limits=LIMITS, objectives=objectives or ("error",))


@pytest.fixture(params=OURS)
def sampler(request):
    return lambda: SAMPLERS[request.param](0, problem())


class TestBasic(BasicSamplerTestCase):
    @pytest.fixture(params=OURS)
    def sampler(self, request):
        return lambda: SAMPLERS[request.param](0, problem())


class TestRelative(RelativeSamplerTestCase):
    @pytest.fixture(params=OURS)
    def sampler(self, request):
        return lambda: SAMPLERS[request.param](0, problem())


class TestSeveralObjectives(MultiObjectiveSamplerTestCase):
    @pytest.fixture(params=OURS)
    def sampler(self, request):
        return lambda: SAMPLERS[request.param](0, problem())


@pytest.mark.parametrize("name", OURS)
def test_part_of_the_axes_may_be_fixed(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=PartialFixedSampler({"resolution": 0}, SAMPLERS[name](0, problem())))
    if name == "three-dimensions":
        with pytest.raises(ValueError, match="none may be fixed, as resolution is"):
            study.ask(AXES)
        return
    for _ in range(6):
        trial = study.ask(AXES)
        study.tell(trial, 1.0 - sum(trial.params.values()) / 100)
    assert {trial.params["resolution"] for trial in study.trials} == {0}
    assert len({tuple(trial.params.values()) for trial in study.trials}) > 2


def test_axes_asked_one_by_one_are_of_one_candidate(sampler):
    study, other = (optuna.create_study(sampler=sampler()) for _ in range(2))
    whole, parts = study.ask(AXES), other.ask()
    for name, distribution in AXES.items():
        parts.suggest_int(name, distribution.low, distribution.high)
    assert whole.params == parts.params


def test_other_parameters_are_drawn_each_on_its_own(sampler):
    study = optuna.create_study(sampler=sampler())
    for _ in range(6):
        trial = study.ask(AXES)
        trial.suggest_float("lr", 0, 1), trial.suggest_float("dropout", 0, 1)
        study.tell(trial, 0.5)
    drawn = [trial.params[name] for trial in study.trials for name in ("lr", "dropout")]
    assert len(set(drawn)) == len(drawn)
    within = [problem().candidate({n: t.params[n] for n in AXES}) for t in study.trials]
    assert len(set(within)) > 2, "and the axes are searched beside them"


@pytest.mark.parametrize("name", [name for name in OURS if name != "qmc"])
def test_what_is_to_be_maximised_is_refused(name):
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS[name](0, problem()))
    with pytest.raises(ValueError, match="minimises: give errors in place of accuracies"):
        study.ask(AXES)


COARSE = Space.trace(tiny_net(), torch.rand(1, 1, 12, 12), divisor=4, ignore=("stem", "layer1.*"))


def searched(path, factory, space=COARSE):
    return Study.create(
        path,
        model=tiny_net(),
        task=tiny_task(),
        space=space,
        budget=Budget(macs=0.98),
        search=Search(sampler=factory, seeds=(), threads=1, evaluator=Instant(space)),
    )


def grid(seed, problem):
    places = {axis.name: range(len(axis.choices)) for axis in problem.space.axes}
    return GridSampler({name: list(some) for name, some in places.items()}, seed=0)


def brute(seed, problem):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return BruteForceSampler(seed=seed)


@pytest.mark.parametrize("factory", [grid, brute])
def test_samplers_that_enumerate_find_everything(tmp_path, factory):
    study = searched(tmp_path / "s", factory)
    study.run(60)
    assert study.status().ended["by"] == "space"
    every, straight = study.trials().key, searched(tmp_path / "random", "random")
    straight.run(60)
    assert set(every) == set(straight.trials().key) and not every.duplicated().any()


class Illegal(RandomSampler):
    value = 99

    def sample_independent(self, study, trial, name, distribution):
        return self.value


@pytest.mark.parametrize("value", [99, -1, 1.5, "8", None])
def test_what_is_no_choice_is_refused_by_name(tmp_path, value):
    sampler = type("Illegal", (Illegal,), {"value": value})
    with pytest.raises(ValueError, match="the sampler Illegal proposed .* expected a whole number of 0 to "):
        searched(tmp_path / "s", lambda seed, problem: sampler()).run(2)
