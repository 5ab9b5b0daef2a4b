"""How many workers one driver keeps busy: a simulated search on a clock that the driver's own work moves.

    python benchmarks/simulation.py [--workers 8 64 250 500 1000] [--samplers random tpe] [--page]

The ledger (a journal on disk), the proposer, the sampler, the dispatcher and the loop are the real ones; only the
workers are not there. A trial takes a recorded time: that of one of 40 trials that were really trained, scaled to a
mean of a minute. Nobody waits for it: the clock jumps to when the next trial ends, and runs with the driver's
processor time and its writes to disk while it works. So a driver that is too slow leaves workers idle, as it would.

`ms` is what the driver spends on a trial, over all of them; `last ms` over the last batch or the last tenth (a sampler
that reads all trials takes longer with each), and `disk ms` what of it are writes to the journal. `busy` is the share
of the workers' time that is used between the moment all have something to do and the last proposal, `free driver` the
same had the driver taken no time. `limit` is the number of workers at which the driver would have no time left, at
the rate of the last trials. `--page` writes docs/scaling.md.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from landscapes import Instant, tiny_net, tiny_space, tiny_task, tiny_training  # noqa: E402

from secateur import Budget, Space, Study  # noqa: E402
from secateur.studies.outcomes.work import Job, Work  # noqa: E402
from secateur.studies.runners.executor import Executor, Listen
from secateur.studies.settings.runner import Processes  # noqa: E402
from secateur.studies.study_files.networks import resnet20  # noqa: E402
from secateur.studies.trials.events import Begun, JobEnd, Message

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
LOOKING = "\n## What it costs to look\n"
MINUTE = 60.0
COMMAND = " ".join(["python", "benchmarks/simulation.py", *sys.argv[1:]])


class Clock:
    """Seconds that a search would have taken: idle ones in leaps, and those in which the driver works.

    The driver's seconds are its processor time, and what its writes to the journal take besides: processor time does
    not depend on what else this machine does.
    """

    def __init__(self) -> None:
        self.leaps = 0.0
        self.writes = 0.0
        self._aside = 0.0

    @property
    def driver(self) -> float:
        return time.process_time() - self._aside + self.writes

    @property
    def now(self) -> float:
        return self.leaps + self.driver

    @contextlib.contextmanager
    def aside(self):
        """Not the driver's."""
        begin = time.process_time()
        yield
        self._aside += time.process_time() - begin


@dataclass
class Virtual(Executor):
    """Slots whose jobs take recorded times."""

    slots: int
    durations: Sequence[float]
    clock: Clock
    apart: bool = False
    intervals: list[tuple[float, float]] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    _said: list[tuple[float, int, int, Job | None]] = field(default_factory=list)

    def open(self, work: Work, listen: Listen) -> None:
        self._evaluation = work.evaluation
        self._begin = self.clock.driver

    def submit(self, slot: int, job: Job) -> None:
        now, takes = self.clock.now, self.durations[job.trial.number % len(self.durations)]
        self.intervals.append((now, now + takes))
        self.costs.append(self.clock.driver - self._begin)
        heapq.heappush(self._said, (now, len(self.intervals), slot, None))
        heapq.heappush(self._said, (now + takes, len(self.intervals), slot, job))

    def wait(self, timeout_s: float | None) -> list[Message]:
        if not self._said:
            return []
        self.clock.leaps += max(0.0, self._said[0][0] - self.clock.now)
        now, found = self.clock.now, []
        while self._said and self._said[0][0] <= now:
            _, _, slot, job = heapq.heappop(self._said)
            said: Begun | JobEnd = Begun()
            if job is not None:
                with self.clock.aside():
                    said = JobEnd(outcome=self._evaluation(job.trial))
            found.append(Message(slot=slot, said=said))
        return found

    def cancel(self, slot: int) -> None:
        raise AssertionError("nothing is late here")

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Row:
    mode: str
    sampler: str
    workers: int
    trials: int
    ms: float
    last_ms: float
    disk_ms: float
    busy: float
    free: float

    @property
    def limit(self) -> int:
        return int(MINUTE / (self.last_ms / 1e3))

    def __str__(self) -> str:
        return (
            f"{self.mode:13}{self.sampler:9}{self.workers:>8}{self.trials:>8}{self.ms:>8.1f}{self.last_ms:>9.1f}{self.disk_ms:>9.1f}"
            f"{self.busy:>8.1%}{self.free:>13.1%}{self.limit:>8}"
        )


HEAD = (
    f"{'mode':13}{'sampler':9}{'workers':>8}{'trials':>8}{'ms':>8}{'last ms':>9}{'disk ms':>9}"
    f"{'busy':>8}{'free driver':>13}{'limit':>8}"
)


def recorded(folder: Path) -> list[float]:
    """Seconds of 40 trials that are really trained, scaled to a mean of a minute."""
    model = tiny_net()
    study = Study.create(
        folder,
        model=model,
        task=tiny_task(),
        space=tiny_space(model),
        budget=Budget(macs=0.8),
        sampler="random",
        threads=1,
        training=tiny_training(),
    )
    study.run(41)
    found = study.trials().seconds.to_numpy()[1:]  # the first one warms up
    return list(MINUTE * found / found.mean())


def simulate(space: Space, model, mode: str, sampler: str, workers: int, trials: int, durations, folder: Path) -> Row:
    study = Study.create(
        folder,
        model=model,
        task=tiny_task(),
        space=space,
        budget=Budget(macs=0.5),
        sampler=sampler,
        threads=1,
        batch=1 if mode == "asynchronous" else workers,
        evaluator=Instant(space),
        storage=f"journal:{folder}.journal",
    )
    clock = Clock()
    virtual = Virtual(slots=workers, durations=durations, clock=clock)
    fsync = os.fsync

    def timed(handle: int) -> None:
        begin, busy = time.perf_counter(), time.process_time()
        fsync(handle)
        clock.writes += max(0.0, time.perf_counter() - begin - (time.process_time() - busy))

    virtual.options = Processes(workers=workers, asynchronous=mode == "asynchronous")
    with mock.patch.object(os, "fsync", timed):
        study.run(trials, runner=virtual)
    costs = np.diff(np.array([0.0, *virtual.costs]))
    tail = costs[-max(workers, len(costs) // 10) :]  # from begin to begin: a whole batch, with what it costs to end one
    return Row(
        mode=mode,
        sampler=sampler,
        workers=workers,
        trials=len(virtual.intervals),
        ms=1e3 * float(costs.mean()),
        last_ms=1e3 * float(tail.mean()),
        disk_ms=1e3 * clock.writes / trials,
        busy=used(virtual.intervals, workers),
        free=used(scheduled(durations, workers, len(virtual.intervals), mode), workers),
    )


def scheduled(durations, workers: int, trials: int, mode: str) -> list[tuple[float, float]]:
    """When trials would run if the driver took no time."""
    ends, found, begin = [0.0] * workers, [], 0.0
    for number in range(trials):
        if mode != "asynchronous" and number % workers == 0:
            begin = max(ends)
            ends = [begin] * workers
        start = heapq.heappop(ends)
        end = start + durations[number % len(durations)]
        found.append((start, end))
        heapq.heappush(ends, end)
    return found


def used(intervals: Sequence[tuple[float, float]], workers: int) -> float:
    """The share of the workers' time in which they work, from the moment all do to the last begin."""
    begins = [begin for begin, _ in intervals]
    first, last = begins[workers - 1], begins[-1]
    spent = sum(max(0.0, min(end, last) - max(begin, first)) for begin, end in intervals)
    return spent / (workers * (last - first)) if last > first else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 250, 500, 1000])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--modes", nargs="+", default=["asynchronous", "batches"])
    parser.add_argument("--waves", type=int, default=3, help="trials a worker")
    parser.add_argument("--least", type=int, default=400, help="trials a row, at least")
    parser.add_argument("--network", choices=["tiny", "resnet20"], default="resnet20")
    parser.add_argument("--page", action="store_true", help="write docs/scaling.md")
    parser.add_argument("--profile", action="store_true", help="say where the driver spends its time")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = tiny_net() if asked.network == "tiny" else resnet20()
    space = (
        tiny_space(model)
        if asked.network == "tiny"
        else Space.trace(model, torch.zeros(1, 1, 28, 28), resolutions=(28, 24, 20, 16), divisor=2)
    )
    rows = []
    with tempfile.TemporaryDirectory() as made:
        durations = recorded(Path(made) / "recorded")
        print(f"{len(space.axes)} axes; durations {min(durations):.0f} to {max(durations):.0f} s")
        print(HEAD, flush=True)
        for mode in asked.modes:
            for sampler in asked.samplers:
                for workers in asked.workers:
                    trials = max(asked.waves * workers, -(-asked.least // workers) * workers)
                    folder = Path(made) / f"{mode}-{sampler}-{workers}"
                    with profiled() if asked.profile else contextlib.nullcontext():
                        row = simulate(space, model, mode, sampler, workers, trials, durations, folder)
                    rows.append(row)
                    print(row, flush=True)
    if asked.page:
        looking = PAGE.read_text().partition(LOOKING)  # written by hand, after looking.py
        PAGE.write_text(page(rows, len(space.axes), asked.network, durations) + "".join(looking[1:]))


@contextlib.contextmanager
def profiled():
    import cProfile
    import pstats

    profile = cProfile.Profile()
    with profile:
        yield
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    pstats.Stats(profile).sort_stats("cumtime").print_stats(60)


def page(rows: Sequence[Row], axes: int, network: str, durations: Sequence[float]) -> str:
    """The page, whose figures are those of the rows."""
    table = [
        f"| {row.mode} | {row.sampler} | {row.workers} | {row.trials} | {row.ms:.0f} | {row.last_ms:.0f} "
        f"| {row.disk_ms:.0f} | {row.busy:.1%} | {row.free:.1%} | {row.limit} |"
        for row in rows
    ]
    kept: dict[str, int] = {}
    for row in rows:
        if row.mode == "asynchronous" and row.busy >= 0.95 * row.free:
            kept[row.sampler] = max(row.workers, kept.get(row.sampler, 0))
    least = min(rows, key=lambda row: row.limit)
    said = ", ".join(f"{most} with `{sampler}`" for sampler, most in kept.items())
    return f"""# How many workers one driver keeps busy

One process proposes, and is the only one that writes. This page says at which number of workers it is too slow. It is
written by

    {COMMAND}

which runs the real loop, with its ledger in a journal on disk, on a clock of its own: only the workers are not there.
A trial takes the time of one that was really trained, scaled to a mean of a minute ({min(durations):.0f} to
{max(durations):.0f} s). The driver takes its real processor time, and what it waits for the disk. The network is
{network}, a space of {axes} axes; two objectives; one core. What else a machine does, to its caches and its disk, makes
these figures worse and never better.

- *ms*: what the driver spends on a trial; *last ms*: on one of the last batch, or tenth, of the trials, for a sampler
  that reads all trials takes longer with each; *disk ms*: what of it are writes to the journal.
- *busy*: the share of the workers' time that is used, between the moment all have something to do and the last
  proposal; *free driver*: the same had the driver taken no time. In batches, workers wait for the longest trial.
- *limit*: at so many workers the driver would have no time left, at the rate of the last trials.

| mode | sampler | workers | trials | ms | last ms | disk ms | busy | free driver | limit |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(table)}

With trials of a minute and `--async`, the driver costs at most one part in twenty of the workers' time up to these
numbers of workers of the table: {said}. The least of all limits is {least.limit} ({least.mode}, {least.sampler},
after {least.trials} trials). Longer trials move the limit in proportion: trials of ten minutes allow ten times as many.
Batches wait for their longest trial, whatever the driver does; `--async` does not.

## Why one driver is enough

What is proposed next depends on every trial that was told. So several drivers of one study could not work side by
side: each would wait for its turn to read, propose and write, and all of them would do together what one does. The
table shows how far one gets: with trials of a minute, hundreds of workers are busy before it is the bottleneck, and
trials that train longer allow more in proportion. What more drivers would cost is not in the table: each has to show
that it is alive, and to take over the trials of one that is not.

Where workers can't be reached by a runner of ours (the queue of a batch system, machines that share nothing but a
database), bring a [loop of your own](own.md#a-loop): `Study.ask` and `Study.tell` are durable, and several processes
may call them on one study.
"""


if __name__ == "__main__":
    main()
