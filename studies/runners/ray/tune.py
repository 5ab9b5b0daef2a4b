"""Trials as trials of Ray Tune, for people who live in its result folders, TensorBoard logs and schedulers.

Tune runs what it is given and nothing else: proposals, retries and results stay with the study's ledger. Every run of a
study is a new experiment of Tune with the trials that the ledger lacks. What Tune leaves on the disk is for people: it
is never read here, because its own way to go on with an experiment unpickles.

Tune's loop has a thread of its own. The methods of `TuneExecutor` are called by the driver's; those of `_Loop` by
Tune's; they talk through two queues. Start reading at `TuneExecutor`; `WorkerThread` is what a worker does.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import torch

from ...outcomes.work import Job, Work
from ...settings.runner import Tune
from ...trials.events import JobEnd, Lost, Message, Said, WorkerInfo
from ..executor import Executor, Listen
from .cluster import Cluster, check_installed, plan
from .tune_loop import _experiment, _Loop, _Running
from .tune_scheduler import scheduler

logger = logging.getLogger("secateur")

FOLDER = "tune"  # in a study's

_OBJECTS = 2**28  # bytes of a local cluster's object store, beside the work itself
_LEAVING_S = 30.0  # how long Tune may take to put its files in order


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
        self._thread: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[_Running | None] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[tuple[_Running | None, Said]] = queue.SimpleQueue()
        self._slots: list[_Running | None] = []
        self._names: set[str] = set()

    def check(self, *, threads: int, device: str) -> None:
        """Refuse to go on without Ray; a cluster is asked when it is opened."""
        check_installed()

    def open(self, work: Work, listen: Listen) -> None:
        """Find or start a cluster, and begin an experiment."""
        try:
            from ray import tune  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"Ray Tune can't be imported ({error}); install it with: pip install 'secateur[ray]'"
            ) from None
        address = self._runner.address
        if address is not None and address.startswith("ray://"):
            raise ValueError(
                f"address={address!r} with kind='tune', whose loop runs in this process; expected 'auto' on a machine "
                "of the cluster, or kind='ray'"
            )
        self._work, packed, chosen = work, work.pickled(), scheduler(self._runner.scheduler)
        self._cluster = Cluster(address, objects=_OBJECTS + 2 * len(packed))
        try:
            needs, self.slots = plan(
                self._runner,
                threads=work.threads,
                cuda=torch.device(work.device).type == "cuda",
                nodes=self._cluster.nodes(),
                free=None if self._cluster.own else self._cluster.free(),
                own=self._cluster.own,
            )
            self._slots = [None] * self.slots
            self._loop = _Loop(
                jobs=self._jobs,
                messages=self._messages,
                work=self._cluster.ray.put(packed),
                needs=needs,
                slots=self.slots,
                axes=[axis.name for axis in work.evaluation.space.axes],
                scheduler=chosen,
                folder=_experiment(Path(self._runner.folder or work.evaluation.artifacts.folder / FOLDER)),
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
            found += self._message(*self._messages.get(timeout=timeout_s))
            while True:
                found += self._message(*self._messages.get_nowait())
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

    def describe(self, slot: int) -> WorkerInfo:
        """Process, host and GPUs of what works for a slot."""
        running = self._slots[slot] if slot < len(self._slots) else None
        return WorkerInfo() if running is None else running.where

    def _named(self, job: Job) -> str:
        """A name that no trial of this experiment has: one that is tried again gets another."""
        name = job.trial.weights.replace(":", "-") if job.training else f"trial-{job.trial.number:04d}"
        names = (name if attempt == 1 else f"{name}-attempt-{attempt}" for attempt in range(1, len(self._names) + 2))
        found = next(name for name in names if name not in self._names)
        self._names.add(found)
        return found

    def _message(self, running: _Running | None, said: Said) -> list[Message]:
        if running is None:
            return [Message(slot=0, said=said)]
        if self._slots[running.slot] is not running:
            return []
        if isinstance(said, JobEnd | Lost):
            self._slots[running.slot] = None
        return [Message(slot=running.slot, said=said)]
