"""What the command line writes: clean JSON, 80 columns, colours on terminals, help that helps."""

import io
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import sleeper
import torch
import typer
from study_file import write
from torch import nn

from secateur import Budget, Space
from secateur.__main__ import main
from secateur.spaces.describe import describe
from secateur.studies import launch
from secateur.studies.commands.app import app
from secateur.studies.study_files import file as config
from secateur.studies.trials.folder import read_study_json
from secateur.studies.trials.looking import Glimpse
from secateur.studies.trials.storage import disconnect
from secateur.studies.views.view import View

NOISE = """
import os
print("imported")


class Loud(Tiny):
    def __init__(self):
        super().__init__()
        print("made")

    def forward(self, x):
        print("called")
        os.write(1, b"from below")
        return super().forward(x)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a study file whose network prints."""
    made = write(tmp_path_factory.mktemp("output"), "cli_loud")
    with open(made / "cli_loud.py", "a") as module:
        module.write(NOISE)
    study = made / "study.toml"
    study.write_text(study.read_text().replace("cli_loud:Tiny", "cli_loud:Loud"))
    return made


@pytest.fixture(scope="module")
def run(folder):
    assert main(["search", str(folder / "study.toml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_is_all_there_is_on_standard_output(folder, run, tmp_path, capfd):
    """Whatever the network prints, by Python or below it."""
    study, keys = str(folder / "study.toml"), {}
    for name, arguments in {
        "trace": ["trace", study],
        "search": ["search", study, "--out", str(tmp_path / "run"), "--trials", "2"],
        "resume": ["resume", str(tmp_path / "run"), "--trials", "3"],
        "status": ["status", str(run)],
        "front": ["front", str(run)],
        "export": ["export", str(run), "--to", str(tmp_path / "out")],
        "prune": ["prune", str(run), "--method", "l1", "--out", str(tmp_path / "l1")],
    }.items():
        assert main([*arguments, "--json"]) == 0
        said = capfd.readouterr()
        found = json.loads(said.out)
        keys[name] = set(found[0] if isinstance(found, list) else found)
        if name not in ("status", "front"):
            assert "called" in said.err and "from below" in said.err, "it is not lost"
    assert keys["search"] == keys["resume"] == keys["front"] == {"status", "front"}
    assert {"axes", "groups", "stages", "resolutions", "frozen", "smallest", "full", "within", "budget"} <= keys[
        "trace"
    ]
    exported = {"folder", "format", "format_version", "candidate", "key", "costs", "full_costs", "errors", "verified"}
    assert exported | {"trial"} <= keys["export"] and exported | {"method", "settings"} <= keys["prune"]


@pytest.mark.slow
def test_json_is_all_there_is_when_workers_print(folder, tmp_path, capfd):
    options = ["--runner", "processes", "--workers", "1", "--trials", "2", "--json"]
    assert main(["search", str(folder / "study.toml"), "--out", str(tmp_path / "run"), *options]) == 0
    assert json.loads(capfd.readouterr().out)["status"]["told"] == 2


def test_standard_output_is_given_back(run, capfd):
    assert main(["resume", str(run), "--trials", "6", "--quiet"]) == 0
    os.write(1, b"below\n")
    print("above")
    said = capfd.readouterr().out
    assert said.endswith("below\nabove\n") and re.match("trial +error %", said)


# --- 80 columns, colours ----------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """More than a hundred layers of long names, no two of one width."""

    def __init__(self, count, name):
        super().__init__()
        self.names = [f"{name}{number}" for number in range(count)]
        widths = [3, *(8 + 4 * number for number in range(count))]
        for number, one in enumerate(self.names):
            self.add_module(one, nn.Conv2d(widths[number], widths[number + 1], 1))
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x):
        for name in self.names:
            x = torch.relu(getattr(self, name)(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("name", ["a_rather_long_name_of_a_layer_that_never_seems_to_end_at_all_", "c"])
def test_a_trace_of_many_layers_is_readable(name):
    space = Space.trace(Deep(120, name).eval(), torch.zeros(1, 3, 8, 8), divisor=1)
    text = describe(space, Budget(macs=0.123456789, params=12345678901, peak_bytes="33.3333%", latency_ms=1.23456789))
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines), max(lines, key=len)
    assert len(lines) < 160 and "120 groups of channels" in text


@pytest.fixture(scope="module")
def improved(tmp_path_factory):
    """The folder of a study whose errors fell, and whose front grew."""
    study = sleeper.create(tmp_path_factory.mktemp("improved") / "s", 0.0)
    study.run(16)
    found = study.status().history
    assert len(set(found["best_error"]) - {None}) > 1 and len(set(found["hypervolume"]) - {None}) > 1
    return study.path


def test_colours_and_sparklines_on_a_terminal(improved, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = {}
    for wanted in (True, False):
        for command in ("front", "status"):
            monkeypatch.setattr("sys.stdout", terminal := Terminal())
            assert main([command, str(improved)]) == 0
            said = terminal.getvalue()
            assert ("\x1b[1m" in said) == wanted
            plain.setdefault(command, set()).add(re.sub(r"\x1b\[\d+m", "", said))
        monkeypatch.setenv("NO_COLOR", "1")
    assert all(len(texts) == 1 for texts in plain.values()), "colours change nothing else"
    assert any(block in next(iter(plain["status"])) for block in "▁▂▃▄▅▆▇█")


def test_a_terminal_without_unicode_gets_no_sparkline(improved, monkeypatch):
    class Ascii(io.StringIO):
        encoding = "ascii"

    monkeypatch.setattr("sys.stdout", narrow := Ascii())
    assert main(["status", str(improved)]) == 0
    assert narrow.getvalue().isascii() and "best so far" in narrow.getvalue()


def test_looking_at_a_study_needs_no_pytorch(run):
    """Nor what else takes seconds to import."""
    code = (
        "import sys\nfrom secateur.__main__ import main\n"
        f"assert main(['status', {str(run)!r}]) == 0\n"
        "print(sorted({'torch', 'sklearn', 'scipy', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and done.stdout.startswith("trials ")


# --- help -------------------------------------------------------------------------------------------------------------


COMMANDS = sorted(typer.main.get_command(app).commands)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_and_its_examples_are_commands(command, capsys):
    assert main([*([command] if command else []), "--help"]) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines()), said
    assert "..." not in said.replace("[ARGS]...", ""), "a sentence is cut"
    examples = said.partition("Examples:\n")[2].strip().splitlines()
    assert len(examples) >= 2
    known = typer.main.get_command(app).commands
    for line in examples:
        name, *words = shlex.split(re.split(r"  +|>", line.strip().removeprefix("secateur "))[0])
        assert name == command or command is None
        options = {option for one in known[name].params for option in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options, line
    if command is None:
        assert all(re.search(rf"^  {name} +\w", said, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("command", ["search", "resume"])
def test_the_options_of_a_runner_have_the_texts_and_bounds_of_its_settings(command, capsys):
    assert main([command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--retries N How often a trial whose worker died is tried again. [x>=0]" in said
    assert '--scheduler NAME Of Ray Tune, which ends trials early: "asha" or "median",' in said
    for option in ("--runner", "--workers", "--gpus-per-trial", "--address", "--timeout", "--async / --batches"):
        assert re.search(rf"{option}( [A-Z]+)? [A-Z]\w+ ", said), option


# --- settings of a run that the study remembers -----------------------------------------------------------------------


def test_trackers_and_the_room_of_a_run_are_remembered(folder, tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    out = tmp_path / "run"
    options = ["--track", "tensorboard", "--keep-gb", "2.5", "--trials", "2", "--quiet"]
    assert main(["search", str(folder / "study.toml"), "--out", str(out), *options]) == 0
    kept = config.read(out).study
    assert (kept.track, kept.keep_gb) == (("tensorboard",), 2.5)
    files = len(list((out / "tensorboard").iterdir()))
    assert files == 1
    assert main(["resume", str(out), "--trials", "3", "--quiet"]) == 0
    assert len(list((out / "tensorboard").iterdir())) == 2, "it goes on there without being told"
    assert main(["resume", str(out), "--trials", "4", "--track", "none", "--keep-gb", "3", "--quiet"]) == 0
    assert len(list((out / "tensorboard").iterdir())) == 2
    assert (config.read(out).study.track, config.read(out).study.keep_gb) == ((), 3.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--keep-gb 0", "keep_gb=0.0: expected more than 0"),
        ("--keep-gb nan", "keep_gb=nan: expected a finite number"),
        ("--keep-gb inf", "keep_gb=inf: expected a finite number"),
        ("--keep-gb lots", "Invalid value for '--keep-gb'"),
        ("--scheduler asha", "scheduler='asha' with kind='serial'; expected kind='tune'"),
        ("--runner tune --scheduler asah", "scheduler='asah': expected one of asha, median"),
        ("--track wandb", "wandb is not installed: pip install wandb"),
    ],
)
def test_bad_settings_of_a_run_leave_nothing(folder, tmp_path, capsys, monkeypatch, options, said):
    monkeypatch.setattr("secateur.studies.views.trackers.find_spec", lambda name: None)
    out = tmp_path / "run"
    assert main(["search", str(folder / "study.toml"), "--out", str(out), "--quiet", *options.split()]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("secateur: error: ") and said in error
    assert not list(tmp_path.iterdir())


def test_a_database_server_that_is_away_leaves_nothing(folder, tmp_path):
    file = config.read(folder / "study.toml")
    away = "postgresql://nobody@127.0.0.1:1/trials"  # nothing listens at port 1
    file = file.model_copy(update={"study": replace(file.study, storage=away)})
    with pytest.raises(ValueError, match="storage 'postgresql://nobody@127.0.0.1:1/trials' can't be opened"):
        launch.search(file, tmp_path / "run")
    assert not list(tmp_path.iterdir())


# --- studies that can't be written ------------------------------------------------------------------------------------


def _as_nobody(folder, answer):
    os.setuid(65534)
    try:
        seen = View(folder)
        seen.refresh()
        answer.put((seen.status().told, len(seen.front()), sorted(os.listdir(folder))))
    except Exception as error:
        answer.put(repr(error))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become someone else")
@pytest.mark.parametrize("storage", [None, "journal:trials.log"])
@pytest.mark.parametrize("killed", [False, True])
def test_an_archived_study_can_be_looked_at(storage, killed):
    """By somebody who may not write there; a killed search left part of its trials in SQLite's log."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        study = sleeper.create(Path(made) / "live", 0.0, storage=storage)
        study.run(6)
        if killed:  # while the connection is open, the log is there
            archive = shutil.copytree(study.path, Path(made) / "archive", ignore=shutil.ignore_patterns("*-shm"))
            assert storage or (archive / "study.db-wal").stat().st_size
        else:
            disconnect(study._ledger.storage)
            archive = shutil.copytree(study.path, Path(made) / "archive")
        expected = (6, len(study.front()), sorted(os.listdir(archive)))
        for file in archive.iterdir():
            file.chmod(0o755 if file.is_dir() else 0o444)
        archive.chmod(0o555)
        View(study.path).status()  # what is imported late, nobody may not be able to read
        fork = multiprocessing.get_context("fork")
        answer = fork.SimpleQueue()
        child = fork.Process(target=_as_nobody, args=(archive, answer))
        child.start()
        child.join()
        assert answer.get() == expected
        disconnect(study._ledger.storage)


def test_a_copy_that_is_looked_at_goes_with_it_and_damage_is_named(tmp_path, monkeypatch):
    study = sleeper.create(tmp_path / "s", 0.0)
    study.run(3)
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and may(path, mode))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    found = read_study_json(study.path, to_write=False)
    glimpse = Glimpse(study.path, found)
    disconnect(glimpse.storage())
    assert len(list((tmp_path / "copies").iterdir())) == 1
    del glimpse
    assert not list((tmp_path / "copies").iterdir())
    with pytest.raises(ValueError, match="is read-only; make it writable"):
        read_study_json(study.path)
    disconnect(study._ledger.storage)
    (study.path / "study.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(ValueError, match=f"{re.escape(str(study.path / 'study.db'))} is damaged"):
        View(study.path)
    assert not list((tmp_path / "copies").iterdir())


def test_what_a_study_made_in_python_lacks_is_said(tmp_path, capsys):
    study = sleeper.create(tmp_path / "s", 0.0)
    (tmp_path / "empty").mkdir()
    for arguments in (["trace"], ["prune", "--method", "l1", "--budget", "macs=0.5", "--out", str(tmp_path / "o")]):
        assert main([arguments[0], str(study.path), *arguments[1:]]) == 2
        assert "was made in Python and has no study.toml" in capsys.readouterr().err
        assert main([arguments[0], str(tmp_path / "empty"), *arguments[1:]]) == 2
        assert "is a folder without a study.toml" in capsys.readouterr().err
