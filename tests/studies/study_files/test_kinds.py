"""What is learned of a picture, as a study file says it: labels, several, values or masks, from each reader."""

import numpy as np
import pytest
import torch
from torch import nn

from secateur import Classification, MultiLabel, Regression, Segmentation
from secateur.studies.study_files.data import Data
from secateur.studies.study_files.file import read
from secateur.studies.study_files.initial import data_at
from secateur.studies.study_files.parts import make_task

image = pytest.importorskip("PIL.Image")
KINDS = {"multi-label": MultiLabel, "regression": Regression, "segmentation": Segmentation}
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 6, 8, 3), dtype=np.uint8)


def pictures(place, count=20):
    place.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image.fromarray(PIXELS[number]).save(place / f"{number:02}.png")
    return place


def table(place, lines):
    pictures(place / "all")
    (place / "table.csv").write_text("\n".join(lines) + "\n")
    return place / "table.csv"


def of_each(text):
    return [f"all/{number:02}.png,{text(number)}" for number in range(20)]


def masks_of(place, *, palette=False):
    place.mkdir(parents=True)
    for number in range(20):
        mask = image.fromarray((PIXELS[number, :, :, 0] % 3).astype(np.uint8))
        if palette:
            mask.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        mask.save(place / f"{number:02}.png")


def every(task, split):
    batches = list(task.loader(split))
    return torch.cat([one.inputs for one in batches]), torch.cat([one.targets for one in batches])


def learns(task, outputs):
    """A network of its outputs has a loss with a gradient, and an error."""
    dense = isinstance(task, Segmentation)
    net = nn.Conv2d(3, outputs, 1) if dense else nn.Sequential(nn.Flatten(), nn.Linear(6 * 8 * 3, outputs))
    batch = next(iter(task.loader("train")))
    given, targets = task.forward(net, batch)
    task.loss(given, targets).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
    error = task.error()
    with torch.no_grad():
        for one in task.loader("validation"):
            error.update(*task.forward(net, one))
    assert np.isfinite(error.compute())


# --- tables of files ---


@pytest.mark.parametrize("lazy", [False, True])
def test_a_table_of_classes(tmp_path, lazy):
    place = table(tmp_path, ["file,class", *of_each(lambda n: "dog" if n % 4 else "cat")])
    task = Data(reader="csv", path=place, lazy=lazy, validation=4, test=4, batch=4).task()
    assert isinstance(task, Classification) and sorted(every(task, "test")[1].tolist()) == [0, 1, 1, 1]  # by class
    learns(task, 2)


def test_classes_that_are_numbers_stay_those_numbers(tmp_path):
    place = table(tmp_path, ["file,class", *of_each(lambda n: 3 * (n % 2))])
    assert every(Data(reader="csv", path=place).task(), "train")[1].unique().tolist() == [0, 3]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_table_of_several_labels(tmp_path, lazy):
    place = table(tmp_path, ["file,even,third,split", *of_each(lambda n: f"{n % 2},{int(n % 3 == 0)},{SPLITS[n % 5]}")])
    task = Data(kind="multi-label", reader="csv", path=place, lazy=lazy, batch=4).task()
    assert isinstance(task, MultiLabel) and task.sizes == {"train": 12, "validation": 4, "test": 4}
    inputs, targets = every(task, "test")
    assert targets.tolist() == [[n % 2, n % 3 == 0] for n in range(20) if n % 5 == 4]
    assert torch.equal(inputs[1], torch.from_numpy(PIXELS[9]).permute(2, 0, 1))
    learns(task, 2)


SPLITS = ("train", "train", "train", "val", "test")


def test_a_table_of_values(tmp_path):
    place = table(tmp_path, ["file,age,weight", *of_each(lambda n: f"{n / 2},{-n}")])
    task = Data(kind="regression", reader="csv", path=place, validation=0.2, batch=4).task()
    assert isinstance(task, Regression)
    inputs, targets = every(task, "validation")
    numbers = [int(number) for number in -targets[:, 1]]
    assert targets.tolist() == [[n / 2, -n] for n in numbers]
    assert torch.equal(inputs[0], torch.from_numpy(PIXELS[numbers[0]]).permute(2, 0, 1))
    learns(task, 2)


def test_other_targets_are_other_data(tmp_path):
    one = table(tmp_path / "a", ["file,age", *of_each(str)])
    other = table(tmp_path / "b", ["file,age", *of_each(lambda n: n + (n == 7))])
    given = [Data(kind="regression", reader="csv", path=place, lazy=True).task().fingerprint for place in (one, other)]
    assert given[0] != given[1]


def test_a_table_may_name_files_of_other_folders_and_large_numbers_are_names(tmp_path):
    place = table(tmp_path, ["file,class", *(f"{tmp_path}/{one}" for one in of_each(lambda n: 10**12 + n % 2))])
    (tmp_path / "lists").mkdir()
    place = place.rename(tmp_path / "lists" / "table.csv")
    (tmp_path / "validation.txt").write_text("../all/03.png\n../all/06.png\n")
    task = Data(reader="csv", path=place, validation=str(tmp_path / "validation.txt")).task()
    assert every(task, "validation")[1].tolist() == [1, 0]


def test_a_batch_of_nothing_is_refused(tmp_path):
    place = table(tmp_path, ["file,age", *of_each(str)])
    with pytest.raises(ValueError, match="batch"):
        Data(kind="regression", reader="csv", path=place, batch=0).task()


def test_a_file_lists_pictures_of_a_table(tmp_path):
    place = table(tmp_path, ["file,age", *of_each(str)])
    (tmp_path / "validation.txt").write_text("all/03.png\nall/05.png\n")
    task = Data(kind="regression", reader="csv", path=place, validation=str(tmp_path / "validation.txt")).task()
    assert every(task, "validation")[1].flatten().tolist() == [3, 5]


# --- masks ---


@pytest.mark.parametrize("palette", [False, True])
def test_a_folder_of_masks(tmp_path, palette):
    pictures(tmp_path / "images")
    masks_of(tmp_path / "masks", palette=palette)
    task = Data(kind="segmentation", reader="folder", path=tmp_path, validation=5).task()
    assert isinstance(task, Segmentation)
    inputs, targets = every(task, "validation")
    for one, mask in zip(inputs, targets, strict=True):
        assert torch.equal(one[0] % 3, mask)
    learns(task, 3)


def test_masks_are_resized_with_their_images_and_keep_their_classes(tmp_path):
    for split in ("train", "val", "test"):
        pictures(tmp_path / split / "images")
        masks_of(tmp_path / split / "masks")
    task = Data(kind="segmentation", reader="folder", path=tmp_path, side=16, overlap="dice", ignore=2).task()
    inputs, targets = every(task, "validation")
    assert inputs.shape == (20, 3, 16, 16) and targets.shape == (20, 16, 16)
    assert set(targets.unique().tolist()) <= {0, 1, 2} and task.overlap == "dice"
    assert data_at(str(tmp_path), tmp_path) == {"reader": "folder", "path": ".", "kind": "segmentation"}


# --- arrays ---


@pytest.mark.parametrize(
    "kind, targets, outputs",
    [
        ("multi-label", np.arange(60).reshape(20, 3) % 2, 3),
        ("regression", np.arange(20.0), 1),
        ("segmentation", PIXELS[..., 0] % 3, 3),
    ],
)
def test_arrays_of_every_kind(tmp_path, kind, targets, outputs):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=targets)
    (tmp_path / "study.toml").write_text(f'model = "a:b"\n[data]\nkind = "{kind}"\nreader = "npz"\npath = "a.npz"\n')
    task = make_task(read(tmp_path / "study.toml"))
    assert type(task) is KINDS[kind]
    learns(task, outputs)


# --- what is wrong ---


@pytest.mark.parametrize(
    "lines, given, words",
    [
        (["file,age", "all/99.png,1"], {}, "line 2: there is no file"),
        (["file,age", "all/01.png,x"], {}, "line 2: could not convert"),
        (["file,age", "all/01.png"], {}, "line 2 has 1 columns, the first line 2"),
        (["file,age"], {}, "0 lines"),
        ([], {}, "0 lines of nothing"),
        (["file,split", "all/01.png,train"], {}, "0 columns of targets"),
        (["file,age", "", "all/01.png,1", "", "all/01.png,2"], {}, "line 5: .*01.png stands in line 3 too"),
        (["file,age,split", "all/01.png,1,both"], {}, "the split is 'both'; expected train, validation or test"),
        (["file,age,split", "all/01.png,1,test"], {}, "no line whose split is train"),
        (["file,age", *of_each(lambda n: "nan" if n == 3 else n)], {}, "is not finite"),
        (["file,a,b", *of_each(lambda n: "1,0")], {"kind": "classification"}, "2 columns of targets.*'multi-label'"),
        (["file,a,b", *of_each(lambda n: "1,2")], {"kind": "multi-label"}, "expected 0 or 1 for each of 2 labels"),
    ],
)
def test_a_wrong_table_is_told_by_its_line(tmp_path, lines, given, words):
    place = table(tmp_path, lines)
    with pytest.raises(ValueError, match=words):
        Data(**{"kind": "regression"} | given, reader="csv", path=place).task()


def test_no_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(PIXELS.tobytes())
    with pytest.raises(ValueError, match="is no CSV"):
        Data(reader="csv", path=tmp_path / "a.csv").read()
    with pytest.raises(ValueError, match="is no CSV"):
        Data(reader="csv", path=tmp_path).read()


def test_a_mask_that_is_none_is_refused(tmp_path):
    with pytest.raises(NotADirectoryError, match="no folder 'images'"):
        Data(kind="segmentation", reader="folder", path=tmp_path).read()
    pictures(tmp_path / "images")
    pictures(tmp_path / "masks", 19)
    with pytest.raises(ValueError, match="'19' in only one of them"):
        Data(kind="segmentation", reader="folder", path=tmp_path).read()
    pictures(tmp_path / "masks")
    with pytest.raises(ValueError, match="several values a pixel"):
        Data(kind="segmentation", reader="folder", path=tmp_path).read()


@pytest.mark.parametrize(
    "given, words",
    [
        ({"kind": "regression", "label_smoothing": 0.1}, "label_smoothing is for classification; this is regression"),
        ({"kind": "multi-label", "ignore": 2}, "ignore is for segmentation"),
        ({"ignore": 0}, "ignore is for segmentation; this is classification"),
        ({"overlap": "dice"}, "overlap is for segmentation; this is classification"),
        ({"kind": "regression", "reader": "folder"}, "'folder' has no targets for regression; 'csv' has"),
        ({"kind": "segmentation", "reader": "csv"}, "'csv' has no targets for segmentation; 'folder' has"),
        ({"kind": "segmentation", "reader": "folder", "lazy": True}, "lazy is not for masks"),
    ],
)
def test_settings_of_another_kind_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Data(**given)
