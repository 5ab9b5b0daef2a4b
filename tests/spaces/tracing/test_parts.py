"""Rules for parts of a network: what they match, what they ask, which one counts, what is said of them."""

import json

import pytest
import torch
from networks import Residual
from torch import nn

from secateur.spaces import Space, build, verify


class Mixed(nn.Module):
    """A body of convolutions, an upsampling by two, and a head that shares the body's last convolution's name."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.ReLU())
        self.up = nn.ConvTranspose2d(32, 48, 2, stride=2)
        self.grouped = nn.Conv2d(48, 48, 3, groups=12)
        self.head = nn.Sequential(nn.Conv2d(48, 40, 1), nn.ReLU(), nn.Conv2d(40, 3, 1))

    def forward(self, x):
        return self.head(self.grouped(self.up(self.body(x))).relu())


def widths(rules=None, model=None, **others):
    model = (Mixed() if model is None else model).eval()
    space = Space.trace(model, torch.rand(1, 3, 12, 12), rules=rules, prove=False, **others)
    return {group.name: group.widths for group in space.groups}, space


def test_names_patterns_and_classes():
    free, _ = widths()
    assert free["body.0"] == (8, 16, 24) and free["head.0"] == (8, 16, 24, 32, 40)
    asked, space = widths({"body.*": {"least": 0.5}, nn.ConvTranspose2d: {"divisor": 16}, "head": "ignore"})
    assert asked["body.0"] == (16, 24) and asked["body.2"] == (16, 24, 32)
    assert "head.0" not in asked and space.frozen["head.0"] == "it is named in ignore"
    assert asked == widths({"body.*": {"least": 0.5}, "ConvTranspose2d": {"divisor": 16}}, ignore="head")[0]
    model = Mixed().eval()
    assert verify(model, space, space.smallest, torch.rand(2, 3, 12, 12)) < 1e-5


def test_a_key_means_what_is_in_its_modules():
    assert widths({"head": {"divisor": 20}})[0]["head.0"] == (20, 40)
    assert widths({nn.Sequential: {"least": 1}})[0].keys().isdisjoint({"body.0", "body.2", "head.0"})
    assert widths({"body.?": {"divisor": 4}})[0]["body.0"] == (4, 8, 12, 16, 20, 24)


def test_a_later_rule_counts_and_key_by_key():
    rules = {"*": {"divisor": 4, "least": 0.5}, "body": {"divisor": 6}}
    assert widths(rules)[0]["body.0"] == (12, 18, 24)
    assert widths(dict(reversed(rules.items())))[0]["body.0"] == (12, 16, 20, 24)


def test_a_group_takes_what_is_asked_of_any_of_its_members():
    rules = {"stem": {"divisor": 4}, "layer1.0.conv2": {"divisor": 6, "least": 0.4}, "layer1.1.conv2": {"least": 0.6}}
    found, space = widths(rules, Residual(c=36))
    assert "layer1.1.conv2" in space.groups[0].members and found["stem"] == (24, 36)
    assert space.ruled["stem"] == "multiples of 4: 1 group"


def test_a_divisor_counts_in_the_channels_of_its_own_module():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 64, 3, padding=1)
            self.c = nn.Conv2d(16, 5, 1)

        def forward(self, x):
            return self.c(self.a(x) + torch.pixel_shuffle(self.b(x[..., ::2, ::2]), 2))

    assert widths(model=Wide())[0]["a"] == (8, 16)
    assert widths({"b": {"divisor": 16}}, Wide())[0]["a"] == (4, 8, 12, 16)
    assert widths({"b": {"divisor": 16}, "a": {"divisor": 6}}, Wide())[0]["a"] == (12, 16)


def test_a_rule_that_leaves_one_width_is_the_reason():
    found, space = widths({"body.0": {"divisor": 32}, "body.2": {"least": 0.99}})
    assert "body.0" not in found and "body.2" not in found
    assert space.frozen["body.0"] == "'body.0' of the rules leaves it no other width"
    assert space.ruled == {
        "body.0": "multiples of 32: 0 groups (1 module left whole)",
        "body.2": "at least 0.99 of the width: 0 groups (1 module left whole)",
    }
    assert "rules for parts\n  body.0: multiples of 32: 0 groups (1 module left whole)\n" in str(space)


def test_blocks_may_be_kept():
    def blocks(rules, **others):
        return [block for stage in widths(rules, Residual(), **others)[1].stages for block in stage.blocks]

    assert blocks(None) == ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2"]
    assert blocks({"layer1.*": {"depth": False}}) == ["layer2.1", "layer2.2"]
    assert blocks({"*.1.conv1": {"depth": False}}) == ["layer1.0", "layer1.2", "layer2.2"]
    assert blocks({"*": {"depth": False}, "layer2.2": {"depth": True}}) == ["layer2.2"]
    assert blocks({"Block": {"depth": False}}) == []
    assert "layer1: not dropped: 3 blocks" in str(widths({"layer1": {"depth": False}}, Residual())[1])
    with pytest.raises(ValueError, match="plain_blocks names 'layer2.0', which is ignored or kept by a rule"):
        blocks({"layer2": {"depth": False}}, plain_blocks=["layer2.0"])


def test_ignore_takes_patterns_and_classes_and_second_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.read = nn.Linear(16, 16), nn.Linear(16, 16)
            self.read.weight = self.embed.weight
            self.mid, self.out = nn.Linear(16, 24), nn.Linear(24, 9)
            self.again = self.mid

        def forward(self, x):
            return self.out(self.again(self.read(self.embed(x).relu()).relu()).relu())

    def groups(**arguments):
        space = Space.trace(Named().eval(), torch.rand(1, 16), prove=False, divisor=1, **arguments)
        return {member for group in space.groups for member in group.members}

    assert "again" in groups() and groups(ignore="mid") == groups(ignore="again") == groups() - {"again"}
    assert groups(ignore=nn.Linear) == set() and groups(ignore=("m*d", "agai?")) == groups(ignore="mid")
    assert groups(ignore="read") == groups(ignore="embed"), "what is ignored keeps its tensors, whoever has them too"
    assert groups(rules={"mid": {"divisor": 24}}) == groups() - {"again"}


def test_rules_are_kept_and_traced_again():
    model = Mixed().eval()
    rules = {nn.ConvTranspose2d: {"divisor": 16}, "body.*": {"least": 0.5, "depth": False}, "head": "ignore"}
    space = Space.trace(model, torch.rand(1, 3, 12, 12), rules=rules)
    kept = json.loads(json.dumps(space.settings, sort_keys=True))
    again = Space.from_settings(model, kept)
    assert again.axes == space.axes and again.fingerprint == space.fingerprint and again.ruled == space.ruled
    other = Space.trace(model, torch.rand(1, 3, 12, 12), rules=rules | {"body.*": {"least": 0.6}})
    assert other.fingerprint != space.fingerprint
    assert build(model, space, space.smallest)(torch.rand(1, 3, 12, 12)).shape == (1, 3, 14, 14)


def test_a_graph_keeps_rules_too():
    model = Mixed().eval()
    space = Space.trace(model, torch.rand(1, 3, 12, 12), rules={"body": {"divisor": 6}}, as_graph=True)
    assert space.groups[0].widths == (6, 12, 18, 24)
    assert verify(model, space, space.smallest, torch.rand(2, 3, 12, 12)) < 1e-5


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"bdy.*": {"least": 0.5}}, r"rules names 'bdy\.\*', which is no module of Mixed.*did you mean 'body'"),
        ({"ConvTransposed2d": "ignore"}, "rules names .*did you mean 'ConvTranspose2d'"),
        ({nn.Conv3d: {"least": 0.5}}, "rules names 'Conv3d', which is no module"),
        ({"body": {"lest": 0.5}}, r"rules\['body'\] has the unknown key 'lest'; did you mean 'least'"),
        ({"body": {"least": 0}}, r"rules\['body'\] has least=0; expected a share of the full width, above 0"),
        ({"body": {"least": 16}}, "has least=16; expected a share"),
        ({"body": {"least": float("nan")}}, "has least=nan; expected a share"),
        ({"body": {"least": True}}, "has least=True; expected a share"),
        ({"body": {"divisor": 2.0}}, "has divisor=2.0; expected an integer of at least 1"),
        ({"body": {"divisor": 0}}, "has divisor=0; expected an integer of at least 1"),
        ({"body": {"depth": 0}}, "has depth=0; expected true or false"),
        ({"body": "ignored"}, r"rules\['body'\] is 'ignored'; expected 'ignore' or some of least, divisor, depth"),
        ({"body": {}}, r"rules\['body'\] is {}; expected 'ignore' or some of"),
        ({"body": 0.5}, r"rules\['body'\] is 0.5; expected 'ignore' or some of"),
        ({nn.Conv2d: {"least": 0.5}, "Conv2d": {"least": 0.6}}, "rules name 'Conv2d' twice"),
        (
            {"head": "ignore", "head.0": {"least": 0.5}},
            r"rules\['head.0'\] asks something of what is ignored by 'head'",
        ),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rules, said):
    with pytest.raises(ValueError, match=said):
        widths(rules)


@pytest.mark.parametrize("rules", [["head"], "head", 3, {3: "ignore"}, {int: "ignore"}, {nn.Conv2d(1, 1, 1): "ignore"}])
def test_what_is_no_mapping_of_keys_is_refused(rules):
    with pytest.raises(TypeError, match="expected"):
        widths(rules)


@pytest.mark.parametrize(("sign", "blocks"), [(1, ("0", "1")), (-1, ())])
def test_what_subtracts_from_its_input_may_be_dropped(sign, blocks):
    class Less(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return x - self.conv(x) if sign > 0 else self.conv(x) - x

    model, x = nn.Sequential(Less(), Less(), nn.Conv2d(3, 2, 1)).eval(), torch.rand(2, 3, 6, 6)
    space = Space.trace(model, x[:1])
    assert tuple(block for stage in space.stages for block in stage.blocks) == blocks
    if blocks:
        torch.testing.assert_close(build(model, space, space.smallest)(x), model[2](x))
