"""How the code stands: its sizes, what imports what, and how many files one trip through it opens.

    python benchmarks/house.py [--verbose] [--page] [--root FOLDER] [--json]

Prints a table beside the figures of the commit before the rooms got their sub-rooms (`BEFORE`, made by `--json` on a
checkout of it: `git worktree add ../before 1373458`). `--verbose` names every file and function over a bound, `--page`
writes the table into docs/architecture.md. tests/test_architecture.py holds the bounds with the functions below.

Counted are the files of the package: every folder with an `__init__.py`, from the root on. A function's length is its
lines without its docstring; `self` and `cls` are no parameters. An import counts wherever it stands: at the top, in a
function, or for type checkers only; what is imported from a face counts for the file that defines it.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("spaces", "search", "evaluators", "pruners", "studies")
SUITES = "testing"
BOUNDS = {"files in the fullest folder": 14, "longest file": 400, "longest function": 60, "most parameters": 10}
GOALS = {
    **BOUNDS,
    "lines": 33_000,
    "circles of files": 0,
    "one trial": "30 files, 250 moves",
    "modules that `secateur.Study` loads": 80,
}
COMMIT = "1373458"
BEFORE = {
    "Python files": 189,
    "lines": 34_989,
    "lines of `secateur.testing`": 0,
    "median file": 157,
    "longest file": 722,
    "files in the fullest folder": 74,
    "median function": 6,
    "longest function": 87,
    "most parameters": 21,
    "circles of files": 3,
    "spaces: parts, arrows, circles": "28, 97, 1",
    "search: parts, arrows, circles": "17, 25, 0",
    "evaluators: parts, arrows, circles": "16, 40, 1",
    "pruners: parts, arrows, circles": "34, 77, 0",
    "studies: parts, arrows, circles": "74, 254, 1",
    "trace": "19 files, 287 functions, 613 moves",
    "build": "4 files, 32 functions, 15 moves",
    "one trial": "48 files, 339 functions, 512 moves",
    "front": "9 files, 37 functions, 17 moves",
    "export": "41 files, 302 functions, 279 moves",
    "modules that `secateur.Study` loads": 148,
}
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- benchmarks/house.py: begin -->", "<!-- benchmarks/house.py: end -->"

Arrows = dict[str, set[str]]
"""Each file (or part of a room), and those that it imports from."""


@dataclass(frozen=True)
class Function:
    """A function of the package: where it stands, its lines without the docstring, its parameters."""

    where: str
    lines: int
    parameters: int


def main() -> None:
    """Measure, print, and write the page where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that is measured")
    parser.add_argument("--json", action="store_true", help="print the figures alone")
    parser.add_argument("--page", action="store_true", help="write the table into docs/architecture.md")
    parser.add_argument("--verbose", action="store_true", help="name what is over a bound, and every circle")
    asked = parser.parse_args()
    if asked.verbose:
        for bound in BOUNDS:
            print(f"{bound}, over {BOUNDS[bound]}:", *offences(bound, asked.root), "", sep="\n")
        print("circles:", *map(" <-> ".join, circles(imports(asked.root))), "", sep="\n")
    now = measured(asked.root)
    if asked.json:
        print(json.dumps(now, indent=4))
        return
    lines = table(now)
    print(*lines, sep="\n")
    if asked.page:
        before, rest = PAGE.read_text(encoding="utf8").split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]), encoding="utf8")


def table(now: Mapping[str, Any]) -> list[str]:
    """The figures as a Markdown table: before, now, and the bound."""
    rows = [f"| | {COMMIT} | now | at most |", "|---|---:|---:|---:|"]
    rows += [f"| {name} | {BEFORE.get(name, '')} | {value} | {GOALS.get(name, '')} |" for name, value in now.items()]
    return rows


def measured(root: Path) -> dict[str, int | str]:
    """Every figure of the checkout at `root` by its name."""
    lengths = {path: text.count("\n") for path, text in sources(root).items()}
    every = functions(root)
    arrows = imports(root)
    figures: dict[str, int | str] = {
        "Python files": len(lengths),
        "lines": sum(lines for path, lines in lengths.items() if Path(path).parts[0] != SUITES),
        "lines of `secateur.testing`": sum(lines for path, lines in lengths.items() if Path(path).parts[0] == SUITES),
        "median file": round(statistics.median(lengths.values())),
        "longest file": max(lengths.values()),
        "files in the fullest folder": max(folders(root).values()),
        "median function": round(statistics.median(function.lines for function in every)),
        "longest function": max(function.lines for function in every),
        "most parameters": max(function.parameters for function in every),
        "circles of files": len(circles(arrows)),
    }
    for room in ROOMS:
        figures[f"{room}: parts, arrows, circles"] = _counts(parts(arrows, room))
    return figures | _walked(root)


def offences(bound: str, root: Path = ROOT) -> list[str]:
    """A line for everything that is over one of `BOUNDS`."""
    sizes: dict[str, dict[str, int]] = {
        "files in the fullest folder": folders(root),
        "longest file": {path: text.count("\n") for path, text in sources(root).items()},
        "longest function": {function.where: function.lines for function in functions(root)},
        "most parameters": {function.where: function.parameters for function in functions(root)},
    }
    return [f"{where}: {size}" for where, size in sizes[bound].items() if size > BOUNDS[bound]]


@cache
def sources(root: Path = ROOT) -> dict[str, str]:
    """The text of each file of the package by its path from the root."""
    return {str(path.relative_to(root)): path.read_text(encoding="utf8") for path in _package(root)}


@cache
def tree(text: str) -> ast.Module:
    """The syntax tree of a source text."""
    return ast.parse(text)


def folders(root: Path = ROOT) -> dict[str, int]:
    """How many Python files each folder of the package holds."""
    return {
        str(folder): sum(Path(path).parent == folder for path in sources(root))
        for folder in sorted({Path(path).parent for path in sources(root)})
    }


def functions(root: Path = ROOT) -> list[Function]:
    """Every function and method of the package, inner ones too."""
    found = []
    for path, text in sources(root).items():
        for node in ast.walk(tree(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                lines = (node.end_lineno or 0) - node.lineno + 1 - _docstring(node)
                names = [one.arg for one in given if one.arg not in ("self", "cls")]
                found.append(Function(f"{path}:{node.lineno} {node.name}", lines, len(names)))
    return found


def imports(root: Path = ROOT) -> Arrows:
    """For each file the files that it imports from, also late and for types only; faces are looked through."""
    texts = sources(root)
    arrows: Arrows = {path: set() for path in texts if not path.endswith("__init__.py")}
    for path in arrows:
        for node in ast.walk(tree(texts[path])):
            if isinstance(node, ast.ImportFrom):
                for name in node.names:
                    home = _home(root, _package_of(path, node), name.name)
                    if home is not None and home != path and not home.endswith("__init__.py"):
                        arrows[path].add(home)
    return arrows


def parts(arrows: Arrows, room: str) -> Arrows:
    """Arrows between the parts of a folder: its files, and its sub-folders as one each."""
    depth = len(Path(room).parts)
    inside = {path: "/".join(Path(path).parts[: depth + 1]) for path in arrows if Path(room) in Path(path).parents}
    between: Arrows = {part: set() for part in inside.values()}
    for path, part in inside.items():
        between[part] |= {inside[other] for other in arrows[path] if inside.get(other, part) != part}
    return between


def circles(arrows: Arrows) -> list[list[str]]:
    """Largest sets of more than one file in which every file reaches every other."""
    reached = {path: _reached(arrows, path) for path in arrows}
    together = {frozenset({path} | {other for other in reached[path] if path in reached[other]}) for path in arrows}
    return sorted(sorted(circle) for circle in together if len(circle) > 1)


def _reached(arrows: Arrows, start: str) -> set[str]:
    """Every file that imports lead to from `start`; itself only where a circle comes back."""
    found: set[str] = set()
    open_ = [start]
    while open_:
        new = arrows.get(open_.pop(), set()) - found
        found |= new
        open_.extend(new)
    return found


def _counts(arrows: Arrows) -> str:
    return f"{len(arrows)}, {sum(map(len, arrows.values()))}, {len(circles(arrows))}"


def _package(root: Path) -> Iterator[Path]:
    """Files of the package: of the root and of every folder below it that has an `__init__.py` all the way."""
    yield from sorted(root.glob("*.py"))
    open_ = [root]
    while open_:
        inner = sorted(path.parent for path in open_.pop().glob("*/__init__.py") if path.parent.name[0] != ".")
        for folder in inner:
            yield from sorted(folder.glob("*.py"))
        open_.extend(inner)


def _docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return (first.end_lineno or 0) - first.lineno + 1


def _package_of(path: str, node: ast.ImportFrom) -> Path | None:
    """The folder, or file without its suffix, that an import names, from the root; None where it is not ours."""
    names = (node.module or "").split(".")
    if node.level:
        return Path(path).parents[node.level - 1].joinpath(*names)
    return Path(*names[1:]) if names[0] == "secateur" else None


def _home(root: Path, module: Path | None, name: str) -> str | None:
    """The file of the package that defines `name` of a module; None where that is not ours."""
    texts = sources(root)
    if module is None:
        return None
    for path in (f"{module}.py", str(module / f"{name}.py"), str(module / name / "__init__.py")):
        if path in texts:
            return path
    face = str(module / "__init__.py")
    for node in ast.walk(tree(texts[face])) if face in texts else ():
        if isinstance(node, ast.ImportFrom) and name in {one.asname or one.name for one in node.names}:
            return _home(root, _package_of(face, node), name)
    return face if face in texts else None


def _walked(root: Path) -> dict[str, int | str]:
    """The figures of walks.py, measured in a process that imports the checkout at `root`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "secateur").symlink_to(root.resolve())  # the checkout may be called otherwise
        command = [sys.executable, "-P", str(Path(__file__).with_name("walks.py")), "--json"]
        run = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": folder}
        )
    return json.loads(run.stdout)


if __name__ == "__main__":
    main()
