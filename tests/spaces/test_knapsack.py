"""Widths by a knapsack: exact where costs are sums, and beside every network of small spaces."""

import itertools

import networks
import numpy as np
import pytest
import torch

import secateur as sc
from secateur.spaces import knapsack
from secateur.spaces.knapsacks import least


def falling(random, count):
    values = np.sort(random.exponential(size=count))[::-1] * random.exponential()
    return [*values[:-1].tolist(), 0.0]


def test_by_hand():
    # Sizes 0, 2 and 0, 3: the second item alone is worth more than the first, both need 5.
    found = least([np.array([4.0, 0.0]), np.array([7.0, 0.0])], [np.array([0, 2]), np.array([0, 3])], 5)
    assert found.tolist() == [[0, 0], [0, 0], [1, 0], [0, 1], [0, 1], [1, 1]]


@pytest.mark.parametrize("seed", range(20))
def test_sums_are_exact_at_every_total(seed):
    random = np.random.default_rng(seed)
    counts = random.integers(1, 5, size=random.integers(1, 5))
    damages = [random.exponential(size=count) for count in counts]
    sizes = [random.integers(0, 9, size=count) for count in counts]
    found = least(damages, sizes, 25)
    choices = list(itertools.product(*map(range, counts)))
    totals = np.array([sum(size[one] for size, one in zip(sizes, choice, strict=True)) for choice in choices])
    values = np.array([sum(value[one] for value, one in zip(damages, choice, strict=True)) for choice in choices])
    for most, row in enumerate(found):
        if not (totals <= most).any():
            assert (row == -1).all()
            continue
        assert sum(size[one] for size, one in zip(sizes, row, strict=True)) <= most
        mine = sum(value[one] for value, one in zip(damages, row, strict=True))
        assert mine == pytest.approx(values[totals <= most].min())


@pytest.fixture(scope="module")
def whole():
    """A space, all its networks, and their costs."""
    space = sc.Space.trace(networks.Residual(8, 2), torch.randn(1, 3, 8, 8), divisor=4, rules={"*": {"depth": False}})
    encoded = np.array(list(itertools.product(*[axis.choices for axis in space.axes])), np.int64)
    return space, encoded, space.cost_table(encoded)


def gaps(whole, monkeypatch, *, looked_through):
    """Over the least damage of all networks that fit, of 30 random tables and budgets."""
    space, encoded, costs = whole
    if not looked_through:
        monkeypatch.setattr("secateur.spaces.knapsacks._WHOLE", 0)
    random, found = np.random.default_rng(0), []
    for number in range(30):
        table = {group.name: falling(random, len(group.widths)) for group in space.groups}
        limits = {"macs": random.uniform(0.3, 0.9) * space.full_costs["macs"]}
        if number % 3 == 0:
            limits["params"] = random.uniform(0.3, 0.9) * space.full_costs["params"]
        total = sum(
            np.array(table[group.name])[np.searchsorted(group.widths, encoded[:, n])]
            for n, group in enumerate(space.groups)
        )
        fine = np.all([costs[name] <= limit for name, limit in limits.items()], axis=0)
        answer = knapsack(space, table, limits)
        space.check_within(answer, limits)
        place = int(np.flatnonzero((encoded == np.array(answer)).all(1))[0])
        found.append(total[place] / total[fine].min() if total[fine].min() else 1.0)
    return np.array(found)


def test_a_small_space_has_no_better_network(whole, monkeypatch):
    assert gaps(whole, monkeypatch, looked_through=True) == pytest.approx(1.0)


def test_a_space_too_large_to_look_through_hardly_has(whole, monkeypatch):
    found = gaps(whole, monkeypatch, looked_through=False)
    assert (found < 1 + 1e-9).sum() >= 28 and found.max() < 1.1


def test_one_table_gives_a_front(whole):
    space, _, _ = whole
    random = np.random.default_rng(1)
    table = {group.name: falling(random, len(group.widths)) for group in space.groups}
    last = np.inf
    for share in (0.3, 0.5, 0.7, 1.0):
        answer = knapsack(space, table, {"macs": share * space.full_costs["macs"]})
        total = sum(table[group.name][group.widths.index(answer[n])] for n, group in enumerate(space.groups))
        assert total <= last
        last = total
    assert last == 0


def test_milliseconds_that_are_predicted(whole):
    space, encoded, _ = whole

    def milliseconds(rows):
        return {"latency_ms": rows.sum(1) / 10, **space.cost_table(rows)}

    table = {group.name: np.linspace(1, 0, len(group.widths)).tolist() for group in space.groups}
    limit = 0.6 * float(encoded.sum(1).max()) / 10
    answer = knapsack(space, table, {"latency_ms": limit}, costs=milliseconds)
    assert sum(answer) / 10 <= limit < sum(answer) / 10 + 1


def test_what_is_wrong_is_said(whole):
    space, _, _ = whole
    table = {group.name: [0.0] * len(group.widths) for group in space.groups}
    with pytest.raises(ValueError, match="below the smallest network"):
        knapsack(space, table, {"macs": 1})
    with pytest.raises(ValueError, match=r"at least 8 channels in every group"):
        knapsack(space, table, {"macs": 0.3 * space.full_costs["macs"]}, least_width=8)
    name = space.groups[0].name
    with pytest.raises(ValueError, match=rf"damages of {name} are \[1.0\]; expected 2 numbers"):
        knapsack(space, table | {name: [1.0]}, {"macs": 1e9})
