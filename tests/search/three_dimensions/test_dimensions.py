"""The polynomial on functions that are known, and its best point where calculus gives it."""

import numpy as np
import pytest

from secateur.search.three_dimensions.dimensions import Polynomial, design, fit, optimum, usable_degrees, usable_rank

# x (2 - x) for depth, width and resolution alike. Its elasticity x f' / f is 2 (1 - x) / (2 - x), so at the optimum of
# cost d w^2 r^2: (1 - d) / (2 - d) = (1 - w) / (2 - w) / 2 = (1 - r) / (2 - r) / 2. Choose w = r = 4/5: the right side
# is 1/12, hence 12 - 12 d = 2 - d, d = 10/11, and T = 10/11 * (4/5)^4 = 0.37236364.
LINE = np.array([0.0, 2.0, -1.0])
CUBE = Polynomial(np.einsum("i,j,k->ijk", LINE, LINE, LINE))
TARGET = 10 / 11 * 0.8**4


def bent(x):
    return np.prod(x * (2 - x), axis=1)


def on_axes(levels, dimensions=3):
    """The full point, and each level on each axis alone."""
    rows = [np.ones(dimensions)]
    for axis in range(dimensions):
        for level in levels:
            rows.append(np.where(np.arange(dimensions) == axis, level, 1.0))
    return np.array(rows)


def random_points(count, dimensions=3, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 1.0, (count, dimensions))


def test_values_and_gradients_are_those_of_the_formula():
    x = random_points(7)
    assert np.allclose(CUBE(x), bent(x), atol=1e-14)
    step = 1e-6 * np.eye(3)
    numeric = np.stack([(CUBE(x + h) - CUBE(x - h)) / 2e-6 for h in step], axis=1)
    assert np.allclose(CUBE.gradient(x), numeric, atol=1e-8)


def test_the_optimum_is_the_closed_one():
    found = optimum(CUBE, [1, 2, 2], TARGET)
    assert found == pytest.approx([10 / 11, 0.8, 0.8], abs=1e-6)
    assert CUBE(found[None])[0] == pytest.approx(0.91398347, abs=1e-8)
    # One dimension alone at the same cost: depth T (2 - T) = 0.60607; width or resolution T^.5 (2 - T^.5) = 0.84807.
    for axis, exponent, value in ((0, 1, 0.60607), (1, 2, 0.84807), (2, 2, 0.84807)):
        alone = np.ones(3)
        alone[axis] = TARGET ** (1 / exponent)
        assert CUBE(alone[None])[0] == pytest.approx(value, abs=1e-5)


def test_the_optimum_balances_what_a_share_of_the_cost_is_worth():
    """d F_d = w F_w / 2 = r F_r / 2, for a function without symmetry."""
    tensor = np.einsum("i,j,k->ijk", [0.1, 1.7, -0.8], [0.0, 2.4, -1.9, 0.5], [0.3, 1.2, -0.5])
    polynomial = Polynomial(tensor)
    x = optimum(polynomial, [1, 2, 2], 0.3)
    worth = x * polynomial.gradient(x[None])[0] / np.array([1, 2, 2])
    assert (x < 0.999).all()
    assert worth == pytest.approx([worth.mean()] * 3, rel=1e-4)


def test_other_exponents_for_volumes_and_video():
    # Volumes, d w^2 r^3: with r = 4/5, (1 - r) / (2 - r) / 3 = 1/18.
    # (1 - w) / (2 - w) = 2/18: 9 - 9 w = 2 - w, w = 7/8. (1 - d) / (2 - d) = 1/18: 18 - 18 d = 2 - d, d = 16/17.
    assert optimum(CUBE, [1, 2, 3], 16 / 17 * (7 / 8) ** 2 * 0.8**3) == pytest.approx([16 / 17, 7 / 8, 0.8], abs=1e-6)
    # Video, d w^2 r^2 t: frames count as depth does.
    video = Polynomial(np.einsum("i,j,k,l->ijkl", LINE, LINE, LINE, LINE))
    found = optimum(video, [1, 2, 2, 1], (10 / 11) ** 2 * 0.8**4)
    assert found == pytest.approx([10 / 11, 0.8, 0.8, 10 / 11], abs=1e-6)


@pytest.mark.parametrize("target", [0.9, 0.5, 0.1, 0.01])
def test_the_optimum_costs_its_target(target):
    found = optimum(CUBE, [1, 2, 2], target)
    assert np.prod(found ** np.array([1, 2, 2])) == pytest.approx(target, rel=1e-6)
    assert (found > 0).all() and (found <= 1).all()


def test_all_of_the_cost_is_the_full_network():
    assert optimum(CUBE, [1, 2, 2], 1.0).tolist() == [1, 1, 1]


def test_a_dimension_that_is_always_worth_its_cost_stays_whole():
    """Depth has elasticity 1, width at most 2 (1 - 0) / (2 - 0) = 1 at twice the cost: all is saved in width."""
    polynomial = Polynomial(np.multiply.outer([0.0, 1.0], LINE))
    assert optimum(polynomial, [1, 2], 0.36) == pytest.approx([1, 0.6], abs=1e-6)


def test_least_ratios_are_kept_and_must_reach_the_target():
    found = optimum(CUBE, [1, 2, 2], TARGET, lower=[0.5, 0.85, 0.5])
    assert found[1] == pytest.approx(0.85, abs=1e-6)
    assert np.prod(found ** np.array([1, 2, 2])) == pytest.approx(TARGET, rel=1e-6)
    with pytest.raises(ValueError, match="below the 0.5062 that the least ratios cost"):  # 0.9 * 0.75^2
        optimum(CUBE, [1, 1, 1], 0.5, lower=[0.9, 0.75, 0.75])
    with pytest.raises(ValueError, match="above 0"):
        optimum(CUBE, [1, 2], 0.5)


def test_enumeration_of_a_grid_finds_the_same_optimum():
    """Steps of 1 %: the best of a million grid points under the cost lies next to the closed form's."""
    levels = np.linspace(0.01, 1, 100)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[(grid > 0.5).all(axis=1)]
    allowed = grid[grid[:, 0] * grid[:, 1] ** 2 * grid[:, 2] ** 2 <= TARGET]
    best = allowed[np.argmax(CUBE(allowed))]
    assert best == pytest.approx([10 / 11, 0.8, 0.8], abs=0.025)
    assert 0.91398347 - 0.003 < CUBE(best[None])[0] <= 0.91398347


def test_ten_samples_tell_a_product_of_cubics_and_not_all_its_terms():
    lines = [[0.2, 1.1, -0.2, -0.1], [0.05, 2.0, -1.5, 0.4], [0.1, 1.3, 0.2, -0.6]]
    truth = Polynomial(np.einsum("i,j,k->ijk", *lines))
    x = on_axes([0.8, 0.6, 0.4])
    assert len(x) == 10
    found = fit(x, truth(x)).polynomial
    assert found.degrees == (3, 3, 3)
    probe = random_points(500)
    assert np.abs(found(probe) - truth(probe)).max() < 1e-8
    terms = design(x, (3, 3, 3))
    assert terms.shape == (10, 64) and np.linalg.matrix_rank(terms) == 10
    full = fit(x, truth(x), full=True).polynomial
    assert np.abs(full(x) - truth(x)).max() < 0.02
    assert np.abs(full(probe) - truth(probe)).max() > 0.01  # a sum where a product is the truth


def test_samples_off_the_axes_serve_as_well():
    x = random_points(14, seed=5)
    probe = random_points(200)
    assert np.abs(fit(x, bent(x)).polynomial(probe) - bent(probe)).max() < 1e-7


def test_a_second_product_takes_what_one_cannot():
    def mixed(x):
        return bent(x) + 0.3 * (1 - x[:, 0]) * (1 - x[:, 1])

    x, probe = random_points(40, seed=1), random_points(200, seed=2)
    assert np.abs(fit(x, mixed(x)).polynomial(probe) - mixed(probe)).max() > 0.02
    assert np.abs(fit(x, mixed(x), rank=2).polynomial(probe) - mixed(probe)).max() < 1e-6
    many = random_points(200, seed=3)
    assert np.abs(fit(many, mixed(many), full=True).polynomial(probe) - mixed(probe)).max() < 1e-3


def test_noise_moves_the_optimum_by_little():
    """Accuracy noise of 0.1 to 0.3 points: in 90 of 100 trials no ratio moves by more than 0.02."""
    x = on_axes([0.8, 0.6, 0.4])
    for points, trials in ((0.001, 20), (0.003, 100)):
        near = 0
        for seed in range(trials):
            noise = np.random.default_rng(seed).normal(0, points, len(x))
            found = optimum(fit(x, bent(x) + noise).polynomial, [1, 2, 2], TARGET, lower=[0.4, 0.6, 0.6])
            near += np.abs(found - [10 / 11, 0.8, 0.8]).max() <= 0.02
        assert near >= 0.9 * trials, points


def test_degrees_follow_what_was_seen():
    x = on_axes([0.8, 0.6, 0.4])
    x = np.concatenate([x, [[0.5, 1, 1]]])
    assert usable_degrees(x, 3) == (3, 3, 3)
    x[:, 2] = np.where(x[:, 2] < 0.7, 0.8, x[:, 2])  # two ratios are left
    assert usable_degrees(x, 3) == (3, 3, 1)
    assert usable_degrees(x[:1], 3) == (0, 0, 0)
    assert usable_degrees(np.array([[1.0], [0.995], [0.5]]), 3) == (1,)  # 1 and 0.995 count once
    assert usable_degrees(random_points(4), 3) == (1, 1, 1)  # 4 samples cannot tell 10 numbers
    # Cubics in three variables: 10 numbers, and 12 for each product more.
    assert [usable_rank(samples, (3, 3, 3), 3) for samples in (5, 10, 21, 22, 33, 34, 99)] == [1, 1, 1, 2, 2, 3, 3]
    one = fit(np.ones((3, 2)), [0.2, 0.4, 0.6])
    assert one.polynomial(random_points(5, 2)) == pytest.approx([0.4] * 5)


def test_the_worth_of_a_fit_is_measured_on_samples_left_out():
    x = random_points(60)
    noise = np.random.default_rng(0).normal(0, 0.01, len(x))
    found = fit(x, bent(x) + noise)
    assert 0.008 < found.rmse < 0.015 and found.mean_rmse > 0.1
    shuffled = np.random.default_rng(1).permutation(bent(x))
    useless = fit(x, shuffled)
    assert useless.rmse > useless.mean_rmse


def test_nonsense_is_refused():
    for x, y in ((np.ones(3), np.ones(3)), (np.ones((3, 2)), np.ones(2)), (np.ones((0, 2)), np.ones(0))):
        with pytest.raises(ValueError, match="expected \\(n, v\\)"):
            fit(x, y)
    with pytest.raises(ValueError, match="degree=0"):
        fit(np.ones((3, 2)), np.ones(3), degree=0)
