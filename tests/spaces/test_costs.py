"""Costs by arithmetic equal those counted on the built network, for every candidate."""

import math

import numpy as np
import pytest
import torch
from networks import NETWORKS, Residual, image, network
from torch.fx import Interpreter
from torch.utils.flop_counter import FlopCounterMode

from secateur.spaces import COSTS, Space, build
from secateur.spaces.graph import as_call, resized


class Liveness(Interpreter):
    """Runs a graph, frees values at their last use, and counts the outputs that own memory."""

    def __init__(self, module, inputs):
        super().__init__(module)
        self.inputs, self.total, self.peak, self.owned, self.fixed = inputs, 0, 0, {}, set()

    def run_node(self, node):
        self.forget(None)
        result = super().run_node(node)
        if isinstance(result, torch.Tensor) and node.op in ("placeholder", "call_function"):
            here = result.untyped_storage().data_ptr()
            if node.op == "placeholder" and not any(result is one for one in self.inputs):
                self.fixed.add(here)
            if here not in self.fixed:
                if node.op == "call_function" and here not in self.owned:
                    self.total += result.numel() * result.element_size()
                self.owned.setdefault(here, result.numel() * result.element_size())
        self.forget(result)
        self.peak = max(self.peak, sum(self.owned.values()))
        return result

    def forget(self, latest):
        alive = {}
        values = [*self.env.values(), latest]
        for value in [*values, *(item for many in values if isinstance(many, (list, tuple)) for item in many)]:
            if isinstance(value, torch.Tensor):
                alive[value.untyped_storage().data_ptr()] = True
        self.owned = {key: size for key, size in self.owned.items() if key in alive}


def counted(model, example, side=None):
    """The costs of a built network, by running it."""
    args, kwargs = as_call(resized(example, side, 1))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(*args, **kwargs)
    with torch.no_grad():
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
        "macs": counter.get_total_flops() // 2,
        "params": params,
        "param_bytes": size,
        "activation_bytes": run.total,
        "peak_bytes": size + run.peak,
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


def test_what_multiplies_without_a_formula_is_named():
    class Einsum(torch.nn.Module):
        def forward(self, x):
            return torch.einsum("nchw,nchw->nc", x, x)

    with pytest.raises(NotImplementedError, match="einsum"):
        Space.trace(Einsum(), image(1, 3, 4, 4))


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
