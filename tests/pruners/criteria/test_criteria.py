"""Every criterion on every tiny network, and hand examples."""

from functools import cache

import pytest
import torch
from networks import NETWORKS, network
from pairs import quick_in
from pruning import examples_for
from torch import nn

from secateur.pruners import CRITERIA, Examples, criterion, l1, l2, shuffled
from secateur.spaces import Space
from secateur.testing import CriterionContract


class TestEveryCriterion(CriterionContract):
    @pytest.fixture(
        autouse=True,
        params=[
            pytest.param(one.values, marks=one.marks, id="-".join(one.values))
            for one in quick_in(1 / 3, CRITERIA, NETWORKS)
        ],
    )
    def chosen(self, request):
        self.name, self.network = request.param

    def criterion(self):
        return CRITERIA[self.name]

    def subject(self):
        return traced(self.network)


@cache
def traced(name):
    model, example = network(name)
    return model, Space.trace(model, example, divisor=2), examples_for(model, example)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_default_ranking_is_l2(name):
    model, space, _ = traced(name)
    for group, values in l2(model, space).items():
        torch.testing.assert_close(values, space.default_scores[group], rtol=1e-5, atol=1e-6)


def test_hand_example():
    # two channels: weights (3, 4) and (1, -2), biases 0 and 2; the consumer's columns are 1 and -1
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [1.0, -2.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 2.0]))
        model[1].weight.copy_(torch.tensor([[1.0, -1.0]]))
    space = Space.trace(model, torch.zeros(1, 2), divisor=1)
    assert l1(model, space)["0"].tolist() == [3 + 4 + 0 + 1, 1 + 2 + 2 + 1]
    torch.testing.assert_close(l2(model, space)["0"], torch.tensor([26.0, 10.0]).sqrt())


def test_random_scores_are_seeded():
    model, example = network("plain")
    space = Space.trace(model, example)
    assert torch.equal(shuffled(1)(model, space)["conv1"], shuffled(1)(model, space)["conv1"])
    assert not torch.equal(shuffled(1)(model, space)["conv1"], shuffled(2)(model, space)["conv1"])


def test_a_criterion_says_what_it_needs():
    model, example = network("plain")
    space = Space.trace(model, example)

    @criterion("fake", needs="labels")
    def score(model, space, examples=None):
        return space.default_scores

    batches = [(example, None)]
    with pytest.raises(ValueError, match="give examples"):
        score(model, space)
    with pytest.raises(ValueError, match="needs labels"):
        score(model, space, Examples(batches=batches))
    assert score(model, space, Examples(batches=batches, loss=lambda outputs, targets: outputs)) is space.default_scores
