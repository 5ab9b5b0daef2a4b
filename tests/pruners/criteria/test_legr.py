"""LeGR's lines by hand, and an evolution that finds what an error asks for."""

import torch
from networks import network

from secateur.pruners import legr, rescaled
from secateur.spaces import Space


def test_a_line_a_group_by_hand():
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.5])}
    found = rescaled(scores, {"a": (2.0, -1.0), "b": (1.0, 3.0)})
    assert found["a"].tolist() == [1, 3] and found["b"].tolist() == [3.5]


def test_it_finds_widths_that_the_error_prefers():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=1)
    scores = {group.name: space.default_scores[group.name].double() ** 2 for group in space.groups}
    limits, tried = {"macs": 0.5 * space.full_costs["macs"]}, []

    def error(candidate, moved):
        assert space.cost_table([candidate])["macs"][0] <= limits["macs"]
        tried.append(candidate[0])
        return -candidate[0]  # the first group shall be wide

    found = legr(space, scores, limits, error, rounds=40, seed=0)
    assert len(tried) == 40 and max(tried) > tried[0]
    assert all(torch.equal(found[name].argsort(), scores[name].argsort()) for name in scores)
    again = legr(space, scores, limits, error, rounds=40, seed=0)
    assert all(torch.equal(found[name], again[name]) for name in found)
