"""How much a study's folder may keep: what goes first, what never goes, and that no search notices."""

import os

import pandas as pd
import pytest
from killing import table
from landscapes import searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study
from secateur.studies.drivers.retention import Retention
from secateur.studies.trials.trial import Scored, Trial

MODEL, TASK = tiny_net(), tiny_task()
SPACE = tiny_space(MODEL)
TINY_GB = 1e-9  # one byte: all goes that may go
LIMITS = {"macs": 10.0}


def create(path, **changes):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.5), "threads": 1, "batch": 2}
    training = tiny_training(shared_epochs=2, round_epochs=1, shared_networks=1)
    return Study.create(path, **searching({**given, "training": training, "seeds": ("full",), **changes}))


def reopen(path):
    return Study.open(path, model=MODEL, task=TASK)


def files(folder):
    found = (path for name in ("weights", "rankings", "exports") for path in (folder / name).glob("*"))
    return {path.relative_to(folder).as_posix() for path in found}


def told(number, error, macs, **changes):
    outcome = None if error is None else Scored(error=error)
    given = {"number": number, "candidate": SPACE.full, "asked": SPACE.full, "source": "sampler", "ranking": "l2:0"}
    given |= {"weights": "inherited", "fidelity": "short", "costs": {"macs": macs}, "outcome": outcome}
    return Trial(**{**given, "told": outcome is not None, **changes})


@pytest.fixture
def folder(tmp_path):
    """1,000 bytes a file, the first the oldest."""
    names = [
        "weights/round-0.safetensors",
        "weights/trial-0.safetensors",
        "weights/trial-1.safetensors",
        "rankings/l1-0a.safetensors",
        "weights/resrep-0b.safetensors",
        "exports/trial-0000-key-epochs-3/finished.safetensors",
        "exports/trial-0002-key-epochs-3/finished.safetensors",
        "weights/trial-2.safetensors",
        "weights/round-1.safetensors",
        "weights/round-2.state",
    ]
    for age, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
        os.utime(path, (1e9 + age, 1e9 + age))
    return tmp_path


def keeping(folder, keep_gb, parents=False):
    return Retention(folder, keep_gb, objectives=("error", "macs"), ranking="l2:0", parents=parents)


def test_the_oldest_go_first_and_no_more_than_must(folder):
    trials = [told(0, 0.5, 9), told(1, 0.5, 8), told(2, 0.1, 1)]
    assert keeping(folder, 10_000 * 1e-9)(trials, LIMITS) == []
    assert keeping(folder, 8_500 * 1e-9)(trials, LIMITS) == [
        "weights/round-0.safetensors",
        "weights/trial-0.safetensors",
    ]
    assert keeping(folder, 8_000 * 1e-9)(trials, LIMITS) == []


def test_what_is_needed_stays(folder, caplog):
    trials = [
        told(0, 0.5, 9, ranking="l1:0a"),  # beaten
        told(1, None, 5, weights="resrep:0b"),  # runs
        told(2, 0.1, 1),  # the front
    ]
    removed = keeping(folder, TINY_GB)(trials, LIMITS)
    assert "round-0" in removed[0] and len(removed) == 5
    assert files(folder) == {
        "weights/resrep-0b.safetensors",
        "exports/trial-0002-key-epochs-3",
        "weights/trial-2.safetensors",
        "weights/round-1.safetensors",
        "weights/round-2.state",
    }
    assert "take 5e-06 GB, and stay" in caplog.text


def test_parents_stay_where_a_sampler_names_them(folder):
    notes = [{"axis": "width", "step": 1}, {"axis": "several", "step": 0}, {"axis": "width", "step": 2}]
    trials = [told(n, 0.5, 9, memory={"secateur:dimensions": note}) for n, note in enumerate(notes)] + [told(3, 0.1, 1)]
    keeping(folder, TINY_GB, parents=True)(trials, LIMITS)
    left = {name for name in files(folder) if "trial-" in name}
    assert {"weights/trial-0.safetensors", "weights/trial-2.safetensors"} <= left
    assert "weights/trial-1.safetensors" not in left


@pytest.mark.parametrize("keep_gb", [0, -1.0, True, "2", float("nan")])
def test_a_bound_that_is_none_is_refused(tmp_path, keep_gb):
    with pytest.raises(ValueError, match="expected a number above 0"):
        keeping(tmp_path, keep_gb)


@pytest.mark.parametrize(
    ("sampler", "trials", "cut"), [pytest.param("joint", 12, 7, marks=pytest.mark.slow), ("three-dimensions", 11, 4)]
)
def test_a_bounded_search_is_the_same_and_resumes(tmp_path, sampler, trials, cut):
    straight, bounded = create(tmp_path / "a", sampler=sampler), create(tmp_path / "b", sampler=sampler)
    straight.run(trials)
    bounded.run(cut, keep_gb=TINY_GB)
    again = reopen(tmp_path / "b")
    again.run(trials, keep_gb=TINY_GB)
    pd.testing.assert_frame_equal(table(straight), table(again))
    assert files(tmp_path / "b") < files(tmp_path / "a")
    again.export(tmp_path / "out", pick="all", finetune_epochs=0, formats=())


def test_a_network_whose_weights_were_removed_is_refused_plainly(tmp_path):
    study = create(tmp_path / "s", sampler="joint")
    study.run(12, keep_gb=TINY_GB)
    removed = study.trials().weights.map(
        lambda name: not (study.path / f"weights/{name.replace(':', '-')}.safetensors").exists()
    )
    assert removed.any()
    with pytest.raises(ValueError, match="removed to stay within keep_gb, or lost"):
        study.export(tmp_path / "out", pick=int(removed.idxmax()), finetune_epochs=0, formats=())
