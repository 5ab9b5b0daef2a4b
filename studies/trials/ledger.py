"""The trials of a study, kept in an Optuna study: what is written here is all that a search knows.

One row a trial, in three writes: `add` (one transaction: a trial is proposed whole or not at all), `park` (its outcome)
and `tell` (the outcome becomes final). A row that was added and not told is *running*; the next run evaluates it again.
The Optuna parameters are the candidate's choices as tables show them: channels, blocks, sides. Studies of before have
positions on the axes, integers from 0, and keep to them.

Every read and write waits for a storage that is away (`Retry`). All of them may be repeated: an added row carries
a token by which it is found again where the storage broke off just after writing it.
"""

from __future__ import annotations

import errno
import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any, TypeVar, final

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ...search import distributions, positions
from ...search.problem import quiet
from ...spaces import COSTS, Axis, Candidate
from ..disk.files import FULL, FormatError, check_name
from .rows import all_rows
from .storage import is_shared
from .trial import Failed, Outcome, Trial, outcome_from_json, outcome_to_json
from .words import first_line

logger = logging.getLogger("secateur")

_NAMES = "study:metric_names"  # where Optuna 5 keeps what values are called, which its plots and dashboard show
_CHOICES = "parameters_are_choices"  # the study's note that they are, and no positions
_CONSTRAINT = "constraints"  # how Optuna 5 begins the system attributes that hold `set_constraint`'s values
_LATENCY = "latency_ms:"  # how study attributes begin that hold a latency measured later

T = TypeVar("T")
LIMIT_S = 120.0
_FIRST_S, _LONGEST_S = 0.05, 5.0
_LASTING = (errno.EACCES, errno.EPERM, errno.EROFS, *FULL)  # no use in waiting


def make_ledger(storage: BaseStorage, name: str, objectives: Sequence[str], budget: Mapping[str, Any]) -> None:
    """An empty Optuna study called `name`, every objective minimised, that notes the budget as it was asked."""
    with quiet():
        study_id = storage.create_new_study([StudyDirection.MINIMIZE] * len(objectives), name)
    storage.set_study_user_attr(study_id, "objectives", list(objectives))
    storage.set_study_system_attr(study_id, _NAMES, list(objectives))
    storage.set_study_user_attr(study_id, _CHOICES, True)
    storage.set_study_user_attr(study_id, "budget", dict(budget))


class Ledger:
    """Reads and writes the trials of one study; `trials` is what stands in the storage, in number order.

    Args:
        storage: where the Optuna study lives.
        name: the Optuna study's name.
        axes: the space's axes, in order.
        objectives: names of what is minimised, in order.
        retry: how long a storage that is away is waited for.

    Attributes:
        storage: as given.
        retry: as given.
        shared: whether it is a database server, which several machines may use at once.
        study_id: of the Optuna study in it.
        notes: what is remembered on the study itself, as of the last `refresh`.
        guard: called before anything is written about a trial; raises where that is not ours to do any more.

    Raises:
        ValueError: the storage holds no such study, or a row that no search of ours wrote.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        axes: Sequence[Axis],
        objectives: Sequence[str],
        *,
        retry: Retry | None = None,
    ) -> None:
        self.axes = tuple(axes)
        self.objectives = tuple(objectives)
        self.storage = storage
        self.retry = Retry("of the study") if retry is None else retry
        try:
            self.study_id = storage.get_study_id_from_name(name)
        except KeyError:
            raise ValueError(
                f"the storage holds no study called {name!r}; was it moved, or another one given?"
            ) from None
        self.shared = is_shared(storage)
        self._distributions = distributions(self.axes)
        self._places: dict[str, dict[Any, int]] = {}  # on each axis, of each choice by how it is shown
        if self.retry(lambda: storage.get_study_user_attrs(self.study_id)).get(_CHOICES):
            self._distributions = {axis.name: _shown(axis) for axis in self.axes}
            self._places = {
                axis.name: {axis.shown(value): place for place, value in enumerate(axis.choices)} for axis in self.axes
            }
        self._ids: list[int] = []
        self.trials: list[Trial] = []
        self.notes: dict[str, Any] = {}
        self.guard: Callable[[], object] = lambda: None
        self.refresh()

    def refresh(self) -> None:
        """Read what may have changed: all trials the first time, then those that were not told, and new ones."""
        self.retry(self._refresh)

    def add(self, trial: Trial) -> Trial:
        """Write a new running trial, whose number is the next one, whole, in one transaction; returns it as written."""
        if trial.number != len(self.trials):
            raise ValueError(f"trial {trial.number} can't follow {len(self.trials)} trials")
        self.guard()
        token = uuid.uuid4().hex
        row = create_trial(
            state=TrialState.RUNNING,
            params=self._params(trial.candidate),
            distributions=self._distributions,
            user_attrs={
                "key": trial.candidate.key,
                "asked": list(trial.asked),
                "source": trial.source,
                "ranking": trial.ranking,
                "weights": trial.weights,
                "fidelity": trial.fidelity,
                "token": token,
                **trial.costs,
            },
            system_attrs=trial.memory,
        )
        trial_id = self.retry(
            lambda: self.storage.create_new_trial(self.study_id, row), done=lambda: self._added(token)
        )
        self._ids.append(trial_id)
        written = replace(trial, started=row.datetime_start.timestamp() if row.datetime_start else None)
        self.trials.append(written)
        return written

    def park(self, trial: Trial, outcome: Outcome) -> Trial:
        """Keep an outcome beside its running trial: from here on a kill loses nothing."""
        self.guard()
        trial_id, said = self._ids[trial.number], outcome_to_json(outcome)
        self.retry(lambda: self.storage.set_trial_user_attr(trial_id, "outcome", said))
        self.trials[trial.number] = replace(trial, outcome=outcome, timed_ms=None, measured={})
        return self.trials[trial.number]

    def tell(self, trial: Trial, limits: Mapping[str, float], memory: Mapping[str, Any]) -> Trial:
        """Make a parked outcome final, with how far each cost is from today's limits.

        Args:
            trial: with its outcome.
            limits: absolute, by cost name.
            memory: what the sampler notes on the trial at its end.
        """
        assert trial.outcome is not None, "only a parked trial is told"
        self.guard()
        self.retry(
            lambda: self._tell(trial, limits, memory), done=lambda: self._is_told(self._ids[trial.number]) or None
        )
        self.trials[trial.number] = trial.ended(trial.outcome, memory)
        return self.trials[trial.number]

    def note(self, name: str, value: Any) -> None:
        """Remember a JSON value on the study itself."""
        self.retry(lambda: self.storage.set_study_user_attr(self.study_id, name, value))
        self.notes[name] = value

    def note_latency(self, trial: Trial, latency_ms: float) -> None:
        """Remember what a trial's network takes, measured after the trial was told."""
        self.note(f"{_LATENCY}{trial.number}", latency_ms)  # Optuna lets no one write on a trial that is told
        self.trials[trial.number] = replace(trial, timed_ms=latency_ms)

    def _refresh(self) -> None:
        if self.trials:
            rows = self._changed()
        else:
            rows = all_rows(self.storage, self.study_id)
        for row in sorted(rows, key=lambda row: row.number):
            self._enter(row)
        self.notes = dict(self.storage.get_study_user_attrs(self.study_id))
        for name, value in self.notes.items():
            if name.startswith(_LATENCY):
                self._enter_latency(name.removeprefix(_LATENCY), value)

    def _changed(self) -> list[FrozenTrial]:
        """The rows that were not told when they were last read, and new ones; told ones never change."""
        running = self.storage.get_all_trials(self.study_id, deepcopy=False, states=(TrialState.RUNNING,))
        found = {row.number: row for row in running}
        for trial in self.trials:
            if not trial.told and trial.number not in found:
                found[trial.number] = self.storage.get_trial(self._ids[trial.number])
        number = len(self.trials)
        while True:
            if number not in found:
                try:
                    trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
                except KeyError:
                    return list(found.values())
                found[number] = self.storage.get_trial(trial_id)
            number += 1

    def _enter(self, row: FrozenTrial) -> None:
        if row.number == len(self.trials):
            self._ids.append(row._trial_id)
            self.trials.append(self._read(row))
        elif 0 <= row.number < len(self.trials) and self._ids[row.number] == row._trial_id:
            self.trials[row.number] = self._read(row)
        else:
            raise FormatError(f"the storage numbers a trial {row.number} where {len(self.trials)} was expected")

    def _enter_latency(self, number: str, latency_ms: Any) -> None:
        if not number.isdecimal() or int(number) >= len(self.trials) or self.trials[int(number)].outcome is None:
            raise FormatError(f"the storage holds a latency of a trial {number!r} that has no outcome")
        self.trials[int(number)] = replace(self.trials[int(number)], timed_ms=float(latency_ms))

    def _params(self, candidate: Candidate) -> dict[str, Any]:
        if not self._places:
            return dict(positions(self.axes, candidate))
        return {axis.name: axis.shown(value) for axis, value in zip(self.axes, candidate, strict=True)}

    def _place(self, row: FrozenTrial, axis: Axis) -> int:
        """Where a row's candidate stands on an axis."""
        value = row.params[axis.name]
        return self._places[axis.name][value] if self._places else int(value)

    def _added(self, token: str) -> int | None:
        """The row that was written with a token, if it was."""
        rows = self.storage.get_all_trials(self.study_id, deepcopy=False, states=(TrialState.RUNNING,))
        written = (row for row in rows if row.user_attrs.get("token") == token)
        return next((row._trial_id for row in written), None)

    def _is_told(self, trial_id: int) -> bool:
        return self.storage.get_trial(trial_id).state.is_finished()

    def _tell(self, trial: Trial, limits: Mapping[str, float], memory: Mapping[str, Any]) -> bool:
        trial_id = self._ids[trial.number]
        for key, value in memory.items():
            if trial.memory.get(key) != value:
                self.storage.set_trial_system_attr(trial_id, key, value)
        if isinstance(trial.outcome, Failed):
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        else:
            self._constrain(trial, trial_id, limits)
            self.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, trial.values(self.objectives))
        return True

    def _constrain(self, trial: Trial, trial_id: int, limits: Mapping[str, float]) -> None:
        """As Optuna's `set_constraint`, without reading the whole trial for each."""
        constraints = trial.constraints(limits)
        if not constraints:
            return
        already = self.storage.get_trial_system_attrs(trial_id)  # a kill may have struck between this and the telling
        for name, value in constraints.items():
            if f"{_CONSTRAINT}:{name}" not in already:
                self.storage.set_trial_system_attr(trial_id, f"{_CONSTRAINT}:{name}", float(value))
        # Optuna's dashboard (0.21) shows user attributes but not the constraints of Optuna 5.
        self.storage.set_trial_user_attr(trial_id, "constraints", constraints)

    def _read(self, row: FrozenTrial) -> Trial:
        try:
            said, found = row.user_attrs, row.user_attrs.get("outcome")
            proposal = said.get("proposal", said)  # in a table of its own, as the costs, in studies of before
            costs = said.get("costs") or {name: said[name] for name in COSTS if name in said}
            trial = Trial(
                number=row.number,
                candidate=Candidate(axis.choices[self._place(row, axis)] for axis in self.axes),
                asked=Candidate(proposal["asked"]),
                source=proposal["source"],
                ranking=proposal["ranking"],
                weights=proposal["weights"],
                fidelity=proposal["fidelity"],
                costs=dict(costs),
                memory={key: value for key, value in row.system_attrs.items() if not key.startswith(_CONSTRAINT)},
                outcome=None if found is None else outcome_from_json(found),
                told=row.state.is_finished(),
                started=_seconds(row.datetime_start),
            )
        except (KeyError, IndexError, TypeError, ValueError):
            raise FormatError(
                f"trial {row.number} in the storage is not of this study: something else wrote there"
            ) from None
        check_name(trial.ranking)
        check_name(trial.weights)
        return trial


def _shown(axis: Axis) -> BaseDistribution:
    """What a choice may be, as tables show it: whole numbers where they are evenly spaced, which keeps their order."""
    shown = [axis.shown(value) for value in axis.choices]
    numbers = [value for value in shown if isinstance(value, int)]
    gaps = {after - before for before, after in pairwise(numbers)} or {1}
    if len(numbers) < len(shown) or len(gaps) > 1 or min(gaps) < 1:
        return CategoricalDistribution(shown)
    return IntDistribution(numbers[0], numbers[-1], step=gaps.pop())


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


@final
class Retry:
    """Does things again until a storage answers: a server restarts, a network fails, a file system is not mounted.

    Storages say so by an `OSError` (`storage.py` sees to it). What is tried again may be done twice, or says how to
    find out that it was done: a connection may break just after the server wrote what it was asked to.

    Args:
        where: the storage, for messages; no password in it.
        seconds: how long it may be away.
        sleep: waits.
    """

    def __init__(self, where: str, *, seconds: float = LIMIT_S, sleep: Callable[[float], object] = time.sleep) -> None:
        self._where = where
        self._seconds = seconds
        self._sleep = sleep

    def __call__(self, do: Callable[[], T], *, done: Callable[[], T | None] = lambda: None) -> T:
        """What `do` returns, as soon as it does.

        Args:
            do: what is wanted; tried again where it raises an `OSError`.
            done: asked before every new attempt: what an earlier one came to, if it was carried out after all.

        Raises:
            ConnectionError: the storage stayed away.
            OSError: it is full or must not be written, which no waiting mends.
        """
        start, wait, attempts = time.monotonic(), _FIRST_S, 0
        while True:
            try:
                found = done() if attempts else None
                result = do() if found is None else found
            except OSError as error:
                if error.errno in _LASTING:
                    raise
                attempts += 1
                away = time.monotonic() - start
                if away + wait > self._seconds:
                    raise ConnectionError(self._gave_up(away, error)) from error
                if attempts == 3:  # a connection that was idle for long is often dead, and the next one good
                    logger.warning("%s; trying again for up to %.0f s", self._said(error), self._seconds)
                self._sleep(wait * random.uniform(0.5, 1.0))  # several drivers must not ask all at once
                wait = min(2 * wait, _LONGEST_S)
            else:
                if attempts >= 3:
                    logger.warning("the storage %s is back after %.0f s", self._where, time.monotonic() - start)
                return result

    def _said(self, error: OSError) -> str:
        return f"the storage {self._where} is away ({first_line(error)})"

    def _gave_up(self, away: float, error: OSError) -> str:
        return (
            f"{self._said(error)}, for {away:.0f} s now; nothing that was told is lost: see that it runs and can be "
            "reached, and go on with the study"
        )
