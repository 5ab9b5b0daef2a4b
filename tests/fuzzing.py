"""Damaged and hostile inputs by the thousand, and what becomes of them; `test_fuzz.py` runs some.

    python tests/fuzzing.py --files 5000 --lines 5000 --folders 1000 --exports 3000

prints a line a kind: how many were tried, accepted and refused, and how many ended otherwise: in an error that nobody
foresaw, after more than ten seconds, with code of the input run, with something written, or with other outputs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import study_file
import torch

from secateur import Budget, load
from secateur.__main__ import main
from secateur.studies.commands.output import EXPECTED
from secateur.studies.study_files import file as config

SECONDS = 10
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        2**31,
        2**63,
        -(2**64),
        10**400,
        0.5,
        -0.0,
        1e308,
        1e-320,
        float("inf"),
        float("nan"),
        "",
        " ",
    ),
    *(
        "a",
        "\x00",
        "\x1b[2J",
        "\u202e",
        "../../x",
        "/dev/zero",
        "sqlite://",
        "journal:",
        "postgresql://u:pw@h:1/x",
        "9" * 400,
    ),
    *("canary:run", "os:system", [], [[]], {}, {"a": 1}, [1, "a", None], [0] * 1000, "x" * 10000),
)


class Hang(BaseException):
    """It took too long."""


@dataclass
class Figures:
    """What became of the inputs of one kind."""

    kind: str
    tried: int = 0
    accepted: int = 0
    refused: int = 0
    bad: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        bad = ", ".join(f"{len(self.bad.get(name, ()))} {name}" for name in BAD)
        return f"{self.kind}: {self.tried} tried, {self.accepted} accepted, {self.refused} refused; {bad}"

    def note(self, what: str, case: str) -> None:
        """Count something that must not be."""
        self.bad.setdefault(what, []).append(case)


BAD = ("not foreseen", "hung", "ran code", "wrote elsewhere", "gave other outputs")


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise where the block takes too long."""

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(figures: Figures, case: str, do: Callable[[], bool]) -> None:
    """Count what becomes of one input: `do` gives whether it was accepted, or raises."""
    figures.tried += 1
    try:
        with limited():
            accepted = do()
    except Hang:
        figures.note("hung", case)
    except EXPECTED as error:
        known = str(error) and not isinstance(error, NotImplementedError | RecursionError)
        figures.refused += 1
        if not known:
            figures.note("not foreseen", f"{case}: {error!r}")
    except Exception as error:
        figures.note("not foreseen", f"{case}: {error!r}")
    else:
        figures.accepted += accepted
        figures.refused += not accepted


def command(figures: Figures, words: list[str]) -> bool:
    """Run the command line here; whether it went well."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    said = err.getvalue()
    if code not in (0, 2) or "not foreseen" in said or "Traceback" in said or (code and said.count("\n") != 1):
        figures.note("not foreseen", f"{words}: {code} {said[:300]}")
    return code == 0


# --- study files ------------------------------------------------------------------------------------------------------


def toml(value: Any) -> str:
    """A value as TOML has it, or something like it."""
    if value is None:
        return ""
    return str(value) if isinstance(value, float) else json.dumps(value).replace("null", "''").replace(": ", " = ")


def mutated_text(text: str, drawn: random.Random) -> str:
    """A study file with something else in it."""
    lines = text.splitlines()
    for _ in range(drawn.choice((1, 1, 2, 5))):
        at = drawn.randrange(len(lines))
        match drawn.randrange(6):
            case 0 | 1 if "=" in lines[at]:
                lines[at] = f"{lines[at].partition('=')[0]}= {toml(drawn.choice(ODD))}"
            case 2:
                lines[at] = drawn.choice(("", lines[at] * 2, f"{drawn.choice(lines)}", "[[study]]", "[a.b.c]"))
            case 3:
                lines.insert(at, f"{drawn.choice(('lr', 'side', 'kind', 'depth', 'x'))} = {toml(drawn.choice(ODD))}")
            case 4:
                flipped = bytearray(lines[at].encode() or b"x")
                flipped[drawn.randrange(len(flipped))] ^= 1 << drawn.randrange(8)
                lines[at] = flipped.decode("latin-1")
            case _:
                lines[at] = "[" * drawn.choice((1, 50, 5000)) + lines[at]
    return "\n".join(lines)


def study_files(count: int, place: Path, drawn: random.Random) -> Figures:
    """Study files, read, changed and written again; nothing that they name is imported."""
    figures, path = Figures("study files"), place / "mutated.toml"
    texts = [study_file.STUDY.format(module="canary"), config.read(place / "study.toml").to_toml()]
    for _ in range(count):
        text = mutated_text(drawn.choice(texts), drawn)
        path.write_text(text, encoding="utf-8", errors="replace")

        def read() -> bool:
            file = config.read(path).changed(trials=3, seed=1)
            path.write_text(file.to_toml())
            return bool(config.read(path))

        attempt(figures, text, read)
    return figures


# --- command lines ----------------------------------------------------------------------------------------------------


def words(place: Path, drawn: random.Random) -> list[str]:
    """A command line that does no work: of a study that is there, it only looks."""
    there, gone = str(place / "run"), drawn.choice((str(place / "gone"), "", "\x00", "-", "x" * 5000, "/dev/null"))
    looks = drawn.random() < 0.5
    name = drawn.choice(
        ("status", "front") if looks else ("trace", "search", "resume", "export", "prune", "dashboard", "x")
    )
    found = [name, there if looks else gone]
    for _ in range(drawn.randrange(4)):
        option = drawn.choice(
            (
                "--budget",
                "--trials",
                "--seed",
                "--json",
                "--csv",
                "--timeout",
                "--workers",
                "--runner",
                "--pick",
                "--keep-gb",
            )
            + ("--port", "--set", "--track", "--finetune-epochs", "--debugging", "--out", "--to", "--retries", "-q")
        )
        value = drawn.choice(
            (str(drawn.choice(ODD)), f"macs={drawn.choice(ODD)}", f"{drawn.choice(ODD)}={drawn.choice(ODD)}")
        )
        found += [option, *([] if option in ("--json", "--csv", "-q", "--debugging") else [value])]
    return found


def command_lines(count: int, place: Path, drawn: random.Random) -> Figures:
    """Command lines, and as many budgets."""
    figures = Figures("command lines and budgets")
    here = Path.cwd()
    (place / "empty").mkdir(exist_ok=True)
    os.chdir(place / "empty")  # an empty path means this folder, which has no study file
    try:
        for number in range(count):
            if number % 2:
                asked = [f"{drawn.choice(('macs', 'params', 'latency_ms', 'reserve', 'x', ''))}={drawn.choice(ODD)}"]
                attempt(figures, str(asked), lambda asked=asked: bool(Budget.parse(asked)))
            else:
                line = words(place, drawn)
                attempt(figures, str(line), lambda line=line: command(figures, line))
    finally:
        os.chdir(here)
    return figures


# --- folders of studies -----------------------------------------------------------------------------------------------


def odd_node(value: Any, drawn: random.Random) -> Any:
    """The JSON value with one node exchanged."""
    if isinstance(value, dict) and value and drawn.random() < 0.85:
        name = drawn.choice(list(value))
        return {**value, name: odd_node(value[name], drawn)} if drawn.random() < 0.9 else {**value, name + "x": 1}
    if isinstance(value, list) and value and drawn.random() < 0.7:
        at = drawn.randrange(len(value))
        return [*value[:at], odd_node(value[at], drawn), *value[at + 1 :]]
    return drawn.choice(ODD)


def damaged(path: Path, drawn: random.Random) -> str:
    """Damage a file; what was done."""
    kind = drawn.choice(("flip", "cut", "empty", "gone", "pipe", "folder", "device", "noise", "flip", "cut"))
    data = path.read_bytes() if path.is_file() else b"x"
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match kind:
        case "flip" | "noise":
            found = bytearray(data or b"x")
            for _ in range(1 if kind == "flip" else 50):
                found[drawn.randrange(len(found))] ^= 1 << drawn.randrange(8)
            path.write_bytes(found)
        case "cut":
            path.write_bytes(data[: drawn.randrange(len(data) + 1)])
        case "empty":
            path.write_bytes(b"")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to(drawn.choice(("/dev/zero", "/dev/random", "/nowhere", "/proc/kcore")))
    return f"{kind} of {path.name}"


def damage_study(folder: Path, drawn: random.Random) -> str:
    """Damage one thing of a study; what was done."""
    kind = drawn.randrange(4)
    if kind == 0:
        said = odd_node(json.loads((folder / "study.json").read_text()), drawn)
        (folder / "study.json").write_text(json.dumps(said))
        return f"study.json {str(said)[:300]}"
    if kind == 1:
        table = drawn.choice(("trial_user_attributes", "trial_system_attributes", "study_user_attributes"))
        with contextlib.closing(sqlite3.connect(folder / "study.db")) as data:
            rows = data.execute(f"select rowid, value_json from {table}").fetchall()
            if rows:
                number, text = drawn.choice(rows)
                value = json.dumps(odd_node(json.loads(text), drawn))
                data.execute(f"update {table} set value_json=? where rowid=?", (value, number))
                data.commit()
        return f"{table} {value if rows else ''}"[:300]
    names = (
        "study.json",
        "study.db",
        "study.toml",
        "driver.json",
        "slots.json",
        "study.db-wal",
        "base.safetensors",
        "report.html",
    )
    return damaged(folder / drawn.choice(names), drawn)


SURE = ("study.json", "slots.json")  # what a study can't be read without, and what only says what runs


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """What is in a folder."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def study_folders(count: int, place: Path, drawn: random.Random) -> Figures:
    """Folders of studies, looked at in five ways; the first two are sure to be refused and to be read."""
    figures, folder = Figures("study folders, five commands each"), place / "damaged"
    page = place / "pages" / "page.html"
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place / "run", folder)
        if number < len(SURE):
            (folder / SURE[number]).write_bytes(b"")
            case = f"empty {SURE[number]}"
        else:
            case = damage_study(folder, drawn)
        before = snapshot(folder)
        report = ["report", str(folder), "--to", str(page), "--quiet"]
        for line in (["status"], ["status", "--json"], ["front"], ["front", "--csv"], report):
            line = line if line is report else [line[0], str(folder), *line[1:]]
            attempt(figures, f"{line}: {case}", lambda line=line: command(figures, line))
        if snapshot(folder) != before:
            figures.note("wrote elsewhere", case)
    return figures


# --- exports ----------------------------------------------------------------------------------------------------------


def exports(count: int, place: Path, drawn: random.Random) -> Figures:
    """Exported networks, loaded in both ways; without digests in one of three, and then only what they do counts."""
    figures, folder = Figures("exports, two ways of loading each"), place / "spoiled"
    (whole,) = (path for path in (place / "out").iterdir() if path.is_dir())
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ways: list[Callable[[], Any]] = [lambda: load(folder), lambda: load(folder, model=network(place))]
    shutil.copytree(whole, folder)
    expected = [way()(images) for way in ways]
    for _ in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        said = json.loads((folder / "config.json").read_text())
        held = drawn.random() < 0.67
        if not held:
            (folder / "config.json").write_text(
                json.dumps({k: v for k, v in said.items() if k not in ("files", "digest")})
            )
        if drawn.random() < 0.4:
            now = odd_node(json.loads((folder / "config.json").read_text()), drawn)
            (folder / "config.json").write_text(json.dumps(now))
            case = f"config.json {str(now)[:300]}"
        else:
            names = [name for name in ("model.pt2", "model.safetensors", "config.json") if (folder / name).exists()]
            case = damaged(folder / drawn.choice(names), drawn)
        for way, right in zip(ways, expected, strict=True):

            def loaded(way: Callable[[], Any] = way, right: Any = right, case: str = case, held: bool = held) -> bool:
                outputs = way()(images)
                if held and not torch.equal(outputs, right):
                    figures.note("gave other outputs", case)
                return True

            attempt(figures, f"{'with' if held else 'without'} digests, {case}", loaded)
    return figures


def network(place: Path) -> torch.nn.Module:
    """The full network, by the code of the folder that is ours."""
    scope: dict[str, Any] = {"__name__": "ours"}
    exec(compile(study_file.NETWORK, "ours", "exec"), scope)
    return scope["Tiny"]().eval()


# --- all of it --------------------------------------------------------------------------------------------------------


def prepared(place: Path) -> Path:
    """A folder with a study file, a finished study, an export, and a canary: code that leaves a mark when it is run."""
    study_file.write(place, "fuzzed_tiny")
    text = (place / "study.toml").read_text().replace("base_epochs = 2", "base_epochs = 0").replace("[8, 6]", "[8]")
    (place / "study.toml").write_text(text.replace("trials = 6", "trials = 3"))
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["search", str(place / "study.toml"), "--out", str(place / "run"), "--quiet"]) == 0
        words = ["export", str(place / "run"), "--to", str(place / "out"), "--finetune-epochs", "0", "--quiet"]
        assert main(words) == 0
    for name in ("canary", "fuzzed_tiny"):
        (place / f"{name}.py").write_text(f"open({str(place / 'CODE_RAN')!r}, 'w')\n")
        sys.modules.pop(name, None)
    (place / "run" / "canary.py").write_text((place / "canary.py").read_text())
    return place


KINDS = {"files": study_files, "lines": command_lines, "folders": study_folders, "exports": exports}


def fuzz(place: Path, counts: dict[str, int], seed: int) -> list[Figures]:
    """What becomes of so many inputs of each kind, in a folder that is prepared."""
    found = []
    for kind, count in counts.items():
        figures = KINDS[kind](count, place, random.Random(f"{seed} {kind}"))
        if (place / "CODE_RAN").exists():
            figures.note("ran code", "the canary")
            (place / "CODE_RAN").unlink()
        found.append(figures)
    return found


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--files", type=int, default=0, help="study files")
    options.add_argument("--lines", type=int, default=0, help="command lines and budgets")
    options.add_argument("--folders", type=int, default=0, help="folders of studies, five commands each")
    options.add_argument("--exports", type=int, default=0, help="exports, two ways of loading each")
    options.add_argument("--seed", type=int, default=0)
    asked = vars(options.parse_args())
    drawn_from = asked.pop("seed")
    logging.getLogger("secateur").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as made:
        for figures in fuzz(prepared(Path(made)), {name: count for name, count in asked.items() if count}, drawn_from):
            print(figures, flush=True)
            for what, cases in figures.bad.items():
                for case in cases[:20]:
                    print(f"    {what}: {case[:600]}", flush=True)
