"""A search that takes its time, to be looked at from outside: run as a program, it makes a study and searches.

    python tests/sleeper.py FOLDER --trials 12 --seconds 0.5 --workers 2

Workers import the evaluator from here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Processes, Study
from secateur.evaluators import Result


@dataclass
class Sleeper:
    """Answers by formula after a while, in four epochs; one network in four is bad."""

    instant: Instant
    seconds: float
    fingerprint: str = "sleeper"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report, context) -> Result:
        for epoch in range(1, 5):
            time.sleep(self.seconds / 4)
            for callback in context.callbacks:
                callback.after_epoch(SimpleNamespace(epoch=epoch, epochs=4, losses=[1.0 / epoch]))
        if seed % 4 == 0:
            raise ValueError(f"a bad network, number {seed}")
        return self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)


def create(folder: Path, seconds: float, **changes: Any) -> Study:
    model, task = tiny_net(), tiny_task()
    space = tiny_space(model)
    given: dict[str, Any] = {"sampler": "random", "threads": 1, "training": tiny_training(), "budget": Budget(macs=0.5)}
    evaluator = Sleeper(Instant(space), seconds)
    return Study.create(
        folder, model=model, task=task, space=space, **searching({"evaluator": evaluator} | given | changes)
    )


def start(folder: Path, *, trials: int, seconds: float, workers: int = 0) -> subprocess.Popen[str]:
    """A process that runs a new study in `folder`; its first line of output is `ready`."""
    command = [sys.executable, __file__, str(folder), "--trials", str(trials), "--seconds", str(seconds)]
    return subprocess.Popen(
        [*command, "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--workers", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    study = create(asked.folder, asked.seconds)
    print("ready", flush=True)
    study.run(asked.trials, runner=Processes(workers=asked.workers) if asked.workers else "serial")


if __name__ == "__main__":
    main()
