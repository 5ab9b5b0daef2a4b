import numpy as np
import pytest

from secateur.search import hypervolume, non_dominated
from secateur.search.pareto import contributions, ranks


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([[1, 2], [2, 1], [2, 2]], [True, True, False]),
        ([[1, 1], [1, 1]], [True, True]),  # equal rows stay together
        ([[1, 1], [1, 2]], [True, False]),
        ([[np.nan, 0], [1, 1]], [False, True]),
        ([[3.0], [1.0], [1.0]], [False, True, True]),
        (np.zeros((0, 2)), []),
    ],
)
def test_non_dominated_by_hand(values, kept):
    assert non_dominated(values).tolist() == kept


@pytest.mark.parametrize("m", [1, 2, 3])
def test_non_dominated_equals_definition(m):
    values = np.random.default_rng(m).integers(0, 5, size=(60, m)).astype(float)
    expected = [not any((other <= row).all() and (other < row).any() for other in values) for row in values]
    assert non_dominated(values).tolist() == expected


def test_hypervolume_golden():
    # Steps of a staircase: (3-1)*(4-3) + (3-0)*... written out: x in 1..2 is covered to y 3..4, x in 2..3 to y 1..4.
    assert hypervolume([[1, 3], [2, 1]], [3, 4]) == 1 * (4 - 3) + 1 * (4 - 1)
    assert hypervolume([[0, 0, 0]], [2, 3, 4]) == 24
    assert hypervolume([[0, 0, 1], [1, 0, 0]], [2, 2, 2]) == 4 + 4 - 2  # two boxes of 4 that share 1*2*1
    assert hypervolume([[5, 5]], [3, 4]) == 0
    assert hypervolume(np.zeros((0, 2)), [1, 1]) == 0


def test_hypervolume_never_falls_and_ignores_dominated_points():
    values = np.random.default_rng(0).random((30, 3))
    grown = [hypervolume(values[:n], np.ones(3)) for n in range(1, 31)]
    assert all(later >= earlier - 1e-12 for earlier, later in zip(grown, grown[1:], strict=False))
    assert hypervolume(values[non_dominated(values)], np.ones(3)) == pytest.approx(grown[-1])


def test_hypervolume_equals_monte_carlo():
    random = np.random.default_rng(1)
    values, samples = random.random((8, 3)), random.random((20000, 3))
    share = (values[None] <= samples[:, None]).all(2).any(1).mean()
    assert hypervolume(values, np.ones(3)) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, 3], [3, 1], [2, 4], [4, 4], [3, 1]], [0, 0, 1, 2, 0]),  # [4, 4] is beaten by [2, 4]; equal rows share
        ([[3.0], [1.0], [2.0], [1.0]], [2, 0, 1, 0]),
        ([[np.nan, 0], [1, 1], [2, 2], [0, np.nan]], [2, 0, 1, 2]),  # what is missing comes last
        ([[np.nan, 0]], [0]),
        (np.zeros((0, 2)), []),
    ],
)
def test_ranks_by_hand(values, expected):
    assert ranks(values).tolist() == expected


@pytest.mark.parametrize("m", [1, 2, 3])
def test_ranks_are_fronts_peeled_one_by_one(m):
    values = np.random.default_rng(m).integers(0, 6, size=(50, m)).astype(float)
    found = ranks(values)
    for rank in range(found.max() + 1):
        left = np.flatnonzero(found >= rank)
        assert (non_dominated(values[left]) == (found[left] == rank)).all()


def test_contributions_golden():
    # Corner (6, 6). [1, 4]: up to x = 2 and y = 6, 1 * 2; [2, 3]: x to 4, y to 4, 2 * 1; [4, 1]: x to 6, y to 3, 2 * 2.
    # [5, 5] is beaten, [1, 7] beyond the corner.
    values = [[1, 4], [2, 3], [4, 1], [5, 5], [1, 7]]
    assert contributions(values, [6, 6]).tolist() == [2, 2, 4, 0, 0]
    assert contributions([[1, 4], [1, 4], [4, 1]], [6, 6]).tolist() == [0, 0, 6]  # of equal points none is missed
    assert contributions([[0, 0, 1], [1, 0, 0]], [2, 2, 2]).tolist() == [2, 2]  # boxes of 4 that share 2
    assert contributions([[np.nan, 1], [2, 2]], [3, 3]).tolist() == [0, 1]
    assert contributions(np.zeros((0, 2)), [1, 1]).tolist() == []


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_contributions_equal_definition(m):
    values, corner = np.random.default_rng(m).random((15, m)), np.full(m, 0.9)
    whole = hypervolume(values, corner)
    expected = [whole - hypervolume(np.delete(values, i, axis=0), corner) for i in range(len(values))]
    assert contributions(values, corner) == pytest.approx(expected, abs=1e-12)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(n, m\)"):
        non_dominated([1.0, 2.0])
    with pytest.raises(ValueError, match="2 objectives"):
        hypervolume([[1.0, 2.0]], [1.0])
    with pytest.raises(ValueError, match="2 objectives"):
        contributions([[1.0, 2.0]], [1.0])
    with pytest.raises(ValueError, match=r"\(n, m\)"):
        ranks([1.0, 2.0])
