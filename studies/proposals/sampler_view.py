"""What a sampler sees: the told trials, and the mates of its own batch as running.

A study in memory, fed as the ledger grows. For each proposal a new sampler is made with a seed from (study seed, trial
number, attempt) and asked by Optuna's public sampler interface; nothing of it survives the call but what it noted on
its trial. So a proposal is a function of the ledger: kill, resume or evaluate in another order, and it is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState, create_trial

from ...search import NOTE, Problem, SamplerFactory, check_sampler, distributions
from ...spaces import Candidate
from ..settings.determinism import seed_of
from ..trials.outcome import Failed, Scored
from ..trials.storage import quiet
from ..trials.trial import Trial


class SamplerView:
    """A sampler's view of a study; trials enter as running, in number order, and are closed a batch at a time."""

    def __init__(self, problem: Problem, factory: SamplerFactory) -> None:
        self._problem = problem
        self._axes = problem.space.axes
        self._objectives = problem.objectives
        self._factory = factory
        self._distributions = distributions(self._axes)
        self._storage = _Forgetful()
        with quiet():
            self._id = self._storage.create_new_study([StudyDirection.MINIMIZE] * len(self._objectives), "sampler view")

    def ask(self, number: int, attempt: int) -> Candidate:
        """What a fresh sampler wants to try as trial `number`, the next one; attempts count from 0."""
        if attempt == 0:
            self._storage.create_new_trial(self._id)
        trial = self._storage.get_trial(self._trial_id(number))
        # A new attempt finds a new trial. No call takes a note back, but memory hands out its own (Optuna 5.0).
        trial.system_attrs.clear()
        sampler, study = self._sampler(number, attempt)
        sampler.before_trial(study, trial)
        joint = sampler.infer_relative_search_space(study, trial)
        # Also where the space is still empty: this is where a genetic sampler puts a trial into a generation.
        asked = sampler.sample_relative(study, trial, joint)
        for axis in self._axes:
            if len(axis.choices) == 1:
                asked[axis.name] = 0
            elif axis.name not in asked:
                asked[axis.name] = sampler.sample_independent(study, trial, axis.name, self._distributions[axis.name])
        return Candidate(axis.choices[int(asked[axis.name])] for axis in self._axes)

    def noted(self, number: int, key: str) -> Any:
        """What a sampler of ours noted under a key on the trial that was asked for; None where it did not."""
        return self._notes(self._trial_id(number)).get(NOTE + key)

    def resolve(self, number: int, candidate: Candidate, *, forget: str | None = None) -> dict[str, Any]:
        """Give the trial that was asked for its final parameters; returns what the sampler noted on it.

        Args:
            number: of the trial.
            candidate: what it tries.
            forget: how the notes begin that are not true of this candidate.
        """
        trial_id = self._trial_id(number)
        if forget is not None:
            notes = self._storage.get_trial(trial_id).system_attrs  # memory hands out its own, as in `ask`
            for key in [key for key in notes if key.startswith(forget)]:
                del notes[key]
        for name, position in self._problem.params(candidate).items():
            distribution = self._distributions[name]
            internal = distribution.to_internal_repr(position)
            self._storage.set_trial_param(trial_id, name, internal, distribution)
        return self._notes(trial_id)

    def replay(self, trial: Trial) -> None:
        """Enter a trial of the ledger as running."""
        self._storage.create_new_trial(
            self._id,
            create_trial(
                state=TrialState.RUNNING,
                params=self._problem.params(trial.candidate),
                distributions=self._distributions,
                system_attrs=dict(trial.memory),
            ),
        )

    def after(self, trial: Trial) -> dict[str, Any]:
        """Let a sampler take note of a trial's outcome; returns all that samplers noted on it."""
        complete = not isinstance(trial.outcome, Failed)
        sampler, study = self._sampler(trial.number, 0)
        trial_id = self._trial_id(trial.number)
        state = TrialState.COMPLETE if complete else TrialState.FAIL
        values = trial.values(self._objectives) if complete else None
        sampler.after_trial(study, self._storage.get_trial(trial_id), state, values)
        return self._notes(trial_id)

    def close(self, trials: Iterable[Trial], limits: Mapping[str, float]) -> None:
        """Show a batch's outcomes from now on, in number order, measured against today's limits."""
        study = self._view(RandomSampler(seed=0))
        for trial in trials:
            trial_id = self._trial_id(trial.number)
            if isinstance(trial.outcome, Failed):
                self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
                continue
            self._storage.set_trial_user_attr(trial_id, "evaluated", isinstance(trial.outcome, Scored))
            if trial.error_std is not None:
                self._storage.set_trial_user_attr(trial_id, "error_std", trial.error_std)
            row = optuna.trial.Trial(study, trial_id)
            for name, value in trial.constraints(limits).items():
                row.set_constraint(name, value)
            self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, trial.values(self._objectives))

    def _sampler(self, number: int, attempt: int) -> tuple[BaseSampler, Study]:
        sampler = check_sampler(self._factory(seed_of(self._problem.seed, number, attempt), self._problem))
        return sampler, self._view(sampler)

    def _view(self, sampler: BaseSampler) -> Study:
        """A new object each time: Optuna caches the trials within one, and only its own ask and tell clear that."""
        self._storage.forget()
        return optuna.load_study(study_name="sampler view", storage=self._storage, sampler=sampler, pruner=NopPruner())

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _notes(self, trial_id: int) -> dict[str, Any]:
        return dict(self._storage.get_trial(trial_id).system_attrs)


class _Forgetful(InMemoryStorage):
    """Storage that forgets what samplers note on the study as soon as the next one is made.

    Optuna's genetic samplers keep the parents of a generation there, in one order when chosen and in another when
    recalled (Optuna 5.0): what is proposed would depend on which process asked first. They choose again when they find
    nothing, from the told trials alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._notes: dict[str, Any] = {}

    def forget(self) -> None:
        self._notes = {}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._notes[key] = value

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._notes)
