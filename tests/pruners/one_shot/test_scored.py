"""One threshold over normalised scores, minimum widths, ties, and the methods without a criterion."""

import pytest
import torch
from networks import network
from torch import nn

from secateur.pruners import METHODS, Even, Request, Scored, criterion, l2
from secateur.spaces import NORMALISATIONS, Space, normalised, threshold_family


@pytest.fixture(scope="module")
def traced():
    model, example = network("residual")
    return model, Space.trace(model, example, divisor=1)


def macs(space, candidate):
    return float(space.costs([candidate])["macs"].iloc[0])


def test_normalisations_by_hand(traced):
    _, space = traced
    scores = {group.name: torch.arange(1.0, group.units + 1) * (i + 1) for i, group in enumerate(space.groups)}
    for group in space.groups:
        assert normalised(space, scores, "mean")[group.name].mean() == pytest.approx(1)
        assert normalised(space, scores, "max")[group.name].max() == pytest.approx(1)
        assert torch.equal(normalised(space, scores, "none")[group.name], scores[group.name])
    group = space.groups[0]  # a unit less of the first group, counted by the costs
    fewer = list(space.full)
    fewer[0] -= group.unit
    each = macs(space, space.full) - macs(space, fewer)
    torch.testing.assert_close(normalised(space, scores, "macs")[group.name], scores[group.name] / each)
    with pytest.raises(ValueError, match="normalise='median'"):
        normalised(space, scores, "median")


def test_lamp_by_hand(traced):
    # of 3, 1 and 2: squares 9, 1, 4, divided by what is as large or larger: 9/9, 1/14, 4/13
    _, space = traced
    found = normalised(space, {"one": torch.tensor([3.0, 1.0, 2.0])}, "lamp")["one"]
    torch.testing.assert_close(found, torch.tensor([1.0, 1 / 14, 4 / 13]).double())


def test_groups_of_one_kind_share_a_ranking_and_others_have_their_own():
    layers = [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)]
    space = Space.trace(nn.Sequential(*layers).eval(), torch.zeros(1, 3), divisor=1)
    given = {"0": torch.tensor([5.0, 1.0, 7.0, 3.0]), "2": torch.tensor([2.0, 6.0]), "4": torch.tensor([9.0, 8.0, 0.0])}
    found = normalised(space, given, "isomorphic")
    expected = {"0": [4 / 6, 1 / 6, 1, 3 / 6], "2": [2 / 6, 5 / 6], "4": [1, 2 / 3, 1 / 3]}  # tanh is another kind
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(values).double())


def test_synflow_takes_rounds():
    one, many = METHODS["synflow"](rounds=1), METHODS["synflow"]()
    assert (one.rounds, many.rounds, many.normalise, one.name) == (1, 100, "none", "synflow")
    with pytest.raises(ValueError, match="rounds"):
        METHODS["synflow"](rounds=0)


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_a_normalisation_changes_the_allocation_and_not_the_budget(traced, how):
    model, space = traced
    limit = 0.4 * macs(space, space.full)
    proposal = Scored(criterion=l2, normalise=how).propose(Request(model, space, {"macs": limit}))
    assert 0.3 * macs(space, space.full) < macs(space, proposal.candidate) <= limit


def test_of_equal_scores_the_lowest_of_each_group_go_evenly(traced):
    _, space = traced
    scores = {group.name: torch.ones(group.units) for group in space.groups}
    family = threshold_family(space, scores)
    for row in family:
        shares = [width / group.width for width, group in zip(row, space.groups, strict=False)]
        assert max(shares) - min(shares) <= 1 / 8 + 1e-9  # one channel of the narrowest group
    assert (family[0][: len(space.groups)] == [group.width for group in space.groups]).all()
    assert (family[-1][: len(space.groups)] == 1).all()


@pytest.mark.parametrize("method", ["l1", "uniform", "layer-wise", "ranp-f", "epruner", "taylor"])
def test_every_group_keeps_its_least_width(traced, method):
    from pruning import examples_for

    model, space = traced
    limit = {"macs": 0.3 * macs(space, space.full)}
    pruner = METHODS[method](least=4)
    proposal = pruner.propose(
        Request(model, space, limit, examples=examples_for(model, torch.zeros(1, 3, 12, 12).double()))
    )
    widths = proposal.candidate[: len(space.groups)]
    assert min(widths) >= 4 and macs(space, proposal.candidate) <= limit["macs"]


def test_a_least_width_that_no_budget_allows_is_refused(traced):
    model, space = traced
    for method in ("l1", "uniform"):
        with pytest.raises(ValueError, match="at least 8 channels in every group"):
            METHODS[method](least=8).propose(Request(model, space, {"macs": 0.2 * macs(space, space.full)}))


def test_layer_wise_keeps_the_same_share_rounded_up(traced):
    """Every group keeps ceil(units * ratio) for one ratio."""
    model, space = traced
    candidate = (
        Even(name="layer-wise").propose(Request(model, space, {"macs": 0.5 * macs(space, space.full)})).candidate
    )
    ratios = [
        ((width - 1) / group.width, width / group.width) for width, group in zip(candidate, space.groups, strict=False)
    ]
    assert max(low for low, _ in ratios) < min(high for _, high in ratios)


def test_depth_and_resolution_are_taken_from_the_call():
    model, example = network("residual")
    space = Space.trace(model, example, divisor=1, resolutions=(12, 8))
    full = macs(space, space.full)
    for method in ("l2", "uniform", "layer-wise"):
        candidate = (
            METHODS[method]().propose(Request(model, space, {"macs": full}, depth=0.5, resolution=0.7)).candidate
        )
        assert candidate[-1] == 0 and sum(candidate[len(space.groups) : -1]) < sum(space.full[len(space.groups) : -1])


@pytest.mark.parametrize(("value", "said"), [(float("inf"), "not all finite"), (3.0, "the same score, 3")])
def test_scores_of_no_use(traced, value, said):
    model, space = traced

    @criterion("mine")
    def mine(model, space, examples=None):
        return {group.name: torch.full((group.units,), value) for group in space.groups}

    with pytest.raises(ValueError, match=f"mine.*{said}"):
        Scored(criterion=mine).propose(Request(model, space, {"macs": 0.5 * macs(space, space.full)}))
