import math

import pytest
import torch
from networks import network
from pruning import Loop, examples_for
from torch import nn

from secateur.pruners import Request
from secateur.pruners.training.orthoreg import OrthoReg, diagonality, left_after, orthogonality, orthogonality_gradient
from secateur.spaces import Space


def traced(name, divisor=1):
    model, example = network(name)
    return model, example, Space.trace(model, example, divisor=divisor)


def share(space, part):
    low, high = (float(space.costs([c])["macs"].iloc[0]) for c in (space.smallest, space.full))
    return {"macs": low + part * (high - low)}


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_regulariser_by_hand():
    # W = 2 I of two rows: W W^T - I = 3 I, its entries sum to 6
    assert float(orthogonality(2 * torch.eye(2))) == 6
    rotation = torch.linalg.qr(noise(4, 4)).Q
    assert float(orthogonality(rotation)) < 1e-12 and float(orthogonality(rotation[:2])) < 1e-12
    assert float(orthogonality(rotation[:, :2])) < 1e-12  # n > m: W^T W
    # rows (1, 1) and (0, 1): G = [[1, 1], [1, 0]], sum 3
    assert float(orthogonality(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))) == 3


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_the_regulariser_does_not_see_the_order_of_filters(shape):
    filters = noise(*shape)
    assert float(orthogonality(filters.flip(0))) == pytest.approx(float(orthogonality(filters)))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_its_gradient_is_autograds(shape):
    filters = noise(*shape).requires_grad_()
    orthogonality(filters).backward()
    torch.testing.assert_close(orthogonality_gradient(filters.detach()), filters.grad)


def test_diagonality_is_one_exactly_for_orthogonal_filters():
    rotation = torch.linalg.qr(noise(4, 4)).Q
    assert diagonality(3 * rotation[:3]) == pytest.approx(1)
    assert diagonality(torch.ones(2, 3)) == pytest.approx(0.5)


def test_rounds_by_hand():
    # p = 0.75 in 3 rounds: 1/2, 1/3 and 1/4 of what is left go, so 1/2, 1/3 and 1/4 are left
    assert [left_after(k, 3, 0.75) for k in (1, 2, 3)] == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    gone = [1 - left_after(k, 3, 0.75) / left_after(k - 1, 3, 0.75) for k in (1, 2, 3)]
    assert gone == pytest.approx([0.75 / (k * 0.75 + 3 * 0.25) for k in (1, 2, 3)])
    assert gone == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    for rounds in (1, 4):
        assert left_after(rounds, rounds, 0.6) == pytest.approx(0.4)


def linear():
    """One prunable linear layer of filters (1, -2) and (1, 1), read by ones."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [1.0, 1.0]]))
        model[1].weight.fill_(1.0)
    return model, Space.trace(model, torch.zeros(1, 2).double(), divisor=1)


class Fake:
    """A loop before its first step."""

    def __init__(self, model, steps=10, step=0, **settings):
        self.model, self.steps, self.step, self.lr = model, steps, step, 0.1
        self.optimizer = torch.optim.SGD(model.parameters(), **{"lr": 0.1} | settings)


def test_the_taylor_score_by_hand():
    # w = (1, -2), g = (3, 1): (3 - 2)^2 = 1, not 9 + 4; w = (1, 1), g = (2, 2): 16. The mean of g and 3 g is 2 g
    model, space = linear()
    phase = OrthoReg(strength=0.0).start(Request(model, space, share(space, 1.0)))
    loop = Fake(phase.model)
    phase.prepare(loop)
    for factor in (1.0, 3.0):
        phase.model[0].weight.grad = factor * torch.tensor([[3.0, 1.0], [2.0, 2.0]]).double()
        phase.after_backward(loop)
    assert phase._importance()["0"].tolist() == [4 * 1, 4 * 16]


@pytest.mark.parametrize("weighting", ["least", "rows"])
def test_gradients_are_those_of_the_loss_and_the_regulariser(weighting):
    # the penalty strength * sum a ||G||_1 over the layers that make units, by autograd
    model, example, space = traced("unet2d")
    examples = examples_for(model, example)
    phase = OrthoReg(strength=0.3, weighting=weighting).start(Request(model, space, share(space, 0.5)))
    loop = Fake(phase.model, weight_decay=0.1)
    phase.prepare(loop)
    examples.loss_of(phase.model, examples.batches[0]).backward()
    phase.after_backward(loop)
    filters = {
        "enc": (model.enc.weight.flatten(1), model.enc.bias),
        "mid": (model.mid.weight.flatten(1), model.mid.bias),
        "up": (model.up.weight.transpose(0, 1).flatten(1), model.up.bias),
        "dec": (model.dec.weight.flatten(1), model.dec.bias),
    }
    filters = {name: torch.cat([weight, bias[:, None]], dim=1) for name, (weight, bias) in filters.items()}
    sizes = {n: min(w.shape[0], w.shape[1] - 1) if weighting == "least" else len(w) for n, w in filters.items()}
    every = sum(math.sqrt(size) for size in sizes.values())
    penalty = sum(0.3 * math.sqrt(sizes[name]) / every * orthogonality(w) for name, w in filters.items())
    (examples.loss_of(model, examples.batches[0]) + penalty).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(phase.model.get_parameter(name).grad, parameter.grad, msg=name)
    model.zero_grad()


def test_only_what_is_open_is_regularised():
    model, example, space = traced("plain")
    examples = examples_for(model, example)
    phase = OrthoReg(strength=1.0).start(Request(model, space, share(space, 0.5)))
    loop = Fake(phase.model)
    phase.prepare(loop)
    phase._masks.close([1, 2])  # of conv1: rows of conv1, columns of conv2
    examples.loss_of(phase.model, examples.batches[0]).backward()
    loss_only = {name: p.grad.clone() for name, p in phase.model.named_parameters()}
    phase.after_backward(loop)
    added = {name: p.grad - loss_only[name] for name, p in phase.model.named_parameters()}
    part = 1 / (1 + math.sqrt(2))  # sqrt(8) and sqrt(16) filters
    first = phase.model.conv1.weight.detach()[2:].flatten(1)
    torch.testing.assert_close(added["conv1.weight"][2:].flatten(1), part * orthogonality_gradient(first))
    second = phase.model.conv2.weight.detach()[:, 2:].flatten(1)
    torch.testing.assert_close(added["conv2.weight"][:, 2:].flatten(1), (1 - part) * orthogonality_gradient(second))
    assert not phase.model.conv1.weight.grad[:2].any() and not phase.model.conv2.weight.grad[:, :2].any()


class Watched:
    """A phase; the weight decay and the costs after every step."""

    def __init__(self, phase):
        self.phase, self.model, self.decays, self.found = phase, phase.model, [], []

    def prepare(self, loop):
        loop.optimizer.param_groups[0]["weight_decay"] = 0.01
        self.phase.prepare(loop)

    def after_backward(self, loop):
        self.phase.after_backward(loop)
        self.decays.append(loop.optimizer.param_groups[0]["weight_decay"])

    def after_step(self, loop):
        self.phase.after_step(loop)
        self.found.append(self.phase._masks.candidate())

    def finalise(self, loop):
        self.phase.finalise(loop)
        self.decays.append(loop.optimizer.param_groups[0]["weight_decay"])


def test_rounds_come_at_their_steps_and_the_decay_is_off_while_the_regulariser_is_on():
    model, example, space = traced("residual")
    limits = share(space, 0.4)
    phase = OrthoReg(rounds=(0.3, 0.5, 0.7)).start(Request(model, space, limits))
    watched = Watched(phase)
    Loop(watched, examples_for(model, example), epochs=10).run()  # 20 steps: rounds after 6, 10 and 14
    changes = [step for step in range(2, 21) if watched.found[step - 1] != watched.found[step - 2]]
    assert changes == [6, 10, 14]
    macs = space.cost_table([watched.found[step - 1] for step in changes])["macs"]
    full = float(space.costs([space.full])["macs"].iloc[0])
    gone = 1 - limits["macs"] / full
    for k, cost in enumerate(macs, start=1):
        assert cost <= phase.targets(k)["macs"] == pytest.approx(full * left_after(k, 3, gone))
    assert phase.targets(3) == limits
    on = [*range(1, 7), 9, 10, 13, 14]  # all before the first round, half of each interval after it
    assert [step for step, decay in enumerate(watched.decays[:20], start=1) if decay == 0] == on
    assert watched.decays[20] == 0.01
    proposal = phase.proposal()
    assert [one["step"] for one in proposal.notes["rounds"]] == [6, 10, 14]
    assert proposal.notes["weight_decay_off"] == len(on)


def test_filters_become_more_orthogonal():
    model, example, space = traced("plain")
    phase = OrthoReg(strength=1.0, rounds=(1.0,)).start(Request(model, space, share(space, 0.9)))
    before = diagonality(phase.model.conv2.weight.detach().flatten(1))
    Loop(phase, examples_for(model, example), epochs=40, lr=0.01, momentum=0.0).run()
    open_ = phase._masks.open_units(1)
    assert diagonality(phase.model.conv2.weight.detach()[open_].flatten(1)) > before + 0.1


@pytest.mark.parametrize("least", [1, 3])
def test_no_group_is_narrower_than_least(least):
    model, example, space = traced("residual")
    floor = [least if number < len(space.groups) else value for number, value in enumerate(space.full)]
    limits = {"macs": float(space.costs([floor])["macs"].iloc[0])}
    phase = OrthoReg(least=least).start(Request(model, space, limits))
    Loop(phase, examples_for(model, example), epochs=5).run()
    assert list(phase.proposal().candidate) == floor


def test_without_training_the_norms_decide():
    model, example, space = traced("plain")
    phase = OrthoReg().start(Request(model, space, share(space, 0.5)))
    Loop(phase, examples_for(model, example), epochs=0).run()
    assert float(space.costs([phase.proposal().candidate])["macs"].iloc[0]) <= share(space, 0.5)["macs"]


@pytest.mark.parametrize(
    "given",
    [
        {"strength": -1},
        {"weighting": "columns"},
        {"rounds": ()},
        {"rounds": (0.5, 0.4)},
        {"rounds": (0.0, 0.4)},
        {"on": 0},
        {"least": 0},
    ],
)
def test_wrong_settings_are_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        OrthoReg(**given)
