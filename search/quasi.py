"""A scrambled Sobol sequence: evenly spread candidates, whatever was told."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats.qmc import Sobol

from .problem import Problem, distributions


@final
class QuasiRandomSampler(BaseSampler):
    """Trial `k` takes point `k` of one sequence, scrambled by the seed of the problem.

    Optuna's `QMCSampler` counts its points on the study; this one needs no memory, so a search that is killed goes on
    with the next point.
    """

    def __init__(self, *, problem: Problem) -> None:
        """Args: problem: its seed scrambles the sequence."""
        self.problem = problem

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every axis."""
        return distributions(self.problem.space.axes)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Point `trial.number`, as positions on the axes."""
        axes = self.problem.space.axes
        if not axes:
            return {}
        sequence = Sobol(len(axes), scramble=True, rng=np.random.default_rng(self.problem.seed))
        if trial.number:
            sequence.fast_forward(trial.number)
        point = sequence.random(1)[0]
        return {axis.name: int(x * len(axis.choices)) for axis, x in zip(axes, point, strict=True)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As `sample_relative`; for loops that ask an axis at a time."""
        return self.sample_relative(study, trial, {})[param_name]
