"""Ray Tune's own loop, in a thread: what it is asked, and what it says back."""

from __future__ import annotations

import contextlib
import itertools
import queue
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...disk.process_state import environment
from ...outcomes.work import Job
from ...trials.events import Begun, Epoch, Happened, JobEnd, Lost, Rung, Said, Unable, WorkerInfo
from ...trials.trial import Stopped
from .tune_scheduler import guarded
from .tune_worker import SAID, mailbox, trainable

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
        worker: the handle of what does it; None until that is ready.
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
    worker: Any = None
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
        mailbox: where workers find their jobs; None before it runs.
        begun: whether there was any trial.
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
    mailbox: Any = None
    begun: bool = False
    closing: bool = False

    def run(self) -> None:
        """The whole experiment."""
        import ray
        from ray import tune

        name = f"secateur-{uuid.uuid4().hex}"
        try:
            self.mailbox = mailbox(ray, name, self.work)
            with environment(_ENVIRONMENT, quiet="ray"):  # trials that fail are the study's to tell
                # Not a `Tuner`, which would leave itself pickled for `Tuner.restore` to run trials once more.
                tune.run(
                    trainable(name),
                    name=self.folder.name,
                    storage_path=str(self.folder.parent),
                    search_alg=_searcher(self),
                    scheduler=guarded(self.scheduler),
                    stop=_stopper(self),
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
        with contextlib.suppress(Exception):  # a cluster that is gone
            ray.kill(self.mailbox)
        if not self.closing:
            self.messages.put((None, Unable(problem)))

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next job as Tune likes to see it, or None; waits for one while nothing runs, until all is to end.

        Where nothing runs and there is no job, Tune would sleep a whole second.
        """
        import cloudpickle
        import ray

        while not self.closing:
            try:
                running = self.jobs.get(block=not self.running)
            except queue.Empty:
                break
            if running is not None and not running.dropped:
                ray.get(self.mailbox.post.remote(running.name, cloudpickle.dumps(running.job)))
                self.running[trial_id], self.begun = running, True
                return _config(running, self.axes)
        if self.closing and not self.begun:
            raise RuntimeError("nothing was to be done")  # Tune would sum up its own files, and unpickle them
        return None

    def poll(self) -> None:
        """What must be looked at now and then."""
        import ray

        self._meet()
        for running in self.running.values():
            if running.dropped and running.worker is not None and not running.ended:
                running.ended = True
                ray.kill(running.worker)

    def on_result(self, trial: Any, result: dict[str, Any]) -> None:
        """A trial says something."""
        self._meet()
        running = self.running[trial.trial_id]
        said, rung = result.pop(SAID)
        running.rung = rung or running.rung
        if isinstance(said, Happened) and isinstance(said.event, Epoch):
            running.epoch = said.event
        running.ended = running.ended or isinstance(said, JobEnd)
        self.messages.put((running, said))

    def completed(self, trial: Any) -> None:
        """A trial ended by itself, or the scheduler stopped it."""
        running = self._over(trial)
        if running is not None and not running.ended:
            self.messages.put((running, JobEnd(outcome=_stopped(running))))

    def failed(self, trial: Any) -> None:
        """The worker of a trial died."""
        self._meet()  # a worker that dies of its job has begun it
        running = self._over(trial)
        if running is not None:
            self.messages.put((running, Lost(_cause(trial))))

    def _over(self, trial: Any) -> _Running | None:
        running = self.running.pop(trial.trial_id, None)
        if running is not None:
            self.mailbox.forget.remote(running.name)
        return running

    def _meet(self) -> None:
        """Learn which workers are ready for their jobs."""
        import ray

        waiting = {one.name: one for one in self.running.values() if one.worker is None}
        if not waiting:
            return
        for name, (worker, process, host, gpus) in ray.get(self.mailbox.begun.remote()).items():
            running = waiting.get(name)
            if running is None:
                continue
            running.worker, running.since = worker, time.monotonic()
            running.where = WorkerInfo(pid=process, host=host, gpus=tuple(gpus))
            self.messages.put((running, Begun()))


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


def _stopper(loop: _Loop) -> Any:
    """What ends the experiment when the driver does."""
    from ray.tune import Stopper

    methods = {
        "__call__": lambda self, trial_id, result: False,
        "stop_all": lambda self: loop.closing,
        "__reduce__": lambda self: (Stopper, ()),  # in what Tune writes down
    }
    return type("Ending", (Stopper,), methods)()


def _callback(loop: _Loop) -> Any:
    from ray.tune import Callback

    class TuneCallback(Callback):  # type: ignore[misc,unused-ignore]
        """Passes on what Tune says."""

        def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
            loop.poll()

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            loop.on_result(trial, result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            loop.completed(trial)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            loop.failed(trial)

    return TuneCallback()


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
        "fidelity": trial.fidelity,
        "axes": dict(zip(axes, (int(value) for value in trial.candidate), strict=True)),
        "costs": {name: float(cost) for name, cost in trial.costs.items()},
    }


def _name(trial: Any) -> str:
    return str(trial.config["name"])


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
