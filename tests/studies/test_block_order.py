"""The order of blocks that a study file asks for: measured once, kept with the study, the same when it goes on."""

import json

import numpy as np
import pytest

import secateur as sc
from secateur.__main__ import main
from secateur.studies import launch
from secateur.studies.study_files import file as config
from secateur.studies.study_files.parts import make_model

NETWORK = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, share):
        super().__init__()
        self.share, self.conv = share, nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.share * torch.relu(self.conv(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(Block(0.01), Block(3.0), Block(0.1))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
"""
STUDY = """
model = "ordered_blocks:Net"
[data]
reader = "npz"
path = "images.npz"
[space]
divisor = 2
block_order = "measured"
[training]
pruning_images = 32
long_epochs = 0
[study]
fidelity = "recalibrated"
sampler = "random"
seeds = ["osscar"]
trials = 2
threads = 1
"""
ORDER = ["blocks.0", "blocks.2", "blocks.1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("ordered")
    (root / "ordered_blocks.py").write_text(NETWORK)
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (64, 8, 8)).astype("uint8")
    np.savez(root / "images.npz", images=images, labels=np.arange(64) % 2)
    (root / "study.toml").write_text(STUDY)
    assert (
        main(["search", str(root / "study.toml"), "--out", str(root / "run"), "--budget", "macs=0.7", "--quiet"]) == 0
    )
    return root / "run"


def test_it_is_kept_and_found_again(run):
    space = launch.open_study(run).space
    assert list(space.stages[0].order) == ORDER
    kept = json.loads((run / "study.json").read_text())
    assert ORDER in [list(order) for order in _orders(kept)]
    assert main(["resume", str(run), "--trials", "4", "--quiet"]) == 0
    study = launch.open_study(run)
    assert list(study.space.stages[0].order) == ORDER and len(study.trials()) == 4


def test_exports_have_it(run):
    out = run.parent / "out"
    assert main(["export", str(run), "--to", str(out), "--quiet"]) == 0
    [config_file] = out.glob("*/config.json")
    record = json.loads(config_file.read_text())
    assert record["space"]["block_order"] == {"blocks": ORDER}
    model = make_model(config.read(run))
    again = sc.Space.from_settings(model, record["space"])
    assert list(again.stages[0].order) == ORDER
    assert list(again.removed(record["candidate"])) == record["removed"]


def test_other_orders_are_refused(run):
    file = run.parent / "wrong.toml"
    file.write_text(STUDY.replace('"measured"', '"first"'))
    with pytest.raises(
        ValueError, match=r"\[space\] block_order: given \"first\"; expected 'last-first' or 'measured'"
    ):
        config.read(file)


def _orders(value):
    """Every `block_order` in a file, of any stage."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from one.values() if name == "block_order" and isinstance(one, dict) else _orders(one)
