"""What the commands cost on a study of thousands of trials, beside one of ten: processor seconds and peak memory.

    python benchmarks/looking.py [--trials 5000] [--repeats 3]

The study is in an SQLite file, has 16 axes, and its trials hold what `polynomial` notes on them; they are written at
once, by random candidates and a formula. Each command is a process of its own, imports included; `resume` adds one
trial, to a copy each time, and `export` writes one network without training it. It prints the table of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.distributions import distribution_to_json
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from landscapes import Instant  # noqa: E402

from secateur import Budget, Space  # noqa: E402
from secateur.search import NOTE  # noqa: E402
from secateur.spaces import Candidate  # noqa: E402
from secateur.studies import launch  # noqa: E402
from secateur.studies.study_files.file import read  # noqa: E402
from secateur.studies.trials.folder import DATABASE, read_study_json  # noqa: E402
from secateur.studies.trials.ledger import Ledger, make_ledger  # noqa: E402
from secateur.studies.trials.trial import Scored, Trial  # noqa: E402

STUDY = """
[model]
factory = "secateur.studies.study_files.networks:resnet20"
arguments = { classes = 4 }
expect_error = "untrained"

[data]
reader = "npz"
path = "images.npz"
validation = 20
test = 20
batch = 16

[space]
resolutions = [28, 24, 20, 16]
divisor = 2

[budget]
macs = 0.5

[training]
recalibration_images = 32

[study]
trials = 10
threads = 1
"""
OBJECTIVES = ("error", "macs")
MODEL = {"kind": "polynomial", "degree": 2, "coefficients": 191, "transform": "log"} | {
    "r2": 0.9, "rmse": 0.01, "mean_rmse": 0.05, "process": 0.5,
}  # fmt: skip


def fill(folder: Path, space: Space, count: int) -> None:
    """Add told trials to a study that has none."""
    memory = InMemoryStorage()
    make_ledger(memory, "study", OBJECTIVES, {"macs": 0.5})
    ledger, evaluate = Ledger(memory, "study", space.axes, OBJECTIVES), Instant(space)
    ranking = read_study_json(folder)["fingerprint"]["ranking"]
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
                number=number, candidate=candidate, asked=wish, source="sampler", ranking=ranking, weights="inherited",
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


# A process says itself how much memory it took: what `wait4` says of it is no less than what this one has.
PEAK = "print([line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line][0], file=sys.stderr)"


def words(*given: object) -> list[str]:
    """The command line."""
    run = f"import sys; from secateur.__main__ import main; code = main(); {PEAK}; sys.exit(code)"
    return [sys.executable, "-P", "-c", run, *map(str, given)]


def asks(url: str) -> None:
    """Ask a dashboard for all that its page of a study shows."""
    with urllib.request.urlopen(url.replace("/dashboard/studies/", "/api/studies/")) as answer:
        assert len(json.loads(answer.read())["trials"]) >= 10


def cost(command: list[str], then: Callable[[str], None] | None = None) -> tuple[float, float]:
    """Processor seconds and peak megabytes of a process; one that goes on is stopped after its first line is used."""
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, preexec_fn=heard) as process,
    ):
        assert process.stdout is not None
        if then is None:
            process.stdout.read()
        else:
            then(process.stdout.readline().strip())
            process.send_signal(signal.SIGINT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        errors = said.read()
        assert process.returncode == 0, f"{command} ended with {process.returncode}: {errors}"
    return used.ru_utime + used.ru_stime, int(errors.split()[-1]) * 1024 / 1e6


def heard() -> None:
    """Undo what a shell does to programs that it starts in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def costs(folder: Path, count: int, only: list[str]) -> dict[str, tuple[float, float]]:
    """What each command costs on the study in a folder, once."""
    python, made = [sys.executable, "-P", "-c"], folder.parent / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    shutil.copytree(folder, made / "copy")
    look = f"from secateur import Study; import sys; print(len(Study.look({str(folder)!r}).trials())); {PEAK}"
    opened = "from secateur.studies.launch import open_study; import sys; "
    opened += f"print(len(open_study({str(folder)!r}).trials())); {PEAK}"
    again = made / "copy"
    asked: dict[str, Callable[[], tuple[float, float]]] = {
        "`status`": lambda: cost(words("status", folder)),
        "`front`": lambda: cost(words("front", folder)),
        "`report`": lambda: cost(words("report", folder, "--to", made / "report.html", "--quiet")),
        "`dashboard`, one page": lambda: cost(words("dashboard", folder, "--port", 0), asks),
        "`Study.look`, `trials()`": lambda: cost([*python, look]),
        "a study opened, `trials()`": lambda: cost([*python, opened]),
        "`resume`, one more trial": lambda: cost(words("resume", again, "--trials", count + 1, "--quiet")),
        "`export`, one network": lambda: cost(
            words("export", folder, "--to", made / "out", "--finetune-epochs", 0, "--quiet")
        ),
    }
    found = {}
    for name, measure in asked.items():
        if any(one in name for one in only):
            found[name] = measure()
            print(
                f"{count} trials, {name}: {found[name][0]:.1f} s, {found[name][1]:.0f} MB", file=sys.stderr, flush=True
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[""], help="commands, by parts of their names in the table")
    parser.add_argument("--keep", type=Path, help="where the studies are made, or are from an earlier call")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as made:
        place, random = asked.keep or Path(made), np.random.default_rng(0)
        place.mkdir(exist_ok=True)
        (place / "study.toml").write_text(STUDY)
        labels = np.arange(120) % 4
        images = random.integers(0, 200, (120, 1, 28, 28)) + 10 * labels[:, None, None, None]
        np.savez(place / "images.npz", images=images.astype(np.uint8), labels=labels)
        file, found = read(place / "study.toml"), {}
        space = launch.trace(file)
        for count in (10, asked.trials):
            folder = place / f"study-{count}"
            if not folder.exists():
                launch.create(file, folder, None)
                fill(folder, space, count)
            runs = [costs(folder, count, asked.only) for _ in range(asked.repeats)]
            found[count] = {
                name: [statistics.median(run[name][kind] for run in runs) for kind in (0, 1)] for name in runs[0]
            }
    print(f"| {len(space.axes)} axes | 10 trials: s | MB | {asked.trials:,} trials: s | MB |")
    print("|---|---:|---:|---:|---:|")
    for name, (seconds, megabytes) in found[10].items():
        more = found[asked.trials][name]
        print(f"| {name} | {seconds:.1f} | {megabytes:,.0f} | {more[0]:.1f} | {more[1]:,.0f} |")


if __name__ == "__main__":
    main()
