"""Pictures prepared as the record of an export says."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import secateur as sc

SAID = {"channels": 3, "stored_side": [8, 8], "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.2] * 3}


def record(folder, resolution=(8, 8), **more):
    (folder / "config.json").write_text(json.dumps({"preprocessing": SAID | more, "resolution": list(resolution)}))
    return sc.preprocess(folder)


def test_paths_images_and_arrays_are_prepared_alike(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    prepare = record(tmp_path)
    expected = (torch.tensor(array).permute(2, 0, 1)[None] / 255 - 0.5) / 0.2
    for picture in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), array):
        assert torch.allclose(prepare(picture), expected, atol=1e-5)
    assert prepare([array, array]).shape == (2, 3, 8, 8)


def test_it_is_what_the_task_does_at_another_side(tmp_path):
    """The task of a folder of pictures, at a smaller side, through its loader; grey ones, of other sizes."""
    for kind in "ab":
        (tmp_path / kind).mkdir()
        for number in range(5):
            array = np.random.default_rng(number).integers(0, 256, (14, 11), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / kind / f"{number}.png")
    data = sc.data.Data(reader="folder", path=tmp_path, side=10, mean=[0.4], std=[0.3])
    task = data.task()
    (batch,) = task.loader("validation", (6, 6), None)
    inputs, _ = task.prepare(batch, torch.device("cpu"))
    prepare = record(tmp_path, (6, 6), **task.preprocessing)
    files = {prepare(path).numpy().tobytes() for path in tmp_path.glob("*/*.png")}
    assert {one[None].numpy().tobytes() for one in inputs} <= files and len(inputs) > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"mean": None, "transform": {"train": "Resize"}}, "a transform of your own (Resize)"),
        ({"stored_side": [8, 8, 8]}, "expected pictures of 8 bits"),
        ({"stored_dtype": "float32"}, "expected pictures of 8 bits"),
    ],
)
def test_what_cannot_be_prepared_is_said(tmp_path, more, said):
    with pytest.raises(ValueError) as error:
        record(tmp_path, **more)
    assert said in str(error.value)


def test_what_is_no_picture_or_no_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the folder of an exported network"):
        sc.preprocess(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="says nothing of scale, mean, std"):
        sc.preprocess(tmp_path)
    prepare = record(tmp_path)
    for wrong, said in (
        (np.zeros((8, 8, 3)), "float64"),
        (3, "int"),
        ([], "no picture"),
        (tmp_path / "n.png", "n.png"),
    ):
        with pytest.raises(ValueError, match=said):
            prepare(wrong)
