"""Units chosen by what the layers that read them lack: by hand, and against every choice."""

import functools
import itertools

import networks
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.pruners import METHODS, Examples, Request, damages, realised
from secateur.pruners.least_squares import elimination, products
from secateur.pruners.least_squares.elimination import Elimination, swapped
from secateur.pruners.least_squares.merging import Likeness, followers
from secateur.pruners.least_squares.products import readers, readers_twice
from secateur.pruners.least_squares.thinet import contributions, removal, scored


class Three(nn.Module):
    """Two linear layers; the first gives its inputs as they are, and the second has no bias."""

    def __init__(self, weight):
        super().__init__()
        units, outputs = len(weight[0]), len(weight)
        self.first, self.second = nn.Linear(units, units, bias=False), nn.Linear(units, outputs, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(units))
            self.second.weight.copy_(torch.tensor(weight))

    def forward(self, x):
        return self.second(self.first(x))


def of(weight, rows):
    """The group between the two layers, and its reader, on these rows."""
    model, x = Three(weight), torch.tensor(rows)
    space = sc.Space.trace(model, x[:1], divisor=1)
    [(group, found)] = readers(model, space, Examples(batches=[(x, x)]))
    return group, found


@functools.cache
def traced():
    torch.manual_seed(0)
    model, x = networks.Residual(8).eval(), torch.randn(64, 3, 8, 8)
    return model, sc.Space.trace(model, x[:1], divisor=2), Examples(batches=[(x, x)])


def test_products_of_what_a_reader_sees():
    group, [reader] = of([[1.0, 2.0]], [[1.0, 2.0], [3.0, 1.0]])
    assert reader.layer.name == "second" and reader.rows == 2 and not reader.shifts
    assert reader.products.tolist() == [[10, 5], [5, 5]] and reader.sums.tolist() == [4, 3]
    assert reader.inputs.tolist() == [[0], [1]] and reader.weight.tolist() == [[1], [2]]


def test_thinet_by_hand():
    # Contributions to the one output are (1, 3) and (4, 2), the outputs (5, 5), whose squares are 50.
    group, found = of([[1.0, 2.0]], [[1.0, 2.0], [3.0, 1.0]])
    torch.testing.assert_close(contributions(group, found), torch.tensor([[10.0, 10], [10, 20]]).double() / 50)
    # 2 goes first (2); then 0 adds 4 and 1 adds 3 + 2; then 1 adds 3 + 2 - 6.
    order, after = removal(torch.tensor([[4.0, -3, 0], [-3, 3, 1], [0, 1, 2]]).double())
    assert order == [2, 0, 1] and after == [2, 6, 5]
    scores = scored(order, after)
    assert scores.argsort().tolist() == order and scores[2] == 2 and 6 < scores[1] < 6.001


def test_what_the_removal_of_a_unit_adds_by_hand(monkeypatch):
    # The inverse of ((10, 5), (5, 5)) is ((0.2, -0.2), (-0.2, 0.4)): the removals add 1 / 0.2 and 4 / 0.4 of 50.
    monkeypatch.setattr(elimination, "RIDGE", 0.0)
    group, found = of([[1.0, 2.0]], [[1.0, 2.0], [3.0, 1.0]])
    going = Elimination(2, found)
    torch.testing.assert_close(going.costs(), torch.tensor([0.1, 0.2]).double())
    assert going.remove([0]) == pytest.approx(0.1)
    # What is left, alone, is best with the weight 15 / 5: of 50 it explains 45. Without it, nothing is explained.
    assert going.remove([1]) == pytest.approx(1.0)
    assert Elimination(2, found).order()[0] == [0, 1]


def test_units_that_go_together_add_what_a_solver_says():
    model, space, examples = traced()
    for group, found in readers(model, space, examples):
        for reader in found:
            gone = list(range(0, group.units, 2))
            products = elimination.factor(reader.centred) @ elimination.factor(reader.centred).T
            lost = reader.inputs[gone].flatten()
            stay = torch.tensor([one for one in range(len(products)) if one not in lost.tolist()])
            weight = reader.weight[lost]
            solved = torch.linalg.solve(products[stay][:, stay], products[stay][:, lost] @ weight)
            rest = products[lost][:, lost] @ weight - products[lost][:, stay] @ solved
            share = float((weight * rest).sum()) / reader.spread(reader.centred)
            assert Elimination(group.units, [reader]).remove(gone) == pytest.approx(share, rel=1e-6)
            along = Elimination(group.units, [reader])
            assert along.along([*gone, *range(1, group.units, 2)], [group.units - 1, group.units // 2])[
                -1
            ] == pytest.approx(share, rel=1e-6)


def test_in_fewer_rows_than_inputs_no_unit_is_a_mix_of_the_others_by_chance():
    # Independent inputs: without half of them the outputs lack half. 24 rows alone would say: nothing.
    torch.manual_seed(0)
    group, found = of(torch.randn(8, 64).tolist(), torch.randn(24, 64).tolist())
    assert Elimination(64, found).remove(list(range(32))) == pytest.approx(0.5, abs=0.1)
    group, found = of(torch.randn(8, 64).tolist(), torch.randn(4096, 64).tolist())
    assert Elimination(64, found).remove(list(range(32))) == pytest.approx(0.5, abs=0.1)
    few = torch.tensor([[1.0, 2, 0], [0, 0, 0]]).T @ torch.tensor([[1.0, 2, 0], [0, 0, 0]])
    # One row of three inputs, trace 5 and squares 25: (25 / 3 + 25) / (4 / 3 (25 - 25 / 3)) is above 1, so all is mean.
    torch.testing.assert_close(products.shrunk(few, 1), 5 / 3 * torch.eye(3))
    assert products.shrunk(few, 3) is few


def test_a_swap_finds_what_greed_does_not(monkeypatch):
    # The output is z1 + z2, and z3 nearly that, not read yet: it goes first, though it alone would do.
    monkeypatch.setattr(elimination, "RIDGE", 1e-9)
    rows = [[1.0, 1, 2.1], [1, -1, 0], [-1, 1, 0], [-1, -1, -2]]
    group, found = of([[1.0, 1.0, 0.0]], rows)
    order, after = Elimination(3, found).order()
    assert order[0] == 2 and after[0] == pytest.approx(0, abs=1e-6) and after[1] == pytest.approx(0.5, abs=1e-6)
    kept = torch.tensor([one == order[2] for one in range(3)])
    better, swaps = swapped(found, kept, 5)
    assert better.tolist() == [False, False, True] and swaps == 1
    assert swapped(found, kept, 0)[0].tolist() == kept.tolist()


def test_what_is_known_after_swaps_is_what_a_solution_from_nothing_says():
    model, space, examples = traced()
    for group, found in readers(model, space, examples):
        going = Elimination(group.units, found)
        going.remove(list(range(0, group.units, 2)))
        swaps = sum(going.swap() for _ in range(3))
        anew = Elimination(group.units, found)
        assert anew.remove((~going.left).nonzero().flatten().tolist()) == pytest.approx(going.damage, rel=1e-6)
        torch.testing.assert_close(anew.costs(), going.costs(), rtol=1e-5, atol=1e-9)
        assert swaps == 0 or int(going.left.sum()) == group.units // 2


def test_swaps_come_near_the_best_of_all_choices():
    model, space, examples = traced()
    for group, found in readers(model, space, examples):
        if group.units > 8:
            continue

        def lost(kept, group=group, found=found):
            gone = [unit for unit in range(group.units) if unit not in kept]
            return Elimination(group.units, found).remove(gone)

        order, _ = Elimination(group.units, found).order()
        kept = torch.ones(group.units, dtype=torch.bool)
        kept[order[:4]] = False
        after, _ = swapped(found, kept, 20)
        least = min(lost(choice) for choice in itertools.combinations(range(group.units), 4))
        mine, greedy = (lost(one.nonzero().flatten().tolist()) for one in (after, kept))
        assert least <= mine * (1 + 1e-9) and mine <= greedy * (1 + 1e-9) and mine < 1.05 * least


def test_damages_are_those_of_every_width_and_never_rise():
    model, space, examples = traced()
    table = damages(model, space, examples)
    for group, ranks, (_, found) in zip(
        space.groups, space.ranking(None), readers(model, space, examples), strict=True
    ):
        assert len(table[group.name]) == len(group.widths) and table[group.name][-1] == 0
        assert table[group.name] == sorted(table[group.name], reverse=True)
        gone = ranks[group.widths[0] // group.unit :].tolist()
        assert table[group.name][0] == pytest.approx(Elimination(group.units, found).remove(gone), rel=1e-6)


@pytest.mark.parametrize("name", ["osscar", "l2"])
def test_a_knapsack_lacks_less_than_the_same_share_of_every_group(name):
    model, space, examples = traced()
    limits = {"macs": 0.5 * space.full_costs["macs"]}
    request = Request(model, space, limits, examples=examples)
    method = METHODS[name](allocation="knapsack")
    assert method.needs == "images"
    found = method.propose(request)
    table = damages(model, space, examples, found.scores)

    def total(candidate):
        return sum(table[group.name][group.widths.index(candidate[n])] for n, group in enumerate(space.groups))

    even = METHODS["wanda"]().propose(request).candidate
    assert total(found.candidate) < total(even)
    assert space.cost_table([found.candidate])["macs"][0] <= limits["macs"]


def test_followers_by_hand():
    # 1 follows 0 for 1; then 2 follows 0 for 5, or 0 follows 2 for 7 and takes 1 along to 2 for 9.
    costs = torch.tensor([[0.0, 3, 7], [1, 0, 9], [5, 6, 0]]).double()
    order, after = followers(costs)
    assert order == [1, 2, 0] and after[:2] == [1, 6]


def test_likeness_by_hand():
    # Z1 = (1, 3), Z2 = (2, 1), read by 1 and 2. Unit 1 as 2's multiple: scale 5/5, what is lost (-1, 2), 5 of 50.
    group, found = of([[1.0, 2.0]], [[1.0, 2.0], [3.0, 1.0]])
    likeness = Likeness(group, found)
    # Unit 2 as 1's: scale 5/10, what is lost (1.5, -0.5) twice: 4 * 2.5 of 50.
    torch.testing.assert_close(likeness.costs, torch.tensor([[0.0, 0.1], [0.2, 0.0]]).double())
    full = {"second.weight": torch.tensor([[1.0, 2.0]])}
    likeness.merge(full, torch.tensor([False, True]))
    assert full["second.weight"].tolist() == [[1, 3]]


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, "linear"])
def test_duplicates_that_are_merged_change_nothing(kind):
    torch.manual_seed(1)
    linear = kind == "linear"
    make = nn.Linear if linear else lambda i, o: kind(i, o, 3, padding=1)
    axes = 0 if linear else 1 if kind is nn.Conv1d else 2
    norm = nn.BatchNorm1d if axes < 2 else nn.BatchNorm2d
    model = nn.Sequential(make(3, 6), norm(6), nn.ReLU(), make(6, 5), nn.Tanh(), make(5, 2)).eval()
    with torch.no_grad():
        out = 1 if kind is nn.ConvTranspose2d else 0
        weight = model[0].weight.movedim(out, 0)
        weight[3:] = torch.tensor([1.0, 2.0, 0.5]).view(-1, *[1] * (weight.ndim - 1)) * weight[:3]
        model[0].bias[3:] = torch.tensor([1.0, 2.0, 0.5]) * model[0].bias[:3]
    x = torch.randn(32, 3, *[6] * axes)
    space = sc.Space.trace(model, x[:1], divisor=1, ignore=("5",))
    limits = {"macs": 0.6 * space.full_costs["macs"]}
    examples = Examples(batches=[(x[:16], x), (x[16:], x)])
    found = METHODS["merge"]().propose(Request(model, space, limits, examples=examples))
    small = realised(model, space, found)
    assert small[0].weight.numel() < model[0].weight.numel()
    fresh = torch.randn(8, 3, *[6] * axes)
    with torch.no_grad():
        torch.testing.assert_close(small(fresh), model(fresh), atol=1e-5, rtol=1e-4)
        cut = sc.build(model, space, found.candidate, found.scores)
        assert (cut(fresh) - model(fresh)).abs().max() > 1e-2
    told = sc.prune(model, x, budget=sc.Budget(macs=0.6), method="merge", space=space)
    with torch.no_grad():
        torch.testing.assert_close(told.network(fresh), model(fresh), atol=1e-5, rtol=1e-4)


def test_what_is_not_finite_is_refused():
    model, space, examples = traced()
    x = examples.batches[0][0].clone()
    x[0, 0, 0, 0] = torch.nan
    examples = Examples(batches=[(x, x)])
    with pytest.raises(ValueError, match="is not finite; look for NaN"):
        METHODS["osscar"]().propose(Request(model, space, {"macs": 1e6}, examples=examples))


def test_groups_are_taken_one_after_another_where_memory_is_short():
    model, space, examples = traced()
    whole = {group.name: found for group, found in readers(model, space, examples)}
    for group, found in readers(model, space, examples, memory=2 * 8 * 144**2):
        assert [one.layer.name for one in found] == [one.layer.name for one in whole[group.name]]
        for one, other in zip(found, whole[group.name], strict=True):
            torch.testing.assert_close(one.products, other.products)
    assert not any(found for _, found in readers(model, space, examples, memory=1))


def test_what_is_read_twice_is_held_where_it_fits():
    model, space, examples = traced()
    held = readers_twice(model, space, examples)
    assert held() is held()
    anew = readers_twice(model, space, examples, memory=2 * 8 * 144**2)
    for (group, found), (other, again) in zip(held(), anew(), strict=True):
        assert group == other and len(found) == len(again)
        assert all(torch.allclose(one.products, two.products) for one, two in zip(found, again, strict=True))
    assert len(list(anew())) == len(space.groups)
