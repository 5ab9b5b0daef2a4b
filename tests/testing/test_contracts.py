"""Each promise of a contract suite is one that a piece can break: then its test fails, and no other is needed."""

import math
import threading

import optuna
import pytest
import torch

from secateur.evaluators import Result
from secateur.pruners import METHODS, Aofp, Proposal, criterion, l2
from secateur.testing import CriterionContract, EvaluatorContract, PrunerContract, SamplerContract

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


# --- pruning methods --------------------------------------------------------------------------------------------------


class UniformContract(PrunerContract):
    def method(self):
        return METHODS["uniform"]()


class Plain:
    """The smallest network; each of those below breaks one promise."""

    name, needs, allocates, selects, weights = "plain", "nothing", True, False, "inherited"

    def propose(self, request):
        return Proposal(candidate=request.space.smallest, scores=request.space.default_scores)


class TooLarge(Plain):
    def propose(self, request):
        return Proposal(candidate=request.space.full, scores=request.space.default_scores)


class Trains(Plain):
    def propose(self, request):
        request.model.train()
        return super().propose(request)


class SaysFresh(Plain):
    weights = "fresh"


class Dice(Plain):
    def propose(self, request):
        scores = {group.name: torch.rand(group.units) for group in request.space.groups}
        return Proposal(candidate=request.space.smallest, scores=scores)


class SaysImages(Plain):
    needs = "images"


class Forgets(Plain):
    """Trains, and its state is lost with the process."""

    needs, weights = "training", "trained"

    def start(self, request):
        phase = Aofp().start(request)
        vars(phase).update(state=dict, restore=lambda state: None)
        return phase


@pytest.mark.parametrize(
    ("bad", "test"),
    [
        (TooLarge, "test_its_network_keeps_every_promise"),
        (Trains, "test_its_network_keeps_every_promise"),
        (SaysFresh, "test_its_network_keeps_every_promise"),
        (Dice, "test_equal_seeds_give_equal_proposals"),
        (Plain, "test_a_budget_out_of_reach_is_refused"),
        (SaysImages, "test_it_asks_for_what_it_needs"),
        (Forgets, "test_a_training_that_is_cut_short_goes_on_bit_by_bit"),
    ],
)
def test_a_method_that_breaks_a_promise_fails(bad, test):
    class Bad(PrunerContract):
        def method(self):
            return bad()

    getattr(UniformContract(), test)()
    with pytest.raises(AssertionError):
        getattr(Bad(), test)()


# --- evaluators -------------------------------------------------------------------------------------------------------


def good(build, *, candidate, resolution, fidelity, seed, report=None):
    network = build()
    stopped = report("recalibrated", 0.5)
    return Result(
        error=0.25 + seed / 100,
        error_std=None,
        seconds=0.0,
        weights=network.state_dict(),
        rung="recalibrated" if stopped else fidelity,
        stopped=bool(stopped),
    )


def a_number(build, **asked):
    return 0.5


def no_number(build, **asked):
    return Result(error=math.nan, error_std=None, seconds=0.0)


def chance(build, **asked):
    return Result(error=float(torch.rand(())), error_std=None, seconds=0.0)


def of_another(build, **asked):
    return Result(error=0.5, error_std=None, seconds=0.0, weights={"a": torch.zeros(1)})


def deaf(build, *, report, **asked):
    report("recalibrated", 0.5)
    report("short", 0.5)
    return Result(error=0.5, error_std=None, seconds=0.0, rung="short")


class Locked:
    """Holds what can't go to another process."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, build, **asked):
        return Result(error=0.5, error_std=None, seconds=0.0)


@pytest.mark.parametrize(
    ("bad", "test"),
    [
        (a_number, "test_its_answer_is_a_result"),
        (no_number, "test_its_answer_is_a_result"),
        (chance, "test_equal_seeds_give_equal_errors"),
        (chance, "test_the_full_network_stays_as_it_was"),
        (of_another, "test_its_weights_are_those_of_the_network"),
        (deaf, "test_it_ends_where_it_is_told_to"),
        (Locked(), "test_it_travels"),
    ],
)
def test_an_evaluator_that_breaks_a_promise_fails(bad, test):
    def suite(evaluator):
        found = EvaluatorContract()
        found.evaluator = lambda: evaluator
        return found

    getattr(suite(good), test)()
    with pytest.raises((AssertionError, RuntimeError, TypeError)):
        getattr(suite(bad), test)()


# --- what is to be overridden -----------------------------------------------------------------------------------------


def test_a_suite_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="def sampler"):
        SamplerContract().test_every_call_makes_a_new_sampler()
    with pytest.raises(NotImplementedError, match="def criterion"):
        CriterionContract().test_every_unit_gets_a_finite_score()
    with pytest.raises(NotImplementedError, match="def method"):
        PrunerContract().test_a_budget_out_of_reach_is_refused()
    with pytest.raises(NotImplementedError, match="def evaluator"):
        EvaluatorContract().test_its_answer_is_a_result()
