"""Proposals alone: no training, no disk."""

import itertools

import numpy as np
import optuna
import pytest
from landscapes import tiny_net, tiny_space
from networks import Plain, image

from secateur.evaluators.modes import seed_of
from secateur.pruners import METHODS, Request
from secateur.search import SAMPLERS, Problem
from secateur.spaces import Space, threshold_candidate, within
from secateur.studies.proposals.proposer import Proposer, SamplerView, Seeds
from secateur.studies.proposals.seeds import MOST, Seed, aims
from secateur.studies.trials.trial import Scored

SPACE = tiny_space(tiny_net())
FULL = SPACE.full_costs


def proposer(limits, sampler="random", seeds=()):
    return Proposer(
        problem=Problem(space=SPACE, limits=limits),
        factory=SAMPLERS[sampler] if isinstance(sampler, str) else sampler,
        seeds=Seeds(seeds, SPACE, limits, planted),
        ranking="l2:0",
        fidelity="short",
    )


def planted(name, aim):
    if name == "magnitude":
        candidate = threshold_candidate(SPACE, None, aim.limits, depth=aim.depth, resolution=aim.resolution)
    else:
        candidate = (
            METHODS[name]()
            .propose(Request(None, SPACE, aim.limits, depth=aim.depth, resolution=aim.resolution))
            .candidate
        )
    return Seed(name=name, candidate=candidate)


def all_within(limits):
    every = np.array(list(itertools.product(*[axis.choices for axis in SPACE.axes])))
    return {SPACE.canonical(row) for row in every[within(SPACE, every, limits)].tolist()}


@pytest.mark.parametrize("share", [0.02, 0.03])
def test_every_network_within_the_budget_is_proposed_once_and_then_none(share):
    """Also across removed blocks, in which widths have no meaning."""
    limits = {"macs": share * FULL["macs"]}
    mine, found = proposer(limits), []
    while (trial := mine.propose(len(found))) is not None:
        told = trial.ended(Scored(error=0.5))
        mine.close([told])
        found.append(trial.candidate)
    assert len(found) == len(set(found)) > 20
    assert set(found) == all_within(limits)


def test_a_proposal_is_repaired_and_remembers_what_was_asked():
    limits = {"macs": 0.2 * FULL["macs"]}
    mine = proposer(limits)
    trials = [mine.propose(number) for number in range(20)]
    repaired = [trial for trial in trials if trial.asked != trial.candidate]
    assert repaired and all(trial.within(limits) for trial in trials)
    assert all(trial.candidate == SPACE.repair(trial.asked, limits) for trial in trials if trial.source == "sampler")


def test_the_sampler_sees_what_was_repaired_not_what_it_asked():
    seen = []

    class Looking(optuna.samplers.RandomSampler):
        def before_trial(self, study, trial):
            seen.append([row.params for row in study.get_trials(deepcopy=False)[: trial.number]])

    limits = {"macs": 0.1 * FULL["macs"]}
    mine = proposer(limits, lambda seed, problem: Looking(seed=seed))
    trials = [mine.propose(number) for number in range(4)]
    stand = [
        {axis.name: axis.choices.index(value) for axis, value in zip(SPACE.axes, trial.candidate, strict=True)}
        for trial in trials[:3]
    ]
    assert seen[-1] == stand


def test_each_attempt_and_each_proposal_finds_nothing_that_another_noted():
    """What a sampler notes on the study is gone; what it notes on a trial stays only if that attempt was taken."""
    found = []

    class Noting(optuna.samplers.RandomSampler):
        def before_trial(self, study, trial):
            notes = study._storage.get_study_system_attrs(study._study_id)
            found.append((dict(trial.system_attrs), notes))
            study._storage.set_study_system_attr(study._study_id, "study", 1)
            study._storage.set_trial_system_attr(trial._trial_id, f"note {len(found)}", 1)

    view = SamplerView(Problem(space=SPACE), lambda seed, problem: Noting(seed=seed))
    for attempt in range(3):
        asked = view.ask(0, attempt)
    assert view.resolve(0, asked) == {"note 3": 1}
    view.ask(1, 0)
    assert found == [({}, {})] * 4


def test_seeds_of_seeds():
    assert seed_of(1, 2) == seed_of(1, 2) != seed_of(2, 1)
    assert len({seed_of(0, number, attempt) for number in range(100) for attempt in range(3)}) == 300


@pytest.mark.parametrize("sides", [(8, 16), (8, 12, 16)])
def test_seeds_come_at_shorter_sides_and_at_the_shortest_where_less_is_left(sides):
    space = Space.trace(Plain(), image(1, 3, 16, 16), divisor=2, resolutions=sides)
    limit = 0.8 * space.full_costs["macs"]
    found = [(aim.limits["macs"] / limit, aim.resolution * 16) for aim in aims(space, {"macs": limit})]
    assert found[:2] == [(1.0, 16), (1.0, sides[-2])]
    assert {(1.0, 8), (0.25, 8)} <= set(found) and ((0.5, 8) in found) == (len(sides) > 2)
    assert len(found) <= MOST - 2
