"""What a worker does with a job, whoever runs the worker."""

import cloudpickle
import pytest
from landscapes import Instant, tiny_net, tiny_space
from scripted import Sleeper, Wide, create, job

from secateur.studies.disk.artifacts import place_artifact
from secateur.studies.outcomes.work import Work, Worker
from secateur.studies.runners.executor import SerialExecutor
from secateur.studies.settings.runner import Serial
from secateur.studies.trials.events import Lost


def wide() -> Work:
    return Work(evaluation=Wide(), threads=1, device="cpu")


@pytest.mark.parametrize("gpus", [0, 1, 2, 4])
def test_several_gpus_are_all_trained_on(gpus):
    worker = Worker(wide(), gpus=gpus)
    try:
        report = worker.run(job("measure"), lambda event: None)
    finally:
        worker.close()
    assert report.outcome.attributes["devices"] == (gpus if gpus > 1 else 0)


def test_several_gpus_are_trained_on_in_a_ray_actor_too(monkeypatch):
    pytest.importorskip("ray")
    from secateur.studies.runners.ray.actors import _Actor

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    actor = _Actor(cloudpickle.dumps(wide()), [])
    said = []
    actor.take(job("measure"))
    actor.take(None)
    while not said or not isinstance(said[-1], Lost):
        said += actor.listen()
    ready, _, end, _ = said
    assert ready.worker.gpus == ("4", "7")
    assert end.outcome.attributes["devices"] == 2


def test_its_folder_is_gone_when_it_is_closed():
    worker = Worker(wide())
    assert worker.folder.is_dir()
    worker.close()
    assert not worker.folder.exists()


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "weights/../x", "weights/.x", "other/x", "weights/a/b", "weights\\x"]
)
def test_artifacts_stay_in_their_folders(tmp_path, name):
    with pytest.raises(ValueError, match="is no artifact of a study"):
        place_artifact(tmp_path, name, b"x")
    assert not list(tmp_path.iterdir())


def test_an_executor_brings_its_settings(tmp_path):
    study = create(tmp_path / "study", evaluator=Sleeper(Instant(tiny_space(tiny_net())), 30.0))
    study.run(1, runner=SerialExecutor(Serial(timeout_s=0.2)))
    assert study.trials().reason.tolist() == ["timed out: not finished within 0.2 s"]
