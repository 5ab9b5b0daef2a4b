"""A child cut from its parent's trained network is the child cut from the full one, with the parent's numbers."""

import pytest
import torch
from networks import NETWORKS, network

from secateur.spaces import Candidate, Space, build
from secateur.spaces.networks.inheriting import inherited


def nested(space, seed):
    """A random network, and one that keeps at most as much on every axis."""
    first, second = space.sample(2, seed=seed)
    least = Candidate(min(pair) for pair in zip(first, second, strict=True))
    return space.canonical(first), space.canonical(least)


def shrunk_blocks(space):
    """Narrow widths and all blocks; narrower widths and no block: what lived in the blocks is no matter any more."""
    parent, child = list(space.uniform(0.75)), list(space.uniform(0.5))
    for number, axis in enumerate(space.axes):
        if axis.kind == "depth":
            child[number] = 0
    return space.canonical(parent), space.canonical(child)


def same(state, tensors):
    return state.keys() == tensors.keys() and all(torch.equal(state[name], tensors[name]) for name in state)


@pytest.fixture(scope="module", params=NETWORKS)
def traced(request):
    model, example = network(request.param)
    return model, Space.trace(model, example, divisor=2)


def test_untouched_tensors_give_what_build_gives(traced):
    model, space = traced
    pairs = [nested(space, seed) for seed in range(5)]
    for parent, child in [*pairs, shrunk_blocks(space), (space.full, space.smallest), (space.full, space.full)]:
        tensors = build(model, space, parent).state_dict()
        small = build(model, space, child)
        found = inherited(space, parent, child, tensors)
        assert same(small.state_dict(), found)
        small.load_state_dict(found, strict=True)


def test_other_scores_choose_other_channels(traced):
    model, space = traced
    generator = torch.Generator().manual_seed(3)
    scores = {group.name: torch.rand(group.units, generator=generator) for group in space.groups}
    parent, child = nested(space, 1)
    found = inherited(space, parent, child, build(model, space, parent, scores).state_dict(), scores)
    assert same(build(model, space, child, scores).state_dict(), found)


def test_trained_numbers_are_handed_down():
    """Every number of the parent is told apart by its place in the full network, and moves as the map says."""
    model, example = network("residual")
    space = Space.trace(model, example, divisor=2)
    parent, child = nested(space, 4)
    trained = build(model, space, parent)
    with torch.no_grad():
        for tensor in trained.parameters():
            tensor.mul_(3).add_(1)
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    found = inherited(space, parent, child, trained.state_dict())
    own = build(model, space, child)
    for name, parameter in own.named_parameters():
        assert torch.equal(found[name], 3 * parameter + 1)
    for tensor in found.values():
        tensor.zero_()
    assert same(trained.state_dict(), before)


def test_a_graph_inherits_as_well():
    for name in ("residual", "mobile", "literal", "branchy"):
        model, example = network(name)
        space = Space.trace(model, example, divisor=2, as_graph=True)
        for parent, child in [*(nested(space, seed) for seed in range(3)), shrunk_blocks(space)]:
            small = build(model, space, child)
            found = inherited(space, parent, child, build(model, space, parent).state_dict())
            assert same(small.state_dict(), found)
            small.load_state_dict(found, strict=True)


def test_sides_may_differ_either_way():
    model, example = network("plain")
    space = Space.trace(model, example, resolutions=(8, 12), divisor=2)
    for parent_side, child_side in ((1.0, 0.5), (0.5, 1.0)):
        parent, child = space.uniform(1.0, 1.0, parent_side), space.uniform(0.5, 1.0, child_side)
        found = inherited(space, parent, child, build(model, space, parent).state_dict())
        assert same(build(model, space, child).state_dict(), found)


def test_a_child_that_keeps_more_is_refused_by_name():
    model, example = network("residual")
    space = Space.trace(model, example, divisor=2)
    narrow = list(space.full)
    narrow[1] = space.axes[1].choices[0]
    with pytest.raises(ValueError, match=f"channels of {space.groups[1].name} that its parent has not"):
        inherited(space, Candidate(narrow), space.full, build(model, space, Candidate(narrow)).state_dict())
    shallow = space.uniform(1.0, depth=0.5)
    with pytest.raises(ValueError, match=f"keeps block {sorted(space.removed(shallow))[0]}"):
        inherited(space, shallow, space.full, build(model, space, shallow).state_dict())


def test_tensors_of_another_network_are_refused():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=2)
    parent, child = space.uniform(0.5), space.uniform(0.25)
    tensors = build(model, space, parent).state_dict()
    with pytest.raises(ValueError, match=r"conv1\.weight is \(8, 3, 3, 3\); the parent's network has \(4, 3, 3, 3\)"):
        inherited(space, parent, child, model.state_dict())
    assert inherited(space, parent, child, tensors).keys() == tensors.keys()
