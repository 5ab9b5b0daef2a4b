"""What a worker is given to do, and what it gives back.

A worker is told once what is the same for every job (`Work`), and then does one `Job` after another. It has a folder of
its own for artifacts: those that a job needs travel with it, those that it made travel back, and the driver alone
writes into the study.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

import torch

from ..disk.artifacts import FOLDERS, place_artifact
from ..disk.scratch import Scratch
from ..settings.determinism import reproducible
from ..trials.events import Epoch, Happened, JobEnd, Rung, Say
from ..trials.outcome import Failed
from ..trials.trial import Trial
from .evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that is the same for every job of a run.

    Attributes:
        evaluation: turns trials into outcomes.
        threads: of PyTorch.
        device: of PyTorch, as a worker sees it.
    """

    evaluation: Evaluation
    threads: int
    device: str

    def pickled(self) -> bytes:
        """For a worker elsewhere.

        Raises:
            ValueError: the model, the task or the evaluator can't be sent.
        """
        import cloudpickle

        try:
            found: bytes = cloudpickle.dumps(self)
        except Exception as error:  # pickling runs the user's classes, which raise whatever they like
            raise ValueError(
                f"model, task or evaluator can't be sent to workers ({type(error).__name__}: {error}); keep open "
                "files, locks and connections out of them, or use the runner 'serial'"
            ) from error
        return found


@dataclass(frozen=True, kw_only=True)
class Job:
    """A trial to evaluate, or the round of shared weights that it names to train.

    Attributes:
        trial: the trial; with its measured latency, where there is one.
        training: whether only the round is trained.
        earlier: the trials that early stopping compares it with.
        needs: artifacts that it reads, as paths in the study.
        files: the contents of those that the worker has not got.
    """

    trial: Trial
    training: bool = False
    earlier: tuple[Trial, ...] = ()
    needs: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


def perform(evaluation: Evaluation, job: Job, say: Say) -> JobEnd:
    """Do a job where the evaluation's artifacts are; what goes wrong is a failed outcome.

    Args:
        evaluation: turns trials into outcomes.
        job: what to do.
        say: told of every `Epoch` of any training, and of every `Rung`.
    """
    start = time.perf_counter()
    try:
        if not job.training:
            return JobEnd(outcome=evaluation(job.trial, job.earlier, say))
        evaluation.ensure_round(job.trial, say)
        return JobEnd()
    except Exception as error:  # the user's evaluator, task and data raise whatever they like
        said = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        transient = isinstance(error, OSError)
        return JobEnd(outcome=Failed(reason=reason, seconds=time.perf_counter() - start), transient=transient)


@final
class Worker:
    """Does jobs in a folder of its own, which is gone when it is closed."""

    def __init__(self, work: Work, *, gpus: int = 0, scratch: Scratch | None = None) -> None:
        """Be ready.

        Args:
            work: of this worker alone.
            gpus: how many this process sees; an evaluator is told of them where they are several.
            scratch: its folder; a new one when None.

        Raises:
            ValueError: the device is not here.
        """
        self._device = torch.device(work.device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device={work.device!r}: a worker on {os.uname().nodename} sees no CUDA device")
        self._threads = work.threads
        self._scratch = Scratch() if scratch is None else scratch
        self.folder = self._scratch.path
        devices = tuple(torch.device("cuda", index) for index in range(gpus)) if gpus > 1 else ()
        self._evaluation = work.evaluation.at(self.folder, devices)
        with reproducible(self._threads, self._device):
            pass  # the first time takes PyTorch seconds, which are no trial's

    def run(self, job: Job, say: Callable[[Happened], object]) -> JobEnd:
        """Do a job.

        Args:
            job: what to do.
            say: told of what happens in it.
        """
        self._supply(job)
        seen = self._stamps()

        def tell(event: Epoch | Rung) -> None:
            nonlocal seen
            files, seen = self._changes(seen)
            say(Happened(event=event, files=files))

        with reproducible(self._threads, self._device):
            end = perform(self._evaluation, job, tell)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        files, _ = self._changes(seen)
        return replace(end, files=files)

    def close(self) -> None:
        """Remove the folder."""
        self._scratch.remove()

    def _supply(self, job: Job) -> None:
        for name in self._stamps():
            if name not in job.needs:
                (self.folder / name).unlink()
        for name, data in job.files.items():
            place_artifact(self.folder, name, data)

    def _stamps(self) -> dict[str, tuple[int, int]]:
        found = {}
        for folder in FOLDERS:
            for path in (self.folder / folder).glob("*"):
                if not path.name.startswith("."):
                    stat = path.stat()
                    found[f"{folder}/{path.name}"] = (stat.st_mtime_ns, stat.st_size)
        return found

    def _changes(
        self, before: Mapping[str, tuple[int, int]]
    ) -> tuple[dict[str, bytes | None], dict[str, tuple[int, int]]]:
        now = self._stamps()
        files: dict[str, bytes | None] = {
            name: (self.folder / name).read_bytes() for name, stamp in now.items() if before.get(name) != stamp
        }
        return files | {name: None for name in before if name not in now}, now
