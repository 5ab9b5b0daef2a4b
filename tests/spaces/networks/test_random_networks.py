"""Random small networks: followed, cut at random, and never wrong. A failure prints the network's code."""

import pytest
import torch
from drafts import BRANCHING, SIZED, STEPS, draft
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scattered import flat, masked, relative_error
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.spaces import Space, build, verify


def traced(model, example, seed):
    """The space; by the seed as a graph, and with a second resolution where the network takes one."""
    how = {"divisor": 1, "as_graph": bool(seed & 1)}
    side = tuple(example.shape[2:])
    try:
        return Space.trace(model, example, resolutions=(side, tuple(2 * s for s in side)) if seed & 2 else (), **how)
    except ValueError as error:
        if "cannot take" not in str(error) and "give one resolution" not in str(error):
            raise
        return Space.trace(model, example, **how)


def in_training(network):
    """In training mode but for dropouts, which draw other numbers each time."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return network


def check(network, seed):
    """Trace, cut at several candidates, compare with the masked network, and count."""
    model, example = network.network()
    space = traced(model, example, seed)
    random = torch.Generator().manual_seed(seed)
    rising = {group.name: torch.arange(group.units, dtype=torch.float32) for group in space.groups}
    mixed = {group.name: torch.rand(group.units, generator=random) for group in space.groups}
    chosen = [(space.uniform(0.5), None), (space.smallest, mixed), (space.uniform(0.5), rising)]
    chosen += [(candidate, mixed) for candidate in space.sample(2, seed)]
    with torch.no_grad():
        for candidate, scores in chosen:
            inputs = example.repeat(
                1, 1, *[new // old for new, old in zip(space.side(candidate), example.shape[2:], strict=True)]
            )
            small = build(model, space, candidate, scores)
            reference = masked(model, space, candidate, network.mixes, scores)
            counter = FlopCounterMode(display=False)
            with counter:
                got = small(inputs)
            assert [t.shape for t in flat(got)] == [t.shape for t in flat(model(inputs))]
            assert relative_error(got, reference(inputs)) <= 1e-8
            costs = space.costs([candidate]).iloc[0]
            assert costs.params == sum(parameter.numel() for parameter in small.parameters())
            if "einsum" not in network.code:  # over one channel it multiplies element by element, which is not counted
                assert costs.macs * len(inputs) == counter.get_total_flops() // 2
            if not space.as_graph and "self.training" in network.code:
                assert relative_error(in_training(small)(inputs), in_training(reference)(inputs)) <= 1e-8
        verified = verify(model, space, space.uniform(0.5), inputs, mixed)
        assert verified <= 1e-8 or verified.reached == 0  # what is cut may end in values that nothing reads


@st.composite
def networks(choose, steps=STEPS):
    return draft(lambda options: choose(st.sampled_from(list(options))), steps=steps)


def holds(network, seed):
    try:
        check(network, seed)
    except Exception as error:
        error.add_note(
            f"seed {seed}, example (2, {network.values[0].c}, *{network.values[0].side}), of\n{network.code}"
        )
        raise


common = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=16, derandomize=True, phases=[Phase.generate], **common)
@given(networks(), st.integers(0, 2**16))
def test_random_networks(network, seed):
    holds(network, seed)


@settings(max_examples=10, derandomize=True, phases=[Phase.generate], **common)
@given(networks(SIZED), st.integers(0, 2**16))
def test_random_networks_that_make_values_of_sizes(network, seed):
    holds(network, seed)


@pytest.mark.slow
@settings(max_examples=1000, print_blob=True, **common)
@given(networks(SIZED), st.integers(0, 2**16))
def test_a_thousand_random_networks_that_make_values_of_sizes(network, seed):
    holds(network, seed)


@pytest.mark.slow
@settings(max_examples=1000, print_blob=True, **common)
@given(networks(), st.integers(0, 2**16))
def test_a_thousand_random_networks(network, seed):
    holds(network, seed)


@pytest.mark.slow
@settings(max_examples=1000, print_blob=True, **common)
@given(networks(BRANCHING), st.integers(0, 2**16))
def test_a_thousand_random_networks_that_branch_on_training(network, seed):
    holds(network, seed)
