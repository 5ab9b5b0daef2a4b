"""Data as people have them: loaders, iterable and random datasets, dicts, transforms; every pass can be had again."""

import dataclasses
import os
import pickle
import random

import numpy as np
import pytest
import tasks
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from secateur.evaluators import Classification
from secateur.testing.promises import untouched

images, labels, _ = tasks.squares(20, seed=0)
floats = images / 255
PLAIN = TensorDataset(floats, labels)


class Noisy(Dataset):
    """Draws from all three generators that transforms draw from."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return floats[index] + torch.rand(()) + np.float32(np.random.rand()) + random.random(), int(labels[index])


class Stream(IterableDataset):
    def __init__(self, says=20):
        self.says = says

    def __len__(self):
        return self.says

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return ((floats[i] + torch.rand(()), int(labels[i])) for i in range(first, 20, step))


def task(train, **settings):
    return Classification(**({"train": train, "validation": PLAIN, "classes": 3} | settings))


GIVEN = {
    "noisy": lambda: task(Noisy(), batch=4),
    "noisy by workers": lambda: task(Noisy(), batch=4, workers=2),
    "loader": lambda: task(DataLoader(Noisy(), batch_size=4, shuffle=True)),
    "loader with workers": lambda: task(DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2)),
    "loader with a generator": lambda: task(
        DataLoader(Noisy(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(7))
    ),
    "weighted": lambda: task(DataLoader(Noisy(), 4, sampler=WeightedRandomSampler([1.0, 2.0] * 10, 20))),
    "stream": lambda: task(Stream(), batch=4),
    "stream with workers": lambda: task(DataLoader(Stream(), batch_size=5, num_workers=2)),
}


def shown(given, seed, split="train"):
    return [(batch.inputs, batch.targets) for batch in given.loader(split, None, seed)]


def same(one, two):
    return len(one) == len(two) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("name", GIVEN)
def test_a_pass_can_be_had_again_and_leaves_generators_alone(name):
    given, again = GIVEN[name](), GIVEN[name]()
    with untouched():
        state = random.getstate()
        first = shown(given, 3)
        assert random.getstate() == state
    torch.rand(1)  # what else is drawn changes nothing
    assert same(first, shown(given, 3)) and same(first, shown(again, 3))
    assert not same(first, shown(given, 4))
    assert len(first) == len(given.loader("train", None, 3)) and given.fingerprint == again.fingerprint
    assert sum(len(targets) for _, targets in first) == given.sizes["train"] == 20


def test_examples_are_drawn_alike_with_workers_and_without():
    one = task(DataLoader(Noisy(), batch_size=4, shuffle=True))
    two = task(DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=True))
    assert same(shown(one, 5), shown(two, 5)) and same(shown(one, 6), shown(two, 6))
    assert same(shown(task(Noisy(), batch=4, workers=1), 5), shown(task(Noisy(), batch=4, workers=2), 5))


def test_workers_that_persist_serve_two_passes_at_once():
    given = task(DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=1, persistent_workers=True))
    alone = shown(given, 1), shown(given, 2)
    both = list(zip(given.loader("train", None, 1), given.loader("train", None, 2), strict=True))
    assert same(alone[0], [(a.inputs, a.targets) for a, _ in both])
    assert same(alone[1], [(b.inputs, b.targets) for _, b in both])
    next(iter(given.loader("train", None, 1)))  # a pass that is left in its middle
    assert same(alone[1], shown(pickle.loads(pickle.dumps(given)), 2))


def test_a_loader_keeps_its_batches_its_order_and_what_it_leaves_out():
    given = task(DataLoader(Subset(PLAIN, range(4, 18)), batch_size=4, drop_last=True, shuffle=True))
    assert given.batch == 4 and given.sizes["train"] == 12
    assert [len(targets) for _, targets in shown(given, 0)] == [4, 4, 4]
    held = task(PLAIN, batch=4, validation=DataLoader(PLAIN, batch_size=7))
    assert torch.equal(torch.cat([one for one, _ in shown(held, None, "validation")]), floats)
    assert [len(one) for one, _ in shown(held, None, "validation")] == [7, 7, 6]
    assert len(shown(given.with_batch(6), 0)[0][0]) == 6


def test_a_train_loader_without_shuffling_is_warned_of_and_mixed_where_it_stands_for_the_whole(caplog):
    given = task(DataLoader(PLAIN, batch_size=4))
    assert "shuffle=True" in caplog.text
    assert same(shown(given, 0), shown(given, 1))
    assert not same(shown(given, 0), shown(given, None)) and same(shown(given, None), shown(given, None))


def collated(items):
    return {"pixel_values": torch.stack([item["image"] for item in items]), "labels": torch.tensor([1] * len(items))}


@dataclasses.dataclass
class Example:
    image: object
    label: int


class Given(Dataset):
    def __init__(self, give):
        self.give = give

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return self.give(index)


def test_dicts_and_dataclasses_are_taken_as_pairs_are():
    pairs = shown(task(Given(lambda i: (images[i], int(labels[i]))), batch=4), 1)
    for give in (
        lambda i: {"image": Image.fromarray(images[i].permute(1, 2, 0).numpy()), "label": int(labels[i])},
        lambda i: {"pixel_values": images[i].numpy(), "labels": np.int64(labels[i]), "name": str(i)},
        lambda i: Example(images[i], int(labels[i])),
    ):
        assert same(shown(task(Given(give), batch=4, validation=(images, labels)), 1), pairs)
    loader = DataLoader(Given(lambda i: {"image": images[i]}), batch_size=4, shuffle=True, collate_fn=collated)
    assert all(bool((targets == 1).all()) for _, targets in shown(task(loader), 1))


def test_transforms_are_of_images_one_by_one():
    scaled = task((images, labels), batch=4, transform=lambda image: image / 255)
    assert same(shown(scaled, 1), shown(task((floats, labels), batch=4), 1))
    split = {"train": lambda image: image + torch.rand(()), "validation": lambda image: image}
    moved = task((floats, labels), batch=4, transform=split)
    assert same(shown(moved, 1), shown(moved, 1)) and not same(shown(moved, 1), shown(scaled, 1))
    assert list(moved.preprocessing["transform"]) == ["train", "validation"]
    assert scaled.fingerprint != task((floats, labels), batch=4).fingerprint


class Endless(IterableDataset):
    def __iter__(self):
        return iter([])


class Dies(Noisy):
    def __getitem__(self, index):
        if index == 13:
            raise KeyError("no such picture")
        return super().__getitem__(index)


WRONG = {
    "batch beside a loader": (
        lambda: task(DataLoader(PLAIN, batch_size=4, shuffle=True), batch=8),
        "batch=8, but train is a DataLoader, which has its own",
    ),
    "workers beside a loader": (lambda: task(DataLoader(PLAIN, 4, shuffle=True), workers=2), "workers=2, but train is"),
    "transform beside a loader": (
        lambda: task(DataLoader(PLAIN, batch_size=4), transform=lambda image: image),
        "train is a DataLoader, whose dataset has transforms of its own",
    ),
    "no batches": (lambda: task(DataLoader(PLAIN, batch_size=None)), "batch_size=None; give it the number"),
    "no length": (lambda: task(Endless()), "Endless.* without a length; give it a __len__"),
    "pictures that are not collated": (
        lambda: task(DataLoader(Given(lambda i: {"image": Image.new("L", (8, 8)), "label": 1}), batch_size=4)),
        r"train\[0, 1, 2, ...\] can't be put together.*collate_fn raised TypeError.*keys image, label",
    ),
    "three parts": (
        lambda: task(DataLoader(TensorDataset(floats, labels, labels), 4)),
        "is a list of 3; expected a pair",
    ),
    "an error": (lambda: shown(task(DataLoader(Dies(), 4, shuffle=True)), 1), r"train\[13\] raised KeyError"),
    "an error of a worker": (
        lambda: shown(task(DataLoader(Dies(), 4, shuffle=True, num_workers=1)), 1),
        r"^train\[13\] raised KeyError: 'no such picture'$",
    ),
    "too short": (
        lambda: shown(task(Stream(says=30), batch=4), 1),
        "gave 20 examples in 5 batches, and its length is 30",
    ),
    "of no split": (lambda: task(PLAIN, transform={"val": str}), "transform has the key 'val'"),
    "no transform": (lambda: task(PLAIN, transform={"train": 1}), "transform of train is a int"),
    "transform raises": (
        lambda: task(PLAIN, transform=lambda x: x.foo),
        r"transform raised Attr.*of train\[0\], a Tensor",
    ),
    "workers": (lambda: task(PLAIN, workers=-1), "workers is -1; expected a whole number"),
    "not finite": (
        lambda: shown(
            task(DataLoader(TensorDataset(floats.where(floats != floats[7, 0, 0, 0], torch.nan), labels), 20)), 1
        ),
        r"image \d+ of the batch train\[.* has a pixel that is not finite",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_is_said_with_split_and_place(name):
    make, said = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=said) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_workers_read_in_their_own_processes():
    pids = task(Given(lambda i: (torch.full((3, 8, 8), float(os.getpid())), 1)), batch=4, workers=1, validation=PLAIN)
    assert all(int(one[0, 0, 0, 0]) != os.getpid() for one, _ in shown(pids, 0))
