"""Trials as trials of Ray Tune, for people who live in its result folders, TensorBoard logs and schedulers.

Tune runs what it is given and nothing else: proposals, retries and results stay with the study's ledger. Every run of a
study is a new experiment of Tune with the trials that the ledger lacks. What Tune leaves on the disk is for people: it
is never read here, because its own way to go on with an experiment unpickles.

Tune's loop has a thread of its own. The methods of `Tune` are called by the driver's; those of `_Loop` by Tune's; they
talk through two queues. Start reading at `Tune`; `_Bench` is what a worker does.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import math
import os
import platform
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch

from .ray_actors import Cluster, plan
from .runner import Executor, Listen, Message, Runner
from .trial import Outcome, failed
from .work import Job, Report, Work, Worker

logger = logging.getLogger("secateur")

FOLDER = "tune"  # in a study's
SCHEDULERS = ("asha", "median")

_SAID = "secateur"  # what a result of Tune's carries to the driver; taken out before anybody logs it
_OBJECTS = 2**28  # bytes of a local cluster's object store, beside the work itself
_LEAVING_S = 30.0  # how long Tune may take to put its files in order
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
        dropped: whether nobody wants to hear of it any more.
        trial: Tune's; None before there is one.
        taking: what its worker answers to it; None once that is known.
        where: process, host and GPUs of its worker.
        since: when its worker took it.
        said: the last of every number that it said.
        ended: whether its report has come.
    """

    slot: int
    name: str
    job: Job
    dropped: bool = False
    trial: Any = None
    taking: Any = None
    where: dict[str, Any] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    said: dict[str, Any] = field(default_factory=dict)
    ended: bool = False


@final
class Tune(Executor):
    """Does jobs as trials of Ray Tune, one experiment a run.

    A trial that a scheduler of Tune's stops was never evaluated: samplers are told the error of its last rung, or the
    median one where there is none, and it is never on the front. Schedulers decide by what has arrived when, so only
    without one is the table of trials that of every other runner.
    """

    apart = False  # Tune gives a job to whichever worker is free, so each brings all that it needs; see `submit`

    def __init__(self, runner: Runner, *, folder: str | Path | None = None, scheduler: Any = None) -> None:
        """Take settings; nothing is started yet.

        Args:
            runner: how many trials, where, and what each takes.
            folder: where Tune writes, an experiment a run; `tune` in the study's folder when None.
            scheduler: one of Tune's that only stops trials, or the name of one: `"asha"`, `"median"`, which compare
                the `loss` of every epoch. Results have `epoch`, `loss` and, after every rung, `error`. None stops none.
        """
        if isinstance(scheduler, str) and scheduler not in SCHEDULERS:
            raise ValueError(
                f"scheduler={scheduler!r}: expected one of {', '.join(SCHEDULERS)}, or an object of Tune's"
            )
        self.options, self._folder, self._scheduler = runner, folder, scheduler
        self._cluster: Cluster | None = None
        self._thread: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[_Running | None] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[tuple[_Running | None, str, Any]] = queue.SimpleQueue()
        self._slots: list[_Running | None] = []
        self._names: set[str] = set()

    def open(self, work: Work, listen: Listen) -> None:
        """Find or start a cluster, and begin an experiment."""
        try:
            from ray import tune  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"Ray Tune can't be imported ({error}); install it with: pip install 'secateur[ray]'"
            ) from None
        address = self.options.address
        if address is not None and address.startswith("ray://"):
            raise ValueError(
                f"address={address!r} with kind='tune', whose loop runs in this process; expected 'auto' on a machine "
                "of the cluster, or kind='ray'"
            )
        self._work, packed, scheduler = work, work.pickled(), _scheduler(self._scheduler)
        self._cluster = Cluster(address, objects=_OBJECTS + 2 * len(packed))
        try:
            needs, self.slots = plan(
                self.options,
                threads=work.threads,
                cuda=torch.device(work.device).type == "cuda",
                nodes=self._cluster.nodes(),
                free=None if self._cluster.own else self._cluster.free(),
                own=self._cluster.own,
            )
            self._slots = [None] * self.slots
            self._loop = _Loop(
                jobs=self._jobs,
                heard=self._heard,
                work=self._cluster.ray.put(packed),
                needs=needs,
                slots=self.slots,
                axes=[axis.name for axis in work.evaluation.space.axes],
                scheduler=scheduler,
                folder=_experiment(Path(self._folder or work.evaluation.artifacts.folder / FOLDER)),
            )
        except BaseException:
            self.close()
            raise
        self._thread = threading.Thread(target=self._loop.run, name="secateur-tune", daemon=True)
        self._thread.start()

    def submit(self, slot: int, job: Job) -> None:
        """Queue the job, with everything that its worker must have."""
        evaluation, folder = self._work.evaluation, self._work.evaluation.artifacts.folder
        needs = evaluation.needs(job.trial, training=job.training)
        files = {name: (folder / name).read_bytes() for name in needs if (folder / name).exists()}
        job = replace(job, needs=tuple(needs), files=files)
        running = _Running(slot=slot, name=self._named(job), job=job)
        self._slots[slot] = running
        self._jobs.put(running)

    def wait(self, timeout_s: float | None) -> Sequence[Message]:
        """What trials say."""
        found: list[Message] = []
        with contextlib.suppress(queue.Empty):
            found += self._message(*self._heard.get(timeout=timeout_s))
            while True:
                found += self._message(*self._heard.get_nowait())
        return found

    def cancel(self, slot: int) -> None:
        """Have the slot's worker killed, which Tune calls a failed trial."""
        running, self._slots[slot] = self._slots[slot], None
        if running is not None:
            running.dropped = True

    def close(self) -> None:
        """Kill the workers that work, let Tune finish its files, and end the cluster where it was started here."""
        for slot in range(len(self._slots)):
            self.cancel(slot)
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.closing = True
            self._jobs.put(None)
            thread.join(_LEAVING_S)
            if thread.is_alive():
                logger.warning("Ray Tune did not end within %g s; its folder may lack the last results", _LEAVING_S)
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    def describe(self, slot: int) -> dict[str, Any]:
        """Process, host and GPUs of what works for a slot."""
        running = self._slots[slot] if slot < len(self._slots) else None
        return {} if running is None else dict(running.where)

    def _named(self, job: Job) -> str:
        """A name that no trial of this experiment has: one that is tried again gets another."""
        name = job.trial.weights.replace(":", "-") if job.training else f"trial-{job.trial.number:04d}"
        names = (name if attempt == 1 else f"{name}-attempt-{attempt}" for attempt in range(1, len(self._names) + 2))
        found = next(name for name in names if name not in self._names)
        self._names.add(found)
        return found

    def _message(self, running: _Running | None, kind: str, payload: Any) -> list[Message]:
        if running is None:
            return [Message(slot=0, kind=kind, payload=payload)]
        if self._slots[running.slot] is not running:
            return []
        if kind in ("done", "lost"):
            self._slots[running.slot] = None
        return [Message(slot=running.slot, kind=kind, payload=payload)]


@dataclass(kw_only=True, eq=False)
class _Loop:
    """Tune's thread: starts an experiment, gives it jobs and passes on what comes back, until there are no more.

    Attributes:
        jobs: to do; None ends it.
        heard: what is told of jobs, by `Message.kind`; of none in particular where there is no job.
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
    heard: queue.SimpleQueue[tuple[_Running | None, str, Any]]
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
        except BaseException as error:  # a thread has nobody to raise to
            problem = f"Ray Tune ended with {type(error).__name__}: {error}"
        if not self.closing:
            self.heard.put((None, "unable", problem))

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

    def tend(self) -> None:
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

    def heard_from(self, trial: Any, result: dict[str, Any]) -> None:
        """A trial says something."""
        running = self.running[trial.trial_id]
        if running.taking is not None:
            self._taken(running)
        kind, payload = result.pop(_SAID)
        if kind == "event":
            running.said |= {name: value for name, value in payload.items() if name != "files"}
        running.ended = running.ended or kind == "done"
        self.heard.put((running, kind, payload))

    def completed(self, trial: Any) -> None:
        """A trial ended by itself, or the scheduler stopped it."""
        running = self.running.pop(trial.trial_id, None)
        if running is not None and not running.ended:
            if running.trial is not None:
                _actor(trial).abandon.remote()
            self.heard.put((running, "done", Report(outcome=_stopped(running))))

    def failed(self, trial: Any) -> None:
        """The worker of a trial died."""
        running = self.running.pop(trial.trial_id, None)
        if running is not None:
            if running.taking is not None:
                self._taken(running)  # a worker that dies of its job has begun it
            self.heard.put((running, "lost", _cause(trial)))

    def _taken(self, running: _Running) -> None:
        import ray

        taking, running.taking = running.taking, None
        try:
            answer: dict[str, Any] = ray.get(taking)
        except ray.exceptions.RayError:
            return  # the worker died, which Tune finds out too
        if "unable" in answer:
            self.heard.put((running, "unable", answer["unable"]))
        else:
            running.where, running.since = answer, time.monotonic()
            self.heard.put((running, "begun", None))


# --- what a worker does -----------------------------------------------------------------------------------------------


class _Abandoned(BaseException):
    """Raised in the middle of a trial that was stopped; no `except Exception` of a user's takes it for a failure."""


@final
class _Bench:
    """Does jobs in a thread, at most one event ahead of whoever asks for them."""

    def __init__(self, work: Work, *, gpus: int) -> None:
        self._worker = Worker(work, gpus=gpus)
        self._jobs: queue.SimpleQueue[tuple[Job, _Mouth]] = queue.SimpleQueue()
        self._mouth = _Mouth()
        self._next: Job | None = None
        # One thread for all jobs: each new one would have PyTorch start threads of its own (OpenMP).
        threading.Thread(target=self._serve, daemon=True).start()

    def take(self, job: Job) -> None:
        """Keep a job, which begins with the first step: whoever gave it knows by then that it was taken."""
        self.abandon()
        self._mouth, self._next = _Mouth(), job

    def step(self) -> dict[str, Any]:
        """The next thing that happens, as a result of Tune's."""
        if self._next is not None:
            self._jobs.put((self._next, self._mouth))  # as soon as the last one has ended
            self._next = None
        kind, payload = self._mouth.said.get()
        rung: dict[str, Any] = {}
        while kind == "event" and "rung" in payload:  # part of the next result: schedulers count results as epochs
            rung = {**payload, "files": {**rung.get("files", {}), **payload.get("files", {})}}
            kind, payload = self._mouth.said.get()
        if kind == "event" and rung:
            payload = {**rung, **payload, "files": {**rung["files"], **payload.get("files", {})}}
        if kind == "done" and rung:
            payload = replace(payload, files={**rung["files"], **payload.files})
        if kind == "broken":
            raise RuntimeError(payload)
        return _numbers(kind, payload) | {_SAID: (kind, payload), "done": kind == "done"}

    def abandon(self) -> None:
        """Let the job end at its next event."""
        self._mouth.shut.set()
        with contextlib.suppress(queue.Empty):
            self._mouth.said.get_nowait()

    def close(self) -> None:
        """Remove the worker's folder."""
        self._worker.close()

    def _serve(self) -> None:
        while True:
            job, mouth = self._jobs.get()
            try:
                report = _sendable(self._worker.run(job, mouth.say))
            except _Abandoned:
                continue
            except BaseException as error:  # what ends a process elsewhere, such as SystemExit
                mouth.said.put(("broken", f"{type(error).__name__}: {error}"))
            else:
                mouth.said.put(("done", report))


@final
class _Mouth:
    """What one job says, until nobody listens."""

    def __init__(self) -> None:
        self.said: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
        self.shut = threading.Event()

    def say(self, event: dict[str, Any]) -> None:
        if not self.shut.is_set():
            self.said.put(("event", event))
        if self.shut.is_set():
            raise _Abandoned


def _sendable(report: Report) -> Report:
    """The report; a failure where the evaluator gave back what can't be sent."""
    import cloudpickle

    try:
        cloudpickle.dumps(report.outcome)
    except Exception as error:  # attributes are the user's
        reason = f"what the evaluator gave back can't be sent ({type(error).__name__}: {error})"
        return replace(report, outcome=failed(reason, report.outcome.seconds))
    return report


def _numbers(kind: str, payload: Any) -> dict[str, Any]:
    """What Tune logs of an event or a report; the same columns every time, because its CSV keeps to the first ones."""
    found: dict[str, Any] = dict.fromkeys(("epoch", "loss", "error", "error_std", "seconds"), math.nan)
    if kind == "event":
        return found | {name: payload[name] for name in found if isinstance(payload.get(name), int | float)}
    outcome: Outcome = payload.outcome
    given = {name: getattr(outcome, name) for name in ("error", "error_std", "seconds", "latency_ms")}
    found |= {name: value for name, value in given.items() if value is not None}
    return found | {"state": outcome.state, "attributes": dict(outcome.attributes)}


# --- classes of Tune's, made when Ray is there ------------------------------------------------------------------------


def _trainable() -> Any:
    from ray import tune

    class Secateur(tune.Trainable):  # type: ignore[misc,unused-ignore]
        """A warm worker."""

        def setup(self, config: dict[str, Any]) -> None:
            self.bench: _Bench | None = None

        def take(self, job: Job, work: list[Any], path: list[str]) -> dict[str, Any]:
            import cloudpickle
            import ray

            gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            try:
                if self.bench is None:
                    sys.path += [entry for entry in path if entry not in sys.path]
                    self.bench = _Bench(cloudpickle.loads(ray.get(work[0])), gpus=len(gpus))  # from the driver
            except Exception as error:
                return {"unable": f"{type(error).__name__}: {error}"}
            self.bench.take(job)
            return {"pid": os.getpid(), "host": platform.node(), "gpus": gpus}

        def step(self) -> dict[str, Any]:
            if self.bench is None:
                raise RuntimeError("a worker that can't do such work")
            return self.bench.step()

        def abandon(self) -> None:
            if self.bench is not None:
                self.bench.abandon()

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def cleanup(self) -> None:
            if self.bench is not None:
                self.bench.close()

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

    class Ears(Callback):  # type: ignore[misc,unused-ignore]
        """Passes on what Tune says."""

        def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
            loop.tend()

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            loop.started(trial)

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            loop.heard_from(trial, result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            loop.completed(trial)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            loop.failed(trial)

    return Ears()


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
            late = _is_last(result[_SAID][1], loop.running[trial.trial_id].job.trial.fidelity)
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


# --- small things -----------------------------------------------------------------------------------------------------


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


def _is_last(event: Mapping[str, Any], fidelity: str) -> bool:
    """Whether a rung ends with this event, the last one or one below."""
    return event.get("rung") == fidelity or ("epochs" in event and event.get("epoch") == event["epochs"])


def _name(trial: Any) -> str:
    return str(trial.config["name"])


def _actor(trial: Any) -> Any:
    """The handle of what runs a trial of Tune's (Ray 2.60)."""
    return trial.temporary_state.ray_actor


def _stopped(running: _Running) -> Outcome:
    """What is told of a trial that a scheduler stopped: never evaluated, with the last error it had as a stand-in."""
    said = running.said
    place = f" after epoch {said['epoch']} of {said['epochs']}" if "epoch" in said else ""
    loss = f", where its loss was {said['loss']:.4f}" if "loss" in said else ""
    return Outcome(
        state="complete",
        error=said.get("error"),
        seconds=time.monotonic() - running.since,
        evaluated=False,
        latency_ms=running.job.trial.measures.get("latency_ms"),
        reason=f"stopped by Tune's scheduler{place}{loss}",
        attributes={"stopped": str(said.get("rung", "tune"))},
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
