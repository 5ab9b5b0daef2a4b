"""A search that may be killed: run as a program, it goes on with the study in a folder, or makes it.

    python tests/killing.py FOLDER --trials 40 --sampler tpe [--real]

It writes `ready` once the search begins, so that whoever started it knows when a kill strikes the loop.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from landscapes import Instant, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Search, Study
from secateur.studies.trials.front import TIMES


def study_in(folder: Path, sampler: str = "tpe", real: bool = False) -> Study:
    """The toy study in `folder`, opened or made."""
    model, task = tiny_net(), tiny_task()
    if (folder / "study.json").exists():
        space = None if real else tiny_space(model)
        return Study.open(folder, model=model, task=task, evaluator=None if space is None else Instant(space))
    space = tiny_space(model)
    return Study.create(
        folder,
        model=model,
        task=task,
        space=space,
        budget=Budget(macs=0.5),
        training=tiny_training(),
        search=Search(sampler=sampler, threads=1, evaluator="auto" if real else Instant(space)),
    )


def table(study: Study) -> pd.DataFrame:
    """All that must not depend on when, or how often, a search was interrupted."""
    return study.trials().drop(columns=list(TIMES))


def start(folder: Path, trials: int, sampler: str, real: bool) -> subprocess.Popen[str]:
    """A process that runs the study in `folder`; its first line of output is `ready`."""
    command = [sys.executable, __file__, str(folder), "--trials", str(trials), "--sampler", sampler]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command + ["--real"] * real, stdout=subprocess.PIPE, text=True, env=one_thread, start_new_session=True
    )


def kill_often(
    folder: Path,
    *,
    kills: int,
    trials: int,
    sampler: str = "tpe",
    real: bool = False,
    longest_s: float,
    seed: int = 0,
    say: Callable[[str], object] = lambda text: None,
) -> int:
    """Run the study in `folder` to its end, with SIGKILL at random moments on the way; how many struck.

    Args:
        folder: where the study is, or will be.
        kills: how many kills.
        trials: the total to reach.
        sampler: by name.
        real: train for real.
        longest_s: each kill comes within so many seconds of the search's begin, evenly drawn.
        seed: of the moments.
        say: told of each kill.
    """
    moments = np.random.default_rng(seed).uniform(0, longest_s, kills)
    struck = 0
    for moment in [*moments, None]:
        with start(folder, trials, sampler, real) as process:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"the search in {folder} could not begin")
            if moment is not None:
                time.sleep(moment)
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    struck += 1
            code = process.wait()
        if moment is None and code != 0:
            raise RuntimeError(f"the last run ended with {code}")
        say(f"killed after {moment:.3f} s" if moment is not None else "finished")
    return struck


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--real", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    study = study_in(asked.folder, asked.sampler, asked.real)
    print("ready", flush=True)
    study.run(asked.trials)


if __name__ == "__main__":
    main()
