"""Each promise of a contract suite is one that a piece can break: then its test fails, and no other is needed."""

import optuna
import pytest
import torch

from secateur.pruners import criterion, l2
from secateur.testing import CriterionContract, SamplerContract

# --- samplers ---------------------------------------------------------------------------------------------------------


class RandomContract(SamplerContract):
    def sampler(self, seed, problem):
        return optuna.samplers.RandomSampler(seed=seed)


KEPT = optuna.samplers.RandomSampler(seed=0)


class Kept(RandomContract):
    def sampler(self, seed, problem):
        return KEPT


class Unseeded(RandomContract):
    def sampler(self, seed, problem):
        return optuna.samplers.RandomSampler()


class Global(optuna.samplers.RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        return int(torch.randint(distribution.high + 1, ()))


class FromTheGlobalGenerator(RandomContract):
    def sampler(self, seed, problem):
        torch.manual_seed(seed)
        return Global(seed=seed)


class LikesOnlySuccess(optuna.samplers.RandomSampler):
    def sample_relative(self, study, trial, search_space):
        assert all(len(one.values) for one in study.get_trials() if one.number < trial.number)
        return {}


class Trusting(RandomContract):
    def sampler(self, seed, problem):
        return LikesOnlySuccess(seed=seed)


class Two(optuna.samplers.RandomSampler):
    def after_trial(self, study, trial, state, values):
        assert state is not optuna.trial.TrialState.COMPLETE or len(values) == 2


class OfTwoObjectives(RandomContract):
    def sampler(self, seed, problem):
        return Two(seed=seed)


class NeverTwice(optuna.samplers.RandomSampler):
    def infer_relative_search_space(self, study, trial):
        return optuna.search_space.intersection_search_space(study.get_trials())

    def sample_relative(self, study, trial, search_space):
        told = {tuple(one.params.values()) for one in study.get_trials() if one.params}
        for position in range(search_space[name].high + 1 if (name := next(iter(search_space), None)) else 0):
            if (position,) not in told:
                return {name: position}
        assert len(search_space) != 1, "all were tried"
        return {}


class Exhausted(RandomContract):
    def sampler(self, seed, problem):
        return NeverTwice(seed=seed)


@pytest.mark.parametrize(
    ("contract", "test"),
    [
        (Kept, "test_every_call_makes_a_new_sampler"),
        (Unseeded, "test_equal_seeds_and_trials_give_equal_proposals"),
        (Unseeded, "test_one_sampler_serves_a_whole_plain_study"),
        (FromTheGlobalGenerator, "test_the_global_generators_stay_as_they_are"),
        (Trusting, "test_trials_that_gave_no_error_do_no_harm"),
        (OfTwoObjectives, "test_other_objectives"),
        (Exhausted, "test_a_search_that_knows_everything_goes_on"),
    ],
)
def test_a_sampler_that_breaks_a_promise_fails(contract, test):
    getattr(RandomContract(), test)()
    with pytest.raises((AssertionError, TypeError)):
        getattr(contract(), test)()


# --- criteria ---------------------------------------------------------------------------------------------------------


class L2Contract(CriterionContract):
    def criterion(self):
        return l2


@criterion("half")
def half(model, space, examples=None):
    return {name: scores[::2] for name, scores in l2(model, space).items()}


@criterion("endless")
def endless(model, space, examples=None):
    return {name: scores / 0 for name, scores in l2(model, space).items()}


@criterion("dice")
def dice(model, space, examples=None):
    return {group.name: torch.rand(group.units) for group in space.groups}


@criterion("careless", needs="labels")
def careless(model, space, examples=None):
    inputs, targets = examples.batches[0]
    examples.loss(model(inputs), targets).backward()
    return l2(model, space)


class Greedy:
    needs = "images"

    def __call__(self, model, space, examples=None):
        return l2(model, space)


@pytest.mark.parametrize(
    ("bad", "test"),
    [
        (half, "test_every_unit_gets_a_finite_score"),
        (endless, "test_every_unit_gets_a_finite_score"),
        (dice, "test_equal_networks_get_equal_scores"),
        (dice, "test_the_network_stays_as_it_was"),
        (careless, "test_the_network_stays_as_it_was"),
        (Greedy(), "test_it_asks_for_what_it_needs"),
    ],
)
def test_a_criterion_that_breaks_a_promise_fails(bad, test):
    class Bad(CriterionContract):
        def criterion(self):
            return bad

    getattr(L2Contract(), test)()
    with pytest.raises((AssertionError, ValueError)):
        getattr(Bad(), test)()


# --- what is to be overridden -----------------------------------------------------------------------------------------


def test_a_suite_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="def sampler"):
        SamplerContract().test_every_call_makes_a_new_sampler()
    with pytest.raises(NotImplementedError, match="def criterion"):
        CriterionContract().test_every_unit_gets_a_finite_score()
