"""Costs by arithmetic equal those counted on the built network, for every candidate."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, Residual, image, network
from torch import nn
from torch.fx import Interpreter
from torch.utils.flop_counter import FlopCounterMode

import secateur
from secateur.spaces import COSTS, Candidate, Space, build
from secateur.spaces.costs import formulas
from secateur.spaces.costs.alive import largest
from secateur.spaces.graph.network import as_call, resized


class Liveness(Interpreter):
    """Runs a graph, frees values at their last use, and counts the outputs that own memory."""

    def __init__(self, module, inputs):
        super().__init__(module)
        self.inputs, self.total, self.peak, self.owned, self.fixed = inputs, 0, 0, {}, set()

    def run_node(self, node):
        self.forget(None)
        result = super().run_node(node)
        for tensor in tensors([result]) if node.op in ("placeholder", "call_function") else ():
            here = tensor.untyped_storage().data_ptr()
            if node.op == "placeholder" and not any(tensor is one for one in self.inputs):
                self.fixed.add(here)
            if here not in self.fixed:
                if node.op == "call_function" and here not in self.owned:
                    self.total += tensor.numel() * tensor.element_size()
                self.owned.setdefault(here, tensor.numel() * tensor.element_size())
        self.forget(result)
        self.peak = max(self.peak, sum(self.owned.values()))
        return result

    def forget(self, latest):
        used = [value for node, value in self.env.items() if node.users]  # PyTorch's keeps what is never used
        alive = {tensor.untyped_storage().data_ptr() for tensor in tensors([*used, latest])}
        self.owned = {key: size for key, size in self.owned.items() if key in alive}


def tensors(values):
    """The tensors in nested lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors(value)


def counted(model, example, side=None, batch=1):
    """The costs of a built network for one example, by running it."""
    args, kwargs = as_call(resized(example, side, batch))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:  # on the meta device, because it does not see attention and LSTM on the CPU
        copy.deepcopy(model).to("meta")(*(a.to("meta") for a in args), **{k: a.to("meta") for k, a in kwargs.items()})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # export warns of a recurrent layer's flat weights
        program = torch.export.export(model, args, kwargs, strict=False)
        graph = program.graph_module
        values = [
            program.state_dict.get(spec.target, program.constants.get(spec.target))
            for spec in program.graph_signature.input_specs
        ]
        given = iter([*args, *kwargs.values()])
        values = [value if value is not None else next(given) for value in values]
        run = Liveness(graph, [*args, *kwargs.values()])
        run.run(*values)
    params = sum(p.numel() for p in model.parameters())
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "macs": counter.get_total_flops() / 2 / batch,
        "params": params,
        "param_bytes": size,
        "activation_bytes": run.total / batch,
        "peak_bytes": size + run.peak / batch,
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_arithmetic_equals_counting(name):
    model, example = network(name)
    space = Space.trace(model, example, divisor=2)
    candidates = [space.full, space.smallest, *space.sample(3, seed=3)]
    table = space.costs(candidates)
    for row, candidate in enumerate(candidates):
        found = counted(build(model, space, candidate), example)
        assert table.iloc[row].to_dict() == found


def test_arithmetic_equals_counting_at_every_side():
    model, example = network("residual")
    space = Space.trace(model, example, resolutions=(12, 11, 7, (9, 6)), divisor=2)
    assert space.resolutions == ((7, 7), (9, 6), (11, 11), (12, 12))
    candidates = space.sample(6, seed=0)
    table = space.costs(candidates)
    assert len({c[-1] for c in candidates}) > 2
    for row, candidate in enumerate(candidates):
        small = build(model, space, candidate)
        assert table.iloc[row].to_dict() == counted(small, example, space.side(candidate))
        assert small(resized(example, space.side(candidate), 2)).shape == (2, 5)


def test_golden_macs():
    # stem 3*8*9*144 = 31104; a block of 8 at 12x12: 2 * 8*8*9*144 = 165888; the strided one at 6x6:
    # 8*16*9*36 + 16*16*9*36 + 8*16*36 = 41472 + 82944 + 4608; a block of 16: 2 * 82944; the head 16*5 = 80
    space = Space.trace(Residual(blocks=2), image(1, 3, 12, 12))
    full = 31104 + 2 * 165888 + (41472 + 82944 + 4608) + 2 * 82944 + 80
    assert space.costs([space.full]).macs[0] == full
    no_blocks = space.uniform(depth=0)
    assert space.costs([no_blocks]).macs[0] == full - 2 * 165888 - 2 * 82944


def test_costs_are_monotone_in_every_axis():
    space = Space.trace(Residual(), image(1, 3, 12, 12), resolutions=(12, 10, 7), divisor=2)
    random = np.random.default_rng(0)
    for candidate in space.sample(30, seed=0):
        number = int(random.integers(len(space.axes)))
        rows = np.array([[*candidate[:number], c, *candidate[number + 1 :]] for c in space.axes[number].choices])
        table = space.costs(rows)
        for name in COSTS:
            assert (np.diff(table[name]) >= 0).all()


def test_a_batch_costs_what_each_costs_alone():
    space = Space.trace(Residual(), image(1, 3, 12, 12), resolutions=(12, 8), divisor=2)
    candidates = space.sample(20, seed=1)
    table = space.costs(space.encode(candidates))
    for row, candidate in enumerate(candidates):
        assert table.iloc[row].tolist() == space.costs([candidate]).iloc[0].tolist()
    assert table.shape == (20, len(COSTS)) and (table.dtypes == np.int64).all()


def test_depth_counts_a_skipped_input_once():
    # the input of the blocks is used again after them: with all blocks gone it must not count twice
    model, example = network("branchy")
    space = Space.trace(model, example, divisor=2)
    for kept in range(4):
        candidate = space.check([*space.full[:-1], kept])
        assert space.costs([candidate]).peak_bytes[0] == counted(build(model, space, candidate), example)["peak_bytes"]


def attention(x, heads=2, kv_heads=2, **options):
    """Attention over tokens `(b, t, c)` whose heads the keys and values may share."""
    split = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    shared = split[:, :kv_heads]
    return F.scaled_dot_product_attention(split, shared, shared, **options).transpose(1, 2).flatten(2)


def state(x):
    """A state made from nothing."""
    return torch.zeros(1, x.shape[0], 8, dtype=x.dtype, device=x.device)


CALLS = {  # what is called on tokens (b, 9, 8), with a module or parameter
    "matmul": (None, lambda m, x: (x @ x.transpose(1, 2)).softmax(-1) @ x),
    "matmul of a matrix": (nn.Parameter(torch.rand(8, 6)), lambda w, x: x @ w),
    "matrix times tokens": (nn.Parameter(torch.rand(5, 9)), lambda w, x: w @ x),
    "bmm": (None, lambda m, x: torch.bmm(x, x.mT)),
    "baddbmm": (None, lambda m, x: torch.baddbmm(x, torch.bmm(x, x.mT), x)),
    "mm": (nn.Parameter(torch.rand(8, 6)), lambda w, x: torch.mm(x.mean(1), w)),
    "addmm": (nn.Parameter(torch.rand(8, 6)), lambda w, x: torch.addmm(w[0], x.mean(1), w)),
    "linear": (nn.Linear(8, 6), lambda m, x: m(x)),
    "functional linear": (nn.Parameter(torch.rand(6, 8)), lambda w, x: F.linear(x, w)),
    "einsum": (None, lambda m, x: torch.einsum("bic,bjc->bij", x, x)),
    "einsum that sums first": (None, lambda m, x: torch.einsum("bic,bjd->bij", x, x)),
    "einsum of three": (None, lambda m, x: torch.einsum("bic,bjc,bjd->bid", x, x, x)),
    "einsum of four": (nn.Parameter(torch.rand(8, 6)), lambda w, x: torch.einsum("bic,ck,dk,bjd->bij", x, w, w, x)),
    "einsum with dots": (nn.Parameter(torch.rand(8, 6)), lambda w, x: torch.einsum("...c,ck->...k", x, w)),
    "einsum without an arrow": (nn.Parameter(torch.rand(8, 6)), lambda w, x: torch.einsum("bic,ck", x, w)),
    "einsum by elements": (nn.Parameter(torch.rand(8)), lambda w, x: torch.einsum("bic,c->bic", x, w)),
    "tensordot": (nn.Parameter(torch.rand(6, 8, 5)), lambda w, x: torch.tensordot(x, w, ([2], [1]))),
    "attention": (None, lambda m, x: attention(x)),
    "causal attention": (None, lambda m, x: attention(x, is_causal=True)),
    "grouped heads": (None, lambda m, x: attention(x, 4, 2, enable_gqa=True)),
    "multi-head attention": (nn.MultiheadAttention(8, 2, batch_first=True), lambda m, x: m(x, x, x)[0]),
    "encoder layer": (nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), lambda m, x: m(x)),
    "lstm": (nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True), lambda m, x: m(x)[0]),
    "lstm with projection": (nn.LSTM(8, 6, proj_size=4), lambda m, x: m(x.transpose(0, 1))[1][0].transpose(0, 1)),
    "lstm from a state": (nn.LSTM(8, 8, batch_first=True), lambda m, x: m(x, (state(x), state(x)))[0]),
    "gru": (nn.GRU(8, 6, 2, batch_first=True), lambda m, x: m(x)[0]),
    "rnn": (nn.RNN(8, 6, nonlinearity="relu"), lambda m, x: m(x.transpose(0, 1))[0].transpose(0, 1)),
    "lstm cell": (nn.LSTMCell(8, 6), lambda m, x: m(x[:, 0])[1]),
    "gru cell": (nn.GRUCell(8, 6), lambda m, x: m(x[:, 0])),
    "functional convolution": (nn.Parameter(torch.rand(6, 8, 3)), lambda w, x: F.conv1d(x.mT, w, padding=1)),
    "grouped transposed convolution": (nn.ConvTranspose1d(8, 6, 3, 2, groups=2), lambda m, x: m(x.mT)),
    "depthwise transposed convolution": (nn.ConvTranspose1d(8, 8, 2, 2, groups=8), lambda m, x: m(x.mT)),
    "several results": (None, lambda m, x: torch.topk(x.mT, 3)[0] * torch.var_mean(x, 1, keepdim=True)[1].mT),
    "chunks": (None, lambda m, x: torch.cat([part.relu() for part in x.chunk(2, -1)], 1)),
    "a filled volume": (None, lambda m, x: filled(x)),
    "positions of each example": (nn.Parameter(torch.rand(8, 8)), lambda w, x: relative(w, x, 1)),
    "positions of each example, first": (nn.Parameter(torch.rand(8, 8)), lambda w, x: relative(w, x, 0)),
}
NOT_COUNTED = {  # by PyTorch's counter
    "bilinear": (nn.Bilinear(8, 8, 6), lambda m, x: m(x, x), 9 * 8 * 8 * 6),
    "matrix times vector": (nn.Parameter(torch.rand(8)), lambda w, x: x @ w, 9 * 8),
    "addbmm": (None, lambda m, x: torch.addbmm(x[0, 0], x.mT, x), 8 * 9 * 8),
}


def relative(positions, x, axis):
    """Scores of relative positions, repeated for each example before they are projected, as in Transformer-XL."""
    sizes = [-1, -1]
    sizes.insert(axis, x.shape[0])
    keys = positions.unsqueeze(axis).expand(*sizes) @ positions
    return torch.einsum("bic,jbc->bij" if axis else "bic,bjc->bij", x, keys)


def filled(x):
    """A cost volume made by slice assignment."""
    batch, tokens, channels = x.shape
    volume = torch.zeros(batch, tokens, 2 * channels, dtype=x.dtype, device=x.device)
    volume[:, :, :channels] = x
    volume[:, 1:, channels:] = x[:, 1:]
    return volume


class Called(nn.Module):
    """A convolution, one call, and a linear layer."""

    def __init__(self, inner, function):
        super().__init__()
        self.stem, self.inner, self.function = nn.Conv2d(3, 8, 1), inner, function
        self.tail = nn.Identity()
        self.tail = nn.Linear(self(torch.rand(2, 3, 3, 3)).shape[-1], 2)

    def forward(self, x):
        return self.tail(self.function(self.inner, F.relu(self.stem(x)).flatten(2).transpose(1, 2)))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", CALLS)
def test_every_operator_that_multiplies(name):
    inner, function = CALLS[name]
    model, example = Called(copy.deepcopy(inner), function).double().eval(), image(1, 3, 3, 3).double()
    space = Space.trace(model, example, divisor=2)
    candidates = list(dict.fromkeys([space.full, *space.sample(1, seed=1)]))
    table = space.costs(candidates)
    for row, candidate in enumerate(candidates):
        assert table.iloc[row].to_dict() == counted(build(model, space, candidate), example, batch=2)


@pytest.mark.parametrize("name", NOT_COUNTED)
def test_operators_that_other_counters_do_not_know(name):
    inner, function, macs = NOT_COUNTED[name]
    model = Called(copy.deepcopy(inner), function).double().eval()
    space = Space.trace(model, image(1, 3, 3, 3).double())
    known = counted(model, image(1, 3, 3, 3).double(), batch=2)["macs"]  # the convolution and the linear layer
    assert space.costs([space.full]).macs[0] == macs + known


def test_a_product_of_three_varying_axes():
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 6, 1), nn.Conv1d(10, 2, 1)
            self.weight = nn.Parameter(torch.rand(8, 6, 10))

        def forward(self, x):
            return self.last(torch.einsum("bip,bjp,ijk->bkp", self.a(x).flatten(2), self.b(x).flatten(2), self.weight))

    model, example = Three().double().eval(), image(1, 3, 2, 2).double()
    space = Space.trace(model, example, divisor=2)
    assert [group.width for group in space.groups] == [8, 6, 10]
    for candidate in (space.full, space.smallest, *space.sample(3, seed=0)):
        i, j, k = candidate
        assert space.costs([candidate]).iloc[0].to_dict() == counted(build(model, space, candidate), example)
        assert space.costs([candidate]).macs[0] == 4 * (3 * i + 3 * j + i * j * k + 2 * k)


def test_moments_that_cannot_be_the_largest_are_left_out():
    random = np.random.default_rng(0)
    rows = random.integers(0, 4, (200, 6)) * random.integers(0, 2, (200, 6)).astype(float)
    low, high = np.array([1.0, 1, 2, 0, 0, 3]), np.array([1.0, 8, 4, 6, 1, 9])
    kept = largest(rows, low, high)
    assert len(kept) < 100
    points = random.uniform(low, high, (500, 6)).T
    assert np.allclose((kept @ points).max(axis=0), (rows @ points).max(axis=0))


def test_a_tied_parameter_stays_as_long_as_one_of_its_blocks():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.blocks = nn.Sequential(*[Add(nn.Conv2d(8, 8, 1)) for _ in range(3)])
            self.last = Add(nn.Conv2d(8, 8, 1))
            self.head = nn.Conv2d(8, 2, 1)
            self.blocks[1].conv.weight = self.blocks[0].conv.weight  # within a stage
            self.shift = self.blocks[2].conv.bias  # also outside of it

        def forward(self, x):
            x = self.last(torch.relu(self.blocks(self.stem(x))))
            return self.head(x + self.shift[:, None, None])

    model, example = Tied().double().eval(), image(1, 3, 4, 4).double()
    space = Space.trace(model, example, divisor=2)
    assert len(space.stages) >= 1
    for candidate in [space.full, space.smallest, *space.sample(6, seed=0)]:
        assert space.costs([candidate]).iloc[0].to_dict() == counted(build(model, space, candidate), example)


class Add(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return x + self.conv(x)


class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return torch.fft.fft2(self.conv(x)).abs()


def test_what_no_candidate_changes_needs_no_formula_and_is_named():
    space = Space.trace(Spectrum(), image(1, 3, 4, 4))
    table = space.costs([space.full])
    assert table.macs.tolist() == [4 * 4 * 3 * 8]  # the convolution alone
    assert space.uncounted == ("aten.fft_fft2",) and table.attrs["uncounted"] == ["aten.fft_fft2"]
    assert "(in no sum of multiply-adds: aten.fft_fft2)" in str(space)
    assert len(space.fingerprint) == 64


def test_what_pytorch_counts_is_counted_at_every_side():
    class Power(nn.Module):
        """`linalg_matrix_power` has no formula here; PyTorch runs it as products of matrices."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return torch.linalg.matrix_power(self.conv(x), 3)

    space = Space.trace(Power(), image(1, 3, 8, 8), resolutions=(8, 4))
    macs = space.cost_table([[0], [1]])["macs"].tolist()  # two products of 8 squares
    assert macs == [side**2 * 3 * 8 + 2 * 8 * side**3 for side in (4, 8)]
    assert space.uncounted == ()


def test_a_formula_can_be_registered(monkeypatch):
    monkeypatch.setattr(formulas, "_FORMULAS", {k: v for k, v in formulas._FORMULAS.items() if k != "aten.linear"})
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    space = Space.trace(model, image(1, 6))
    assert space.unpriced == ("aten.linear",)
    for ask in (lambda: space.costs([space.full]), lambda: space.breakdown(space.full)):
        with pytest.raises(NotImplementedError, match=r"aten.linear .* give it one by secateur.costs.register"):
            ask()
    assert "costs unknown: operator aten.linear has no formula; see costs.register" in str(space)
    secateur.costs.register(torch.ops.aten.linear, lambda call: [[2, *call.axes("input"), call.out[-1]]])
    space = Space.trace(model, image(1, 6))
    assert space.unpriced == () and space.costs([space.full]).macs.tolist() == [2 * (6 * 16 + 16 * 2)]
    assert space.costs([[8]]).macs.tolist() == [2 * (6 * 8 + 8 * 2)]


def test_a_custom_operator_is_a_constant_until_it_has_a_formula(monkeypatch):
    monkeypatch.setattr(formulas, "_FORMULAS", dict(formulas._FORMULAS))

    @torch.library.custom_op("secateur_tests::correlate", mutates_args=())
    def correlate(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return x @ kernel

    correlate.register_fake(lambda x, kernel: x.new_empty(*x.shape[:-1], kernel.shape[1]))

    class Correlated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.kernel = nn.Linear(6, 16), nn.Parameter(torch.rand(16, 16))
            self.last, self.head = nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.last(correlate(self.first(x), self.kernel)))

    space = Space.trace(Correlated(), image(1, 6))
    layers = 6 * 16 + 16 * 16 + 16 * 2
    assert space.costs([space.full]).macs.tolist() == [layers]
    assert space.uncounted == ("secateur_tests.correlate",)
    assert "no rule" in space.frozen["first"] and "last" not in space.frozen
    rows = space.breakdown(space.full).set_index("module")
    assert rows["uncounted"].to_dict() == {module: "" for module in rows.index} | {"": "secateur_tests.correlate"}
    secateur.costs.register("secateur_tests::correlate", lambda call: [[*call.out, call.axes("kernel")[0]]])
    space = Space.trace(Correlated(), image(1, 6))
    assert space.costs([space.full]).macs.tolist() == [layers + 16 * 16]
    assert space.uncounted == () and "uncounted" not in space.breakdown(space.full)


@pytest.mark.parametrize(
    ("operator", "formula", "said"),
    [
        ("correlate", lambda call: [], "takes an operator that PyTorch knows"),
        ("secateur_tests::none_such", lambda call: [], "got 'secateur_tests::none_such'"),
        (torch.relu, lambda call: [], "takes an operator that PyTorch knows"),
        (torch.ops.aten.relu, 5, "the formula of aten.relu is a int"),
    ],
)
def test_a_formula_of_nothing_is_refused(operator, formula, said):
    with pytest.raises(TypeError, match=said):
        secateur.costs.register(operator, formula)


def test_products_and_attention():
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.qkv, self.out = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 24), torch.nn.Linear(8, 5)

        def forward(self, x):
            x = self.embed(x).flatten(2).transpose(1, 2)
            q, k, v = self.qkv(x).chunk(3, -1)
            y = (q @ k.transpose(1, 2)).softmax(-1) @ v
            return self.out(torch.nn.functional.scaled_dot_product_attention(y, k, v))

    space = Space.trace(Attention(), image(1, 3, 8, 8))
    # 4 tokens: embed 3*8*16*4, qkv 4*8*24, two products 2 * 4*4*8, attention 2 * 4*4*8, out 4*8*5
    assert space.costs([space.full]).macs[0] == 1536 + 768 + 256 + 256 + 160
    assert math.isclose(space.costs([space.full]).params[0], 3 * 8 * 16 + 8 + 8 * 24 + 24 + 8 * 5 + 5)


class Heads(nn.Module):
    """Self-attention whose heads are put last by a copy, which is none with one head."""

    def __init__(self, fused):
        super().__init__()
        self.fused, self.size = fused, 4
        self.qkv, self.out = nn.Linear(6, 3 * 12), nn.Linear(12, 2)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, -1, self.size).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        else:
            y = ((q @ k.mT).softmax(-1) @ v).permute(0, 2, 1, 3).contiguous()
        y = y.reshape(*x.shape[:2], -1)
        return self.out(y + y.relu())


class Last(nn.Module):
    """Channels put last by a copy, which is none with one channel."""

    def __init__(self):
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        y = self.stem(x).permute(0, 2, 3, 1).contiguous()
        return self.out((y.sin() + y).flatten(1, 2))


@pytest.mark.parametrize(
    ("model", "shape", "widths"),
    [
        (Heads(True), (1, 5, 6), (12, 24, 36)),
        (Heads(False), (1, 5, 6), (12, 24, 36)),
        (Last(), (1, 3, 5, 4), (1, 2, 3, 4)),
    ],
    ids=["fused", "by hand", "channels"],
)
def test_what_only_several_heads_or_channels_copy(model, shape, widths):
    space = Space.trace(model.eval(), torch.rand(shape), divisor=1)
    assert [axis.choices for axis in space.axes] == [widths]
    table = space.costs([Candidate([width]) for width in widths])
    for row, width in enumerate(widths):
        small = build(model, space, Candidate([width]))
        assert table.iloc[row].to_dict() == counted(small, torch.rand(shape), batch=2)
