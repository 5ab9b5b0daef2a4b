"""A loss, a metric and outputs of the user's own, several labels, values, and a task that changes another."""

import collections
import dataclasses
import functools
import pickle

import numpy as np
import pytest
import tasks
import torch
from sklearn.metrics import average_precision_score, r2_score
from torch import nn

from secateur.evaluators import (
    Classification,
    MultiLabel,
    PrecisionError,
    Regression,
    Segmentation,
    UnexplainedError,
    Wrapped,
    measure_error,
)
from secateur.evaluators.tasks.learned import figures
from secateur.evaluators.tasks.task import abilities
from secateur.testing import TaskContract

images, labels, masks = tasks.squares(24, seed=0)
marks = torch.stack([labels == 0, labels > 0, torch.arange(24) % 5 == 0], 1)
values = torch.stack([labels.float() + 0.1 * torch.arange(24), -labels.float()], 1)


def net(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, outputs))


def classified(**settings):
    return Classification(**({"train": (images, labels), "validation": (images, labels), "batch": 8} | settings))


def several(targets, kind, **settings):
    return kind(train=(images, targets), validation=(images, targets), test=(images, targets), batch=8, **settings)


def loss_of(task, outputs):
    return float(task.loss(*task.forward(net(outputs), next(iter(task.loader("validation", None, None))))).detach())


class TestMultiLabel(TaskContract):
    def task(self):
        return several(marks, MultiLabel, class_weights="balanced")

    def model(self):
        return net(3)


class TestRegression(TaskContract):
    def task(self):
        return several(values, Regression)

    def model(self):
        return net(2)


class Halved(Wrapped):
    def __init__(self, task):
        super().__init__(task, "half the loss")

    def loss(self, outputs, targets):
        return self.task.loss(outputs, targets) / 2


class TestWrapped(TaskContract):
    def task(self):
        return Halved(tasks.classification())

    def model(self):
        return net(3)


def test_a_wrapped_task_is_the_inner_one_but_for_what_it_changes():
    inner, outer = classified(), Halved(classified())
    assert loss_of(outer, 3) == pytest.approx(loss_of(inner, 3) / 2)
    assert outer.fingerprint == f"{inner.fingerprint}, half the loss" and outer.sizes == inner.sizes
    smaller = outer.with_batch(3)
    assert isinstance(smaller, Halved) and loss_of(smaller, 3) == pytest.approx(loss_of(inner.with_batch(3), 3) / 2)
    assert all(vars(abilities(outer)).values()) and isinstance(pickle.loads(pickle.dumps(outer)), Halved)

    class Bare:
        fingerprint, sizes, preprocessing = "bare", inner.sizes, {}
        loader, forward, loss, error = inner.loader, inner.forward, inner.loss, inner.error

    assert not any(vars(abilities(Halved(Bare()))).values())


def test_average_precision_is_scikit_learns():
    outputs, error = torch.randn(24, 3).round(decimals=1), PrecisionError()  # ties too
    for part in range(0, 24, 7):
        error.update(outputs[part : part + 7], marks[part : part + 7].float())
    expected = np.mean([average_precision_score(marks[:, k].numpy(), outputs[:, k].numpy()) for k in range(3)])
    assert error.compute() == pytest.approx(1 - expected) and figures(error)[1] is None
    never = PrecisionError()
    never.update(outputs, torch.zeros(24, 3))
    assert never.compute() == 1.0


def test_unexplained_variance_is_one_minus_r2_with_its_jackknife():
    torch.manual_seed(0)
    targets = 1000 + torch.randn(24, 2).double()
    outputs = targets + 0.3 * torch.randn(24, 2)
    error = UnexplainedError()
    for part in range(0, 24, 7):
        error.update(outputs[part : part + 7], targets[part : part + 7])
    assert error.compute() == pytest.approx(1 - r2_score(targets.numpy(), outputs.numpy()))
    left = [1 - r2_score(np.delete(targets.numpy(), i, 0), np.delete(outputs.numpy(), i, 0)) for i in range(24)]
    assert error.std() == pytest.approx(float(np.std(left) * 23**0.5))
    same = UnexplainedError()
    same.update(outputs, torch.ones(24, 2))
    with pytest.raises(ValueError, match="targets are all the same"):
        same.compute()


def test_values_of_every_pixel_have_the_outputs_resized_to_them():
    task = several(images[:, :1].float() / 255, Regression)
    model = nn.Conv2d(3, 1, 2, 2)
    outputs, targets = task.forward(model, next(iter(task.loader("validation", None, None))))
    assert outputs.shape == targets.shape == (8, 1, 8, 8) and task.stored() is None
    assert measure_error(model, task).compute() > 0


@pytest.mark.parametrize("targets", [values[:, 0], values[:, :1], values[:, 0].double(), values[:, 0].numpy()])
def test_one_value_is_one_whether_in_rows_or_columns(targets):
    """The classic: outputs (n, 1) minus targets (n,) would be (n, n)."""
    task = several(targets, Regression)
    assert loss_of(task, 1) == pytest.approx(loss_of(several(values[:, :1], Regression), 1))
    expected = (net(1)(images[:8] / 255) - values[:8, :1]).square().mean().detach()
    assert loss_of(task, 1) == pytest.approx(float(expected), rel=1e-5)


def test_losses_are_functions_and_modules_and_weights_count():
    weights = torch.tensor([1.0, 2.0, 5.0])
    given = nn.CrossEntropyLoss(weight=weights)
    own = loss_of(classified(loss=given), 3)
    assert own == pytest.approx(loss_of(classified(class_weights=[1, 2, 5]), 3)) != loss_of(classified(), 3)
    assert loss_of(classified(loss=lambda outputs, targets: given(outputs, targets) * 2), 3) == pytest.approx(2 * own)
    balanced = several(marks, MultiLabel, class_weights="balanced")
    share = marks.double().mean(0)
    outputs = net(3)(images[:8] / 255).detach().double()
    expected = nn.BCEWithLogitsLoss(pos_weight=(1 - share) / share)(outputs, marks[:8].double())
    assert loss_of(balanced, 3) == pytest.approx(float(expected), rel=1e-5)
    weighed = Segmentation(train=(images, masks), validation=(images, masks), class_weights=[0, 1, 1, 1])
    assert len({weighed.fingerprint, Segmentation(train=(images, masks), validation=(images, masks)).fingerprint}) == 2


def test_a_study_knows_own_losses_again():
    def other(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    given = [
        {},
        {"loss": other},
        {"loss": nn.CrossEntropyLoss()},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        {"loss": nn.CrossEntropyLoss(weight=torch.ones(3))},
        {"loss": functools.partial(nn.functional.cross_entropy, label_smoothing=0.2)},
        {"metric": other, "maximise": False},
        {"metric": other, "maximise": True},
    ]
    prints = [classified(**one).fingerprint for one in given]
    assert len(set(prints)) == len(given) and prints == [classified(**one).fingerprint for one in given]


class Accuracy:
    """As those of torchmetrics are."""

    higher_is_better = True

    def __init__(self):
        self.right, self.seen = torch.zeros(()), 0

    def update(self, outputs, targets):
        self.right, self.seen = self.right + (outputs.argmax(1) == targets).sum(), self.seen + len(targets)

    def compute(self):
        return self.right / self.seen

    def reset(self):
        self.__init__()


def test_metrics_of_every_form_are_one_error():
    usual = measure_error(net(3), classified()).compute()

    def accuracy(outputs, targets):
        assert len(outputs) == 24  # of the whole split
        return np.float32((outputs.argmax(1) == targets).float().mean())

    used = Accuracy()
    used.update(torch.eye(3), torch.tensor([0, 1, 2]))
    for given in (
        {"metric": Accuracy()},
        {"metric": used},  # what it has seen before does not count
        {"metric": Accuracy},
        {"metric": lambda: Accuracy()},
        {"metric": accuracy, "maximise": True},
        {"metric": lambda outputs, targets: 1 - accuracy(outputs, targets), "maximise": False},
    ):
        error, std = figures(measure_error(net(3), classified(**given)))
        assert error == pytest.approx(usual) and std is None
    assert used.seen == 3 and classified(metric=Accuracy).guess is None


Named = collections.namedtuple("Named", ["logits", "aux"])


@dataclasses.dataclass
class Record:
    logits: object
    loss: object = None


class Returns(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.inner, self.wrap = net(3), wrap

    def forward(self, x):
        return self.wrap(self.inner(x))


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda y: {"logits": y, "hidden": y[:, :2]}, None),
        (lambda y: (y, y[:, :1]), None),
        (lambda y: Record(y), None),
        (lambda y: Named(y, y + 1), "logits"),
        (lambda y: [y + 1, y], 1),
        (lambda y: {"out": y, "aux": y + 1}, "out"),
        (lambda y: y, "logits"),  # as in eval mode of networks with auxiliary heads
        (lambda y: (y, y + 1), lambda outputs: outputs[0]),
    ],
)
def test_outputs_that_are_no_tensor_are_taken_where_they_fit_or_are_named(wrap, output):
    task = classified(output=output)
    assert measure_error(Returns(wrap), task).compute() == measure_error(net(3), classified()).compute()


def test_a_function_of_the_outputs_gives_loss_and_metric_what_they_like():
    def with_aux(outputs, targets):
        return sum(nn.functional.cross_entropy(one, targets) for one in outputs)

    task = classified(output=lambda outputs: outputs, loss=with_aux)
    batch = next(iter(task.loader("validation", None, None)))
    outputs, targets = task.forward(Returns(lambda y: (y, y)), batch)
    assert float(task.loss(outputs, targets).detach()) == pytest.approx(2 * loss_of(classified(), 3))
    assert abilities(task).distill is None


class Centres(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(3))

    def forward(self, outputs, targets):
        return (outputs - self.centres).square().mean()


WRONG = {
    "a loss by name": (lambda: classified(loss="focal"), r"loss is 'focal'; expected something called as loss"),
    "a class of losses": (lambda: classified(loss=nn.CrossEntropyLoss), "CrossEntropyLoss; expected something called"),
    "not reduced": (
        lambda: classified(loss=nn.CrossEntropyLoss(reduction="none")),
        r"loss CrossEntropyLoss gave a tensor of shape \(2,\); expected one number",
    ),
    "another loss": (lambda: classified(loss=nn.BCELoss()), r"loss BCELoss raised .*targets of torch.int64 \(2,\)"),
    "a loss that learns": (lambda: classified(loss=Centres()), "loss Centres has parameters of its own"),
    "a loss and smoothing": (
        lambda: classified(loss=nn.CrossEntropyLoss(), label_smoothing=0.1),
        "label_smoothing is of the usual loss",
    ),
    "a metric by name": (lambda: classified(metric="f1"), "metric is 'f1'; expected a metric with update"),
    "a metric that does not say": (
        lambda: classified(metric=lambda outputs, targets: 0.5),
        r"metric <lambda> does not say whether higher is better; give maximise=True",
    ),
    "maximise alone": (lambda: classified(maximise=True), "maximise is True, and there is no metric"),
    "too few weights": (lambda: classified(class_weights=[1, 2]), r"class_weights is \[1.0, 2.0\]; expected 3 numbers"),
    "weights by a word": (lambda: classified(class_weights="auto"), "class_weights is 'auto'; expected 'balanced'"),
    "several labels": (lambda: classified(train=(images, marks)), r"\(24, 3\); expected .*sc.MultiLabel takes several"),
    "values": (
        lambda: classified(train=(images, values[:, 0])),
        "expected whole numbers; sc.Regression takes",
    ),
    "twos": (lambda: several(2.0 * marks, MultiLabel), r"train\[0\] has the target .*; expected 0 or 1 for each of 3"),
    "a value that is none": (
        lambda: several(values.where(values != values[7, 0], torch.inf), Regression),
        r"the target of train\[7\] is not finite",
    ),
    "two outputs": (
        lambda: measure_error(Returns(lambda y: {"out": y, "aux": y}), classified()),
        r"a dict with out, aux; 'out' and 'aux' may be meant: say which, as output='out'",
    ),
    "no such output": (
        lambda: measure_error(Returns(lambda y: {"out": y}), classified(output="logits")),
        "a dict with out; there is no output 'logits'",
    ),
    "another number of outputs": (
        lambda: measure_error(net(4), classified()),
        r"the network returned \(8, 4\); the labels need \(8, 3\)",
    ),
    "a transform without its masks": (
        lambda: Segmentation(train=(images, masks), validation=(images, masks), transform=abs),
        "transform would move images without their masks",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_is_one_sentence(name):
    make, said = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=said) as raised:
        make()
    assert "\n" not in str(raised.value)
