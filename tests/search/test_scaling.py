import pytest
from landscapes import tiny_net, tiny_space

from secateur.search.scaling import compound
from secateur.spaces import Space


@pytest.fixture(scope="module")
def space():
    return tiny_space(tiny_net())


def test_the_power_is_the_largest_within_the_limit(space):
    """A hair more on every dimension is another network, over the limit, or no other network at all."""
    for share in (0.6, 0.4, 0.2):
        limit = share * space.full_costs["macs"]
        found = compound(space, {"macs": limit})
        powers = [-step / 640 for step in range(640 * 30)]
        line = [space.uniform(1.1**p, 1.2**p, 1.15**p) for p in powers]
        macs = space.cost_table(list(line))["macs"]
        assert macs[line.index(found)] <= limit
        assert (macs[: line.index(found)] > limit).all()


def test_all_dimensions_shrink_together(space):
    macs = space.full_costs["macs"]
    found = compound(space, {"macs": 0.15 * macs})
    shrunk = {axis.kind for axis, value in zip(space.axes, found, strict=True) if value < axis.full}
    assert shrunk == {"width", "depth", "resolution"}


def test_a_free_budget_keeps_the_full_network_and_an_impossible_one_is_refused(space):
    assert compound(space, {}) == compound(space, {"macs": 1e12}) == compound(space, {"latency_ms": 0.1}) == space.full
    assert compound(space, {}, costs=lambda encoded: {"latency_ms": encoded.sum(axis=1)}) == space.full
    slow = compound(space, {"latency_ms": 20}, costs=lambda encoded: {"latency_ms": encoded.sum(axis=1)})
    assert sum(slow) <= 20
    with pytest.raises(ValueError, match="below the smallest network"):
        compound(space, {"macs": 1})


def test_the_smallest_network_is_reached(space):
    least = {name: float(column[0]) for name, column in space.cost_table([space.smallest]).items()}
    assert within_all(space, compound(space, least), least)


def within_all(space: Space, candidate, limits) -> bool:
    costs = space.cost_table([candidate])
    return all(costs[name][0] <= limit for name, limit in limits.items())
