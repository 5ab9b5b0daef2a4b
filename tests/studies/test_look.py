"""A study seen from its folder alone: the same as the study says, and nothing is written or run there."""

import pandas as pd
import pytest
import sleeper
from study_file import write

from secateur.__main__ import main
from secateur.studies.look import Look


def files(folder):
    """What is in the folder, and when it was written; SQLite keeps its log beside a database that is open."""
    found = (path for path in folder.rglob("*") if not path.name.endswith(("-shm", "-wal")))
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def test_it_says_what_the_study_says(tmp_path):
    study = sleeper.create(tmp_path / "s", 0.0)
    study.run(6)
    before = files(study.path)
    look = Look(study.path)
    pd.testing.assert_frame_equal(look.trials(), study.trials())
    pd.testing.assert_frame_equal(look.front(), study.front())
    seen, said = look.status().as_dict(), study.status().as_dict()
    assert {name for name in said if seen[name] != said[name]} <= {"goal", "drivers", "gpus", "left_s"}
    assert (seen["goal"], seen["drivers"]) == (6, []) and look.path == study.path
    assert files(study.path) == before
    study.run(8)
    assert look.status().told == 6
    look.refresh()
    assert look.status().told == 8 and len(look.trials()) == 8


def test_a_report_of_it_runs_no_code_of_the_folder(tmp_path, capsys):
    pytest.importorskip("plotly", reason="the report extra is not installed")
    pytest.importorskip("matplotlib", reason="the report extra is not installed")
    file = write(tmp_path, "look_tiny") / "study.toml"
    assert main(["search", str(file), "--out", str(tmp_path / "s"), "--quiet"]) == 0
    (tmp_path / "look_tiny.py").write_text("raise SystemExit('it was run')")
    before = files(tmp_path / "s")
    page = Look(tmp_path / "s").report(tmp_path / "a.html", pictures=tmp_path / "png")
    assert "no code of the study was run" in page.read_text() and (tmp_path / "png" / "front.png").is_file()
    assert files(tmp_path / "s") == before


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no study"):
        Look(tmp_path)
