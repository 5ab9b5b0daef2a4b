"""Axes, candidates, stages, resolutions, what is frozen, and wrong input."""

import numpy as np
import pytest
import torch
from networks import NETWORKS, Residual, image, network
from torch import nn

from secateur.spaces import Budget, Candidate, Space, build
from secateur.spaces.describe import describe, facts
from secateur.studies.study_files.networks import resnet20


@pytest.fixture(scope="module")
def space():
    return Space.trace(Residual(), image(1, 3, 12, 12), resolutions=(12, 10, 7), divisor=2)


def test_axes(space):
    names = [axis.name for axis in space.axes]
    assert names[:2] == ["width:stem", "width:layer1.0.conv1"]
    assert names[-3:] == ["depth:layer1", "depth:layer2", "resolution"]
    assert space.axes[0].choices == (2, 4, 6, 8) and space.axes[-1].choices == (0, 1, 2)
    assert space.axes[-3].choices == (0, 1, 2, 3) and space.axes[-2].choices == (0, 1, 2)
    assert space.resolutions == ((7, 7), (10, 10), (12, 12))
    assert space.side(space.full) == (12, 12) and space.side(space.smallest) == (7, 7)


def test_residual_members_move_together(space):
    stem = space.groups[0]
    assert stem.members == ("stem", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2")
    assert next(g for g in space.groups if g.name == "layer2.0.conv2").members[:2] == (
        "layer2.0.conv2",
        "layer2.0.down.0",
    )
    assert set(space.frozen) == {"head"} and "output" in space.frozen["head"]


@pytest.mark.parametrize("name", NETWORKS)
def test_encode_decode(name):
    model, example = network(name)
    space = Space.trace(model, example, divisor=2)
    found = [space.full, space.smallest, *space.sample(8, seed=0)]
    assert space.decode(space.encode(found)) == found
    assert len({c.key for c in found}) == len(set(found))
    assert all(space.canonical(c) == c for c in found)
    assert Space.trace(model, example, divisor=2).fingerprint == space.fingerprint
    assert "frozen" in str(space) and all(len(line) <= 80 for line in str(space).splitlines())


def test_widths_inside_removed_blocks_are_full(space):
    values = list(space.uniform(0.5))
    values[-3] = 1  # of layer1, the first block stays
    candidate = space.canonical(values)
    by_name = dict(zip([axis.name for axis in space.axes], candidate, strict=True))
    assert by_name["width:layer1.0.conv1"] == 4
    assert by_name["width:layer1.1.conv1"] == by_name["width:layer1.2.conv1"] == 8
    assert space.removed(candidate) == ("layer1.2", "layer1.1")
    other = list(values)
    other[[a.name for a in space.axes].index("width:layer1.2.conv1")] = 2
    assert space.canonical(other).key == candidate.key


def test_sampling_is_seeded_and_legal(space):
    assert space.sample(20, seed=3) == space.sample(20, seed=3) != space.sample(20, seed=4)
    assert len(set(space.sample(200, seed=0))) == 200
    for candidate in space.sample(50):
        space.check(candidate)


def test_uniform_takes_the_nearest(space):
    assert space.uniform() == space.full
    half = dict(zip([axis.name for axis in space.axes], space.uniform(0.5, 0.67, 0.8), strict=True))
    assert half["width:stem"] == 4 and half["depth:layer1"] == 2 and half["resolution"] == 1
    with pytest.raises(ValueError, match="ratio"):
        space.uniform(1.5)


def test_uniform_takes_the_nearest_side_by_all_of_its_axes():
    space = Space.trace(Residual(), torch.rand(1, 3, 16, 16), resolutions=((16, 16), (16, 12), (12, 12)))
    sides = [space.side(space.uniform(resolution=ratio)) for ratio in (1.0, 0.87, 0.75)]
    assert sides == [(16, 16), (16, 12), (12, 12)]


def test_block_order_changes_what_goes_first(space):
    model = Residual()
    other = space.with_block_order({"layer1": [2.0, 0.5, 1.0]})
    candidate = space.uniform(depth=0.67)
    assert space.removed(candidate)[0] == "layer1.2" and other.removed(candidate)[0] == "layer1.1"
    assert other.costs([candidate]).equals(space.costs([candidate]))
    assert other.fingerprint != space.fingerprint
    again = Space.from_settings(model, other.settings)
    assert again.fingerprint == other.fingerprint
    with pytest.raises(ValueError, match="stages are"):
        space.with_block_order({"layer9": [1]})
    with pytest.raises(ValueError, match="3 blocks"):
        space.with_block_order({"layer1": [1]})


def test_order_decides_costs_where_blocks_differ():
    class Add(nn.Module):
        def __init__(self, k):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, k, padding=k // 2)

        def forward(self, x):
            return x + self.conv(x)

    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
            self.stage = nn.Sequential(Add(1), Add(3), Add(5))

        def forward(self, x):
            return self.b(self.stage(self.a(x)))

    model = Uneven()
    space = Space.trace(model, image(1, 3, 6, 6))
    first = space.with_block_order({"stage": [0, 1, 2]})
    candidate = Candidate([*space.full[:-1], 2])
    per_tap = 8 * 8 * 36
    assert space.costs([space.full]).macs[0] - space.costs([candidate]).macs[0] == 25 * per_tap
    assert first.costs([space.full]).macs[0] - first.costs([candidate]).macs[0] == 1 * per_tap


def test_ignore_leaves_whole():
    model = Residual()
    space = Space.trace(model, image(1, 3, 12, 12), divisor=2, ignore=("layer1",))
    assert space.frozen["stem"].startswith("it is named in ignore")
    assert [stage.name for stage in space.stages] == ["layer2"]
    assert not any(group.name.startswith(("layer1", "stem")) for group in space.groups)
    with pytest.raises(ValueError, match="no module"):
        Space.trace(model, image(1, 3, 12, 12), ignore=("layer7",))


def test_widths_follow_unit_and_divisor():
    model, example = network("grouped")
    group = next(g for g in Space.trace(model, example, divisor=3).groups if g.name == "a")
    assert (group.unit, group.units) == (4, 4)
    assert group.widths == (12, 16)  # multiples of lcm(4, 3), and the full width
    group = next(g for g in Space.trace(model, example, divisor=32).groups if g.name == "a")
    assert group.widths == (4, 8, 12, 16)  # only the full one would be left: multiples of the unit


def test_a_network_of_fixed_size_has_no_resolution_axis():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 4)

        def forward(self, x):
            return self.fc(self.conv(x).flatten(1))

    space = Space.trace(Fixed(), image(1, 3, 8, 8), divisor=2)
    assert space.resolutions == () and [axis.name for axis in space.axes] == ["width:conv"]
    with pytest.raises(ValueError, match="cannot take the resolution 6x6"):
        Space.trace(Fixed(), image(1, 3, 8, 8), resolutions=(8, 6))


def test_non_square_and_volumetric_sides():
    space = Space.trace(Residual(), image(1, 3, 12, 12), resolutions=((12, 8), 12, (6, 12)), divisor=2)
    assert space.resolutions == ((6, 12), (12, 8), (12, 12))
    assert [t.shape for t in space.example(space.smallest, batch=3)] == [(3, 3, 6, 12)]
    model, example = network("residual3d")
    space = Space.trace(model, example, resolutions=(6, (4, 6, 6)), divisor=2)
    assert space.resolutions == ((4, 6, 6), (6, 6, 6))


def test_several_inputs():
    model, example = network("branchy")
    space = Space.trace(model, example, resolutions=(6, 4), divisor=2)
    assert [tuple(t.shape) for t in space.example(space.smallest)] == [(1, 3, 4, 4), (1, 1, 4, 4)]
    pair = Space.trace(model, tuple(example.values()), divisor=2)
    assert pair.groups == space.groups


def test_a_network_is_called_with_inputs_of_its_own_kind():
    model, example = network("branchy")
    space = Space.trace(model, example, resolutions=(6, 4), divisor=2)
    by_name = space.inputs(model.double(), space.smallest, batch=2)
    assert isinstance(by_name, dict) and list(by_name) == list(example)
    assert {(tuple(t.shape), t.dtype) for t in by_name.values()} == {
        ((2, 3, 4, 4), torch.float64),
        ((2, 1, 4, 4), torch.float64),
    }
    called, tensors = space.call(model, space.smallest, batch=2)
    torch.testing.assert_close(called(*tensors), model(**by_name))
    pair = Space.trace(model, tuple(example.values()), divisor=2)
    assert isinstance(pair.inputs(model, pair.full), tuple) and pair.call(model, pair.full)[0] is model


def test_facts_of_units(space):
    assert space.full_costs == {name: float(value) for name, value in space.costs([space.full]).iloc[0].items()}
    everything = np.arange(space.units)
    assert [int(group.holds(everything).sum()) for group in space.groups] == [group.units for group in space.groups]
    assert all(group.holds(everything[group.slice]).all() for group in space.groups)
    for layer in space.layers:
        assert len(layer.makes) == space.shapes[layer.weight][layer.out_axis]
        assert (layer.makes == space.slots.get(layer.weight, {}).get(layer.out_axis, 0)).all()
    assert not any(layer.depthwise for layer in space.layers)


def test_control_flow_on_data_is_refused_with_the_line():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            if x.sum() > 0:
                return self.conv(x)
            return self.conv(-x)

    with pytest.raises(ValueError, match=r"cannot follow Branch at .*test_space.py:\d+"):
        Space.trace(Branch(), image(1, 3, 8, 8))


def test_what_goes_otherwise_while_it_is_exported_is_said():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x, mask=None):
            if mask is None and not torch.compiler.is_compiling():
                mask = torch.ones(x.shape[0])
            return self.a(x) * mask[:, None]

    with pytest.raises(
        ValueError, match=r"at .*test_space.py:\d+: .* it runs when it is not exported, .* such as attention_mask"
    ):
        Space.trace(Masked(), torch.rand(1, 4))
    assert Space.trace(Masked(), {"x": torch.rand(1, 4), "mask": torch.ones(1)}).frozen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"divisor": 0}, "divisor"),
        ({"resolutions": ("a",)}, "resolution"),
        ({"resolutions": ((8, 8, 8),)}, "expected a positive integer or 2"),
        ({"resolutions": (0,)}, "positive"),
        ({"resolutions": (2, 12)}, "cannot take|.*"),
    ],
)
def test_wrong_arguments(arguments, message):
    if arguments.get("resolutions") == (2, 12):  # this network takes even 2x2
        assert Space.trace(Residual(), image(1, 3, 12, 12), **arguments).resolutions == ((2, 2), (12, 12))
        return
    with pytest.raises((ValueError, TypeError), match=message):
        Space.trace(Residual(), image(1, 3, 12, 12), **arguments)


def test_wrong_models_and_inputs():
    with pytest.raises(TypeError, match="Module"):
        Space.trace(lambda x: x, image(1, 3, 4, 4))
    with pytest.raises(TypeError, match="tensors only"):
        Space.trace(Residual(), (image(1, 3, 4, 4), 3))
    with pytest.raises(TypeError, match="example_inputs"):
        Space.trace(Residual(), "image")


def test_tracing_leaves_the_model_alone():
    model = Residual()
    model.layer1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    Space.trace(model, image(4, 3, 12, 12), resolutions=(12, 8))
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_the_batch_of_the_example_does_not_matter():
    spaces = [Space.trace(Residual(), image(n, 3, 12, 12), divisor=2) for n in (1, 2, 5)]
    assert len({tuple(space.costs([space.full]).iloc[0]) for space in spaces}) == 1


def test_costs_refuse_other_shapes(space):
    with pytest.raises(ValueError, match="expected"):
        space.costs(np.zeros((3, 2), np.int64))


# --- the space as text ------------------------------------------------------------------------------------------------


def chain(n):
    """`n` convolutions of the same width, one after the other."""
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(*[nn.Conv2d(8, 8, 1) for _ in range(n)]), nn.Conv2d(8, 2, 1))


def test_the_text_shows_all_there_is(space):
    text = str(space).splitlines()
    assert text[0] == "11 axes (8 widths, 2 depths, 1 resolution): 37,748,736 combinations"
    assert text[1].startswith("resolutions: 7x7, 10x10, 12x12")
    assert text[3] == "8 groups of channels that are cut together"
    assert "  stem            8     2 to 8 by 2   layer1.*.conv2 (3)" in text  # all it is cut with
    assert "  layer1    0 to 3  2, 1, 0" in text
    assert text[text.index("frozen, which is left whole: 1 module") :][1:3] == [
        "  its channels are the network's output",
        "    head",
    ]
    full, least = (space.costs([c]).macs[0] for c in (space.full, space.smallest))
    (row,) = [line.split() for line in text if line.startswith("  macs")]
    assert row[1:4] == [f"{least:,}", f"{full:,}", f"{least / full:.2g}"]
    assert any("of 10,000 candidates" in line for line in text)


def test_alike_groups_share_a_line_where_there_are_many():
    few, many = (Space.trace(chain(n), image(1, 3, 4, 4), divisor=2) for n in (10, 30))
    assert sum(line.startswith("  1.") for line in str(few).splitlines()) == 10
    assert "  1.*       30      8     2 to 8 by 2" in str(many).splitlines()


def test_long_lists_of_what_is_frozen_are_counted():
    few = str(Space.trace(chain(20), image(1, 3, 4, 4), ignore=("1",)))
    many = str(Space.trace(chain(60), image(1, 3, 4, 4), ignore=("1",)))
    assert "it is named in ignore" in few and "1.10 and 9 more" in few
    assert many.count("it is named in ignore") == 1
    assert "modules: 0, 1.0, 1.1 and" in many and "1.2" not in many
    assert all(len(line) <= 80 for line in [*few.splitlines(), *many.splitlines()])


def test_facts_are_exact(space):
    found = facts(space, Budget(macs=0.5, params=1, latency_ms=2))
    assert found["combinations"] == np.prod([len(axis.choices) for axis in space.axes])
    assert [group["members"] for group in found["groups"]] == [list(group.members) for group in space.groups]
    assert found["full"] == space.costs([space.full]).iloc[0].to_dict()
    random = np.random.default_rng(1)
    drawn = np.stack([random.choice(axis.choices, 4000) for axis in space.axes], axis=1)
    share = (space.costs(drawn).macs <= 0.5 * found["full"]["macs"]).mean()
    assert abs(found["within"]["macs"]["0.5"] - share) < 0.05
    assert [row["satisfiable"] for row in found["budget"]] == [True, False, None, False]
    text = describe(space, Budget(macs=0.5, params=1, latency_ms=2)).splitlines()
    assert [line.split()[0] for line in text[-4:]] == ["macs=0.5", "params=1", "latency_ms=2", "all"]


def test_a_network_without_choices_is_shown_too():
    space = Space.trace(nn.Conv2d(3, 2, 1), image(1, 3, 4, 4))
    assert str(space).startswith("nothing to choose: 1 combination\nresolution: 4x4")
    assert facts(space)["full"] == facts(space)["smallest"]


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        ({"depth": True}, {"width", "depth", "resolution"}),
        ({"depth": False}, {"width", "resolution"}),
        ({"least": 1.0}, {"depth", "resolution"}),
        ({"least": 1.0, "depth": False}, {"resolution"}),
    ],
)
def test_only_the_dimensions_that_rules_leave_are_searched(rule, kinds):
    model = resnet20(widths=(4, 4, 8), blocks=(2, 2, 2)).eval()
    space = Space.trace(model, torch.rand(1, 1, 16, 16), resolutions=(16, 12), divisor=1, rules={"*": rule})
    assert {axis.kind for axis in space.axes} == kinds
    again = Space.from_settings(model, space.settings)
    assert again.axes == space.axes and again.fingerprint == space.fingerprint
    small = build(model, space, space.smallest)
    assert small(torch.rand(2, 1, 12, 12)).shape == (2, 10)
    if rule == {"depth": True}:
        default = Space.trace(model, torch.rand(1, 1, 16, 16), resolutions=(16, 12), divisor=1)
        assert default.axes == space.axes and "rules" not in default.settings
