"""The trials of a study as the sampler of this folder sees them: what was tried, what it was for, what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ...spaces import Candidate
from ..problem import NOTE, Problem


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A trial as the sampler of this folder sees it."""

    number: int
    candidate: Candidate
    running: bool
    error: float | None
    notes: Mapping[str, Any]


def seen_trials(study: Study, trial: FrozenTrial, problem: Problem) -> list[Seen]:
    """All trials but the one that is asked for, in number order."""
    names = [axis.name for axis in problem.space.axes]
    seen = []
    for one in study.get_trials(deepcopy=False):
        if one.number == trial.number or not all(name in one.params for name in names):
            continue
        error = one.values[problem.objectives.index("error")] if one.state is TrialState.COMPLETE else None
        if error is not None and not (one.user_attrs.get("evaluated", True) and np.isfinite(error)):
            error = None
        ours = "fixed_params" not in one.system_attrs  # of a trial that was enqueued, what was asked for is not true
        seen.append(
            Seen(
                number=one.number,
                candidate=problem.space.canonical(problem.candidate(one.params)),
                running=one.state is TrialState.RUNNING,
                error=error,
                notes={k.removeprefix(NOTE): v for k, v in one.system_attrs.items() if ours and k.startswith(NOTE)},
            )
        )
    return seen


def axis_of(trial: Seen) -> str | None:
    """The dimension that a trial was proposed for."""
    axis: str | None = trial.notes.get("dimensions", {}).get("axis")
    return axis
