"""Units of one function in one cluster, of which one stays."""

import numpy as np
import pytest
import torch
from networks import network
from pruning import examples_for
from torch import nn

from secateur.pruners import Request
from secateur.pruners.one_shot.functionality import Functionality, functions, order_of_removal
from secateur.pruners.one_shot.patterns import contributions, patterns
from secateur.spaces import Space, cut


def duplicated():
    """The filters of the first layer are three, each several times: units 0-3, 4-5 and 6-7."""
    model, example = network("plain")
    with torch.no_grad():
        for tensor in (model.conv1.weight, model.bn1.weight, model.bn1.bias, model.bn1.running_mean):
            tensor.copy_(tensor[[0, 0, 0, 0, 1, 1, 2, 2]])
        model.bn1.running_var.copy_(model.bn1.running_var[[0, 0, 0, 0, 1, 1, 2, 2]])
    return model, example


def seek(model, space, number=0, **settings):
    settings = {"steps": 5, "rate": 0.2, "batch": 64, "seed": 0} | settings
    return patterns(model, space, space.groups[number], **settings)


def test_duplicates_have_one_pattern_and_one_of_them_stays():
    model, example = duplicated()
    space = Space.trace(model, example, divisor=1)
    found = seek(model, space)
    assert found.shape == (8, 3 * 12 * 12)
    torch.testing.assert_close(found[0], found[3])
    labels = functions(found, None)
    assert len(set(labels[:4])) == len(set(labels[4:6])) == len(set(labels[6:])) == 1 and len(set(labels)) == 3
    examples = examples_for(model, example)
    index = contributions(model, space, examples)["conv1"]
    limits = {"macs": float(space.cost_table([(3, 16)])["macs"][0])}
    proposal = Functionality(clusters=3).propose(Request(model, space, limits, examples=examples))
    assert proposal.notes["clusters"]["conv1"] == 3 and not proposal.notes["over_budget"]
    best = [max(units, key=lambda unit: float(index[unit])) for units in ([0, 1, 2, 3], [4, 5], [6, 7])]
    kept = cut(space, proposal.candidate, proposal.scores).kept["conv1.weight"][0].tolist()
    assert set(best) <= set(kept)
    if proposal.candidate[0] == 3:
        assert kept == sorted(best)


def test_a_pattern_raises_the_activation():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=1)
    few, many = seek(model, space, steps=1), seek(model, space, steps=20)

    def activation(found):
        with torch.no_grad():
            return model.conv1(found.reshape(8, 3, 12, 12)).mean((2, 3)).diagonal()

    assert (activation(many) > activation(few)).all()
    torch.testing.assert_close(seek(model, space, batch=3), seek(model, space))
    assert not torch.equal(seek(model, space, seed=1), seek(model, space))


def test_contribution_by_hand():
    # y = max of the two outputs; images 1 and -1: hidden (1, 2) and (-1, -2), outputs (1 * 3, 2 * 5) and minus those.
    # The largest is the second output, then the first: |dy/dA| is (0, 5), then (3, 0); means 1.5 and 2.5
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [2.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 5.0]]))
    space = Space.trace(model, torch.ones(1, 1).double(), divisor=1)
    examples = examples_for(model, torch.ones(1, 1).double())
    images = torch.tensor([[1.0], [-1.0]]).double()
    one = type(examples)(batches=[(images, None)])
    assert contributions(model, space, one)["0"].tolist() == [1.5, 2.5]


def test_order_of_removal():
    # a cluster of four and one of two; shares 1/4, 2/4, 3/4 take one unit each out of the first, 1/2 one of the second
    scores = order_of_removal(np.array([0, 0, 0, 0, 1, 1]), np.array([4.0, 1.0, 2.0, 3.0, 0.5, 1.0]))
    np.testing.assert_allclose(scores, [1.001 + 1, 0.25, 0.5, 0.75, 0.5, 1.001 + 0.25])


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_every_cluster_keeps_one_unit(share):
    model, example = network("residual")
    space = Space.trace(model, example, divisor=1)
    limits = {"macs": share * space.full_costs["macs"]}
    method = Functionality(clusters=2)
    proposal = method.propose(Request(model, space, limits, examples=examples_for(model, example)))
    assert not proposal.notes["over_budget"]
    for number, group in enumerate(space.groups):
        labels = functions(seek(model, space, number), 2)
        ranked = proposal.scores[group.name].argsort(descending=True, stable=True)
        kept = labels[ranked[: proposal.candidate[number]].numpy()]
        assert set(kept) == set(labels)


def test_a_budget_below_one_unit_of_each_cluster_is_met_all_the_same(caplog):
    model, example = network("plain")
    space = Space.trace(model, example, divisor=1)
    limits = {"macs": 0.1 * space.full_costs["macs"]}
    with caplog.at_level("INFO", "secateur"):
        proposal = Functionality(clusters=7).propose(
            Request(model, space, limits, examples=examples_for(model, example))
        )
    assert proposal.notes["over_budget"] and "too much for the limits" in caplog.text
    assert float(space.cost_table([proposal.candidate])["macs"][0]) <= limits["macs"]


def test_clusters_of_few_or_equal_patterns():
    assert functions(torch.ones(5, 3), None).tolist() == [0] * 5
    assert functions(torch.tensor([[0.0], [1.0]]), None).tolist() == [0, 1]
    assert functions(torch.tensor([[2.0], [2.0]]), None).tolist() == [0, 0]
    assert len(set(functions(torch.arange(10.0)[:, None] ** 1.5, 4))) == 4


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.hidden, self.out = nn.Embedding(7, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.hidden(self.words(x)).relu().mean(1))


def test_integer_inputs_have_no_patterns():
    model = Words()
    space = Space.trace(model, torch.zeros(1, 5, dtype=torch.int64), divisor=1)
    batches = [(torch.randint(0, 7, (4, 5), generator=torch.Generator().manual_seed(0)), None)]
    limits = {"macs": 0.5 * space.full_costs["macs"]}
    examples = examples_for(model, torch.zeros(1, 5))
    proposal = Functionality().propose(Request(model, space, limits, examples=type(examples)(batches=batches)))
    assert "hidden" in proposal.notes["without_patterns"]


def test_settings_are_checked():
    for settings in ({"steps": 0}, {"clusters": 0}, {"rate": 0}, {"batch": 0}):
        with pytest.raises(ValueError, match="=0"):
            Functionality(**settings)
