"""Candidates drawn at random cover the range of costs and meet the limits."""

import numpy as np
import pytest
import torch
from landscapes import line_net, line_space, tiny_net, tiny_space

from secateur.spaces.allocation import mixture

SPACE = tiny_space(tiny_net())
FULL_MACS = SPACE.full_costs["macs"]


def drawn(draw, n=200):
    return [draw(np.random.default_rng(seed)) for seed in range(n)]


def test_a_mixture_covers_the_costs_of_the_space():
    found = drawn(mixture(SPACE))
    assert all(SPACE.canonical(candidate) == candidate for candidate in found)
    macs = SPACE.cost_table(found)["macs"] / FULL_MACS
    assert macs.min() < 0.05 and macs.max() > 0.7 and len(set(found)) > 100
    assert {candidate[-1] for candidate in found} == {0, 1, 2}
    assert found == drawn(mixture(SPACE))


def test_limits_hold():
    limits = {"macs": 0.3 * FULL_MACS, "latency_ms": 1.0}  # what arithmetic does not know is left aside
    assert SPACE.cost_table(drawn(mixture(SPACE, limits)))["macs"].max() <= limits["macs"]
    with pytest.raises(ValueError, match="below the smallest network"):
        mixture(SPACE, {"macs": 1.0})


def test_scores_decide_on_the_widths_of_a_threshold():
    scores = {group.name: torch.ones(group.units) for group in SPACE.groups}
    first = SPACE.groups[0].name
    scores[first] = torch.cat([scores[first][:1] * 100, torch.zeros(len(scores[first]) - 1)])
    widths = [candidate[0] for candidate in drawn(mixture(SPACE, scores=scores))]
    evenly = [candidate[0] for candidate in drawn(mixture(SPACE))]
    assert np.mean(widths) < np.mean(evenly)


def test_a_space_of_widths_alone_is_drawn_from_too():
    assert len(set(drawn(mixture(line_space(line_net()))))) == 4
