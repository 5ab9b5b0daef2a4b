"""Exemplars: golden clusters, invariances, and the network that is left."""

import numpy as np
import pytest
import torch
from networks import network
from torch import nn

from secateur.pruners import Request, realised
from secateur.pruners.one_shot.epruner import EPruner
from secateur.pruners.one_shot.exemplars import exemplars, merits, similarities
from secateur.spaces import Space, cut

POINTS = torch.tensor(
    [[0, 0], [1, 0], [0, 1.5], [10, 10], [11, 10], [10, 11.5], [0.4, 0.3], [10.4, 10.3]], dtype=torch.float64
)


def kept(points, beta):
    return exemplars(similarities(points), beta).kept.tolist()


def structured(*shape, seed=0, copies=4):
    """Filters near a few centres of different norms, so that there is something to cluster."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(-(-shape[0] // copies), *shape[1:], generator=generator)
    centres *= torch.randn(len(centres), *[1] * (len(shape) - 1), generator=generator).exp()
    noise = 0.05 * torch.randn(shape, generator=generator)
    return centres.repeat_interleave(copies, 0)[: shape[0]] + noise


def clustered(name):
    """A tiny network with such filters in all its layers."""
    model, example = network(name)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.ndim > 1:
                parameter.copy_(structured(*parameter.shape, seed=number))
    return model, example


def test_preferences_are_medians_of_columns():
    medians = np.median(similarities(POINTS), axis=0)
    expected = [-101.125, -92.125, -87.75, -87.25, -98.25, -101.625, -93.925, -93.6]
    np.testing.assert_allclose(medians, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.001, [0, 1, 2, 3, 4, 5, 6, 7]),
        (0.005, [2, 5, 6, 7]),
        (0.01, [2, 5, 6, 7]),
        (0.05, [6, 7]),
        (0.1, [6, 7]),
        (0.3, [3, 6]),
        (0.5, [3, 6]),
        (0.73, [3, 6]),
        (1, [2, 3]),
        (2, [2, 3]),
    ],
)
def test_golden_exemplars(beta, expected):
    assert kept(POINTS, beta) == expected


def test_golden_clusters():
    assert exemplars(similarities(POINTS), 0.73).of.tolist() == [6, 6, 6, 3, 3, 3, 6, 3]


def test_what_does_not_matter():
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert sorted(order[kept(POINTS[order], 0.73)].tolist()) == [3, 6]
    turn = torch.tensor(0.7)
    rotation = torch.tensor([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]]).double()
    for points in (3.7 * POINTS, POINTS + torch.tensor([40.0, -7.0]), POINTS @ rotation):
        assert kept(points, 0.73) == [3, 6]


def test_a_smaller_beta_never_gives_fewer_exemplars():
    counts = [len(kept(POINTS, beta)) for beta in (0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.73, 1, 2)]
    assert counts == sorted(counts, reverse=True)


def test_degenerate_filters():
    assert kept(POINTS[:1], 1.0) == [0]
    assert kept(POINTS[:2], 1.9) == [0, 1]  # two filters: all similarities are equal, the preference is beta / 2 of it
    assert len(kept(POINTS[:2], 2.1)) == 1
    assert len(kept(torch.ones(6, 3), 0.73)) == 1  # equal filters are one
    generator = torch.Generator().manual_seed(0)
    assert len(kept(torch.randn(64, 1000, generator=generator), 0.6)) == 64  # equidistant ones all stay


def test_merits_put_exemplars_first_and_large_clusters_before_small_ones():
    similarity = similarities(torch.cat([POINTS, torch.tensor([[50.0, 50.0]]).double()]))
    found = exemplars(similarity, 0.1)
    merit = merits(similarity, found)
    best = np.argsort(-merit)[: len(found.kept)]
    assert sorted(best) == found.kept.tolist()
    sizes = [(found.of == exemplar).sum() for exemplar in best]
    assert sizes == sorted(sizes, reverse=True) and 8 in best and merit.max() <= 2 and merit.min() >= 0


def test_the_network_has_exactly_the_exemplars():
    model, example = clustered("plain")
    space = Space.trace(model, example, divisor=1)
    proposal = EPruner(beta=0.73).propose(Request(model, space, {}))
    expected = [kept(torch.cat([layer.weight.detach().flatten(1)], 1), 0.73) for layer in (model.conv1, model.conv2)]
    assert list(proposal.candidate) == [len(one) for one in expected]
    assert 1 < proposal.candidate[0] < 8 and 1 < proposal.candidate[1] < 16
    indices = cut(space, proposal.candidate, proposal.scores).kept
    assert indices["conv1.weight"][0].tolist() == expected[0] and indices["conv2.weight"][1].tolist() == expected[0]
    small = realised(model, space, proposal)
    assert torch.equal(small.conv1.weight, model.conv1.weight[expected[0]])  # bit for bit
    assert torch.equal(small.conv2.weight, model.conv2.weight[expected[1]][:, expected[0]])
    assert torch.equal(small.fc.weight, model.fc.weight[:, expected[1]])
    for norm in (small.bn1, small.bn2):
        assert (norm.weight == 1).all() and (norm.bias == 0).all()
        assert (norm.running_mean == 0).all() and (norm.running_var == 1).all()
    assert (small.conv2.bias == 0).all() and torch.equal(small.fc.bias, model.fc.bias)
    assert not proposal.notes["over_budget"] and not proposal.notes["added"]


def test_a_stream_may_be_left_whole():
    model, example = clustered("residual")
    space = Space.trace(model, example, divisor=1)
    proposal = EPruner(beta=0.73, coupled=False).propose(Request(model, space, {}))
    small = realised(model, space, proposal)
    assert small.stem.weight.shape == model.stem.weight.shape and small.head.weight.shape == model.head.weight.shape
    assert small.layer1[0].conv1.weight.shape[0] < model.layer1[0].conv1.weight.shape[0]
    assert set(proposal.notes["whole"]) == {"stem", "layer2.0.conv2"}
    assert torch.equal(small.bn.weight, model.bn.weight)  # of a layer that is not pruned
    assert (small.layer1[0].bn1.weight == 1).all()
    coupled = EPruner(beta=0.73).propose(Request(model, space, {}))
    members = [model.stem, *(block.conv2 for block in model.layer1)]
    stream = torch.cat([layer.weight.detach().flatten(1) for layer in members], 1)
    assert coupled.notes["exemplars"]["stem"] == len(kept(stream, 0.73))


def test_inherited_weights_on_request():
    model, example = clustered("plain")
    space = Space.trace(model, example, divisor=1)
    method = EPruner(beta=0.73, reinitialise=False)
    proposal = method.propose(Request(model, space, {}))
    assert method.weights == "inherited" and proposal.weights is None
    assert proposal.candidate == EPruner(beta=0.73).propose(Request(model, space, {})).candidate


def test_betas_of_single_layers():
    model, example = clustered("plain")
    space = Space.trace(model, example, divisor=1)
    both = EPruner(beta=0.73, betas={"conv1": 1e-6}).propose(Request(model, space, {}))
    assert (
        both.candidate[0] == 8
        and both.candidate[1] == EPruner(beta=0.73).propose(Request(model, space, {})).candidate[1]
    )
    with pytest.raises(ValueError, match="betas name 'conv9'"):
        EPruner(betas={"conv9": 1.0}).propose(Request(model, space, {}))
    with pytest.raises(ValueError, match="beta=0"):
        EPruner(beta=0)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_bisection_meets_the_budget_with_exemplars_only(share):
    model, example = clustered("residual")
    space = Space.trace(model, example, divisor=1)
    limits = {"macs": share * space.full_costs["macs"]}
    proposal = EPruner().propose(Request(model, space, limits))
    assert float(space.cost_table([proposal.candidate])["macs"][0]) <= limits["macs"]
    assert not proposal.notes["over_budget"]
    assert list(proposal.candidate[: len(space.groups)]) == list(proposal.notes["exemplars"].values())


def test_a_fixed_beta_over_the_budget_loses_more_and_says_so(caplog):
    model, example = clustered("plain")
    space = Space.trace(model, example, divisor=1)
    limits = {"macs": 0.1 * space.full_costs["macs"]}
    with caplog.at_level("INFO", "secateur"):
        proposal = EPruner(beta=0.01).propose(Request(model, space, limits))
    assert float(space.cost_table([proposal.candidate])["macs"][0]) <= limits["macs"]
    assert proposal.notes["over_budget"] and "smallest clusters" in caplog.text
    freely = EPruner(beta=0.01).propose(Request(model, space, {})).candidate
    assert all(width <= free for width, free in zip(proposal.candidate, freely, strict=True))


def test_widths_that_are_not_legal_are_filled_up():
    model, example = clustered("plain")
    space = Space.trace(model, example, divisor=4)
    proposal = EPruner(beta=0.73).propose(Request(model, space, {}))
    counts, added = proposal.notes["exemplars"], proposal.notes["added"]
    for number, group in enumerate(space.groups):
        assert proposal.candidate[number] == counts[group.name] + added.get(group.name, 0)
        assert proposal.candidate[number] in group.widths
    least = EPruner(beta=2.0, least=8).propose(Request(model, space, {})).candidate
    assert min(least) == 8


def test_messages_that_swing_are_damped_more():
    angle = torch.arange(8).double() * torch.pi / 4  # on a ring every point is as good an exemplar as the others
    found = exemplars(similarities(torch.stack([angle.cos(), angle.sin()], 1)), 0.73)
    assert found.damping == 0.7 and len(found.kept) == 2


def test_messages_that_do_not_converge_keep_all():
    found = exemplars(similarities(POINTS), 0.73, iterations=3)
    assert found.damping is None and len(found.kept) == 8
    model, example = clustered("plain")
    space = Space.trace(model, example, divisor=1)
    limits = {"macs": 0.5 * space.full_costs["macs"]}
    proposal = EPruner(iterations=3).propose(Request(model, space, limits))
    assert proposal.notes["not_converged"] == ["conv1", "conv2"] and proposal.notes["over_budget"]
    assert float(space.cost_table([proposal.candidate])["macs"][0]) <= limits["macs"]


def test_filters_that_are_not_finite_are_refused():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=1)
    nn.init.constant_(model.conv1.weight, float("nan"))
    with pytest.raises(ValueError, match="conv1 are not all finite"):
        EPruner(beta=0.73).propose(Request(model, space, {}))
