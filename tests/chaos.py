"""Evaluators that misbehave, and searches that are disturbed: an importable module, because workers import it too.

    python tests/chaos.py FOLDER --trials 200 --runner processes --workers 2 --timeout 2

runs the study in a folder, or makes it, and writes `ready`, then a line a trial; `disturb` kills it and its workers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from landscapes import Instant, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Search, Study
from secateur.evaluators import Result
from secateur.studies.settings.runner import runner_of
from secateur.studies.trials.events import TrialEnded

MARK = "SECATEUR_TEST_RUN"  # an environment variable by which the processes of one test are known


@dataclass(frozen=True)
class Deadly:
    """Answers by formula; the first attempt at some candidates kills its process, hangs or raises."""

    instant: Instant
    folder: Path
    fingerprint: str = "deadly"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        mark = self.folder / f"mark-{candidate.key}"
        kind = seed % 5
        if kind == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == 1:
            raise ValueError("a bad network")
        if kind == 2:
            time.sleep(60)
        return self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)


@dataclass(frozen=True)
class Chaotic:
    """Answers by formula after 10 to 50 ms; by its seed, one trial in ten raises and one in ten hangs."""

    instant: Instant
    fingerprint: str = "chaotic"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        if seed % 10 == 0:
            raise ValueError("a bad network")
        if seed % 10 == 1:
            time.sleep(600)
        time.sleep(0.01 + seed // 10 % 41 / 1000)
        return self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)


@dataclass(frozen=True)
class Steady:
    """Answers by formula after so many seconds; the files `begun` and `ended` get a line a trial each."""

    instant: Instant
    folder: Path
    seconds: float
    fingerprint: str = "steady"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        self._note("begun", candidate)
        time.sleep(self.seconds)
        self._note("ended", candidate)
        return self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)

    def _note(self, what, candidate) -> None:
        with open(self.folder / what, "a") as file:
            file.write(f"{candidate.key}\n")


@dataclass(frozen=True)
class Odd:
    """Answers what no other process can read, starts a process that outlives it, or stands still once."""

    instant: Instant
    folder: Path
    kind: str
    fingerprint: str = "odd"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        found = self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)
        if self.kind == "unsendable":
            return Result(error=found.error, error_std=None, seconds=0.0, attributes={"odd": lambda: 0})
        if self.kind == "parent":
            import multiprocessing

            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            child.start()
            (self.folder / f"child-{child.pid}").touch()
            time.sleep(600)
        if self.kind == "still" and not (self.folder / "stood").exists():
            (self.folder / "stood").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return found


def study_in(folder: Path, evaluator: str = "chaotic", seconds: float = 0.0) -> Study:
    """The toy study in `folder`, opened or made."""
    model, task = tiny_net(), tiny_task()
    space = tiny_space(model)
    instant = Instant(space)
    given = {
        "chaotic": Chaotic(instant),
        "steady": Steady(instant, folder.parent, seconds),
        "instant": instant,
    }[evaluator]
    if (folder / "study.json").exists():
        return Study.open(folder, model=model, task=task, evaluator=given)
    return Study.create(
        folder,
        model=model,
        task=task,
        space=space,
        budget=Budget(macs=0.5),
        training=tiny_training(),
        search=Search(sampler="tpe", threads=1, evaluator=given),
    )


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs the study in `folder`; its first line of output is `ready`, then comes one a trial."""
    command = [sys.executable, __file__, str(folder), *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", MARK: str(folder)},
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )


def hear_interrupts() -> None:
    """Undo what a shell does to programs that it starts in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def left(folder: Path) -> list[int]:
    """Processes of the run in `folder`, whoever started them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={folder}\0".encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


def gone_within(folder: Path, seconds: float) -> bool:
    """Whether no process of the run is left after so long."""
    end = time.monotonic() + seconds
    while left(folder) and time.monotonic() < end:
        time.sleep(0.1)
    return not left(folder)


def workers(folder: Path) -> list[int]:
    """Processes that evaluate, as the study's board has them."""
    try:
        slots = json.loads((folder / "slots.json").read_text())["slots"]
    except (OSError, ValueError, KeyError):
        return []
    return [slot["pid"] for slot in slots if slot.get("pid")]


def disturb(
    folder: Path,
    arguments: Sequence[object],
    *,
    trials: int,
    kills: int = 5,
    every_s: tuple[float, float] = (1.0, 3.0),
    every: int = 3,
    locks: int = 2,
    seed: int = 0,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, int]:
    """Run the study in `folder` to its end, whatever strikes it; how often what struck.

    Args:
        folder: where the study is.
        arguments: of this program.
        trials: the total to reach.
        kills: how often the driver is killed, after some trials each time.
        every_s: a worker is killed each time so many seconds have passed, evenly drawn,
        every: and so many trials have ended since: one that only just starts is left to.
        locks: how often somebody else takes the database for three seconds.
        seed: of all moments.
        say: told of everything.
    """
    random, struck = np.random.default_rng(seed), {"drivers": 0, "workers": 0, "locks": 0}
    for life in range(kills + 1):
        last = life == kills
        until = None if last else int(random.integers(10, int(0.8 * trials / (kills + 1))))
        heard: list[str] = []
        with start(folder, "--trials", trials, *arguments) as process:
            listener = threading.Thread(target=lambda stream=process.stdout, said=heard: said.extend(stream))
            listener.start()
            strike, seen = time.monotonic() + random.uniform(*every_s), 1
            while process.poll() is None:
                time.sleep(0.02)
                now = time.monotonic()
                if len(heard) < 2:
                    strike = max(strike, now + every_s[0])
                elif until is not None and len(heard) > until:
                    time.sleep(random.uniform(0, 0.3))
                    process.kill()
                    struck["drivers"] += 1
                    say(f"driver killed after {len(heard) - 1} trials")
                    break
                elif now >= strike and len(heard) >= seen + every:
                    strike, seen = now + random.uniform(*every_s), len(heard)
                    found = workers(folder)
                    if found:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(random.choice(found)), signal.SIGKILL)
                            struck["workers"] += 1
                    if struck["locks"] < locks and len(heard) > 5:
                        struck["locks"] += 1
                        threading.Thread(target=_lock, args=(folder / "study.db", 3.0)).start()
            code = process.wait()
            listener.join()
        if last and code:
            raise RuntimeError(f"the last run ended with {code}")
        say(f"life {life}: {len(heard) - 1} trials, so far {struck}")
    return struck


def _lock(database: Path, seconds: float) -> None:
    with contextlib.closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--runner", default="serial")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--timeout", type=float)
    parser.add_argument("--retries", type=int, default=100)
    parser.add_argument("--evaluator", default="chaotic")
    parser.add_argument("--seconds", type=float, default=0.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    study = study_in(asked.folder, asked.evaluator, asked.seconds)
    print("ready", flush=True)
    workers = {} if asked.runner == "serial" else {"workers": asked.workers}
    runner = runner_of(asked.runner, timeout_s=asked.timeout, retries=asked.retries, **workers)

    def say(event) -> None:
        if isinstance(event, TrialEnded):
            print(event, flush=True)

    try:
        study.run(asked.trials, say, runner=runner)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
