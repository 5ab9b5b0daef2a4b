"""Examples as their users run them: a command in a process of its own; and what their pages quote of them."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_example(name: str, *arguments: object, cwd: Path) -> str:
    """What `examples/NAME/run.py` prints with these arguments; its one thread leaves the other cores alone."""
    return run([ROOT / "examples" / name / "run.py", *arguments], cwd)


def run_beside_torchvision(name: str, *arguments: object, cwd: Path) -> str:
    """The same where the example imports torchvision without knowing, and it may be built for another PyTorch."""
    folders = [str(ROOT / "examples" / folder) for folder in (name, "timm_model")]
    program = (
        f"import runpy, sys; sys.path[:0] = {folders}; import by_name; by_name.importable(); "
        f"runpy.run_path({str(ROOT / 'examples' / name / 'run.py')!r}, run_name='__main__')"
    )
    return run(["-c", program, *arguments], cwd)


def run(arguments: list[object], cwd: Path) -> str:
    """What Python prints."""
    command = [sys.executable, *(str(word) for word in arguments)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=alone)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def trace_of(model: str, data: str, folder: Path, tmp_path: Path) -> str:
    """What `secateur trace` says of a study file of two lines, which say in TOML what the network and the data are."""
    file = tmp_path / "two-lines.toml"
    file.write_text(f'folder = "{folder}"\nmodel = {model}\ndata = {data}\n')
    return run(["-m", "secateur", "trace", file], tmp_path)


def code_lines(source: str, *names: str) -> int:
    """Lines of these functions and classes (all, where none is named), without docstrings, comments and imports."""
    found = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert set(names) <= {node.name for node in found}
    count = 0
    for piece in (node for node in found if node.name in names or not names):
        for node in ast.walk(piece):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) and len(node.body) > 1:
                node.body = node.body[1:]
        count += len([line for line in ast.unparse(piece).splitlines() if line.strip()])
    return count


def quotes(page: str, name: str) -> list[str]:
    """The Python blocks of a page, each of which stands word for word in a file of the example."""
    folder = ROOT / "examples" / name
    sources = [path.read_text() for path in folder.glob("*.py")]
    blocks = re.findall(r"```python\n(.*?)\n```", (ROOT / "docs" / "examples" / page).read_text(), re.DOTALL)
    for block in blocks:
        assert any(block in source for source in sources), block
    return blocks
