"""Numbers of channels that a forward makes into values: followed, or the group is frozen; never silently off."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from secateur.spaces import Space, verify
from secateur.spaces.tracing import attributes, dryrun, probe


class Net(nn.Module):
    """A convolution of 32 channels, what `how` makes of its output, and a convolution that reads it."""

    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1), nn.Linear(16, 4)
        self.how = how
        self.held = torch.tensor([8.0, 16.0])
        self.register_buffer("buffer", torch.tensor([8.0, 16.0]))
        self.register_buffer("scale", torch.rand(32))
        self.cache = None

    def forward(self, x):
        y = self.a(x).relu()
        return self.head(self.b(self.how(self, y, y.shape[1])).mean((2, 3)))


def example(side=8):
    return torch.rand(2, 3, side, side, dtype=torch.double)


def errors(how, **options):
    """The space, and the error at several candidates."""
    torch.manual_seed(0)
    model, x = Net(how).double().eval(), example()
    space = Space.trace(model, x[:1], divisor=1, **options)
    sides = [
        (candidate, space.side(candidate)[0]) for candidate in (space.uniform(0.5), *space.sample(3), space.smallest)
    ]
    return space, [float(verify(model, space, candidate, example(side))) for candidate, side in sides]


def sine_table(y, c):
    table, place = torch.zeros(y.shape[2], c), torch.arange(y.shape[2]).unsqueeze(1)
    rates = torch.exp(torch.arange(0, c, 2) * (-math.log(1e4) / c))
    table[:, 0::2], table[:, 1::2] = torch.sin(place * rates), torch.cos(place * rates)
    return table.t()[None, :, :, None].to(y)


def ramp(y, c):
    return torch.meshgrid(torch.linspace(0, c, 8), torch.linspace(0, 1, 8), indexing="ij")[0].to(y)


def padded(net, y):
    edge = net.buffer[0].long() // 8
    more = torch.ceil((y.shape[3] + 3 - net.buffer[0]) / net.buffer[0]).long()
    y = F.pad(y, (edge, edge + more, 0, edge), value=0.0)
    return y[:, :, edge:, edge : y.shape[3] - edge] if y.shape[3] > max(edge, more) else y * 2


COUNTS = {  # the full network's number of channels is a value here; as a graph it is kept
    "tensor": lambda net, y, c: y / torch.sqrt(torch.tensor(c)),
    "float tensor": lambda net, y, c: y / torch.tensor(float(c), dtype=y.dtype).sqrt(),
    "new_tensor": lambda net, y, c: y / y.new_tensor(c).sqrt(),
    "as_tensor": lambda net, y, c: y / torch.as_tensor([c], dtype=y.dtype),
    "constructor": lambda net, y, c: y / torch.Tensor([float(c)]).to(y),
    "full": lambda net, y, c: y / torch.full((), float(c), dtype=y.dtype),
    "full over channels": lambda net, y, c: y / y.new_full((c,), 2.0).sum(),
    "ones summed": lambda net, y, c: y / torch.ones(c, dtype=y.dtype).sum(),
    "arange's mean": lambda net, y, c: y / torch.arange(c).double().mean(),
    "array": lambda net, y, c: y / torch.from_numpy(np.array([c])).to(y),
    "array without axes": lambda net, y, c: y / torch.from_numpy(np.array(c)),
    "sizes together": lambda net, y, c: y / torch.tensor([y.shape[2], y.shape[3], c]).prod(),
    "logarithm": lambda net, y, c: y / torch.tensor(math.log(c)),
    "elements": lambda net, y, c: y / torch.tensor(y[0].numel()),
    "shape of the weight": lambda net, y, c: y / torch.tensor(net.a.weight.shape[0]),
    "attribute": lambda net, y, c: y / torch.tensor(net.a.out_channels),
    "item": lambda net, y, c: y * float(torch.tensor([c, 3]).double().mean()),
    "an item's place": lambda net, y, c: y * torch.tensor([1.0, 2.0, 3.0])[c // 16],
    "an index": lambda net, y, c: y[:, :, torch.tensor([c // 16, c // 8])].mean(2, keepdim=True) + y * 0,
    "epsilon": lambda net, y, c: F.group_norm(y, c, eps=1 / c),
    "shift": lambda net, y, c: y.roll(c // 8, 2),
    "rows": lambda net, y, c: y[:, :, c // 16 : c // 16 + 3],
    "one row": lambda net, y, c: y * y[:, :, c // 16].unsqueeze(2),
    "padding": lambda net, y, c: F.pad(y, (c // 16, 4 - c // 16, 0, 0)),
    "triangle": lambda net, y, c: y * torch.ones(8, 8, dtype=y.dtype).tril(c // 8 - 2),
    "ramp": lambda net, y, c: y * ramp(y, c),
    "comparison": lambda net, y, c: torch.where(torch.arange(y.shape[3]) < c // 8, y, y * 0),
    "branch": lambda net, y, c: y if c < 20 else y * 2,
    "padding by a tensor": lambda net, y, c: F.pad(y, (0, torch.tensor(c) // 32)),
}
FROZEN = {  # as a graph too: values over channels
    "linspace": lambda net, y, c: y * torch.linspace(0, 1, c, dtype=y.dtype).view(1, -1, 1, 1),
    "sines": lambda net, y, c: y + sine_table(y, c),
    "ones like it": lambda net, y, c: y / torch.ones_like(y[:1, :, :1, :1]).sum(),
    "ones multiplied": lambda net, y, c: y / (torch.ones_like(y[0, :, 0, 0]) @ torch.ones_like(y[0, :, 0, 0])),
    "ones over a sigmoid": lambda net, y, c: (
        y + torch.einsum("bchw,c->bhw", y.sigmoid(), torch.ones_like(y[0, :, 0, 0]))[:, None]
    ),
    "exponents of weights": lambda net, y, c: y * net.a.weight.exp().mean((1, 2, 3)).sum(),
}
FOLLOWED = {
    "group norm of four": lambda net, y, c: F.group_norm(y, 4),
    "group norm of eights": lambda net, y, c: F.group_norm(y, c // 8),
    "amplitude of weights": lambda net, y, c: y * net.a.weight.norm(),
    "held item": lambda net, y, c: y * net.held[0].item(),
    "held fill value": lambda net, y, c: y * torch.full((1, 1, y.shape[2], 1), net.held[0], dtype=y.dtype),
    "buffer's fill value": lambda net, y, c: y * torch.full((1, 1, y.shape[2], 1), net.buffer[0], dtype=y.dtype),
    "each of a buffer": lambda net, y, c: sum(y * torch.full((1,), one) for one in net.buffer),
    "range of items": lambda net, y, c: (
        y * torch.arange(0, net.held[0] * y.shape[2], net.held[0].item())[None, None, :, None]
    ),
    "item of what was made": lambda net, y, c: y * (torch.tensor([1.0, 3.0]) * 2 + 1)[1:].sum().item(),
    "branch on a buffer": lambda net, y, c: y * 2 if net.buffer[0] > 4 else y,
    "bound": lambda net, y, c: y[:, :, : int(net.held[0]) // 4],
    "bound that is a tensor": lambda net, y, c: y[:, :, : net.held[0].long() // 4],
    "paddings that are tensors": lambda net, y, c: padded(net, y),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_number_of_channels_as_a_value_freezes_them(name):
    space, found = errors(COUNTS[name])
    assert [group.name for group in space.groups] == ["b"]
    assert max(found) < 1e-12


@pytest.mark.parametrize("name", COUNTS)
def test_a_graph_keeps_the_full_number(name):
    space, found = errors(COUNTS[name], as_graph=True)
    assert [group.name for group in space.groups] == ["a", "b"]
    assert max(found) < 1e-12


@pytest.mark.parametrize("as_graph", [False, True])
@pytest.mark.parametrize("name", FROZEN)
def test_what_counts_channels_by_its_size_freezes_them(name, as_graph):
    space, found = errors(FROZEN[name], as_graph=as_graph)
    assert [group.name for group in space.groups] == ["b"]
    assert max(found) < 1e-12


@pytest.mark.parametrize("options", [{}, {"resolutions": (8, 16)}])
@pytest.mark.parametrize("name", FOLLOWED)
def test_other_values_do_not(name, options):
    space, found = errors(FOLLOWED[name], **options)
    assert [group.name for group in space.groups] == ["a", "b"]
    assert max(found) < 1e-12


def test_the_reason_names_the_line():
    space, _ = errors(COUNTS["tensor"])
    assert (
        "it is calculated with the number of its channels at" in space.frozen["a"]
        and "test_numbers.py:" in space.frozen["a"]
    )


class Three(nn.Module):
    """Two widths that meet, the second of them by its number of channels only, and a layer of a stranger's."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 1)
        self.odd, self.head = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        first = self.a(x)
        second = self.b(first).reshape(len(x), first.shape[1], -1).reshape(x.shape[0], -1, *x.shape[2:])
        third = self.c(second)
        if third.shape[1] < 12:
            raise RuntimeError("twelve channels are wanted")
        return self.head(self.odd(third).relu())


def test_a_reason_says_what_happened_and_where():
    """A size that is another tensor's is none that was written, and an error of the forward's own is said."""
    space = Space.trace(Three(), torch.rand(2, 3, 8, 8), divisor=1)
    assert "taken from other channels, at" in space.frozen["b"] and "test_numbers.py:" in space.frozen["b"]
    assert "(it stops: twelve channels are wanted)" in space.frozen["c"], space.frozen["c"]
    assert [group.name for group in space.groups] == ["odd"]


def cached(net, y, c):
    if net.cache is None or net.cache.shape[0] != y.shape[2]:
        net.cache = torch.full((y.shape[2],), net.held[0], dtype=y.dtype)
    return y * net.cache[None, None, :, None]


def test_what_the_first_call_makes_of_an_item():
    space, found = errors(cached)
    assert [group.name for group in space.groups] == ["a", "b"] and max(found) < 1e-12


def test_an_item_of_a_buffer_that_is_cut_freezes_it():
    space, found = errors(lambda net, y, c: y * net.scale[None, :, None, None] * net.scale[3].item())
    assert [group.name for group in space.groups] == ["b"] and max(found) < 1e-12


@pytest.mark.parametrize("how", [lambda net, y, c: y * y.mean().item(), lambda net, y, c: y * net.a.bias[0].item()])
def test_an_item_of_what_has_no_value_is_refused(how):
    with pytest.raises(ValueError, match="depends on the values of a tensor at .*test_numbers.py"):
        errors(how)


def test_an_item_of_what_an_unknown_value_was_written_into_is_refused():
    def how(net, y, c):
        table = torch.zeros(3, dtype=y.dtype)
        table[1] = y.mean()
        return y * table[1].item()

    with pytest.raises(ValueError, match="depends on the values of a tensor"):
        errors(how)


class Asserting(nn.Module):
    """The forward ends where `first` is narrower; ten others write their sizes."""

    widths = range(8, 28, 2)

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.written = nn.ModuleList(nn.Conv2d(3, c, 1) for c in self.widths)
        self.free, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(178, 2, 1)

    def forward(self, x):
        y = self.first(x)
        assert y.shape[1] == 8
        parts = [one(x).view(len(x), c, 4, 4) for one, c in zip(self.written, self.widths, strict=True)]
        return self.head(torch.cat([self.free(y), *parts], 1))


def test_groups_are_told_apart_in_few_runs_where_the_forward_ends_at_one(monkeypatch):
    runs = []
    for place in (dryrun, attributes):
        monkeypatch.setattr(place, "run", lambda *given, **named: runs.append(1) or probe.run(*given, **named))
    frozen = Space.trace(Asserting().eval(), torch.rand(2, 3, 4, 4)).frozen
    assert frozen.keys() == {"first", *(f"written.{n}" for n in range(10)), "head"}
    assert len(runs) < 25  # two for each group, and more, where each is looked for alone
