"""Forwards that stop at their layers."""

import threading

import networks
import pytest
import torch
import torch.nn.functional as F

from secateur.evaluators.reconstruction.staging import Alive, Staged
from secateur.spaces import named_tensors

CPU = torch.device("cpu")


def named(model):
    return {id(tensor): name for name, tensor in named_tensors(model).items()}


def test_it_stops_at_every_layer_and_goes_on_through_new_weights():
    model, x, outputs = networks.Plain(4).eval(), torch.randn(2, 3, 6, 6), []
    staged = Staged(lambda: outputs.append(model(x)), named(model), CPU)
    assert [staged.advance()[0] for _ in range(2)] == ["conv1.weight", "conv2.weight"]
    with torch.no_grad():
        model.conv2.weight.mul_(2)
        expected = model(x)
    assert staged.advance()[0] == "fc.weight"
    assert staged.advance() is None and staged.stop is None
    torch.testing.assert_close(outputs[0], expected)
    assert not outputs[0].requires_grad


def test_what_the_forward_raises_is_raised_here():
    def run():
        raise KeyError("of the user")

    with pytest.raises(KeyError, match="of the user"):
        Staged(run, {}, CPU).advance()


def test_one_that_is_closed_ends_though_the_user_catches_everything():
    model, ended = networks.Plain(4).eval(), []

    def run():
        try:
            model(torch.randn(2, 3, 6, 6))
        except Exception:
            ended.append("caught")
        finally:
            ended.append("left")

    before = threading.active_count()
    staged = Staged(run, named(model), CPU)
    staged.advance()
    staged.close()
    staged.close()
    assert ended == ["left"] and threading.active_count() == before


def test_memory_is_what_somebody_holds():
    model = networks.Plain(4)
    alive = Alive(named_tensors(model).values())
    held = F.relu(torch.randn(100))
    alive.add(held)
    alive.add((held.view(10, 10), torch.zeros(50)))
    alive.add(model.conv1.weight.view(-1))
    assert alive.bytes() == 400
    del held
    assert alive.bytes() == 0
