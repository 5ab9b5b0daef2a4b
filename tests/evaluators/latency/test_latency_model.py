"""The latency model: devices that are made up are found again, and what cannot be fitted is refused."""

import time
from collections.abc import Callable
from functools import cache

import landscapes
import numpy as np
import pytest
import torch
from torch import nn

from secateur import Space
from secateur.evaluators.latency.latency_model import LatencyModel, calibration
from secateur.evaluators.latency.latency_terms import STEPS, Terms
from secateur.studies.study_files.networks import resnet20


class Chain(nn.Module):
    """Two free widths, a pointwise and a depthwise convolution, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 40, 3, padding=1, bias=False)
        self.each = nn.Conv2d(40, 40, 3, padding=1, groups=40, bias=False)
        self.point = nn.Conv2d(40, 48, 1, bias=False)
        self.head = nn.Linear(48, 5)

    def forward(self, x):
        return self.head(torch.relu(self.point(torch.relu(self.each(self.first(x))))).mean((2, 3)))


@cache
def chain() -> Space:
    return Space.trace(Chain(), torch.zeros(1, 3, 8, 8), resolutions=(6, 8), divisor=1)


@cache
def deep() -> Space:
    model = resnet20(channels=3, widths=(32, 40, 48), blocks=(2, 2, 3), stride=1)
    return Space.trace(model.eval(), torch.zeros(1, 3, 16, 16), resolutions=(8, 12, 16), divisor=1)


def up(width, step):
    return -(-width // step) * step


def staircase(step: int) -> Callable[[np.ndarray], np.ndarray]:
    """Milliseconds of `Chain` on a device that takes channels in steps, from nothing but the layers as written."""

    def latency_ms(encoded):
        first, point, side = encoded[:, 0], encoded[:, 1], np.array([6, 8])[encoded[:, 2]]
        spatial = side**2 * 9 * 3 * up(first, step)
        depthwise = side**2 * 9 * up(first, step)
        pointwise = side**2 * up(first, step) * up(point, step)
        linear = up(point, step) * up(np.full_like(point, 5), step)
        return 0.02 + 2e-6 * spatial + 5e-6 * depthwise + 1e-6 * pointwise + 3e-6 * linear

    return latency_ms


def test_the_terms_are_what_the_layers_say():
    found = Terms.of(chain()).table(np.array([[17, 20, 1]]), 16, False)[0]
    # 64 positions; 17 rounds up to 32, 20 to 32, 5 to 16. Weights: 27*17 + 9*17 + 17*20 + 20*5 = 1,052.
    # Multiply-adds: spatial 64*27*32, pointwise 64*32*32, depthwise 64*9*32, linear 32*16. One layer of each kind.
    activation_bytes = chain().cost_table([chain().check((17, 20, 1))])["activation_bytes"][0]
    assert found.tolist() == [1, activation_bytes, 1052, 1, 55296, 1, 65536, 1, 18432, 1, 512]


def test_small_inputs_are_counted_apart():
    # All inputs are under 20,480 elements here: the three convolutions but the depthwise one gather.
    # Spatial: 64*27 gathered, times 17 outputs; pointwise: 64*17 gathered, times 20 outputs.
    found = Terms.of(chain()).table(np.array([[17, 20, 1]]), 16, True)[0]
    assert found[3:].tolist() == [0, 0, 0, 0, 1, 18432, 1, 512, 2, 1728 * 17 + 1088 * 20, 1728 + 1088, 0]


@pytest.mark.parametrize("step", [4, 8, 16])
def test_a_staircase_is_found_again_with_its_step(step):
    device, rows = staircase(step), chain().encode(calibration(chain(), 48))
    model = LatencyModel.fit(chain(), rows, device(rows))
    unseen = chain().encode(chain().sample(300, seed=5))
    assert (model.step, model.native) == (step, False)
    np.testing.assert_allclose(model.predict(unseen), device(unseen), rtol=1e-6)
    assert model.error < 1e-6 and model.margin < 1e-6
    assert [(one, native) for one, native, _ in model.tried] == [(s, n) for n in (False, True) for s in STEPS]


def test_noise_is_stated_and_averaged_out():
    device, rows = staircase(8), chain().encode(calibration(chain(), 48))
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(len(rows)))
    model = LatencyModel.fit(chain(), rows, device(rows) * noise)
    unseen = chain().encode(chain().sample(300, seed=5))
    off = np.abs(model.predict(unseen) / device(unseen) - 1)
    # The median of |5 % normal noise| is 0.674 * 5 % = 3.4 %; its upper fifth begins at 0.84 * 5 % = 4.2 %.
    assert 0.02 < model.error < 0.06 and 0.02 < model.margin < 0.09
    assert np.median(off) < 0.03


def test_networks_measured_while_the_machine_was_busy_hardly_count():
    device, rows = staircase(8), chain().encode(calibration(chain(), 48))
    disturbed = device(rows) * np.where(np.arange(len(rows)) % 6 == 1, 1.5, 1.0)
    model, unseen = (
        LatencyModel.fit(chain(), rows, disturbed),
        chain().encode(chain().sample(300, seed=5)),
    )
    # Least squares would lie about 8 % too high, a sixth of rows by a half each.
    assert model.step == 8
    assert np.abs(model.predict(unseen) / device(unseen) - 1).max() < 0.01


def test_depth_and_resolution():
    def device(encoded):
        table = Terms.of(deep()).table(encoded, 16, False)
        return table[:, [0, 3, 4, 5]] @ [0.1, 0.05, 2e-7, 0.02]  # once, a spatial layer, its multiply-adds, a pointwise

    rows = deep().encode(calibration(deep(), 60))
    model, unseen = (
        LatencyModel.fit(deep(), rows, device(rows)),
        deep().encode(deep().sample(200, seed=3)),
    )
    assert model.step == 16
    np.testing.assert_allclose(model.predict(unseen), device(unseen), rtol=1e-6)
    # Each of the two removable blocks of layer3 has two convolutions; the kept ones count.
    counts = [Terms.of(deep()).table(np.array([[*deep().full[:-2], kept, 2]]), 1, False)[0, 3] for kept in (2, 1, 0)]
    assert np.diff(counts).tolist() == [-2, -2]


@pytest.mark.parametrize("made", [chain, deep], ids=["chain", "deep"])
def test_more_of_anything_never_takes_less(made):
    space = made()
    rows = space.encode(calibration(space, 40))
    noise = np.random.default_rng(1).uniform(0.5, 2, len(rows))  # nothing to learn, yet nothing absurd
    model = LatencyModel.fit(space, rows, noise)
    terms = Terms.of(space)
    less = np.array(space.sample(100, seed=2))
    for i, axis in enumerate(space.axes):
        more = less.copy()
        more[:, i] = [axis.choices[min(axis.choices.index(value) + 1, len(axis.choices) - 1)] for value in less[:, i]]
        for step in STEPS:
            assert (terms.table(more, step, False) >= terms.table(less, step, False)).all()
        if not model.native:
            assert (model.predict(more) >= model.predict(less) - 1e-12).all()
    assert (model.coefficients >= 0).all() and (model.predict(less) > 0).all()


def test_the_same_rows_give_the_same_model():
    rows = chain().encode(calibration(chain(), 30))
    ms = staircase(8)(rows) * np.random.default_rng(0).uniform(0.9, 1.1, len(rows))
    one, two = LatencyModel.fit(chain(), rows, ms), LatencyModel.fit(chain(), rows, list(ms))
    assert (one.step, one.error, one.margin) == (two.step, two.error, two.margin)
    assert np.array_equal(one.coefficients, two.coefficients)


def test_few_rows_and_one_network_twice_are_enough_to_fit():
    full = chain().encode([chain().full, chain().full])
    model = LatencyModel.fit(chain(), full, [2.0, 2.0])
    assert model.predict(full) == pytest.approx([2.0, 2.0]) and model.rows == 2


def test_a_space_without_resolutions_or_layers_that_are_cut():
    space = landscapes.line_space(landscapes.line_net())
    rows = space.encode(calibration(space, 48))
    assert len(rows) == 4  # all there are
    assert LatencyModel.fit(space, rows, [1.0, 1.1, 1.2, 1.3]).predict(rows).shape == (4,)


def test_the_aim_leaves_room_for_the_error():
    rows = chain().encode(calibration(chain(), 48))
    noise = np.exp(0.1 * np.random.default_rng(3).standard_normal(len(rows)))
    model = LatencyModel.fit(chain(), rows, staircase(1)(rows) * noise)
    assert model.aim(3.0) * (1 + model.margin) == pytest.approx(3.0) and model.aim(3.0) < 3.0


@pytest.mark.parametrize("made", [chain, deep], ids=["chain", "deep"])
def test_calibration_spreads_over_everything_and_is_the_same_again(made):
    space = made()
    chosen = calibration(space, 48, seed=1)
    assert chosen == calibration(space, 48, seed=1) != calibration(space, 48, seed=2)
    assert chosen[:2] == [space.full, space.smallest] and len(set(chosen)) == 48
    assert all(space.check(one) == space.canonical(one) for one in chosen)
    columns = space.encode(chosen)
    for i, axis in enumerate(space.axes):
        if axis.kind != "width":
            assert set(columns[:, i]) == set(axis.choices)
        elif space is chain():  # widths in removed blocks are full, so in the other one they bunch there
            assert np.histogram(columns[:, i], bins=4, range=(0, axis.full))[0].min() >= 6


@pytest.mark.parametrize(
    ("rows", "ms", "message"),
    [
        (np.zeros((0, 3), int), [], "0 measured networks; a latency model needs at least two"),
        ([[40, 48, 1]], [1.0], "1 measured networks"),
        ([[40, 48, 1]] * 2, [1.0, float("nan")], "latency of row 1 is nan; expected positive"),
        ([[40, 48, 1]] * 2, [0.0, 1.0], "latency of row 0 is 0.0"),
        ([[40, 48, 1]] * 2, [1.0], r"candidates are \(2, 3\) and latencies \(1,\)"),
        ([[40, 48]] * 2, [1.0, 1.0], r"candidates are \(2, 2\)"),
    ],
)
def test_what_cannot_be_fitted(rows, ms, message):
    with pytest.raises(ValueError, match=message):
        LatencyModel.fit(chain(), rows, ms)


def test_what_cannot_be_predicted_or_chosen():
    rows = chain().encode(calibration(chain(), 10))
    with pytest.raises(ValueError, match=r"encoded candidates are \(1, 2\); expected \(n, 3\)"):
        LatencyModel.fit(chain(), rows, staircase(8)(rows)).predict([[1, 2]])
    with pytest.raises(ValueError, match="count=1: expected at least 2 networks"):
        calibration(chain(), 1)


def test_a_prediction_takes_microseconds():
    rows = deep().encode(calibration(deep(), 40))
    model = LatencyModel.fit(deep(), rows, np.linspace(1, 2, len(rows)))
    many = np.array(deep().sample(5000))
    start = time.perf_counter()
    model.predict(many)
    assert time.perf_counter() - start < 5000 * 100e-6  # 3 us each on an idle core
