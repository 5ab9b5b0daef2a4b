"""Networks by ratios and ratios of networks, and what they cost in real traced stacks."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from landscapes import line_net, line_space, tiny_net, tiny_space
from torch import nn

from secateur.search.three_dimensions.shrinking import shrinking_of
from secateur.spaces import Space


class Unit(nn.Module):
    def __init__(self, width, conv):
        super().__init__()
        self.first = conv(width, width, 3, padding=1, bias=False)
        self.second = conv(width, width, 3, padding=1, bias=False)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


class Stack(nn.Module):
    """A stem, removable blocks of one width, a head."""

    def __init__(self, width=8, blocks=4, conv=nn.Conv2d):
        super().__init__()
        self.stem = conv(1, width, 1, bias=False)
        self.blocks = nn.Sequential(*[Unit(width, conv) for _ in range(blocks)])
        self.head = nn.Linear(width, 3, bias=False)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(x.flatten(2).mean(2))


class Stages(nn.Module):
    """Two stages, of three removable blocks and one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.layer1 = nn.Sequential(*[Unit(4, nn.Conv2d) for _ in range(3)])
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.layer2 = nn.Sequential(Unit(8, nn.Conv2d))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.layer2(torch.relu(self.down(self.layer1(torch.relu(self.stem(x))))))
        return self.head(x.mean((2, 3)))


def stack(sides, conv, **more):
    full = max(sides, key=lambda side: np.prod(side))
    model = Stack(conv=conv, **more).eval()
    return Space.trace(model, torch.zeros(1, 1, *full), resolutions=sides, divisor=2)


def middle(space, candidate):
    """Multiply-adds without the first and the last layer: a 1 x 1 convolution of one channel, and a linear of three."""
    width = candidate[[group.name for group in space.groups].index("stem")] if space.groups else 8
    return int(space.cost_table([candidate])["macs"][0]) - width * int(np.prod(space.side(candidate))) - 3 * width


def share(space, candidate):
    return Fraction(middle(space, candidate), middle(space, space.full))


CASES = {
    "image": ([(4, 4), (6, 6), (8, 8)], nn.Conv2d, {"depth": 1, "width": 2, "resolution": 2}),
    "line": ([(4,), (8,)], nn.Conv1d, {"depth": 1, "width": 2, "resolution": 1}),
    "volume": ([(2, 2, 2), (3, 3, 3), (4, 4, 4)], nn.Conv3d, {"depth": 1, "width": 2, "resolution": 3}),
    "video": (
        [(2, 4, 4), (2, 6, 6), (2, 8, 8), (4, 4, 4), (4, 6, 6), (4, 8, 8)],
        nn.Conv3d,
        {"depth": 1, "width": 2, "resolution:0": 1, "resolution:1,2": 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_costs_of_a_uniform_stack_follow_the_exponents(case):
    """Exactly, with the first and the last layer left out: in every combination of depth, width and sides."""
    sides, conv, exponents = CASES[case]
    space = stack(sides, conv)
    ratios = shrinking_of(space, width="uniform")
    assert dict(zip(ratios.names, ratios.exponents, strict=True)) == exponents
    grid, encoded = ratios.grid()
    assert len(grid) == 5 * 4 * len(sides)  # 0 to 4 blocks, 4 widths
    checked = 0
    for point, row in zip(grid, encoded.tolist(), strict=True):
        expected = Fraction(1)
        for ratio, name in zip(point, ratios.names, strict=True):
            expected *= Fraction(float(ratio)).limit_denominator(64) ** exponents[name]
        assert share(space, space.canonical(row)) == expected
        checked += expected not in (0, 1)
    assert checked > 20


@pytest.mark.parametrize("width", ["threshold", "uniform"])
@pytest.mark.parametrize("make", [lambda: tiny_space(tiny_net()), lambda: line_space(line_net()), lambda: STAGES])
def test_ratios_and_networks_name_each_other(make, width):
    space = make()
    ratios = shrinking_of(space, width=width)
    grid, encoded = ratios.grid()
    found = [space.canonical(row) for row in encoded.tolist()]
    assert len(set(found)) == len(found)
    for point, candidate in zip(grid, found, strict=True):
        assert ratios.candidate(point) == candidate and ratios.holds(candidate)
        assert ratios.of(candidate) == pytest.approx(point, abs=1e-12)
    assert found[0] == space.full or space.full in found
    assert ratios.of(space.full) == pytest.approx(np.ones(len(ratios.names)))
    assert ratios.least == pytest.approx(grid.min(axis=0))
    outside = [one for one in space.sample(40, seed=2) if one not in set(found)]
    assert all(not ratios.holds(one) for one in outside)
    for one in outside:
        assert (ratios.of(one) >= ratios.least - 1e-12).all() and (ratios.of(one) <= 1).all()


STAGES = Space.trace(Stages().eval(), torch.zeros(1, 1, 8, 8), resolutions=(6, 8), divisor=2)


def test_blocks_go_one_at_a_time_from_the_stage_with_the_largest_share():
    """3 + 1 blocks; of equal shares the last stage first: (3, 1), (3, 0), (2, 0), (1, 0), (0, 0)."""
    ratios = shrinking_of(STAGES)
    assert ratios.depths.tolist() == [[3, 1], [3, 0], [2, 0], [1, 0], [0, 0]]
    assert ratios.along("depth").tolist() == [1, 0.75, 0.5, 0.25, 0]


def test_a_dimension_alone_leaves_the_others_full():
    ratios = shrinking_of(STAGES)
    for number, name in enumerate(ratios.names):
        line = ratios.along(name)
        assert line[0] == 1 and (np.diff(line) < 0).all() and len(line) > 1
        for level in line:
            point = np.ones(len(ratios.names))
            point[number] = level
            assert ratios.of(ratios.candidate(point)) == pytest.approx(point, abs=1e-12)


def test_each_network_of_a_line_is_within_the_one_before():
    ratios = shrinking_of(STAGES)
    for number in range(len(ratios.names)):
        points = np.ones((9, len(ratios.names)))
        points[:, number] = np.linspace(1, 0.05, 9)
        line = np.array([ratios.candidate(point) for point in points])
        assert (np.diff(line, axis=0) <= 0).all()


def test_a_threshold_keeps_the_better_layers_wider():
    space = STAGES
    scores = {group.name: torch.ones(group.units) * (1 + number) for number, group in enumerate(space.groups)}
    plain = shrinking_of(space, scores, normalise="none")
    candidate = plain.candidate([1.0, 0.6, 1.0])
    kept = [value / group.widths[-1] for value, group in zip(candidate, space.groups, strict=False)]
    assert kept == sorted(kept) and kept[0] < kept[-1]
    alike = shrinking_of(space, width="uniform").candidate([1.0, 0.5, 1.0])
    assert [value / group.widths[-1] for value, group in zip(alike, space.groups, strict=False)] == [0.5] * len(kept)


def test_widths_in_removed_blocks_are_no_part_of_the_ratio():
    ratios = shrinking_of(STAGES, width="uniform")
    candidate = ratios.candidate([0.0, 0.6, 1.0])
    inside = [axis.full for axis in STAGES.axes if axis.name.startswith("width:layer")]
    named = [v for axis, v in zip(STAGES.axes, candidate, strict=True) if axis.name.startswith("width:layer")]
    assert inside and named == inside
    assert ratios.of(candidate)[1] < 0.8


def test_only_what_a_space_can_change_is_a_dimension():
    assert shrinking_of(line_space(line_net())).names == ("width",)
    fixed = Space.trace(line_net(), torch.zeros(1, 4), ignore="first")
    none = shrinking_of(fixed)
    sides = Space.trace(Stack(blocks=0), torch.zeros(1, 1, 8, 8), resolutions=(6, 8), ignore="stem")
    assert shrinking_of(sides).names == ("resolution",)
    assert none.names == () and none.candidate([]) == fixed.full and none.grid()[0].shape == (1, 0)


def test_options_are_checked():
    with pytest.raises(ValueError, match="width='layer'"):
        shrinking_of(STAGES, width="layer")
    with pytest.raises(ValueError, match="the dimensions of this space are \\['depth', 'width', 'resolution'\\]"):
        shrinking_of(STAGES, exponents={"frames": 1.0})
    assert shrinking_of(STAGES, exponents={"width": 1.5}).exponents == (1.0, 1.5, 2.0)
