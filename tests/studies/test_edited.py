"""A study file that says something else than its study was made with, and files of trials that are lost."""

import shutil
from pathlib import Path

import pytest
import study_file

from secateur.__main__ import main
from secateur.studies.launch import open_study
from secateur.studies.outcomes.work import Job, perform
from secateur.studies.trials.trial import Failed


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    place = study_file.write(tmp_path_factory.mktemp("edited"), "edited_tiny")
    text = (place / "study.toml").read_text().replace("base_epochs = 2", "base_epochs = 0")
    (place / "study.toml").write_text(text.replace("trials = 6", "trials = 2"))
    assert main(["search", str(place / "study.toml"), "--out", str(place / "run"), "--quiet"]) == 0
    return place / "run"


@pytest.fixture
def run(searched, tmp_path):
    return Path(shutil.copytree(searched, tmp_path / "run"))


def replaced(run, before, after):
    text = (run / "study.toml").read_text()
    assert before in text
    (run / "study.toml").write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("lr = ", "lr = 0.9 # ", "[training] lr = 0.9, and was"),
        ("\nseed = 0\nthreads", "\nseed = 7\nthreads", "[study] seed = 7"),
        ("divisor = 2", "divisor = 4", "[space] divisor = 4, and was 2"),
        ("resolutions = [", "resolutions = [7, ", "[space] resolutions"),
        ('sampler = "random"', 'sampler = "tpe"', '[study] sampler = "tpe", and was "random"'),
        ("train = true", "train = false", "[model] train = false"),
        ("recalibration_images = 32", "recalibration_images = 33", "[training] recalibration_images"),
        ("batch = 16", "batch = 8", "is another study: task is"),
        ("[study]\n", '[study]\nstorage = "journal:other.log"\n', '[study] storage = "journal:other.log", and was not'),
        ("[study]\n", '[study]\nartifacts = "memory://other"\n', "[study] artifacts"),
    ],
)
def test_an_edit_is_refused_by_name(run, capsys, before, after, said):
    if "seed" in before:
        before, after = "seed = 0", "seed = 7"
        text = (run / "study.toml").read_text()
        head, table, rest = text.partition("[study]")
        (run / "study.toml").write_text(head + table + rest.replace(before, after, 1))
    else:
        replaced(run, before, after)
    assert main(["resume", str(run), "--trials", "3", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


def test_an_edited_study_is_not_exported(run, capsys):
    replaced(run, "divisor = 2", "divisor = 4")
    assert main(["export", str(run), "--to", str(run.parent / "out"), "--quiet"]) == 2
    assert "[space] divisor = 4, and was 2" in capsys.readouterr().err and not (run.parent / "out").exists()


def test_what_may_change_does(run, capsys):
    replaced(run, "macs = 0.6", "macs = 0.7")
    replaced(run, "trials = 2", "trials = 3")
    assert main(["resume", str(run), "--quiet"]) == 0
    assert len(open_study(run).trials()) == 3 and open_study(run).budget.macs == 0.7


def test_a_study_of_before_is_not_held_against_its_file(run):
    study = open_study(run)
    study._ledger.note("study_file", None)
    replaced(run, "recalibration_images = 32", "recalibration_images = 33")
    open_study(run)


def test_whose_code_runs_is_said_once_and_not_when_it_is_trusted(searched, capsys, monkeypatch):
    from secateur.studies.study_files import parts

    for words, said in ((["--trust"], False), ([], True)):
        monkeypatch.setattr(parts, "_SAID", set())
        assert main(["trace", str(searched / "study.toml"), *words]) == 0
        error = capsys.readouterr().err
        assert (
            error.count(f"runs the code of edited_tiny, as the study file says of its model: {searched.parent}") == said
        )


def test_a_file_that_is_lost_or_damaged_is_no_failed_trial(run):
    """The trial stays as it is, so that the search goes on when the file is back."""
    study = open_study(run)
    artifacts = study._engine.work({}).evaluation.artifacts
    trained = {name: value for name, value in study.model.state_dict().items()}
    artifacts.keep_trained(0, study.space.full, trained)
    path = run / "weights" / "trial-0.safetensors"
    whole = path.read_bytes()
    artifacts.check(study._ledger.trials[0].ranking, "trial:0")
    for spoiled in (whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], whole[:-3], None):
        path.unlink() if spoiled is None else path.write_bytes(spoiled)
        with pytest.raises(ValueError, match=r"trial-0\.safetensors (holds other tensors|is damaged|is missing)"):
            artifacts.check(study._ledger.trials[0].ranking, "trial:0")


def test_user_code_that_leaves_is_a_failed_trial(run):
    def leaving():
        raise SystemExit(0)

    study = open_study(run)
    end = perform(lambda *given: leaving(), Job(trial=study._ledger.trials[0]), lambda event: None)
    assert isinstance(end.outcome, Failed) and "called sys.exit(0)" in end.outcome.reason
