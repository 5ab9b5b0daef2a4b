"""What operators give on tensors without values is the same from the second call on."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.spaces import Space
from secateur.spaces.tracing import dryrun, shortcuts
from secateur.spaces.tracing.probe import run
from secateur.spaces.tracing.shortcuts import dispatched

aten = torch.ops.aten


class Shortened(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})


def batch_norm(x, training=False):
    return F.batch_norm(x, *(x.new_ones(x.shape[1]) for _ in range(4)), training=training)


CALLS = {
    "pointwise": F.silu,
    "in place": lambda x: x.clone().relu_(),
    "broadcast": lambda x: x + x[:1, :, :1],
    "broadcast in place": lambda x: x.clone().mul_(x[:1]),
    "to another dtype": lambda x: x > 0,
    "whole numbers, divided": lambda x: (x > 0).sum(1) / 2,
    "a number, then a whole one": lambda x: ((x > 0) * 2, (x > 0) * 2.0, (x > 0) * True),
    "batch norm": batch_norm,
    "batch norm of its own": lambda x: batch_norm(x, True),
    "channels last": lambda x: F.relu(x.contiguous(memory_format=torch.channels_last)),
    "clone as channels last": lambda x: x.clone(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 2).sigmoid(),
    "convolution": lambda x: F.conv2d(x, x.new_ones(5, x.shape[1], 3, 3)),
    "convolution of groups": lambda x: F.conv2d(x, x.new_ones(x.shape[1], 1, 3, 3), groups=x.shape[1], padding=1),
    "convolution by steps": lambda x: F.conv2d(x, x.new_ones(4, x.shape[1], 1, 2), x.new_ones(4), (2, 1), 1, (1, 2)),
    "convolution of channels last": lambda x: F.conv2d(
        x.contiguous(memory_format=torch.channels_last), x.new_ones(5, x.shape[1], 1, 1)
    ),
    "transposed convolution": lambda x: F.conv_transpose2d(x, x.new_ones(x.shape[1], 6, 2, 2), stride=2),
    "convolution along": lambda x: F.conv1d(x.flatten(2), x.new_ones(3, x.shape[1], 2), padding=1),
    "linear": lambda x: F.linear(x.flatten(1), x.new_ones(5, x[0].numel()), x.new_ones(5)),
    "linear without a bias": lambda x: F.linear(x, x.new_ones(7, x.shape[-1])),
    "products": lambda x: (x @ x.mT, x[0, 0] @ x[0, 0].mT, torch.bmm(x[0].mT, x[0]), torch.bmm(x[0], x[0].mT)),
    "resized": lambda x: (
        F.interpolate(x, scale_factor=2, mode="bilinear"),
        F.interpolate(x, size=(3, 5), mode="nearest"),
        F.interpolate(x.mT, size=(3, 5), mode="bilinear", align_corners=True),
    ),
    "other shapes": lambda x: (x.view(-1, x.shape[-1]), x.view(x.numel()), x[:, 1:].contiguous().view(1, -1)),
    "views": lambda x: (*x.chunk(2, 1), x[:, 1:].flatten(1)[:, 2:], x.unbind(0)[1].t_() if x.ndim == 3 else x.mT),
    "indices": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "layer norm with weights": lambda x: F.layer_norm(
        x, x.shape[-2:], x.new_ones(x.shape[-2:]), x.new_ones(x.shape[-2:])
    ),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "reduced": lambda x: x.mean((2, 3), keepdim=True),
    "made": lambda x: (x.new_zeros(3), torch.ones_like(x, dtype=torch.float64), torch.arange(4)),
}


def described(results):
    results = results if isinstance(results, (tuple, list)) else [results]
    return [(type(one), one.shape, one.stride(), one.storage_offset(), one.dtype, one.device) for one in results]


@torch.no_grad()
@pytest.mark.parametrize("mode", ["meta", "fake"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_results_are_those_of_the_operator(call, mode):
    with torch.device("meta") if mode == "meta" else FakeTensorMode():
        for shape in [(2, 4, 8, 6), (2, 4, 8, 6), (3, 10, 8, 6), (2, 4, 1, 1), (1, 2, 9, 9), (2, 4, 8, 6)]:
            x = torch.empty(shape)
            try:
                want = described(call(x))
            except (RuntimeError, ValueError):  # too small a side
                continue
            with Shortened():
                assert [described(call(x)) for _ in range(2)] == [want, want]


@torch.no_grad()
def test_views_share_memory_and_results_do_not():
    with FakeTensorMode(), Shortened():
        x = torch.empty(2, 4)
        for _ in range(3):
            assert x.t().untyped_storage()._cdata == x.untyped_storage()._cdata
            assert x.relu().untyped_storage()._cdata != x.untyped_storage()._cdata


@torch.no_grad()
def test_formulas_hold_for_shapes_that_are_new(monkeypatch):
    monkeypatch.setattr(shortcuts, "_known", {})
    x, others = torch.empty(2, 4, 8, 6, device="meta"), torch.empty(3, 6, 5, 7, device="meta")
    with Shortened():
        for name in ("convolution of groups", "layer norm with weights", "linear"):
            CALLS[name](x)
            before = len(shortcuts._known)
            CALLS[name](others)
            known = [key[0] for key in [*shortcuts._known][before:]]
            assert not {aten.convolution.default, aten.native_layer_norm.default, aten.addmm.default} & {*known}


@torch.no_grad()
def test_default_dtype_counts():
    with torch.device("meta"), Shortened():
        whole = torch.empty(3, dtype=torch.int64)
        assert (whole / 2).dtype == torch.float32
        torch.set_default_dtype(torch.float64)
        try:
            assert (whole / 2).dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)


MISFITS = {
    "sum": lambda x: x + x.new_ones(2, 4, 8, 5),
    "convolution": lambda x: F.conv2d(x, x.new_ones(5, 3, 3, 3)),
    "convolution of groups": lambda x: F.conv2d(x, x.new_ones(6, 3, 3, 3), groups=2),
    "convolution with a bias": lambda x: F.conv2d(x, x.new_ones(5, 4, 3, 3), x.new_ones(4)),
    "too large a kernel": lambda x: F.conv2d(x, x.new_ones(5, 4, 9, 3)),
    "linear": lambda x: F.linear(x.flatten(1), x.new_ones(5, 191), x.new_ones(5)),
    "linear with a bias": lambda x: F.linear(x.flatten(1), x.new_ones(5, 192), x.new_ones(4)),
    "product": lambda x: torch.bmm(x[0], x[0]),
    "layer norm": lambda x: F.layer_norm(x, (5,), x.new_ones(5)),
    "view": lambda x: x.view(-1, 5),
}


@torch.no_grad()
@pytest.mark.parametrize("mode", ["meta", "fake"])
@pytest.mark.parametrize("call", MISFITS.values(), ids=MISFITS)
def test_operands_that_do_not_fit_fail_as_ever(call, mode):
    def outcome(x):
        try:
            return described(call(x))
        except RuntimeError as error:
            return type(error)

    with torch.device("meta") if mode == "meta" else FakeTensorMode():
        x = torch.empty(2, 4, 8, 6)
        want = outcome(x)  # the meta device lets some pass
        assert isinstance(want, type) or mode == "meta"
        with Shortened():
            for name in ("convolution", "convolution of groups", "linear", "products", "layer norm", "other shapes"):
                CALLS[name](x)  # what fits is known by then
            assert [outcome(x), outcome(x)] == [want, want]


class Frozen(dict):
    def refused(self, *_):
        raise TypeError("frozen")

    __setitem__ = update = clear = pop = refused

    def copy(self):
        return type(self)(self)


def test_an_attribute_that_cannot_be_written_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    model.settings = Frozen(width=8)
    assert [group.units for group in Space.trace(model, torch.rand(2, 3, 8, 8)).groups] == [8]
    assert model.settings == {"width": 8}


class Written(nn.Module):
    """A layer whose width is written in its forward, and attributes of the same number that are not read."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(16, 12), nn.Linear(12, 16)
        self.width = self.hidden = 12

    def forward(self, x):
        return x + self.outer(self.inner(x).reshape(-1, 12))


class Read(Written):
    def forward(self, x):
        return x + self.outer(self.inner(x).reshape(-1, self.hidden))


class Parts(Written):
    def forward(self, x):
        one, two = self.inner(x).split([4, 8], 1)
        return x + self.outer(torch.cat([two, one], 1))


def traced(monkeypatch, kind, layers):
    """The groups of a network, and how many dry runs of it the trace takes."""
    runs = []

    def counted(*args, **kwargs):
        runs.append(args)
        return run(*args, **kwargs)

    monkeypatch.setattr(dryrun, "run", counted)
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Linear(8, 16), *(kind() for _ in range(layers)), nn.Linear(16, 2))
    space = Space.trace(blocks, torch.rand(2, 8), divisor=4)
    return [group.units for group in space.groups], len(runs), space


@pytest.mark.parametrize("kind", [Written, Parts])
def test_dry_runs_of_what_cannot_shrink_do_not_grow_with_the_layers(kind, monkeypatch):
    few, many = traced(monkeypatch, kind, 2), traced(monkeypatch, kind, 8)
    assert few[0] == many[0] == [16]  # the stream alone
    assert many[1] == few[1]
    assert sum("written as a constant" in reason for reason in many[2].frozen.values()) >= 8


def test_attributes_that_a_forward_reads_follow(monkeypatch):
    groups, _, space = traced(monkeypatch, Read, 2)
    assert groups == [16, 12, 12]
    assert {counter.name for counter in space.layout.counters} & {"width", "hidden"} == {"hidden"}
