import itertools

import numpy as np
import pytest

from secateur.search.halving import Halving

NINE = np.array([[1, 9], [2, 7], [3, 6], [5, 5], [9, 1], [4, 8], [6, 7], [8, 6], [9, 9]], float)


def test_one_objective_is_successive_halving():
    told = np.arange(1.0, 9.0)[:, None]  # eight told; with mine nine: the best three of nine go on
    halving = Halving(eta=3, least=8)
    assert [halving.goes_on(told, [mine]) for mine in (0.5, 1.5, 2.5, 3.5, 9.0)] == [True, True, True, False, False]
    assert halving.goes_on(told, [3.0]) and not halving.goes_on(told, [4.0])  # two better: third; three better: fourth


def test_rank_comes_before_contribution():
    # Of NINE the first five are a front. [4, 5.5] is beaten by none of them: it joins it.
    halving = Halving(eta=5, least=1)
    assert halving.goes_on(NINE, [4, 5.5])
    # [4, 6.5] is beaten by [3, 6] alone, so of rank 1; five come before it, more than 10 / 5.
    assert not halving.goes_on(NINE, [4, 6.5])
    # One in 1.5 goes on: 10 / 1.5 = 6.67. Of its rank is [8, 6] alone; [4, 8] and [6, 7] are worse than it is.
    assert Halving(eta=1.5, least=1).goes_on(NINE, [4, 6.5])
    # [9, 8] is beaten by [4, 8], which is of rank 1 by [2, 7]: behind eight.
    assert not Halving(eta=1.5, least=1).goes_on(NINE, [9, 8])


def test_within_a_rank_the_larger_contribution_goes_on():
    # Behind a front of one, mates of rank 1; spans 10 x 10, corner at (11, 11). The box of each that no mate covers:
    # mine, [6, 4.5]: (10 - 6) * (5 - 4.5) = 2; [5, 5]: (6 - 5) * (10 - 5) = 5; [1, 10]: (5 - 1) * (11 - 10) = 4;
    # [10, 1]: (11 - 10) * (4.5 - 1) = 3.5. The front and all three mates come before mine.
    told = np.array([[0, 0], [1, 10], [10, 1], [5, 5]], float)
    assert Halving(eta=1.24, least=1).goes_on(told, [6, 4.5])  # 4 < 5 / 1.24 = 4.03
    assert not Halving(eta=1.26, least=1).goes_on(told, [6, 4.5])  # 4 > 5 / 1.26 = 3.97
    # [3, 3] beats [5, 5] and adds (10 - 3) * (10 - 3) = 49: only the front of one comes before it.
    assert Halving(eta=4.9, least=1).goes_on(told, [3, 3])  # 1 < 5 / 4.9 = 1.02
    assert not Halving(eta=5, least=1).goes_on(told, [3, 3])


def test_all_go_on_while_few_were_told():
    told = np.zeros((7, 2))
    assert Halving(least=8).goes_on(told, [1, 1])
    assert Halving(least=8).goes_on(np.zeros((0, 2)), [1, 1])
    assert not Halving(least=7).goes_on(told, [1, 1])
    assert Halving(least=8).goes_on(np.vstack([told, [[np.nan, 0]]]), [1, 1])  # what was not measured was not told


@pytest.mark.parametrize("m", [1, 2, 3])
def test_what_nothing_beats_always_goes_on_and_better_is_never_stopped_before_worse(m):
    random = np.random.default_rng(m)
    told, halving = random.random((24, m)), Halving(eta=6, least=4)
    stopped = 0
    for mine in random.random((60, m)):
        goes_on = halving.goes_on(told, mine)
        beaten = ((told <= mine).all(1) & (told < mine).any(1)).any()
        assert goes_on or beaten
        stopped += not goes_on
        if not goes_on:
            assert not halving.goes_on(told, mine + 0.1 * (np.arange(m) == 0) + 0.1)
    assert 0 < stopped < 60


@pytest.mark.parametrize("m", [1, 2, 3])
def test_order_and_units_of_the_told_change_nothing(m):
    random, halving = np.random.default_rng(m), Halving(eta=2, least=4)
    told = random.integers(0, 6, (20, m)).astype(float)  # many of the same rank, some equal
    units = np.array([1.0, 2.0**20, 2.0**-10])[:m]
    for mine in random.integers(0, 6, (20, m)).astype(float):
        expected = halving.goes_on(told, mine)
        for _ in range(5):
            assert halving.goes_on(random.permutation(told), mine) == expected
        assert halving.goes_on(told * units, mine * units) == expected


def test_nan_ends_a_trial():
    assert not Halving(least=1).goes_on(np.zeros((0, 2)), [np.nan, 1])


def test_the_predicted_error_by_hand():
    # Through (1, 2), (2, 3), (3, 4) and (4, 5): final = error + 1, without residuals.
    error, std = Halving().predicted([1, 2, 3, 4], [2, 3, 4, 5], 2.5)
    assert error == pytest.approx(3.5) and std == pytest.approx(0)
    # Least squares through (0, 0), (1, 2), (2, 1) about the means (1, 1): slope (-1 * -1 + 0 * 1 + 1 * 0) / 2 = 0.5, so
    # 0.5, 1, 1.5; residuals -0.5, 1, -0.5, of squares 1.5, over 3 - 2; at 2: 1.5 * (1 + 1/3 + 1/2) = 2.75.
    error, std = Halving().predicted([0, 1, 2], [0, 2, 1], 2.0)
    assert error == pytest.approx(1.5) and std == pytest.approx(2.75**0.5)


def test_the_predicted_error_never_falls_and_stays_among_those_seen():
    random = np.random.default_rng(0)
    for slope, n in itertools.product((1.0, 0.0, -1.0), (1, 2, 3, 12)):
        errors = random.random(n)
        finals = 0.2 + 0.3 * slope * errors + 0.05 * random.random(n)
        told = [Halving().predicted(errors, finals, mine)[0] for mine in np.linspace(-1, 3, 30)]
        assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(told))
        assert min(told) >= finals.min() and max(told) <= finals.max()


def test_a_line_that_would_fall_is_the_mean():
    assert Halving().predicted([1, 2, 3], [3, 2, 1], 10.0)[0] == pytest.approx(2)


def test_few_trials_give_no_deviation():
    assert Halving().predicted([], [], 0.4) == (0.4, None)
    assert Halving().predicted([0.5], [0.2], 0.9) == (pytest.approx(0.2), None)
    assert Halving().predicted([0.5, 0.5, 0.5], [0.1, 0.2, 0.3], 0.9)[1] == pytest.approx((0.02 * 4 / 3) ** 0.5)


@pytest.mark.parametrize("given", [{"eta": 1}, {"eta": float("nan")}, {"least": 0}, {"least": 2.0}, {"least": True}])
def test_wrong_settings_are_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        Halving(**given)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(n,\) both"):
        Halving().predicted([1, 2], [1], 1.0)
