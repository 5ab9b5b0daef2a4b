import copy

import pytest
import torch
from networks import network
from pruning import Loop, examples_for
from torch import nn

from secateur.pruners import Request
from secateur.pruners.training.granet import Granet
from secateur.pruners.training.masks import Masks
from secateur.spaces import Space


def traced(name, divisor=1):
    model, example = network(name)
    return model, example, Space.trace(model, example, divisor=divisor)


def share(space, part):
    low, high = (float(space.costs([c])["macs"].iloc[0]) for c in (space.smallest, space.full))
    return {"macs": low + part * (high - low)}


def pair(scales):
    """Two linear layers whose unit `i` carries input `i`, weighted by `scales[i]`."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
        model[2].weight.copy_(torch.diag(torch.tensor(scales)))
    return model, Space.trace(model, torch.zeros(1, 4).double(), divisor=1)


def test_nothing_opens_where_both_sides_are_zero_and_gates_feel_it():
    model, space = pair([1.0, 2.0, 3.0, 4.0])
    inputs = torch.eye(4).double()
    both, gates = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        both[0].weight[0] = 0
        both[2].weight[:, 0] = 0
    (both(inputs) - 2 * model(inputs).detach()).square().sum().backward()
    assert not both[0].weight.grad[0].any() and not both[2].weight.grad[:, 0].any()
    masks = Masks(gates, space, ajar=1e-5)
    masks.close([space.groups[0].first])
    (gates(inputs) - 2 * model(inputs).detach()).square().sum().backward()
    # the unit's output is 0 instead of 2: d (g - 2)^2 / dg at 0 = -4, times the weight 1; open ones: 2 s (s - 2 s)
    torch.testing.assert_close(
        masks.gate_gradients()["0"], torch.tensor([-4.0, -8.0, -18.0, -32.0]).double(), rtol=1e-4, atol=1e-4
    )


def test_the_unit_of_largest_gate_gradient_opens():
    # 0 and 1 are closed; of 2 and 3 the norm of 2 is smaller, so it goes; the errors' slopes are 0: 4, 1: 36, 2: 1
    model, space = pair([1.0, 3.0, 0.5, 4.0])
    phase = Granet().start(Request(model, space, share(space, 0.5)))
    first = space.groups[0].first
    phase._masks.close([first, first + 1])
    inputs = torch.eye(4).double()
    (phase.model(inputs) - 2 * model(inputs).detach()).square().sum().backward()
    phase._slopes = {name: slope.abs() for name, slope in phase._masks.gate_gradients().items()}
    phase._regenerate(0.5)
    assert phase._masks.open_units(0).tolist() == [1, 3]
    assert phase._counts["opened_again"] == 1
    torch.testing.assert_close(phase.model[0].weight[1], model[0].weight[1])  # with its weights
    phase._regenerate(0.0)
    assert phase._masks.open_units(0).tolist() == [1, 3]


class Watched:
    """A phase, and the widths after every step."""

    def __init__(self, phase):
        self.phase, self.model, self.found = phase, phase.model, []

    def prepare(self, loop):
        self.phase.prepare(loop)

    def after_backward(self, loop):
        self.phase.after_backward(loop)

    def after_step(self, loop):
        self.phase.after_step(loop)
        self.found.append(self.phase._masks.candidate())

    def finalise(self, loop):
        self.phase.finalise(loop)


@pytest.mark.parametrize("name", ["plain", "residual", "mobile"])
def test_the_cost_follows_the_cubic_within_one_unit(name):
    model, example, space = traced(name)
    limits = share(space, 0.3)
    phase = Granet(every=2).start(Request(model, space, limits))
    watched = Watched(phase)
    Loop(watched, examples_for(model, example), epochs=20).run()  # 40 steps, 20 of pruning
    macs = lambda candidate: float(space.costs([candidate])["macs"].iloc[0])  # noqa: E731
    for step in range(2, 41):
        candidate = watched.found[step - 1]
        target = phase.targets(min(20, step // 2 * 2) / 20)["macs"]
        wider = []
        for number, group in enumerate(space.groups):
            values = list(candidate)
            values[number] = min(values[number] + group.unit, group.width)
            wider.append(macs(space.canonical(values)))
        assert macs(candidate) <= target < max(wider), step
    full = macs(space.full)
    # half of the pruning: (1/2)^3 of the way is left
    assert phase.targets(0.5)["macs"] == pytest.approx(limits["macs"] + (full - limits["macs"]) / 8)
    proposal = phase.proposal()
    assert proposal.notes["opened_again"] > 0 and proposal.notes["updates"] == 18  # every 2 steps to 36, nine tenths


def test_what_changes_places_does_not_change_the_cost():
    model, example, space = traced("residual")
    watched = Watched(Granet(every=1, until=0.2).start(Request(model, space, share(space, 0.5))))
    Loop(watched, examples_for(model, example), epochs=15).run()
    assert len(set(watched.found[6:])) == 1 and watched.phase._counts["opened_again"] > 0


def test_closed_gates_are_shut_at_the_end():
    model, example, space = traced("plain")
    phase = Granet().start(Request(model, space, share(space, 0.5)))
    Loop(phase, examples_for(model, example), epochs=10).run()
    closed = torch.from_numpy(phase._masks.closed[space.slots["bn1.weight"][0]])
    assert closed.any() and not phase.model.bn1.weight[closed].any() and not phase.model.bn1.bias[closed].any()
    assert phase.model.bn1.weight[~closed].all()


def test_without_training_the_norms_decide():
    model, example, space = traced("plain")
    phase = Granet().start(Request(model, space, share(space, 0.5)))
    Loop(phase, examples_for(model, example), epochs=0).run()
    assert float(space.costs([phase.proposal().candidate])["macs"].iloc[0]) <= share(space, 0.5)["macs"]


@pytest.mark.parametrize("least", [1, 3])
def test_no_group_is_narrower_than_least(least):
    model, example, space = traced("residual")
    floor = [least if number < len(space.groups) else value for number, value in enumerate(space.full)]
    limits = {"macs": float(space.costs([floor])["macs"].iloc[0])}
    phase = Granet(least=least).start(Request(model, space, limits))
    Loop(phase, examples_for(model, example), epochs=5).run()
    assert list(phase.proposal().candidate) == floor


@pytest.mark.parametrize(
    "given", [{"ratio": 1}, {"last_ratio": -1}, {"until": 0}, {"settled": 2}, {"every": 0}, {"least": 0}]
)
def test_wrong_settings_are_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        Granet(**given)


def test_a_proposal_before_the_end_is_refused():
    model, _, space = traced("plain")
    with pytest.raises(ValueError, match="finalise"):
        Granet().start(Request(model, space, share(space, 0.5))).proposal()
