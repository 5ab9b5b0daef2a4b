"""The arrows of the house, the face, and what the package holds."""

import ast
import importlib
import subprocess
import sys
import tomllib
import types
from importlib.metadata import version
from pathlib import Path

import pytest

import secateur

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "spaces": set(),
    "search": {"spaces"},
    "evaluators": {"spaces"},
    "pruners": {"spaces"},
    "studies": {"spaces", "search", "evaluators", "pruners"},
}
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
            assert set(rooms) <= MAY_IMPORT[room] | {"__version__"}, ast.unparse(node)
        else:
            assert 1 <= node.level <= 1 + len(inside), ast.unparse(node)


def test_the_face_imports_absolutely_and_lazily():
    face = ast.parse((ROOT / "__init__.py").read_text())
    eager = [node for node in face.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module for node in eager} <= {"importlib", "typing"}
    assert all(node.level == 0 for node in imports(ROOT / "__init__.py") if isinstance(node, ast.ImportFrom))


def test_the_face_gives_every_public_name():
    for name in secateur.__all__:
        assert getattr(secateur, name).__name__ == name or name == "Scores"
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


@pytest.mark.parametrize("room", ["spaces", "search", "studies"])
def test_a_room_finds_late_what_type_checkers_see(room):
    """The names under `TYPE_CHECKING` are those of `_HOMES`, each in its module."""
    face = ast.parse((ROOT / room / "__init__.py").read_text())
    (block,) = [node for node in face.body if isinstance(node, ast.If)]
    seen = {name.name: node.module for node in block.body for name in node.names}
    package = importlib.import_module(f"secateur.{room}")
    assert seen == package._HOMES
    eager = {name.name for node in face.body if isinstance(node, ast.ImportFrom) and node.level for name in node.names}
    assert set(package.__all__) == set(seen) | eager


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
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}
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
