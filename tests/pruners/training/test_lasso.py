import copy

import numpy as np
import pytest
import tasks
import torch
from networks import NETWORKS, Plain, network

from secateur.evaluators import Training, train
from secateur.pruners import Request
from secateur.pruners.training.lasso import GroupLasso, Lasso
from secateur.spaces import Space, stays, within


def traced(name):
    model, example = network(name)
    return model, Space.trace(model, example, divisor=1)


class Fake:
    """A loop whose gradients are all zero."""

    def __init__(self, model):
        self.model = model
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_is_that_of_the_penalty(name):
    model, space = traced(name)
    lasso = GroupLasso(space, strength=0.3, fraction=0.5)
    lasso.penalty(model).backward()
    expected = {n: p.grad for n, p in model.named_parameters()}
    lasso.after_backward(Fake(model))
    for key, parameter in model.named_parameters():
        wanted = torch.zeros_like(parameter) if expected[key] is None else expected[key]
        torch.testing.assert_close(parameter.grad, wanted, msg=key)


def test_the_penalty_by_hand():
    # one unit of conv1 is all of its filter, scale and shift: strength * sqrt(sum of squares)
    model, space = traced("plain")
    lasso = GroupLasso(space, strength=2.0)
    lasso.chosen = np.zeros(space.units, bool)
    lasso.chosen[3] = True  # unit 2 of conv1
    own = torch.cat([model.conv1.weight[2].flatten(), model.bn1.weight[2:3], model.bn1.bias[2:3]])
    torch.testing.assert_close(lasso.penalty(model), 2 * own.norm())
    lasso.after_backward(Fake(model))
    torch.testing.assert_close(model.conv1.weight.grad[2], 2 * model.conv1.weight[2].detach() / own.norm().detach())


@pytest.mark.parametrize("name", ["plain", "residual", "mobile", "unet2d"])
def test_units_outside_the_part_get_nothing(name):
    model, space = traced(name)
    lasso = GroupLasso(space, strength=1.0, fraction=0.5)
    for group in space.groups:
        assert lasso.chosen[group.slice].sum() == group.units // 2
    lasso.after_backward(Fake(model))
    touched = np.zeros(space.units, bool)
    for key, parameter in model.named_parameters():
        for axis, ids in space.slots.get(key, {}).items():
            if axis != 1 or "up" in key:  # axis 1 is read, but of the transposed convolution
                if axis == 0 and "up.weight" in key:
                    continue
                moved = parameter.grad.movedim(axis, 0).reshape(len(ids), -1).abs().sum(1)
                touched[ids[(moved > 0).numpy()]] = True
    assert (touched == lasso.chosen).all()


def test_permuting_units_and_part_together_changes_nothing():
    model, space = traced("plain")
    lasso = GroupLasso(space, strength=1.0)
    before, order = float(lasso.penalty(model).detach()), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for tensor in (model.conv1.weight, model.bn1.weight, model.bn1.bias):
            tensor.copy_(tensor[order])
        model.conv2.weight.copy_(model.conv2.weight[:, order])
    assert float(lasso.penalty(model).detach()) != pytest.approx(before, rel=1e-6)
    lasso.chosen[1:9] = lasso.chosen[1:9][order.numpy()]
    assert float(lasso.penalty(model).detach()) == pytest.approx(before, rel=1e-12)


def test_a_unit_that_is_zero_is_left_there():
    model, space = traced("plain")
    with torch.no_grad():
        for tensor in (model.conv1.weight, model.bn1.weight, model.bn1.bias):
            tensor.zero_()
    lasso = GroupLasso(space, fraction=1.0)
    lasso.after_backward(Fake(model))
    assert not model.conv1.weight.grad.any() and model.conv2.weight.grad.any()


def test_the_part_vanishes_first():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Plain(8, 3)
    space = Space.trace(model, torch.zeros(1, 3, 8, 8), divisor=1)
    lasso, before = GroupLasso(space, strength=0.1, fraction=0.5), copy.deepcopy(model)
    train(model, tasks.classification(), Training(lr=0.05, momentum=0.0), epochs=5, callbacks=[lasso])
    own = slice(space.groups[0].first, space.groups[0].first + 8)
    chosen = torch.from_numpy(lasso.chosen[own])
    shrunk = (model.bn1.weight / before.bn1.weight).detach()
    assert shrunk[chosen].max() < shrunk[~chosen].min()


@pytest.mark.parametrize("given", [{"strength": -1.0}, {"fraction": 0.0}, {"fraction": 1.1}])
def test_wrong_settings_are_refused(given):
    space = traced("plain")[1]
    with pytest.raises(ValueError, match=next(iter(given))):
        GroupLasso(space, **given)


@pytest.mark.parametrize("settings", [{}, {"growing": True}, {"name": "partial"}, {"strength": 1e-3}])
def test_units_that_nothing_else_moves_fade_and_go(settings):
    model, space = traced("plain")
    limits = {"macs": 0.5 * space.full_costs["macs"]}
    phase = Lasso(**settings).start(Request(model, space, limits, seed=1))
    loop = Fake(phase.model)
    loop.optimizer, loop.steps = torch.optim.SGD(phase.model.parameters(), lr=0.1), 40
    phase.prepare(loop)
    for loop.step in range(40):
        loop.optimizer.param_groups[0]["lr"] = 0.1 * (1 + np.cos(np.pi * loop.step / 40)) / 2
        loop.optimizer.zero_grad(set_to_none=False)
        phase.after_backward(loop)
        loop.optimizer.step()
    proposal = phase.proposal()
    assert (proposal.notes["faded"] == 0) if settings.get("strength") else proposal.notes["faded"] > 6
    pushed = phase._lasso.chosen
    if settings.get("name"):  # just those go
        assert (stays(space, proposal.candidate, proposal.scores) == ~pushed).all()
    else:
        assert pushed.sum() == proposal.notes["pushed"] == 24
    assert within(space, space.encode([proposal.candidate]), limits).all()


def test_state_goes_back():
    model, space = traced("plain")
    one, other = (Lasso().start(Request(model, space, {"macs": 1e9}, seed=0)) for _ in range(2))
    one._strength = 0.7
    other.restore(one.state())
    assert other.state() == one.state() and other._strength == 0.7
