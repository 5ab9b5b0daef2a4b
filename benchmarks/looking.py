"""What it costs to look at a study of thousands of trials: processor seconds of `secateur status` and `front`.

    python benchmarks/looking.py [--trials 5000] [--repeats 3]

The study is in an SQLite file, has 16 axes, and its trials hold what `polynomial` notes on them; they are written at
once, by random candidates. Each command runs in this process after it has run once on a study of ten trials, so that
imports do not count. Beside them, how long Optuna itself takes to read the rows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from datetime import UTC
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.distributions import distribution_to_json
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from landscapes import Instant, tiny_task  # noqa: E402

from secateur import Budget, Search, Space, Study  # noqa: E402
from secateur.__main__ import main as secateur  # noqa: E402
from secateur.search import NOTE  # noqa: E402
from secateur.spaces import Candidate  # noqa: E402
from secateur.studies.study_files.networks import resnet20  # noqa: E402
from secateur.studies.trials.folder import DATABASE  # noqa: E402
from secateur.studies.trials.ledger import Ledger, make_ledger  # noqa: E402
from secateur.studies.trials.storage import connect, disconnect, sqlite_url  # noqa: E402
from secateur.studies.trials.trial import Scored, Trial  # noqa: E402

OBJECTIVES = ("error", "macs")
MODEL = {"kind": "polynomial", "degree": 2, "coefficients": 191, "transform": "log"} | {
    "r2": 0.9, "rmse": 0.01, "mean_rmse": 0.05, "process": 0.5,
}  # fmt: skip


def fill(folder: Path, space: Space, count: int) -> None:
    """Add told trials to a study that has none."""
    memory = InMemoryStorage()
    make_ledger(memory, "study", OBJECTIVES, {"macs": 0.5})
    ledger, evaluate = Ledger(memory, "study", space.axes, OBJECTIVES), Instant(space)
    limits, random = Budget(macs=0.5).limits(space.full_costs, None), np.random.default_rng(0)
    while len(ledger.trials) < count:
        wish = Candidate(int(random.choice(axis.choices)) for axis in space.axes)
        candidate = space.repair(wish, limits)
        costs = {name: float(column[0]) for name, column in space.cost_table([candidate]).items()}
        error = evaluate(None, candidate=candidate, resolution=None, fidelity="short", seed=0).error
        number = len(ledger.trials)
        predicted = {"error": error * random.uniform(0.9, 1.1), "std": 0.01}
        trial = ledger.add(
            Trial(
                number=number, candidate=candidate, asked=wish, source="sampler", ranking="l2:0", weights="inherited",
                fidelity="short", costs=costs,
                memory={f"{NOTE}predicted": predicted, f"{NOTE}model": MODEL | {"trials": number}},
            )
        )  # fmt: skip
        outcome = Scored(error=error, error_std=0.01, seconds=1.0, attributes={"error_recalibrated": error})
        ledger.tell(ledger.park(trial, outcome), limits, trial.memory)
    write(folder / DATABASE, memory.get_all_trials(ledger.study_id, deepcopy=False))


def write(file: Path, rows: list[FrozenTrial]) -> None:
    """Add rows to the one study in an SQLite file, as Optuna would, which takes minutes for thousands."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        (study,) = connection.execute("SELECT study_id FROM studies").fetchone()
        for row in rows:
            moments = [
                str(moment.astimezone(UTC).replace(tzinfo=None))
                for moment in (row.datetime_start, row.datetime_complete)
            ]
            key = connection.execute(
                "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete) VALUES (?,?,?,?,?)",
                (row.number, study, row.state.name, *moments),
            ).lastrowid
            connection.executemany(
                "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
                [
                    (key, name, kind.to_internal_repr(row.params[name]), distribution_to_json(kind))
                    for name, kind in row.distributions.items()
                ],
            )
            connection.executemany(
                "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, ?, ?, 'FINITE')",
                [(key, place, value) for place, value in enumerate(row.values)],
            )
            for kind, said in (("user", row.user_attrs), ("system", row.system_attrs)):
                connection.executemany(
                    f"INSERT INTO trial_{kind}_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
                    [(key, name, json.dumps(value)) for name, value in said.items()],
                )


def seconds(command: str, folder: Path) -> float:
    """Of the processor, in the command."""
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        code = secateur([command, str(folder)])
    assert code == 0, f"secateur {command} {folder} ended with {code}"
    return time.process_time() - start


def by_optuna(folder: Path) -> float:
    """Of the processor, for Optuna to read all rows."""
    storage = connect(sqlite_url(folder / DATABASE))
    start = time.process_time()
    storage.get_all_trials(storage.get_all_studies()[0]._study_id, deepcopy=False)
    taken = time.process_time() - start
    disconnect(storage)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    model = resnet20(classes=4)
    space = Space.trace(model, torch.zeros(1, 1, 28, 28), resolutions=(28, 24, 20, 16), divisor=2)
    with tempfile.TemporaryDirectory() as made:
        small, large = Path(made) / "small", Path(made) / "large"
        Study.create(
            small,
            model=model,
            task=tiny_task(),
            space=space,
            budget=Budget(macs=0.5),
            search=Search(sampler="random", threads=1, evaluator=Instant(space)),
        )
        shutil.copytree(small, large)
        fill(small, space, 10)
        fill(large, space, asked.trials)
        print(f"{asked.trials} trials, {len(space.axes)} axes; processor seconds, median of {asked.repeats}")
        for command in ("status", "front"):
            seconds(command, small)
            print(f"{command}: {statistics.median(seconds(command, large) for _ in range(asked.repeats)):.2f}")
        print(f"rows read by Optuna: {statistics.median(by_optuna(large) for _ in range(asked.repeats)):.2f}")


if __name__ == "__main__":
    main()
