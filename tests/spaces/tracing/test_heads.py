"""Attention: heads, what they are tied to, and the width of the stream; PyTorch's module with heads of any number."""

import copy
import json
import pickle
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from attentions import KINDS, Fused, Net
from torch import nn

import secateur as sc
from secateur.spaces import Space, build, verify
from secateur.spaces.graph.attention import by_weights
from secateur.studies.disk.files import FormatError


@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_an_axis_and_the_stream_another(kind):
    make, name, heads = KINDS[kind]
    torch.manual_seed(0)
    model, x = Net(make()).eval(), torch.rand(2, 6, 5)
    space = Space.trace(model, x, divisor=1)
    groups = {group.name: group for group in space.groups}
    assert groups[name].units == heads and groups["embed"].units == 32
    assert set(space.frozen) == {"head"}
    assert {"grouped": "2 x 2 heads (32)", "apart": "4 heads (32)"}.get(kind.split()[0], "4 heads (96)") in str(space)
    twin = model.double()
    for seed in range(3):
        candidate = space.sample(1, seed=seed)[0]
        assert verify(twin, space, candidate, x.double()) < 1e-12
        small = build(model, space, candidate)
        again = Space.trace(small.float().eval(), x, prove=False)
        assert again.costs([again.full]).macs[0] == space.costs([candidate]).macs[0]
        assert sum(p.numel() for p in small.parameters()) == space.costs([candidate]).params[0]
        small.train()(x).sum().backward()
        assert all(p.grad is not None for p in small.parameters())


class Written(nn.Module):
    """The size of a head is what the stream has for each."""

    def __init__(self, d=32, heads=4):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        batch, length, d = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj((q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).reshape(batch, length, d))


class Gated(nn.Module):
    """One number counts the heads of attention and those of a mixture beside it."""

    def __init__(self, d=32, heads=4, size=6):
        super().__init__()
        self.heads = heads
        self.qkv, self.gate, self.value = nn.Linear(d, 3 * d), nn.Linear(d, heads * size), nn.Linear(d, heads * size)
        self.proj = nn.Linear(d + heads * size, d)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        seen = (q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).flatten(2)
        gate, value = (layer(x).reshape(batch, length, self.heads, -1) for layer in (self.gate, self.value))
        return self.proj(torch.cat([seen, (gate.softmax(-1) * value).flatten(2)], 2))


class Twice(nn.Module):
    """Two attentions whose heads one number counts."""

    def __init__(self, d=32, heads=4):
        super().__init__()
        self.num_heads = heads
        self.first, self.second, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, 3 * d), nn.Linear(2 * d, d)

    def forward(self, x):
        batch, length, _ = x.shape
        seen = []
        for layer in (self.first, self.second):
            q, k, v = layer(x).reshape(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            seen.append((q @ k.mT).softmax(-1).matmul(v).transpose(1, 2))
        return self.proj(torch.cat(seen, 2).reshape(batch, length, -1))


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("kind", [Gated, Twice])
def test_what_one_number_counts_shrinks_alike_or_is_given_to_calls(kind, heads):
    torch.manual_seed(0)
    model, x = Net(kind(heads=heads)).eval().double(), torch.rand(2, 6, 5).double()
    space = Space.trace(model, x, divisor=1)
    of_heads = [group for group in space.groups if group.units == heads]
    assert len(of_heads) == (2 if kind is Gated else 1)
    for widths in product(*(group.widths for group in of_heads)):
        chosen = {f"width:{group.name}": width for group, width in zip(of_heads, widths, strict=True)}
        candidate = [chosen.get(axis.name, axis.full) for axis in space.axes]
        assert verify(model, space, candidate, x) < 1e-12


def test_a_divisor_that_no_number_of_heads_meets_is_said():
    space = Space.trace(Net(Fused()).eval(), torch.rand(2, 6, 5), divisor=7)
    assert space.groups[1].widths == (24, 48, 72, 96)
    assert "no narrower multiple of the divisor, 7, so it does not hold: attention.qkv" in str(space).replace("\n ", "")
    assert "divisor" not in str(Space.trace(Net(Fused()).eval(), torch.rand(2, 6, 5)))


class Linear(nn.Module):
    """Linear attention at two scales: a grouped convolution gives each head another, and values are padded with a 1."""

    def __init__(self, heads=4, d=8):
        super().__init__()
        self.d, width = d, 3 * heads * d
        self.qkv, self.proj = nn.Conv2d(32, width, 1), nn.Conv2d(2 * heads * d, 32, 1)
        self.near = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1, groups=3 * heads)
        )

    def forward(self, x):
        every = self.qkv(x)
        every = torch.cat([every, self.near(every)], 1).reshape(len(x), -1, 3 * self.d, x.shape[2] * x.shape[3]).mT
        q, k, v = every.chunk(3, -1)
        y = F.relu(q) @ (F.relu(k).mT @ F.pad(v, (0, 1), value=1.0))
        return self.proj((y[..., :-1] / (y[..., -1:] + 1e-5)).mT.reshape(len(x), -1, *x.shape[2:]))


def test_heads_go_with_the_groups_of_a_convolution_that_makes_more_of_them():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(3, 32, 1), Linear(), nn.Conv2d(32, 4, 1)).double().eval(),
        torch.rand(2, 3, 6, 6).double(),
    )
    space = Space.trace(model, x)
    group = next(group for group in space.groups if group.name == "1.qkv")
    assert (group.units, group.unit, group.heads) == (4, 24, 2) and set(space.frozen) == {"2"}
    for candidate in (space.smallest, *space.sample(2)):
        assert verify(model, space, candidate, x) < 1e-12
        small = build(model, space, candidate)
        assert small[1].near[1].groups == 3 * small[1].qkv.out_channels // 24
        small.train()(x).sum().backward()
        assert all(p.grad is not None for p in small.parameters())


class Windowed(Written):
    """The same in windows where there are more than four positions; the scale is one of numbers too."""

    def forward(self, x):
        batch, length, d = x.shape
        inside = min(length, 4)
        if length > inside:  # another order of calls than for few positions
            assert x.new_zeros(length).reshape(-1, inside).reshape(length).shape == (length,)
        y = x.reshape(batch * (length // inside), inside, d)
        q, k, v = self.qkv(y).reshape(-1, inside, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q * (d // self.heads) ** -0.5) @ k.mT).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(-1, inside, d)).reshape(batch, length, d)


@pytest.mark.parametrize("as_graph", [False, True])
@pytest.mark.parametrize("attention", [Written, Windowed])
def test_sizes_that_the_forward_takes_from_other_widths_follow(attention, as_graph):
    torch.manual_seed(0)
    model, x = Net(attention()).eval(), torch.rand(2, 8, 5)
    space = Space.trace(model, x, as_graph=as_graph)
    assert {group.name: group.units for group in space.groups} == {"embed": 32, "attention.qkv": 4}
    assert ("calls are given the numbers of what is left" in str(space)) is not as_graph
    twin = model.double()
    for candidate in (space.smallest, *space.sample(2, seed=0), *((8, 96), (32, 24))):
        assert verify(twin, space, candidate, x.double()) < 1e-12
    small = build(model.float(), space, space.sample(1, seed=0)[0])
    small.train()(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_a_network_whose_calls_are_given_numbers_is_as_any_other(tmp_path):
    torch.manual_seed(0)
    model = Net(Windowed()).eval()
    space = Space.trace(model, torch.rand(2, 8, 5))
    candidate = space.canonical((16, 24))
    small = build(model, space, candidate)
    x, y = torch.rand(3, 4, 5), torch.rand(5, 8, 5)  # other rows, fewer positions
    other = pickle.loads(pickle.dumps(small))
    assert type(small.attention) is Windowed and other.attention.forward.module is other.attention
    program = torch.export.export(small, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()
    sc.save(tmp_path / "small", small, model=model, space=space, candidate=candidate)
    loaded = sc.load(tmp_path / "small", model=model)
    with torch.no_grad():
        for one in (other, copy.deepcopy(small), program, loaded, torch.compile(small, backend="eager")):
            assert torch.equal(one(x), small(x))
        again = Space.trace(small.eval(), torch.rand(2, 8, 5))
        assert verify(small.double(), again, again.smallest, x.double()) < 1e-12
        assert torch.allclose(sc.load(tmp_path / "small")(y), loaded(y), atol=1e-6)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["numbers"]["attention"]["reshape/6 0"] == {"5": 8}
    config["numbers"]["attention"]["reshape/6 0"] = {"x": 8}
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="'numbers' is missing or malformed"):
        sc.load(tmp_path / "small", model=model)


class Added(Written):
    """A block."""

    def forward(self, x):
        return x + super().forward(x)


class Deep(nn.Module):
    """Blocks that may be dropped, between calls of the same function by the network itself."""

    def __init__(self):
        super().__init__()
        self.embed, self.blocks = nn.Linear(5, 32), nn.ModuleList(Added() for _ in range(3))
        self.qkv, self.proj, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        batch, length, d = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 4, d // 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).reshape(batch, length, d)
        return self.head(x + self.proj(y))


def test_calls_of_dropped_blocks_are_not_counted():
    torch.manual_seed(0)
    model, x = Deep().double().eval(), torch.rand(2, 6, 5).double()
    space = Space.trace(model, x)
    assert [group.units for group in space.groups] == [32, 4, 4, 4, 4] and len(space.stages) == 1
    for depth in range(4):
        assert verify(model, space, [16, 24, 48, 72, 24, depth], x) < 1e-12


class Scaled(nn.Module):
    """A scale of each channel that is brought to a shape it keeps, and biases a head, of which a module knows all."""

    def __init__(self):
        super().__init__()
        self.scale, self.shape = nn.Parameter(torch.rand(32)), (1, 1, 32)
        self.attention, self.table, self.head = nn.Linear(32, 96), Table(), nn.Linear(32, 3)
        self.embed, self.proj = nn.Linear(5, 32), nn.Linear(32, 32)

    def forward(self, x):
        x = self.embed(x) * self.scale.view(self.shape)
        q, k, v = (part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in self.attention(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, self.table())
        return self.head(x + self.proj(y.transpose(1, 2).flatten(2)))


class Table(nn.Module):
    """Made by no other module than itself, before the operator that takes it; two views of it take two numbers."""

    def __init__(self):
        super().__init__()
        self.number, self.sizes, self.made = 4, (6, 6, 4), nn.Linear(2, 4)

    def forward(self):
        places = torch.arange(50, dtype=self.made.weight.dtype).view(5, 5, 2) / 50
        return self.made(places).view(-1, self.number)[torch.arange(36) % 25].view(self.sizes).permute(2, 0, 1)


def test_attributes_may_be_tuples_and_of_modules_that_hold_the_channels():
    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.rand(2, 6, 5)
    space = Space.trace(model, x, divisor=1)
    assert {group.name: group.units for group in space.groups} == {"embed": 32, "attention": 4}
    small = build(model, space, space.smallest)
    assert (small.shape, small.table.number, small.table.sizes) == ((1, 1, 1), 1, (6, 6, 1))


class Named(nn.Module):
    """Sizes are kept in attributes of any name, in modules around the one that makes them; another is as large."""

    def __init__(self):
        super().__init__()
        self.stream, self.classes, self.total = 32, 32, 32
        self.embed, self.attention, self.head = nn.Conv2d(3, 32, 2, 2), nn.Linear(32, 96), nn.Linear(32, 32)
        self.proj = nn.Linear(32, 32)

    def forward(self, x):
        x = self.embed(x).view(x.shape[0], self.stream, -1).mT
        q, k, v = (part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in self.attention(x).split(self.total, -1))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(x.mean(1)).view(-1, self.classes)


def test_attributes_that_count_channels_are_found_by_trial():
    torch.manual_seed(0)
    model, x = Named().eval(), torch.rand(2, 3, 8, 8)
    space = Space.trace(model, x, divisor=1)
    assert {group.name: group.units for group in space.groups} == {"embed": 32, "attention": 4}
    small = build(model, space, space.smallest)
    assert (small.stream, small.total, small.classes) == (1, 8, 32)
    assert verify(model.double(), space, space.sample(1, seed=1)[0], x.double()) < 1e-12


def test_a_network_that_lost_heads_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model, x = Net(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).eval(), torch.rand(2, 6, 5)
    space = Space.trace(model, x)
    candidate = space.sample(1, seed=0)[0]
    small = build(model, space, candidate).eval()
    sc.save(tmp_path / "small", small, model=model, space=space, candidate=candidate)
    loaded = sc.load(tmp_path / "small", model=model).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x))
        assert torch.allclose(sc.load(tmp_path / "small")(x), small(x), atol=1e-6)


FLAGS = [(False, True)] * 6


@pytest.mark.parametrize("mask", ["none", "bool", "float", "of each head"])
@pytest.mark.parametrize("other", ["itself", "keys are values", "all apart"])
def test_attention_by_its_weights_is_that_of_pytorch(mask, other):
    torch.manual_seed(0)
    for first, weights, average, padded, batched, training in product(*FLAGS):
        sizes = {"kdim": 8, "vdim": 12} if other == "all apart" else {}
        module = nn.MultiheadAttention(16, 4, batch_first=first, **sizes).double().train(training)

        def made(length, features, first=first, batched=batched):
            x = torch.randn(2, length, features, dtype=torch.double)
            return x[0] if not batched else x if first else x.transpose(0, 1)

        query = key = value = made(5, 16)
        if other != "itself":
            key = value = made(7, 16 if other == "keys are values" else 8)
            value = value if other == "keys are values" else made(7, 12)
        length = 5 if other == "itself" else 7
        given = {
            "none": None,
            "bool": torch.ones(5, length).triu(1).bool(),
            "float": torch.randn(5, length).double(),
            "of each head": torch.randn(4 * (2 if batched else 1), 5, length).double(),
        }[mask]
        padding = torch.zeros(2, length, dtype=torch.bool).index_fill(1, torch.tensor(length - 1), True)
        padding = None if not padded or mask == "float" else padding if batched else padding[0]
        padding = padding.double() * -9 if padding is not None and mask == "of each head" else padding
        call = {
            "attn_mask": given,
            "key_padding_mask": padding,
            "need_weights": weights,
            "average_attn_weights": average,
        }
        want = module(query, key, value, **call)
        with by_weights():
            got = module(query, key, value, **call)
        assert torch.allclose(got[0], want[0], atol=1e-12)
        assert got[1] is want[1] is None or torch.allclose(got[1], want[1], atol=1e-12)


def test_threads_leave_attention_as_it_was():
    own, (first, second) = nn.MultiheadAttention.forward, (by_weights(), by_weights())
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # not in the order in which they came
    assert nn.MultiheadAttention.forward is not own
    second.__exit__(None, None, None)
    assert nn.MultiheadAttention.forward is own


def test_a_hint_without_a_mask_is_refused_as_by_pytorch():
    x = torch.rand(1, 3, 8)
    with by_weights(), pytest.raises(ValueError, match="is_causal is a hint"):
        nn.MultiheadAttention(8, 2)(x, x, x, is_causal=True)


class MadeMask(nn.Module):
    """Attention whose mask is made of the inputs and brought to the number of heads."""

    def __init__(self, how, heads=4, size=8):
        super().__init__()
        self.how, self.size, width = how, size, heads * size
        self.q, self.k, self.v, self.out = (nn.Linear(given, width) for given in (3, 3, 3, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        batch, n = x.shape[:2]
        q, k, v = (layer(x).view(batch, n, -1, self.size).transpose(1, 2) for layer in (self.q, self.k, self.v))
        seen = torch.ones(batch, n, n, dtype=torch.bool)
        if self.how == "assigned":
            seen[:, :2, 2:] = (x[:, :2].sum(-1) > 0)[..., None]
        elif self.how != "constant":
            seen = (x.sum(-1) > -9)[:, None].expand(-1, n, -1)
        seen = seen[:, None].expand(-1, q.shape[1] if self.how == "computed" else 4, -1, -1)
        mask = torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, -1e9)
        return self.head(self.out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("how", ["computed", "written down", "assigned", "constant"])
def test_heads_go_where_one_mask_is_expanded_over_them(how):
    torch.manual_seed(0)
    model, x = MadeMask(how).double().eval(), torch.rand(2, 6, 3, dtype=torch.float64) - 0.5
    space = Space.trace(model, x, divisor=1)
    assert [group.unit for group in space.groups if "q" in group.members] == [8]
    for candidate in (space.smallest, *space.sample(3, seed=0)):
        assert verify(model, space, candidate, x) < 1e-12


class Repeated(nn.Module):
    """Attention beside a module that has two names, for which export puts others in the place of all modules."""

    def __init__(self):
        super().__init__()
        self.embed, self.act, self.head = nn.Linear(5, 32), nn.GELU(), nn.Linear(32, 3)
        self.block = nn.ModuleDict({"attention": nn.MultiheadAttention(32, 4, batch_first=True), "act": self.act})

    def forward(self, x):
        x = self.act(self.embed(x))
        return self.head(self.block["act"](x + self.block["attention"](x, x, x, need_weights=False)[0]))


def test_attention_loses_heads_where_another_module_has_two_names():
    torch.manual_seed(0)
    model, x = Repeated().eval(), torch.rand(2, 6, 5)
    space = Space.trace(model, x, divisor=1)
    assert {group.name: group.units for group in space.groups} == {"embed": 32, "block.attention": 4}
    twin = model.double()
    for candidate in space.sample(3):
        assert verify(twin, space, candidate, x.double()) < 1e-12
