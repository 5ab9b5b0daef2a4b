"""What docs/formats.md says about folders of older and newer versions."""

import json

import pytest
from landscapes import Instant, tiny_net, tiny_space, tiny_task

from secateur import Budget, Search, Study, load
from secateur.studies.exports.digests import seal
from secateur.studies.views.view import View


@pytest.fixture(scope="module")
def parts():
    model = tiny_net()
    return model, tiny_space(model), tiny_task()


@pytest.fixture
def folder(parts, tmp_path):
    model, space, task = parts
    made = tmp_path / "study"
    Study.create(
        made,
        model=model,
        task=task,
        space=space,
        budget=Budget(macs=0.5),
        search=Search(evaluator=Instant(space), sampler="random"),
    ).run(3)
    return made


def changed(folder, change):
    found = json.loads((folder / "study.json").read_text())
    change(found)
    (folder / "study.json").write_text(json.dumps(found))
    return folder


def opened(folder, parts):
    model, space, task = parts
    return Study.open(folder, model=model, task=task, evaluator=Instant(space))


def test_a_study_that_lacks_later_settings_goes_on_and_can_be_looked_at(folder, parts):
    def older(found):
        del (
            found["artifacts"],
            found["settings"]["early_stopping"],
            found["settings"]["evaluator"],
            found["settings"]["latency"],
        )
        for name in ("distillation", "temperature", "shared_epochs", "round_epochs", "shared_networks"):
            del found["settings"]["training"][name]

    study = opened(changed(folder, older), parts)
    assert study.training.distillation == 0, "networks had no teacher then"
    study.run(5)
    assert len(study.trials()) == 5
    assert View(folder).status().told == 5


def test_what_a_newer_study_of_the_same_version_adds(folder, parts):
    changed(folder, lambda found: found["settings"].update(novel=1))
    assert len(opened(folder, parts).trials()) == 3
    changed(folder, lambda found: found["settings"]["training"].update(novel=1))
    assert View(folder).status().told == 3
    with pytest.raises(ValueError, match="novel"):
        opened(folder, parts)


def test_a_study_of_version_1_goes_on(folder, parts):
    study = opened(changed(folder, lambda found: found.update(format_version=1)), parts)
    study.run(5)
    assert len(study.trials()) == 5 and View(folder).status().told == 5


@pytest.mark.parametrize("version", [0, 4])
def test_another_version_of_a_study_is_refused(folder, parts, version):
    changed(folder, lambda found: found.update(format_version=version))
    for look in (View, lambda path: opened(path, parts)):
        with pytest.raises(ValueError, match=f"format version {version}.*use the one that made it"):
            look(folder)


def test_a_network_that_is_followed_otherwise_is_named(folder, parts):
    changed(folder, lambda found: found["fingerprint"].update(space="of another secateur"))
    with pytest.raises(ValueError, match="another study: space is"):
        opened(folder, parts)


def test_exports_of_older_and_newer_versions(folder, parts, tmp_path):
    (made,) = opened(folder, parts).export(tmp_path / "out", finetune_epochs=0, formats=["safetensors", "pt2"])
    config = json.loads((made / "config.json").read_text())
    plain = {name: value for name, value in config.items() if name not in ("files", "digest")}
    for version in (0, 1):
        other = plain | {"format_version": version, "novel": 1}
        (made / "config.json").write_text(json.dumps(other))  # exports had no digests at first
        load(made, model=parts[0])
        seal(made, other)
        load(made, model=parts[0])
    for other in (config, plain):  # its digests may mean something else, so the version is looked at first
        (made / "config.json").write_text(json.dumps(other | {"format_version": 2}))
        with pytest.raises(ValueError, match="format version 2.*upgrade secateur"):
            load(made)
