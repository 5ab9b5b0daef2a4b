"""A training that is killed and goes on gives the same network, bit by bit."""

import io

import networks
import pytest
import tasks
import torch

from secateur.evaluators import Training, train
from secateur.pruners import METHODS, Request, TrainingPruner, realised
from secateur.spaces import Space

TRAINING = [name for name, make in METHODS.items() if isinstance(make(), TrainingPruner)]


class Keep:
    """The state after every epoch, through a file."""

    def __init__(self):
        self.states = []

    def after_epoch(self, loop):
        buffer = io.BytesIO()
        torch.save(loop.state(), buffer)
        self.states.append(buffer.getvalue())


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adamw", "lr": 0.01}], ids=["sgd", "adamw"])
@pytest.mark.parametrize("name", TRAINING)
def test_resuming_after_any_epoch_is_bit_identical(name, settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = networks.Residual(c=4, blocks=2, classes=3)
    space = Space.trace(model, torch.zeros(1, 3, 8, 8), divisor=1)
    limits = {"macs": 0.5 * float(space.costs([space.full])["macs"].iloc[0])}
    task, training, keep = tasks.classification(train=48), Training(**settings), Keep()

    def pruned(state=None, callbacks=()):
        phase = METHODS[name]().start(Request(model, space, limits, seed=3))
        train(phase.model, task, training, epochs=4, seed=5, callbacks=[phase, *callbacks], state=state)
        return phase.proposal()

    whole = pruned(callbacks=[keep])
    for saved in keep.states:
        again = pruned(torch.load(io.BytesIO(saved), weights_only=True))
        assert again.candidate == whole.candidate and again.notes == whole.notes
        for group, scores in whole.scores.items():
            assert torch.equal(again.scores[group], scores)
        assert set(again.weights) == set(whole.weights)
        for key, tensor in whole.weights.items():
            assert torch.equal(again.weights[key], tensor), key


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", TRAINING)
def test_mixed_precision_is_met(name, amp):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = networks.Residual(c=4, blocks=1, classes=3)
    space = Space.trace(model, torch.zeros(1, 3, 8, 8), divisor=1)
    limits = {"macs": 0.5 * float(space.costs([space.full])["macs"].iloc[0])}
    phase = METHODS[name]().start(Request(model, space, limits))
    train(phase.model, tasks.classification(train=32), Training(amp=amp), epochs=3, callbacks=[phase])
    proposal = phase.proposal()
    assert space.costs([proposal.candidate])["macs"].iloc[0] <= limits["macs"]
    assert all(tensor.isfinite().all() for tensor in proposal.weights.values())


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAINING)
def test_on_cuda(name):
    model = networks.Residual(c=4, blocks=1, classes=3)
    space = Space.trace(model, torch.zeros(1, 3, 8, 8), divisor=1)
    limits = {"macs": 0.5 * float(space.costs([space.full])["macs"].iloc[0])}
    phase = METHODS[name]().start(Request(model, space, limits))
    train(phase.model, tasks.classification(train=32), Training(), epochs=3, callbacks=[phase], device="cuda")
    small = realised(model, space, phase.proposal())
    assert small(torch.zeros(2, 3, 8, 8)).isfinite().all() and next(model.parameters()).device.type == "cpu"
