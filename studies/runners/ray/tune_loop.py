"""Ray Tune's own loop, in a thread: the searcher that gives it trials, and the scheduler that sees how they end."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, final

from ...disk.process_state import environment
from ...trials.events import Lost, Unable
from .tune_worker import trial

logger = logging.getLogger("secateur")

_LEAVING_S = 30.0  # how long Tune may take to put its files in order

# Tune's settings are the environment's.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the other output has a banner that nothing turns off (2.60)
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # the user's relative paths mean what they mean on every other runner
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a dead worker is the dispatcher's to tell
}


@final
class Experiment:
    """One experiment of Tune's, with the trials that it is given until it is closed.

    Args:
        mailbox: the name of the trials' mailbox.
        say: told, in Tune's thread, of a trial by its name: None when it ended by itself or was stopped, `Lost` when
            its worker died; and `Unable`, with no name, when Tune itself did.
        needs: of a trial, by Ray's names of resources.
        slots: how many trials run at a time.
        scheduler: of Tune's.
        folder: a new one.

    Attributes:
        slots: as given.
        live: Tune's trials that have not ended, by its own names for them.
        closing: whether all is to end.
    """

    def __init__(
        self,
        mailbox: str,
        say: Callable[[str, Lost | Unable | None], object],
        *,
        needs: Mapping[str, float],
        slots: int,
        scheduler: Any,
        folder: Path,
    ) -> None:
        self._mailbox, self._say, self._needs, self.slots = mailbox, say, needs, slots
        self._scheduler, self._folder = scheduler, folder
        self._configs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.live: dict[str, Any] = {}
        self._begun = self.closing = False
        self._thread = threading.Thread(target=self._run, name="secateur-tune", daemon=True)
        self._thread.start()

    def begin(self, config: dict[str, Any]) -> None:
        """Have a trial run; `config` is what Tune shows of it, and has its `name`."""
        self._configs.put(config)

    def close(self) -> None:
        """Have what still runs stopped, and Tune's files finished."""
        self.closing = True
        self._configs.put(None)
        self._thread.join(_LEAVING_S)
        if self._thread.is_alive():
            logger.warning("Ray Tune did not end within %g s; its folder may lack the last results", _LEAVING_S)

    def suggest(self) -> dict[str, Any] | None:
        """The next trial; None where there is none now, or there will be no more.

        Waits for one while nothing runs, where Tune would sleep a whole second.
        """
        for one in list(self.live.values()):
            if one.status == one.ERROR:  # looked at here: of a process that can't be used again Tune tells no one
                self.ended(one, Lost(_cause(one)))
        if not self.closing and len(self.live) < self.slots:
            try:
                config = self._configs.get(block=not self.live)
            except queue.Empty:
                return None
            self._begun = self._begun or config is not None
            return config
        if self.closing and not self._begun:
            raise RuntimeError("nothing was to be done")  # Tune would sum up its own files, and unpickle them
        return None

    def ended(self, trial: Any, said: Lost | None = None) -> None:
        """A trial did: by itself or stopped by a scheduler, or with its worker."""
        if self.live.pop(trial.trial_id, None) is not None:
            self._say(_name(trial), said)

    def _run(self) -> None:
        from ray import tune

        try:
            with environment(_ENVIRONMENT, quiet="ray"):  # trials that fail are the study's to tell
                # Not a `Tuner`, which would leave itself pickled for `Tuner.restore` to run trials once more.
                tune.run(
                    partial(trial, mailbox=self._mailbox),
                    name=self._folder.name,
                    storage_path=str(self._folder.parent),
                    search_alg=_searcher(self),
                    scheduler=_guarded(self, self._scheduler),
                    num_samples=-1,
                    max_concurrent_trials=self.slots,
                    resources_per_trial=tune.PlacementGroupFactory([dict(self._needs)]),
                    reuse_actors=True,
                    raise_on_failed_trial=False,
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                    verbose=0,
                )
            problem = "Ray Tune ended by itself"
        except BaseException as error:  # a thread has no one to raise to
            problem = f"Ray Tune ended with {type(error).__name__}: {error}"
        if not self.closing:
            with suppress(Exception):  # a cluster that is gone, as the driver sees by itself
                self._say("", Unable(problem))


def _searcher(experiment: Experiment) -> Any:
    from ray.tune.search import Searcher

    class Jobs(Searcher):  # type: ignore[misc,unused-ignore]
        """Hands over what the study asked; what is told goes to the study alone."""

        def set_max_concurrency(self, max_concurrent: int) -> bool:
            return True  # `suggest` keeps to it

        def suggest(self, trial_id: str) -> Any:
            found = experiment.suggest()
            return Searcher.FINISHED if experiment.closing else found

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

    return Jobs()


def _guarded(experiment: Experiment, inner: Any) -> Any:
    """The scheduler, which sees trials but no trainings of shared weights, and numbers but no NaN.

    A trial that it would pause is stopped: ours can't go on later.
    """
    from ray.tune.schedulers import TrialScheduler

    doomed: set[str] = set()

    def hidden(trial: Any) -> bool:
        return bool(trial.config["training"])

    def known(result: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in result.items() if value == value}

    class Guarded(TrialScheduler):  # type: ignore[misc,unused-ignore]
        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            experiment.live[trial.trial_id] = trial
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
            return str(TrialScheduler.CONTINUE if result["epoch"] == result["epochs"] else TrialScheduler.STOP)

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
            if not hidden(trial):
                inner.on_trial_complete(tune_controller, trial, known(result))
            experiment.ended(trial)

        def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
            if not hidden(trial):
                inner.on_trial_remove(tune_controller, trial)
            experiment.ended(trial)

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            for one in list(experiment.live.values()) if experiment.closing else ():
                tune_controller.stop_trial(one)
            return inner.choose_trial_to_run(tune_controller)

        def debug_string(self) -> str:
            return str(inner.debug_string())

    made: Any = Guarded  # Ray's constructors have no types
    return made()


def _name(trial: Any) -> str:
    return str(trial.config["name"])


def _cause(trial: Any) -> str:
    """Why a worker was lost, from the text that Tune wrote."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Failure #")]
    return lines[-1].partition(". ")[0].rstrip(".") if lines else "the worker was lost"
