"""What a user meets every day: single keys at the command line, a project that moved, progress, notebooks, the log."""

import logging
import os
import shutil
import subprocess
import sys
import types

import pytest
import study_file
from landscapes import Instant, tiny_net, tiny_space, tiny_task

import secateur as sc
from secateur.__main__ import main
from secateur.studies.study_files.file import read
from secateur.studies.views.progress import listening


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with its study inside it."""
    root = tmp_path_factory.mktemp("every") / "project"
    root.mkdir()
    place = study_file.write(root, "moved_tiny")
    given = ["--set", "training.base_epochs=1", "--set", "study.trials=2", "--set", "training.lr=0.01"]
    assert main(["search", str(place / "study.toml"), "--out", str(place / "runs" / "a"), "--quiet", *given]) == 0
    return place


@pytest.fixture
def study():
    model = tiny_net()
    return model, tiny_space(model), tiny_task()


def made(study, folder):
    model, space, task = study
    search = sc.Search(evaluator=Instant(space), sampler="random")
    return sc.Study.create(folder, model=model, task=task, space=space, budget=sc.Budget(macs=0.5), search=search)


def test_keys_are_changed_and_kept(project):
    file = read(project / "runs" / "a")
    assert (file.training.base_epochs, file.training.lr, file.study.trials) == (1, 0.01, 2)
    assert read(project / "study.toml").training.base_epochs == 2, "the user's file stays"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "training.lr=0.5"], "[training] lr = 0.5, and was 0.01"),
        (["--set", "space.divisor=4"], "[space] divisor = 4, and was 2"),
        (["--set", "study.trails=4"], "did you mean 'trials'?"),
        (["--set", "trials=4"], "expected TABLE.NAME=VALUE"),
        (["--base", "nowhere"], "--base nowhere is no folder"),
        (["--device", "cuda"], "device is"),
        (["--device", "tpu"], "expected 'auto', 'cpu', 'cuda' or 'cuda:N'"),
    ],
)
def test_what_may_not_change_on_the_way_is_said(project, capsys, arguments, said):
    before = (project / "runs" / "a" / "study.toml").read_text()
    assert main(["resume", str(project / "runs" / "a"), "--quiet", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error
    assert (project / "runs" / "a" / "study.toml").read_text() == before


def test_prune_tells_keys_of_the_file_from_settings_of_the_method(project, tmp_path, capsys):
    keys = ["--set", "normalise=none", "--set", "training.batch=8", "--device", "cpu", "--finetune-epochs", "0"]
    given = ["--method", "l2", "--out", str(tmp_path / "p"), "--quiet", *keys]
    assert main(["prune", str(project / "runs" / "a"), *given]) == 0
    assert main(["prune", str(project / "runs" / "a"), *given[:-6], "--set", "a.b=1"]) == 2
    assert "unknown" in capsys.readouterr().err


def test_a_copied_project_is_its_own_and_a_copied_study_stays_with_its_code(project, tmp_path):
    copy, code = tmp_path / "copy", "moved_tiny.py"
    shutil.copytree(project, copy)
    assert (project / code).is_file(), "the study's file names a module that lies in the project"
    assert read(copy / "runs" / "a").folder == copy
    (copy / code).unlink()
    assert read(copy / "runs" / "a").folder == project
    assert read(shutil.copytree(project / "runs" / "a", tmp_path / "far" / "off" / "a")).folder == project
    assert read(project / "runs" / "a").folder == project


def test_a_moved_project_goes_on(project, tmp_path):
    moved = shutil.move(project, tmp_path / "elsewhere")
    assert main(["resume", f"{moved}/runs/a", "--trials", "3", "--quiet", "--set", "budget.macs=0.55"]) == 0
    assert read(f"{moved}/runs/a").budget.macs == 0.55
    alone, again = shutil.move(f"{moved}/runs/a", tmp_path / "alone"), shutil.move(moved, tmp_path / "again")
    assert main(["resume", str(alone), "--trials", "4", "--quiet", "--base", str(again)]) == 0
    assert main(["export", str(alone), "--to", str(tmp_path / "o"), "--finetune-epochs", "0", "--quiet"]) == 0


def test_shells_complete_commands():
    told = {"COMP_WORDS": "secateur st", "COMP_CWORD": "1", "_SECATEUR_COMPLETE": "complete_bash"}
    ran = subprocess.run([sys.executable, "-m", "secateur"], capture_output=True, text=True, env={**os.environ, **told})
    assert (ran.returncode, ran.stdout.split(), ran.stderr) == (0, ["status"], "")


# --- progress, the log, notebooks -------------------------------------------------------------------------------------


def test_the_log_has_a_line_a_trial(study, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "secateur"):
        made(study, tmp_path / "a").run(3)
    lines = [one.getMessage() for one in caplog.records if one.name == "secateur.trials"]
    assert [line.split()[0] for line in lines] == ["1/3", "2/3", "3/3"] and "best" in lines[-1]


def test_progress_is_a_bar_at_a_terminal_and_nothing_elsewhere_or_when_off(study, tmp_path, monkeypatch, capsys):
    made(study, tmp_path / "a").run(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    made(study, tmp_path / "b").run(2)
    assert "2/2 trials" in capsys.readouterr().err
    made(study, tmp_path / "c").run(2, progress=None)
    assert capsys.readouterr().err == ""


def test_progress_in_a_notebook_replaces_one_line(monkeypatch):
    shown = []

    class Handle:
        def update(self, one):
            shown[-1] = one

    class ZMQInteractiveShell:
        pass

    display = types.ModuleType("IPython.display")
    display.HTML = str
    display.display = lambda one, display_id: shown.append(one) or Handle()
    notebook = types.ModuleType("IPython")
    notebook.get_ipython = ZMQInteractiveShell
    notebook.display = display
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    from secateur.studies.trials.events import Epoch

    with listening("auto") as told:
        for epoch in (1, 2):
            told(Epoch(of="<b>", done=epoch, total=4, loss=0.5))
    assert shown == ['<progress max="4" value="2"></progress> &lt;b&gt;: epoch 2/4, loss 0.5000']


def test_what_is_no_listener_is_refused(study, tmp_path):
    with pytest.raises(TypeError, match="progress='bar': expected a function"):
        made(study, tmp_path / "a").run(1, progress="bar")


def test_notebooks_show_space_study_and_front(study, tmp_path):
    found = made(study, tmp_path / "a")
    assert "the front is empty" in found._repr_html_() or "none yet" in found._repr_html_()
    found.run(4)
    front = found.front()
    for shown in (front._repr_html_(), found._repr_html_(), sc.Study.look(tmp_path / "a")._repr_html_()):
        assert shown.count("<circle") == len(front) + 1 and "ring: the full network" in shown and "<table" in shown
    assert type(front[["trial", "error"]]).__name__ == "DataFrame"
    html = study[1]._repr_html_()
    assert html.count("<rect") == 2 * len(study[1].groups) and "costs of one example" in html
