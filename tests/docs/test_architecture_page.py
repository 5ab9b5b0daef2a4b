"""The page of the rooms names files and functions that exist, and draws the floors that a test holds."""

import ast
import re

import pytest
from doc_pages import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w.]+)`\s+\(`([\w/]+\.py)`\)", PAGE)
WALKS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[2:7]


def names(path):
    """Functions, classes and methods of a file, and what its classes hold."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef):
                found.add(f"{node.name}.{inner.name}")
    return found


@pytest.mark.parametrize(("name", "path"), sorted(set(NAMED)), ids=lambda part: part)
def test_what_a_walk_names_is_there(name, path):
    assert name in names(path)


def test_every_file_and_folder_that_is_named_is_there():
    for path in re.findall(r"`([\w/]+(?:\.py|/))`", PAGE):
        assert (ROOT / path).exists() or any(ROOT.glob(f"*/{path}")), path


def test_there_are_five_walks_in_order():
    assert len(WALKS) == 5
    for walk in WALKS:
        assert len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) >= 4
        assert len(re.findall(r"`[\w.]+`\s+\(`[\w/]+\.py`\)", walk)) >= 6


def test_the_picture_has_every_folder_of_studies():
    picture = PAGE.split("```text")[2].split("```")[0]
    drawn = set(re.findall(r"(\w+)/", picture))
    assert drawn == {path.parent.name for path in (ROOT / "studies").glob("*/__init__.py")}
