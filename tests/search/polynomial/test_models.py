"""The process beside the polynomial: what it learns, how the two are weighed, and which trials are fitted."""

import numpy as np
import pytest

from secateur.search.polynomial.models import _share, kept
from secateur.search.polynomial.process import fit_process
from secateur.search.polynomial.scales import Noise, transforms
from secateur.search.problem import Told


def data(n, d=4, seed=0):
    random = np.random.default_rng(seed)
    axes = -random.random((n, d))
    return axes.mean(axis=1, keepdims=True), axes


def bend(axes):
    """Along one axis only, and no polynomial of degree 2."""
    return 0.3 + 0.1 * np.sin(6 * axes[:, 0])


def unknown(n):
    return Noise(np.full(n, np.nan))


def process(n=40, std=0.0, told=None):
    shared, axes = data(n)
    error = bend(axes) + std * np.random.default_rng(1).normal(size=n)
    noise = unknown(n) if told is None else Noise(np.full(n, told))
    return fit_process(shared, axes, error, transforms(error)[0], noise)


def test_it_finds_the_axis_that_counts_and_foresees():
    found = process()
    assert found.lengths[0] < 0.5 * found.lengths[1:].min()
    shared, axes = data(200, seed=2)
    mean, std = found.mean_with_std(shared, axes)
    assert np.abs(mean - bend(axes)).mean() < 0.01 and (std > 0).all()
    assert mean == pytest.approx(found.mean(shared, axes))


def test_trials_left_out_are_what_leaving_out_gives():
    """Against a fit to all trials but one, of the same process."""
    found = process(12, std=0.02)
    missed, std = found.left_out
    rest = np.arange(12) != 5
    without = type(found)(
        **{name: getattr(found, name) for name in found.__dataclass_fields__}
        | {name: getattr(found, name)[rest] for name in ("shared", "axes", "error", "relative")}
    )
    mean, doubt = without.mean_with_std(found.shared[[5]], found.axes[[5]])
    assert missed[5] == pytest.approx(found.error[5] - mean[0], rel=1e-4)
    assert std[5] ** 2 == pytest.approx(doubt[0] ** 2 + (found.noise + 1e-6) * found.scale**2, rel=1e-3)


def test_one_trial_more_takes_the_doubt_there():
    found = process(15)
    where = data(1, seed=9)
    joined = found.joined(*where, found.mean(*where))
    assert joined.mean_with_std(*where)[1][0] < 0.8 * found.mean_with_std(*where)[1][0]


def test_a_told_standard_error_is_believed_as_noise():
    sure, unsure = process(12, std=0.03, told=0.001), process(12, std=0.03, told=0.05)
    assert unsure.noise > 5 * sure.noise


def test_who_foresees_better_has_the_greater_say():
    missed = np.random.default_rng(3).normal(size=60)
    good, bad = (0.1 * missed, np.full(60, 0.1)), (missed, np.ones(60))
    assert _share(bad, good) > 0.8 and _share(good, bad) < 0.1
    assert _share((missed[:4], np.ones(4)), (missed[:4], np.ones(4))) == pytest.approx(0.5)


def test_of_many_trials_those_at_the_front_and_some_of_all_others_are_fitted():
    random = np.random.default_rng(4)
    error, cost = random.random(5000), random.random(5000)
    seen = Told(
        numbers=np.arange(5000),
        encoded=np.zeros((5000, 2), np.int64),
        values=np.stack([error, cost], axis=1),
        error=error,
        error_std=np.full(5000, np.nan),
        feasible=np.ones(5000, bool),
        pending=np.zeros((0, 2), np.int64),
    )
    rows = kept(seen)
    assert len(rows) == 256 == len(set(rows.tolist()))
    order = np.argsort(cost)
    front = order[error[order] <= np.minimum.accumulate(error[order])]
    assert set(front.tolist()) <= set(rows.tolist())
    assert np.histogram(rows, bins=4)[0].min() > 30
