"""Attention that loses features of its heads: of queries and keys, of values; the scale stays that of the full head."""

import copy
import json

import pytest
import torch
from attentions import KINDS, Apart, Fused, Net
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import secateur as sc
from secateur.spaces import Space, build, channel_map, verify

SIZES = {"attention": {"attention": "head_size"}}
OWN = {  # features of a head and channels of each in its first module; the angles of rotary embeddings stay
    **dict.fromkeys(("sdpa", "masked", "normed", "hand", "encoder layer"), [(8, 12)]),
    **dict.fromkeys(("grouped", "grouped by PyTorch"), [(8, 4), (8, 2)]),
    "apart": [(8, 4), (8, 4)],
    "module": [(8, 12), (8, 4)],
    "rotary": [],
}


def multiply_adds(model, x):
    """By PyTorch's counter."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).to("meta")(x.to("meta"))
    return counter.get_total_flops() // 2


def gradients(model, x):
    """By name, of a step in training."""
    model.train()(x).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_all_heads_are_an_axis_and_heads_stay(kind):
    torch.manual_seed(0)
    model, x = Net(KINDS[kind][0]()), torch.rand(2, 6, 5)
    for module in model.modules():
        module.p = 0.0  # of dropouts
    space = Space.trace(model.eval(), x, divisor=1, rules=SIZES)
    own = [group for group in space.groups if group.name.startswith("attention") and "linear" not in group.name]
    assert [(group.units, group.unit) for group in own] == OWN[kind] and not any(group.heads for group in own)
    model, x = model.double(), x.double()
    for seed in range(3):
        candidate = space.sample(1, seed=seed)[0]
        assert verify(model, space, candidate, x) < 1e-12
        small = build(model, space, candidate)
        assert multiply_adds(small, x[:1]) == space.costs([candidate]).macs[0]
        assert sum(p.numel() for p in small.parameters()) == space.costs([candidate]).params[0]


@pytest.mark.parametrize("kind", [Apart, lambda: Fused(how="hand")])
def test_what_is_left_learns_as_it_does_in_the_full_network(kind):
    torch.manual_seed(0)
    model, x = Net(kind()).double().eval(), torch.rand(2, 6, 5).double()
    space = Space.trace(model, x, divisor=1, rules={**SIZES, "embed": "ignore"})
    candidate = space.uniform(0.5)
    whole, kept = copy.deepcopy(model), channel_map(space, candidate)
    for name, axes in kept.items():
        for axis, stay in axes.items():
            tensor = whole.get_parameter(name).data
            gone = torch.ones(tensor.shape[axis]).index_fill(0, stay, 0).nonzero()[:, 0]
            tensor.index_fill_(axis, gone, 0)
    learnt = gradients(build(model, space, candidate), x)
    for name, gradient in gradients(whole, x).items():
        for axis, stay in kept.get(name, {}).items():
            gradient = gradient.index_select(axis, stay)
        torch.testing.assert_close(learnt[name], gradient)


def test_the_scale_that_a_call_leaves_out_goes_with_an_export(tmp_path):
    torch.manual_seed(0)
    model, x = Net(Apart()).eval(), torch.rand(2, 6, 5)
    space = Space.trace(model, x, divisor=1, rules=SIZES)
    small = build(model, space, space.uniform(0.5))
    figures = sc.save(tmp_path / "small", small, model=model, space=space, candidate=space.uniform(0.5))
    assert not any("left_out" in one for one in figures.values() if isinstance(one, dict))
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["numbers"]["attention"]["scaled_dot_product_attention/3 0"] == {"scale": 8**-0.5}
    with torch.no_grad():
        for one in (sc.load(tmp_path / "small", model=model), sc.load(tmp_path / "small")):
            assert torch.allclose(one(x), small(x), atol=1e-6)
        assert torch.equal(torch.compile(small, backend="eager")(x), small(x))


@pytest.mark.parametrize("kind", [Apart, Fused])
def test_a_graph_keeps_the_scale_too(kind):
    torch.manual_seed(0)
    model, x = Net(kind()).double().eval(), torch.rand(2, 6, 5).double()
    space = Space.trace(model, x, divisor=1, rules=SIZES, as_graph=True, prove=False)
    assert {"attention.q", "attention.qkv"} & {group.name for group in space.groups}
    for candidate in space.sample(2):
        assert verify(model, space, candidate, x) < 1e-12


def test_the_rule_is_told_and_a_later_one_counts():
    torch.manual_seed(0)
    model, x = Net(Apart()).eval(), torch.rand(2, 6, 5)
    space = Space.trace(model, x, rules={"*": {"attention": "head_size"}, "attention": {"attention": "heads"}})
    assert "4 heads (32)" in str(space) and "attention: heads go: 1 attention\n" in str(space)
    again = Space.trace(model, x, rules=SIZES)
    assert "attention: features of all heads go: 1 attention\n" in str(again)
    assert again.fingerprint != space.fingerprint
    with pytest.raises(ValueError, match=r"has attention='size'; expected 'heads' or 'head_size'"):
        Space.trace(model, x, rules={"*": {"attention": "size"}})


class Mixing(nn.Module):
    """Heads are mixed: weights of all of them by a linear layer, or by a softmax over them."""

    def __init__(self, over=None, d=32, heads=4):
        super().__init__()
        self.heads, self.over, self.qkv, self.proj = heads, over, nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.talk = nn.Linear(heads, heads)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.mT
        weights = scores.softmax(1) if self.over else self.talk(scores.softmax(-1).movedim(1, -1)).movedim(-1, 1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("over", [None, "heads"])
def test_heads_that_are_mixed_go_where_weights_mix_them_and_else_it_is_said_why_not(over):
    torch.manual_seed(0)
    model, x = Net(Mixing(over)).double().eval(), torch.rand(2, 6, 5).double()
    space = Space.trace(model, x)
    group = space.groups[1]
    assert (group.units, group.heads) == ((8, 0) if over else (4, 1)) and ("attention.talk" in group.members) != bool(
        over
    )
    assert space.frozen.get("heads of attention") == ("softmax mixes its channels" if over else None)
    for candidate in space.sample(3):
        assert verify(model, space, candidate, x) < 1e-12


def test_a_divisor_that_no_head_meets_gives_way_and_that_of_a_rule_leaves_heads_whole():
    torch.manual_seed(0)
    model, x = Net(Apart()).eval(), torch.rand(2, 6, 5)
    space = Space.trace(model, x, divisor=7)
    assert space.groups[1].widths == (8, 16, 24, 32)
    assert "no narrower multiple of the divisor, 7, so it does not hold: attention.q" in str(space)
    asked = Space.trace(model, x, rules={"attention.q": {"divisor": 7}})
    assert asked.frozen["attention.k"] == "'attention.q' of the rules leaves it no other width"
