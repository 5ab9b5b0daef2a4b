"""What an installed package adds is usable by its name: in a study file, as a seed, and alone."""

import json
import os
import subprocess
import sys

import installed
import pytest
from study_file import STUDY, write


def secateur(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-P", "-m", "secateur", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_a_study_uses_them_by_name(tmp_path):
    write(tmp_path, "installed_net")
    installed.install(tmp_path)
    text = STUDY.format(module="installed_net").replace("trials = 6", 'trials = 4\nseeds = ["full", "thin", "spread"]')
    study = tmp_path / "study.toml"
    study.write_text(text.replace('sampler = "random"', 'sampler = "spin"'))
    run = secateur(tmp_path, "search", study, "--out", tmp_path / "run", "--quiet")
    assert run.returncode == 0, run.stderr
    settings = json.loads((tmp_path / "run" / "study.json").read_text())["settings"]
    assert settings["sampler"] == "spin" and settings["seeds"] == ["full", "thin", "spread"]
    resumed = secateur(tmp_path, "resume", tmp_path / "run", "--trials", "5", "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    options = ["--budget", "macs=0.5", "--finetune-epochs", "0", "--json", "--quiet", "--out", tmp_path / "thin"]
    pruned = secateur(tmp_path, "prune", tmp_path / "run", "--method", "thin", "--set", "start=0.9", *options)
    assert json.loads(pruned.stdout)["method"] == "thin"
    broken = secateur(tmp_path, "prune", tmp_path / "run", "--method", "gone", *options[:-1], tmp_path / "gone")
    assert broken.returncode == 2 and "'gone' of the package mine 1.5" in broken.stderr
