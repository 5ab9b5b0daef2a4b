"""Evaluations that do as they are told, for tests of runners: an importable module, because workers import it too."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study
from secateur.evaluators import Result
from secateur.spaces import Candidate
from secateur.studies.outcomes.work import Job, Work
from secateur.studies.settings.runner import Ray
from secateur.studies.trials.events import Epoch
from secateur.studies.trials.trial import Scored, Trial

EPOCH = Epoch(of="trial 0", done=1, total=1, loss=0.5)


@dataclass(frozen=True)
class Script:
    """An evaluation whose trials name what they do as their source; it says where it was done."""

    folder: str = ""

    def at(self, folder: Path, devices=()) -> Script:
        return replace(self, folder=str(folder))

    def __call__(self, trial, earlier=(), say=None) -> Scored:
        if trial.source == "hang":
            time.sleep(600)
        if trial.source == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.source == "leave":
            sys.exit(3)
        if trial.source == "raise":
            raise OSError("no space left")
        say(EPOCH)
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return Scored(error=0.5, attributes={"pid": float(os.getpid()), "gpus": gpus})


@dataclass(frozen=True)
class Wide:
    """An evaluation that says how many devices it was told to train over."""

    devices: tuple = ()

    def at(self, folder: Path, devices=()) -> Wide:
        return Wide(devices)

    def __call__(self, trial, earlier=(), say=None) -> Scored:
        return Scored(error=0.5, attributes={"devices": float(len(self.devices))})


def job(does: str, number: int = 0) -> Job:
    nothing = Candidate(())
    trial = Trial(
        number=number,
        candidate=nothing,
        asked=nothing,
        source=does,
        ranking="",
        weights="inherited",
        fidelity="short",
        costs={},
    )
    return Job(trial=trial)


def work() -> Work:
    return Work(evaluation=Script(), threads=1, device="cpu")


@dataclass(frozen=True)
class Sleeper:
    """Answers by formula after a while; leaves marks in a folder where it began and where it ended."""

    instant: Instant
    seconds: float = 0.05
    folder: Path | None = None
    fingerprint: str = "sleeper"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        self._mark("began", candidate)
        time.sleep(self.seconds)
        self._mark("ended", candidate)
        return self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)

    def _mark(self, name: str, candidate) -> None:
        if self.folder is not None:
            (self.folder / f"{name}-{candidate.key}").touch()


def create(path: Path, **changes) -> Study:
    model, task = tiny_net(), tiny_task()
    space = tiny_space(model)
    given = {"sampler": "tpe", "threads": 1, "training": tiny_training(), "evaluator": Instant(space)} | changes
    return Study.create(path, model=model, task=task, space=space, budget=Budget(macs=0.5), **searching(given))


def main() -> None:
    """Search in a folder on a local Ray cluster, with trials of a second."""
    folder = Path(sys.argv[1])
    space = tiny_space(tiny_net())
    study = create(folder / "study", evaluator=Sleeper(Instant(space), 1.0, folder))
    study.run(40, lambda event: print(event, flush=True), runner=Ray(workers=2))


if __name__ == "__main__":
    main()
