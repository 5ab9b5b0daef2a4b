import json

import networks
import pytest
import tasks
import torch

from secateur.evaluators import Augment, Classification, Segmentation

CPU = torch.device("cpu")


class Lazy:
    """A dataset that decodes on demand."""

    def __init__(self, images, targets):
        self.images, self.targets_ = images, targets

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.targets_[index]


def prepared(task, split="train", resolution=None, seed=None):
    return [task.prepare(batch, CPU) for batch in task.loader(split, resolution, seed)]


@pytest.mark.parametrize("make", [tasks.classification, tasks.segmentation])
def test_same_arguments_same_batches(make):
    task = make(augment=Augment(shift=0.2, flip=True))
    for seed in (None, 3):
        first, again = prepared(task, seed=seed), prepared(task, seed=seed)
        assert all(torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    assert not torch.equal(prepared(task, seed=3)[0][0], prepared(task, seed=4)[0][0])


def test_only_seeded_training_images_are_augmented():
    plain, moved = tasks.classification(), tasks.classification(augment=Augment(shift=0.3))
    for split, seed, same in (("train", None, True), ("train", 1, False), ("validation", 1, True), ("test", 1, True)):
        a, b = prepared(plain, split, seed=seed)[0][0], prepared(moved, split, seed=seed)[0][0]
        assert torch.equal(a, b) is same, (split, seed)


def test_every_training_image_comes_once_and_validation_in_order():
    images, labels, _ = tasks.squares(48, seed=0)
    task = Classification(train=(images, labels), validation=(images, labels), batch=16)
    seen = torch.cat([batch.inputs for batch in task.loader("train", None, 5)])
    assert sorted(x.sum().item() for x in seen) == sorted(x.sum().item() for x in images)
    assert torch.equal(torch.cat([batch.inputs for batch in task.loader("validation", None, 5)]), images)


def test_unshuffled_training_images_are_mixed_though_stored_by_class():
    images, labels, _ = tasks.squares(90, seed=0)
    order = labels.argsort(stable=True)
    task = Classification(train=(images[order], labels[order]), validation=(images, labels), batch=30)
    assert len(next(iter(task.loader("train", None, None))).targets.unique()) == 3


def test_a_smaller_last_training_batch_is_left_out():
    task = tasks.classification(train=40, batch=16)
    assert len(task.loader("train")) == len(list(task.loader("train"))) == 2
    assert len(task.loader("validation")) == len(list(task.loader("validation"))) == 3
    assert len(tasks.classification(train=9, batch=16).loader("train")) == 1


def test_images_stay_bytes_and_are_normalised_in_batches():
    task = tasks.classification(normalise="measure")
    assert next(iter(task.loader("train"))).inputs.dtype == torch.uint8
    inputs = torch.cat([inputs for inputs, _ in prepared(task)])
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(inputs.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_images_are_taken_as_they_are_unless_asked():
    images, labels = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5, torch.arange(8) % 2
    plain = {"train": (images, labels), "validation": (images, labels)}
    stored = images.clone()
    assert torch.equal(prepared(Classification(**plain), "validation")[0][0], stored)
    as_bytes = (255 * (images + 0.5)).to(torch.uint8), labels
    [(inputs, _)] = prepared(Classification(train=as_bytes, validation=as_bytes), "validation")
    assert torch.equal(inputs, as_bytes[0].float() * (1 / 255))
    one = Classification(**plain, std=[0.5] * 3, normalise="measure")  # what is given is not measured
    assert one.std == [0.5] * 3 and one.mean == Classification(**plain, normalise="measure").mean != [0.0] * 3


@pytest.mark.parametrize("sides", [(12,), (12, 10), (6, 8, 7)])
@pytest.mark.parametrize("scale", [0.5, 1, 2])
def test_every_number_of_axes_and_resolution(sides, scale):
    images = torch.rand(4, 2, *sides, generator=torch.Generator().manual_seed(0))
    task = Classification(
        train=(images, torch.arange(4)), validation=(images, torch.arange(4)), mean=[0, 0], std=[1, 1]
    )
    resolution = tuple(int(side * scale) for side in sides)
    inputs, _ = prepared(task, "validation", resolution)[0]
    assert tuple(inputs.shape[2:]) == resolution
    if scale == 1:
        assert torch.equal(inputs, images)
    torch.testing.assert_close(inputs.mean(), images.mean(), atol=0.02, rtol=0)


def test_lazy_and_stored_images_are_the_same_task():
    images, labels, _ = tasks.squares(40, seed=0)
    stored = Classification(train=(images, labels), validation=(images, labels), batch=8)
    stored = stored.measured()
    lazy = Classification(
        train=Lazy(images, labels), validation=Lazy(images, labels), batch=8, classes=3, normalise="measure"
    )
    assert lazy.mean == stored.mean and lazy.std == stored.std
    for a, b in zip(prepared(stored, seed=2), prepared(lazy, seed=2), strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_fingerprint_says_data_and_settings():
    task = tasks.classification()
    assert task.fingerprint == tasks.classification().fingerprint
    others = [
        tasks.classification(train=95),
        tasks.classification(batch=8),
        tasks.classification(augment=Augment(shift=0.1)),
        tasks.classification(label_smoothing=0.1),
        tasks.classification(classes=4),
        tasks.classification(mean=[1, 0, 0]),
        tasks.classification(normalise="measure"),
    ]
    assert len({task.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    assert task.with_batch(8).fingerprint == others[1].fingerprint


@pytest.mark.parametrize("make", [tasks.classification, tasks.segmentation])
def test_preprocessing_is_json_and_sizes_are_counted(make):
    task = make()
    assert json.loads(json.dumps(task.preprocessing)) == task.preprocessing
    assert set(task.sizes) == {"train", "validation", "test"}
    assert str(task.sizes["train"]) in repr(task)


def test_segmentation_judges_every_resolution_on_the_same_pixels():
    task, model = tasks.segmentation(), torch.nn.Conv2d(3, 4, 3, 2, 1)
    for resolution in (None, (8, 8), (4, 4)):
        for split in ("validation", "test"):
            outputs, masks = task.forward(model, next(iter(task.loader(split, resolution))))
            assert outputs.shape[2:] == masks.shape[1:] == (8, 8)
    _, masks = task.forward(model, next(iter(task.loader("train", (4, 4), 1))))
    assert masks.shape[1:] == (4, 4)


def test_ignored_labels_are_no_wrong_ones():
    images, _, masks = tasks.squares(8, seed=0)
    masks[:, 0] = 255
    task = Segmentation(train=(images, masks), validation=(images, masks), ignore=255, augment=Augment(shift=0.5))
    assert task.classes == 4
    inputs, targets = prepared(task, seed=1)[0]
    assert set(targets.unique().tolist()) <= {-100, 0, 1, 2, 3}
    assert task.loss(torch.zeros(8, 4, 8, 8), targets).isfinite()


def test_inputs_take_the_models_dtype():
    task, model = tasks.classification(), networks.Plain(4, 3).to(torch.bfloat16).eval()
    outputs, labels = task.forward(model, next(iter(task.loader("validation"))))
    assert outputs.dtype == torch.bfloat16 and labels.dtype == torch.int64
    assert task.loss(outputs, labels).dtype == torch.float32


images, labels, masks = tasks.squares(6, seed=0)
WRONG = [
    ({"train": (images, labels - 1)}, ValueError, "train has the label -1, outside 0..1"),
    ({"validation": (images, labels + 1)}, ValueError, "validation has the label 3, outside 0..2"),
    ({"classes": 2}, ValueError, "label 2, outside 0..1"),
    ({"classes": 0}, ValueError, "at least 1"),
    ({"train": (images[:0], labels[:0])}, ValueError, "the train split is empty"),
    ({"validation": Lazy(images[:0], labels)}, ValueError, "the validation split is empty"),
    ({"train": (images, labels[:4])}, ValueError, "6 images and 4 targets"),
    ({"train": (images, labels.float())}, TypeError, "whole numbers"),
    ({"train": (images.int(), labels)}, TypeError, "expected uint8"),
    ({"train": (images[:, 0, 0], labels)}, ValueError, "make them equal"),
    ({"train": images}, TypeError, "pair of tensors"),
    ({"train": 3}, TypeError, "pair of tensors"),
    ({"validation": (images[:, :2], labels)}, ValueError, "make them equal"),
    ({"train": Lazy(images, labels)}, ValueError, "number of classes"),
    ({"batch": 0}, ValueError, "at least 1"),
    ({"mean": [0.5]}, ValueError, "3 channels"),
    ({"std": [0.5, 0, 1]}, ValueError, "above 0"),
    ({"normalise": "imagenet"}, ValueError, "normalise is 'imagenet'; expected None"),
    ({"normalise": "measure", "mean": [0] * 3, "std": [1] * 3}, ValueError, "leaves nothing to measure"),
    ({"label_smoothing": 1}, ValueError, "label_smoothing"),
    ({"train": (images, masks)}, ValueError, "expected \\(n,\\)"),
]


@pytest.mark.parametrize("given, error, words", WRONG)
def test_wrong_data_is_one_clear_error(given, error, words):
    with pytest.raises(error, match=words):
        Classification(**({"train": (images, labels), "validation": (images, labels)} | given))


def test_wrong_labels_of_a_lazy_dataset_are_found_when_read():
    images, labels, _ = tasks.squares(64, seed=0)
    labels[37] = 3
    task = Classification(train=Lazy(images, labels), validation=Lazy(images[:8], labels[:8]), classes=3)
    with pytest.raises(ValueError, match=r"train has the label 3, outside 0..2, at index 37"):
        prepared(task)


def test_a_split_or_resolution_that_is_not_there():
    task = Classification(train=(images, labels), validation=(images, labels))
    with pytest.raises(ValueError, match="no test split"):
        task.loader("test")
    with pytest.raises(ValueError, match="'training'"):
        task.loader("training")
    with pytest.raises(ValueError, match="one size an axis"):
        task.loader("train", (8,))


def test_a_network_of_other_outputs_is_refused():
    task = tasks.classification()
    with pytest.raises(ValueError, match=r"returned \(16, 5\); the labels need \(16, 3\)"):
        task.forward(networks.Plain(4, 5), next(iter(task.loader("train"))))


def test_masks_must_fit_their_images():
    with pytest.raises(ValueError, match="make them equal"):
        Segmentation(train=(images, masks[:, :4]), validation=(images, masks))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_blur_the_images(dtype):
    task = tasks.classification(augment=Augment(shift=0.2, rotate=20))
    plain = prepared(task, resolution=(6, 6), seed=1)[0][0]
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(prepared(task, resolution=(6, 6), seed=1)[0][0], plain)


def test_images_whose_channels_come_last_are_told_of(caplog):
    images, labels = torch.zeros(6, 24, 24, 3, dtype=torch.uint8), torch.arange(6) % 2
    for given, told in ((images, True), (images.permute(0, 3, 1, 2), False), (images[:, :3], False)):
        caplog.clear()
        Classification(train=(given, labels), validation=(given, labels))
        said = [one.getMessage() for one in caplog.records if "where channels come last" in one.getMessage()]
        assert len(said) == 2 * told
    caplog.clear()
    Classification(train=(images, labels), validation=(images, labels))
    assert "train images have shape (6, 24, 24, 3), which is 24 channels of 24 x 3;" in caplog.text


def test_a_fingerprint_does_not_depend_on_threads():
    """A study that was made with eight threads is found again with two."""
    images = torch.rand(500, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels, before, found = torch.arange(500) % 10, torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.add(Classification(train=(images, labels), validation=(images[:10], labels[:10])).fingerprint)
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1
