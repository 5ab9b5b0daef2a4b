"""Commands that are killed again and again, and called again: what they make is what an undisturbed one makes.

    python tests/kills.py --kills 12 [--kinds serial ray ...]

Each kind is a command on a tiny study. A process that has all modules loaded forks one that runs the command, and kills
it at a moment drawn evenly from as long as the command takes; then the same, or `resume`, until it comes through. A
line a kind says how many kills struck, in how many rounds, and after how long no process of a killed command was left;
what differs, or is left, ends it with an AssertionError.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import study_file
import torch
from chaos import MARK, left
from killing import table
from safetensors.torch import load_file

from secateur import Study
from secateur.__main__ import main as secateur
from secateur.studies import launch

IN_A_ROW = 4  # kills in one round, after which the command is let through
GONE_S = 120  # on a busy machine; a worker that is still importing sees only then that its driver is gone


@dataclass(frozen=True)
class Kind:
    """A command that is killed: its words, those that go on, and what is read of what it made."""

    words: Callable[[Path, Path], list[str]]
    read: Callable[[Path], object]
    again: Callable[[Path, Path], list[str]] | None = None
    changes: tuple[tuple[str, str], ...] = ()


def studied(out: Path) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """The trials of a study, and the weights it began with."""
    study: Study = launch.open_study(out)
    return table(study), load_file(out / "base.safetensors")


def networks(out: Path) -> dict[str, torch.Tensor]:
    """The weights of all exported networks."""
    found = {}
    for path in sorted(out.rglob("model.safetensors")):
        place = path.parent.relative_to(out)  # of `prune` the folder itself, whatever it is called
        found |= {f"{place} {name}": tensor for name, tensor in load_file(path).items()}
    assert found
    return found


def page(out: Path) -> str:
    """How a page ends: it is whole."""
    return out.read_text()[-20:].strip()


def search(*options: str, **changes: str) -> Kind:
    """A search, by options of the command line and changes of the study file."""

    def words(place: Path, out: Path) -> list[str]:
        return ["search", str(place / "study.toml"), "--out", str(out), *options]

    return Kind(words, studied, lambda place, out: ["resume", str(out), *options], tuple(changes.items()))


def on(runner: str) -> Kind:
    """A search by two workers."""
    return search("--runner", runner, "--workers", "2", trials="12", base_epochs="0")


KINDS = {
    "serial": search(trials="12", base_epochs="0"),
    "base training": search(trials="1", base_epochs="12"),
    "export": Kind(
        lambda place, out: ["export", str(place / "run"), "--to", str(out), "--pick", "all"],
        networks,
        changes=(("long_epochs", "4"),),
    ),
    "prune": Kind(
        lambda place, out: ["prune", str(place / "study.toml"), "--method", "resrep", "--out", str(out)],
        networks,
        changes=(("long_epochs", "4"), ("pruning_epochs", "4")),
    ),
    "report": Kind(lambda place, out: ["report", str(place / "run"), "--to", str(out) + ".html"], page),
    "processes": on("processes"),
    "ray": on("ray"),
    "tune": on("tune"),
}


def prepare(place: Path, kind: Kind) -> None:
    """A study file for a kind, and a finished study."""
    place.mkdir()
    study_file.write(place, f"killed_{place.name.replace(' ', '_')}")
    lines = (place / "study.toml").read_text().replace("trials = 6", "trials = 4").splitlines()
    for name, value in kind.changes:
        kept = [line for line in lines if not line.startswith(f"{name} = ")]
        at = kept.index("[study]" if name == "trials" else "[training]")
        lines = [*kept[: at + 1], f"{name} = {value}", *kept[at + 1 :]]
    (place / "study.toml").write_text("\n".join(lines))
    assert secateur(["search", str(place / "study.toml"), "--out", str(place / "run"), "--trials", "3", "--quiet"]) == 0


def forked(words: list[str], mark: Path, log: Path) -> int:
    """The number of a process that runs a command."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.environ[MARK] = str(mark)  # seen in what it starts
    with open(log, "w", buffering=1) as sys.stderr:
        sys.stdout = sys.stderr
        os._exit(secateur([*words, "--quiet"]))


def ended(pid: int, within_s: float) -> int | None:
    """How a process ended, if it did so in time."""
    end = time.monotonic() + within_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def gone(mark: Path, session: int) -> float:
    """Seconds until no process of a killed command is left."""
    start = time.monotonic()
    while others := {*left(mark), *members(session)}:
        assert time.monotonic() < start + GONE_S, f"left after {GONE_S} s: {others}"
        time.sleep(0.1)
    return time.monotonic() - start


def members(session: int) -> list[int]:
    """The processes of a session: those of Ray hide the environment that they were given."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(path.parent.name))
    return found


def strike(name: str, place: Path, *, kills: int, seed: int = 0) -> str:
    """Kill a kind of command so often, in a folder that is not there yet; what to say of it.

    Raises:
        AssertionError: something was lost, left or changed.
    """
    kind, drawn, struck, rounds, longest = KINDS[name], random.Random(f"{seed} {name}"), 0, 0, 0.0
    prepare(place, kind)
    start = time.monotonic()
    code = ended(forked(kind.words(place, place / "straight"), place / "straight", place / "said"), 600)
    takes = time.monotonic() - start
    assert code == 0, (place / "said").read_text()
    right = _read(kind, place / "straight")
    while struck < kills:
        out, rounds, before = place / f"round-{rounds}", rounds + 1, struck
        while True:
            may = struck < kills and struck - before < IN_A_ROW
            begun = kind.again is not None and ((out / "study.json").exists() or _part(out, "study.toml").exists())
            pid = forked((kind.again if begun and kind.again else kind.words)(place, out), out, place / "said")
            code = ended(pid, drawn.uniform(0, takes) if may else 600)
            if code is None:
                os.kill(pid, signal.SIGKILL)
                code = ended(pid, 60)
            if code != -signal.SIGKILL:
                break
            struck += 1
            longest = max(longest, gone(out, pid))
        assert code == 0, (place / "said").read_text()
        same(right, _read(kind, out))
        assert not _part(out).exists() and not [one for one in place.rglob("*") if ".partial-" in one.name]
        shutil.rmtree(out, ignore_errors=True)
    return f"{name}: {struck} kills in {rounds} rounds, all equal; processes gone within {longest:.1f} s"


def _part(out: Path, *within: str) -> Path:
    return out.with_name(f"{out.name}.part").joinpath(*within)


def _read(kind: Kind, out: Path) -> object:
    return kind.read(Path(f"{out}.html") if kind.read is page else out)


def same(right: object, found: object) -> None:
    """Refuse what is not equal."""
    if isinstance(right, tuple):
        assert isinstance(found, tuple)
        for one, other in zip(right, found, strict=True):
            same(one, other)
    elif isinstance(right, pd.DataFrame):
        pd.testing.assert_frame_equal(right, found)
    elif isinstance(right, dict):
        assert right.keys() == found.keys() and all(torch.equal(right[name], found[name]) for name in right)
    else:
        assert right == found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12, help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        for name in asked.kinds:
            print(strike(name, Path(made) / name, kills=asked.kills, seed=asked.seed), flush=True)


if __name__ == "__main__":
    main()
