"""The loop's own time a trial, beside a bare Optuna ask/tell on the same storage with the same parameters.

    python benchmarks/loop.py [--trials 200] [--repeats 3] [--samplers random tpe]

Both run with an evaluator that answers at once. Bare Optuna does nothing but ask, suggest every axis, tell two values;
the study besides repairs, refuses repetitions, adds each trial atomically, keeps costs and proposals, constraints, and
proposes in batches that survive a kill. Both use an SQLite file with a write-ahead log on the same disk, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import optuna
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from landscapes import Instant, tiny_net, tiny_space, tiny_task  # noqa: E402

from secateur import Budget, Search, Space, Study  # noqa: E402
from secateur.search import SAMPLERS, Problem  # noqa: E402
from secateur.studies.study_files.networks import resnet20  # noqa: E402
from secateur.studies.trials.storage import connect, make_sqlite, sqlite_url  # noqa: E402


def ours(model: torch.nn.Module, space: Space, sampler: str, trials: int, folder: Path) -> float:
    study = Study.create(
        folder / "study",
        model=model,
        task=tiny_task(),
        space=space,
        budget=Budget(macs=0.5),
        search=Search(sampler=sampler, threads=1, evaluator=Instant(space)),
    )
    start = time.perf_counter()
    study.run(trials)
    return (time.perf_counter() - start) / trials


def bare(space: Space, sampler: str, trials: int, folder: Path) -> float:
    make_sqlite(folder / "bare.db")
    study = optuna.create_study(
        storage=connect(sqlite_url(folder / "bare.db")),
        directions=["minimize", "minimize"],
        sampler=SAMPLERS[sampler](0, Problem(space=space)),
        pruner=optuna.pruners.NopPruner(),
    )
    evaluate = Instant(space)
    start = time.perf_counter()
    for _ in range(trials):
        trial = study.ask()
        chosen = [axis.choices[trial.suggest_int(axis.name, 0, len(axis.choices) - 1)] for axis in space.axes]
        result = evaluate(None, candidate=chosen, resolution=None, fidelity="short", seed=0)
        study.tell(trial, [result.error, float(sum(chosen))], state=optuna.trial.TrialState.COMPLETE)
    return (time.perf_counter() - start) / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe", "nsga2"], choices=list(SAMPLERS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    small, big = tiny_net(), resnet20()
    spaces = {
        "tiny": (small, tiny_space(small)),
        "resnet20": (big, Space.trace(big, torch.zeros(1, 1, 28, 28), resolutions=(28, 24, 20, 16), divisor=2)),
    }
    print(f"{asked.trials} trials, median of {asked.repeats}, one thread; ms a trial")
    print(f"{'network':10}{'axes':>5}  {'sampler':8}{'study':>9}{'optuna':>9}{'ratio':>7}")
    for name, (model, space) in spaces.items():
        for sampler in asked.samplers:
            times: list[tuple[float, float]] = []
            for _ in range(asked.repeats):
                with tempfile.TemporaryDirectory() as made:
                    folder = Path(made)
                    times.append(
                        (ours(model, space, sampler, asked.trials, folder), bare(space, sampler, asked.trials, folder))
                    )
            mine, theirs = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
            row = f"{name:10}{len(space.axes):>5}  {sampler:8}{mine:>9.1f}{theirs:>9.1f}{mine / theirs:>7.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
