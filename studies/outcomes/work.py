"""What a worker is given to do, and what it gives back.

A worker is told once what is the same for every job (`Work`), and then does one `Job` after another. It has a folder of
its own for artifacts: those that a job needs travel with it, those that it made travel back, and the driver alone
writes into the study. An `Evaluation` takes one trial from proposal to outcome: build, evaluate, keep what others may
start from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import torch
from torch import nn

from ...evaluators import Context, Evaluator, Ladder, Origin, Result
from ...evaluators.modes import reproducible, seed_of
from ...search import NOTE
from ...spaces import Space
from ..disk.artifacts import FOLDERS, ROUND, Artifacts, place_artifact
from ..disk.files import FormatError
from ..disk.scratch import Scratch
from ..trials.events import Epoch, Happened, JobEnd, Rung, Say, Watch
from ..trials.trial import REFERENCE, Evaluated, Failed, Trial, outcome_of
from ..trials.words import reason_of
from .rounds import Rounds
from .sides import watched
from .stopping import Stopping


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


class Interrupted(BaseException):
    """Raised into a job from outside it; no `except Exception` of a user's takes it for a failure of their own."""


class Asked(Interrupted, SystemExit):
    """This process was asked to end; no trial's own affair."""


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
    except (Interrupted, KeyboardInterrupt):
        raise
    except BaseException as error:  # the user's evaluator, task and data raise whatever they like
        reason = reason_of(error)
        if isinstance(error, SystemExit):
            reason = f"the code of the model, task or evaluator called sys.exit({error.code!r:.100})"
        transient = isinstance(error, OSError | FormatError)  # a file that is lost or damaged may come back
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


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A function from a proposed trial to its outcome; holds all that is the same for every trial.

    Attributes:
        model: the full network with the base weights; it is never changed.
        space: its traced space.
        artifacts: turns the names in a trial into a network.
        evaluator: `Ladder`, or the user's own.
        seed: the study's; each trial trains with its own, derived from this and its number.
        rounds: trains shared weights where a trial names them.
        stopping: ends trials that are not promising at a lower fidelity; None ends none.
        keeps_weights: keep what every trial's network became, because others may start there.
        devices: what a trial's training may be spread over; empty leaves it to the evaluator.
    """

    model: nn.Module
    space: Space
    artifacts: Artifacts
    evaluator: Evaluator
    seed: int
    keeps_weights: bool = False
    rounds: Rounds | None = None
    stopping: Stopping | None = None
    devices: tuple[torch.device, ...] = ()

    def at(self, folder: Path, devices: tuple[torch.device, ...] = ()) -> Evaluation:
        """The same with its artifacts in another folder, and with other devices."""
        rounds = None if self.rounds is None else replace(self.rounds, folder=folder)
        return replace(self, artifacts=replace(self.artifacts, folder=folder), rounds=rounds, devices=devices)

    def __call__(self, trial: Trial, earlier: Sequence[Trial] = (), say: Say | None = None) -> Evaluated:
        """The outcome of a trial.

        Args:
            trial: what to evaluate, with its measured latency where there is one.
            earlier: the trials that early stopping compares it with.
            say: told of every `Epoch` and every `Rung`.
        """
        start = time.perf_counter()
        reference = trial.candidate == self.space.full or trial.source == REFERENCE
        stopping = None if reference or self.stopping is None else replace(self.stopping, trials=earlier)
        watching = () if say is None else (Watch(say, f"trial {trial.number}"),)

        def climbed(rung: str, error: float) -> bool:
            if say is not None:
                say(Rung(of=f"trial {trial.number}", rung=rung, error=error))
            return stopping is not None and stopping.stops(trial, rung, error)

        result = self.evaluator(
            lambda: self.build(trial),
            candidate=trial.candidate,
            resolution=self.space.side(trial.candidate) or None,
            fidelity=trial.fidelity,
            seed=seed_of(self.seed, trial.number),
            report=climbed,
            context=Context(callbacks=watching, devices=self.devices, origin=self.origin(trial)),
        )
        if not isinstance(result, Result):
            raise TypeError(f"the evaluator gave a {type(result).__name__}; expected a secateur.evaluators.Result")
        if stopping is not None and result.stopped and result.rung is not None:
            seconds = time.perf_counter() - start
            return stopping.outcome(trial, result.rung, result.error, seconds, dict(result.attributes))
        if self.keeps_weights and result.weights is not None:
            self.artifacts.keep_trained(trial.number, trial.candidate, result.weights)
        seconds = time.perf_counter() - start
        return outcome_of(result, seconds=seconds, latency_ms=trial.latency_ms, measured=trial.own_costs)

    def build(self, trial: Trial) -> nn.Module:
        """A fresh small network with the weights the trial names; shared ones are trained now if they are not there."""
        if self.rounds is not None and trial.weights.startswith(ROUND):
            self.rounds.ensure(*_asked(trial))
        built = self.artifacts.build(self.model, trial.candidate, trial.ranking, trial.weights)
        return watched(built, self.space, trial.candidate) if self.space.resolutions else built

    def origin(self, trial: Trial) -> Origin:
        """The full network with the base weights, and what of it the trial keeps."""
        scores = self.artifacts.scores_of(trial.ranking)
        return Origin(model=self.model, space=self.space, candidate=trial.candidate, scores=scores)

    def lacks_round(self, trial: Trial) -> bool:
        """Whether the trial names shared weights that must be trained before it is evaluated.

        An evaluator of the user's own may never build a network; where it does, they are trained then.

        Raises:
            ValueError: they were trained for another question.
        """
        if self.rounds is None or not trial.weights.startswith(ROUND) or not isinstance(self.evaluator, Ladder):
            return False
        number, center, limits = _asked(trial)
        return not self.rounds.has(number, center, limits)

    def ensure_round(self, trial: Trial, say: Say | None = None) -> None:
        """Train the shared weights that the trial names, unless they are there."""
        assert self.rounds is not None, "a trial that names a round belongs to a study that trains them"
        watch = Watch(say, trial.weights)
        replace(self.rounds, callbacks=(*self.rounds.callbacks, watch)).ensure(*_asked(trial))

    def needs(self, trial: Trial, *, training: bool = False) -> list[str]:
        """The artifacts, as paths in the study, that are read when the trial is evaluated, or its round trained."""
        shared = self.rounds is not None and trial.weights.startswith(ROUND)
        before = self.rounds.needs(_asked(trial)[0]) if self.rounds is not None and shared else []
        if training:
            return before
        found = self.artifacts.paths(trial.ranking, trial.weights)
        return found if isinstance(self.evaluator, Ladder) else [*found, *before]


def _asked(trial: Trial) -> tuple[int, Sequence[float] | None, Mapping[str, float] | None]:
    """Number, center and limits of the round that a trial names."""
    around = trial.memory.get(f"{NOTE}joint", {})
    return int(trial.weights.removeprefix(ROUND)), around.get("center"), around.get("limits")
