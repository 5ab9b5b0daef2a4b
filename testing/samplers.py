"""What a study relies on in a sampler. Start at `SamplerContract`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from ..search import Problem
from ..spaces import Budget, Candidate, Space
from ..studies import Search, Study
from .promises import assert_alike, untouched
from .toys import Instant, bowl, line_net, line_space, shares, tiny_net, tiny_space, tiny_task


class SamplerContract:
    """Tests of a sampler, in plain Optuna studies of a small network's candidates.

    A study makes a new sampler for every proposal, with another seed, and shows it all trials that are known: a sampler
    keeps nothing but what it notes on trials.

    Attributes:
        trials: how long a search is. Let it be longer than what your sampler begins at random with.
    """

    trials = 12

    def sampler(self, seed: int, problem: Problem) -> BaseSampler:
        """A sampler: override this."""
        raise NotImplementedError("say how your sampler is made: def sampler(self, seed, problem)")

    def problem(self) -> Problem:
        """What is searched: override it for another space, other objectives or limits."""
        space = _tiny()
        return Problem(space=space, limits={"macs": 0.5 * space.full_costs["macs"]}, batch=2)

    def test_every_call_makes_a_new_sampler(self) -> None:
        """A sampler that is kept by its factory would remember trials that a resumed study never had."""
        problem = self.problem()
        one, two = self.sampler(1, problem), self.sampler(1, problem)
        assert isinstance(one, BaseSampler), f"{one!r} is no sampler of Optuna's"
        assert one is not two

    def test_equal_seeds_and_trials_give_equal_proposals(self) -> None:
        """A study that is killed and goes on proposes what it would have proposed."""
        problem = self.problem()
        assert self._asked(problem) == self._asked(problem)

    def test_one_sampler_serves_a_whole_plain_study(self) -> None:
        """As Optuna itself uses it."""
        problem = self.problem()
        one = self.sampler(3, problem)
        again = self.sampler(3, problem)
        assert self._asked(problem, lambda number: one) == self._asked(problem, lambda number: again)

    def test_the_global_generators_stay_as_they_are(self) -> None:
        """Random numbers come from the sampler's seed alone, so that training is not changed by it."""
        problem = self.problem()
        with untouched():
            self._asked(problem)

    def test_trials_that_gave_no_error_do_no_harm(self) -> None:
        """Failed ones, those that run now, and those with a stand-in for their error."""
        problem = self.problem()
        states = (TrialState.FAIL, TrialState.COMPLETE, TrialState.RUNNING)
        self._asked(problem, end=lambda number: states[number % 3] if number < 9 else TrialState.COMPLETE)
        self._asked(problem, evaluated=False)

    def test_a_search_that_knows_everything_goes_on(self) -> None:
        """A space of four networks, long after each was tried; without limits."""
        self._asked(Problem(space=_line()))

    def test_other_objectives(self) -> None:
        """One, and three."""
        problem = self.problem()
        for objectives in (("error",), ("error", "macs", "params")):
            self._asked(replace(problem, objectives=objectives))

    def test_a_study_goes_on_with_it(self) -> None:
        """Opened again in the middle, it has the same trials as one that was left alone; all are within the budget."""
        with tempfile.TemporaryDirectory() as folder:
            model = tiny_net()
            parts: dict[str, Any] = {"model": model, "task": tiny_task()}
            instant = Instant(tiny_space(model))
            search = Search(sampler=self.sampler, evaluator=instant, batch=2, seeds=("full",), threads=1)
            studies = [
                Study.create(Path(folder) / name, **parts, space=instant.space, budget=Budget(macs=0.5), search=search)
                for name in ("a", "b")
            ]
            studies[0].run(self.trials)
            studies[1].run(self.trials // 2)
            other = Study.open(Path(folder) / "b", **parts, evaluator=instant, sampler=self.sampler)
            other.run(self.trials)
            assert_alike(other, studies[0])

    def _asked(
        self,
        problem: Problem,
        sampler: Callable[[int], BaseSampler] | None = None,
        *,
        end: Callable[[int], TrialState] = lambda number: TrialState.COMPLETE,
        evaluated: bool = True,
    ) -> list[Candidate]:
        """The legal candidates of a search; each trial ends at once, as `end` says of its number."""
        found = []
        study = _study(problem)
        for number in range(self.trials):
            study.sampler = self.sampler(number, problem) if sampler is None else sampler(number)
            trial = study.ask()
            params = {axis.name: trial.suggest_int(axis.name, 0, len(axis.choices) - 1) for axis in problem.space.axes}
            candidate = problem.space.canonical(problem.candidate(params))
            assert problem.space.check(candidate) == candidate
            found.append(candidate)
            trial.set_user_attr("evaluated", evaluated)
            for name, limit in problem.limits.items():
                trial.set_constraint(name, _cost(problem.space, candidate, name) / limit - 1)
            if (state := end(number)) is TrialState.COMPLETE:
                error = np.array([bowl(shares(problem.space, candidate))])
                values = problem.values(problem.space.encode([candidate]), error)[0]
                study.tell(trial, values.tolist(), state=state)
            elif state is TrialState.FAIL:
                study.tell(trial, state=state)
        return found


def _study(problem: Problem) -> optuna.Study:
    storage = optuna.storages.InMemoryStorage()
    storage.create_new_study([StudyDirection.MINIMIZE] * len(problem.objectives), "contract")
    return optuna.load_study(study_name="contract", storage=storage)


def _cost(space: Space, candidate: Candidate, name: str) -> float:
    return float(space.cost_table([candidate])[name][0])


@cache
def _tiny() -> Space:
    return tiny_space(tiny_net())


@cache
def _line() -> Space:
    return line_space(line_net())
