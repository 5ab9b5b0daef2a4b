"""Random small networks, written as code: a failing one can be read, and pasted.

A `Draft` grows by steps. Each step takes one of the values that are there, adds layers and lines, and gives a new
value `(n, channels, *side)`. `STEPS` lists them; a step that does not fit a value leaves the draft alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import gcd, prod
from typing import Any

import torch
import torch.nn.functional as F
from constructs_base import image, randomise
from torch import nn

Pick = Callable[[Sequence[Any]], Any]
WIDTHS = (4, 6, 8, 12)


@dataclass(frozen=True)
class Value:
    """A tensor of the forward: its name, its channels and its spatial side."""

    name: str
    c: int
    side: tuple[int, ...]

    def __str__(self) -> str:
        return self.name


@dataclass
class Draft:
    """A network that is being written.

    Attributes:
        axes: spatial axes.
        layers: lines of the constructor.
        lines: lines of the forward.
        values: that later steps may use.
        mixes: norms over channels, as in `constructs_base.Construct`.
    """

    axes: int
    layers: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    mixes: dict[str, str] = field(default_factory=dict)
    outputs: str = ""

    def layer(self, text: str) -> str:
        """Add a layer or a parameter; its name in the forward."""
        name = f"l{len(self.layers)}"
        self.layers.append(f"self.{name} = {text}")
        return f"self.{name}"

    def conv(self, c: int, o: int, k: int = 1, **how: Any) -> str:
        """Add a convolution that keeps the side unless it strides."""
        extra = "".join(f", {name}={value}" for name, value in how.items())
        return self.layer(f"nn.Conv{self.axes}d({c}, {o}, {k}, padding={k // 2}{extra})")

    def value(self, text: str, c: int, side: tuple[int, ...]) -> Value:
        """Add a line; the value it gives."""
        made = Value(f"v{len(self.values)}_{len(self.lines)}", c, side)
        self.lines.append(f"{made.name} = {text}")
        return made

    @property
    def code(self) -> str:
        """The class `Network`."""
        init = "".join(f"        {line}\n" for line in self.layers)
        forward = "".join(f"        {line}\n" for line in self.lines)
        return (
            f"class Network(nn.Module):\n    def __init__(self):\n        super().__init__()\n{init}\n"
            f"    def forward(self, x):\n{forward}        return {self.outputs}\n"
        )

    def network(self) -> tuple[nn.Module, torch.Tensor]:
        """The network with seeded weights, float64, eval; and its example."""
        scope: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "Block": Block, "__name__": __name__}
        exec(compile(self.code, "<draft>", "exec"), scope)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = scope["Network"]()
            for module in model.modules():
                randomise(module)
        first = self.values[0]
        return model.double().eval(), image(2, first.c, *first.side).double()


# --- layers -----------------------------------------------------------------------------------------------------------


def convolution(d: Draft, pick: Pick, x: Value) -> Value:
    o, k, stride = pick(WIDTHS), pick((1, 3)), pick((1, 1, 2))
    groups = pick([g for g in (1, 2, 3, 4, 6) if gcd(x.c, o) % g == 0])
    if stride == 2 and (min(x.side) < 4 or any(s % 2 for s in x.side)):
        stride = 1
    layer = d.conv(x.c, o, k, stride=stride, groups=groups, bias=pick((True, False)))
    return d.value(f"{layer}({x})", o, tuple(s // stride for s in x.side))


def depthwise(d: Draft, pick: Pick, x: Value) -> Value:
    times = pick((1, 2)) if x.c <= 12 else 1
    return d.value(f"{d.conv(x.c, x.c * times, 3, groups=x.c)}({x})", x.c * times, x.side)


def transposed(d: Draft, pick: Pick, x: Value) -> Value:
    o = pick((x.c, *WIDTHS))
    groups = pick([g for g in (1, 2, x.c) if gcd(x.c, o) % g == 0])
    layer = d.layer(f"nn.ConvTranspose{d.axes}d({x.c}, {o}, 2, 2, groups={groups}, bias={pick((True, False))})")
    if prod(x.side) > 64:
        return d.value(f"F.avg_pool{d.axes}d({layer}({x}), 2)", o, x.side)
    return d.value(f"{layer}({x})", o, tuple(2 * s for s in x.side))


def norm(d: Draft, pick: Pick, x: Value) -> Value:
    kind = pick(("batch", "instance", "affine", "group", "last", "rms"))
    if kind == "batch" or prod(x.side) == 1:
        return d.value(f"{d.layer(f'nn.BatchNorm{d.axes}d({x.c})')}({x})", x.c, x.side)
    if kind in ("instance", "affine"):
        layer = d.layer(f"nn.InstanceNorm{d.axes}d({x.c}, affine={kind == 'affine'})")
        return d.value(f"{layer}({x})", x.c, x.side)
    if kind == "group":
        layer = d.layer(f"nn.GroupNorm({pick([g for g in (1, 2, 3, 4, x.c) if x.c % g == 0])}, {x.c})")
    else:
        layer = d.layer(f"nn.{'LayerNorm' if kind == 'last' else 'RMSNorm'}({x.c})")
    d.mixes[layer.removeprefix("self.")] = layer.removeprefix("self.") + ".weight"
    if kind == "group":
        return d.value(f"{layer}({x})", x.c, x.side)
    return d.value(f"{layer}({x}.movedim(1, -1)).movedim(-1, 1)", x.c, x.side)


def activation(d: Draft, pick: Pick, x: Value) -> Value:
    kind = pick(("F.relu", "F.silu", "F.gelu", "torch.sigmoid", "torch.tanh", "F.softplus", "prelu", "dropout"))
    if kind in ("prelu", "dropout"):
        kind = d.layer(f"nn.PReLU({x.c})" if kind == "prelu" else "nn.Dropout(0.2)")
    return d.value(f"{kind}({x})", x.c, x.side)


def shared(d: Draft, pick: Pick, x: Value) -> Value:
    layer = d.conv(x.c, x.c, 3, groups=pick((1, x.c)))
    return d.value(f"{layer}(F.relu({layer}({x})))", x.c, x.side)


def weight_norm(d: Draft, pick: Pick, x: Value) -> Value:
    o = pick(WIDTHS)
    layer = d.layer(f"nn.utils.parametrizations.weight_norm(nn.Conv{d.axes}d({x.c}, {o}, 1))")
    return d.value(f"{layer}({x})", o, x.side)


def bare_weight(d: Draft, pick: Pick, x: Value) -> Value:
    o = pick(WIDTHS)
    kind = pick(("einsum", "matmul", "conv"))
    shape = (o, x.c) + ((1,) * d.axes if kind == "conv" else ())
    w = d.layer(f"nn.Parameter(torch.rand({', '.join(map(str, shape))}) - 0.4)")
    text = {
        "einsum": f"torch.einsum('nc...,oc->no...', {x}, {w})",
        "matmul": f"({x}.movedim(1, -1) @ {w}.t()).movedim(-1, 1)",
        "conv": f"F.conv{d.axes}d({x}, {w})",
    }
    return d.value(text[kind], o, x.side)


def scale_and_shift(d: Draft, pick: Pick, x: Value) -> Value:
    ones = ", 1" * d.axes
    scale = d.layer(f"nn.Parameter(torch.rand({x.c}{ones}) + 0.5)")
    shift = d.layer(f"nn.Buffer(torch.rand(1, {x.c}{ones}))")
    return d.value(f"{x} * {scale} - {shift}", x.c, x.side)


# --- wiring -----------------------------------------------------------------------------------------------------------


def residual(d: Draft, pick: Pick, x: Value) -> Value:
    y = norm(d, pick, convolution(d, pick, x))
    if (y.c, y.side) == (x.c, x.side):
        return d.value(f"F.relu({x} + {y})", x.c, x.side)
    projection = d.conv(x.c, y.c, stride=x.side[0] // y.side[0])
    return d.value(f"{projection}({x}) + {y}", y.c, y.side)


class Block(nn.Module):
    """A residual block that may be dropped."""

    def __init__(self, c: int, h: int, conv: Any, norm: Any):
        super().__init__()
        self.body = nn.Sequential(conv(c, h, 3, padding=1), norm(h), nn.ReLU(), conv(h, c, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.body(x))


def blocks(d: Draft, pick: Pick, x: Value) -> Value:
    block = f"Block({x.c}, {pick(WIDTHS)}, nn.Conv{d.axes}d, nn.BatchNorm{d.axes}d)"
    stage = d.layer(f"nn.Sequential({', '.join([block] * pick((2, 1, 3)))})")
    return d.value(f"{stage}({x})", x.c, x.side)


def join(d: Draft, pick: Pick, x: Value) -> Value:
    other = pick([v for v in d.values if v.side == x.side])
    if other.c == x.c and pick((True, False)):
        return d.value(f"{x} {pick(('+', '*', '-'))} {other}", x.c, x.side)
    return d.value(f"{d.conv(other.c, x.c)}({other}) + {x}", x.c, x.side)


def concat(d: Draft, pick: Pick, x: Value) -> Value:
    others = [pick([v for v in d.values if v.side == x.side]) for _ in range(pick((1, 2)))]
    c = x.c + sum(v.c for v in others)
    if c > 40:
        return x
    return d.value(f"torch.cat([{', '.join(map(str, (x, *others)))}], 1)", c, x.side)


def squeeze_excite(d: Draft, pick: Pick, x: Value) -> Value:
    axes = tuple(range(2, 2 + d.axes))
    if pick((True, False)):
        down, up = d.conv(x.c, 4), d.conv(4, x.c)
        gate = f"{up}(F.relu({down}({x}.mean({axes}, keepdim=True))))"
    else:
        down, up = d.layer(f"nn.Linear({x.c}, 4)"), d.layer(f"nn.Linear(4, {x.c})")
        gate = f"{up}(F.relu({down}({x}.mean({axes})))).view({x}.shape[0], -1{', 1' * d.axes})"
    return d.value(f"{x} * torch.sigmoid({gate})", x.c, x.side)


def spatial_gate(d: Draft, pick: Pick, x: Value) -> Value:
    gate = pick((f"{x}.amax(1, keepdim=True)", f"{x}.mean(1, keepdim=True)", ""))
    return d.value(f"{x} * torch.sigmoid({gate or f'{d.conv(x.c, 1)}({x})'})", x.c, x.side)


def halves(d: Draft, pick: Pick, x: Value) -> Value:
    if x.c % 2:
        return x
    half = x.c // 2
    left, right = Value(f"a{len(d.lines)}", half, x.side), Value(f"b{len(d.lines)}", half, x.side)
    how = pick(
        (
            f"{x}.chunk(2, 1)",
            f"{x}.split({x}.shape[1] // 2, 1)",
            f"{x}.split({half}, 1)",
            f"{x}[:, :{x}.shape[1] // 2], {x}[:, {x}.shape[1] // 2:]",
            f"{x}[:, :{half}], {x}[:, {half}:]",
            f"{x}.view({x}.shape[0], 2, -1, *{x}.shape[2:]).unbind(1)",
        )
    )
    d.lines.append(f"{left}, {right} = {how}")
    then = pick(("cat", "gate", "conv"))
    if then == "gate":
        return d.value(f"{left} * torch.sigmoid({right})", half, x.side)
    if then == "conv":
        right = d.value(f"F.relu({d.conv(half, half, 3)}({right}))", half, x.side)
    return d.value(f"torch.cat([{left}, {right}], 1)", x.c, x.side)


def unequal_parts(d: Draft, pick: Pick, x: Value) -> Value:
    first = pick((1, 2, 3))
    o = pick(WIDTHS)
    if first >= x.c:
        return x
    left, right = d.conv(first, o), d.conv(x.c - first, o)
    how = pick((f"{x}.split([{first}, {x.c - first}], 1)", f"{x}[:, :{first}], {x}[:, {first}:]"))
    a, b = f"a{len(d.lines)}", f"b{len(d.lines)}"
    d.lines.append(f"{a}, {b} = {how}")
    return d.value(f"{left}({a}) + {right}({b})", o, x.side)


def non_local(d: Draft, pick: Pick, x: Value) -> Value:
    if prod(x.side) > 64:
        return x
    q, k, v = (d.conv(x.c, 4) for _ in range(3))
    a = f"torch.softmax({q}({x}).flatten(2).transpose(1, 2) @ {k}({x}).flatten(2), -1)"
    y = d.value(f"{a} @ {v}({x}).flatten(2).transpose(1, 2)", 4, x.side)
    return d.value(
        f"{x} + {d.conv(4, x.c)}({y}.transpose(1, 2).reshape({x}.shape[0], -1, *{x}.shape[2:]))", x.c, x.side
    )


def token_mlp(d: Draft, pick: Pick, x: Value) -> Value:
    h = pick(WIDTHS)
    up, down = d.layer(f"nn.Linear({x.c}, {h})"), d.layer(f"nn.Linear({h}, {x.c})")
    y = d.value(f"{down}(F.gelu({up}({x}.flatten(2).transpose(1, 2)))).transpose(1, 2)", x.c, x.side)
    return d.value(f"{x} + {y}.reshape({x}.shape)", x.c, x.side)


# --- movement ---------------------------------------------------------------------------------------------------------


def pool(d: Draft, pick: Pick, x: Value) -> Value:
    kind = pick(("max", "avg", "adaptive_avg", "adaptive_max"))
    if min(x.side) < 2:
        return x
    side = tuple(s // 2 for s in x.side)
    return d.value(f"F.{kind}_pool{d.axes}d({x}, {side if 'adaptive' in kind else 2})", x.c, side)


def upsample(d: Draft, pick: Pick, x: Value) -> Value:
    if prod(x.side) > 32:
        return x
    side = tuple(2 * s for s in x.side)
    smooth = ("linear", "bilinear", "trilinear")[d.axes - 1]
    how = pick(("scale_factor=2", f"size={side}", f"scale_factor=2, mode='{smooth}'"))
    return d.value(f"F.interpolate({x}, {how})", x.c, side)


def shuffle(d: Draft, pick: Pick, x: Value) -> Value:
    g = pick([g for g in (1, 2, 3, 4) if x.c % g == 0])
    if g == 1:
        return x
    if pick((True, False)):
        y = d.value(f"{x}.view({x}.shape[0], {g}, -1, *{x}.shape[2:])", x.c, x.side)
        return d.value(f"{y}.transpose(1, 2).flatten(1, 2)", x.c, x.side)
    return d.value(f"{d.layer(f'nn.ChannelShuffle({g})')}({x})", x.c, x.side)


def pixel_shuffle(d: Draft, pick: Pick, x: Value) -> Value:
    if d.axes == 2 and x.c % 4 == 0 and x.c > 4 and prod(x.side) <= 16:
        return d.value(f"F.pixel_shuffle({x}, 2)", x.c // 4, (2 * x.side[0], 2 * x.side[1]))
    if d.axes == 2 and not any(s % 2 for s in x.side) and x.c <= 8:
        return d.value(f"F.pixel_unshuffle({x}, 2)", x.c * 4, (x.side[0] // 2, x.side[1] // 2))
    return x


def written_view(d: Draft, pick: Pick, x: Value) -> Value:
    return d.value(
        f"{x}.reshape(-1, {x.c}, {prod(x.side)}).view(-1, {', '.join(map(str, (x.c, *x.side)))})", x.c, x.side
    )


def written_slice(d: Draft, pick: Pick, x: Value) -> Value:
    stop = pick((2, 3, 4, 32))
    if stop == 32:
        return d.value(f"{x}[:, :32]", min(x.c, 32), x.side)
    return d.value(f"{x}[:, {x.c - stop}:]", stop, x.side) if stop < x.c else x


def maxout(d: Draft, pick: Pick, x: Value) -> Value:
    if x.c % 2 or x.c < 4:
        return x
    if pick((True, False)):
        return d.value(f"{x}.view({x}.shape[0], {x}.shape[1] // 2, 2, *{x}.shape[2:]).amax(2)", x.c // 2, x.side)
    return d.value(f"{x}.reshape({x}.shape[0], 2, -1, *{x}.shape[2:]).amax(1)", x.c // 2, x.side)


def stack(d: Draft, pick: Pick, x: Value) -> Value:
    y = d.value(f"{d.conv(x.c, x.c)}({x})", x.c, x.side)
    if pick((True, False)) and x.c <= 12:
        return d.value(f"torch.stack([{x}, {y}], 2).flatten(1, 2)", 2 * x.c, x.side)
    return d.value(f"torch.stack([{x}, {y}], 1).softmax(1).sum(1)", x.c, x.side)


def pad(d: Draft, pick: Pick, x: Value) -> Value:
    mode = pick(("space", "channels", "reflect", "circular"))
    if mode == "channels":
        return d.value(f"F.pad({x}, {(0, 0) * d.axes + (0, 2)})", x.c + 2, x.side)
    if mode == "space" or min(x.side) < 2 or prod(x.side) > 64:
        return d.value(f"F.pad({x}, {(1, -1) * d.axes}, value=0.5)", x.c, x.side)
    return d.value(f"F.pad({x}, {(1, 0) * d.axes}, mode='{mode}')", x.c, tuple(s + 1 for s in x.side))


def move_space(d: Draft, pick: Pick, x: Value) -> Value:
    how = pick(
        (".roll(1, 2)", ".flip(-1)", ".transpose(1, -1).contiguous().transpose(1, -1)", ".unsqueeze(1).squeeze(1)")
    )
    return d.value(f"{x}{how}", x.c, x.side)


def assign(d: Draft, pick: Pick, x: Value) -> Value:
    if pick((True, False)):
        y = d.value(f"{x}.clone()", x.c, x.side)
        d.lines.append(f"{y}[..., 0] = {pick((f'{x}[..., -1]', '0', '1.5'))}")
        return y
    other = pick([v for v in d.values if v.side == x.side])
    if x.c + other.c > 40:
        return x
    shape = f"{x}.shape[0], {x}.shape[1] + {other}.shape[1], *{x}.shape[2:]"
    y = d.value(f"{x}.new_zeros({shape})", x.c + other.c, x.side)
    d.lines.append(f"{y}[:, :{x}.shape[1]] = {x}")
    d.lines.append(f"{y}[:, {x}.shape[1]:] = {other}")
    return y


def zeros_beside(d: Draft, pick: Pick, x: Value) -> Value:
    if x.c > 12:
        return x
    return d.value(f"torch.cat([{x}, torch.zeros_like({x})], 1)", 2 * x.c, x.side)


def size_as_value(d: Draft, pick: Pick, x: Value) -> Value:
    """What a forward makes of the sizes of a value: a scale, a shift or a bound."""
    counts = (
        "torch.tensor({0}.shape[1])",
        "{0}.new_tensor({0}.shape[1])",
        "torch.as_tensor([float({0}.shape[1])], dtype={0}.dtype)",
        "torch.full((), float({0}.shape[1]), dtype={0}.dtype)",
        "torch.ones({0}.shape[1], dtype={0}.dtype).sum()",
        "torch.ones_like({0}[:1]).sum()",
        "torch.arange({0}.shape[1]).double().mean().add(1)",
        "torch.tensor(list({0}.shape[1:])).prod()",
        "torch.tensor({0}[0].numel())",
        "torch.tensor({0}.shape[-1])",
    )
    if pick((True, True, False)):
        return d.value(f"{x} / {pick(counts).format(x)}", x.c, x.side)
    if pick((True, False)):
        return d.value(f"{x}.roll({x}.shape[1] // 2, -1)", x.c, x.side)
    ramp = f"torch.linspace(0, 1, {x}.shape[1], dtype={x}.dtype)"
    return d.value(f"{x} * {ramp}.view(-1, {', '.join('1' * d.axes)})", x.c, x.side)


def in_training(d: Draft, pick: Pick, x: Value) -> Value:
    """What a forward calculates otherwise in training; channels that are zero stay so."""
    ways = ("{0} * 1.5", "{0}.flip(-1)", "{0} * {0}.shape[1]", "{0} / {0}.new_tensor({0}.shape[1])", "F.relu({0})")
    return d.value(f"({pick(ways).format(x)} if self.training else {x})", x.c, x.side)


STEPS = (
    convolution, norm, activation, residual, concat, halves, depthwise, join, shared, transposed, squeeze_excite, pool,
    upsample, shuffle, token_mlp, spatial_gate, unequal_parts, non_local, pixel_shuffle, written_view, written_slice,
    maxout, stack, pad, move_space, assign, zeros_beside, weight_norm, bare_weight, scale_and_shift,
    blocks, size_as_value,
)  # fmt: skip
SIZED = (size_as_value, *STEPS[:6], size_as_value, *STEPS[6:12], size_as_value)
"""Steps of networks whose forwards often make values of sizes."""


# --- the whole --------------------------------------------------------------------------------------------------------


def finish(d: Draft, pick: Pick, x: Value) -> None:
    """A head on the last value, and maybe a second output."""
    kind = pick(("pooled", "convolution", "flat", "written"))
    axes = tuple(range(2, 2 + d.axes))
    if kind == "convolution":
        outputs = f"{d.conv(x.c, 2)}({x})"
    elif kind == "pooled" or x.c * prod(x.side) > 512:
        outputs = f"{d.layer(f'nn.Linear({x.c}, 3)')}({x}.mean({axes}))"
    else:
        n = x.c * prod(x.side)
        first, last = d.layer(f"nn.Linear({n}, 6)"), d.layer("nn.Linear(6, 3)")
        flat = f"{x}.flatten(1)" if kind == "flat" else f"{x}.reshape(-1, {n})"
        outputs = f"{last}(F.relu({first}({flat})))"
    if pick((False, True)):
        other = pick(d.values[1:] or d.values)
        outputs = f"{{'main': {outputs}, 'other': ({d.conv(other.c, 1)}({other}),)}}"
    d.outputs = outputs


def draft(pick: Pick, most: int = 8, steps: Sequence[Any] = STEPS) -> Draft:
    """A random network.

    Args:
        pick: chooses one of a sequence; a test gives one that can be shrunk, where the first is the simplest.
        most: how many steps at most.
        steps: of which each is one.
    """
    d = Draft(pick((2, 1, 3)))
    side = {1: (8,), 2: (6, 6), 3: (4, 4, 2)}[d.axes]
    x = Value("x", 3, side)
    d.values.append(x)
    d.values.append(convolution(d, pick, x))
    for _ in range(pick(range(1, most + 1))):
        x = pick(d.values[:0:-1])
        made = pick(steps)(d, pick, x)
        if made not in d.values:
            d.values.append(made)
    finish(d, pick, d.values[-1])
    return d


BRANCHING = (in_training, *SIZED[:7], in_training, *SIZED[7:])
"""The same with forwards that branch on `training`, too."""
