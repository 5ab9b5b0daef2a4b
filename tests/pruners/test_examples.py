"""Batches, gradients and gates: what the gradient methods stand on."""

import copy

import pytest
import torch
from networks import network
from pruning import examples_for
from torch import nn
from torch.nn import functional as F

from secateur.pruners import Examples
from secateur.pruners.criteria.gates import gate_axes, gate_gradients
from secateur.pruners.examples import gradients, left_as_found
from secateur.spaces import Space


def test_gradients_are_those_of_backward_and_nothing_is_left_behind():
    model, example = network("residual")
    examples = examples_for(model, example, batches=3)
    model.stem.weight.requires_grad_(False)
    before, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    found = list(gradients(model, examples, training=True))
    assert len(found) == 3 and not model.training and not model.stem.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)
    twin = copy.deepcopy(model).train().requires_grad_(True)
    examples.loss_of(twin, examples.batches[0]).backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(found[0][name], parameter.grad)


def test_what_the_loss_does_not_reach_has_a_gradient_of_zero():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model.forward = lambda x: model["a"](x)
    examples = Examples(batches=[(torch.ones(1, 2), torch.ones(1, 2))], loss=F.mse_loss)
    [found] = gradients(model, examples)
    assert found["b.weight"].abs().sum() == 0 and found["a.weight"].abs().sum() > 0


def test_modes_and_gradients_come_back_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[0].weight.grad = torch.ones(2, 2)
    model[1].eval()
    with pytest.raises(RuntimeError, match="stop"), left_as_found(model, training=True):
        assert model[1].training
        raise RuntimeError("stop")
    assert model.training and not model[1].training and model[0].weight.grad.sum() == 4


def test_inputs_by_name_and_by_position():
    class Two(nn.Module):
        def forward(self, x, y):
            return x - y

    x, y = torch.ones(1, 1), torch.zeros(1, 1)
    for inputs in ((x, y), [x, y], {"y": y, "x": x}):
        assert Examples(batches=[(inputs, None)]).outputs_of(Two(), (inputs, None)) == 1
    with pytest.raises(ValueError, match="hold no batch"):
        Examples(batches=[])
    with pytest.raises(ValueError, match="hold no loss"):
        Examples(batches=[(x, None)]).loss_of(nn.Identity(), (x, None))


@pytest.mark.parametrize("name", ["plain", "residual", "mobile", "dense", "unet2d", "residual3d", "shared"])
def test_a_gates_gradient_is_what_a_finite_difference_says(name):
    """dL/dgate at 1, summed by hand: all gate tensors of a unit are scaled by 1 +- h."""
    model, example = network(name)
    space = Space.trace(model, example, divisor=1)
    examples = examples_for(model, example, batches=1)
    axes, slots = gate_axes(space), space.slots
    weights = dict(model.named_parameters(remove_duplicate=False))
    [found] = gradients(model, examples)
    scores = gate_gradients(space, weights, found)
    group = space.groups[0]
    for unit in (0, group.units - 1):
        losses = []
        for scale in (1 + 1e-6, 1 - 1e-6):
            scaled = copy.deepcopy(model)
            with torch.no_grad():
                for parameter, axis in axes.items():
                    where = torch.from_numpy(slots[parameter][axis] == group.first + unit)
                    shape = [1] * weights[parameter].ndim
                    shape[axis] = -1
                    factor = torch.ones(len(where), dtype=torch.float64).masked_fill(where, scale)
                    if parameter in found:  # tied names once
                        scaled.get_parameter(parameter).mul_(factor.view(shape))
                losses.append(float(examples.loss_of(scaled, examples.batches[0])))
        numeric = (losses[0] - losses[1]) / 2e-6
        assert float(scores[group.name][unit]) == pytest.approx(numeric, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", ["plain", "residual", "mobile", "grouped", "dense", "unet3d", "chunked", "gate"])
def test_closed_gates_silence_a_unit_before_its_activation(name):
    """With every gate of a group closed, each layer of the group (with its norm) gives zeros for it."""
    model, example = network(name)
    space = Space.trace(model, example, divisor=1)
    axes, slots = gate_axes(space), space.slots
    covered = set()
    with torch.no_grad():
        for parameter, axis in axes.items():
            ids = torch.from_numpy(slots[parameter][axis])
            shape = [1] * model.get_parameter(parameter).ndim
            shape[axis] = -1
            model.get_parameter(parameter).mul_((ids == 0).double().view(shape))
            covered |= set(ids.tolist())
    assert covered >= set(range(1, space.units))
    for layer in space.layers:
        gone = torch.from_numpy(layer.makes) > 0
        if gone.any():
            made = dict(model.named_parameters())
            names = (
                (layer.norm.weight, layer.norm.bias) if layer.norm and layer.norm.weight else (layer.weight, layer.bias)
            )
            for name in filter(None, names):
                tensor = made[name] if name != layer.weight else made[name].transpose(0, layer.out_axis)
                assert tensor[gone].abs().sum() == 0
