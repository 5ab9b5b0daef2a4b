"""Trials a second with one worker and with two, and what the driver takes of a trial.

    python benchmarks/throughput.py [--trials 200] [--repeats 3] [--runners processes ray] [--samplers random]

A trial sleeps 50 ms. Workers are warm, and the clock starts when the first batch is told. Trials are in a journal,
or in SQLite beside it; proposed in batches, or whenever a worker is free.

`ratio` is how much faster two workers are than one. `storage` is what the ledger's own writes (add, park, tell) take of
a trial, `proposing` what the sampler and the proposer take, and `rest` all that is left between the trials of one
worker: the dispatcher, the messages, the way to the worker and back.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from landscapes import Instant, tiny_net, tiny_space, tiny_task  # noqa: E402
from scripted import Sleeper, job  # noqa: E402

from secateur import Budget, Search, Study  # noqa: E402
from secateur.studies.outcomes.work import Job, Work  # noqa: E402
from secateur.studies.proposals.proposer import Proposer  # noqa: E402
from secateur.studies.runners.dispatch import executor
from secateur.studies.runners.executor import Executor, Listen
from secateur.studies.settings.runner import runner_of
from secateur.studies.trials.events import JobEnd, Message, TrialEnded
from secateur.studies.trials.ledger import Ledger  # noqa: E402

SLEEP_S = 0.05
BATCH = 8


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds spent in the ledger and in the proposer."""
    spent: dict[str, float] = defaultdict(float)
    with contextlib.ExitStack() as stack:
        for part, owner, names in (
            ("storage", Ledger, ("add", "park", "tell")),
            ("proposing", Proposer, ("propose", "after", "close")),
        ):
            for name in names:
                stack.enter_context(mock.patch.object(owner, name, clocked(getattr(owner, name), spent, part)))
        yield spent


def clocked(function, spent: dict[str, float], part: str):
    def call(*arguments, **named):
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[part] += time.perf_counter() - start

    return call


class Warm(Executor):
    """Another executor, whose workers have all done something before it counts as open."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self.apart, self.options = inner.apart, inner.options

    def open(self, work: Work, listen: Listen) -> None:
        self._inner.open(work, listen)
        self.slots = self._inner.slots
        waiting = set(range(self.slots))
        for slot in waiting:
            self._inner.submit(slot, job("nothing"))  # fails at once: it names no network of the space
        while waiting or any(self._inner.describe(slot).pid is None for slot in range(self.slots)):
            waiting -= {message.slot for message in self._inner.wait(1.0) if isinstance(message.said, JobEnd)}

    def submit(self, slot: int, job: Job) -> None:
        self._inner.submit(slot, job)

    def wait(self, timeout_s: float | None) -> Sequence[Message]:
        return self._inner.wait(timeout_s)

    def cancel(self, slot: int) -> None:
        self._inner.cancel(slot)

    def close(self) -> None:
        self._inner.close()


@dataclass(frozen=True)
class Row:
    """Milliseconds a trial, from one finished trial to the next."""

    total: float
    storage: float
    proposing: float

    @property
    def rest(self) -> float:
        return self.total - self.storage - self.proposing - 1e3 * SLEEP_S


def measure(folder: Path, kind: str, workers: int, storage: str, asynchronous: bool, sampler: str, trials: int) -> Row:
    model = tiny_net()
    space = tiny_space(model)
    study = Study.create(
        folder,
        model=model,
        task=tiny_task(),
        space=space,
        budget=Budget(macs=0.5),
        storage=f"journal:{folder}.journal" if storage == "journal" else None,
        search=Search(sampler=sampler, threads=1, batch=BATCH, evaluator=Sleeper(Instant(space), SLEEP_S)),
    )
    marks: dict[int, tuple[float, float, float]] = {}
    with timed() as spent:

        def note(event) -> None:
            if isinstance(event, TrialEnded):
                marks[event.done] = time.perf_counter(), spent["storage"], spent["proposing"]

        slots = {} if kind == "serial" else {"workers": workers, "cpus_per_trial": 0.5}
        runner = runner_of(kind, asynchronous=asynchronous, **slots)
        study.run(trials + BATCH, note, runner=Warm(executor(runner)))
    begin, end = marks[BATCH], marks[max(marks)]
    return Row(*(1e3 * (last - first) / trials for first, last in zip(begin, end, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runners", nargs="+", default=["processes", "ray"])
    parser.add_argument("--storages", nargs="+", default=["journal", "sqlite"])
    parser.add_argument("--samplers", nargs="+", default=["random"])
    parser.add_argument("--modes", nargs="+", default=["batches", "asynchronous"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{asked.trials} trials that sleep {1e3 * SLEEP_S:.0f} ms, batches of {BATCH}, best of {asked.repeats}")
    print(
        f"{'runner':11}{'storage':9}{'sampler':9}{'mode':14}{'1 (s)':>8}{'2 (s)':>8}{'ratio':>7}"
        f"   ms a trial, 1 worker: {'storage':>8}{'proposing':>11}{'rest':>7}"
    )
    for kind, storage, sampler, mode in itertools.product(asked.runners, asked.storages, asked.samplers, asked.modes):
        found: dict[int, list[Row]] = {1: [], 2: []}
        for _ in range(asked.repeats):
            for workers, rows in found.items():
                with tempfile.TemporaryDirectory() as made:
                    folder = Path(made) / "study"
                    rows.append(measure(folder, kind, workers, storage, mode == "asynchronous", sampler, asked.trials))
        one, two = (min(rows, key=lambda row: row.total) for rows in found.values())
        print(
            f"{kind:11}{storage:9}{sampler:9}{mode:14}{one.total * asked.trials / 1e3:>8.1f}"
            f"{two.total * asked.trials / 1e3:>8.1f}{one.total / two.total:>7.2f}"
            f"{one.storage:>33.1f}{one.proposing:>11.1f}{one.rest:>7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
