"""Trials as trials of Ray Tune, for people who live in its result folders, TensorBoard logs and schedulers.

Tune drives its experiment: it asks a searcher for trials, runs each as a function, and lets a scheduler end it. The
searcher gives what the study asked, and what the function finds is told to the study. Proposals, attempts and results
stay with the study's ledger. Every run is a new experiment with the trials that the ledger lacks. What Tune leaves on
the disk is for people: it is never read here, because its own way to go on with an experiment unpickles.

Tune's loop has a thread of its own (`tune_loop.py`), and trials are on other machines (`tune_worker.py`). All that is
said, by both, comes through one mailbox, an actor. Start reading at `TuneExecutor`.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import cloudpickle

from ...outcomes.work import Job, Work
from ...settings.runner import Tune
from ...trials.events import Begun, Epoch, Happened, JobEnd, Lost, Message, Ready, Rung, Unable, WorkerInfo
from ...trials.trial import Stopped
from ..executor import Executor, Listen
from .cluster import _OBJECTS, Cluster, check_installed, imported
from .tune_loop import Experiment
from .tune_worker import mailbox

FOLDER = "tune"  # in a study's


@dataclass(kw_only=True, eq=False)
class _Running:
    """A job on its way.

    Attributes:
        name: in Tune's folders.
        job: what to do.
        actor: the handle of what does it; None until it has begun.
        where: process, host and GPUs of its worker.
        since: when it began.
        epoch: the last of its training.
        rung: the last that it reached.
    """

    name: str
    job: Job
    actor: Any = None
    where: WorkerInfo = field(default_factory=WorkerInfo)
    since: float = field(default_factory=time.monotonic)
    epoch: Epoch | None = None
    rung: Rung | None = None


@final
class TuneExecutor(Executor):
    """Does jobs as trials of Ray Tune, one experiment a run.

    A trial that a scheduler of Tune's stops was never evaluated: samplers are told the error of its last rung, or the
    median one where there is none, and it is never on the front. Schedulers decide by what has arrived when, so only
    without one is the table of trials that of every other runner.
    """

    apart = False  # Tune gives a job to whichever worker is free, so each brings all that it needs; see `submit`

    def __init__(self, runner: Tune) -> None:
        """Take a runner's settings; nothing is started yet."""
        self.options = self._runner = runner
        self._cluster: Cluster | None = None
        self._experiment: Experiment | None = None
        self._mailbox: Any = None
        self._hearing: Future[list[Any]] | None = None
        self._slots: list[_Running | None] = []
        self._names: Counter[str] = Counter()

    def check(self, *, threads: int, device: str) -> None:
        """Refuse to go on without Ray; a cluster is asked when it is opened."""
        check_installed()

    def open(self, work: Work, listen: Listen) -> None:
        """Find or start a cluster, and begin an experiment."""
        address = self._runner.address
        chosen = _scheduler(self._runner.scheduler, alone=address is None)
        if address is not None and address.startswith("ray://"):
            raise ValueError(
                f"address={address!r} with kind='tune', whose loop runs in this process; expected 'auto' on a machine "
                "of the cluster, or kind='ray'"
            )
        self._work, packed = work, work.pickled()
        self._cluster = Cluster(address, objects=_OBJECTS + 2 * len(packed))
        try:
            needs, self.slots = self._cluster.plan(self._runner, work)
            self._slots = [None] * self.slots
            name, ray = f"secateur-{uuid.uuid4().hex}", self._cluster.ray
            self._mailbox = mailbox(ray, name, ray.put(packed))
            self._experiment = Experiment(
                name,
                lambda trial, said: ray.get(self._mailbox.say.remote(trial, cloudpickle.dumps(said))),
                needs=needs,
                slots=self.slots,
                scheduler=chosen,
                folder=_folder(Path(self._runner.folder or work.evaluation.artifacts.folder / FOLDER)),
            )
        except BaseException:
            self.close()
            raise

    def submit(self, slot: int, job: Job) -> None:
        """Put the job, with everything that its worker must have, into the mailbox, and have Tune begin it."""
        assert self._experiment is not None and self._cluster is not None, "an executor is opened before it is used"
        evaluation, folder = self._work.evaluation, self._work.evaluation.artifacts.folder
        needs = evaluation.needs(job.trial, training=job.training)
        files = {name: (folder / name).read_bytes() for name in needs if (folder / name).exists()}
        job = replace(job, needs=tuple(needs), files=files)
        running = self._slots[slot] = _Running(name=self._named(job), job=job)
        self._cluster.ray.get(self._mailbox.post.remote(running.name, cloudpickle.dumps(job)))
        self._experiment.begin(self._config(running))

    def wait(self, timeout_s: float | None) -> Sequence[Message]:
        """What trials say."""
        if self._hearing is None:
            self._hearing = self._mailbox.hear.remote().future()
        try:
            found = self._hearing.result(timeout_s)
        except TimeoutError:
            return []
        except Exception as error:  # Ray's, where the mailbox is gone
            return [Message(slot=0, said=Unable(f"the Ray cluster can't be reached: {error}"))]
        self._hearing = None
        return [message for said in found for message in self._messages(*said)]

    def cancel(self, slot: int) -> None:
        """Kill the slot's worker, which Tune calls a failed trial."""
        running, self._slots[slot] = self._slots[slot], None
        if running is not None and running.actor is not None and self._cluster is not None:
            with suppress(Exception):  # it may be dead already
                self._cluster.ray.kill(running.actor)

    def close(self) -> None:
        """Kill the workers that work, let Tune finish its files, and end the cluster where it was started here."""
        for slot in range(len(self._slots)):
            self.cancel(slot)
        experiment, self._experiment = self._experiment, None
        if experiment is not None:
            experiment.close()
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            with suppress(Exception):  # a cluster that is gone
                cluster.ray.kill(self._mailbox)
            cluster.close()

    def describe(self, slot: int) -> WorkerInfo:
        """Process, host and GPUs of what works for a slot."""
        running = self._slots[slot] if slot < len(self._slots) else None
        return WorkerInfo() if running is None else running.where

    def _named(self, job: Job) -> str:
        """A name that no trial of this experiment has: one that is tried again gets another."""
        name = job.trial.weights.replace(":", "-") if job.training else f"trial-{job.trial.number:04d}"
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}-attempt-{self._names[name]}"

    def _config(self, running: _Running) -> dict[str, Any]:
        """What Tune shows of a job."""
        trial = running.job.trial
        axes = (axis.name for axis in self._work.evaluation.space.axes)
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

    def _messages(self, name: str, packed: bytes, *actor: Any) -> Iterator[Message]:
        """What a trial said, or was said of it, where it is still waited for."""
        said = cloudpickle.loads(packed)  # from our own trials
        slot = next((slot for slot, one in enumerate(self._slots) if one is not None and one.name == name), None)
        running = None if slot is None else self._slots[slot]
        if slot is None or running is None:
            if isinstance(said, Unable):
                yield Message(slot=0, said=said)
            return
        match said:
            case Ready(worker=where):
                (running.actor,), running.where, running.since = actor, where, time.monotonic()
                said = Begun()
            case Happened(event=Epoch() as epoch):
                running.epoch = epoch
            case Happened(event=Rung() as rung):
                running.rung = rung
            case None:  # without a word, so not by itself
                said = JobEnd(outcome=_stopped(running))
        if isinstance(said, JobEnd | Lost):
            self._slots[slot] = None
        yield Message(slot=slot, said=said)


def _folder(folder: Path) -> Path:
    """A new folder for an experiment."""
    for number in itertools.count(1):
        path = folder.expanduser().absolute() / f"run-{number:03d}"
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            break
    return path


def _scheduler(given: Any, *, alone: bool) -> Any:
    """A scheduler of Tune's from what a user gave.

    Raises:
        ValueError: it is none, or does more than stop trials.
    """
    schedulers = imported("ray.tune.schedulers", alone=alone)
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
        measured=dict(running.job.trial.own_costs),
    )
