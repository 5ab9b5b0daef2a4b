"""A study seen from its folder alone: the same as the study says, and nothing is written, run or sent."""

import gc
import json
import os
import shutil
import socket
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
import sleeper
from study_file import write

from secateur.__main__ import main
from secateur.studies.look import Look
from secateur.studies.trials.looking import _copy


def files(folder):
    """What is in the folder, and when it was written."""
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    study = sleeper.create(tmp_path_factory.mktemp("look") / "s", 0.0)
    study.run(4)
    return study.path


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "s"))


def edited(folder, **changes):
    said = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps(said | changes))


def looks(folder, capsys, *options):
    """Exit codes and all that is said of every way to look."""
    codes = [main([*way, str(folder), *options]) for way in (["status"], ["status", "--json"], ["front"], ["report"])]
    return codes, "".join(capsys.readouterr())


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
    gc.collect()  # the study of this process closes its database
    before = files(tmp_path / "s")
    page = Look(tmp_path / "s").report(tmp_path / "a.html", pictures=tmp_path / "png")
    assert "no code of the study was run" in page.read_text() and (tmp_path / "png" / "front.png").is_file()
    assert files(tmp_path / "s") == before


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_storage_elsewhere_is_left_as_it_is(folder, tmp_path, capsys, kind):
    place = tmp_path / "elsewhere" / "mine"
    place.parent.mkdir()
    if kind == "sqlite":
        with closing(sqlite3.connect(place)) as database:
            database.execute("create table mine (a)")
    else:
        place.write_text("dear diary\n")
    before, held = files(place.parent), place.read_bytes()
    edited(folder, storage=f"sqlite:///{place}" if kind == "sqlite" else f"journal:{place}")
    codes, said = looks(folder, capsys)
    assert codes == [2] * 4 and str(place) in said
    assert files(place.parent) == before and place.read_bytes() == held


def test_a_server_is_asked_only_where_the_user_says_so(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        port = server.getsockname()[1]
        edited(folder, storage=f"postgresql://x@127.0.0.1:{port}/x")
        codes, said = looks(folder, capsys)
        assert codes == [2] * 4 and said.count("add --connect") == 4
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("name", ["study.json", "study.db", "study.db-wal", "driver.json", "study.toml"])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_pipe_or_a_device_is_not_waited_for(folder, capsys, name, what):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name) if what == "pipe" else (folder / name).symlink_to("/dev/zero")
    done = threading.Event()
    threading.Thread(target=lambda: (main(["status", str(folder)]), done.set()), daemon=True).start()
    assert done.wait(20), "it hangs"
    said = "".join(capsys.readouterr())
    assert "a pipe, a device or a link to one" in said or name in ("driver.json", "study.toml")


def test_control_characters_are_shown_as_escapes(folder, capsys):
    bad = "\x1b]0;title\x07\x1b[31mred \u202eabc\r\x9b2J"
    with closing(sqlite3.connect(folder / "study.db")) as data:
        (row, trial), *_ = data.execute(
            "select trial_user_attribute_id, trial_id from trial_user_attributes where key='outcome'"
        ).fetchall()
        failed = json.dumps({"kind": "failed", "reason": bad, "seconds": 1.0})
        data.execute("update trial_user_attributes set value_json=? where trial_user_attribute_id=?", (failed, row))
        data.execute("update trials set state='FAIL' where trial_id=?", (trial,))
        data.commit()
    settings = json.loads((folder / "study.json").read_text())["settings"]
    edited(folder, settings=settings | {"sampler": bad})
    codes, said = looks(folder, capsys)
    assert codes == [0] * 4 and r"\x1b[31mred \u202eabc" in said
    assert not [one for one in said if not one.isprintable() and one != "\n"]


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"objectives": ["error", 3]}},
        {"settings": {"objectives": []}},
        {"full_costs": {"macs": "many"}},
        {"axes": [["width:conv1", ["a"]]]},
        {"storage": "sqlite://"},
        {"storage": "oracle://host/x"},
        {"name": "another"},
    ],
)
def test_a_folder_that_was_edited_is_one_line(folder, capsys, changes):
    edited(folder, **changes)
    assert main(["status", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("secateur: error: ") and said.count("\n") == 1 and "not foreseen" not in said


def test_an_objective_that_no_trial_has_is_one_line(folder, capsys):
    said = (folder / "study.json").read_text()
    (folder / "study.json").write_text(said.replace('"macs"', '"oacs"'))
    for way in (["front"], ["front", "--csv"], ["front", "--json"], ["report"]):
        assert main([*way, str(folder)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "damaged or was edited" in said and "not foreseen" not in said
    with pytest.raises(ValueError, match="damaged or was edited"):
        Look(folder).front()


def test_a_database_is_copied_whole_while_it_is_written(whole, tmp_path):
    """Every copy is of one moment: rows that were committed together are there together."""
    place, stop = tmp_path / "busy.db", threading.Event()
    with closing(sqlite3.connect(place)) as database:
        database.executescript("pragma journal_mode=wal; pragma wal_autocheckpoint=4; create table t (n, filling)")
    began = threading.Event()

    def write():
        with closing(sqlite3.connect(place)) as database:
            while not stop.is_set():
                with database:
                    database.executemany("insert into t values (?, ?)", [(n, "x" * 900) for n in range(7)])
                began.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert began.wait(20)
        for number in range(20):
            _copy(place, tmp_path / f"copy{number}")
            with closing(sqlite3.connect(tmp_path / f"copy{number}")) as database:
                assert database.execute("pragma integrity_check").fetchone() == ("ok",)
                assert database.execute("select count(*) % 7 from t").fetchone() == (0,)
    finally:
        stop.set()
        writer.join()


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no study"):
        Look(tmp_path)
