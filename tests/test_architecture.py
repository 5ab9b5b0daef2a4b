"""The arrows of the house, the face, and what the package holds."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import types
from importlib.metadata import version
from pathlib import Path

import house
import pytest

import secateur
from secateur.lazy import homes

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "spaces": set(),
    "search": {"spaces"},
    "evaluators": {"spaces"},
    "pruners": {"spaces"},
    "studies": {"spaces", "search", "evaluators", "pruners"},
    "testing": {"spaces", "search", "evaluators", "pruners", "studies"},
}
GROUND = {"budget.py", "candidate.py", "examples.py", "graph"}
BELOW = {"disk", "settings", "trials"}
WINGS = {"outcomes", "proposals", "study_files"}
INSIDE = {
    "search": {
        "joint": {"axes.py", "problem.py"},
        "polynomial": {"axes.py", "pareto.py", "problem.py"},
        "three_dimensions": {"axes.py", "problem.py"},
    },
    "evaluators": {
        "latency": {"modes.py"},
        "reconstruction": {"modes.py", "tasks", "training"},
        "tasks": {"modes.py"},
        "training": {"modes.py", "tasks"},
    },
    "pruners": {
        "criteria": {"examples.py", "proposal.py"},
        "least_squares": {"criteria", "examples.py", "proposal.py"},
        "one_shot": {"criteria", "examples.py", "least_squares", "proposal.py"},
        "resrep": {"proposal.py"},
        "training": {"criteria", "examples.py", "proposal.py"},
        "dynamic": {"examples.py", "proposal.py", "resrep", "training"},
    },
    "spaces": {
        "graph": set(),
        "channels": {"graph"},
        "costs": {*GROUND, "channels"},
        "cutting": {*GROUND, "channels"},
        "tracing": {*GROUND, "channels", "costs", "cutting"},
        "networks": {*GROUND, "channels", "cutting", "space.py"},
    },
    "studies": {
        "disk": set(),
        "settings": {"disk"},
        "trials": {"disk"},
        "outcomes": BELOW,
        "proposals": BELOW,
        "study_files": BELOW,
        "runners": {*BELOW, "outcomes"},
        "exports": {*BELOW, "outcomes"},
        "drivers": {*BELOW, "exports", "outcomes", "proposals", "runners"},
        "views": {*BELOW, "runners"},
        "commands": {*BELOW, "at_once.py", "launch.py", "pages", "prune.py", "study_files", "views"},
        "pages": {*BELOW, *WINGS, "exports", "views"},
    },
}
"""What each part of a room may import of the other parts; files of the room itself, above the folders, are free."""
FILES = [path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down_and_are_relative(path):
    room, *inside, _ = path.relative_to(ROOT).parts
    for node in imports(path):
        if isinstance(node, ast.Import):
            assert not any(name.name.split(".")[0] == "secateur" for name in node.names), ast.unparse(node)
        elif node.level == 0:
            assert (node.module or "").split(".")[0] != "secateur", ast.unparse(node)
        elif node.level == 2 + len(inside):
            rooms = [node.module.split(".")[0]] if node.module else [name.name for name in node.names]
            assert set(rooms) <= MAY_IMPORT[room] | {"__version__", "lazy"}, ast.unparse(node)
        else:
            assert 1 <= node.level <= 1 + len(inside), ast.unparse(node)


@pytest.mark.parametrize("face", [path for path in FILES if path.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_every_folder_says_where_to_start_reading(face):
    said = re.findall(r"[Ss]tart (?:reading\s+)?at\s+`([\w/]+\.py)`", ast.get_docstring(ast.parse(face.read_text())))
    assert said and all((face.parent / path).exists() for path in said)


@pytest.mark.parametrize("room", INSIDE)
def test_arrows_inside_a_room_point_down(room):
    folders = {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}
    assert set(INSIDE[room]) == folders, "every folder needs a line in INSIDE: what may it import?"
    between = house.parts(house.imports(), room)
    for folder, allowed in INSIDE[room].items():
        assert {Path(other).name for other in between[f"{room}/{folder}"]} <= allowed, folder


def test_no_file_imports_itself_through_others():
    """Circles that exist for type checkers only count: a reader goes around them too."""
    assert house.circles(house.imports()) == []


@pytest.mark.parametrize("bound", house.BOUNDS)
def test_everything_is_small_enough_to_read(bound):
    assert house.offences(bound) == []


def test_the_face_imports_absolutely_and_lazily():
    face = ast.parse((ROOT / "__init__.py").read_text())
    eager = [node for node in face.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module for node in eager} <= {"secateur.lazy", "typing"}
    assert all(node.level == 0 for node in imports(ROOT / "__init__.py") if isinstance(node, ast.ImportFrom))


def test_the_face_gives_every_public_name():
    for name in secateur.__all__:
        assert getattr(secateur, name).__name__.split(".")[-1] == name or name == "Scores"
    assert set(secateur.__all__) <= set(dir(secateur))
    with pytest.raises(AttributeError, match="no attribute 'Spade'"):
        secateur.Spade  # noqa: B018


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_gives_every_public_name(room):
    """Also after all of its modules were imported: some are called like a function in them."""
    package = importlib.import_module(f"secateur.{room}")
    for path in sorted((ROOT / room).glob("[a-z]*.py")):
        importlib.import_module(f"secateur.{room}.{path.stem}")
    assert set(package.__all__) <= set(dir(package))
    assert not [name for name in package.__all__ if isinstance(getattr(package, name), types.ModuleType)]
    with pytest.raises(AttributeError, match=f"module 'secateur.{room}' has no attribute 'Spade'"):
        package.Spade  # noqa: B018


@pytest.mark.parametrize("room", ["", *MAY_IMPORT])
def test_a_face_lists_what_it_imports_late(room):
    package = importlib.import_module(f"secateur.{room}".rstrip("."))
    face = ast.parse((ROOT / room / "__init__.py").read_text())
    eager = {name.name for node in face.body if isinstance(node, ast.ImportFrom) and node.level for name in node.names}
    assert set(package.__all__) == (set(homes(package.__name__)) | eager) - {"face"}


@pytest.mark.parametrize(
    ("names", "most"),
    [("Study", 20), ("pruners.METHODS", 45), ("search.SAMPLERS", 20), ("evaluators.Training", 30)],
)
def test_a_name_imports_little_else(names, most):
    code = (
        "import importlib, sys, secateur\n"
        f"room, _, name = {names!r}.rpartition('.')\n"
        "getattr(importlib.import_module(f'secateur.{room}'.rstrip('.')), name)\n"
        "print(sum(name.split('.')[0] == 'secateur' for name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) <= most


def test_the_command_line_imports_nothing_heavy():
    heavy = "{'torch', 'optuna', 'sklearn', 'pandas', 'numpy', 'scipy', 'pydantic', 'rich'}"
    code = (
        "import sys\nfrom secateur.__main__ import main\nassert main(['--help']) == 0\n"
        f"print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "search" in run.stdout
    assert run.stderr.strip() == "[]"


def test_the_package_lists_every_folder_and_nothing_else_lies_at_the_root():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT) for path in ROOT.rglob("__init__.py") if not hidden(path)}
    packages = {".".join(("secateur", *folder.parts)) for folder in folders}
    assert set(settings["tool"]["setuptools"]["packages"]) == packages
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "lazy.py"}
    assert settings["project"]["version"] == secateur.__version__ == version("secateur")


def test_every_constraint_is_exact_and_every_dependency_has_one():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {text.split(">=")[0].split("[")[0] for text in asked}
    assert names <= pinned


def hidden(path: Path) -> bool:
    return any(part.startswith(".") or part in ("build", "runs", "out") for part in path.relative_to(ROOT).parts)
