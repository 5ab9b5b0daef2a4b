"""Training methods in mixed precision, and on GPUs."""

import networks
import pytest
import tasks
import torch

from secateur.evaluators import Training, train
from secateur.pruners import METHODS, Request, TrainingPruner, realised
from secateur.spaces import Space

TRAINING = [name for name, make in METHODS.items() if isinstance(make(), TrainingPruner)]


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
