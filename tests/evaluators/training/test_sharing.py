"""Sandwich training: sub-networks learn with the full one, at their own resolution, and a resumed one is the same."""

import copy
import logging

import numpy as np
import pytest
import torch
from landscapes import tiny_net, tiny_space, tiny_task

from secateur.evaluators import Training, measure_error, recalibrate, train
from secateur.evaluators.training.sharing import Sandwich
from secateur.spaces import build
from secateur.spaces.allocation import mixture

TRAINING = Training(lr=0.05, recalibration_images=64)


def errors(model, space, task, candidates):
    """Each candidate's error with recalibrated norms."""
    found = []
    for candidate in candidates:
        small, side = build(model, space, candidate), space.side(candidate)
        recalibrate(small, task, images=64, resolution=side)
        found.append(measure_error(small, task, resolution=side).compute())
    return np.array(found)


def sandwich(space, **settings):
    return Sandwich(space, mixture(space), seed=3, **settings)


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


class Watch:
    """Keeps the gradients of the first step."""

    def after_backward(self, loop):
        self.found = self.__dict__.get("found") or gradients(loop.model)


def test_shared_training_makes_sub_networks_far_better():
    model, task = tiny_net(), tiny_task(images=256)
    space = tiny_space(model)
    candidates = [space.uniform(0.5), space.uniform(0.5, 0.5, 0.8), *space.sample(8, seed=3)]
    ordinary, shared = copy.deepcopy(model), model
    train(ordinary, task, TRAINING, epochs=12, seed=1)
    train(shared, task, TRAINING, epochs=12, seed=1, callbacks=[sandwich(space)])
    before, after = (errors(one, space, task, candidates) for one in (ordinary, shared))
    assert after.mean() < 0.5 * before.mean()
    assert errors(shared, space, task, [space.full])[0] < 0.1


def test_the_gradients_of_all_networks_are_added():
    task, model = tiny_task(), tiny_net()
    space = tiny_space(model)

    def first(callbacks, **settings):
        watch = Watch()
        train(copy.deepcopy(model), task, Training(**settings), epochs=1, seed=1, callbacks=[*callbacks, watch])
        return watch.found

    plain = first([])
    # A sub-network that is the full one learns the same from the same labels: three networks, thrice the gradient.
    thrice = first([Sandwich(space, lambda _: space.full, networks=1, smallest=space.full, distil=False)])
    for name, gradient in plain.items():
        torch.testing.assert_close(thrice[name], 3 * gradient, rtol=1e-4, atol=1e-6)
    # Distilled from itself it learns nothing.
    alone = first([Sandwich(space, lambda _: space.full, networks=0, smallest=space.full)])
    for name, gradient in plain.items():
        torch.testing.assert_close(alone[name], gradient, rtol=1e-4, atol=1e-6)


def test_sub_networks_see_the_same_images_at_their_own_side():
    seen, task, model = [], tiny_task(), tiny_net()
    space, forward = tiny_space(model), task.forward

    def watched(network, batch):
        seen.append((batch.resolution, batch.seed, batch.inputs))
        return forward(network, batch)

    task.forward = watched
    low = space.uniform(1.0, 1.0, 8 / 12)
    train(model, task, TRAINING, epochs=1, callbacks=[Sandwich(space, lambda _: low, networks=1)])
    full, smallest, drawn = seen[:3]
    assert (full[0], smallest[0], drawn[0]) == (None, (8, 8), (8, 8))
    assert full[1] == smallest[1] == drawn[1] and full[2] is drawn[2] is smallest[2]


def test_running_statistics_are_the_full_networks_alone():
    task, model = tiny_task(), tiny_net()
    space, other = tiny_space(model), tiny_net()
    still = Training(lr=1e-12)
    train(other, task, still, epochs=1, seed=1)
    train(model, task, still, epochs=1, seed=1, callbacks=[sandwich(space)])
    for (name, got), want in zip(model.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(got, want, msg=name)


def test_a_resumed_training_is_bit_identical():
    task, model = tiny_task(), tiny_net()
    space, states = tiny_space(model), []

    class Keep:
        def after_epoch(self, loop):
            states.append(loop.state())

    whole, resumed = copy.deepcopy(model), copy.deepcopy(model)
    train(whole, task, TRAINING, epochs=3, callbacks=[sandwich(space), Keep()])
    train(resumed, task, TRAINING, epochs=3, callbacks=[sandwich(space)], state=states[0])
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    other = copy.deepcopy(model)
    train(other, task, TRAINING, epochs=3, callbacks=[Sandwich(space, mixture(space), seed=4)])
    assert not torch.equal(other.head.weight, whole.head.weight)


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_mixed_precision_adds_up_alike(amp):
    task, model = tiny_task(), tiny_net()
    space, found = tiny_space(model), {}
    for how in (None, amp):
        watch = Watch()
        settings = Training(lr=0.01, amp=how)
        train(copy.deepcopy(model), task, settings, epochs=1, callbacks=[sandwich(space), watch])
        found[how] = torch.cat([gradient.flatten() for gradient in watch.found.values()])
    same = torch.cosine_similarity(found[None], found[amp], dim=0)
    assert same > 0.98 and found[amp].norm() / found[None].norm() == pytest.approx(1, abs=0.1)


class Bare:
    """A user's own task: nothing but the protocol."""

    def __init__(self, task):
        self.task = task

    def __getattr__(self, name):
        if name in ("at", "distill", "with_batch"):
            raise AttributeError(name)
        return getattr(self.task, name)


def test_a_task_without_at_and_distill_trains_at_full_resolution_on_the_labels(caplog):
    model, task = tiny_net(), Bare(tiny_task())
    space, before = tiny_space(model), model.stem.weight.clone()
    with caplog.at_level(logging.WARNING, logger="secateur"):
        train(model, task, TRAINING, epochs=1, callbacks=[sandwich(space)])
    assert [record.getMessage() for record in caplog.records if record.name == "secateur"] == [
        "Bare has no at(batch, resolution): sub-networks are trained at the full network's resolution only"
    ]
    assert not torch.equal(before, model.stem.weight)


def test_a_negative_number_of_networks_is_refused():
    space = tiny_space(tiny_net())
    with pytest.raises(ValueError, match="at least 0"):
        sandwich(space, networks=-1)
