"""A study that begins with the front of another one."""

import hashlib
import json
import shutil
import socket

import pytest
import study_file
from landscapes import Instant, tiny_net, tiny_space, tiny_task

from secateur import Budget, Search, Space, Study
from secateur.__main__ import main
from secateur.spaces import Candidate

MODEL = tiny_net()
SPACE = tiny_space(MODEL)


def create(path, space=SPACE, budget=None, **search):
    given = {"evaluator": Instant(space), "threads": 1, "seed": 3} | search
    parts = {"model": MODEL, "task": tiny_task(), "space": space, "budget": budget or Budget(macs=0.9)}
    return Study.create(path, **parts, search=Search(**given))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A study of 16 trials."""
    path = tmp_path_factory.mktemp("prior") / "other"
    create(path).run(16)
    return path


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}


def test_its_front_within_the_budget_is_tried_first(other, tmp_path):
    before = digests(other)
    study = create(tmp_path / "new", budget=Budget(macs=0.5), prior=other)
    study.run(8)
    trials, macs = study.trials(), SPACE.full_costs["macs"]
    front = Study.look(other).front()
    front = front[front.macs <= 0.5 * macs]
    seeds = [trial for trial in study._ledger.trials if trial.source.startswith("seed")]
    assert seeds[0].candidate == SPACE.full and len(seeds) == 1 + min(5, len(front))
    wanted = {trial.candidate for trial in Study.look(other)._view.all_trials if trial.number in set(front.trial)}
    assert {one.candidate for one in seeds[1:]} <= wanted
    tried = trials.macs[1 : len(seeds)]
    assert tried.is_monotonic_decreasing and {tried.iloc[0], tried.iloc[-1]} == {front.macs.max(), front.macs.min()}
    assert digests(other) == before, "it is only looked at"


def test_what_was_read_stays_when_the_other_is_gone(other, tmp_path):
    place = shutil.copytree(other, tmp_path / "other")
    whole = create(tmp_path / "whole", prior=place)
    cut = create(tmp_path / "cut", prior=place)
    whole.run(9)
    cut.run(2)
    shutil.rmtree(place)
    again = Study.open(tmp_path / "cut", model=MODEL, task=tiny_task(), evaluator=Instant(SPACE))
    again.run(9)
    said = ["trial", "key", "error", "source"]
    assert again.trials()[said].equals(whole.trials()[said])
    assert again.search.prior == str(place)


def test_seeds_of_ones_own_come_first_and_none_twice(other, tmp_path):
    mine = Study.look(other)._view.all_trials[3].candidate
    study = create(tmp_path / "own", seeds=[mine, "magnitude"], prior=str(other))
    assert study.search.seeds[:2] == (mine, "magnitude")
    assert len(set(study.search.seeds)) == len(study.search.seeds) > 2
    assert all(isinstance(one, Candidate) for one in study.search.seeds[2:])


def test_a_study_file_names_it_beside_itself(other, tmp_path, capsys):
    place = study_file.write(tmp_path, "prior_tiny")
    quick = ["--set", "training.base_epochs=1", "--set", "study.trials=4", "--quiet"]
    assert main(["search", str(place / "study.toml"), "--out", str(place / "a"), *quick]) == 0
    begun = ["--out", str(place / "b"), *quick, "--set", "study.prior='a'"]
    assert main(["search", str(place / "study.toml"), *begun]) == 0
    seeds = Study.look(place / "b")._view._settings["seeds"]
    tried = [list(trial.candidate) for trial in Study.look(place / "a")._view.all_trials]
    assert seeds[0] == "full" and len(seeds) > 1 and all(seed in tried for seed in seeds[1:])
    capsys.readouterr()
    begun = ["--out", str(place / "c"), *quick[:-1], "--set", "study.prior='nowhere'"]
    assert main(["search", str(place / "study.toml"), *begun]) == 2
    said = capsys.readouterr().err
    assert f"prior: {place / 'nowhere'} is no folder" in said and "epoch" not in said, "before the network is trained"
    assert not (place / "c").exists()


def test_priors_that_are_none(other, tmp_path):
    with pytest.raises(FileNotFoundError, match="prior: .*nothing is no folder"):
        create(tmp_path / "s", prior=tmp_path / "nothing")
    with pytest.raises(
        ValueError, match="prior='.*other' is of another space: width:.* is one of .* there, of .* here"
    ):
        create(tmp_path / "s", space=Space.trace(MODEL, *SPACE.inputs(MODEL, SPACE.full), divisor=3), prior=other)
    create(tmp_path / "empty")
    with pytest.raises(ValueError, match="empty' has no evaluated trial; run it first"):
        create(tmp_path / "s", prior=tmp_path / "empty")
    with pytest.raises(ValueError, match="none of its 16 evaluated trials is within macs=.*; give a study of smaller"):
        create(tmp_path / "s", budget=Budget(macs=SPACE.smallest_costs["macs"] + 1), prior=other)
    with pytest.raises(ValueError, match="prior"):
        Search(prior=3)
    served = shutil.copytree(other, tmp_path / "served")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        url = f"postgresql://ann:secret@127.0.0.1:{server.getsockname()[1]}/x"
        said = json.loads((served / "study.json").read_text())
        (served / "study.json").write_text(json.dumps(said | {"storage": url}))
        with pytest.raises(ValueError, match="keeps its trials in postgresql://ann@127.*a prior is read from a folder"):
            create(tmp_path / "s", prior=served)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not (tmp_path / "s").exists()
