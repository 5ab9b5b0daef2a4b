"""Damaged and hostile inputs end in one sentence: some of each kind here, thousands by `tests/fuzzing.py`."""

import fuzzing
import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return fuzzing.prepared(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize(("kind", "count"), [("files", 150), ("lines", 100), ("folders", 4), ("exports", 30)])
def test_some_inputs_of_every_kind(place, kind, count):
    (figures,) = fuzzing.fuzz(place, {kind: count}, seed=1)
    assert figures.tried >= count and figures.refused and figures.accepted and not figures.bad, figures


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("files", 5000), ("lines", 10000), ("folders", 1000), ("exports", 3000)])
def test_many_inputs_of_every_kind(place, kind, count):
    (figures,) = fuzzing.fuzz(place, {kind: count}, seed=0)
    print(figures)
    assert not figures.bad, figures
