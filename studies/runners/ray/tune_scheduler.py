"""Schedulers of Ray Tune: those that only stop trials, and what they see of ours."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ...trials.events import Epoch, Happened, JobEnd, Rung
from .tune_worker import SAID


def scheduler(given: Any) -> Any:
    """A scheduler of Tune's from what a user gave.

    Raises:
        ValueError: it is none, or does more than stop trials.
    """
    schedulers: Any = importlib.import_module("ray.tune.schedulers")
    if given is None:
        return schedulers.FIFOScheduler()
    if given == "asha":
        given = schedulers.ASHAScheduler(grace_period=1, max_t=2**30)  # which stops whatever comes so far
    elif given == "median":
        given = schedulers.MedianStoppingRule()
    more = (
        schedulers.HyperBandScheduler,
        schedulers.PopulationBasedTraining,
        schedulers.PopulationBasedTrainingReplay,
        schedulers.ResourceChangingScheduler,
    )
    if not isinstance(given, schedulers.TrialScheduler) or isinstance(given, more):
        raise ValueError(
            f"scheduler={given!r}: expected a scheduler of Ray Tune's that only stops trials, such as ASHAScheduler or "
            "MedianStoppingRule; ours can't be paused or changed"
        )
    if given.metric is None:
        given.set_search_properties("loss", "min")
    return given


def guarded(inner: Any) -> Any:
    """The scheduler, which sees trials but no trainings of shared weights, and numbers but no NaN.

    A trial that it would pause is stopped: ours can't go on later.
    """
    from ray.tune.schedulers import TrialScheduler

    doomed: set[str] = set()

    def hidden(trial: Any) -> bool:
        return bool(trial.config["training"])

    def known(result: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in result.items() if name != SAID and value == value}

    class Guarded(TrialScheduler):  # type: ignore[misc,unused-ignore]
        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            if not hidden(trial):
                inner.on_trial_add(tune_controller, trial)

        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            if not hidden(trial):
                inner.on_trial_error(tune_controller, trial)

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if hidden(trial):
                return str(TrialScheduler.CONTINUE)
            if trial.trial_id not in doomed:
                decision = str(inner.on_trial_result(tune_controller, trial, known(result)))
                if decision not in (TrialScheduler.STOP, TrialScheduler.PAUSE):
                    return decision
                doomed.add(trial.trial_id)
            # The end of a training is too late: a trial that has only to be measured is, and no error is thrown away.
            said, rung = result[SAID]
            late = _is_last(said, rung, str(trial.config["fidelity"]))
            return str(TrialScheduler.CONTINUE if late else TrialScheduler.STOP)

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
            if not hidden(trial):
                inner.on_trial_complete(tune_controller, trial, known(result))

        def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
            if not hidden(trial):
                inner.on_trial_remove(tune_controller, trial)

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            return inner.choose_trial_to_run(tune_controller)

        def debug_string(self) -> str:
            return str(inner.debug_string())

    made: Any = Guarded  # Ray's constructors have no types
    return made()


def _is_last(said: Happened | JobEnd, rung: Rung | None, fidelity: str) -> bool:
    """Whether a rung ends with this, the last one or one below."""
    if isinstance(said, Happened) and isinstance(said.event, Epoch) and said.event.done == said.event.total:
        return True
    return rung is not None and rung.rung == fidelity
