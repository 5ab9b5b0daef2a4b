"""Optimisers, schedulers and loss terms of the user's own, averaged weights, channels last: each survives a kill."""

import functools

import networks
import pytest
import tasks
import torch
from torch import nn

from secateur.evaluators import Training, train
from secateur.evaluators.training.averaging import Average

TASK = tasks.classification(train=32)


def net():
    torch.manual_seed(0)
    return networks.Plain(4, 3)


def one_cycle(optimizer, steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)


def of_two_rates(groups, lr):
    return torch.optim.SGD([groups[0] | {"lr": lr / 10}, *groups[1:]], lr=lr, momentum=0.9)


class Keeper:
    """Keeps the state after every epoch, as a study does."""

    def __init__(self, path):
        self.path, self.states, self.rates = path, [], []

    def after_epoch(self, loop):
        torch.save(loop.state(), self.path)
        self.states.append(torch.load(self.path, weights_only=True))

    def after_step(self, loop):
        self.rates.append([loop.lr, *(group["lr"] for group in loop.optimizer.param_groups)])


class Decay:
    """A loss term of a callback."""

    def __init__(self):
        self.seen = 0

    def extra_loss(self, loop, outputs, targets):
        self.seen += len(outputs)
        return sum(parameter.square().sum() for parameter in loop.model.parameters())


SETTINGS = {
    "rmsprop": {"optimizer": torch.optim.RMSprop, "lr": 0.001},
    "of two rates": {"optimizer": of_two_rates},
    "one cycle": {"schedule": one_cycle},
    "adamw and one cycle": {"optimizer": "adamw", "schedule": functools.partial(one_cycle), "lr": 0.01},
    "average": {"ema": 0.9},
    "channels last": {"channels_last": True},
    "all": {"optimizer": of_two_rates, "schedule": one_cycle, "ema": 0.9, "channels_last": True, "amp": "bfloat16"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_goes_on_from_every_epoch_bit_by_bit(name, tmp_path):
    training, keeper, whole = Training(**SETTINGS[name]), Keeper(tmp_path / "state"), net()
    losses = train(whole, TASK, training, epochs=3, callbacks=[keeper])
    for state in keeper.states:  # the last one too: killed before the end was written
        again = net()
        assert train(again, TASK, training, epochs=3, state=state) == losses
        assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), again.parameters(), strict=True))
    assert all(p.is_contiguous() for p in whole.parameters())
    plain = net()
    train(plain, TASK, Training(), epochs=3)
    if name != "channels last":
        assert not torch.equal(plain.state_dict()["conv1.weight"], whole.state_dict()["conv1.weight"])


def test_rates_are_the_schedulers_or_shares_of_the_optimizers_own(tmp_path):
    keeper = Keeper(tmp_path / "state")
    train(net(), TASK, Training(optimizer=of_two_rates, lr=0.1, schedule="constant"), epochs=1, callbacks=[keeper])
    assert all(rates == pytest.approx([0.1, 0.01, 0.1]) for rates in keeper.rates)
    cycle = Keeper(tmp_path / "cycle")
    train(net(), TASK, Training(schedule=one_cycle), epochs=2, callbacks=[cycle])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler, expected = one_cycle(optimizer, 4), []
    for _ in range(4):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [rates[0] for rates in cycle.rates] == pytest.approx(expected)


def test_averages_are_those_of_the_weights_over_the_steps():
    class Kept:
        def __init__(self):
            self.weights = []

        def prepare(self, loop):
            self.weights.append(loop.model.state_dict()["conv1.weight"].clone())

        def after_step(self, loop):
            self.weights.append(loop.model.state_dict()["conv1.weight"].clone())

    kept, model = Kept(), net()
    train(model, TASK, Training(ema=0.5), epochs=2, callbacks=[kept])
    average = kept.weights[0]
    for step, weight in enumerate(kept.weights[1:], start=1):
        average = average.lerp(weight, 1 - min(0.5, (1 + step) / (10 + step)))
    assert torch.allclose(model.state_dict()["conv1.weight"], average, atol=1e-6)
    assert Average(model, 0.5).kept.keys() == {n for n, t in model.state_dict().items() if t.is_floating_point()}


def test_long_trainings_are_compiled_each_anew_and_learn_the_same(monkeypatch):
    compiled = []

    def counted(graph, inputs):
        compiled.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counted))
    alone, short = net(), net()
    losses = train(alone, TASK, Training(), epochs=2)
    assert train(short, TASK, Training(compile_from=5), epochs=2) == losses and not compiled
    for trial in range(10):  # more than the compiler keeps versions of one forward
        long = networks.Plain(3 + trial % 5, 3) if trial else net()
        found = train(long, TASK, Training(compile_from=4), epochs=2)
        assert len(compiled) == trial + 1, "one graph a network, and no trial falls back in silence"
        assert list(long.state_dict()) == list(alone.state_dict()), "the network is the user's own, not the compiler's"
        assert trial or found == losses


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_callback_adds_a_term_to_the_loss(accumulate):
    from secateur.evaluators import Placement

    plain, held, decay = net(), net(), Decay()
    where = Placement(accumulate=accumulate)
    low = train(plain, TASK, Training(), epochs=1, device=where)
    high = train(held, TASK, Training(), epochs=1, device=where, callbacks=[decay])
    assert high[0] > low[0] + 1 and decay.seen == 32
    assert sum(p.square().sum() for p in held.parameters()) < sum(p.square().sum() for p in plain.parameters())


def fails(groups, lr):
    raise KeyError("lion")


WRONG = {
    "a name": ({"optimizer": "lion"}, "expected one of sgd, adam, adamw, a function, or its place"),
    "a number": ({"schedule": 3}, "expected one of cosine, step, constant, a function"),
    "warmup": ({"schedule": one_cycle, "warmup": 0.1}, "warmup=0.1 is of the schedules by name"),
    "a place": ({"optimizer": "lib:lion"}, "optimizer='lib:lion' is for study files; give the function itself"),
    "it raises": (
        {"optimizer": fails},
        r"fails raised KeyError: 'lion'; it is called as optimizer\(groups",
    ),
    "no optimizer": ({"optimizer": lambda groups, lr: groups}, "gave a list; expected an optimizer"),
    "no scheduler": ({"schedule": lambda optimizer, steps: 0.1}, "gave a float; expected a scheduler"),
    "an average of nothing": ({"ema": 1.0}, "ema=1.0: expected"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_is_one_sentence(name):
    settings, said = WRONG[name]
    with pytest.raises(ValueError, match=said):
        train(net(), TASK, Training(**settings), epochs=1)
