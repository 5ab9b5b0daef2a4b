import copy

import pytest
import torch
from networks import NETWORKS, Plain, network
from pairs import quick_in
from pruning import Loop, examples_for, flat, propose
from torch import nn

from secateur.pruners import METHODS, Request
from secateur.pruners.proposal import inner_groups
from secateur.pruners.training.aofp import Aofp, Search
from secateur.pruners.training.followers import Followers, damage
from secateur.spaces import Space


def traced(name, divisor=1):
    model, example = network(name)
    return model, example, Space.trace(model, example, divisor=divisor)


def halved(space):
    low, high = (float(space.costs([c])["macs"].iloc[0]) for c in (space.smallest, space.full))
    return {"macs": low + 0.5 * (high - low)}


def trained(method, model, space, limits, examples, *, epochs=40, seed=0, **settings):
    phase = method.start(Request(model, space, limits, seed=seed))
    Loop(phase, examples, epochs=epochs, **settings).run()
    return phase.proposal()


def searched(damages, threshold, halves, *, iterations=400, seed=0):
    """A search whose damages add up; what it closes after each half."""
    search, generator, closed = Search(len(damages)), torch.Generator().manual_seed(seed), []
    for _ in range(halves):
        for _ in range(iterations):
            dropped = search.drop(generator)
            search.add(dropped, float(damages[dropped].sum()))
        found = search.decide(threshold)
        closed.append(found.tolist())
        search.close(found) if len(found) else None
    return search, closed


def test_damage_by_hand():
    base, ablated = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])
    assert float(damage(base, ablated)) == pytest.approx(16 / 25)
    assert float(damage(base, base)) == 0
    assert float(damage(7 * base, 7 * ablated)) == pytest.approx(16 / 25)
    assert float(damage(torch.zeros(2), torch.zeros(2))) == 0


def linear_pair():
    """Two linear layers; the second reads orthonormal features with weights 1, 2, 3, 4."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
        model[1].weight.copy_(torch.diag(torch.tensor([1.0, 2, 3, 4])))
    return model, Space.trace(model, torch.zeros(1, 4).double(), divisor=1)


def test_damages_of_a_linear_follower_add_up():
    model, space = linear_pair()
    followers = Followers(model, space)
    model(torch.eye(4).double())  # features of the batch are orthogonal: squares 1, 4, 9, 16 of 30
    closed = torch.zeros(space.units, dtype=torch.bool).numpy()
    first = space.groups[0].first
    single = [followers.damages(closed, {"0": first + torch.tensor([unit]).numpy()})["0"] for unit in range(4)]
    assert single == pytest.approx([1 / 30, 4 / 30, 9 / 30, 16 / 30])
    both = followers.damages(closed, {"0": first + torch.tensor([0, 2]).numpy()})["0"]
    assert both == pytest.approx(single[0] + single[2])
    assert followers.damages(closed, {"0": torch.tensor([], dtype=torch.int64).numpy()})["0"] == 0
    closed[first + 3] = True  # its square is no part of the base any more: 1 / 14
    assert followers.damages(closed, {"0": first + torch.tensor([0]).numpy()})["0"] == pytest.approx(1 / 14)


def test_many_random_halves_rank_units_as_their_single_damages():
    damages = torch.tensor([0.1, 0.7, 0.05, 0.3, 0.2, 0.01, 0.4, 0.6])
    search = Search(8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        dropped = search.drop(generator)
        assert len(dropped) == 4
        search.add(dropped, float(damages[dropped].sum()))
    search.learn()
    assert search.damage.argsort().tolist() == damages.argsort().tolist()
    torch.testing.assert_close(search.damage.float(), damages, atol=0.06, rtol=0)  # not only the order


def test_binary_search_by_hand():
    # half 1 drops 4 of 8: a harmless unit sees 3 others of which 4/7 harm: 3 * (4/7) / 4 = 0.429, a harmful one
    # 1/4 + 3 * (3/7) / 4 = 0.571; 0.3 is not met, the four harmless go on, and two of them see no damage at all
    damages = torch.tensor([0.0, 0.25, 0.0, 0.25, 0.0, 0.25, 0.0, 0.25])
    search, generator = Search(8), torch.Generator().manual_seed(0)
    for _ in range(4000):
        dropped = search.drop(generator)
        search.add(dropped, float(damages[dropped].sum()))
    scores = search._scores()
    torch.testing.assert_close(scores[::2], torch.full((4,), 3 * 4 / 7 / 4).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(scores[1::2], torch.full((4,), 0.25 + 3 * 3 / 7 / 4).double(), atol=0.01, rtol=0)
    search, closed = searched(damages, 0.3, 2)
    assert closed[0] == [] and len(closed[1]) == 2 and set(closed[1]) < {0, 2, 4, 6}
    assert sorted(search.open.tolist() + closed[1]) == list(range(8))


def test_a_search_gives_up_where_every_unit_matters_and_begins_again():
    search, closed = searched(torch.full((8,), 0.5), 0.3, 3)
    assert closed == [[], [], []] and len(search.space) == 8  # 8, 4, 2 units were searched
    search, closed = searched(torch.tensor([0.5]), 0.3, 1, iterations=1)
    assert closed == [[]] and len(search.open) == 1  # a single unit has no half


def test_a_dead_unit_goes_first():
    model, example, space = traced("plain")
    examples = examples_for(model, example, size=8)
    with torch.no_grad():
        for name in ("bn1.weight", "bn1.bias"):
            model.get_parameter(name)[5] = 0
    full = float(space.costs([space.full])["macs"].iloc[0])
    method = Aofp(threshold=0.02, iterations=8, warmup=0, until=1.0)
    proposal = trained(method, model, space, {"macs": 0.97 * full}, examples, lr=1e-6)
    assert int(proposal.scores["conv1"].argmin()) == 5 and proposal.candidate[0] < 8
    assert proposal.notes["moves"] > 0


@pytest.mark.parametrize("name", ["residual", "mobile", "dense", "unet2d", "branchy"])
def test_scoring_leaves_the_training_alone(name):
    model, example, space = traced(name)
    examples = examples_for(model, example)
    plain, watched = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    followers = Followers(watched, space)
    closed = torch.zeros(space.units, dtype=torch.bool).numpy()
    for one in (plain, watched):
        examples.loss_of(one, examples.batches[0]).backward()
    before = {name: parameter.grad.clone() for name, parameter in watched.named_parameters()}
    dropped = {group.name: torch.arange(group.first, group.first + group.units // 2).numpy() for group in space.groups}
    found = followers.damages(closed, dropped)
    assert set(found) == {group.name for group in space.groups}
    assert all(0 <= value < 100 for value in found.values()) and sum(found.values()) > 0
    for key, tensor in watched.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[key]), key  # batch norms have counted one batch, not several
    for key, parameter in watched.named_parameters():
        assert torch.equal(parameter.grad, before[key]) and torch.equal(parameter.grad, plain.get_parameter(key).grad)
    inputs = examples.batches[1][0]
    outputs = [flat(one(**inputs) if isinstance(inputs, dict) else one(inputs)) for one in (plain, watched)]
    assert torch.equal(*outputs)
    followers.remove()
    assert not any(module._forward_pre_hooks for module in watched.modules())


def test_the_follower_is_run_again_exactly():
    # with nothing dropped, the second run gives what the follower gave: convolution, batch norm of the batch, ReLU
    model, example, space = traced("plain")
    examples, kept = examples_for(model, example), {}
    model.train()
    model.bn2.register_forward_hook(lambda module, args, output: kept.update(output=output.detach().relu()))
    followers = Followers(model, space)
    examples.loss_of(model, examples.batches[0])
    closed = torch.zeros(space.units, dtype=torch.bool).numpy()
    [follower] = followers.of["conv1"]
    with torch.no_grad():
        again = follower.output(followers._given[model.conv2], closed, closed)
    torch.testing.assert_close(again, kept["output"])
    [last] = followers.of["conv2"]
    assert last.module is model.fc and last.norm is None


@pytest.mark.parametrize(("name", "least"), quick_in(1 / 2, NETWORKS, [1, 3]))
def test_no_group_is_narrower_than_least(name, least):
    model, example, space = traced(name)
    full = float(space.costs([space.full])["macs"].iloc[0])
    floor = list(space.full)
    for number, group in enumerate(space.groups):
        floor[number] = min(width for width in group.widths if width >= min(least, group.width))
    limits = {"macs": float(space.costs([space.canonical(floor)])["macs"].iloc[0])}
    assert limits["macs"] < full
    method = Aofp(threshold=1e9, iterations=1, warmup=0, least=least)  # every half is found harmless
    proposal = trained(method, model, space, limits, examples_for(model, example, batches=2), epochs=6)
    assert proposal.candidate == space.canonical(floor)


def test_moves_stop_as_soon_as_the_limits_are_met():
    model, example, space = traced("residual")
    limits = halved(space)
    proposal = trained(Aofp(threshold=0.9, iterations=3), model, space, limits, examples_for(model, example))
    cost = float(space.costs([proposal.candidate])["macs"].iloc[0])
    units = [list(proposal.candidate) for _ in space.groups]
    for number, group in enumerate(space.groups):
        units[number][number] = min(units[number][number] + group.unit, group.width)
    one_more = space.costs([space.canonical(u) for u in units])["macs"]
    assert cost <= limits["macs"] < one_more.max()  # not a whole move below
    assert proposal.notes["moves"] > 0 and proposal.notes["by_scores"] == 0
    assert 0 < proposal.notes["met_at_step"] < 0.7 * 80
    closed = sum(group.units - proposal.candidate[n] for n, group in enumerate(space.groups))
    assert proposal.notes["by_moves"] == closed


def test_a_training_that_is_too_short_goes_by_the_scores_and_says_how_many():
    model, example, space = traced("residual")
    limits = halved(space)
    proposal = trained(Aofp(threshold=1e-9), model, space, limits, examples_for(model, example), epochs=10)
    assert proposal.notes["by_moves"] == 0 and proposal.notes["met_at_step"] == 14  # 0.7 of 20 steps
    closed = sum(group.units - proposal.candidate[n] for n, group in enumerate(space.groups))
    assert proposal.notes["by_scores"] == closed
    assert float(space.costs([proposal.candidate])["macs"].iloc[0]) <= limits["macs"]


def test_several_limits_are_all_met():
    model, example, space = traced("plain")
    full = space.costs([space.full]).iloc[0]
    limits = {"macs": 0.6 * full["macs"], "params": 0.3 * full["params"]}
    proposal = trained(Aofp(), model, space, limits, examples_for(model, example))
    found = space.costs([proposal.candidate]).iloc[0]
    assert all(found[name] <= limit for name, limit in limits.items())


class Functional(nn.Module):
    """What reads the first layer is no module that could be run again."""

    def __init__(self):
        super().__init__()
        self.first, self.weight = nn.Linear(3, 8), nn.Parameter(torch.randn(2, 8, dtype=torch.float64))

    def forward(self, x):
        return nn.functional.linear(self.first(x).relu(), self.weight)


def test_a_group_without_a_follower_goes_by_gates():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Functional().double()
    example = torch.zeros(1, 3).double()
    space = Space.trace(model, example, divisor=1)
    proposal = trained(Aofp(), model, space, halved(space), examples_for(model, example), epochs=10)
    assert "ranked by gate gradients" in proposal.notes["by_gates"]["first"]
    assert proposal.candidate[0] == 4 and proposal.notes["by_scores"] == 4
    assert len(proposal.scores["first"].unique()) > 1


def test_it_learns_and_the_weights_are_trained():
    model, example, space = traced("plain")
    examples = examples_for(model, example, size=16)
    phase = Aofp().start(Request(model, space, halved(space)))
    before = sum(examples.loss_of(model, batch).item() for batch in examples.batches)
    Loop(phase, examples, epochs=30, lr=0.05).run()
    after = sum(examples.loss_of(phase.model, batch).item() for batch in examples.batches)
    assert after < before
    weights = phase.proposal().weights
    assert weights["fc.bias"].ne(model.fc.bias).all()
    assert set(weights) == set(model.state_dict())


@pytest.mark.parametrize(
    "given", [{"threshold": 0}, {"iterations": 0}, {"warmup": -1}, {"until": 0}, {"until": 1.5}, {"least": 0}]
)
def test_wrong_settings_are_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        Aofp(**given)


def test_a_proposal_before_the_end_is_refused():
    model = Plain(4).double()
    space = Space.trace(model, torch.zeros(1, 3, 8, 8).double(), divisor=1)
    phase = Aofp().start(Request(model, space, halved(space)))
    with pytest.raises(ValueError, match="finalise"):
        phase.proposal()


@pytest.mark.parametrize("name", ["aofp", "resrep"])
def test_only_what_is_inside_of_blocks_goes_where_that_is_asked_for(name):
    model, example, space = traced("residual")
    examples, method = examples_for(model, example), METHODS[name](internal=True)
    proposal = propose(method, model, space, {"macs": 0.7 * space.full_costs["macs"]}, examples)
    inner = inner_groups(space)
    cut = [number for number, group in enumerate(space.groups) if proposal.candidate[number] < group.width]
    assert cut and set(cut) <= set(inner) < set(range(len(space.groups)))
    with pytest.raises(ValueError, match="inside of blocks alone can't meet"):
        propose(method, model, space, {"macs": 0.05 * space.full_costs["macs"]}, examples)
