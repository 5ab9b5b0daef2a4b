"""One method alone, and methods as the seeds of a search: files, kills, wrong input."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from study_file import STUDY, write

from secateur import load
from secateur.__main__ import main
from secateur.pruners import METHODS, Scored, criterion
from secateur.studies import launch
from secateur.studies.prune import prune, source

TRAINS = [name for name in METHODS if METHODS[name]().needs == "training"]
KINDS = {(type(made), made.needs, made.weights): name for name, made in ((one, METHODS[one]()) for one in METHODS)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("prune"), "prune_tiny")


@pytest.fixture(scope="module")
def run(folder):
    """A finished study, whose network is taken."""
    assert main(["search", str(folder / "study.toml"), "--out", str(folder / "run"), "--trials", "2", "--quiet"]) == 0
    return folder / "run"


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    error = said.err.splitlines()[-1]
    assert said.out == "" and error.startswith("secateur: error: ")
    return error


@pytest.mark.parametrize(
    "method", [name if name in KINDS.values() else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_every_method_makes_a_network_within_the_budget(run, tmp_path, capsys, method):
    out = tmp_path / "out"
    options = ["--budget", "macs=0.5", "--epochs", "2", "--finetune-epochs", "1", "--json", "--quiet"]
    assert main(["prune", str(run), "--method", method, "--out", str(out), *options]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["method"] == method and config["costs"]["macs"] <= 0.5 * config["full_costs"]["macs"]
    assert {"validation_error", "test_error", "full_test_error"} <= set(config["errors"])
    assert load(out)(torch.zeros(3, 1, 8, 8)).shape == (3, 2)
    file, _ = source(run)
    net = load(out, model=launch.make_model(file.without_weights()))
    assert sum(p.numel() for p in net.parameters()) == config["costs"]["params"]
    assert not (tmp_path / "out.part").exists()


def test_the_table_and_the_lines_say_what_came_out(run, tmp_path, capsys):
    assert main(["prune", str(run), "--method", "l1", "--budget", "macs=0.4", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "l1 proposes a network of" in said.err and "trained, validation error" in said.err
    assert said.out.splitlines()[0].split() == ["l1", "full"] and "test error" in said.out
    assert said.out.splitlines()[-1] == str(tmp_path / "out")


def test_the_base_network_is_trained_where_the_file_says_so(folder, tmp_path, capsys):
    study = str(folder / "study.toml")
    assert main(["prune", study, "--method", "taylor", "--out", str(tmp_path / "out"), "--finetune-epochs", "0"]) == 0
    assert capsys.readouterr().err.startswith("base network: epoch 1/2, loss")
    assert refused(capsys, "prune", study, "--method", "taylor", "--out", tmp_path / "out").endswith("another folder")


def test_the_last_training_makes_weights_zero_where_the_file_says_so(folder, tmp_path, capsys):
    text = STUDY.format(module="prune_tiny").replace("base_epochs = 2", "base_epochs = 1\nsparsity = 0.75")
    (folder / "sparse.toml").write_text(text.replace("sparsity =", "initial_sparsity = 0.5\nsparsity ="))
    prunes = ["prune", folder / "sparse.toml", "--method", "l2", "--out", tmp_path / "out"]
    assert main([*map(str, prunes), "--finetune-epochs", "2", "--json", "--quiet"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["sparsity"] == pytest.approx(0.75, abs=0.02) and "sparsity" not in config["errors"]
    weights = [parameter for parameter in load(tmp_path / "out").parameters() if parameter.ndim > 1]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros / sum(weight.numel() for weight in weights) == config["sparsity"]
    assert "% of its weights are zero" in (tmp_path / "out" / "README.md").read_text()
    prunes[-1] = tmp_path / "none"
    assert "sparsity=0.75 is reached while training" in refused(capsys, *prunes, "--finetune-epochs", "0", "--quiet")


def test_a_latency_budget_is_measured(run, tmp_path, capsys):
    options = ["--budget", "latency_ms=100", "--budget", "macs=0.9", "--finetune-epochs", "0", "--json", "--quiet"]
    for method in ("l2", "resrep"):
        out = str(tmp_path / method)
        assert main(["prune", str(run), "--method", method, "--out", out, "--epochs", "1", *options]) == 0
        costs = json.loads(capsys.readouterr().out)["costs"]
        assert costs["latency_ms"] <= 100 and costs["macs"] <= 0.9 * 41_488
    options = ["--budget", "latency_ms=0.000001", "--quiet"]
    said = refused(capsys, "prune", run, "--method", "l2", "--out", tmp_path / "b", *options)
    assert "l2 finds no network within latency_ms=1e-06" in said and "its smallest takes" in said


@pytest.mark.slow  # as tests/studies/drivers/test_kills.py
@pytest.mark.parametrize("method", ["l1", "resrep"])
def test_a_killed_prune_goes_on_where_it_stood(run, tmp_path, method):
    """The same network, whether it was killed after an epoch of pruning and one of fine-tuning, or not at all."""
    options = ["--method", method, "--budget", "macs=0.5", "--epochs", "3", "--finetune-epochs", "3"]
    command = [sys.executable, "-P", "-m", "secateur", "prune", str(run), *options, "--out"]
    assert main([*command[4:], str(tmp_path / "whole"), "--quiet"]) == 0
    for moment in ["epoch 2/3", "trained"]:
        with subprocess.Popen([*command, str(tmp_path / "cut")], stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                if moment in line:
                    process.send_signal(signal.SIGKILL)
                    break
    assert main([*command[4:], str(tmp_path / "cut"), "--quiet"]) == 0
    for name in ("model.safetensors",):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_bad_usage_is_one_line(run, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert "method 'l3' is not known; expected one of " in refused(capsys, "prune", run, "--method", "l3", "--out", out)
    prunes = ["prune", run, "--method", "l1", "--out", out]
    assert "reachable are" in refused(capsys, *prunes, "--budget", "macs=10")
    assert "finetune_epochs=-1" in refused(capsys, *prunes, "--finetune-epochs", "-1")
    assert "pruning_epochs=0: expected at least 1" in refused(capsys, *prunes, "--epochs", "0")
    assert "does not exist" in refused(capsys, "prune", "nowhere.toml", "--method", "l1", "--out", out)
    (folder / "free.toml").write_text(STUDY.format(module="prune_tiny").replace("macs = 0.6", ""))
    assert "l1 needs a budget" in refused(capsys, "prune", folder / "free.toml", "--method", "l1", "--out", out)
    assert not out.exists()
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "prune.json").write_text("{}")
    assert "another `prune` left unfinished" in refused(capsys, *prunes)
    assert not out.exists()


def test_settings_of_a_method_are_given_by_name(run, tmp_path, capsys):
    options = ["--budget", "macs=0.5", "--finetune-epochs", "0", "--json", "--quiet", "--out", tmp_path / "out"]
    options = [str(one) for one in options]
    ranp = ["prune", str(run), "--method", "ranp-f"]
    assert main([*ranp, *options, "--set", "strength=80", "--set", "weights=fresh", "--set", "reduce=mean"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["settings"]["strength"] == 80 and config["settings"]["reduce"] == "mean"
    assert config["decides"]["weights"] == "fresh" and config["settings"]["balance"] is True
    options[-1] = str(tmp_path / "other")
    assert "has no setting 'lambda'; expected one of balance, resource" in refused(
        capsys, *ranp, *options, "--set", "lambda=1"
    )
    assert "reduce='median'" in refused(capsys, *ranp, *options, "--set", "reduce=median")
    assert "has no setting 'needs'" in refused(capsys, *ranp, *options, "--set", "needs=nothing")
    taylor = ["prune", str(run), "--method", "taylor"]
    assert "taylor has no setting 'weights'" in refused(capsys, *taylor, *options, "--set", "weights=fresh")
    assert "--set 'strength'" in refused(capsys, *ranp, *options, "--set", "strength")
    assert "ranp-f" in refused(capsys, *ranp, *options, "--set", "strength=many")


@pytest.mark.parametrize(
    ("value", "message"), [(float("nan"), "are not all finite"), (0.0, "gives every unit the same score")]
)
def test_scores_of_no_use_are_refused(run, tmp_path, value, message):
    @criterion("mine")
    def score(model, space, examples=None):
        return {group.name: torch.full((group.units,), value) for group in space.groups}

    file, study = source(run)
    with pytest.raises(ValueError, match=f"mine.*{message}"):
        prune(file, Scored(criterion=score), tmp_path / "out", study=study)
    assert not (tmp_path / "out").exists()


def test_methods_seed_a_search_and_are_asked_once(folder, tmp_path, capsys):
    seeds = ["full", "taylor", "layer-wise", *TRAINS[:1]]
    study = folder / "seeded.toml"
    text = STUDY.format(module="prune_tiny").replace("trials = 6", f"trials = 12\nseeds = {json.dumps(seeds)}")
    study.write_text(text.replace("base_epochs = 2", "base_epochs = 2\npruning_epochs = 2"))
    out = tmp_path / "run"
    assert main(["search", str(study), "--out", str(out), "--trials", "8"]) == 0
    said = capsys.readouterr().err
    table = launch.open_study(out).trials()
    assert table.source[:4].tolist() == ["seed:full", "seed:taylor", "seed:layer-wise", f"seed:{TRAINS[0]}"]
    assert table.ranking[1].startswith("taylor:") and table.ranking[2].startswith("l2:")
    assert table.weights[3].startswith(f"{TRAINS[0]}:") and (table.weights[:3] == "inherited").all()
    assert table.within[1:].all() and (table.state == "complete").all()
    assert said.count("taylor proposes a network") == len(list((out / "proposals").glob("taylor-*"))) > 1
    assert main(["resume", str(out), "--trials", "12"]) == 0
    assert "12/12 trials" in capsys.readouterr().err
    exported = launch.export(out, tmp_path / "nets", pick="3", finetune_epochs=0)
    config = json.loads((exported[0] / "config.json").read_text())
    assert config["ranking"] == table.ranking[3] and config["weights"] == table.weights[3]
    first = out / "weights" / f"{table.weights[3].replace(':', '-')}.safetensors"
    first.write_bytes(b"no tensors")
    said = refused(capsys, "export", out, "--to", tmp_path / "other", "--pick", "3")
    assert f"{first} is damaged" in said


@pytest.mark.slow
def test_a_search_killed_while_a_seed_trains_goes_on_there(folder, tmp_path, capsys):
    """The same trials as without the kill, and no epoch of the seed's phase trained twice."""
    study = folder / "killed.toml"
    text = STUDY.format(module="prune_tiny").replace("trials = 6", 'trials = 4\nseeds = ["full", "resrep"]')
    study.write_text(text.replace("base_epochs = 2", "base_epochs = 1\npruning_epochs = 4"))
    assert main(["search", str(study), "--out", str(tmp_path / "whole"), "--quiet"]) == 0
    command = [sys.executable, "-P", "-m", "secateur", "search", str(study), "--out", str(tmp_path / "cut")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "resrep: epoch 3/4" in line:
                process.send_signal(signal.SIGKILL)
                break
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "cut")]) == 0
    said = capsys.readouterr().err
    first = next(line for line in said.splitlines() if "resrep: epoch" in line)
    assert "epoch 3/4" in first or "epoch 4/4" in first  # the third was kept, or was about to be
    whole, cut = (
        launch.open_study(tmp_path / name).trials().drop(columns=["seconds", "started"]) for name in ("whole", "cut")
    )
    assert whole.equals(cut)
