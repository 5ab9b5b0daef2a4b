"""What proxies are measured by: they say 0 of the full network and less of smaller ones; landscapes are whole."""

import numpy as np
import proxies
import pytest


@pytest.mark.parametrize("name", ["separable", "digits", "epoch"])
def test_a_landscape_has_every_network_and_proxies_fall_with_size(name):
    found, arrays = proxies.opened(name)
    space = found.space
    assert len(found.encoded) == np.prod([len(axis.choices) for axis in space.axes])
    assert ((found.measured > 0) & (found.measured <= 0.95)).all()
    ends = space.encode([space.full, space.smallest])
    for one in proxies.proxies_of(space, arrays).values():
        full, smallest = one(ends)
        assert full == pytest.approx(0.0) and (smallest < -0.1).all()


def test_a_search_sees_proxies_only_while_it_runs():
    before = proxies.polynomial.Features
    found, arrays = proxies.opened("digits")
    one = proxies.proxies_of(found.space, arrays)["reconstruction"]
    problem = proxies.problem_of(found, 0.5, 4, 0)
    with proxies.features_with([one]):
        more, _ = proxies.polynomial.Features(problem)(found.encoded[:5])
    shared, _ = before(problem)(found.encoded[:5])
    assert np.array_equal(more, np.concatenate([shared, one(found.encoded[:5])], axis=1))
    assert proxies.polynomial.Features is before
