"""Golden numbers by hand, from the formulas of Tang 2021; what a phase does; the network that chooses its channels."""

import copy
from functools import cache

import pytest
import tasks
import torch
from networks import Plain, network
from pruning import examples_for
from torch import nn

from secateur.evaluators import Training, train
from secateur.pruners import ManiDP, Request, mean_macs
from secateur.pruners.dynamic.gates import Gate, complexity, lasso, manifold, share_at, threshold_of
from secateur.pruners.dynamic.network import macs_of
from secateur.spaces import Space


def gate_by_hand():
    gate = Gate(2, 3, rectified=False)
    gate.squeeze = nn.Linear(2, 2, bias=False)
    gate.excite = nn.Linear(2, 3)
    with torch.no_grad():
        gate.squeeze.weight.copy_(torch.eye(2))
        gate.excite.weight.copy_(torch.tensor([[1.0, -1.0], [0.5, 0.5], [-2.0, 0.0]]))
        gate.excite.bias.fill_(1.0)
    return gate


def test_a_gate_by_hand():
    gate, given = gate_by_hand(), torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    for threshold, expected in ((-1e4, [0, 2.5, 0]), (1.0, [0, 2.5, 0]), (3.0, [0, 0, 0])):
        gate.threshold.fill_(threshold)
        gate.look(gate, (given,))
        assert gate.saliencies.tolist() == [[0, 2.5, 0]]
        assert gate.multiply(gate, (), torch.ones(1, 3, 1, 1)).flatten().tolist() == expected
    assert gate.saliencies.mean().item() == pytest.approx(0.83333, abs=1e-5)


def test_only_easy_examples_are_pulled_at():
    losses = torch.tensor([0.1, 0.5, 0.8], requires_grad=True)
    weights = complexity(losses, 0.5)  # half of a mean of 1
    assert weights.tolist() == pytest.approx([0.8, 0, 0]) and not weights.requires_grad
    assert complexity(losses, 0.5, 2.0).tolist() == pytest.approx([0.64, 0, 0])
    pi = torch.tensor([[0.8, 0.8], [0.6, 0.6], [0.4, 0.4]])
    assert float(lasso(weights, [pi])) == pytest.approx(0.21333, abs=1e-5)


def test_likeness_by_hand():
    rows = torch.eye(2)
    assert float(manifold([torch.ones(2, 2)], [rows])) == pytest.approx(0.5)
    features = torch.tensor([[3.0, 4.0], [4.0, 3.0]])
    assert float(manifold([features], [rows])) == pytest.approx(0.4608)
    assert float(manifold([features], [features])) == pytest.approx(0.0, abs=1e-12)
    assert float(manifold([features * torch.tensor([[7.0], [0.1]])], [rows])) == pytest.approx(0.4608)


def test_shares_and_thresholds_by_hand():
    expected = [0.990211, 0.961803, 0.917557, 0.861803, 0.8, 0.738197, 0.682443, 0.638197, 0.609789, 0.6]
    assert [share_at(0.6, epoch, 10) for epoch in range(10)] == pytest.approx(expected, abs=1e-6)
    means = torch.tensor([0.9, 0.1, 0.5, 0.3])
    assert threshold_of(means, 0.6) == pytest.approx(0.3) and int((means >= threshold_of(means, 0.6)).sum()) == 3


@cache
def traced(kind):
    model, example = network(kind)
    return model, Space.trace(model, example, divisor=1)


def started(kind=None, **settings):
    if kind is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Plain(8, 3).eval()
        space = Space.trace(model, torch.rand(1, 3, 8, 8), divisor=1)
    else:
        model, space = traced(kind)
    return model, space, ManiDP(**settings).start(Request(model, space, {"macs": 0.5 * space.full_costs["macs"]}))


class TwoConvolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.two(self.one(x).relu()).relu().mean((2, 3)) @ torch.ones(8, 2)


def test_multiply_adds_by_hand():
    model = TwoConvolutions().eval()
    space = Space.trace(model, torch.rand(1, 3, 16, 16), divisor=1)
    phase = ManiDP().start(Request(model, space, dict(space.full_costs)))
    sites = phase.dynamic().sites
    assert [site.source for site in sites] == [None, 0] and sites[0].gate == 0
    macs = sum(site.layer.macs for site in sites)
    assert macs == 202_752
    half = torch.tensor([[True] * 4 + [False] * 4, [True] * 8])
    on = [half, torch.ones(2, 8, dtype=torch.bool)]
    assert macs_of(macs, sites, on).tolist() == [101_376, 202_752]  # a mean of 0.75


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_gates_of_one_leave_the_network_bit_for_bit(kind):
    model, space, phase = started(kind)
    assert phase.gates
    for gate in phase.gates:
        nn.init.zeros_(gate.excite.weight)
    inputs = torch.rand(3, *space.example(space.full)[0].shape[1:]).to(next(model.parameters()))
    with torch.no_grad():
        assert torch.equal(phase.model.eval()(inputs), model(inputs))
        dynamic = phase.dynamic()
        assert torch.equal(dynamic(inputs), model(inputs))
        assert dynamic.macs().tolist() == pytest.approx(
            [space.full_costs["macs"] + sum(g.macs for g in phase.gates)] * 3
        )


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_one_input_alone_gives_what_it_gives_among_others(kind):
    model, space, phase = started(kind)
    inputs = torch.rand(6, *space.example(space.full)[0].shape[1:]).to(next(model.parameters()))
    phase.model.eval()
    with torch.no_grad():
        phase.model(inputs)
        for gate in phase.gates:  # about half of the channels of an input are off
            # Of (6, c), between inputs: none of them is sure to the last bit.
            seen = gate.saliencies
            middle = seen[:, seen.mean(0).argsort()[seen.shape[1] // 2]].sort().values
            gate.threshold.copy_(middle[2:4].mean())
        dynamic = phase.dynamic()
        together = dynamic(inputs)
        macs = dynamic.macs()
        assert torch.allclose(together, phase.model(inputs), atol=1e-6)
        for number in range(6):
            assert torch.allclose(dynamic(inputs[number : number + 1])[0], together[number], atol=1e-6)
            assert float(dynamic.macs()) == pytest.approx(float(macs[number]))
    assert float(macs.max()) < 0.8 * space.full_costs["macs"] and float(macs.std()) > 0
    found = mean_macs(dynamic, [inputs[:4], inputs[4:]])
    assert found["mean"] == pytest.approx(float(macs.mean())) and found["most"] == float(macs.max())
    other = copy.deepcopy(dynamic)
    for gate in other.gates:
        gate.threshold.fill_(0.0)
    other.load_state_dict(dynamic.state_dict())
    with torch.no_grad():
        assert torch.allclose(other(inputs), together)


def test_a_batch_of_one_multiplies_by_what_is_on_only():
    _, space, phase = started("residual")
    dynamic, seen = phase.dynamic(), []
    for gate in dynamic.gates:
        gate.threshold.fill_(torch.inf)
    real = nn.Conv2d._conv_forward

    def spy(self, given, weight, bias):
        seen.append(weight.numel())
        return real(self, given, weight, bias)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(nn.Conv2d, "_conv_forward", spy)
        dynamic(space.example(space.full)[0].double())
    whole = sum(module.weight.numel() for module in dynamic.modules() if type(module) is nn.Conv2d)
    assert min(seen) == 3 * 3 and sum(seen) < 0.3 * whole


def test_a_training_sets_thresholds_from_its_second_epoch_and_lets_gates_differ():
    model, space, phase = started(keep=0.5, lasso=0.05)
    seen = []

    class Look:
        def after_epoch(self, loop):
            seen.append([float(gate.threshold) for gate in phase.gates])

    train(phase.model, tasks.classification(), Training(lr=0.05), epochs=4, callbacks=[phase, Look()])
    assert seen[0] == [-1e4] * len(phase.gates) and all(value > -1 for value in seen[1])
    proposal = phase.proposal()
    assert proposal.notes["gates"] == len(phase.gates) == 2 and 0 < proposal.notes["bound"] < 1
    dynamic = phase.dynamic()
    task = tasks.classification()
    inputs = [task.prepare(batch, torch.device("cpu"))[0] for batch in task.loader("validation", None, None)]
    assert mean_macs(dynamic, inputs)["share"] < 0.85
    assert model.training is False and not hasattr(model, "gates_of_manidp")


def test_a_loop_that_leaves_the_loss_out_is_told():
    _, space, phase = started()
    examples = examples_for(phase.model, torch.rand(1, 3, 8, 8))

    class Loop:
        model, optimizer, epoch, epochs, step, steps, lr = phase.model, None, 0, 1, 0, 2, 0.1

    loop = Loop()
    loop.optimizer = torch.optim.SGD(phase.model.parameters(), 0.1)
    phase.prepare(loop)
    examples.loss_of(phase.model, examples.batches[0]).backward()
    phase.after_backward(loop)
    loop.step = loop.epoch = 1
    phase.after_epoch(loop)
    with pytest.raises(ValueError, match=r"add `phase.extra_loss\(loop, outputs, targets\)`"):
        phase.finalise(loop)


def test_what_gates_do_not_rank_stays_whole_where_it_can():
    model, space, _ = started("residual")
    phase = ManiDP().start(Request(model, space, {"macs": 0.7 * space.full_costs["macs"]}, seed=1))
    phase._means = [torch.rand(2, gate.excite.out_features).double() for gate in phase.gates]
    candidate = phase.proposal().candidate
    inner = {layer.name for layer in phase.layers}
    for number, group in enumerate(space.groups):
        if not set(group.members) <= inner:
            assert candidate[number] == group.width
