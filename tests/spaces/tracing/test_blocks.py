"""Blocks that take more than their stream, give it in other forms, or end in a norm: which may be dropped."""

import copy
import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from secateur import Candidate, Space, build, load, save, verify

C, T = 8, 5


class Block(nn.Module):
    """A residual branch with a side input `t`."""

    def __init__(self, form):
        super().__init__()
        self.form, self.kind = form, "own"
        self.conv, self.norm, self.time = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), nn.Linear(T, C)

    def branch(self, x, t=None):
        return self.norm(self.conv(x)) if t is None else self.norm(self.conv(x) + self.time(t)[:, :, None, None])

    def forward(self, x, t=None, first=None, *, mask=None, pair=None):
        return FORMS[self.form][0](self, x if pair is None else pair[0], t, first, mask)


FORMS = {
    # what a block gives, how it is called, what it takes from what came back
    "another argument": (lambda b, x, t, f, m: x + b.branch(x, t), lambda b, x, t, f, m: b(x, t)),
    "by name": (lambda b, x, t, f, m: x + b.branch(x, t), lambda b, x, t, f, m: b(t=t, x=x)),
    "a mask": (lambda b, x, t, f, m: x + b.branch(x) * m, lambda b, x, t, f, m: b(x, mask=m)),
    "the first value": (lambda b, x, t, f, m: x + b.branch(x) + f, lambda b, x, t, f, m: b(x, None, f)),
    "a tuple": (lambda b, x, t, f, m: (x + b.branch(x, t),), lambda b, x, t, f, m: b(x, t)[0]),
    "a list": (lambda b, x, t, f, m: [x + b.branch(x, t)], lambda b, x, t, f, m: b(x, t)[0]),
    "a dict": (lambda b, x, t, f, m: {"x": x + b.branch(x), "t": t}, lambda b, x, t, f, m: b(x, t)["x"]),
    "unused": (lambda b, x, t, f, m: (x + (y := b.branch(x)), y), lambda b, x, t, f, m: b(x)[0]),
    "passed through": (lambda b, x, t, f, m: (x * m + b.branch(x), m), lambda b, x, t, f, m: b(x, mask=m)[0]),
    "numbers": (lambda b, x, t, f, m: (x + b.branch(x), t), lambda b, x, t, f, m: b(x, x.shape[-1])[0]),
    "from a pair": (lambda b, x, t, f, m: x + b.branch(x, t), lambda b, x, t, f, m: b(None, t, pair=(x, t))),
    "a norm after": (lambda b, x, t, f, m: b.norm(x + b.conv(x)), lambda b, x, t, f, m: b(x)),
    "scaled": (lambda b, x, t, f, m: (x + b.branch(x)) / 2**0.5, lambda b, x, t, f, m: b(x)),
    "flat": (lambda b, x, t, f, m: (x.flatten(2) + b.branch(x).flatten(2)).view_as(x), lambda b, x, t, f, m: b(x)),
    "its attribute read": (
        lambda b, x, t, f, m: x + b.branch(x, t),
        lambda b, x, t, f, m: b(x, t) if b.kind == "own" and b.conv.kernel_size == (3, 3) else None,
    ),
}


class Net(nn.Module):
    """Two stages of two blocks; the side inputs are made before them and read by several."""

    def __init__(self, form, count=2):
        super().__init__()
        self.form, self.embed = form, nn.Linear(T, T)
        self.stem, self.head = nn.Conv2d(3, C, 3, padding=1), nn.Linear(C, 4)
        self.low, self.high = (nn.ModuleList(Block(form) for _ in range(count)) for _ in range(2))

    def forward(self, x, t):
        x, t = self.stem(x), self.embed(t).relu()
        mask = (x > 0).to(x) * (t.sum(1) > 0)[:, None, None, None]
        first, call = x, FORMS[self.form][1]
        for block in self.low:
            x = call(block, x, t, first, mask)
        x = F.max_pool2d(x, 2)
        first, mask = x, (x > 0).to(x)
        for block in self.high:
            x = call(block, x, t, first, mask)
        return self.head(x.mean((2, 3)))


def inputs(batch=2, dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, 8, 8, generator=random).to(dtype), torch.rand(batch, T, generator=random).to(dtype)


def made(make, *args):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(*args).double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
        return model


@pytest.mark.parametrize("form", FORMS)
def test_it_is_dropped(form):
    model, x = made(Net, form), inputs()
    space = Space.trace(model, x, divisor=2)
    assert [len(stage.blocks) for stage in space.stages] == [2, 2] and not space.whole_blocks
    candidate = space.uniform(0.5, depth=0.5)
    assert verify(model, space, candidate, x) < 1e-12
    check_costs(model, space, candidate, x)


def check_costs(model, space, candidate, x):
    again = Space.trace(build(model, space, candidate), x, divisor=2, prove=False).full_costs
    assert {name: int(column[0]) for name, column in space.cost_table([candidate]).items()} == again


@pytest.mark.parametrize("form", ["the first value", "a norm after"])
def test_costs_are_exact_whatever_is_dropped(form):
    """What is read by blocks of two stages is alive until the last of them that stays, also where it is a stream."""
    model, x = made(Net, form), inputs()
    space = Space.trace(model, x, divisor=2)
    turned = space.with_block_order({"low": [0.1, 0.9]})
    every = list(itertools.product(range(3), range(3)))
    for depth in every if form == "the first value" else every[1::3]:
        for ordered in (space, turned) if depth[0] == 1 else (space,):
            check_costs(model, ordered, Candidate([*space.full[: len(space.groups)], *depth]), x)


@pytest.mark.parametrize("form", ["by name", "a dict", "passed through", "numbers", "a norm after"])
def test_without_blocks_it_trains_copies_and_is_loaded_again(form, tmp_path):
    model, x = made(Net, form).float(), inputs(dtype=torch.float32)
    space = Space.trace(model, x, divisor=2)
    candidate = space.uniform(0.5, depth=0.5)
    small = build(model, space, candidate)
    assert {name for name, module in small.named_modules() if isinstance(module, nn.Identity)} == {
        *space.removed(candidate)
    }
    small.train()(*x).square().sum().backward()
    assert small.stem.weight.grad.any() and small.low[0].conv.weight.grad.any()
    small.eval()
    torch.testing.assert_close(copy.deepcopy(small)(*x), small(*x))
    formats = None if form == "by name" else ["safetensors"]
    figures = save(tmp_path / "out", small, model=model, space=space, candidate=candidate, formats=formats)
    assert "safetensors" in figures and "left_out" not in str(figures) and (formats or "pt2" in figures)
    assert json.loads((tmp_path / "out/config.json").read_text())["gives"] == {
        name: space.layout.gives[name] for name in space.removed(candidate) if name in space.layout.gives
    }
    torch.testing.assert_close(load(tmp_path / "out", made(Net, form).float())(*x), small(*x))


def test_as_a_graph():
    model, x = made(Net, "a mask"), inputs()
    space = Space.trace(model, x, divisor=2, as_graph=True)
    assert [len(stage.blocks) for stage in space.stages] == [2, 2]
    for candidate in (space.smallest, space.uniform(0.5, depth=0.5)):
        assert verify(model, space, candidate, x) < 1e-12


# --- layers as libraries write them ---------------------------------------------------------------------------------


def encoder(first, norm):
    layer = nn.TransformerEncoderLayer(C, 2, 16, batch_first=True, norm_first=first)
    return nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(C) if norm else None, enable_nested_tensor=False)


@pytest.mark.parametrize("first, norm", [(False, False), (True, True), (False, True)])
def test_a_transformers_encoder(first, norm):
    model = made(encoder, first, norm)
    x = torch.rand(2, 6, C, generator=torch.Generator().manual_seed(0)).double()
    space = Space.trace(model, x, divisor=2)
    assert [stage.blocks for stage in space.stages] == [("layers.0", "layers.1", "layers.2")]
    for candidate in (space.smallest, space.uniform(0.5, depth=0.34)):
        assert verify(model, space, candidate, x) < 1e-12
    trained = build(model, space, space.uniform(0.5, depth=0.67)).train()
    trained(x).square().sum().backward()


def test_a_transformers_decoder_reads_its_memory():
    layer = nn.TransformerDecoderLayer(C, 2, 16, batch_first=True)
    model = made(nn.TransformerDecoder, layer, 3)
    x = tuple(torch.rand(2, n, C, generator=torch.Generator().manual_seed(n)).double() for n in (6, 7))
    space = Space.trace(model, x, divisor=2)
    assert [len(stage.blocks) for stage in space.stages] == [3]
    candidate = Candidate([*space.full[:-1], 1])
    assert verify(model, space, candidate, x) < 1e-12
    check_costs(model, space, candidate, x)


class Output(nn.Module):
    """As in BERT: the sum is in a module that is given the stream and what is added to it."""

    def __init__(self, wide=C):
        super().__init__()
        self.dense, self.norm = nn.Linear(wide, C), nn.LayerNorm(C)

    def forward(self, hidden, x):
        return self.norm(self.dense(hidden) + x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.output = nn.Linear(C, C), Output()

    def forward(self, x, mask):
        return (self.output(self.query(x).softmax(-1) * mask, x),)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.intermediate, self.output = Attention(), nn.Linear(C, 16), Output(16)

    def forward(self, x, mask=None, head=None, gradients=False):
        x = self.attention(x, mask)[0]
        return (self.output(F.gelu(self.intermediate(x)), x),)


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.pooler = nn.ModuleList(Layer() for _ in range(3)), nn.Linear(C, 3)

    def forward(self, x, mask):
        mask = mask[..., None].to(x)
        for layer in self.layer:
            x = layer(x, mask, None, gradients=False)[0]
        return self.pooler(x[:, 0])


def test_a_layer_goes_as_a_whole_not_its_parts():
    """The sum of its second half is in a module of which the branch is made outside."""
    model = made(Bert)
    x = (torch.rand(2, 6, C, generator=torch.Generator().manual_seed(0)).double(), torch.ones(2, 6))
    space = Space.trace(model, x, divisor=2)
    assert [stage.blocks for stage in space.stages] == [("layer.0", "layer.1", "layer.2")] and not space.whole_blocks
    for candidate in (space.smallest, space.uniform(0.5, depth=0.34)):
        assert verify(model, space, candidate, x) < 1e-12


class Around(nn.Module):
    """A sum around others: with `count` of one kind they go one by one."""

    def __init__(self, count):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 3, 1)
        self.body = Long(count)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


class Long(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.blocks = nn.Sequential(*(Short() for _ in range(count)))
        self.mix = nn.Conv2d(C, C, 3, padding=1)

    def forward(self, x):
        return x + self.mix(self.blocks(x))


class Short(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1)

    def forward(self, x):
        return x + F.relu(self.conv(x))


@pytest.mark.parametrize("count, names", [(1, {"body"}), (2, {"body.blocks.0", "body.blocks.1"})])
def test_many_of_a_kind_go_before_what_is_around_them(count, names):
    space = Space.trace(made(Around, count), inputs()[0], divisor=2)
    assert {block for stage in space.stages for block in stage.blocks} == names


# --- reasons ----------------------------------------------------------------------------------------------------------


class Mapped(dict):
    """A container that nothing can stand in for."""


REASONS = {
    "two are used": (lambda b, x, t, f, m: (x + (y := b.branch(x)), y), lambda b, x: sum(b(x)), "several tensors"),
    "a stack": (lambda b, x, t, f, m: torch.stack([x, b.branch(x)]).sum(0), lambda b, x: b(x), "from aten.sum"),
    "strided": (lambda b, x, t, f, m: b.branch(x)[..., ::2, ::2], lambda b, x: b(x), "another shape"),
    "a mapping": (lambda b, x, t, f, m: Mapped(x=x + b.branch(x)), lambda b, x: b(x)["x"], "gives a Mapped"),
    "a number": (lambda b, x, t, f, m: (x + b.branch(x), 2.5), lambda b, x: b(x)[0], "gives a float"),
    "its own branch": (lambda b, x, t, f, m: x + b.norm(f), lambda b, x: b(x, None, x.relu()), "made before it"),
    "not given": (lambda b, x, t, f, m: b.held[0] + b.branch(b.held[0]), lambda b, x: held(b, x), "not among"),
    "written out": (None, lambda b, x: x + b.norm(b.conv(x)), "not the block itself"),
    "twice": (lambda b, x, t, f, m: x + b.branch(x), lambda b, x: b(b(x)), "several times"),
}


def held(block, x):
    block.held = [x]
    return block(None, x.mean((2, 3)))


class Unfit(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.call, self.stem, self.head = REASONS[form][1], nn.Conv2d(3, C, 3, padding=1), nn.Linear(C, 4)
        self.blocks = nn.ModuleList(Block(form) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = self.call(block, x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("form", REASONS)
def test_each_that_may_not_go_has_its_reason(form, monkeypatch):
    monkeypatch.setitem(FORMS, form, REASONS[form])
    model = made(Unfit, form)
    space = Space.trace(model, inputs()[0], divisor=2)
    assert not space.stages and list(space.whole_blocks) == ["blocks.0", "blocks.1"]
    assert REASONS[form][2] in space.whole_blocks["blocks.0"]
    text = " ".join(str(space).split())
    assert f"2 blocks that may not be dropped {space.whole_blocks['blocks.0']} blocks.* (2)" in text


def test_one_that_rules_keep_has_its_reason():
    space = Space.trace(made(Net, "a mask"), inputs(), divisor=2, rules={"low": {"depth": False}})
    assert space.whole_blocks == {f"low.{n}": "ignore or the rules keep it" for n in range(2)}


def test_a_plain_block_with_several_inputs_passes_the_one_that_fits(monkeypatch):
    plain = lambda b, x, t, f, m: F.relu(b.branch(x, t))  # noqa: E731
    monkeypatch.setitem(FORMS, "plain", (plain, lambda b, x, t, f, m: b(t=t, x=x)))
    model, x = made(Net, "plain"), inputs()
    space = Space.trace(model, x, divisor=2, plain_blocks=["low.1"])
    assert [stage.blocks for stage in space.stages] == [("low.1",)] and "from aten.conv2d" in space.whole_blocks[
        "low.0"
    ]
    assert verify(model, space, space.uniform(0.5, depth=0), x) < 1e-12
