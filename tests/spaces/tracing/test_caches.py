"""What a forward keeps from call to call: tracing sees it made, whatever the network was run on before."""

from collections import OrderedDict, defaultdict
from functools import cache

import pytest
import torch
from networks import image
from torch import nn

from secateur import Space, build, load, save, verify


class Grid(nn.Module):
    """Adds the sum of coordinates; what it keeps is marked with what it was made for."""

    shape = None
    grid = torch.empty(0)

    def __init__(self, how):
        super().__init__()
        self.how, self.of_side, self.grids, self.listed, self._scale = how, None, {}, [torch.empty(0)], None
        self.calls = 0
        self.conv = nn.Conv2d(12, 8, 1)

    def made(self, x):
        rows, columns = (torch.arange(size).type_as(x) for size in x.shape[2:])
        return (rows[:, None] + columns) / 8

    def forward(self, x):
        self.calls += 1
        side = tuple(x.shape[2:])
        if self.how == "by shape":
            if self.shape != x.shape:
                self.grid, self.shape = self.made(x), x.shape
            return self.conv(x) + self.grid
        if self.how == "by side":
            if self.of_side is None or self.of_side.shape != side:
                self.of_side = self.made(x)
            return self.conv(x) + self.of_side
        if self.how == "in a dictionary":
            if side not in self.grids:
                self.grids[side] = self.made(x)
            return self.conv(x) + self.grids[side]
        if self.how == "in a list":
            if self.listed[0].shape != side:
                self.listed[0] = self.made(x)
            return self.conv(x) + self.listed[0]
        if self.how == "of channels":
            if self._scale is None or self._scale.shape[1:] != x.shape[1:]:
                self._scale = torch.ones_like(x[:1]) * self.made(x)
            return self.conv(x * self._scale)
        self.last = self.conv(x)
        return self.last


HOW = ["by shape", "by side", "in a dictionary", "in a list", "of channels", "the last result"]


def network(how, ran=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), Grid(how)).double().eval()
    if ran is not None:
        model(image(*ran).double())
    return model


def held(model):
    return [(name, value) for name, value in vars(model[2]).items() if name[0] != "_" or name == "_scale"]


@cache
def fresh_fingerprint(how):
    return Space.trace(network(how), image(1, 3, 24, 24).double(), resolutions=(16, 24), divisor=1).fingerprint


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("ran", [(1, 3, 16, 16), (2, 3, 16, 16), (2, 3, 24, 24), (3, 3, 20, 20)])
def test_a_network_that_has_run_is_traced_as_a_fresh_one(how, ran):
    x = image(1, 3, 24, 24).double()
    model = network(how, ran)
    before, contents = held(model), dict(model[2].grids)
    space = Space.trace(model, x, resolutions=(16, 24), divisor=1)
    assert [(name, id(value)) for name, value in held(model)] == [(name, id(value)) for name, value in before]
    assert model[2].grids == contents and model[2].calls == 1
    assert space.fingerprint == fresh_fingerprint(how) and len(space.axes) == 2
    for side in (16, 24):
        for candidate in (space.uniform(0.5), space.smallest):
            assert verify(model, space, candidate, image(2, 3, side, side).double()) < 1e-12
    small = build(model, space, space.uniform(0.5))
    assert small(image(2, 3, 16, 16).double()).shape == (2, 8, 8, 8)


def test_what_is_kept_once_and_for_all_stays():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.scale = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 2, 1), None

        def forward(self, x):
            x = self.first(x)
            if self.scale is None:
                self.scale = torch.full(x.shape[2:], 2.0, dtype=x.dtype)
            return self.last(x * self.scale)

    model, x = Once().double().eval(), image(2, 3, 8, 8).double()
    model(x)
    kept = model.scale
    space = Space.trace(model, x, divisor=1)
    assert model.scale is kept and len(space.groups) == 1
    assert verify(model, space, space.uniform(0.5), x) < 1e-12


def test_hooks_that_the_first_forward_registers_are_registered_once():
    """Some libraries collect hidden states by hooks that they register when they are first asked for them."""

    class Collected(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 1), nn.Conv2d(12, 2, 1)
            self.states = None

        def forward(self, x):
            if self.states is None:
                self.states = []
                self.second.register_forward_hook(lambda module, given, result: self.states.append(result))
            self.states.clear()
            self.second(self.first(x))
            (state,) = self.states
            return self.last(state)

    model, x = Collected().eval(), image(2, 3, 8, 8)
    space = Space.trace(model, x, divisor=1)
    assert model.states is None and not model.second._forward_hooks
    assert [group.units for group in space.groups] == [12, 12]
    assert space.proof.startswith("2 candidates")
    assert model(x).shape == (2, 2, 6, 6)


class Part(nn.Module):
    """A convolution that leaves its result in a store."""

    def __init__(self, store, name):
        super().__init__()
        self.store, self.name, self.conv = store, name, nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        if isinstance(self.store, list):
            self.store.append(x)
        elif isinstance(self.store, defaultdict):
            self.store[self.name].append(x)
        else:
            self.store[self.name] = x
        return x.relu()


class Stored(nn.Module):
    """Parts that leave results in one store, which the forward reads at the end."""

    def __init__(self, store):
        super().__init__()
        self.store, self.stem, self.head = store, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.parts = nn.ModuleList(Part(store, str(number)) for number in range(2))

    def forward(self, x):
        self.store.clear()
        x = self.stem(x)
        for part in self.parts:
            x = part(x)
        for one in self.store if isinstance(self.store, list) else self.store.values():
            x = x + (one[0] if isinstance(one, list) else one)
        return self.head(x)


class Named:
    """A store of the user's own."""

    def __init__(self):
        self.kept = {}

    def clear(self):
        self.kept.clear()

    def __setitem__(self, name, value):
        self.kept[name] = value

    def values(self):
        return self.kept.values()


@pytest.mark.parametrize("make", [dict, list, OrderedDict, lambda: defaultdict(list), Named], ids=range(5))
def test_modules_that_share_a_store_go_on_sharing_one(make):
    model = Stored(make()).eval()
    space = Space.trace(model, torch.zeros(1, 3, 12, 12), divisor=2)
    half = space.uniform(0.5)
    network = build(model, space, half)
    stores = [[net.store, *(part.store for part in net.parts)] for net in (model, network)]
    assert all(one is own[0] for own in stores for one in own) and network.store is not model.store
    assert len(space.groups) == 2 and verify(model, space, half, torch.randn(2, 3, 12, 12)) < 1e-5
    assert model(torch.randn(2, 3, 12, 12)).shape == network(torch.randn(2, 3, 12, 12)).shape


class Biased(nn.Module):
    """Heads with a bias each, which is kept in eval mode."""

    def __init__(self):
        super().__init__()
        self.given, self.biases, self.made = nn.Linear(3, 8), nn.Parameter(torch.rand(8)), nn.Linear(8, 2)
        self.kept = {}

    def forward(self, x):
        if self.training:
            self.kept = {}
        biases = self.biases * 2 if self.training else self.kept.setdefault(str(x.device), self.biases * 2)
        return self.made(self.given(x) + biases)


@pytest.mark.parametrize("ran", ["never", "before the trace", "after it"])
def test_a_small_network_makes_its_own_of_what_the_full_one_kept(ran):
    model, x = Biased().eval(), torch.rand(2, 3)
    if ran == "before the trace":
        model(x)
    space = Space.trace(model, x, divisor=1)
    assert [axis.name for axis in space.axes] == ["width:given"]
    if ran == "after it":
        model(x)
    held = dict(model.kept)
    for candidate in (space.smallest, space.uniform(0.5), space.full):
        small = build(model, space, candidate)
        assert not small.kept and model.kept == held
        small(x)
        assert verify(model, space, candidate, x) < 1e-6


def test_what_the_full_network_kept_is_not_in_an_export(tmp_path):
    model, x = Biased().eval(), torch.rand(2, 3)
    space = Space.trace(model, x, divisor=1)
    model(x)  # what it keeps is as wide as it is
    candidate = space.uniform(0.5)
    small = build(model, space, candidate)
    save(tmp_path / "net", small, model=model, space=space, candidate=candidate, formats=("safetensors",))
    torch.testing.assert_close(load(tmp_path / "net", model=model)(x), small(x))
    assert model.kept
