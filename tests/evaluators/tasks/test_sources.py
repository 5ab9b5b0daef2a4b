"""What is wrong with data is said at the start, with its split and index; and what a dataset may give."""

import numpy as np
import pytest
import tasks
import torch
from PIL import Image

from secateur.evaluators import Classification, Segmentation

images, labels, masks = tasks.squares(20, seed=0)


class Given:
    """A dataset of what a function gives."""

    def __init__(self, give, length=20):
        self.give, self.length = give, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.give(index)


def classification(train, **settings):
    return Classification(**({"train": train, "validation": (images, labels), "classes": 3, "batch": 4} | settings))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_pixel_that_is_not_finite_is_named_before_anything_is_trained(split, value):
    spoiled = (images / 255).clone()
    spoiled[13, 0, 1, 2] = value
    whole = (images / 255, labels)
    with pytest.raises(ValueError, match=rf"{split}\[13\] has a pixel that is not finite"):
        Classification(**({"train": whole, "validation": whole} | {split: (spoiled, labels)}))


def test_a_dataset_is_looked_through_as_it_is_read():
    def give(i):
        return images[i % 20] / (255 if i != 61 else 0), i % 3

    task = classification(Given(give, 64), validation=(images / 255, labels))
    with pytest.raises(ValueError, match=r"train\[61\] has a pixel that is not finite"):
        list(task.loader("train"))


WRONG = {
    "a dict": (
        lambda i: {"picture": images[i], "label": 1},
        r"train\[0\] is a dict with the keys picture, label; expected one image, as image, ",
    ),
    "None": (lambda i: None if i == 7 else (images[i], 1), r"train\[7\] is None; expected a pair"),
    "three": (lambda i: (images[i], 1, 2), r"train\[0\] is a tuple of 3; expected a pair"),
    "a path": (lambda i: ("a.png", 1), r"the image of train\[0\] is 'a.png'; expected a tensor, an array or a pillow"),
    "a word": (lambda i: (images[i], "cat"), r"the target of train\[0\] is 'cat'; expected a whole number"),
    "sizes": (lambda i: (images[i, :, i % 2 :], 1), r"the image of train\[1\] .* shape \(3, 7, 8\), .*\(3, 8, 8\)"),
    "one hot": (lambda i: (images[i], torch.eye(3)[i % 3]), "look one-hot; .*argmax"),
    "range": (lambda i: (images[i], 255 if i == 4 else 1), "train has the label 255, outside 0..2, at index 4"),
    "an error": (lambda i: {}[i], r"train\[0\] raised KeyError: 0"),
    "int32": (lambda i: (images[i].int(), 1), r"the image of train\[0\] is torch.int32; expected uint8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_items_that_are_no_examples_are_named_at_once(name):
    give, said = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=said):
        classification(Given(give))


@pytest.mark.parametrize("one_hot", [torch.eye(3), torch.eye(3).long()])
def test_one_hot_labels_are_named_of_the_split_that_has_them(one_hot):
    with pytest.raises(ValueError, match=r"train labels have shape \(20, 3\) and look one-hot"):
        Classification(train=(images, one_hot[labels]), validation=(images, labels))


def test_a_lonely_255_is_no_class():
    marked = labels.clone()
    marked[5] = 255
    with pytest.raises(
        ValueError, match=r"train\[5\] has the label 255, which often marks .*; leave these examples out"
    ):
        Classification(train=(images, marked), validation=(images, labels))
    assert Classification(train=(images, marked), validation=(images, labels), classes=256).classes == 256
    holed = masks.clone()
    holed[2, 0, 0] = 255
    with pytest.raises(ValueError, match=r"train\[2\] has the label 255.*give ignore=255"):
        Segmentation(train=(images, holed), validation=(images, masks))
    assert Segmentation(train=(images, holed), validation=(images, masks), ignore=255).classes == 4


def test_pictures_and_arrays_are_taken_as_tensors_are():
    def picture(i):
        return Image.fromarray(images[i].permute(1, 2, 0).numpy()), labels[i]

    def array(i):
        return images[i].numpy(), np.int64(labels[i])

    stored = next(iter(classification((images, labels)).loader("train", None, 1)))
    for give in (picture, array):
        found = next(iter(classification(Given(give)).loader("train", None, 1)))
        assert torch.equal(found.inputs, stored.inputs) and torch.equal(found.targets, stored.targets)
    grey = classification(Given(lambda i: (picture(i)[0].convert("L"), 1)), validation=(images[:, :1], labels))
    assert grey.preprocessing["channels"] == 1


class Noisy(Given):
    """A training set with random transforms."""

    def __init__(self, length=20, first=0):
        super().__init__(
            lambda i: (images[i] / 255 + 0.1 * torch.randn(3, 8, 8), int(labels[(i + first) % 20])), length
        )


def test_random_transforms_leave_a_dataset_what_it_is():
    plain = {"validation": (images / 255, labels)}
    known = classification(Noisy(), **plain).fingerprint
    assert known == classification(Noisy(), **plain).fingerprint
    assert known != classification(Noisy(18), **plain).fingerprint  # another length
    assert known != classification(Noisy(first=1), **plain).fingerprint  # other targets
    still = Given(lambda i: (images[i] / 255, int(labels[i])))
    assert known != classification(still, **plain).fingerprint
