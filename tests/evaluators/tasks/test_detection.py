"""Pictures with boxes: their task with networks of torchvision's kind and YOLO's, and the mean average precision."""

import boxes
import pytest
import torch
from torch.utils.data import DataLoader

import secateur as sc
from secateur.evaluators import Augment, BoxPrecisionError, Training, measure_error, recalibrate, train
from secateur.pruners import Examples
from secateur.pruners.examples import gradients
from secateur.testing import TaskContract

images, targets = boxes.drawn(24, seed=0)


def network(kind="torchvision"):
    torch.manual_seed(0)
    return boxes.Finder() if kind == "torchvision" else boxes.Cells()


class Drawn(torch.utils.data.Dataset):
    def __len__(self):
        return len(images)

    def __getitem__(self, index):
        return images[index], targets[index] | {"image_id": index}


def detected(train=(images, targets), **settings):
    return sc.Detection(**({"train": train, "validation": (images, targets), "classes": 3, "batch": 8} | settings))


def first(task, split="validation", resolution=None, seed=None):
    return next(iter(task.loader(split, resolution, seed)))


class TestDetection(TaskContract):
    def task(self):
        return boxes.detection(train=24, validation=9, test=6, batch=4, augment=Augment(shift=0.1, flip=True))

    def model(self):
        return network()


class TestYoloDetection(TaskContract):
    def task(self):
        return boxes.detection("yolo", train=24, validation=9, test=6, batch=4)

    def model(self):
        return network("yolo")


def test_average_precision_by_hand():
    """Surest first: nothing there, the square itself, and one that overlaps another picture's square by 0.6."""
    square = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1])}
    answers = [
        {"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), "scores": torch.tensor([0.9, 0.95])},
        {"boxes": torch.tensor([[0.0, 0, 10, 6]]), "scores": torch.tensor([0.8])},
    ]
    answers = [answer | {"labels": torch.ones(len(answer["scores"]), dtype=torch.long)} for answer in answers]

    def precision(answers, targets, iou=None):
        error = BoxPrecisionError(iou=iou)
        for pair in zip(answers, targets, strict=True):
            error.update(*([one] for one in pair))
        return 1 - error.compute()

    at_half, above = 2 / 3, 51 / 101 / 2  # precisions 0, 1/2, 2/3 at recalls 0, 1/2, 1; and 0, 1/2, 1/3 at 0, 1/2, 1/2
    assert precision(answers, [square] * 2, iou=0.5) == pytest.approx(at_half)
    assert precision(answers, [square] * 2) == pytest.approx((3 * at_half + 7 * above) / 10)
    other = square | {"labels": torch.tensor([2])}  # a label that nothing finds counts as 0, one that is nowhere not
    assert precision(answers, [square, other], iou=0.5) == pytest.approx(0.5 / 2)
    twice = {name: torch.cat([value, value]) for name, value in answers[1].items()}
    assert precision([twice], [square], iou=0.5) == pytest.approx(1.0)  # what is found again costs nothing after all
    none = {name: value[:0] for name, value in square.items()}
    with pytest.raises(ValueError, match="none of 1 images has a box"):
        precision(answers[:1], [none])


@pytest.mark.parametrize("kind", ["torchvision", "yolo"])
def test_both_kinds_learn(kind):
    task, model = boxes.detection(kind, iou=0.5), network(kind)
    before = measure_error(model, task).compute()
    train(model, task, Training(lr=5e-3, optimizer="adamw"), epochs=8)
    assert before > 0.95 and measure_error(model, task).compute() < 0.8
    assert recalibrate(model, task, images=32) == 32


def test_losses_are_had_in_eval_mode_where_gradients_are_wanted():
    task, model = boxes.detection(), network().eval()
    statistics = model.cells.stem[1].running_mean.clone()
    examples = Examples(batches=[first(task, "train")], loss=task.loss, forward=task.forward)
    found = next(iter(gradients(model, examples)))
    assert found["cells.stem.0.weight"].abs().sum() > 0 and not model.training
    assert torch.equal(model.cells.stem[1].running_mean, statistics)


def test_boxes_follow_their_picture():
    """A brighter square stays where its box says, whatever is done to both."""
    still = detected()
    for task, seed in ((still, None), (detected(augment=Augment(flip=True, shift=0.2, scale=0.2)), 3)):
        for resolution in (None, (48, 36)):
            pictures, found = task.prepare(first(task, "train", resolution, seed), torch.device("cpu"))
            seen = 0
            for picture, target in zip(pictures, found, strict=True):
                for (x0, y0, x1, y1), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
                    inner = picture[label, round(y0) + 2 : round(y1) - 1, round(x0) + 2 : round(x1) - 1]
                    seen += inner.numel()
                    assert not inner.numel() or float(inner.median()) > 120 / 255
            assert seen > 100
    whole, _ = (still.prepare(first(still, "train", side), torch.device("cpu")) for side in (None, (48, 36)))
    assert whole[0].shape == (8, 3, 24, 24)


def test_loaders_and_datasets_give_what_memory_does():
    def put_together(items):
        return tuple(zip(*items, strict=True))

    kept = [
        detected(),
        detected(Drawn()),
        detected(DataLoader(Drawn(), batch_size=8), batch=None),
        detected(DataLoader(Drawn(), batch_size=8, collate_fn=put_together), batch=None),
    ]
    batches = [first(task, "train") for task in kept]
    assert all(torch.equal(batch.targets, batches[0].targets) for batch in batches[1:2])
    for task, batch in zip(kept, batches, strict=True):
        for picture, target in zip(*task.prepare(batch, torch.device("cpu")), strict=True):
            place = next(place for place, one in enumerate(images) if torch.allclose(one / 255, picture))
            assert all(torch.equal(target[name], targets[place][name].to(target[name].dtype)) for name in target)


def test_metrics_and_losses_of_the_users():
    def found(answers, wanted):
        return sum(len(one["boxes"]) for one in wanted) / len(answers)

    task = detected(metric=found, maximise=False)
    assert measure_error(network(), task).compute() == sum(len(one["labels"]) for one in targets) / len(targets)
    assert task.fingerprint != detected().fingerprint != detected(iou=0.5).fingerprint


def box(*corners, label=0):
    return [{"boxes": torch.tensor([corners]), "labels": torch.tensor([label])}] * len(images)


@pytest.mark.parametrize(
    ("given", "settings", "said"),
    [
        (box(1.0, 1, 5), {}, r"target of train\[0\] has boxes of shape \(1, 3\) and labels of shape \(1,\); expected"),
        (box(5.0, 1, 1, 5), {}, r"train\[0\] has a box \[5.0, 1.0, 1.0, 5.0\] of label 0 without an area; expected x0"),
        (box(1.0, 1, 5, 5, label=3), {}, r"train\[0\] has a box .* of label 3 with a label outside 0..2; correct it"),
        (box(0.1, 0.1, 0.4, 0.4), {}, "within one pixel of 24 x 24; expected pixels, not shares"),
        (box(20.0, 20, 40, 40), {}, "that is not in its picture of 24 x 24"),
        (box(1.0, 1, float("nan"), 5), {}, "that is not finite"),
        ([None] * 24, {}, r"target of train\[0\] is None; expected a dict with boxes"),
        (box(1.0, 1, 5, 5)[:3], {}, "train has 24 images and 3 targets"),
        (targets, {"most": 1}, "boxes, and most is 1; give most="),
        (targets, {"transform": lambda one: one}, "transform would move pictures without their boxes"),
        (targets, {"decode": 3}, "decode is a int; expected a function"),
        (targets, {"iou": 1.5}, "iou is 1.5; expected above 0"),
        (targets, {"classes": 0}, "classes is 0; expected a whole number, at least 1"),
    ],
)
def test_what_is_wrong_is_one_sentence(given, settings, said):
    with pytest.raises((ValueError, TypeError), match=said) as problem:
        detected((images, given), **settings)
    assert "\n" not in str(problem.value)


def test_networks_that_give_something_else_are_told_so():
    task = detected()
    with pytest.raises(TypeError, match="gives a Tensor in train mode; expected a dict of losses"):
        task.loss(torch.zeros(2, 8), [])
    with pytest.raises(TypeError, match="answer is a Tensor; expected a list of dicts.*: give decode="):
        measure_error(boxes.Cells(), task)
    with pytest.raises(TypeError, match="answer has no tensor 'scores'"):
        measure_error(
            boxes.Cells(), detected(decode=lambda cells: [{"boxes": cells}] * len(cells), loss=boxes.yolo_loss)
        )


@pytest.fixture(scope="module")
def found():
    task, model = boxes.detection(train=32, iou=0.5), network()
    train(model, task, Training(lr=1e-2, optimizer="adamw"), epochs=6)
    space = sc.Space.trace(model, torch.rand(1, 3, 24, 24), divisor=8, resolutions=[20, 24])
    return {"model": model, "task": task}, space


def created(folder, parts, space, fidelity):
    training = Training(recalibration_images=32, short_epochs=1, long_epochs=1, batch=8)
    search, budget = sc.Search(fidelity=fidelity, seed=1), sc.Budget(macs=0.8)
    return sc.Study.create(folder, **parts, space=space, budget=budget, training=training, search=search)


def test_a_study_of_a_detector_goes_on_and_is_exported(found, tmp_path):
    parts, space = found
    created(tmp_path / "study", parts, space, "short").run(trials=3, progress=None)
    study = sc.Study.open(tmp_path / "study", **parts)
    study.run(trials=5, progress=None)
    assert len(study.trials()) == 5 and (study.trials()["state"] == "complete").all()
    (folder,) = study.export(tmp_path / "out", pick="best", progress=None, formats=["safetensors"])
    small = sc.load(folder, model=network())
    assert {"boxes", "scores", "labels"} == set(small(torch.rand(1, 3, 24, 24))[0])


def test_a_study_of_a_detector_that_is_only_recalibrated(found, tmp_path):
    study = created(tmp_path / "study", *found, "recalibrated")
    study.run(trials=4, progress=None)
    assert study.trials()["error"].between(0, 1).all() and study.trials()["error"].nunique() > 1
