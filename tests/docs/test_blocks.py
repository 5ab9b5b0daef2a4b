"""Every block of code in README and the docs is run, or is listed here with the reason why it is not.

Python is run as it stands, the blocks of a page one after another in one namespace; where a page's numbers are those of
a real search, `SMALLER` names what is replaced. What a page shows of an example is held against the example's file,
which `tests/examples` runs. Study files and parts of them go through the reader. Lines for a shell are held against
what they call: commands of ours against the parser, scripts against the options that they declare, targets, extras and
markers against the files that declare those. The command lines of the reference are run one after another.
"""

import ast
import json
import shlex
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import study_file
import torch
import typer
from doc_pages import PAGES, ROOT, blocks, inline
from landscapes import tiny_net, tiny_space, tiny_task
from PIL import Image

import secateur
from secateur.__main__ import main
from secateur.pruners import methods
from secateur.search import samplers
from secateur.studies.commands.app import app
from secateur.studies.settings.trackers import TRACKERS
from secateur.studies.study_files import file as config
from secateur.studies.study_files.data import READERS
from secateur.studies.study_files.networks import resnet20

LANGUAGES = {"python", "toml", "sh", "json", "text", ""}

SMALLER = {
    "README.md": {
        "trials=30": "trials=3",
        "finetune_epochs=5": "finetune_epochs=1",
    },
    "docs/networks.md": {"resolutions=(224, 192, 160)": "resolutions=(24, 20, 16)"},
    "docs/resrep.md": {"epochs=30": "epochs=1"},
}

NOT_RUN = {
    "ray start --head --num-cpus 2 --port 6379": "a cluster that outlives the test",
    "ray start --address HEAD:6379": "needs a second machine",
    "ray stop": "would stop every Ray of this machine",
    "apt-get": "fetches packages of Debian",
    "dpkg-deb": "unpacks what was fetched",
}
"""Lines, and programs whatever they are called with, that nothing here holds against anything; and why."""

FORMULAS = {
    """momentum = 1 - 20 / steps                                      at most 0.99
strength = (1 - momentum) / (0.091 * lr * steps)               at least 1e-4: a row masked half-way dies under a cosine
interval, theta                                                so that the limits are met half-way""",
}
"""Blocks that are for people: no code."""


def every(language):
    return [block for page in PAGES for block in blocks(page, language)]


# --- Python -----------------------------------------------------------------------------------------------------------


def nothing():
    return {}


def tiny():
    model = tiny_net()
    return {"model": model, "space": tiny_space(model), "task": tiny_task()}


def pictures(side=12):
    model = resnet20(widths=(4, 4, 8), blocks=(1, 1, 1)).eval()
    space = secateur.Space.trace(model, torch.rand(1, 1, side, side), divisor=1)
    return {"model": model, "space": space, "images": torch.rand(16, 1, side, side), "labels": torch.arange(16) % 10}


def photographed(folder="photos", side=12):
    """As `pictures`, with some in a folder."""
    Path(folder).mkdir()
    for number, picture in enumerate(torch.randint(0, 256, (16, side, side), dtype=torch.uint8).numpy()):
        Image.fromarray(picture).save(Path(folder) / f"{number}.png")
    return pictures()


def larger():
    return {"model": resnet20(blocks=(1, 1, 1)).eval(), "x": torch.rand(1, 1, 24, 24)}


def prunable():
    from secateur.evaluators import Training, train
    from secateur.pruners import ResRep, realised

    names = tiny()
    macs = float(names["space"].costs([names["space"].full])["macs"].iloc[0])
    return names | {"macs": macs, "train": train, "Training": Training, "ResRep": ResRep, "realised": realised}


BEFORE = {
    "docs/methods.md": pictures,
    "docs/networks.md": larger,
    "docs/reconstruction.md": photographed,
    "docs/resrep.md": prunable,
    "docs/search.md": tiny,
    "docs/three_systems.md": pictures,
}
"""What a page takes for given: a model, a space, a task."""


@cache
def examples():
    """The programs of the examples, cells of notebooks included, without their indentation."""
    found = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").rglob("*.py"))]
    for path in sorted((ROOT / "examples").rglob("*.ipynb")):
        found += ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    return [unindented(program) for program in found]


def unindented(text):
    return "\n".join(line.strip() for line in text.strip().splitlines())


def of_an_example(block):
    """Whether a page of an example shows a part of a program that is there, line for line."""
    shown = unindented(block.text)
    return block.page.startswith("docs/examples/") and any(shown in program for program in examples())


def run(page):
    names = BEFORE.get(page, nothing)()
    for block in blocks(page, "python"):
        if of_an_example(block):
            continue
        program = block.text
        for long, short in SMALLER.get(page, {}).items():
            program = program.replace(long, short)
        exec(compile("\n" * block.line + program, ROOT / page, "exec"), names)
    return names


LONG = ("docs/deploy.md", "docs/tutorial.md")  # pages that prune or search for real


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page in LONG else ()) for page in PAGES if blocks(page, "python")],
)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(page)
    if page == "README.md":
        assert names["net"](torch.rand(2, 1, 28, 28)).shape == (2, 10)
        written = json.loads((names["folders"][0] / "config.json").read_text())
        assert names["study"].status().full["error"] < 0.03 and written["errors"]["test_error"] < 0.08
    if page == "docs/tutorial.md":
        tutorial_is_right(names)
    if page == "docs/deploy.md":
        errors = names["errors"]
        assert (
            errors["full"] < 0.02 and errors["pruned"] < 0.06 and abs(errors["pruned, int8"] - errors["pruned"]) < 0.02
        )
        assert Path("int8.onnx").stat().st_size < 0.7 * Path("small/model.onnx").stat().st_size
    if page == "docs/own.md":
        suites = [value for name, value in names.items() if name.startswith("Test")]
        tests = [getattr(suite(), name) for suite in suites for name in dir(suite) if name.startswith("test_")]
        for test in tests:
            test()
        assert len(tests) > 9
    if page == "docs/search.md":
        assert len(names["study"].trials()) == 6
    if page == "docs/methods.md":
        assert names["small"](names["images"]).shape == (16, 10)


def tutorial_is_right(names):
    """What a new user must see: the same error before, and the same after."""
    full = names["study"].status().full
    assert abs(full["error"] - names["mine"]) < 0.001 and 0 < names["mine"] < 0.2
    reported = names["record"]["errors"]["test_error"]
    assert names["deployed"] == pytest.approx(reported, abs=1e-9) and reported < 0.2
    said = names["record"]["preprocessing"]
    assert said["mean"] == names["MEAN"] and said["std"] == names["STD"]
    raw = names["inputs"] * np.reshape(names["STD"], (1, 3, 1, 1)) + np.reshape(names["MEAN"], (1, 3, 1, 1))
    (forgotten,) = names["session"].run(None, {"x": raw.astype(np.float32)})
    assert (forgotten.argmax(1) != names["labels"]["test"].numpy()).mean() > reported, "mean and std matter here"


def test_what_is_made_smaller_is_there():
    for page, changes in SMALLER.items():
        text = "".join(block.text for block in blocks(page, "python"))
        assert {long: text.count(long) for long in changes} == dict.fromkeys(changes, 1), page
    assert set(BEFORE) <= set(PAGES)


def test_own_pieces_take_under_30_lines():
    for block in blocks("docs/own.md", "python"):
        assert len(block.text.splitlines()) < 30, block


# --- study files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", every("toml"), ids=lambda block: f"{block.page}:{block.line}")
def test_study_files_are_read(block, tmp_path):
    """Whole files as they stand; a table or a few get the two lines that every file has. A package's has its groups."""
    found = tomllib.loads(block.text)
    if "project" in found:
        assert set(found["project"]["entry-points"]) == {methods.GROUP, samplers.GROUP, READERS._group, TRACKERS._group}
        return
    needed = {"model": 'model = "networks:net"\n', "data": 'data = "networks:task"\n'}
    (tmp_path / "study.toml").write_text("".join(needed[name] for name in needed if name not in found) + block.text)
    file = config.read(tmp_path / "study.toml")
    assert file.to_toml()
    given = {table for table in found if isinstance(found[table], dict)}
    assert given <= set(tomllib.loads(file.to_toml())), "every table that is given is one that is kept"


def test_json_is_read():
    for block in every("json"):
        json.loads(block.text)


# --- lines for a shell ------------------------------------------------------------------------------------------------


def lines():
    """Every command of every block for a shell, indented ones too, with where it stands; continued lines are joined."""
    for block in (block for page in PAGES for block in blocks(page, "sh", "") if block.text.strip() not in FORMULAS):
        for line in block.text.replace("\\\n", " ").splitlines():
            for command in line.split(" && "):
                if shlex.split(command, comments=True):
                    yield f"{block.page}:{block.line}", command.strip()


def words(line):
    """The words of a command, without what is set before it and what it is timed with."""
    found = shlex.split(line, comments=True)
    while found and ("=" in found[0].partition(" ")[0] and not found[0].startswith("-") or found[0] == "time"):
        found.pop(0)
    return found


def plain(line):
    """A line as `NOT_RUN` has it: without its comment."""
    return line.partition("  #")[0].strip()


def listed(line):
    """Whether a line, or the program that it calls, is in `NOT_RUN`."""
    return plain(line) in NOT_RUN or words(line)[0] in NOT_RUN


def check(line, whole=True):
    """Refuse a line that what it calls would refuse; whether there was anything to hold it against."""
    program, *arguments = words(line)
    name = program.rpartition("/")[2]
    if listed(line) or name not in CHECKS:
        return False
    CHECKS[name](arguments, whole)
    return True


def check_secateur(arguments, whole):
    """Parsed as the command line would; a command of which only a part is named, by its options."""
    commands = typer.main.get_command(app).commands
    if not arguments or arguments[0].startswith("-"):
        assert set(arguments) <= {"--help", "--version", "--debug", "--install-completion"}
        return
    command = commands[arguments[0]]
    if whole:
        given = [word for one in arguments[1:] for word in ([one, "2"] if one == "--watch" else [one])]
        command.make_context(arguments[0], given)
    else:
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        assert {word for word in arguments if word.startswith("-")} <= known


def check_python(arguments, whole):
    script, *given = arguments
    if script == "-m":
        return CHECKS[given[0]](given[1:], whole)
    flags, required = declared(ROOT / script)
    options = {word.partition("=")[0] for word in given if word.startswith("--")}
    assert options <= flags, f"{script} knows {sorted(flags)}"
    assert not whole or required <= options, f"{script} needs {sorted(required)}"


@cache
def declared(script):
    """The options that a script adds to its parser, and those that it can't do without; nothing is run."""
    flags, required = {"--help"}, set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            names = [one.value for one in node.args if isinstance(one, ast.Constant)]
            flags |= {name for name in names if name.startswith("--")}
            if any(one.arg == "required" and getattr(one.value, "value", None) is True for one in node.keywords):
                required |= set(names)
    return flags, required


def check_make(arguments, whole):
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
    assert {word for word in arguments if not word.startswith("-")} <= targets


def check_pip(arguments, whole):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert arguments[0] in ("install", "download")
    for word in arguments[1:]:
        name, bracket, asked = word.rstrip("]").partition("[")
        if bracket and name in (".", "secateur"):
            assert set(asked.split(",")) <= set(extras), word
        if word.endswith(".txt"):
            assert (ROOT / word).is_file()


def check_pytest(arguments, whole):
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before == "-m":
            assert word in {marker.partition(":")[0] for marker in markers}
        elif not word.startswith("-"):
            assert (ROOT / word.partition("::")[0]).exists(), word


def check_ruff(arguments, whole):
    assert arguments[0] in ("check", "format")


def check_sbatch(arguments, whole):
    """A script of a batch system: what it gives to the program beside it is known there."""
    script = ROOT / arguments[0]
    (called,) = [line for line in script.read_text(encoding="utf-8").splitlines() if line.startswith("exec python ")]
    flags, _ = declared(script.with_name("run.py"))
    assert "/run.py" in called and {word for word in called.split() if word.startswith("--")} <= flags


CHECKS = {
    "secateur": check_secateur,
    "python": check_python,
    "make": check_make,
    "pip": check_pip,
    "pytest": check_pytest,
    "ruff": check_ruff,
    "sbatch": check_sbatch,
}


def test_every_block_is_in_a_language_that_is_run():
    for page in PAGES:
        for block in blocks(page):
            assert block.language in LANGUAGES, block


def test_shell_lines_fit_what_they_call():
    """What is neither held against something nor listed fails here: a new kind of line needs a check or a reason."""
    faults = []
    for where, line in lines():
        try:
            assert check(line) or listed(line), "nothing to hold it against"
        except (AssertionError, KeyError, OSError, typer.TyperException) as fault:
            faults.append((where, line, str(fault).splitlines()[0]))
    assert faults == []


def test_nothing_is_listed_that_is_not_there():
    there = {part for _, line in lines() for part in (plain(line), words(line)[0])}
    assert set(NOT_RUN) <= there
    assert {block.text.strip() for block in every("")} >= FORMULAS


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_exist(page):
    """Commands between words may be named in part, so only what is named must be there."""
    for token in inline(page):
        if token.type == "code_inline" and len(token.content.split()) > 1:
            try:
                called = words(token.content)
            except ValueError:  # an apostrophe: no command
                continue
            if called and called[0].rpartition("/")[2] in CHECKS:
                check(token.content, whole=False)


def test_a_wrong_line_is_refused():
    """So the checks can fail."""
    for line in ["secateur serach x", "python benchmarks/none.py", "make tset", "pip install 'secateur[plots]'"]:
        with pytest.raises((AssertionError, KeyError, OSError)):
            check(line)
    with pytest.raises(AssertionError):
        check("python benchmarks/kill.py --kill 3")
    for line in ["secateur status --wacth runs/a", "secateur search mnist", "secateur search a b --out c"]:
        with pytest.raises(typer.TyperException):
            check(line)


# --- the command lines of the reference, run --------------------------------------------------------------------------

PARSED_ONLY = {
    "--runner": "workers of their own: tests/studies/runners/test_processes.py",
    "init": "writes the file that the others read: tests/studies/study_files/test_initial.py",
    "dashboard": "listens until it is ended: tests/test_cli.py",
}


def test_command_lines_run(tmp_path, monkeypatch, capsys):
    """One after another on a study file of a tiny network, with fewer trials."""
    study_file.write(tmp_path, module="lines_tiny")
    model = 'model = "lines_tiny:Tiny"\n[space]\ndivisor = 2\n[images]\nnormalise = "measure"\n'
    (tmp_path / "model.toml").write_text(model)
    monkeypatch.chdir(tmp_path)
    photographed(side=8)
    ran = []
    for where, line in lines():
        program, *arguments = words(line)
        if not where.startswith("docs/reference/cli.md") or program != "secateur" or set(arguments) & set(PARSED_ONLY):
            continue
        places = {
            "STUDY.toml": "study.toml",
            "MODEL.toml": "model.toml",
            "FOLDER": "photos",
            "DIR": "runs/a",
            "OUT": f"out/{len(ran)}",
            "100": "7",
        }
        given = [places.get(word, word) for word in arguments]
        assert main(given) == 0, (line, capsys.readouterr().err)
        ran.append(arguments[0])
        assert capsys.readouterr().out.strip(), line
    assert {"trace", "search", "resume", "status", "front", "export", "prune"} <= set(ran)
