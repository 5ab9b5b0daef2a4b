"""New study files, single keys that are changed, and the list of all keys."""

import os
import pty
import tomllib

import pytest
import study_file

from secateur.__main__ import main
from secateur.studies.study_files.file import read
from secateur.studies.study_files.initial import text_of
from secateur.studies.study_files.keys import TABLES, keys
from secateur.studies.study_files.tables import changed


def refused(capsys, *arguments):
    assert main([str(one) for one in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("secateur: error: ") and error.count("\n") == 1, error
    return error


def test_a_new_file_is_read_and_every_comment_is_a_key_of_it(tmp_path, capsys):
    study_file.write(tmp_path)
    made = tmp_path / "new.toml"
    given = ["--model", "cli_tiny:Tiny", "--data", tmp_path / "images.npz", "--budget", "macs=0.4", "--trials", "3"]
    assert main([str(one) for one in ["init", made, *given, "--resolutions", "8,6", "--set", "space.divisor=2"]]) == 0
    assert capsys.readouterr().out.strip() == str(made)
    file = read(made)
    assert (file.data.reader, file.data.path, file.budget.macs, file.study.trials) == ("npz", "images.npz", 0.4, 3)
    assert file.model.train and file.space.divisor == 2 and file.space.resolutions == (8, 6)
    lines = made.read_text().splitlines()
    bare = [line.removeprefix("# ") if " = " in line and line.startswith("# ") else line for line in lines]
    whole = tomllib.loads("\n".join(line for line in bare if not line.startswith("#") and "reader =" not in line))
    known = {table: {one.name for kind in TABLES[table] for one in keys(kind)} for table in whole}
    assert all(set(whole[table]) - {"kind"} <= known[table] for table in whole)
    assert main(["trace", str(made), "--quiet"]) == 0


def test_a_factory_of_data_has_no_keys_of_a_reader():
    text = text_of({"model": "a:b", "data": {"factory": "a:task"}})
    assert "reader" not in text and tomllib.loads(text)["model"] == {"factory": "a:b"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "mnist5k"], "--model is not given"),
        (["--model", "a:b"], "--data is not given"),
        (["--model", "a:b", "--data", "nowhere"], "--data 'nowhere': expected a folder"),
        (["--model", "ab", "--data", "mnist5k"], "expected 'package.module:name'"),
        (["--model", "a:b", "--data", "mnist5k", "--mean", "x"], "--mean 'x': expected numbers"),
        (["--model", "a:b", "--data", "mnist5k", "--checkpoint", "none.pt"], "--checkpoint none.pt is no file"),
        (["--model", "a:b", "--data", "mnist5k", "--set", "training.lrr=1"], "unknown key 'lrr'; did you mean 'lr'?"),
        (["--model", "a:b", "--data", "mnist5k", "--set", "lr=1"], "expected TABLE.NAME=VALUE"),
    ],
)
def test_what_is_wrong_leaves_no_file(tmp_path, capsys, arguments, said):
    assert said in refused(capsys, "init", tmp_path / "s.toml", *arguments)
    assert not (tmp_path / "s.toml").exists()


def test_a_file_that_is_there_stays(tmp_path, capsys):
    (tmp_path / "s.toml").write_text("mine")
    assert "is there already" in refused(capsys, "init", tmp_path / "s.toml", "--model", "a:b", "--data", "mnist5k")
    assert (tmp_path / "s.toml").read_text() == "mine"
    assert "ends in .toml" in refused(capsys, "init", tmp_path / "s", "--model", "a:b", "--data", "mnist5k")


def test_questions_at_a_terminal(tmp_path, monkeypatch, capsys):
    ours, theirs = pty.openpty()
    os.write(ours, b"nets:net\n\nmnist5k\nparams=5000\n")
    with open(theirs, closefd=False) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        assert main(["init", str(tmp_path / "s.toml")]) == 0
    os.close(ours)
    os.close(theirs)
    file = read(tmp_path / "s.toml")
    assert (file.model.factory, file.model.train, file.data.reader, file.budget.params) == (
        *("nets:net", True, "mnist5k"),
        5000,
    )


def test_single_keys():
    tables = {"model": "a:b", "space": {"rules": {"x.*": "ignore"}}}
    found = changed(tables, ["model.train=true", 'space.rules."y.*".least=0.5', "study.sampler=tpe", "space.ignore=[]"])
    assert found == {
        "model": {"factory": "a:b", "train": True},
        "space": {"rules": {"x.*": "ignore", "y.*": {"least": 0.5}}, "ignore": []},
        "study": {"sampler": "tpe"},
    }
    assert tables == {"model": "a:b", "space": {"rules": {"x.*": "ignore"}}}
    for wrong in (["lr=1"], ["training.lr"], ["training.lr=1", "training.lr=2"], ["space.a*b=1"]):
        with pytest.raises(ValueError, match="--set"):
            changed({}, wrong)


def test_the_list_of_keys_is_that_of_the_file():
    """Every key with what it is and what it means, and a file of all defaults has no other."""
    for table, kinds in TABLES.items():
        for kind in kinds:
            for one in keys(kind):
                assert one.text and one.kind, (table, one.name)
    file = read("mnist")
    for table, values in tomllib.loads(file.to_toml()).items():
        if isinstance(values, dict):
            known = {one.name for kind in TABLES[table] for one in keys(kind)}
            assert set(values) - {"kind"} <= known, table
