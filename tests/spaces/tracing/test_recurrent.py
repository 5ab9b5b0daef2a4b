"""The units of recurrent layers: one number for all gates, layers and directions of a module."""

import pytest
import torch
from torch import nn

from secateur.spaces import Space, build, verify


class Tagger(nn.Module):
    """An embedding, a recurrent layer and what reads it."""

    def __init__(self, kind, **more):
        super().__init__()
        self.embed, self.read = nn.Embedding(20, 16), kind(16, 24, 2, batch_first=True, bidirectional=True, **more)
        self.out = nn.LazyLinear(7)

    def forward(self, tokens):
        return self.out(self.read(self.embed(tokens))[0])


class Stepped(nn.Module):
    """A cell in a loop, from a state of zeros."""

    def __init__(self, kind):
        super().__init__()
        self.hidden, self.cell, self.out = 24, kind(16, 24), nn.Linear(24, 7)
        self.embed = nn.Embedding(20, 16)

    def forward(self, tokens):
        state = torch.zeros(tokens.shape[0], self.hidden, dtype=self.out.weight.dtype)
        state = (state, state) if isinstance(self.cell, nn.LSTMCell) else state
        for token in self.embed(tokens).unbind(1):
            state = self.cell(token, state)
        return self.out(state[0] if isinstance(state, tuple) else state)


NETWORKS = {
    **{kind.__name__: (lambda kind=kind: Tagger(kind), "read", 24) for kind in (nn.LSTM, nn.GRU, nn.RNN)},
    "without biases": (lambda: Tagger(nn.LSTM, bias=False), "read", 24),
    **{kind.__name__: (lambda kind=kind: Stepped(kind), "cell", 24) for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_units_of_a_recurrent_layer_are_an_axis(name):
    make, layer, units = NETWORKS[name]
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (2, 5))
    model = make()
    model(tokens)
    space = Space.trace(model.eval(), tokens, divisor=1)
    assert {group.name: group.units for group in space.groups} == {"embed": 16, layer: units}
    twin = model.double()
    for seed in range(3):
        candidate = space.sample(1, seed=seed)[0]
        assert verify(twin, space, candidate, tokens) < 1e-12
        small = build(model, space, candidate)
        again = Space.trace(small.float().eval(), tokens, prove=False)
        assert again.costs([again.full]).macs[0] == space.costs([candidate]).macs[0]
        assert sum(p.numel() for p in small.parameters()) == space.costs([candidate]).params[0]
        assert (
            small.get_submodule(layer).hidden_size
            == candidate[[axis.name for axis in space.axes].index(f"width:{layer}")]
        )
        small.train()(tokens).sum().backward()
        assert all(p.grad is not None for p in small.parameters())


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_states_go_and_what_they_are_projected_from_stays():
    """PyTorch sees by the two sizes whether there is a projection."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (2, 5))
    model = Tagger(nn.LSTM, proj_size=10)
    model(tokens)
    space = Space.trace(model.eval(), tokens, divisor=1)
    assert {group.name: group.units for group in space.groups} == {"embed": 16, "read": 10}
    assert space.frozen["read"] == "a projected state must be smaller than what it is projected from"
    small = build(model, space, space.smallest)
    assert (small.read.hidden_size, small.read.proj_size) == (24, 1)
    assert verify(model.double(), space, space.sample(1, seed=0)[0], tokens) < 1e-12


class Continued(nn.Module):
    """Its first state is an input."""

    def __init__(self):
        super().__init__()
        self.read, self.out = nn.GRU(4, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x, state):
        return self.out(self.read(x, state)[0])


def test_a_state_that_comes_from_outside_stays():
    space = Space.trace(Continued().eval(), (torch.rand(2, 5, 4), torch.rand(1, 2, 12)))
    assert not space.groups and "read" in space.frozen
