"""The command line as a user meets it: real searches of a tiny network, and every bad input as one line and code 2."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import postgresql
import pytest
import sleeper
import torch
from study_file import STUDY, write

from secateur import Processes, Serial, Study, __version__, load
from secateur.__main__ import main
from secateur.studies.study_files import file as config
from secateur.studies.trials.storage import disconnect
from secateur.studies.views.view import View


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a study file, its network and its data: which half of the picture is brighter."""
    return write(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def run(folder):
    """A finished study."""
    assert main(["search", str(folder / "study.toml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


def refused(capsys, *arguments):
    """The one line on standard error that bad input gives; the tiny network, hardly trained, may be warned of."""
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    error = "".join(line for line in said.err.splitlines(keepends=True) if not line.startswith("warning: full network"))
    assert error.startswith("secateur: error: ") and error.count("\n") == 1
    return error


def test_trace(folder, capsys):
    assert main(["trace", str(folder / "study.toml")]) == 0
    said = capsys.readouterr().out
    assert "resolutions: 6x6, 8x8" in said and "conv1" in said and "its channels are the network's output" in said
    assert re.search(r"macs=0\.6 +24,\d{3} +[\d,]+ +yes", said), said
    assert all(len(line) <= 80 for line in said.splitlines())
    assert main(["trace", str(folder / "study.toml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["axes"]["width:conv1"] == [2, 4, 6, 8]
    assert found["full"]["macs"] == 8 * 9 * 64 + 8 * 8 * 9 * 64 + 8 * 2  # conv1, conv2, head
    assert found["combinations"] == 4 * 4 * 2
    assert list(found["frozen"]) == ["head"] and found["budget"][0]["satisfiable"]


def test_trace_holds_a_budget_against_the_space(folder, capsys):
    study = str(folder / "study.toml")
    limits = ["--budget", "macs=0.5", "--budget", "params=30", "--budget", "latency_ms=3"]
    assert main(["trace", study, *limits]) == 0
    said = capsys.readouterr().out
    assert re.search(r"macs=0\.5 +20,744 +\d,\d+ +yes", said), said
    assert re.search(r"params=30 +30 +\d+ +no +0 %", said) and re.search(r"latency_ms=3 +measured", said)
    assert re.search(r"all +no +0 %", said)
    assert main(["trace", study, *limits, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["satisfiable"]) for row in found["budget"]] == [
        ("macs", True),
        ("params", False),
        ("latency_ms", None),
        ("all", False),
    ]
    assert found["sampled"] == 10_000 and 0 < found["within"]["macs"]["0.5"] < 1
    assert "did you mean 'macs'" in refused(capsys, "trace", study, "--budget", "mac=0.5")
    assert "one of macs" in refused(capsys, "trace", study, "--budget", "joules=0.5")


def test_search_says_how_far_it_is_in_plain_lines(folder, capsys):
    out = folder / "plain"
    assert main(["search", str(folder / "study.toml"), "--out", str(out), "--trials", "3", "--seed", "5"]) == 0
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("runs the code of ")]  # said once
    assert lines[0].startswith("base network: epoch 1/2, loss ")
    assert re.match(r"3/3 trials: error [\d.]+%, [\d.]+ ?k? MACs; best [\d.]+% \(trial \d\)$", lines[-2])
    assert lines[-1] == f"secateur: write these networks with: secateur export {out} --to OUT --pick all"
    assert re.match("trial +error %  ", said.out)
    kept = config.read(out)
    assert (kept.study.trials, kept.study.seed) == (3, 5)
    assert not (folder / "plain.part").exists()


def test_search_refuses_what_is_there(folder, run, capsys):
    assert f"secateur resume {run}" in refused(capsys, "search", folder / "study.toml", "--out", run)
    assert "is no study" in refused(capsys, "search", folder / "study.toml", "--out", folder)


def test_status_and_front(run, capsys):
    assert main(["status", str(run), "--json"]) == 0
    standing = json.loads(capsys.readouterr().out)
    assert (standing["told"], standing["running"], standing["budget"]) == (6, 0, {"macs": 0.6})
    assert main(["status", str(run)]) == 0
    assert "6 done" in capsys.readouterr().out
    assert main(["front", str(run), "--json"]) == 0
    front = json.loads(capsys.readouterr().out)["front"]
    assert len(front) == standing["front"] >= 1
    assert all(row["macs"] <= standing["limits"]["macs"] for row in front)
    assert main(["front", str(run), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(front) + 1
    assert main(["front", str(run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(front) + 2  # the names of the columns, and the full network
    assert "keep one" in refused(capsys, "front", run, "--csv", "--json")


def test_resume_to_more_trials_under_another_budget(folder, run, capsys):
    assert main(["resume", str(run), "--trials", "8", "--budget", "macs=0.3", "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"]["told"] == 8
    assert found["status"]["budget"] == {"macs": 0.3}
    assert (config.read(run).study.trials, config.read(run).budget.macs) == (8, 0.3)
    assert "smallest" in refused(capsys, "resume", run, "--budget", "macs=0.0001", "--quiet")
    assert config.read(run).budget.macs == 0.3, "a refused budget is not kept"


def test_what_ends_a_search_is_kept_and_taken_back(folder, run, tmp_path, capsys):
    study = shutil.copytree(run, tmp_path / "run")
    more = ["resume", str(study), "--trials", "60", "--quiet"]
    assert main([*more, "--until", "1.0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["status"]
    assert found["ended"]["by"] == "until" and found["told"] < 60
    assert config.read(study).study.until == 1.0
    assert main(["status", str(study)]) == 0
    assert "by until: trial" in " ".join(capsys.readouterr().out.split())
    assert "patience" in refused(capsys, *more, "--until", "0", "--patience", "-1")
    assert main(["resume", str(study), "--trials", "9", "--until", "0", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"]["ended"]["by"] == "trials"
    assert config.read(study).study.until is None


def test_a_reserve_survives_in_the_study(folder, capsys):
    out = folder / "reserved"
    limits = ["--budget", "peak_bytes=12000", "--budget", "reserve=1.25"]
    assert main(["search", str(folder / "study.toml"), "--out", str(out), "--trials", "2", "--quiet", *limits]) == 0
    capsys.readouterr()
    assert config.read(out).budget.reserve == 1.25
    for arguments in (["status", str(out)], ["resume", str(out), "--trials", "3", "--quiet"]):
        assert main([*arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        standing = found.get("status", found)
        assert standing["budget"] == {"peak_bytes": 12000, "reserve": 1.25}
        assert standing["limits"] == {"peak_bytes": 9600}
    assert "goes with peak_bytes" in refused(capsys, "resume", out, "--budget", "reserve=1.25")


def test_export(folder, run, capsys):
    out = folder / "out"
    assert main(["export", str(run), "--to", str(out), "--quiet"]) == 0
    head, row, place = capsys.readouterr().out.splitlines()
    assert head.startswith("network ") and "test error %" in head and "macs" in head
    assert place.startswith(f"in {out}: safetensors, pt2, ") and place.endswith("each read back and compared")
    path = out / row.split()[0]
    side = json.loads((Path(path) / "config.json").read_text())["resolution"]
    assert load(path)(torch.rand(3, 1, *side)).shape == (3, 2)
    assert (out / "front.csv").is_file()
    assert "exists already" in refused(capsys, "export", run, "--to", out)
    assert main(["export", str(run), "--to", str(folder / "out2"), "--pick", "macs=0.5", "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["errors"]["test_size"] == 20
    assert "expected best, all" in refused(capsys, "export", run, "--to", folder / "o", "--pick", "good")
    assert "no such trial" in refused(capsys, "export", run, "--to", folder / "o", "--pick", "99")
    assert not (folder / "o").exists()


@pytest.mark.slow  # tests/studies/drivers kill searches too
def test_a_killed_search_goes_on_where_it_stood(folder, tmp_path):
    """Killed while the base network trains, and again among the trials; the table is an uninterrupted run's."""
    text = STUDY.format(module="cli_tiny").replace("base_epochs = 2", "base_epochs = 4")
    (tmp_path / "study.toml").write_text(f'folder = "{folder}"\n{text}')
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["search", str(tmp_path / "study.toml"), "--out", str(whole), "--quiet"]) == 0
    command = [sys.executable, "-P", "-m", "secateur"]
    for arguments, sign in (
        (["search", str(tmp_path / "study.toml"), "--out", str(killed)], "base network: epoch 2/4"),
        (["resume", str(killed)], "2/6 trials"),
    ):
        process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith(sign):
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert main(["resume", str(killed), "--quiet"]) == 0
    assert View(killed).front().equals(View(whole).front())
    assert View(killed).status().told == 6
    assert not killed.with_name("killed.part").exists()


def test_an_interrupt_says_how_to_go_on(folder, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "secateur", "search", str(folder / "study.toml"), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--trials", "500"],
        stderr=subprocess.PIPE,
        text=True,
        # whoever starts the tests in the background has them ignore interrupts, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stderr:
        if line.startswith("2/"):
            break
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1] == f"secateur: stopped; go on with: secateur resume {out}"


BAD_FILES = {
    "[study": "no valid TOML",
    'model = "a:b"': "the table [data] is missing",
    "{good}[sutdy]\ntrials = 3": "unknown key 'sutdy'; did you mean 'study'?",
    "{good}[study]\ntrails = 3": "[study]: unknown key 'trails'; did you mean 'trials'?",
    '{good}[study]\ntrials = "many"': '[study] trials: given "many"; expected a whole number',
    "{good}[study]\ntrials = 0": "[study] trials: given 0; expected at least 1",
    "{good}[study]\nuntil = nan": "[study] until: given nan; expected a finite number",
    "{good}[study]\nseconds = inf": "[study] seconds: given inf; expected a finite number",
    "{good}[training]\nlearning_rate = 1": "[training]: unknown key 'learning_rate'; expected one of optimizer",
    "{good}[training]\nlr = -1": "[training] lr: given -1; expected more than 0",
    '{good}[budget]\nmacs = "half"': "a text must be a percentage",
    "{good}[budget]\nmac = 0.5": "did you mean 'macs'?",
    "{good}[budget]\nmacs = 1e-9": "reach",
    "{good}[space]\nresolutions = 28": "[space] resolutions: given 28; expected a list",
    '{good}[space]\nignore = ["nose"]': "nose",
    '{good}[study]\nsampler = "random_search"': "sampler 'random_search' is not known",
    '{good}[study]\nseeds = ["compund"]': "seed 'compund' is not known; did you mean 'compound'?",
    '{good}[study]\nevaluator = "supernet"': "expected one of auto, ladder, shared-weights",
    '{good}[study]\nfidelity = "shor"': "expected one of auto, zero-shot, recalibrated, reconstructed, short, long",
    "{good}[study]\nearly_stopping = 1": "[study] early_stopping: given 1; expected true or false",
    '{good}[space]\ndimensions = ["height"]': "expected some of ('width', 'depth')",
    '{good}[space.rules]\n"hea*" = {{ lest = 0.5 }}': "rules['hea*'] has the unknown key 'lest'; did you mean 'least'?",
    "{good}[space.rules]\nhead = {{ least = 2 }}": "[space] rules: rules['head'] has least=2; expected a share",
    "{good}[space.rules]\nConv4d = {{ divisor = 2 }}": "rules names 'Conv4d', which is no module of Tiny",
    "{good}[space]\nrules = 3": "[space] rules: given 3; expected",
    "{good}[latency]\nbatch = 0": "[latency] batch: given 0; expected at least 1",
    '{good}[study]\nsampler = "nowhere:sampler"': "there is no module 'nowhere'",
    '{good}[study]\ndevice = "tpu"': "device",
    'model = "cli_tiny"\n{data}': "expected 'package.module:name'",
    'model = "nowhere:Tiny"\n{data}': "there is no module 'nowhere', neither installed nor in",
    'model = "cli_tiny:Small"\n{data}': "cli_tiny has no 'Small'",
    'model = "cli_tiny:number"\n{data}': "gave a int; expected a torch.nn.Module",
    '[model]\nfactory = "cli_tiny:Tiny"\narguments = {{ depth = 3 }}\n{data}': "does not take the arguments",
    '[model]\nfactory = "cli_tiny:Tiny"\ncheckpoint = "gone.pt"\n{data}': "gone.pt does not exist",
    '[model]\nfactory = "cli_tiny:Tiny"\ncheckpoint = "pickle.pt"\n{data}': "is not unpickled",
    'model = "cli_tiny:Tiny"\n[data]\nreader = "npz"\npath = "gone.npz"': "gone.npz does not exist",
    'model = "cli_tiny:Tiny"\n[data]\nreader = "zip"': "reader 'zip' is not known; expected one of mnist5k",
    'model = "cli_tiny:Tiny"\n[data]\naugment = {{ shitf = 1 }}': "[data] augment: unknown key 'shitf'; did you mean",
    'model = "cli_tiny:Tiny"\ndata = "cli_tiny:number"': "gave a int without fingerprint",
    'model = "cli_tiny:Tiny"\n[data]\nreader = "npz"\npath = "images.npz"\nclasses = 1': "label",
    '[model]\nfactory = "cli_tiny:Tiny"\n[data]\nreader = "npz"\npath = "colour.npz"': "does not take the data",
    '{good}[runner]\nkind = "rya"': "[runner]: kind='rya': expected one of serial, processes, ray, tune",
    '{good}[runner]\nkind = "processes"\nworker = 2': "[runner]: unknown key 'worker'; did you mean 'workers'?",
    '{good}[runner]\nkind = "processes"\nworkers = "all"': '[runner] workers: given "all"; expected a whole number',
    '{good}[runner]\nkind = "processes"\nworkers = 0': "[runner] workers: given 0; expected at least 1",
    '{good}[runner]\nkind = "ray"\ngpus_per_trial = 1.5': "[runner]: gpus_per_trial=1.5: expected a share of one GPU",
    '{good}[runner]\nkind = "ray"\nresources = {{ tpu = -1 }}': "[runner] resources.tpu: given -1; expected at least 0",
    '{good}[runner]\naddress = "auto"': "[runner]: address='auto' with kind='serial'; expected kind='ray' or 'tune'",
    '{good}[runner]\nkind = "processes"\nasynchronous = "yes"': "[runner] asynchronous: given",
    'model = "cli_tiny:Tiny"\nrunner = "rya"\n{data}': "[runner]: kind='rya'",
    'model = "cli_tiny:Tiny"\nrunner = 3\n{data}': "[runner]: given 3; expected a table",
    '{good}[study]\nstorage = "somewhere"': "the storage given is no URL",
    '{good}[study]\nstorage = "journal:/no/such/place/a.log"': "/no/such/place is no folder that can be",
    '{good}[study]\nstorage = "sqlite:////no/such/place/a.db"': "/no/such/place is no folder that can be written",
    '{good}[study]\nstorage = "journal:/dev/zero"': "storage /dev/zero is a folder, a pipe or a device",
    '{good}[study]\nartifacts = "nosuch://a/b"': "artifacts='nosuch://a/b' can't be used",
    '{good}[study]\nsampler = "cli_tiny:Tiny"': "sampler factory cli_tiny:Tiny does not take (seed, problem)",
    '{good}[study]\nsampler = "polynomal"': "sampler 'polynomal' is not known; did you mean 'polynomial'?",
    '{good}[study]\ntrack = ["tensorbord"]': "[study] track: tracker 'tensorbord' is not known; did you mean",
    '{good}[space]\nignore = ["heat"]': "no module of Tiny; did you mean 'head'?",
    'model = "cli_tiny:Tiny"\n[data]\nreader = "npz"\npath = "fewer.npz"': "there are 20 images and 10 labels",
    'model = "cli_tiny:Tiny"\n[data]\nreader = "npz"\npath = "study.toml"': "write it with numpy.savez(PATH",
}


@pytest.mark.parametrize("text", BAD_FILES, ids=lambda text: BAD_FILES[text][:40])
def test_a_bad_study_file_is_one_line(folder, tmp_path, capsys, text):
    torch.save(folder, folder / "pickle.pt")
    np.savez(folder / "fewer.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(10) % 2)
    np.savez(folder / "colour.npz", images=np.zeros((20, 3, 8, 8), np.uint8), labels=np.arange(20) % 2)
    data = '[data]\nreader = "npz"\npath = "images.npz"\n'
    good = f'folder = "{folder}"\nmodel = "cli_tiny:Tiny"\n{data}'
    filled = text if "{" not in text else text.format(good=good, data=data)
    if not filled.startswith("folder"):
        filled = f'folder = "{folder}"\n{filled}'
    (tmp_path / "study.toml").write_text(filled)
    said = refused(capsys, "search", tmp_path / "study.toml", "--out", tmp_path / "run", "--quiet")
    assert BAD_FILES[text] in said
    assert not list(tmp_path.glob("run*"))


def test_bad_usage_is_one_line(folder, run, tmp_path, capsys):
    assert "Missing argument" in refused(capsys, "search")
    assert "'search'" in refused(capsys, "serch")
    assert "did you mean 'mnist'" in refused(capsys, "trace", "nmist")
    assert "holds no study" in refused(capsys, "status", tmp_path)
    assert "holds no study" in refused(capsys, "resume", tmp_path / "gone")
    assert "expected NAME=VALUE" in refused(
        capsys, "search", folder / "study.toml", "--out", tmp_path / "x", "--budget", "half"
    )
    search = ("search", folder / "study.toml", "--out", tmp_path / "x")
    assert "trials=0: expected at least 1" in refused(capsys, *search, "--trials", 0)
    (tmp_path / "file").write_text("")
    assert refused(capsys, "search", folder / "study.toml", "--out", tmp_path / "file" / "run")


BAD_RUNNERS = {
    "--runner rya": "'rya' is none of serial, processes, ray, tune; did you mean 'ray'?",
    "--runner gpu": "'gpu' is none of serial, processes, ray, tune",
    "--workers 0": "Invalid value for '--workers'",
    "--workers two": "Invalid value for '--workers'",
    "--workers 2": "workers=2 with kind='serial'; expected kind='processes', 'ray' or 'tune'",
    "--runner processes --gpus-per-trial 1.5": "gpus_per_trial=1.5: expected a share of one GPU, or a whole number",
    "--runner processes --gpus-per-trial -1": "gpus_per_trial=-1.0: expected at least 0",
    "--runner processes --address auto": "address='auto' with kind='processes'; expected kind='ray' or 'tune'",
    "--timeout 0": "timeout_s=0.0: expected more than 0",
    "--timeout soon": "Invalid value for '--timeout'",
    "--retries -1": "Invalid value for '--retries'",
    "--runer ray": "No such option: --runer",
    "--track tensorbord": "tracker 'tensorbord' is not known; did you mean 'tensorboard'?",
}


@pytest.mark.parametrize("options", BAD_RUNNERS)
def test_a_bad_runner_is_one_line(folder, run, tmp_path, capsys, options):
    search = ("search", folder / "study.toml", "--out", tmp_path / "run", "--quiet")
    assert BAD_RUNNERS[options] in refused(capsys, *search, *options.split())
    assert not list(tmp_path.iterdir())
    before = (run / "study.toml").read_text()
    assert BAD_RUNNERS[options] in refused(capsys, "resume", run, "--quiet", *options.split())
    assert (run / "study.toml").read_text() == before


def test_more_gpus_than_there_are_is_one_line(folder, tmp_path, capsys):
    search = ("search", folder / "study.toml", "--out", tmp_path / "run", "--quiet")
    options = ("--runner", "processes", "--workers", "99", "--gpus-per-trial", "1")
    assert "99 workers with gpus_per_trial=1 ask for 99 GPUs" in refused(capsys, *search, *options)
    assert not list(tmp_path.iterdir()), "it is refused before anything is made"


def test_what_is_refused_on_resume_is_not_kept(run, capsys):
    before = (run / "study.toml").read_text()
    options = ("--trials", "50", "--runner", "processes", "--workers", "99", "--gpus-per-trial", "1")
    assert "ask for 99 GPUs" in refused(capsys, "resume", run, "--quiet", *options)
    assert (run / "study.toml").read_text() == before
    assert (run / "study.toml").read_text() == before


@pytest.mark.slow
def test_a_search_in_processes_is_resumed_here(folder, tmp_path, capsys):
    """The options make the runner of the study file; those that are given again change it one by one."""
    out = tmp_path / "run"
    options = ["--runner", "processes", "--workers", "2", "--timeout", "60", "--retries", "0", "--async"]
    assert main(["search", str(folder / "study.toml"), "--out", str(out), "--trials", "4", "--quiet", *options]) == 0
    given = {"workers": 2, "timeout_s": 60.0, "retries": 0, "asynchronous": True}
    assert config.read(out).runner == Processes(**given)
    assert main(["resume", str(out), "--trials", "6", "--batches", "--workers", "1", "--quiet"]) == 0
    assert config.read(out).runner == Processes(**given | {"workers": 1, "asynchronous": False})
    assert main(["resume", str(out), "--trials", "7", "--runner", "serial", "--quiet"]) == 0
    assert config.read(out).runner == Serial(), "another kind begins with the defaults"
    assert View(out).status().told == 7
    assert not list(out.glob("*slots*")) and not (out / "driver.json").exists()


def test_an_error_in_a_search_says_that_the_study_is_kept(folder, tmp_path, capsys, monkeypatch):
    def failing(self, *given, **named):
        raise RuntimeError("the last 10 trials all failed")

    monkeypatch.setattr(Study, "run", failing)
    out = tmp_path / "run"
    said = refused(capsys, "search", folder / "study.toml", "--out", out, "--quiet")
    assert said.endswith(f"all failed; the study is kept: once that is mended, go on with: secateur resume {out}\n")
    said = refused(capsys, "resume", out, "--quiet")
    assert said.endswith("all failed\n")


def test_a_damaged_study_is_one_line(run, tmp_path, capsys):
    for name, contents in (("study.json", b'{"format'), ("study.db", b"SQLite"), ("base.safetensors", b"12345678")):
        broken = tmp_path / name
        shutil.copytree(run, broken)
        (broken / name).write_bytes(contents)
        assert str(broken) in refused(capsys, "resume", broken, "--quiet")
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "study.toml").write_text((other / "study.toml").read_text().replace("validation = 20", "validation = 30"))
    assert "another study" in refused(capsys, "resume", other, "--quiet")


@pytest.mark.parametrize("key", ["name", "storage", "settings", "space", "axes", "full_costs", "fingerprint"])
def test_an_edited_study_is_one_line(run, tmp_path, capsys, key):
    broken = tmp_path / "s"
    shutil.copytree(run, broken)
    kept = json.loads((broken / "study.json").read_text())
    for found in ({name: value for name, value in kept.items() if name != key}, kept | {key: 3}):
        (broken / "study.json").write_text(json.dumps(found))
        for command in ("status", "front", "resume"):
            assert f"study.json was edited: {key!r} is missing or malformed" in refused(capsys, command, broken)


def test_the_folder_one_stands_in_may_be_named_by_a_dot(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(run)
    for command in ("status", "front"):
        assert main([command, "."]) == 0
    assert main(["resume", ".", "--quiet"]) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    for command in ("status", "front", "resume"):
        assert ". holds no study" in refused(capsys, command, ".")
    assert "nothing is no folder; give the folder of a study" in refused(capsys, "status", "nothing")


def test_what_changes_nothing_is_said(folder, run, tmp_path, capsys):
    assert main(["resume", str(run), "--trials", "2"]) == 0
    assert re.search(
        r"run has \d+ trials, and 2 in all are asked for: none is added; ask for more", capsys.readouterr().err
    )
    out = tmp_path / "run"
    options = ["--budget", "macs=99999999", "--trials", "1"]
    assert main(["search", str(folder / "study.toml"), "--out", str(out), *options]) == 0
    said = "warning: budget macs=99,999,999 limits nothing: the full network has 41,488"
    assert said in capsys.readouterr().err.splitlines()


def test_an_export_that_can_not_be_written_trains_nothing(run, capsys):
    (run / "file").write_text("")
    before = sorted((run / "exports").rglob("*")) if (run / "exports").exists() else []
    said = refused(capsys, "export", run, "--to", run / "file" / "out", "--pick", "0")
    assert f"can't be made in {run / 'file'} (Not a directory); choose another folder" in said
    assert (sorted((run / "exports").rglob("*")) if (run / "exports").exists() else []) == before
    (run / "file").unlink()


def test_the_study_file_survives_writing(folder, tmp_path):
    for name in (*config.shipped(), folder / "study.toml"):
        file = config.read(name)
        (tmp_path / "study.toml").write_text(file.to_toml())
        assert config.read(tmp_path / "study.toml") == file


def test_odd_arguments_survive_writing(folder, tmp_path):
    odd = {"a b": [1, 2.5, {"x": 'é"\\😀\n'}], "none": {}, "much": float("inf"), "little": 1e-7}
    file = config.read(folder / "study.toml")
    file = file.model_copy(update={"model": file.model.model_copy(update={"arguments": odd})})
    (tmp_path / "study.toml").write_text(file.to_toml(), encoding="utf-8")
    assert config.read(tmp_path / "study.toml").model.arguments == odd


def test_shipped_study_files_are_found_by_name():
    assert config.shipped() == ["fashion-mnist", "mnist"]


def test_odd_ends_of_a_command_line(run, capsys):
    assert main(["--debug"]) == 0 and "Usage: secateur" in capsys.readouterr().out
    assert "expected a positive" in refused(capsys, "resume", run, "--budget", f"macs={'9' * 400}")
    assert "timeout_s" in refused(capsys, "resume", run, "--timeout", "1e30")
    assert "--port" in refused(capsys, "dashboard", run, "--port", "-1")
    with subprocess.Popen(
        f"exec {sys.executable} -P -m secateur status {run} >&-", shell=True, stderr=subprocess.PIPE, text=True
    ) as closed:
        said = closed.communicate()[1]
    assert (
        closed.returncode == 2
        and said.startswith("secateur: error: standard output is closed")
        and said.count("\n") == 1
    )


def test_who_stops_reading_is_told_nothing(run):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-P", "-m", "secateur", "status", str(run)]
    at_once = os.environ | {"PYTHONUNBUFFERED": "1"}  # not only when the process ends
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=at_once)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"secateur {__version__}\n"


def test_without_the_dashboard_the_line_says_what_to_install(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    assert "secateur[dashboard]" in refused(capsys, "dashboard", run)


@pytest.fixture(params=["file", "journal", "postgresql"])
def looked_at(request, tmp_path, monkeypatch):
    """A study with trials within its budget and over it, wherever it is kept, and its dashboard's address."""
    pytest.importorskip("optuna_dashboard")
    with contextlib.ExitStack() as stack:
        storage = {"file": None, "journal": "journal:trials.log"}.get(request.param)
        if request.param == "postgresql":
            if postgresql.missing():
                pytest.skip(postgresql.missing())
            storage = stack.enter_context(postgresql.Server()).url
            monkeypatch.setenv("PGPASSWORD", postgresql.PASSWORD)
        study = sleeper.create(tmp_path / "s", 0.0, storage=storage)
        study.run(12)
        command = [sys.executable, "-P", "-m", "secateur", "dashboard", str(study.path), "--port", "0", "--connect"]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            address = process.stdout.readline().strip()
            assert postgresql.PASSWORD.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
            yield study, address
        finally:
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)
            disconnect(study._ledger.storage)
        assert (process.returncode, *said) == (0, "", "")


@pytest.mark.slow
def test_the_dashboard_shows_trials_and_constraints_and_changes_nothing(looked_at):
    study, address = looked_at
    page = urllib.request.urlopen(address).read().decode()
    assert "<html" in page and postgresql.PASSWORD not in page
    api, _, number = address.partition("/dashboard/studies/")
    (summary,) = json.load(urllib.request.urlopen(f"{api}/api/studies"))["study_summaries"]
    assert summary["study_id"] == int(number)
    shown = json.load(urllib.request.urlopen(f"{api}/api/studies/{number}"))
    assert shown["objective_names"] == ["error", "macs"]
    trials = study.trials()
    assert len(shown["trials"]) == 12
    assert {"Complete", "Fail"} == {trial["state"] for trial in shown["trials"]}
    for trial, row in zip(shown["trials"], trials.itertuples(), strict=True):
        if row.state == "complete":
            assert trial["values"] == [row.error, row.macs]
            (over,) = trial["constraints"]
            assert (over <= 0) == row.within
    assert not trials.within.all() and trials.within.any()
    for method, place in (("DELETE", ""), ("PUT", "/note"), ("POST", "/rename")):
        request = urllib.request.Request(f"{api}/api/studies/{number}{place}", data=b"{}", method=method)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)
    assert len(study.trials()) == 12


def test_a_port_that_is_taken_is_one_line(run, capsys):
    pytest.importorskip("optuna_dashboard")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, "dashboard", run, "--port", port)
    assert f"can't listen on 127.0.0.1:{port}" in said and "give another --port" in said
