"""The test that matters most: a built network equals the full one with exactly the removed channels zeroed."""

import copy

import numpy as np
import pytest
import torch
from networks import NETWORKS, Norms, image, network
from torch import nn

from secateur.spaces import Space, assemble, build, channel_map, cut, named_tensors
from secateur.spaces.graph.network import as_call
from secateur.spaces.networks.build import stays


def call(model, example):
    args, kwargs = as_call(example)
    return flat(model(*args, **kwargs))


def flat(outputs):
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    if isinstance(outputs, tuple):
        return [tensor for output in outputs for tensor in flat(output)]
    return [outputs]


def masked(model, space, candidate):
    """The full network: removed channels zeroed in every slot, removed blocks the identity."""
    model = copy.deepcopy(model)
    kept = stays(space, candidate, None)
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, axes in space.slots.items():
            for axis, ids in axes.items():
                gone = torch.from_numpy(np.flatnonzero(~kept[ids]))
                tensors[name].index_fill_(axis, gone, 0)
    for name in space.removed(candidate):
        model.set_submodule(name, nn.Identity())
    return model


def candidates(space):
    found = [space.full, space.smallest, space.uniform(0.5), space.uniform(0.5, depth=0.5)]
    return dict.fromkeys([*found, *space.sample(6, seed=1)])


@pytest.fixture(scope="module", params=NETWORKS)
def traced(request):
    model, example = network(request.param)
    return request.param, model, example, Space.trace(model, example, divisor=2)


def test_built_equals_masked(traced):
    _, model, example, space = traced
    assert space.groups
    for candidate in candidates(space):
        small = build(model, space, candidate)
        with torch.no_grad():
            for got, want in zip(call(small, example), call(masked(model, space, candidate), example), strict=True):
                assert got.shape == want.shape
                assert float((got - want).abs().max()) <= 1e-10 * max(1.0, float(want.abs().max()))


def test_removing_nothing_changes_nothing(traced):
    _, model, example, space = traced
    same = build(model, space, space.full)
    assert type(same) is type(model)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(call(same, example), call(model, example), strict=True))
    assert channel_map(space, space.full) == {}
    for name, tensor in named_tensors(same).items():
        assert tensor.is_contiguous() and tensor.data_ptr() != named_tensors(model)[name].data_ptr()


def test_the_channel_map_is_what_build_keeps(traced):
    _, model, _, space = traced
    candidate = space.sample(3, seed=2)[-1]
    small = named_tensors(build(model, space, candidate))
    mapped = channel_map(space, candidate)
    for name, tensor in small.items():
        expected = named_tensors(model)[name].detach()
        for axis, indices in mapped.get(name, {}).items():
            expected = expected.index_select(axis, indices)
        assert torch.equal(tensor, expected)
    gone = tuple(f"{name}." for name in space.removed(candidate))
    assert set(small) == {name for name in named_tensors(model) if not name.startswith(gone)}


def test_gradients_flow_and_the_model_is_untouched(traced):
    _, model, example, space = traced
    before = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    small = build(model, space, space.smallest).train()
    sum(output.square().sum() for output in call(small, example)).backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in small.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in named_tensors(model).items())
    assert all(p.grad is None for p in model.parameters()) and not model.training


def test_the_record_rebuilds_the_network_without_a_trace(traced):
    _, model, example, space = traced
    candidate = space.uniform(0.5, depth=0.5)
    small = build(model, space, candidate)
    changes = cut(space, candidate)
    again = assemble(copy.deepcopy(model), named_tensors(small), changes.attributes, changes.removed)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(call(again, example), call(small, example), strict=True))


def test_other_scores_keep_other_channels():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=2)
    scores = {group.name: torch.arange(group.units, dtype=torch.float32) for group in space.groups}
    kept = channel_map(space, space.uniform(0.5), scores)
    assert kept["conv1.weight"][0].tolist() == [4, 5, 6, 7]
    assert kept["conv2.weight"][1].tolist() == [4, 5, 6, 7]
    scores["conv1"].neg_()  # changed in place: what counts is what they are now
    assert channel_map(space, space.uniform(0.5), scores)["conv1.weight"][0].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="one a unit"):
        build(model, space, space.full, {group.name: torch.ones(3) for group in space.groups})
    with pytest.raises(ValueError, match="lack"):
        build(model, space, space.full, {})


def test_modes_dtype_and_gradient_flags_are_kept():
    model, example = network("residual")
    model.train()
    model.layer1.eval()
    model.stem.weight.requires_grad_(False)
    space = Space.trace(model, example, divisor=2)
    assert model.training and not model.layer1.training
    small = build(model, space, space.uniform(0.5, depth=0.4))
    assert small.training and not small.layer1[0].training and small.layer2[0].training
    assert not small.stem.weight.requires_grad and small.layer2[0].conv1.weight.requires_grad
    assert isinstance(small.layer1[2], nn.Identity) and not small.layer1[2].training
    assert small.stem.weight.dtype == torch.float64
    half = model.to(torch.bfloat16)
    assert build(half, space, space.uniform(0.5)).stem.weight.dtype == torch.bfloat16


def test_norms_that_mix_channels_equal_an_independent_reference():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Norms().double().eval()
    example = image(1, 3, 5, 5).double()
    space = Space.trace(model, example, divisor=2)
    group = next(group for group in space.groups if group.name == "a")
    assert (group.units, group.unit) == (4, 4)  # whole groups of the group norm
    candidate = space.uniform(0.5)
    small, kept = build(model, space, candidate), channel_map(space, candidate)
    assert (small.gn.num_groups, small.gn.num_channels, small.ln.normalized_shape) == (2, 8, (8,))
    a, b = kept["a.weight"][0], kept["b.weight"][0]
    with torch.no_grad():
        x = torch.relu(model.gn(model.a(example))[:, a])
        x = torch.einsum("oi,nihw->nhwo", model.b.weight[b][:, a, 0, 0], x) + model.b.bias[b]
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + model.ln.eps)
        want = (x * model.ln.weight[b] + model.ln.bias[b]) @ model.fc.weight[:, b].T + model.fc.bias
        assert float((small(example) - want).abs().max()) < 1e-10


def test_build_refuses_another_network():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=2)
    other, _ = network("residual")
    with pytest.raises(ValueError, match="does not fit"):
        build(other, space, space.full)
    with pytest.raises(ValueError, match="is no choice"):
        build(model, space, [3, 16])
    with pytest.raises(ValueError, match="axes"):
        build(model, space, [8])
