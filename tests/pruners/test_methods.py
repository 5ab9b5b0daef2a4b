"""Every method on every tiny network: legal, within budget, built, and with the weights it promises."""

import copy

import pytest
import torch
from networks import NETWORKS, network
from pruning import examples_for, flat, propose, proposed

from secateur.pruners import METHODS, Examples, Request, TrainingPruner, realised
from secateur.spaces import Space, build, verify

SPACES = {}


def prepared(name):
    """Network, example, space and examples; traced once."""
    if name not in SPACES:
        model, example = network(name)
        space = Space.trace(model, example, divisor=2)
        SPACES[name] = model, example, space, examples_for(model, example)
    return SPACES[name]


def run(model, example):
    with torch.no_grad():
        return flat(model(**example) if isinstance(example, dict) else model(example))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_every_network(method, name):
    model, example, space, examples = prepared(name)
    before = copy.deepcopy(model.state_dict())
    pruner = METHODS[method]()
    assert pruner.name == method
    low, high = (int(space.costs([c])["macs"].iloc[0]) for c in (space.smallest, space.full))
    limits = {"macs": low + 0.4 * (high - low)}
    proposal, trained = proposed(pruner, model, space, limits, examples)
    assert space.check(proposal.candidate) == space.canonical(proposal.candidate) == proposal.candidate
    assert space.costs([proposal.candidate])["macs"].iloc[0] <= limits["macs"]
    small = realised(model, space, proposal).eval()
    outputs = run(small, example)
    assert outputs.isfinite().all() and outputs.shape == run(model, example).shape
    if proposal.weights is None:
        assert verify(model, space, proposal.candidate, example, proposal.scores) < 1e-10
    if pruner.weights == "trained":  # the network that the training ended with, cut
        assert verify(trained, space, proposal.candidate, example, proposal.scores) < 1e-10
        for key, value in build(trained, space, proposal.candidate, proposal.scores).state_dict().items():
            assert torch.equal(value, small.state_dict()[key]), key
    assert (pruner.weights == "inherited") == (proposal.weights is None)
    assert not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_a_graph(method):
    """Where channel numbers written in the forward follow, networks are graphs; weights have the same names."""
    model, example = network("literal")
    space = Space.trace(model, example, divisor=2, as_graph=True)
    limits = {"macs": 0.6 * float(space.costs([space.full])["macs"].iloc[0])}
    proposal = propose(METHODS[method](), model, space, limits, examples_for(model, example))
    assert space.costs([proposal.candidate])["macs"].iloc[0] <= limits["macs"]
    small = realised(model, space, proposal).eval()
    assert isinstance(small, torch.fx.GraphModule) and run(small, example).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_seeded(method):
    model, example, space, examples = prepared("residual")
    limits = {"macs": 0.5 * float(space.costs([space.full])["macs"].iloc[0])}
    one, two = (propose(METHODS[method](), model, space, limits, examples, seed=3) for _ in range(2))
    assert one.candidate == two.candidate
    for group in space.groups:
        assert torch.equal(one.scores[group.name], two.scores[group.name])
    for key in one.weights or {}:
        assert torch.equal(one.weights[key], two.weights[key])


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_out_of_reach_is_refused(method):
    model, example, space, examples = prepared("plain")
    with pytest.raises(ValueError, match=r"macs=1 .*reachable|smallest"):
        propose(METHODS[method](), model, space, {"macs": 1.0}, examples)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_needs_is_asked_for(method):
    model, example, space, examples = prepared("plain")
    pruner = METHODS[method]()
    if isinstance(pruner, TrainingPruner) or pruner.needs == "nothing":
        return
    limits = {"macs": float(space.costs([space.full])["macs"].iloc[0]) / 2}
    with pytest.raises(ValueError, match=f"{method} needs {pruner.needs}"):
        pruner.propose(Request(model, space, limits))
    if pruner.needs == "labels":
        with pytest.raises(ValueError, match="needs labels"):
            pruner.propose(Request(model, space, limits, examples=Examples(batches=examples.batches)))


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_where_the_network_is(method):
    model, example, space, examples = prepared("residual")
    limits = {"macs": 0.5 * float(space.costs([space.full])["macs"].iloc[0])}
    proposal = propose(METHODS[method](), copy.deepcopy(model).cuda(), space, limits, examples)
    assert space.costs([proposal.candidate])["macs"].iloc[0] <= limits["macs"]
    assert run(realised(model, space, proposal).eval(), example).isfinite().all()
