"""What programs take, where it is asked for: pictures as they are decoded, and every side."""

import json

import numpy as np
import pytest
import torch
from landscapes import tiny_net, tiny_space, tiny_task, tiny_training
from networks import image
from torch import nn

from secateur import Budget, Classification, Search, Space, Study, build, load, save
from secateur.__main__ import main
from secateur.studies.exports.conversion import onnx_installed

FORMATS = ("pt2", "onnx") if onnx_installed() else ("pt2",)
COLOURS = {"scale": 1 / 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


class Halves(nn.Module):
    """Down and up again: it takes every side that is a multiple of four."""

    def __init__(self):
        super().__init__()
        self.down, self.low = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.up, self.last = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x):
        half = self.down(x).relu()
        return {"maps": self.last(torch.cat([half, self.up(self.low(half).relu())], 1))}


class Flat(nn.Module):
    """It takes one side alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8 * 8 * 8, 4)

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))


class Named(nn.Module):
    """Takes its pictures by name, with a flag."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, pixel_values, square=False):
        found = self.conv(pixel_values).mean((2, 3))
        return found * found if square else found


def written(folder, model, example, space_options=None, **options):
    """The network of half the width, and its folder."""
    torch.manual_seed(0)
    space = Space.trace(model.eval(), example, divisor=1, **(space_options or {}))
    candidate = space.uniform(0.5)
    small = build(model, space, candidate)
    save(folder, small, model=model, space=space, candidate=candidate, formats=FORMATS, **options)
    return small


def runs(folder):
    """Each program as a function from an array to an array."""

    def program(array):
        (found,) = torch.utils._pytree.tree_leaves(load(folder)(torch.as_tensor(array)))
        return found.numpy()

    def onnx(array):
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return session.run(None, {given.name: array})[0]

    return [program, onnx] if onnx_installed() else [program]


def onnx_inputs(folder):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return {value.name: (value.type, value.shape) for value in session.get_inputs()}


def normalised(pictures):
    scaled = (pictures / 255 - np.array(COLOURS["mean"])) / np.array(COLOURS["std"])
    return torch.as_tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32)


def pictures(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_pictures_as_they_are_decoded(tmp_path):
    small = written(tmp_path / "net", Flat(), image(1, 3, 16, 16), pictures=True, notes={"preprocessing": COLOURS})
    given = pictures(5, 16, 16, 3)
    expected = small(normalised(given)).detach().numpy()
    for run in runs(tmp_path / "net"):
        np.testing.assert_allclose(run(given), expected, rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["pictures"] and not config["any_side"] and config["preprocessing"] == COLOURS
    trained = load(tmp_path / "net", model=Flat())  # the network itself still takes what it took
    torch.testing.assert_close(trained(normalised(given)), small(normalised(given)))
    if onnx_installed():
        assert onnx_inputs(tmp_path / "net") == {"pictures": ("tensor(uint8)", ["batch", 16, 16, 3])}


def test_pictures_of_a_network_that_takes_them_by_name(tmp_path):
    example = {"pixel_values": image(1, 3, 16, 16)}
    options = {"pictures": True, "notes": {"preprocessing": COLOURS | {"mean": 0.5, "std": 0.25}}}
    small = written(tmp_path / "net", Named(), example, {"example_kwargs": {"square": True}}, **options)
    given = pictures(2, 16, 16, 3)
    inputs = torch.as_tensor((given / 255 - 0.5) / 0.25, dtype=torch.float32).movedim(-1, 1)
    for run in runs(tmp_path / "net"):
        np.testing.assert_allclose(run(given), small(inputs, square=True).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("example", "preprocessing", "said"),
    [
        (image(1, 3, 16, 16), {}, "says nothing of scale, mean, std"),
        (image(1, 3, 16, 16), COLOURS | {"std": [0.2, 0.0, 0.3]}, "std="),
        (image(1, 3, 16, 16), COLOURS | {"mean": [0.2, 0.3]}, "expected 3 numbers"),
        (image(1, 3, 16, 16), COLOURS | {"stored_dtype": "float32"}, "the task's pictures are float32"),
    ],
)
def test_pictures_that_nobody_can_prepare_are_refused(example, preprocessing, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        written(tmp_path / "net", Flat(), example, pictures=True, notes={"preprocessing": preprocessing})
    assert not (tmp_path / "net").exists()


def test_pictures_are_no_vectors(tmp_path):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"this network takes \(2, 6\); expected one floating input"):
        written(tmp_path / "net", model, torch.rand(1, 6), pictures=True, notes={"preprocessing": COLOURS})


@pytest.mark.parametrize("as_pictures", [False, True])
def test_every_side(as_pictures, tmp_path):
    options = {"pictures": True, "notes": {"preprocessing": COLOURS}} if as_pictures else {}
    small = written(tmp_path / "net", Halves(), image(1, 3, 32, 32), any_side=True, **options)
    for batch, *side in ((1, 32, 32), (3, 64, 20), (2, 24, 48)):
        given = pictures(batch, *side, 3)
        inputs = normalised(given)
        expected = small(inputs)["maps"].detach().numpy()
        for run in runs(tmp_path / "net"):
            found = run(given if as_pictures else inputs.numpy())
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["any_side"] and config["side_multiple"] == 4
    assert any(name.startswith("1 at ") for name in config["verified"]["pt2"])
    if onnx_installed():
        ((_, shape),) = onnx_inputs(tmp_path / "net").values()
        assert shape == (["batch", "height", "width", 3] if as_pictures else ["batch", 3, "height", "width"])


def test_a_network_of_one_side_is_refused(tmp_path):
    with pytest.raises(ValueError, match="any_side=True: the network takes no other sides"):
        written(tmp_path / "net", Flat(), image(1, 3, 16, 16), any_side=True)
    assert not (tmp_path / "net").exists()


class Written(nn.Module):
    """It runs at every side, but its program keeps the one that it was exported with."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.conv(x).relu().sum((2, 3)) / len(range(int(x.shape[2]) * int(x.shape[3]))))


def test_a_program_that_keeps_its_side_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be written as pt2 .*leave pt2 out of the formats"):
        written(tmp_path / "net", Written(), image(1, 3, 16, 16), any_side=True)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"any_side": True}, "takes no other sides"), ({"pictures": True}, "the task's pictures are float32")],
)
def test_a_study_tries_before_it_trains(options, said, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    split = torch.rand(8, 1, 8, 8), torch.arange(8) % 4
    task = Classification(train=split, validation=split, test=split, batch=4)
    space = Space.trace(model, split[0][:1], divisor=1)
    study = Study.create(tmp_path / "study", model=model, task=task, space=space, budget=Budget(macs=0.9))
    study.run(2)
    heard = []
    with pytest.raises(ValueError, match=said):
        study.export(tmp_path / "out", finetune_epochs=1, progress=heard.append, **options)
    assert not heard and not (tmp_path / "out").exists()


def test_a_study_of_stored_pictures(tmp_path):
    model = tiny_net()
    parts = {"task": tiny_task(), "space": tiny_space(model), "budget": Budget(macs=0.5), "training": tiny_training()}
    study = Study.create(tmp_path / "study", model=model, search=Search(threads=1), **parts)
    study.run(2)
    (folder,) = study.export(tmp_path / "out", finetune_epochs=0, pictures=True, formats=("pt2",))
    config = json.loads((folder / "config.json").read_text())
    given = pictures(4, *config["resolution"], 1)
    said = config["preprocessing"]
    inputs = (torch.as_tensor(given).movedim(-1, 1) * said["scale"] - said["mean"][0]) / said["std"][0]
    torch.testing.assert_close(load(folder)(torch.as_tensor(given)), load(folder, model=tiny_net())(inputs))


@pytest.mark.parametrize("option", ["--pictures", "--any-side"])
def test_the_command_line_has_both(option, capsys):
    assert main(["export", "--help"]) == 0
    assert option in capsys.readouterr().out
