"""What ends a search: trials, seconds, an error, or a front that stands still; and what it says of it."""

import time

import pytest
from killing import table
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task

from secateur import Budget, Study
from secateur.spaces import Candidate

MODEL = tiny_net()
SPACE = tiny_space(MODEL)
TASK = tiny_task()


class Slow(Instant):
    """A trial takes a while."""

    def __call__(self, *args, **named):
        time.sleep(0.15)
        return super().__call__(*args, **named)


def create(path, **changes):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.5), "threads": 1}
    return Study.create(path, **searching({**given, "sampler": "random", "evaluator": Instant(SPACE), **changes}))


def test_an_error_ends_it_with_its_batch(tmp_path):
    whole, study = create(tmp_path / "a"), create(tmp_path / "b")
    whole.run(40)
    found = whole.trials()
    within = found[found.within]
    until = sorted(within.error)[3]
    first = int(within.trial[within.error <= until].iloc[0])
    study.run(until=until)
    expected = (first // 4 + 1) * 4  # the batch is told whole
    assert len(study.trials()) == expected
    assert table(study).equals(table(whole)[:expected])
    ended = study.status().ended
    assert ended["by"] == "until" and ended["said"].endswith("was asked for")
    again = Study.open(study.path, model=MODEL, task=TASK, evaluator=Instant(SPACE))
    again.run(40, until=until)
    assert len(again.trials()) == expected, "what was reached before adds no trial"
    again.run(40)
    assert table(again).equals(table(whole)) and again.status().ended["by"] == "trials"


def test_a_front_that_stands_still_ends_it(tmp_path):
    study = create(tmp_path / "s")
    study.run(400, patience=8)
    count, ended = len(study.trials()), study.status().ended
    assert 8 < count < 400 and count % 4 == 0
    assert ended == {"by": "patience", "said": "8 trials in a row brought the front no further"}


def test_seconds_end_it_and_count_over_all_runs(tmp_path):
    study = create(tmp_path / "s", evaluator=Slow(SPACE), batch=16)
    study.run(seconds=1)
    rows = study.trials()
    assert len(rows) <= 16 and rows.evaluated.sum() < 16, "no trial of a batch begins after them"
    assert study.status().ended["by"] == "seconds"
    study.run(seconds=1)
    assert study.trials().evaluated.sum() == rows.evaluated.sum(), "they are over"
    study.run(16)
    whole = create(tmp_path / "whole", batch=16)
    whole.run(16)
    assert table(study).equals(table(whole)), "and nothing is lost by them"


def test_what_ends_nothing_is_refused(tmp_path):
    study = create(tmp_path / "s")
    for given, said in (
        ({}, "nothing says when"),
        ({"trials": 0}, "trials=0"),
        ({"trials": True}, "trials=True"),
        ({"seconds": 0}, "seconds=0"),
        ({"until": "3%"}, "until='3%'"),
        ({"patience": 0}, "patience=0"),
        ({"patience": 10**400}, "patience: given a number of 401 digits; expected 64 bits"),
        ({"trials": 2**63}, "trials: given a number of 19 digits; expected 64 bits"),
    ):
        with pytest.raises(ValueError, match=said):
            study.run(**given)
    assert study.status().ended is None and study.trials().empty


def test_what_raised_is_said(tmp_path):
    study = create(tmp_path / "s", evaluator=lambda build, **rest: 1 / 0)
    with pytest.raises(RuntimeError, match="failed alike"):
        study.run(20)
    ended = study.status().ended
    assert ended["by"] == "error" and "ZeroDivisionError" in ended["said"]


def test_candidates_are_seeds(tmp_path):
    own = SPACE.smallest, Candidate((*SPACE.smallest[:-1], SPACE.full[-1]))
    study = create(tmp_path / "s", seeds=("full", list(own[0]), own[1], "compound"))
    study.run(6)
    rows = study.trials()
    assert list(rows.source[:4]) == ["seed:full", "seed:given", "seed:given", "seed:compound"]
    assert list(rows.key[1:3]) == [SPACE.canonical(one).key for one in own]
    assert Study.open(study.path, model=MODEL, task=TASK, evaluator=Instant(SPACE)).search.seeds == study.search.seeds


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        ([1, 2], "expected|axes"),
        ([1.5, 2], "a list of whole numbers"),
        ("fulll", "did you mean 'full'"),
        (SPACE.full, "over the budget"),
    ],
)
def test_a_seed_that_is_none_is_refused(tmp_path, seed, said):
    with pytest.raises(ValueError, match=said):
        create(tmp_path / "s", seeds=("full", seed))
    assert not (tmp_path / "s").exists()
