"""Golden numbers of the stochastic rule by hand, its expectation, and trainings with it; the same for examples."""

import copy
import io

import networks
import pytest
import tasks
import torch
from torch import nn

from secateur.evaluators import Placement, PrunedGradients, Training, train
from secateur.evaluators.training.gradients import pruned, threshold
from secateur.evaluators.training.thinning import chances, drawn, thinned, weighted


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return networks.Plain(4, 3)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(("share", "limit"), [(0.5, 0.8453), (0.7, 1.2990), (0.9, 2.0615), (0.99, 3.2283)])
def test_the_threshold_of_gaussian_gradients(share, limit):
    assert float(threshold(torch.tensor(1.0), share)) == pytest.approx(limit, abs=5e-5)


def test_a_small_gradient_becomes_the_threshold_or_zero_and_keeps_its_mean():
    found = pruned(torch.full((100_000,), 0.5), 2.0)
    assert set(found.tolist()) == {0.0, 2.0}
    assert float((found == 2).float().mean()) == pytest.approx(0.25, abs=0.005)
    assert pruned(torch.tensor([-3.0, 0.0, 2.0]), 2.0).tolist() == [-3.0, 0.0, 2.0]
    assert set(pruned(torch.full((1000,), -1.0), 2.0).tolist()) == {0.0, -2.0}


def test_zeros_of_gaussian_gradients():
    gradient = torch.randn(1_000_000)
    limit = threshold(gradient.abs().mean(), 0.9)
    assert float((gradient.abs() < limit).float().mean()) == pytest.approx(0.9, abs=0.002)
    assert float((pruned(gradient, limit) == 0).float().mean()) == pytest.approx(0.5403, abs=0.002)


class Fake:
    def __init__(self, model):
        self.model = model


def test_the_weight_gradient_is_the_dense_one_on_average():
    layer, images = nn.Conv2d(2, 2, 3), torch.randn(2, 2, 5, 5)

    def gradient(inputs=images):
        layer.zero_grad()
        layer(inputs).square().sum().backward()
        return layer.weight.grad.clone()

    dense = gradient()
    callback = PrunedGradients(0.7, queue=2)
    callback.prepare(Fake(layer))
    assert torch.equal(gradient(), dense) and torch.equal(gradient(), dense)  # until the queue is full
    found = torch.stack([gradient() for _ in range(500)])
    assert not torch.equal(found[0], dense) and 0.2 < callback.zeros[""] < 0.8
    error = found.std(0) / 500**0.5
    assert bool(((found.mean(0) - dense).abs() < 4 * error).all())
    callback.finalise(Fake(layer))
    assert torch.equal(gradient(), dense)


def test_a_share_of_zero_changes_nothing_and_a_seed_gives_the_same():
    found = []
    for settings, callbacks in (({}, []), ({}, [PrunedGradients(0.0)]), *[({"gradients_pruned": 0.9}, [])] * 2):
        model = small()
        train(model, tasks.classification(train=48), Training(**settings), epochs=3, callbacks=callbacks)
        found.append(model)
    plain, nothing, one, two = found
    assert equal(plain, nothing) and equal(one, two) and not equal(one, plain)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="expected a share in"):
        PrunedGradients(share)
    with pytest.raises(ValueError):
        Training(gradients_pruned=share)


def test_chances_by_hand():
    # t = (4 + 2 + 2) / 2 = 4 leaves the first with exactly 1
    assert chances(torch.tensor([4.0, 2.0, 2.0, 0.0]), 2).tolist() == [1.0, 0.5, 0.5, 0.0]
    # 10 is certain; of the rest t = 4 / 1
    assert chances(torch.tensor([1.0, 10.0, 3.0]), 2).tolist() == [0.25, 1.0, 0.75]
    assert chances(torch.tensor([1.0, 0.0, 3.0]), 2).tolist() == [1.0, 0.0, 1.0]
    assert chances(torch.ones(8), 4).tolist() == [0.5] * 8


def test_what_is_drawn_has_these_chances():
    wanted = chances(torch.rand(16), 6)
    counts = torch.zeros(16)
    for _ in range(10_000):
        rows = drawn(wanted)
        assert len(rows) == 6
        counts[rows] += 1
    assert torch.allclose(counts / 10_000, wanted.float(), atol=0.02)


def test_the_gradient_of_what_is_kept_is_the_whole_one_on_average():
    """A linear network without a norm: every example's gradient is its own."""
    task = tasks.classification(train=16)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    [batch] = task.loader("train", None, 0)

    def gradient(part, factors=None):
        model.zero_grad()
        outputs, targets = task.forward(model, part)
        if factors is not None:
            weighted(outputs, factors)
        task.loss(outputs, targets).backward()
        return model[1].weight.grad.clone()

    dense = gradient(batch)
    found = torch.zeros_like(dense)
    for _ in range(500):
        kept, factors = thinned(task, model, batch, 0.25)
        assert len(kept.targets) == len(factors) == 4
        found += gradient(kept, factors) / 500
    assert float((found - dense).norm()) < 0.12 * float(dense.norm())


@pytest.mark.parametrize(
    "settings", [{"examples_kept": 0.5}, {"gradients_pruned": 0.9}, {"examples_kept": 0.25, "amp": "bfloat16"}]
)
def test_trainings_with_them_learn_and_go_on_bit_by_bit(settings):
    task, training, kept = tasks.classification(), Training(lr=0.05, **settings), []

    class Keep:
        def after_epoch(self, loop):
            buffer = io.BytesIO()
            torch.save(loop.state(), buffer)
            kept.append(buffer.getvalue())
            assert len(loop.outputs) == len(loop.batch.targets) == round(training.examples_kept * 16)

    whole = small()
    losses = train(whole, task, training, epochs=5, callbacks=[Keep()])
    assert losses[-1] < losses[0]
    resumed = small()
    state = torch.load(io.BytesIO(kept[2]), weights_only=True)
    assert train(resumed, task, training, epochs=5, state=state) == losses and equal(resumed, whole)


def test_a_state_of_before_these_settings_goes_on():
    kept = []

    class Keep:
        def after_epoch(self, loop):
            kept.append(loop.state())

    train(small(), tasks.classification(), Training(), epochs=2, callbacks=[Keep()])
    assert not {"examples_kept", "gradients_pruned"} & set(kept[0]["settings"])
    with pytest.raises(ValueError, match="differs in examples_kept"):
        train(small(), tasks.classification(), Training(examples_kept=0.5), epochs=2, state=copy.deepcopy(kept[0]))


def test_outputs_that_are_no_tensor_are_refused():
    class Two:
        def forward(self, model, batch):
            return (model(batch), model(batch)), batch

    with pytest.raises(ValueError, match="one tensor; the network gives tuple"):
        thinned(Two(), nn.Linear(2, 2), torch.ones(4, 2), 0.5)


def test_parts_of_a_batch_carry_their_own_weights():
    model = small()
    train(model, tasks.classification(), Training(examples_kept=0.5), epochs=1, device=Placement(accumulate=2))
    assert all(bool(p.isfinite().all()) for p in model.parameters())
