"""Every method on every tiny network: legal, within budget, built, and with the weights it promises."""

import copy
from functools import cache

import pytest
import tasks
import torch
from networks import NETWORKS, network
from pairs import quick_in, quick_some
from pruning import examples_for, propose

from secateur.evaluators import Training
from secateur.pruners import METHODS, TrainingPruner, realised
from secateur.spaces import Space, build
from secateur.testing import PrunerContract


@cache
def prepared(name, as_graph=False):
    """Network, space and examples; traced once."""
    model, example = network(name)
    return model, Space.trace(model, example, divisor=2, as_graph=as_graph), examples_for(model, example)


class EveryMethod(PrunerContract):
    tolerance = 1e-10  # the networks are in float64
    network, as_graph = "residual", False

    def method(self):
        pruner = METHODS[self.name]()
        assert pruner.name == self.name
        return pruner

    def subject(self):
        return prepared(self.network, self.as_graph)

    def task(self):
        return tasks.classification(train=48, classes=5)


def every_method(method, **changes):
    suite = EveryMethod()
    vars(suite).update(name=method, **changes)
    return suite


class TestEveryMethod(EveryMethod):
    @pytest.fixture(autouse=True, params=METHODS)
    def chosen(self, request):
        self.name = request.param


@pytest.mark.parametrize(("method", "network"), quick_in(1 / 3, METHODS, NETWORKS))
def test_every_method_on_every_network(method, network):
    every_method(method, network=network).test_its_network_keeps_every_promise()


@pytest.mark.parametrize("method", quick_some(1 / 2, METHODS))
def test_every_method_on_a_graph(method):
    """Where channel numbers written in the forward follow, networks are graphs; weights have the same names."""
    suite = every_method(method, network="literal", as_graph=True)
    suite.test_its_network_keeps_every_promise()
    model, space, _ = suite.subject()
    assert isinstance(build(model, space, space.uniform(0.5)), torch.fx.GraphModule)


@pytest.mark.parametrize("method", [name for name, make in METHODS.items() if isinstance(make(), TrainingPruner)])
def test_resuming_is_bit_identical_with_adamw(method):
    suite = every_method(method, training=Training(optimizer="adamw", lr=0.01))
    suite.test_a_training_that_is_cut_short_goes_on_bit_by_bit()


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_where_the_network_is(method):
    model, space, examples = prepared("residual")
    limits = {"macs": 0.5 * space.full_costs["macs"]}
    proposal = propose(METHODS[method](), copy.deepcopy(model).cuda(), space, limits, examples)
    assert space.costs([proposal.candidate])["macs"].iloc[0] <= limits["macs"]
    small, inputs = space.call(realised(model, space, proposal).eval(), proposal.candidate)
    assert small(*inputs).isfinite().all()
