"""Docstrings: their examples run, and nothing is without. What pages list is complete; `tests/docs` runs their code."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import secateur
from secateur.pruners import METHODS
from secateur.search import SAMPLERS

ROOT = Path(__file__).parents[1]
MODULES = ["secateur", *(found.name for found in pkgutil.walk_packages(secateur.__path__, "secateur."))]


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[-1] != "__main__"])
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_module_and_public_name_is_documented():
    for name in MODULES:
        module = importlib.import_module(name)
        assert module.__doc__, name
    for name in secateur.__all__:
        assert getattr(secateur, name).__doc__, name


def test_the_methods_page_lists_every_method():
    page = (ROOT / "docs" / "methods.md").read_text()
    listed = {}
    for row in re.findall(r"^\| (`.*)\|$", page, re.MULTILINE):
        cells = [cell.strip() for cell in row.split(" | ")]
        listed |= {name: cells[2:] for name in re.findall("`([^`]+)`", cells[0])}
    assert set(listed) == set(METHODS)
    for name, (allocates, selects, weights, needs) in listed.items():
        method = METHODS[name]()
        assert (allocates == "yes", selects == "yes") == (method.allocates, method.selects), name
        assert weights.split(",")[0] == method.weights and needs == method.needs, name


def test_the_search_page_names_every_sampler():
    page = (ROOT / "docs" / "search.md").read_text()
    assert not [name for name in SAMPLERS if f"`{name}`" not in page]


def test_the_citation_is_of_this_version():
    said = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {secateur.__version__}\n" in said and "\nlicense: MIT\n" in said
