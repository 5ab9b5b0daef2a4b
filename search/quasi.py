"""A scrambled Sobol sequence: evenly spread candidates, whatever was told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats.qmc import Sobol

from .axes import AxesSampler
from .problem import Problem


@final
class QuasiRandomSampler(AxesSampler):
    """Trial `k` takes point `k` of one sequence, scrambled by the seed of the problem.

    Optuna's `QMCSampler` counts its points on the study; this one needs no memory, so a search that is killed goes on
    with the next point.
    """

    minimises = False

    def __init__(self, *, problem: Problem) -> None:
        """Args: problem: its seed scrambles the sequence."""
        super().__init__(problem, problem.seed)

    def propose(self, study: Study, trial: FrozenTrial) -> Mapping[str, int]:
        """Point `trial.number`, as positions on the axes."""
        axes = self.problem.space.axes
        if not axes:
            return {}
        sequence = Sobol(len(axes), scramble=True, rng=np.random.default_rng(self.problem.seed))
        if trial.number:
            sequence.fast_forward(trial.number)
        point = sequence.random(1)[0]
        return {axis.name: int(x * len(axis.choices)) for axis, x in zip(axes, point, strict=True)}
