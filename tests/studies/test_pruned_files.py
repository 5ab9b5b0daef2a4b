"""Pictures of a folder, and `secateur prune --images`: no labels, no data table, and every bad input as one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from study_file import NETWORK

import secateur as sc
from secateur.__main__ import main

MODEL = '[model]\nfactory = "cli_tiny_pictures:Tiny"\ncheckpoint = "weights.pt"\n[space]\ndivisor = 2\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with pictures in two folders, a network whose norms know them, and a file without data."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "cli_tiny_pictures.py").write_text(NETWORK.replace("Conv2d(1,", "Conv2d(3,"))
    random = np.random.default_rng(0)
    for number in range(48):
        place = root / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture = random.integers(0, 255, size=(9, 10, 3)) // (1 + number % 2)
        Image.fromarray(picture.astype("uint8")).save(place / f"{number}.png")
    names = {}
    exec((root / "cli_tiny_pictures.py").read_text(), names)
    torch.manual_seed(0)
    model = names["Tiny"]().train()
    with torch.no_grad():
        for batch in [*sc.Images(root / "photos", side=8)] * 20:
            model(batch)
    torch.save(model.state_dict(), root / "weights.pt")
    (root / "model.toml").write_text(MODEL)
    return root


def test_pictures_of_a_folder(folder):
    images = sc.Images(folder / "photos", side=8, batch=20, normalise="measure")
    batches = list(images)
    assert len(images) == 48 and [tuple(one.shape) for one in batches] == [(20, 3, 8, 8), (20, 3, 8, 8), (8, 3, 8, 8)]
    whole = torch.cat(batches)
    torch.testing.assert_close(whole.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    dark = whole[:16].mean((1, 2, 3)) < 0
    assert 0 < int(dark.sum()) < 16  # in a mixed order, not folder by folder
    said = images.preprocessing
    plain = torch.cat(list(sc.Images(folder / "photos", side=8)))  # other batches, and colours as they are
    assert 0 <= float(plain.min()) < 0.05 and 0.9 < float(plain.max()) <= 1
    mean, std = (torch.tensor(said[name]).view(3, 1, 1) for name in ("mean", "std"))
    assert torch.equal((plain - mean) / std, whole)
    assert said["stored_side"] == [8, 8] and said["channels"] == 3 and said["scale"] == 1 / 255
    grey = next(iter(sc.Images(folder / "photos", mode="L", mean=(0.5,), std=(0.25,))))
    assert grey.shape == (16, 1, 9, 10) and -2 <= float(grey.min()) < float(grey.max()) <= 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"side": 0}, "side is 0; expected"),
        ({"std": (1.0, 0.0, 1.0)}, "every channel's must be above 0"),
        ({"mode": "CMYK"}, "mode"),
        ({"batch": 0}, "batch=0: expected"),
        ({"mean": (0.5,)}, r"mean is \[0.5\]; expected one number for each of 3 channels"),
    ],
)
def test_settings_that_are_off(folder, settings, said):
    with pytest.raises(ValueError, match=said):
        next(iter(sc.Images(folder / "photos", **settings)))


def test_pictures_of_several_sizes_need_a_side(tmp_path):
    for number, side in enumerate((8, 9, 9)):
        Image.new("L", (side, 8)).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match="give `side` to resize them"):
        list(sc.Images(tmp_path))
    assert torch.cat(list(sc.Images(tmp_path, side=4))).shape == (3, 1, 4, 4)


def test_pruned_without_labels_and_data(folder, capsys):
    out = folder / "out"
    asked = [
        "prune",
        str(folder / "model.toml"),
        "--images",
        str(folder / "photos"),
        "--side",
        "8",
        "--method",
        "osscar",
    ]
    assert main([*asked, "--budget", "macs=0.6", "--out", str(out), "--distill", "2", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "prune: reconstruct (5/6)" in said.err
    assert found["costs"]["macs"] <= 0.6 * found["full_costs"]["macs"] and found["costs"]["latency_ms"] > 0
    assert found["method"] == "osscar" and found["settings"]["swaps"] == 20
    assert 0 <= found["agreement"] <= 1 and found["reconstruction"]["held_out"] == 6
    assert found["widths"].keys() == {"width:conv1", "width:conv2"} and set(found["verified"]) >= {"safetensors", "pt2"}
    images = sc.Images(folder / "photos", side=8)
    assert found["preprocessing"] == json.loads(json.dumps(images.preprocessing))
    names = {}
    exec((folder / "cli_tiny_pictures.py").read_text(), names)
    x = next(iter(images))
    small = sc.load(out, model=names["Tiny"]())
    with torch.no_grad():
        torch.testing.assert_close(small(x), sc.load(out)(x), atol=1e-5, rtol=1e-5)
    assert "were solved by least squares" in (out / "README.md").read_text()
    model = names["Tiny"]()
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    space = sc.Space.trace(model.eval(), x[:1], divisor=2, rules={"*": {"depth": False}})
    alike = sc.prune(model, images, budget=sc.Budget(macs=0.6), method="osscar", space=space, distill=2)
    assert alike.widths == found["widths"]
    with torch.no_grad():
        torch.testing.assert_close(alike.network(x), small(x), atol=1e-5, rtol=1e-5)


def test_a_shorter_side_from_the_command_line(folder, capsys):
    asked = ["prune", str(folder / "model.toml"), "--images", str(folder / "photos"), "--side", "8", "--json"]
    assert main([*asked, "--resolution", "6", "--budget", "macs=0.6", "--out", str(folder / "short")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["resolution"] == [6, 6] and found["preprocessing"]["stored_side"] == [8, 8]
    assert found["costs"]["macs"] <= 0.6 * found["full_costs"]["macs"] and found["reconstruction"]["held_out"] == 6
    assert sc.load(folder / "short")(torch.rand(2, 3, 6, 6)).shape == (2, 2)
    assert main([*asked, "--resolution", "9", "--budget", "macs=0.6", "--out", str(folder / "long")]) == 2
    assert "resolution is 9; expected at most the pictures' (8, 8)" in capsys.readouterr().err


def test_a_table_of_images_is_enough(folder, capsys):
    (folder / "named.toml").write_text(MODEL + '[images]\npath = "photos"\nside = 8\n[budget]\nmacs = 0.6\n')
    assert main(["prune", str(folder / "named.toml"), "--out", str(folder / "named"), "--quiet"]) == 0
    said = capsys.readouterr()
    assert "agreement" in said.out and "on 6 pictures" in said.out and said.err == ""
    assert main(["trace", str(folder / "named.toml")]) == 2
    assert "the table [data] is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "table", "said"),
    [
        (["--images", "{root}/gone"], "", "gone does not exist"),
        (["--images", "{root}/model.toml"], "", "model.toml is a file; expected a folder of pictures"),
        (["--images", "{root}/empty"], "", "empty has no pictures in it or below"),
        (["--images", "{root}/single"], "", "holds 1 picture; give at least 2"),
        (["--images", "{root}/broken"], "", "bad.png is no readable image"),
        ([], 'mode = "L"', "does not take pictures of shape (1, 8, 8)"),
        ([], "std = [0.001, 0.001, 0.001]", "unlike those that the network was trained on"),
        ([], "sides = 3", "[images]: unknown key 'sides'; did you mean 'side'?"),
        (["--budget", "macs=0.001"], "", "is below the smallest network"),
        (["--budget", "latency_ms=3"], "", "latency_ms=3 is measured"),
        (["--method", "taylor"], "", "taylor needs labels, and there are pictures only"),
        (["--method", "l3"], "", "method 'l3' is not known"),
        (["--set", "allocation=best"], "", "allocation"),
        (["--epochs", "3"], "", "--epochs is given, but nothing is trained with --images"),
        (["--finetune-epochs", "3"], "", "--finetune-epochs is given"),
        (["--depth", "3"], "", "depth=3.0: expected a share of the blocks"),
        (["--out", "{root}/photos"], "", "photos exists already; remove it or choose another folder"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, table, said):
    for name in ("empty", "single", "broken"):
        (folder / name).mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / "single" / "a.png")
    (folder / "broken" / "bad.png").write_text("none")
    (folder / "bad.toml").write_text(f"{MODEL}[images]\n{table}\n")
    given = ["--images", "{root}/photos", "--side", "8", "--budget", "macs=0.6", "--out", "{root}/bad", *arguments]
    asked = [one.format(root=folder) for one in given]
    for option in ("--images", "--budget", "--out"):  # the last one given counts
        while asked.count(option) > 1:
            del asked[asked.index(option) : asked.index(option) + 2]
    assert main(["prune", str(folder / "bad.toml"), *asked, "--quiet"]) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.count("secateur: error: ") == 1 and said in found.err
    assert not (folder / "bad").exists()


def test_pictures_that_are_doubted_may_be_trusted(folder, capsys):
    (folder / "doubted.toml").write_text(f"{MODEL}[images]\nstd = [0.001, 0.001, 0.001]\n")
    asked = [
        "--images",
        str(folder / "photos"),
        "--side",
        "8",
        "--budget",
        "macs=0.6",
        "--out",
        str(folder / "doubted"),
    ]
    assert main(["prune", str(folder / "doubted.toml"), *asked, "--trust-images", "--quiet"]) == 0
    assert "unlike those" in capsys.readouterr().err


def test_options_of_the_other_way(folder, capsys):
    for asked, said in (
        (["--side", "8"], "--side is given, but it is of --images FOLDER"),
        (["--budget", "macs=0.5"], "no method is named; give one, such as --method ranp-f, or pictures"),
        (["--method", "l2"], "needs a budget"),
    ):
        assert main(["prune", str(folder / "model.toml"), "--out", str(folder / "other"), *asked]) == 2
        assert said in capsys.readouterr().err
    (folder / "train.toml").write_text(MODEL.replace("[space]", "train = true\n[space]"))
    asked = ["--images", str(folder / "photos"), "--budget", "macs=0.6", "--out", str(folder / "other")]
    assert main(["prune", str(folder / "train.toml"), *asked]) == 2
    assert "nothing is trained here; give a checkpoint" in capsys.readouterr().err
