"""What our samplers share with Optuna's: how they take part of the axes, other parameters beside them, and studies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from .problem import Problem, distributions


class AxesSampler(BaseSampler):
    """Proposes whole candidates, and gives of them the axes that it is asked for.

    Where some axes are fixed (`PartialFixedSampler`), the others are those of a candidate that was proposed as if all
    were free; of axes that are asked one by one, all are of the same candidate. A parameter that is no axis is drawn at
    random, each on its own.

    Args:
        problem: what is searched.
        seed: of parameters that are no axes.
    """

    minimises = True
    """Whether it looks at values, and so at their direction."""
    takes_parts = True
    """Whether some axes may be fixed."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self._others = RandomSampler(seed=seed)
        self._last: tuple[tuple[str, int] | None, Mapping[str, int]] = (None, {})

    @abstractmethod
    def propose(self, study: Study, trial: FrozenTrial) -> Mapping[str, int]:
        """The next candidate's position on every axis; may be asked once for every trial."""

    def reseed_rng(self) -> None:
        """Draw other parameters anew, in a process of their own."""
        self._others.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every axis of the problem; none in a study whose trials have others."""
        axes = distributions(self.problem.space.axes)
        known = study.get_trials(deepcopy=False)
        strange = any(one.params and not axes.keys() & one.params.keys() for one in known)
        return {} if strange and not any(axes.keys() <= one.params.keys() for one in known) else axes

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Positions on those axes that are asked for, and anything for what is none.

        Raises:
            ValueError: something is to be maximised, or some axes are fixed and it needs all of them.
        """
        axes = distributions(self.problem.space.axes)
        fixed = [name for name in axes if name not in search_space]
        if fixed and axes.keys() & search_space.keys() and not self.takes_parts:
            raise ValueError(
                f"{type(self).__name__} tries networks along every dimension, so none may be fixed, as {fixed[0]} is; "
                "take another sampler, such as 'polynomial'"
            )
        return self._drawn(study, trial, search_space)

    def _drawn(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        axes = distributions(self.problem.space.axes)
        here = self._candidate(study, trial) if axes.keys() & search_space.keys() else {}
        return {
            name: int(here[name])
            if distribution == axes.get(name)
            else self._others.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A position of the trial's candidate, or anything for a parameter that is no axis."""
        return self._drawn(study, trial, {param_name: param_distribution})[param_name]

    def _candidate(self, study: Study, trial: FrozenTrial) -> Mapping[str, int]:
        if self.minimises and StudyDirection.MAXIMIZE in study.directions:
            raise ValueError(
                f"{type(self).__name__} minimises: give errors in place of accuracies, in a study whose directions are "
                "all 'minimize'"
            )
        if self._last[0] != (study.study_name, trial.number):
            self._last = (study.study_name, trial.number), self.propose(study, trial)
        return self._last[1]
