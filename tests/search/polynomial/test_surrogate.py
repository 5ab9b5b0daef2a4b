"""The Bayesian polynomial: it finds what it should, and its errors left out are what leaving out gives."""

from dataclasses import replace

import numpy as np
import pytest

from secateur.search.polynomial.scales import Noise, by_ratio, transforms
from secateur.search.polynomial.surrogate import Surrogate, fit

RANDOM = np.random.default_rng(0)


def data(n, d=3, seed=0):
    random = np.random.default_rng(seed)
    axes = -random.random((n, d))
    return axes.mean(axis=1, keepdims=True), axes


def quadratic(axes):
    return 0.3 - 0.2 * axes[:, 0] + 0.1 * axes[:, 1] ** 2 + 0.15 * axes[:, 0] * axes[:, 2]


def test_a_quadratic_is_found_from_few_points():
    shared, axes = data(25)
    found = fit(shared, axes, quadratic(axes))
    new_shared, new_axes = data(200, seed=1)
    known = quadratic(new_axes) < quadratic(axes).max()  # nothing errs more than the worst told, as far as it knows
    wrong = found.predict(new_shared, new_axes) - quadratic(new_axes)
    assert known.sum() > 150 and np.abs(wrong[known]).max() < 5e-3
    assert found.degree == 2 and found.rmse < 0.1 * found.mean_rmse


def test_a_trend_along_the_whole_network_is_found_from_four_points_on_forty_axes():
    """A common slope on each of 40 axes: only what the axes share can be learned from 4 trials."""
    shared, axes = data(4, d=40, seed=2)
    axes = axes * np.array([[0.1], [0.5], [1.0], [1.5]])
    shared = axes.mean(axis=1, keepdims=True)
    found = fit(shared, axes, 0.2 - 0.3 * shared[:, 0])
    new = np.full((1, 40), -0.4)
    assert found.predict(new[:, :1], new)[0] == pytest.approx(0.32, abs=0.02)  # 0.2 + 0.3 * 0.4


def test_few_trials_that_say_nothing_of_sizes_do_not_make_the_smallest_the_best():
    """Errors that are all noise, of networks about as large as the full one."""
    random = np.random.default_rng(1)
    axes = -0.2 * random.random((6, 3))
    error = 0.3 + 0.01 * random.normal(size=6)
    found = fit(axes.mean(axis=1, keepdims=True), axes, error)
    small, full = (float(found.predict(np.full((1, 1), x), np.full((1, 3), x))[0]) for x in (-1.0, 0.0))
    assert small > full


@pytest.mark.parametrize("place", [0, 1, 2])
def test_leaving_out_by_one_inversion_is_leaving_out(place):
    """Against n fits to all trials but one, at the same variances, scale and centre of the transform."""
    shared, axes = data(12)
    error = quadratic(axes) + 0.01 * np.random.default_rng(3).normal(size=12)
    transform = transforms(error)[place]
    t = transform.forward(error)
    trend = -shared.mean(axis=1)  # before any trial, smaller networks err more
    t = (t - t.mean()) / t.std() - trend
    variances = np.array([10.0, 0.3, 1.0, 0.03, 0.03, 0.2])

    def kernel(a, b):
        (h, z), (g, y) = a, b
        near = np.exp(-((z[:, None] - y) ** 2).mean(axis=2) / (2 * 0.14**2))
        families = (h @ g.T, z @ y.T, (h @ g.T) ** 2, (z**2) @ (y**2).T, (z @ y.T) ** 2, near)
        return 100 + sum(s * k for s, k in zip(variances, families, strict=True))

    expected = []
    for i in range(12):
        others = np.delete(np.arange(12), i)
        rest, one = (shared[others], axes[others]), (shared[[i]], axes[[i]])
        weight = np.linalg.solve(kernel(rest, rest) + np.eye(11), t[others])
        expected.append(float((kernel(one, rest) @ weight)[0] + trend[i]))
    raw = transform.forward(error)
    expected = transform.inverse(np.array(expected) * raw.std() + raw.mean())
    noise = Noise(np.full(12, np.nan))
    found = Surrogate(shared=shared, axes=axes, error=error, noise=noise, transform=transform, variances=variances)
    assert found.left_out == pytest.approx(expected, rel=1e-6)
    assert found.rmse == pytest.approx(np.sqrt(np.mean((np.array(expected) - error) ** 2)), rel=1e-6)


def test_the_mean_is_left_out_too():
    # Each of 0, 0, 3 against the mean of the others: 1.5, 1.5 and 3 away; (2.25 + 2.25 + 9) / 3 = 4.5.
    shared, axes = data(3)
    found = fit(shared, axes, np.array([0.0, 0.0, 3.0]))
    assert found.mean_rmse == pytest.approx(np.sqrt(4.5))


def test_what_is_predicted_of_trials_left_out_is_measured_on_the_scale_of_the_fit():
    shared, axes = data(20)
    error = np.exp(3 * axes[:, 0] + 0.3 * np.random.default_rng(6).normal(size=20))
    found = replace(fit(shared, axes, error), transform=transforms(error)[1])
    rest = [np.delete(np.arange(20), i) for i in range(20)]
    t = np.log(error)
    by_mean = np.mean([(t[i] - t[others].mean()) ** 2 for i, others in enumerate(rest)])
    by_fit = np.mean((np.log(found.left_out) - t) ** 2)
    assert found.r2 == pytest.approx(1 - by_fit / by_mean, rel=1e-6)


def test_whether_to_trust_a_fit_is_not_decided_by_the_worst_networks():
    """Errors over three decades, each within a factor of a few: as plain errors, the worst ones are all that counts."""
    shared, axes = data(30)
    error = np.exp(6 * axes[:, 0] + 1.5 * np.random.default_rng(14).normal(size=30))
    found = fit(shared, axes, error)
    assert found.transform.name == "log" and found.r2 > 0.4
    assert found.rmse > found.mean_rmse


def test_the_unit_of_the_error_is_of_no_importance():
    """Millimetres or kilometres, errors far above 1 as well as below."""
    shared, axes = data(20)
    error = np.exp(2 * quadratic(axes) / 0.3)
    new = data(50, seed=1)
    near, far = fit(shared, axes, error), fit(shared, axes, 1000 * error)
    assert near.transform.name == far.transform.name
    assert far.predict(*new) == pytest.approx(1000 * near.predict(*new), rel=1e-6)
    assert far.predict(*new, 0.5) == pytest.approx(1000 * near.predict(*new, 0.5), rel=1e-6)
    assert (near.predict(*new, 0.5) <= near.predict(*new)).all()


def test_errors_below_zero_are_fitted_as_they_are():
    """The negative of a quality, say."""
    shared, axes = data(25)
    error = quadratic(axes) - 5
    found = fit(shared, axes, error)
    new = data(100, seed=1)
    assert found.transform.name == "identity"
    assert np.abs(found.predict(*new) - (quadratic(new[1]) - 5)).max() < 0.02
    assert by_ratio(error).forward(error).tolist() == error.tolist()


def test_improvements_count_by_ratio():
    scale = by_ratio(np.array([0.8, 0.02]))
    t = scale.forward(np.array([0.8, 0.4, 0.04, 0.02, 1e-5, 0.0]))
    assert t[0] - t[1] == pytest.approx(t[2] - t[3])
    assert t[4] == t[5]  # less than a thousandth of the worst is nothing
    assert scale.inverse(t[:4]) == pytest.approx([0.8, 0.4, 0.04, 0.02])
    assert scale.slope(np.array([0.5])) == pytest.approx([2.0])


def test_noise_is_not_mistaken_for_a_polynomial():
    shared, axes = data(60, d=10)
    found = fit(shared, axes, 0.3 + 0.02 * RANDOM.normal(size=60))
    new_shared, new_axes = data(100, d=10, seed=4)
    assert found.predict(new_shared, new_axes).std() < 0.012  # more than half of the noise is left unexplained


def test_doubt_grows_away_from_the_trials_and_falls_where_one_more_is_told():
    shared, axes = data(15)
    found = fit(shared, axes, quadratic(axes) + 0.01 * np.random.default_rng(5).normal(size=15))
    far = np.array([[-3.0, 2.0, -3.0]])
    where = far.mean(axis=1, keepdims=True), far
    error, doubt = found.predict_with_std(*where)
    assert doubt[0] > 3 * found.predict_with_std(shared, axes)[1].max()
    assert error == pytest.approx(found.predict(*where))
    joined = found.joined(*where, error)
    assert joined.predict_with_std(*where)[1][0] < 0.5 * doubt[0]


def test_predictions_stay_within_what_an_error_can_be():
    shared, axes = data(30)
    error = 0.9 / (1 + np.exp(8 * axes[:, 0] + 4))  # flat towards 0.9
    found = fit(shared, axes, error)
    far = np.array([[-4.0, 0, 0], [4.0, 0, 0]])
    predicted = found.predict(far.mean(axis=1, keepdims=True), far)
    assert (predicted >= 0).all() and (predicted <= 1.05 * error.max() + 1e-9).all()


@pytest.mark.parametrize("error", [np.full(6, 0.25), np.array([0, 0, 0.1, 0.2, 1, 1])])
def test_odd_errors_are_no_trouble(error):
    found = fit(*data(6), error)
    assert np.isfinite(found.left_out).all()
    assert np.isfinite(found.predict_with_std(*data(5, seed=1))).all()


def test_one_trial_is_no_fit():
    with pytest.raises(ValueError, match="1 trials"):
        fit(*data(1), np.array([0.1]))


def test_a_measurement_that_is_told_to_be_unsure_counts_less():
    shared, axes = data(20)
    error = quadratic(axes)
    error[7] += 0.1
    std = np.full(20, 0.005)
    plain = fit(shared, axes, error, Noise(std))
    std[7] = 0.1
    told = fit(shared, axes, error, Noise(std))
    one = shared[[7]], axes[[7]]
    assert abs(told.predict(*one)[0] - quadratic(axes)[7]) < 0.5 * abs(plain.predict(*one)[0] - quadratic(axes)[7])
