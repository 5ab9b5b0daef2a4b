import copy
import io

import pytest
import torch
from networks import NETWORKS, Plain, network
from pruning import examples_for, flat
from torch import nn

from secateur.pruners import Request
from secateur.pruners.training.masks import Masks, reachable
from secateur.spaces import Space, build


def traced(name, divisor=2):
    model, example = network(name)
    return model, example, Space.trace(model, example, divisor=divisor)


def outputs(model, inputs):
    with torch.no_grad():
        return flat(model(**inputs) if isinstance(inputs, dict) else model(inputs))


def half_closed(space):
    """Every other unit of every group, at a legal width, and the candidate and scores that leave them out."""
    candidate = space.uniform(0.5)
    masks_scores = {
        group.name: torch.randperm(group.units, generator=torch.Generator().manual_seed(group.first)).double()
        for group in space.groups
    }
    return candidate, masks_scores


def trained_steps(model, masks, examples, optimizer, steps=3):
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        examples.loss_of(model, examples.batches[step % len(examples.batches)]).backward()
        masks.still()
        optimizer.step()
        masks.hold(optimizer)


@pytest.mark.parametrize("name", NETWORKS)
def test_closed_is_worth_as_much_as_cut(name):
    model, example, space = traced(name)
    inputs = examples_for(model, example).batches[0][0]
    candidate, scores = half_closed(space)
    masked = copy.deepcopy(model).train()
    masks = Masks(masked, space)
    masks.settle(candidate, scores)
    assert masks.candidate() == candidate
    small = build(model, space, candidate, scores).train()
    torch.testing.assert_close(outputs(masked, inputs), outputs(small, inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_reopened_is_as_it_was(name):
    model, example, space = traced(name)
    before = copy.deepcopy(model.state_dict())
    masks = Masks(model, space)
    masks.settle(*half_closed(space))
    assert any(not torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    for key, tensor in masks.weights().items():
        assert torch.equal(tensor, before[key]), key
    masks.reopen(range(1, space.units))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ],
)
def test_no_optimizer_moves_what_is_closed(make):
    model, example, space = traced("residual")
    examples, optimizer = examples_for(model, example), make(model.parameters())
    masks = Masks(model, space)
    trained_steps(model, masks, examples, optimizer)  # momentum is there before anything closes
    kept = copy.deepcopy(model)
    masks.settle(*half_closed(space))
    trained_steps(model, masks, examples, optimizer)
    for name, parameter in model.named_parameters():
        for axis, ids in space.slots.get(name, {}).items():
            closed = torch.from_numpy(masks.closed[ids].nonzero()[0])
            own, old = (tensor.index_select(axis, closed) for tensor in (parameter, kept.get_parameter(name)))
            gate = name.startswith(("bn", "layer1.0.bn")) or ".bn" in name or "down.1" in name
            assert torch.equal(own, torch.zeros_like(own) if gate else old), name
            for moment in optimizer.state[parameter].values():
                if moment.shape == parameter.shape:
                    assert not moment.index_select(axis, closed).any(), name
        assert not torch.equal(parameter, kept.get_parameter(name)), name  # the others are trained
    masks.reopen(range(1, space.units))
    for name in ("bn.weight", "layer2.0.bn1.bias"):
        ids = space.slots[name][0]
        assert model.get_parameter(name).all() and ids.all()


def test_the_gradient_of_a_gate_ajar_is_the_slope_of_opening():
    # y = relu(gate * unit) = gate * relu(unit): the loss at gates 1e-5 and 1e-5 + 1e-6
    model, example, space = traced("plain")
    examples = examples_for(model, example)
    model.train()
    full, masks = copy.deepcopy(model), Masks(model, space, ajar=1e-5)
    masks.close([1, 2, 3])  # of conv1; all gate tensors are those of bn1
    examples.loss_of(model, examples.batches[0]).backward()
    found = masks.gate_gradients()["conv1"]
    for unit in range(3):
        nudged, values = copy.deepcopy(model), []
        for gate in (1e-5, 1.1e-5):
            with torch.no_grad():
                for name in ("bn1.weight", "bn1.bias"):
                    nudged.get_parameter(name)[unit] = gate * full.get_parameter(name)[unit]
                values.append(examples.loss_of(nudged, examples.batches[0]).item())
        assert float(found[unit]) == pytest.approx((values[1] - values[0]) / 1e-6, rel=1e-3, abs=1e-9)
    assert found[:3].abs().min() > 1e-6
    masks.shut()
    model.zero_grad()
    examples.loss_of(model, examples.batches[0]).backward()
    assert not masks.gate_gradients()["conv1"][:3].any()  # the slope of a ReLU at 0 is 0


def test_widths_go_up_to_the_next_legal_one_and_the_best_closed_units_fill_them():
    model = Plain(8).double()
    space = Space.trace(model, torch.zeros(1, 3, 8, 8).double(), divisor=4)  # conv1: 4 or 8; conv2: 4, 8, 12, 16
    masks = Masks(model, space)
    masks.close([1, 2, 3])
    assert masks.candidate()[0] == 8 and masks.candidate()[1] == 16
    masks.close([4, 5])
    assert masks.candidate()[0] == 4
    scores = {"conv1": torch.arange(8.0), "conv2": torch.arange(16.0)}
    masks.settle(masks.candidate(), masks.ranked(scores))  # 3 are open; of the closed 0..4 the best is 4
    assert masks.open_units(0).tolist() == [4, 5, 6, 7]
    assert masks.open_units(1).tolist() == list(range(16))
    limit = {"macs": float(space.costs([masks.candidate()])["macs"].iloc[0])}
    assert masks.meets(limit) and not masks.meets({"macs": limit["macs"] - 1})


def test_open_units_rank_above_closed_ones():
    model, _, space = traced("plain")
    masks = Masks(model, space)
    masks.close([1])  # the best of conv1
    scores = {group.name: torch.arange(group.units).flip(0).double() for group in space.groups}
    ranked = masks.ranked(scores)["conv1"]
    assert ranked.argmin() == 0 and ranked[1:].tolist() == sorted(ranked[1:].tolist(), reverse=True)


def test_masks_go_on_from_a_saved_state():
    model, example, space = traced("residual")
    masks = Masks(model, space)
    masks.settle(*half_closed(space))
    buffer = io.BytesIO()
    torch.save({"masks": masks.state(), "model": model.state_dict()}, buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    other = network("residual")[0]
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    again = Masks(other, space)
    other.load_state_dict(state["model"])
    again.restore(state["masks"])
    assert (again.closed == masks.closed).all()
    for both in (masks, again):
        both.reopen(range(1, space.units))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


def test_what_cannot_be_closed_is_refused():
    model, _, space = traced("plain")
    with pytest.raises(ValueError, match="unit 0"):
        Masks(model, space).close([0])
    with pytest.raises(ValueError, match="reachable"):
        reachable(Request(None, space, {"macs": 1.0}), 1)
    low = float(space.costs([space.smallest])["macs"].iloc[0])
    with pytest.raises(ValueError, match="at least 7 channels"):
        reachable(Request(None, space, {"macs": low}), 7)


def test_gates_of_tied_weights_are_felt():
    model, example, space = traced("shared")  # fc1 and fc2 share a weight, whose gate goes by the second name
    examples = examples_for(model, example)
    examples.loss_of(model, examples.batches[0]).backward()
    expected = torch.zeros(8).double()
    for name in ("stem.weight", "stem.bias", "body.weight", "body.bias", "fc2.weight", "fc2.bias"):
        parameter = model.get_parameter(name)
        expected += (parameter * parameter.grad).detach().flatten(1 if parameter.ndim > 1 else 0).reshape(8, -1).sum(1)
    torch.testing.assert_close(Masks(model, space).gate_gradients()["stem"], expected)
