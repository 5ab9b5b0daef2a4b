"""The trials of a study, kept in an Optuna study: what is written here is all that a search knows.

One row a trial, in three writes: `add` (one transaction: a trial is proposed whole or not at all), `park` (its outcome)
and `tell` (the outcome becomes final). A row that was added and not told is *running*; whoever holds the study's lock
adopts it. The Optuna parameters are the candidate's positions on the axes, as integers from 0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..search import distributions, positions
from ..spaces import Axis, Candidate
from .storage import quiet
from .trial import Outcome, Trial

logger = logging.getLogger("secateur")

_CONSTRAINT = "constraints"  # how Optuna 5 begins the system attributes that hold `set_constraint`'s values
_LATENCY = "latency_ms:"  # how study attributes begin that hold a latency measured later


def make_ledger(storage: BaseStorage, name: str, objectives: Sequence[str], budget: Mapping[str, Any]) -> None:
    """An empty Optuna study called `name`, every objective minimised, that notes the budget as it was asked."""
    with quiet():
        study_id = storage.create_new_study([StudyDirection.MINIMIZE] * len(objectives), name)
    storage.set_study_user_attr(study_id, "objectives", list(objectives))
    storage.set_study_user_attr(study_id, "budget", dict(budget))


class Ledger:
    """Reads and writes the trials of one study; `trials` is what stands in the storage, in number order.

    Args:
        storage: where the Optuna study lives.
        name: the Optuna study's name.
        axes: the space's axes, in order.
        objectives: names of what is minimised, in order.

    Raises:
        ValueError: the storage holds no such study, or a row that no search of ours wrote.
    """

    def __init__(self, storage: BaseStorage, name: str, axes: Sequence[Axis], objectives: Sequence[str]) -> None:
        self.axes = tuple(axes)
        self.objectives = tuple(objectives)
        self._storage = storage
        try:
            # The sampler is never asked: proposals are made elsewhere, and telling must not wake one.
            self._study = optuna.load_study(
                study_name=name, storage=storage, sampler=RandomSampler(seed=0), pruner=NopPruner()
            )
        except KeyError:
            raise ValueError(
                f"the storage holds no study called {name!r}; was it moved, or another one given?"
            ) from None
        self._id = storage.get_study_id_from_name(name)
        self._distributions = distributions(self.axes)
        self._ids: list[int] = []
        self.trials: list[Trial] = []
        self.refresh()

    def refresh(self) -> None:
        """Read every trial again."""
        rows = sorted(self._storage.get_all_trials(self._id, deepcopy=False), key=lambda row: row.number)
        self._ids = [self._storage.get_trial_id_from_study_id_trial_number(self._id, row.number) for row in rows]
        self.trials = [self._read(row) for row in rows]
        for name, value in self.notes().items():
            if name.startswith(_LATENCY):
                trial = self.trials[int(name.removeprefix(_LATENCY))]
                self.trials[trial.number] = _with_latency(trial, value)

    def add(self, trial: Trial) -> Trial:
        """Write a new running trial, whole, in one transaction."""
        if trial.number != len(self.trials):
            raise ValueError(f"trial {trial.number} can't follow {len(self.trials)} trials")
        row = create_trial(
            state=TrialState.RUNNING,
            params=positions(self.axes, trial.candidate),
            distributions=self._distributions,
            user_attrs={
                "key": trial.candidate.key,
                "proposal": {
                    "asked": list(trial.asked),
                    "source": trial.source,
                    "ranking": trial.ranking,
                    "weights": trial.weights,
                    "fidelity": trial.fidelity,
                },
                "costs": trial.costs,
            },
            system_attrs=trial.memory,
        )
        self._ids.append(self._storage.create_new_trial(self._id, row))
        written = replace(trial, started=row.datetime_start.timestamp() if row.datetime_start else None)
        self.trials.append(written)
        return written

    def park(self, trial: Trial, outcome: Outcome) -> Trial:
        """Keep an outcome beside its running trial: from here on a kill loses nothing."""
        self._storage.set_trial_user_attr(self._ids[trial.number], "outcome", outcome.to_json())
        self.trials[trial.number] = replace(trial, outcome=outcome)
        return self.trials[trial.number]

    def tell(self, trial: Trial, limits: Mapping[str, float], memory: Mapping[str, Any]) -> Trial:
        """Make a parked outcome final, with how far each cost is from today's limits.

        Args:
            trial: with its outcome.
            limits: absolute, by cost name.
            memory: what the sampler notes on the trial at its end.
        """
        assert trial.outcome is not None, "only a parked trial is told"
        trial_id = self._ids[trial.number]
        for key, value in memory.items():
            if trial.memory.get(key) != value:
                self._storage.set_trial_system_attr(trial_id, key, value)
        if trial.outcome.complete:
            self._constrain(trial, trial_id, limits)
            self._study.tell(trial.number, trial.values(self.objectives), state=TrialState.COMPLETE)
        else:
            self._study.tell(trial.number, state=TrialState.FAIL)
        self.trials[trial.number] = trial.ended(trial.outcome, memory)
        return self.trials[trial.number]

    def note(self, name: str, value: Any) -> None:
        """Remember a JSON value on the study itself."""
        self._storage.set_study_user_attr(self._id, name, value)

    def note_latency(self, trial: Trial, latency_ms: float) -> None:
        """Remember what a trial's network takes, measured after the trial was told."""
        self.note(f"{_LATENCY}{trial.number}", latency_ms)  # Optuna lets nobody write on a trial that is told
        self.trials[trial.number] = _with_latency(trial, latency_ms)

    def notes(self) -> dict[str, Any]:
        """Everything that `note` remembers."""
        return dict(self._storage.get_study_user_attrs(self._id))

    def _constrain(self, trial: Trial, trial_id: int, limits: Mapping[str, float]) -> None:
        row = optuna.trial.Trial(self._study, trial_id)
        already = row.constraints  # a kill may have struck between this and the telling; Optuna keeps the first value
        constraints = trial.constraints(limits)
        for name, value in constraints.items():
            if name not in already:
                row.set_constraint(name, value)
        if constraints:
            # Optuna's dashboard (0.21) shows user attributes but not the constraints of Optuna 5.
            self._storage.set_trial_user_attr(trial_id, "constraints", constraints)

    def _read(self, row: FrozenTrial) -> Trial:
        try:
            proposal = row.user_attrs["proposal"]
            candidate = Candidate(axis.choices[row.params[axis.name]] for axis in self.axes)
            costs = row.user_attrs["costs"]
        except (KeyError, IndexError):
            raise ValueError(
                f"trial {row.number} in the storage is not of this study: something else wrote there"
            ) from None
        found = row.user_attrs.get("outcome")
        return Trial(
            number=row.number,
            candidate=candidate,
            asked=Candidate(proposal["asked"]),
            source=proposal["source"],
            ranking=proposal["ranking"],
            weights=proposal["weights"],
            fidelity=proposal["fidelity"],
            costs=costs,
            memory={key: value for key, value in row.system_attrs.items() if not key.startswith(_CONSTRAINT)},
            outcome=None if found is None else Outcome.from_json(found),
            told=row.state.is_finished(),
            started=_seconds(row.datetime_start),
        )


def _with_latency(trial: Trial, latency_ms: float) -> Trial:
    assert trial.outcome is not None
    return replace(trial, outcome=replace(trial.outcome, latency_ms=latency_ms))


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
