"""Artifacts beside the folder: copied as they come, fetched where they lack, and never in the way of a search."""

import logging
import shutil

import fsspec
import pandas as pd
import pytest
from killing import table
from landscapes import searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study
from secateur.studies.disk.artifact_mirror import ArtifactMirror

MODEL, TASK = tiny_net(), tiny_task()
SPACE = tiny_space(MODEL)


def create(path, **changes):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.5), "threads": 1, "batch": 2}
    training = tiny_training(shared_epochs=1, round_epochs=1, shared_networks=1)
    return Study.create(path, **searching({**given, "training": training, "seeds": ("full",), **changes}))


def reopen(path):
    return Study.open(path, model=MODEL, task=TASK)


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    yield f"file://{tmp_path}/mirror" if request.param == "file" else "memory://mirror"
    fsspec.filesystem("memory").store.clear()


def test_what_a_folder_gets_is_copied_and_what_it_lacks_is_fetched(tmp_path, url):
    first, second = tmp_path / "a", tmp_path / "b"
    for name in ("weights/trial-3.safetensors", "rankings/l1-0a.safetensors", "weights/round-1.state"):
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        (first / name).write_bytes(name.encode())
    mirror = ArtifactMirror(first, url)
    mirror.push()
    assert mirror.names() == ["rankings/l1-0a.safetensors", "weights/trial-3.safetensors"]
    second.mkdir()
    other = ArtifactMirror(second, url)
    other.pull(["weights/trial-3.safetensors", "weights/trial-4.safetensors"])
    assert (second / "weights/trial-3.safetensors").read_bytes() == b"weights/trial-3.safetensors"
    assert len([path for path in second.rglob("*") if path.is_file()]) == 1
    mirror.remove(["weights/trial-3.safetensors"])
    assert mirror.names() == ["rankings/l1-0a.safetensors"]


def test_names_lead_nowhere_else(tmp_path, url):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "s" / "weights").mkdir(parents=True)
    mirror = ArtifactMirror(tmp_path / "s", url)
    mirror.pull(["../secret", "weights/../../secret", "weights/.hidden", "study.json"])
    mirror.remove(["../secret", "weights/../../secret"])
    assert [path for path in (tmp_path / "s").rglob("*") if path.is_file()] == []
    assert (tmp_path / "secret").read_text() == "mine"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bucket/study", "expected a path such as"),
        ("sftp://ann:s3cret@host/study", "holds a password"),
        ("nosuchthing://study", "can't be used"),
    ],
)
def test_what_is_no_path_is_refused_before_anything_is_made(tmp_path, url, said):
    with pytest.raises(ValueError, match=said) as refused:
        create(tmp_path / "s", sampler="random", artifacts=url)
    assert "s3cret" not in str(refused.value) and not (tmp_path / "s").exists()


def test_a_copied_folder_without_its_weights_goes_on(tmp_path):
    url = f"file://{tmp_path}/mirror"
    straight = create(tmp_path / "a", sampler="three-dimensions")
    straight.run(9)
    create(tmp_path / "b", sampler="three-dimensions", artifacts=url).run(4)
    shutil.copytree(tmp_path / "b", tmp_path / "c", ignore=shutil.ignore_patterns("weights"))
    again = reopen(tmp_path / "c")
    again.run(9)
    pd.testing.assert_frame_equal(table(straight), table(again))


def test_a_path_that_is_away_stops_no_search(tmp_path, caplog, monkeypatch):
    study = create(tmp_path / "s", sampler="three-dimensions", artifacts="memory://mirror")

    def refuse(self, *given, **named):
        raise OSError("no route to the bucket")

    with monkeypatch.context() as patch:
        for name in ("put_file", "exists", "isdir"):
            patch.setattr(type(fsspec.filesystem("memory")), name, refuse)
        study.run(4)
    assert [record.levelno for record in caplog.records if "no route" in record.message] == [logging.WARNING]
    assert ArtifactMirror(tmp_path / "s", "memory://mirror").names() == []
    study.run(6)
    assert len(ArtifactMirror(tmp_path / "s", "memory://mirror").names()) >= 5, "what was not copied is copied later"
    fsspec.filesystem("memory").store.clear()
