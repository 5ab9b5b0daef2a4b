"""The brain-mask network: the whole path with a drawn head and random weights, and the real one where it lies."""

import ast
import json
import sys
from importlib import import_module

import pytest
import torch
from example_runs import ROOT, code_lines, quotes, run_example

FOLDER = ROOT / "examples" / "brain_mask"
DATA = ROOT / "build" / "brain"
MODULES = ("data", "network", "results", "run", "task")


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the example; other examples have modules of the same names."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield import_module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_it_runs_within_the_budget(tmp_path):
    printed = run_example("brain_mask", "--tiny", "--out", tmp_path, cwd=tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())
    found = [row for row in rows if row["network"].startswith("trial")]
    assert found and all(0 < row["seconds"] for row in rows) and {row["side"] for row in rows} == {64, 96}
    assert {len(row["test"]) for row in rows} == {2} and {len(row["other"]) for row in rows} == {2}
    assert all(0 <= value <= 1 for row in rows for value in row["test"] + row["other"])
    full = next(row for row in rows if row["side"] == 96 and row["network"] == "unpruned")
    assert all(row["peak_bytes"] <= 0.5 * full["peak_bytes"] for row in found)
    lines = [line for line in printed[printed.index("| network") :].splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(rows) and (tmp_path / "front.png").stat().st_size < 100_000


def test_missing_data_are_named(example, tmp_path, capsys):
    for arguments, said in ((["--out", "x"], "--data FOLDER"), (["--data", str(tmp_path), "--out", "x"], "ch2.nii.gz")):
        with pytest.raises(SystemExit) as stop:
            example("run").main(arguments)
        assert stop.value.code == 2 and said in capsys.readouterr().err


def test_copies_are_moved_alike_at_every_side_and_other_seeds_move_otherwise(example):
    data, ball = example("data"), torch.zeros(40, 48, 40)
    ball[8:32, 10:38, 8:32] = 200
    head = data.Head(ball, lambda x: torch.cat([0.45 - x, x - 0.45], 1))
    assert all(
        part.start <= low and high <= part.stop
        for part, (low, high) in zip(head.box, [(8, 32), (10, 38), (8, 32)], strict=True)
    )
    large, small = head.moved(ball, 3, 64) / 200, head.moved(ball, 3, 32) / 200
    halved = torch.nn.functional.interpolate(large, (32,) * 3, mode="area")
    assert (halved - small).abs().mean() < 0.02 < (head.moved(ball, 4, 32) / 200 - small).abs().mean()
    sees = lambda x: torch.cat([0.45 - x, x - 0.45], 1)  # noqa: E731
    for images, masks in (
        data.copies(head, range(2), 32, mask=ball > 0),
        data.judged(head, range(2), 32, teacher=sees, at=64),
    ):
        assert images.dtype == masks.dtype == torch.uint8 and images.shape == (2, 1, 32, 32, 32)
        assert all(data.dice(mask > 0, image[0] > 127) > 0.9 for mask, image in zip(masks, images, strict=True))


def test_a_turn_keeps_lengths(example):
    """A long rod stays as long as it was, whatever the axes it is turned around."""
    data, rod = example("data"), torch.zeros(64, 64, 64)
    rod[16:48, 16:48, 16:48] = 1.0
    head = data.Head(rod, lambda x: torch.cat([0.45 - x, x - 0.45], 1))
    head.box, rod = [slice(0, 64)] * 3, torch.zeros(64, 64, 64)
    rod[30:34, 12:52, 30:34] = 1.0
    for seed in range(3):
        places = (head.moved(rod, seed, 64)[0, 0] > 0.5).nonzero().double()
        length = float((places[:, None] - places[None]).norm(dim=2).max())
        assert 40 / 1.1 - 2 < length < 45 / 0.95 + 2


def test_cleaned_keeps_the_largest_piece_and_fills_it(example):
    mask = torch.zeros(1, 9, 9, 9)
    mask[0, 1:6, 1:6, 1:6], mask[0, 3, 3, 3], mask[0, 8, 8, 8] = 1, 0, 1
    assert int(example("data").cleaned(mask).sum()) == 125
    assert int(example("data").cleaned(torch.zeros(1, 4, 4, 4)).sum()) == 0


def test_the_error_is_of_whole_volumes_and_the_training_masks_are_shares(example):
    task = example("task")
    images = torch.zeros(2, 1, 8, 8, 8, dtype=torch.uint8)
    images[:, :, :2] = 255
    masks = (images[:, 0] > 0).byte()
    data = task.BrainMask(
        {"train": (images, masks), "validation": (images, masks[:, :, :, :]), "test": (images, masks)}
    )

    class Sees(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.least = torch.nn.Parameter(torch.tensor(0.449))

        def forward(self, x):
            return torch.cat([self.least - x, x - self.least], 1)

    error = data.error()
    for batch in data.loader("validation", (4, 4, 4), None):
        error.update(*data.forward(Sees(), batch))
    assert error.compute() == 0 and error.std() == 0 and error.count == 2
    _, shares = data.forward(Sees(), data.loader("train", (2, 2, 2), 0)[0])
    assert torch.equal(shares[0, :, 0, 0], torch.tensor([0.5, 0.0]))
    other = task.BrainMask({"train": (images, 1 - masks)})
    assert other.fingerprint != data.fingerprint


def test_the_pieces_are_short():
    for path in FOLDER.glob("*.py"):
        text = path.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef):
                        assert code_lines(ast.unparse(method), method.name) < 30, (path.name, method.name)
            elif isinstance(node, ast.FunctionDef) and node.name not in ("main", "compared", "chart"):
                assert code_lines(text, node.name) < 30, (path.name, node.name)
    quotes("brain_mask.md", "brain_mask")


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:DeprecationWarning")  # TorchScript is what the package ships
@pytest.mark.skipif(not DATA.exists(), reason="deepbet, nilearn and mricron-data are not in build/brain")
def test_the_published_weights_give_the_published_masks(example):
    data, network = example("data"), example("network")
    model, boxes = (network.pretrained(DATA / file) for file in (data.NETWORK, data.BOX_NETWORK))
    x = torch.rand(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    published = torch.jit.load(DATA / data.NETWORK, map_location="cpu").eval()
    with torch.no_grad():
        assert torch.equal(model(x).softmax(1), published(x))
    head = data.Head(data.read(DATA / data.HEADS["Colin27"]), boxes)
    masks = [data.brain_of(model, head.at(side)) for side in (192, 96)]
    masks[1] = torch.nn.functional.interpolate(masks[1][None].byte(), (192,) * 3, mode="nearest-exact")[0] > 0
    assert 0.6 < data.dice(*masks) < 0.9
