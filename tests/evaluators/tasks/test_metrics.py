import numpy as np
import pytest
import torch

from secateur.evaluators import ErrorRate, OverlapError
from secateur.evaluators.tasks.learned import figures


def outputs_of(labels, classes=3):
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


def test_error_rate_by_hand():
    # 4 examples, the last one wrong: 1/4; with half of each added 1.5 of 5: standard error sqrt(.3 * .7 / 4)
    error = ErrorRate()
    error.update(outputs_of(torch.tensor([0, 1, 2])), torch.tensor([0, 1, 2]))
    error.update(outputs_of(torch.tensor([0])), torch.tensor([2]))
    assert error.compute() == 0.25
    assert error.std() == pytest.approx((0.3 * 0.7 / 4) ** 0.5)
    assert error.count == 4


def test_no_wrong_answer_is_no_certainty():
    error = ErrorRate()
    error.update(outputs_of(torch.tensor([0, 1])), torch.tensor([0, 1]))
    assert error.compute() == 0 and error.std() > 0


def test_overlap_by_hand():
    # class 0: both 2, union 3; class 1: both 1, union 2; class 2 occurs nowhere and does not count
    predicted, truth = torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([[[0, 0, 1, 1]]])
    iou, dice = OverlapError(classes=3), OverlapError(classes=3, overlap="dice")
    for error in (iou, dice):
        error.update(outputs_of(predicted), truth)
    assert iou.compute() == pytest.approx(1 - (2 / 3 + 1 / 2) / 2)
    # Dice: 2*2/(3+2) and 2*1/(1+2)
    assert dice.compute() == pytest.approx(1 - (4 / 5 + 2 / 3) / 2)


@pytest.mark.parametrize(
    "make", [ErrorRate, lambda: OverlapError(classes=3), lambda: OverlapError(classes=3, ignore=0)]
)
def test_batches_change_nothing(make):
    g = torch.Generator().manual_seed(0)
    shape = (12,) if make is ErrorRate else (12, 4, 4)
    outputs, targets = torch.randn(12, 3, *shape[1:], generator=g), torch.randint(0, 3, shape, generator=g)
    whole, parts = make(), make()
    whole.update(outputs, targets)
    for i in (slice(0, 1), slice(1, 7), slice(7, 12)):
        parts.update(outputs[i], targets[i])
    assert parts.compute() == whole.compute()
    assert parts.std() == pytest.approx(whole.std(), rel=1e-12)
    assert parts.count == whole.count == 12


def test_overlap_is_no_mean_over_batches():
    # One image with nothing right of one pixel, one with all right of three: together 3 of 5 in the union, not a half.
    error = OverlapError(classes=2, ignore=0)
    error.update(outputs_of(torch.tensor([[0, 0, 0]]), 2), torch.tensor([[1, 0, 0]]))
    error.update(outputs_of(torch.tensor([[1, 1, 1]]), 2), torch.tensor([[1, 1, 1]]))
    assert error.compute() == pytest.approx(1 - 3 / 4 / 2)  # class 1: 3 of 4; class 0 predicted once, never there


def test_ignored_pixels_change_nothing():
    g = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(5, 3, 6, generator=g), torch.randint(0, 3, (5, 6), generator=g)
    targets[:, 0] = -100
    other = outputs.clone()
    other[:, :, 0] = torch.randn(5, 3, generator=g)
    errors = [OverlapError(classes=3, ignore=-100) for _ in range(2)]
    for error, given in zip(errors, (outputs, other), strict=True):
        error.update(given, targets)
    assert errors[0].compute() == errors[1].compute()


def test_jackknife_of_a_mean_is_its_standard_error():
    # With one class of the same size everywhere, mean IoU of "all or nothing" images is a plain mean over images.
    right = torch.tensor([1, 1, 0, 1, 0, 1, 1, 1])
    error = OverlapError(classes=2, overlap="dice", ignore=0)
    error.update(outputs_of(right[:, None], 2), torch.ones(8, 1, dtype=torch.int64))
    assert 0 < error.std() < 0.5


def test_nothing_seen_is_refused():
    for error in (ErrorRate(), OverlapError(classes=2)):
        with pytest.raises(ValueError, match="no example"):
            error.compute()


def test_unknown_overlap_is_refused():
    with pytest.raises(ValueError, match="'iou' or 'dice'"):
        OverlapError(classes=2, overlap="f1")


class Given:
    """A metric that gives a value, and perhaps its standard error."""

    count = 4

    def __init__(self, value, **std):
        self.value = value
        if std:
            self.std = lambda: std["std"]

    def update(self, outputs, targets):
        pass

    def compute(self):
        return self.value


@pytest.mark.parametrize(
    "value", [0.25, np.float32(0.25), np.array(0.25), torch.tensor(0.25), torch.tensor([0.25]), np.array([0.25]), 1]
)
def test_whatever_is_one_number_is_taken(value):
    error, std = figures(Given(value))
    assert type(error) is float and error == 1 - (value != 1) * 0.75 and std is None
    assert figures(Given(value, std=value)) == (error, error)
    assert figures(Given(value, std=None)) == (error, None)


ODD = [torch.tensor(1j), torch.zeros((), device="meta"), torch.zeros(0), np.array("0.25"), 10**400, 10**5000, float]


@pytest.mark.parametrize(
    "value", ["0.25", None, torch.tensor([0.2, 0.3]), np.zeros(2), {"error": 0.2}, [0.2], *ODD], ids=type
)
def test_what_is_no_number_is_named_with_the_metric(value):
    with pytest.raises(TypeError, match=r"the task's error, Given.compute\(\), gave .*; expected one number"):
        figures(Given(value))
    if value is not None:
        with pytest.raises(TypeError, match=r"Given.std\(\), gave"):
            figures(Given(0.2, std=value))
