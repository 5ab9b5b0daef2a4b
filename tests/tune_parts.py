"""What tests of Ray Tune's runner need where workers and other processes can import it.

    python tests/tune_parts.py FOLDER TRIALS

goes on with the study in a folder, or makes it; it writes `ready` with the first trial.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study
from secateur.evaluators import Result
from secateur.studies.settings.runner import Tune


@dataclass(frozen=True)
class Napping:
    """Answers by formula, a little later; leaves the numbers of its processes in a folder."""

    instant: Instant
    seconds: float = 0.3
    pids: Path | None = None
    fingerprint: str = "napping"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        time.sleep(self.seconds)
        if self.pids is not None:
            (self.pids / str(os.getpid())).touch()
        return self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)


@dataclass(frozen=True)
class Odd:
    """Raises on one of three candidates, wants to leave on another, and is killed by the first of a third."""

    instant: Instant
    folder: Path
    fingerprint: str = "odd"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        mark = self.folder / candidate.key
        first = not mark.exists()
        mark.touch()
        if seed % 4 == 0 and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed % 4 == 1:
            sys.exit("enough")
        if seed % 4 == 2:
            raise ValueError("a bad network")
        return self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)


@dataclass(frozen=True)
class Chatty:
    """Says three epochs, then answers by formula, or ends as the next of `ends` says; leaves marks in a folder."""

    instant: Instant
    folder: Path
    ends: tuple[str, ...] = ()
    fingerprint: str = "chatty"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, context, report=None) -> Result:
        before = len(list(self.folder.glob("began-*")))
        (self.folder / f"began-{candidate.key}").touch()
        for epoch in range(1, 4):
            for one in context.callbacks:
                one.after_epoch(SimpleNamespace(epoch=epoch, epochs=3, losses=[1.0 / epoch]))
        end = self.ends[before] if before < len(self.ends) else ""
        if end == "raise":
            raise ValueError("a bad network")
        if end == "exit":
            sys.exit("enough")
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / f"ended-{candidate.key}").touch()
        return self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)


def create(path: Path, **changes) -> Study:
    """The toy study in a new folder."""
    model, task = tiny_net(), tiny_task()
    space = tiny_space(model)
    given = {"sampler": "tpe", "threads": 1, "training": tiny_training()} | changes
    return Study.create(path, model=model, task=task, space=space, budget=Budget(macs=0.5), **searching(given))


def main() -> None:
    torch.set_num_threads(1)
    folder, trials = Path(sys.argv[1]), int(sys.argv[2])
    napping = Napping(Instant(tiny_space(tiny_net())))
    if (folder / "study.json").exists():
        study = Study.open(folder, model=tiny_net(), task=tiny_task(), evaluator=napping)
    else:
        study = create(folder, evaluator=napping)
    heard = []

    def listen(event) -> None:
        if not heard:
            print("ready", flush=True)
        heard.append(event)

    study.run(trials, listen, runner=Tune(workers=2))


if __name__ == "__main__":
    main()
