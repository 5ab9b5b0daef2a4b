"""What the docs say is run: docstring examples, and README's Python."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from landscapes import tiny_net, tiny_space, tiny_task

import secateur
from secateur.pruners import METHODS
from secateur.search import SAMPLERS
from secateur.studies.networks import resnet20

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


def test_the_methods_page_runs_and_lists_every_method():
    """The blocks as they stand, one after another, on a tiny network."""
    page = (ROOT / "docs" / "methods.md").read_text()
    model = resnet20(widths=(4, 4, 8), blocks=(1, 1, 1))
    space = secateur.Space.trace(model.eval(), torch.rand(1, 1, 12, 12), divisor=1)
    names: dict[str, object] = {"model": model, "space": space}
    names |= {"images": torch.rand(16, 1, 12, 12), "labels": torch.arange(16) % 10}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        exec(compile(block, "methods.md", "exec"), names)
    assert len(blocks) == 3 and names["small"](names["images"]).shape == (16, 10)
    listed = {}
    for row in re.findall(r"^\| (`.*)\|$", page, re.MULTILINE):
        cells = [cell.strip() for cell in row.split(" | ")]
        listed |= {name: cells[2:] for name in re.findall("`([^`]+)`", cells[0])}
    assert set(listed) == set(METHODS)
    for name, (allocates, selects, weights, needs) in listed.items():
        method = METHODS[name]()
        assert (allocates == "yes", selects == "yes") == (method.allocates, method.selects), name
        assert weights.split(",")[0] == method.weights and needs == method.needs, name


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_pages_name_files_that_exist(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / page).read_text(), flags=re.DOTALL)  # code has brackets too
    for name in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text):
        assert ((ROOT / page).parent / name).exists(), name


def test_the_search_page_runs_and_names_every_sampler(tmp_path, monkeypatch):
    """The blocks as they stand, one after another, on a tiny network."""
    page = (ROOT / "docs" / "search.md").read_text()
    monkeypatch.chdir(tmp_path)
    model = tiny_net()
    names: dict[str, object] = {"model": model, "space": tiny_space(model), "task": tiny_task()}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "search.md", "exec"), names)
    assert len(names["study"].trials()) == 6
    assert not [name for name in SAMPLERS if f"`{name}`" not in page]
