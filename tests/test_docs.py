"""What the docs say is run: docstring examples, and README's Python."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import secateur

ROOT = Path(__file__).parents[1]
MODULES = ["secateur", *(found.name for found in pkgutil.walk_packages(secateur.__path__, "secateur."))]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[-1] != "__main__"])
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_module_and_public_name_is_documented():
    for name in MODULES:
        module = importlib.import_module(name)
        assert module.__doc__, name
    for name in secateur.__all__:
        assert getattr(secateur, name).__doc__, name


def test_readme_python_runs(tmp_path, monkeypatch):
    """The block as it stands, with a smaller network, fewer trials and no last training."""
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shorter = {
        "trials=50": "trials=2",
        "finetune_epochs=5": "finetune_epochs=0",
        "resnet20()": "resnet20(widths=(4, 4, 8), blocks=(1, 1, 1))",
    }
    for long, short in shorter.items():
        assert program.count(long) == 1
        program = program.replace(long, short)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(program, "README.md", "exec"), names)
    assert names["net"](torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_readme_names_files_that_exist():
    for name in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / name).exists(), name
