"""Ray Tune's own loop, in a thread: what it is asked, and what it says back."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import platform
import queue
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...outcomes.work import Job
from ...trials.events import Begun, Epoch, Happened, JobEnd, Lost, Rung, Said, Unable, WorkerInfo
from ...trials.outcome import Stopped
from .tune_worker import _SAID, WorkerThread

# Tune's settings are the environment's.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the other output has a banner that nothing turns off (2.60)
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # the user's relative paths mean what they mean on every other runner
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a dead worker is the dispatcher's to tell
}


@dataclass(kw_only=True, eq=False)
class _Running:
    """A job on its way.

    Attributes:
        slot: where.
        name: in Tune's folders.
        job: what to do.
        dropped: whether it was cancelled.
        trial: Tune's; None before there is one.
        taking: what its worker answers to it; None once that is known.
        where: process, host and GPUs of its worker.
        since: when its worker took it.
        epoch: the last of its training.
        rung: the last that it reached.
        ended: whether its report has come.
    """

    slot: int
    name: str
    job: Job
    dropped: bool = False
    trial: Any = None
    taking: Any = None
    where: WorkerInfo = field(default_factory=WorkerInfo)
    since: float = field(default_factory=time.monotonic)
    epoch: Epoch | None = None
    rung: Rung | None = None
    ended: bool = False


@dataclass(kw_only=True, eq=False)
class _Loop:
    """Tune's thread: starts an experiment, gives it jobs and passes on what comes back, until there are no more.

    Attributes:
        jobs: to do; None ends it.
        messages: what is said of jobs; of none in particular where there is no job.
        work: the pickled `Work`, in Ray's object store.
        needs: of a trial, by Ray's names of resources.
        slots: how many trials run at a time.
        axes: their names.
        scheduler: of Tune.
        folder: of the experiment.
        running: jobs by the ids of Tune's trials.
        controller: Tune's own loop; None before its first trial.
        closing: whether everything is to end.
    """

    jobs: queue.SimpleQueue[_Running | None]
    messages: queue.SimpleQueue[tuple[_Running | None, Said]]
    work: Any
    needs: Mapping[str, float]
    slots: int
    axes: Sequence[str]
    scheduler: Any
    folder: Path
    running: dict[str, _Running] = field(default_factory=dict)
    controller: Any = None
    closing: bool = False

    def run(self) -> None:
        """The whole experiment."""
        from ray import tune

        try:
            with _quiet():
                # Not a `Tuner`, which would leave itself pickled for `Tuner.restore` to run trials once more.
                tune.run(
                    _trainable(),
                    name=self.folder.name,
                    storage_path=str(self.folder.parent),
                    search_alg=_searcher(self),
                    scheduler=_guarded(self),
                    callbacks=[_callback(self)],
                    num_samples=-1,
                    max_concurrent_trials=self.slots,
                    resources_per_trial=tune.PlacementGroupFactory([dict(self.needs)]),
                    reuse_actors=True,
                    raise_on_failed_trial=False,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                    verbose=0,
                )
            problem = "Ray Tune ended by itself"
        except BaseException as error:  # a thread has no one to raise to
            problem = f"Ray Tune ended with {type(error).__name__}: {error}"
        if not self.closing:
            self.messages.put((None, Unable(problem)))

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next job as Tune likes to see it, or None; waits for one while nothing runs, until all is to end.

        Where nothing runs and there is no job, Tune would sleep a whole second.
        """
        while not self.closing:
            try:
                running = self.jobs.get(block=not self.running)
            except queue.Empty:
                break
            if running is not None and not running.dropped:
                self.running[trial_id] = running
                return _config(running, self.axes)
        if self.closing and self.controller is None:
            raise RuntimeError("nothing was to be done")  # Tune would sum up its own files, and unpickle them
        return None

    def poll(self) -> None:
        """What must be looked at now and then."""
        import ray

        if self.closing and self.controller is not None:
            self.controller.request_stop_experiment()
        for running in list(self.running.values()):
            if running.dropped and running.trial is not None and not running.ended:
                running.ended = True
                ray.kill(_actor(running.trial))
            elif running.taking is not None and ray.wait([running.taking], timeout=0)[0]:
                self._taken(running)

    def added(self, controller: Any, trial: Any) -> None:
        """A trial waits for a worker."""
        if self.controller is None:
            self.controller = controller
            # Tune ends workers that no trial waits for, all but one, and the driver proposes when a batch has ended.
            controller._actor_cache.increase_max(trial.placement_group_factory, self.slots)

    def started(self, trial: Any) -> None:
        """A worker is ready for a trial, and was not told to train yet."""
        running = self.running[trial.trial_id]
        running.trial = trial
        running.taking = _actor(trial).take.remote(running.job, [self.work], list(sys.path))

    def on_result(self, trial: Any, result: dict[str, Any]) -> None:
        """A trial says something."""
        running = self.running[trial.trial_id]
        if running.taking is not None:
            self._taken(running)
        said, rung = result.pop(_SAID)
        running.rung = rung or running.rung
        if isinstance(said, Happened) and isinstance(said.event, Epoch):
            running.epoch = said.event
        running.ended = running.ended or isinstance(said, JobEnd)
        self.messages.put((running, said))

    def completed(self, trial: Any) -> None:
        """A trial ended by itself, or the scheduler stopped it."""
        running = self.running.pop(trial.trial_id, None)
        if running is not None and not running.ended:
            if running.trial is not None:
                _actor(trial).abandon.remote()
            self.messages.put((running, JobEnd(outcome=_stopped(running))))

    def failed(self, trial: Any) -> None:
        """The worker of a trial died."""
        running = self.running.pop(trial.trial_id, None)
        if running is not None:
            if running.taking is not None:
                self._taken(running)  # a worker that dies of its job has begun it
            self.messages.put((running, Lost(_cause(trial))))

    def _taken(self, running: _Running) -> None:
        import ray

        taking, running.taking = running.taking, None
        try:
            answer: WorkerInfo | Unable = ray.get(taking)
        except ray.exceptions.RayError:
            return  # the worker died, which Tune finds out too
        if isinstance(answer, Unable):
            self.messages.put((running, answer))
        else:
            running.where, running.since = answer, time.monotonic()
            self.messages.put((running, Begun()))


def _trainable() -> Any:
    from ray import tune

    class Secateur(tune.Trainable):  # type: ignore[misc,unused-ignore]
        """A warm worker."""

        def setup(self, config: dict[str, Any]) -> None:
            self.thread: WorkerThread | None = None

        def take(self, job: Job, work: list[Any], path: list[str]) -> WorkerInfo | Unable:
            import cloudpickle
            import ray

            gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            try:
                if self.thread is None:
                    sys.path += [entry for entry in path if entry not in sys.path]
                    self.thread = WorkerThread(cloudpickle.loads(ray.get(work[0])), gpus=len(gpus))  # from the driver
            except Exception as error:
                return Unable(f"{type(error).__name__}: {error}")
            self.thread.take(job)
            return WorkerInfo(pid=os.getpid(), host=platform.node(), gpus=tuple(gpus))

        def step(self) -> dict[str, Any]:
            if self.thread is None:
                raise RuntimeError("a worker that can't do such work")
            return self.thread.step()

        def abandon(self) -> None:
            if self.thread is not None:
                self.thread.abandon()

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def cleanup(self) -> None:
            if self.thread is not None:
                self.thread.close()

    return Secateur


def _searcher(loop: _Loop) -> Any:
    from ray.tune.search import Searcher

    class Jobs(Searcher):  # type: ignore[misc,unused-ignore]
        """Hands over what the driver proposed; keeps nothing."""

        def suggest(self, trial_id: str) -> Any:
            found = loop.suggest(trial_id)
            return Searcher.FINISHED if found is None and loop.closing else found

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

        def save_to_dir(self, checkpoint_dir: str, session_str: str = "") -> None:
            pass

        def restore_from_dir(self, checkpoint_dir: str) -> None:
            raise RuntimeError("a search goes on by `secateur resume`, never by Ray Tune")

    return Jobs()


def _callback(loop: _Loop) -> Any:
    from ray.tune import Callback

    class TuneCallback(Callback):  # type: ignore[misc,unused-ignore]
        """Passes on what Tune says."""

        def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
            loop.poll()

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            loop.started(trial)

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            loop.on_result(trial, result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            loop.completed(trial)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            loop.failed(trial)

    return TuneCallback()


def _guarded(loop: _Loop) -> Any:
    """The scheduler, which sees trials but no trainings of shared weights, and numbers but no NaN."""
    from ray.tune.schedulers import TrialScheduler

    inner = loop.scheduler
    doomed: set[str] = set()

    def hidden(trial: Any) -> bool:
        return bool(trial.config["training"])

    def known(result: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in result.items() if name != _SAID and value == value}

    class Guarded(TrialScheduler):  # type: ignore[misc,unused-ignore]
        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            loop.added(tune_controller._tune_controller, trial)
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
                if decision != TrialScheduler.STOP:
                    return decision
                doomed.add(trial.trial_id)
            # The end of a training is too late: a trial that has only to be measured is, and no error is thrown away.
            said, rung = result[_SAID]
            late = _is_last(said, rung, loop.running[trial.trial_id].job.trial.fidelity)
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


def _scheduler(given: Any) -> Any:
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
    pauses = isinstance(given, schedulers.MedianStoppingRule) and not given._hard_stop
    if not isinstance(given, schedulers.TrialScheduler) or isinstance(given, more) or pauses:
        raise ValueError(
            f"scheduler={given!r}: expected a scheduler of Ray Tune's that only stops trials, such as ASHAScheduler or "
            "MedianStoppingRule; ours can't be paused or changed"
        )
    if given.metric is None:
        given.set_search_properties("loss", "min")
    return given


def _experiment(folder: Path) -> Path:
    """A new folder for an experiment."""
    for number in itertools.count(1):
        path = folder.expanduser().absolute() / f"run-{number:03d}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            break
    return path


def _config(running: _Running, axes: Sequence[str]) -> dict[str, Any]:
    """What Tune shows of a job."""
    trial = running.job.trial
    return {
        "name": running.name,
        "trial": trial.number,
        "key": trial.candidate.key,
        "source": trial.source,
        "training": running.job.training,
        "axes": dict(zip(axes, (int(value) for value in trial.candidate), strict=True)),
        "costs": {name: float(cost) for name, cost in trial.costs.items()},
    }


def _is_last(said: Happened | JobEnd, rung: Rung | None, fidelity: str) -> bool:
    """Whether a rung ends with this, the last one or one below."""
    if isinstance(said, Happened) and isinstance(said.event, Epoch) and said.event.done == said.event.total:
        return True
    return rung is not None and rung.rung == fidelity


def _name(trial: Any) -> str:
    return str(trial.config["name"])


def _actor(trial: Any) -> Any:
    """The handle of what runs a trial of Tune's (Ray 2.60)."""
    return trial.temporary_state.ray_actor


def _stopped(running: _Running) -> Stopped:
    """What is told of a trial that a scheduler stopped: its last error is predicted to be its final one."""
    epoch, rung = running.epoch, running.rung
    place = "" if epoch is None else f" after epoch {epoch.done} of {epoch.total}, where its loss was {epoch.loss:.4f}"
    error = None if rung is None else rung.error
    return Stopped(
        reason=f"stopped by Tune's scheduler{place}",
        rung="tune" if rung is None else rung.rung,
        error=error,
        predicted=error,
        seconds=time.monotonic() - running.since,
        latency_ms=running.job.trial.latency_ms,
    )


def _cause(trial: Any) -> str:
    """Why a worker was lost, from the text that Tune wrote."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Failure #")]
    return lines[-1].partition(". ")[0].rstrip(".") if lines else "the worker was lost"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tune with its settings, and without what it prints."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    log = logging.getLogger("ray")
    level = log.level
    os.environ |= _ENVIRONMENT
    log.setLevel(logging.CRITICAL)  # trials that fail are the study's to tell
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
