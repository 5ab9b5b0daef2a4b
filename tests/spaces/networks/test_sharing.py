"""A shared network computes as the built one does, and its gradients are the built one's, put where they came from."""

import pytest
import torch
from constructs import CONSTRUCTS
from networks import NETWORKS, network
from scattered import flat
from torch import nn

from secateur.spaces import Space, build, channel_map, named_tensors
from secateur.spaces.graph.network import as_call
from secateur.spaces.networks.sharing import Shared

RECURRENT = [name for name, one in CONSTRUCTS.items() if "lstm" in name.lower() or "gru" in name.lower()]


def call(model, example):
    args, kwargs = as_call(example)
    return flat(model(*args, **kwargs))


def loss(model, example):
    return sum(
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum() for output in call(model, example)
    )


def scattered(model, small, kept):
    """Gradients of a built network as the full network's would be."""
    full = named_tensors(model)
    found = {}
    for name, parameter in small.named_parameters(remove_duplicate=False):
        if parameter.grad is None:
            continue
        index = torch.zeros(full[name].shape, dtype=torch.long)
        place = torch.arange(index.numel()).view(index.shape)
        for axis, indices in kept.get(name, {}).items():
            place = place.index_select(axis, indices)
        gradient = torch.zeros_like(full[name]).flatten()
        gradient[place.flatten()] = parameter.grad.flatten()
        found[name] = gradient.view_as(full[name])
    return found


def check(model, example, space, *, training):
    model.train(training)
    chosen = [space.full, space.smallest, space.uniform(0.5, depth=0.5), *space.sample(2, seed=1)]
    for candidate in dict.fromkeys(chosen):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        small, shared = build(model, space, candidate), Shared(model, space).network(candidate)
        assert type(shared) is type(small) or space.as_graph
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss(small, example).backward()
            torch.manual_seed(0)
            loss(shared, example).backward()
        with torch.no_grad():
            for got, want in zip(call(shared, example), call(small, example), strict=True):
                assert float((got - want).abs().max()) <= 1e-10 * max(1.0, float(want.abs().max()))
        wanted = scattered(model, small, channel_map(space, candidate))
        given = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
        assert given.keys() == wanted.keys() and given
        for name, gradient in given.items():
            assert torch.allclose(gradient, wanted[name], rtol=1e-10, atol=1e-10), name
        assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
        model.zero_grad()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_shared_network_is_the_built_one_with_borrowed_parameters(name):
    model, example = network(name)
    check(model, example, Space.trace(model, example, divisor=2), training=False)


@pytest.mark.parametrize("name", ["residual", "branchy", "shared"])
def test_in_training_too(name):
    model, example = network(name)
    example = {k: v.repeat(3, 1, 1, 1) for k, v in example.items()} if isinstance(example, dict) else example
    example = example if isinstance(example, dict) else example.repeat(3, 1, 1, 1)
    check(model, example, Space.trace(model, example, divisor=2), training=True)


@pytest.mark.parametrize("name", ["residual", "literal", "chunked"])
def test_as_a_graph_too(name):
    model, example = network(name)
    check(model, example, Space.trace(model, example, divisor=2, as_graph=True), training=False)


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_recurrent_networks_borrow_too(name):
    model, example = CONSTRUCTS[name].network()
    check(model, example, Space.trace(model, example, divisor=1), training=False)


def test_frozen_parameters_stay_without_a_gradient():
    model, example = network("plain")
    model.conv1.weight.requires_grad_(False)
    space = Space.trace(model, example, divisor=2)
    shared = Shared(model, space).network(space.uniform(0.5))
    loss(shared, example).backward()
    assert model.conv1.weight.grad is None and model.conv2.weight.grad is not None


def test_the_scores_say_which_channels_are_shared():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=2)
    scores = {group.name: torch.arange(group.units, dtype=torch.float32) for group in space.groups}
    loss(Shared(model, space, scores).network(space.uniform(0.5)), example).backward()
    touched = model.conv1.weight.grad.flatten(1).abs().sum(1) > 0
    assert touched.tolist() == [False] * 4 + [True] * 4


def test_a_network_of_another_kind_is_refused():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=2)
    with pytest.raises(ValueError, match="does not fit"):
        Shared(nn.Conv2d(3, 3, 1), space).network(space.full)
    with pytest.raises(ValueError, match="is no choice"):
        Shared(model, space).network((3, 16))
