"""Golden numbers by hand, from the formulas of Yao 2021; what a trained phase keeps; its teacher; its tiles."""

import copy
import io
from functools import cache

import pytest
import tasks
import torch
import torch.nn.functional as F
from attentions import KINDS, Net
from networks import network
from pruning import Loop, examples_for
from torch import nn

from secateur.evaluators import Training, train
from secateur.pruners import Examples, MLPruning, Request, TileMasks, realised
from secateur.pruners.training.maps import hearing
from secateur.pruners.training.masks import Masks
from secateur.pruners.training.mlpruning import densities
from secateur.pruners.training.thresholds import Thresholds, count, penalty, slope, strength
from secateur.pruners.training.tiles import spread, tile_sums
from secateur.spaces import Space
from secateur.testing import PrunerContract

WIDE, HEADS, HIDDEN = 24, 12, 96  # as BERT's 768, 12, 3072: four times as wide inside


class Layer(nn.Module):
    """A layer of BERT, with matrices only."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDE, WIDE, bias=False) for _ in range(4))
        self.one, self.two = nn.Linear(WIDE, HIDDEN, bias=False), nn.Linear(HIDDEN, WIDE, bias=False)

    def forward(self, x):
        n, s, _ = x.shape
        q, k, v = (f(x).reshape(n, s, -1, WIDE // HEADS).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.two(F.gelu(self.one(x)))


class Bert(nn.Module):
    def __init__(self, layers=1):
        super().__init__()
        self.stem, self.layers = nn.Conv2d(3, WIDE, 4, stride=4), nn.ModuleList(Layer() for _ in range(layers))
        self.head = nn.Linear(WIDE, 5)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


@cache
def bert(layers=1):
    torch.manual_seed(0)
    model, example = Bert(layers).double().eval(), torch.rand(1, 3, 8, 8).double()
    return model, Space.trace(model, example, divisor=1), examples_for(model, example)


def limits(space, share):
    return {"macs": share * space.full_costs["macs"]}


@pytest.mark.parametrize(
    ("n", "threshold", "stay"), [(12, 10, 12), (12, 0, 6), (12, -1, 4), (3072, 10, 3072), (8, 0.5, 5), (8, -60, 1)]
)
def test_as_many_stay_as_the_threshold_says(n, threshold, stay):
    assert count(threshold, n) == stay  # sigmoid(-1) = 0.26894, times 12 = 3.2273


def test_gradients_pass_straight_through_the_choice():
    learned = Thresholds([torch.zeros(3)])
    learned.scores[0].copy_(torch.tensor([2.0, 0.0, 1.0]))
    learned.thresholds.zero_()  # ceil(3 / 2) = 2 stay
    assert learned.kept()[0].tolist() == [True, False, True]
    given = torch.tensor([0.2, -0.5, 0.1]).double()
    learned.step([given], torch.tensor([4.0]).double(), 0.0)
    assert torch.equal(learned.scores[0].grad, given)
    # 0.2 + 0.1 of the open masks, and the penalty's slope 4 times sigmoid'(0) = 1/4
    torch.testing.assert_close(learned.thresholds.grad, torch.tensor([1.3]).double())


def test_equal_scores_go_by_norms_and_then_by_place():
    learned = Thresholds([torch.tensor([3.0, 1.0, 2.0, 1.0])])
    assert learned.ranks()[0].tolist() == [3, 0, 2, 1]
    learned.scores[0][1] = 1.0
    assert learned.ranks()[0].tolist() == [2, 3, 1, 0]


def test_the_penalty_and_its_strength():
    assert penalty(0.395833, 0.3) == pytest.approx(0.00918403, rel=2e-5)
    assert strength(0.395833, 0.3, 20_000) == pytest.approx(374.858, rel=2e-5)  # 20,000 * 0.00918403 / 0.49
    assert strength(0.3 + 0.002**0.5, 0.3, 20_000) == pytest.approx(81.633, rel=1e-4)
    assert strength(0.3 + 0.001**0.5, 0.3, 20_000) == 50
    assert strength(0.3 + 2e-4**0.5, 0.3, 20_000) == 10
    assert slope(0.395833, 0.3, 20_000) == pytest.approx(374.858 * 2 * 0.095833, rel=2e-5)
    assert penalty(0.2, 0.3) == slope(0.2, 0.3, 20_000) == 0


@pytest.mark.parametrize(
    ("heads", "rows", "wanted"),
    [
        (1, 1, 1),
        (0.5, 1, 10 / 12),  # (3 * 0.5 + 0.5 + 4 + 4) / 12: here rows of the matrices that add to the stream stay
        (0.5, 0.5, 6 / 12),
        (0, 0, (4 / 12 + 8 / 96) / 12),  # one head, one row
    ],
)
def test_the_density_is_the_papers_where_all_are_matrices(heads, rows, wanted):
    _, space, _ = bert()
    numbers = [[group.name for group in space.groups].index(name) for name in ("layers.0.q", "layers.0.one")]
    found, slopes = densities(space, numbers, torch.tensor([heads, rows]).double().numpy())
    full, prunable = space.full_costs["params"], 12 * WIDE**2
    assert (found["params"] * full - (full - prunable)) / prunable == pytest.approx(wanted)
    by_heads, by_rows = slopes["params"] * full / prunable
    assert by_heads == pytest.approx(4 / 12 if heads else 0) and by_rows == pytest.approx(8 / 12 if rows else 0)


def test_between_two_legal_widths_a_cost_is_linear():
    model = nn.Sequential(nn.Linear(2, 32, bias=False), nn.GELU(), nn.Linear(32, 2, bias=False))
    space = Space.trace(model, torch.zeros(1, 2), divisor=16)
    found, slopes = densities(space, [0], torch.tensor([0.75]).numpy())  # 24 of 32, between 16 and 32
    assert found["macs"] == pytest.approx(0.75) and slopes["macs"].tolist() == pytest.approx([1.0])


def test_rows_are_rounded_up_to_a_multiple():
    model = nn.Sequential(nn.Linear(1, 3072), nn.GELU(), nn.Linear(3072, 1))
    space = Space.trace(model, torch.zeros(1, 1), divisor=16)
    masks = Masks(model, space)
    masks.close(torch.arange(500, 3072).numpy() + space.groups[0].first)
    assert masks.candidate()[0] == 512


class TestMLPruning(PrunerContract):
    tolerance = 1e-10

    def method(self):
        return MLPruning()

    def subject(self):
        return bert(2)

    def task(self):
        return tasks.classification(train=48, classes=5)


def phase_of(share, layers=2, **settings):
    model, space, examples = bert(layers)
    return MLPruning(**settings).start(Request(model, space, limits(space, share))), space, examples


def test_at_first_nothing_is_closed():
    phase, space, examples = phase_of(0.5)
    model = bert(2)[0]
    inputs = examples.batches[0][0]
    assert torch.equal(phase.model.eval()(inputs), model(inputs))


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_heads_and_rows_go_and_the_stream_stays_while_that_is_enough(share):
    phase, space, examples = phase_of(share)
    Loop(phase, examples, epochs=20).run()
    proposal = phase.proposal()
    widths = dict(zip([group.name for group in space.groups], proposal.candidate, strict=False))
    costs = space.cost_table([proposal.candidate])["macs"][0]
    assert widths["stem"] == WIDE and not proposal.notes["streams"]
    assert 0.85 * share <= costs / space.full_costs["macs"] <= share  # all thresholds rise until the limit is used
    assert min(widths["layers.0.q"], widths["layers.1.q"]) >= WIDE // HEADS  # none is ever emptied


def test_the_stream_learns_too_where_the_limit_needs_it():
    model, space, examples = bert(2)
    low = space.smallest_costs["macs"] / space.full_costs["macs"]
    phase, *_ = phase_of(low + 0.01)
    Loop(phase, examples, epochs=10).run()
    proposal = phase.proposal()
    assert proposal.notes["streams"] and proposal.candidate[0] < WIDE
    assert realised(model, space, proposal)(examples.batches[0][0]).shape == (4, 5)


def test_what_the_loss_needs_stays():
    # unit i carries input i; the targets want twice of 1 and 3, and nothing of 0 and 2
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.GELU(), nn.Linear(4, 4, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
        model[2].weight.copy_(torch.eye(4))
    space = Space.trace(model, torch.zeros(1, 4).double(), divisor=1)
    inputs = torch.eye(4).double()
    wanted = 2 * model(inputs).detach() * torch.tensor([0.0, 1.0, 0.0, 1.0]).double()
    examples = Examples(batches=[(inputs, wanted)], loss=F.mse_loss)
    phase = MLPruning().start(Request(model, space, limits(space, 0.5)))
    Loop(phase, examples, epochs=30).run()
    assert phase._masks.open_units(0).tolist() == [1, 3]


def test_a_network_without_attention_loses_filters():
    model, example = network("residual")
    space = Space.trace(model, example, divisor=1)
    phase = MLPruning().start(Request(model, space, limits(space, 0.6)))
    Loop(phase, examples_for(model, example), epochs=10).run()
    assert space.cost_table([phase.proposal().candidate])["macs"][0] <= limits(space, 0.6)["macs"]


def test_the_teacher_adds_its_terms_to_the_gradient():
    model, space, examples = bert(2)
    phase, *_ = phase_of(0.5, teaching=0.9, temperature=2.0)

    def distill(mine, theirs, t):
        return t * t * F.kl_div((mine / t).log_softmax(1), (theirs / t).softmax(1), reduction="batchmean")

    inputs, targets = examples.batches[0]
    with torch.no_grad():
        for tensor in phase.model.parameters():
            tensor.mul_(0.9)
    twin = copy.deepcopy(bert(2)[0]).train()
    twin.load_state_dict(phase.model.state_dict())
    loop = Loop(phase, examples)
    loop.task = type("Task", (), {"distill": staticmethod(distill)})()
    phase.prepare(loop)
    F.cross_entropy(phase.model.train()(inputs), targets).backward()

    def blocks(network):
        x, found = network.stem(inputs).flatten(2).transpose(1, 2), []
        for layer in network.layers:
            q, k = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (layer.q, layer.k))
            x = layer(x)
            found += [q @ k.mT / (WIDE // HEADS) ** 0.5, x]
        return network.head(x.mean(1)), found

    outputs, hidden = blocks(twin)
    theirs, wanted = blocks(model)
    taught = distill(outputs, theirs, 2.0) + sum(F.mse_loss(a, b) for a, b in zip(hidden, wanted, strict=True))
    (0.1 * F.cross_entropy(outputs, targets) + 0.9 * taught).backward()
    for one, two in zip(phase.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.parametrize(
    ("kind", "made"), [("sdpa", 1), ("hand", 1), ("encoder layer", 1), ("grouped by PyTorch", 1), ("module", 2)]
)
def test_maps_of_attention_are_heard_however_they_are_written(kind, made):
    torch.manual_seed(0)
    model, maps = Net(KINDS[kind][0]()), []
    with hearing(lambda made_of, scores: maps.append(scores(*made_of))):
        model(torch.rand(2, 6, 5))
    assert [tuple(one.shape[:3]) for one in maps] == [(2, 4, 6)] * made
    if kind == "module":  # the first is of positions before alone
        assert not maps[0].triu(1).any() and maps[0][..., torch.ones(6, 6).tril().bool()].all()
    model(torch.rand(2, 6, 5))
    assert len(maps) == made


@pytest.mark.parametrize(
    "given", [{"rate": 0}, {"pressure": -1}, {"until": 0}, {"teaching": 1}, {"temperature": 0}, {"least": 0}]
)
def test_wrong_settings_are_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        MLPruning(**given)


def test_a_proposal_before_the_end_is_refused():
    with pytest.raises(ValueError, match="finalise"):
        phase_of(0.5)[0].proposal()


def test_tiles_by_hand():
    weight = torch.arange(6.0).view(2, 3)
    assert tile_sums(weight, (2, 2)).tolist() == [[0 + 1 + 3 + 4, 2 + 5]]  # the second is filled up
    tiles = torch.ones(3, 2, dtype=torch.bool)
    tiles[1, 0] = False
    assert int((~spread(tiles, (48, 32), (16, 16))).sum()) == 256
    assert torch.equal(tile_sums(spread(tiles, (48, 32), (16, 16)).float(), (16, 16)) > 0, tiles)


def test_tiles_are_zeroed_to_the_density_and_their_cost_is_stated():
    model, example = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 5)), torch.rand(1, 32)
    space = Space.trace(model, example)
    tiles = TileMasks(model, size=(16, 16), density=0.5)
    assert list(tiles.masks) == ["0.weight"]  # 5 rows hold no tile
    Loop(Only(tiles, model), examples_for(model, example), epochs=20).run()
    zeros = int((model[0].weight == 0).sum())
    assert tiles.density == 0.5 and zeros == 4 * 256
    assert tiles.costs(space) == {"macs": 32 * 64 + 64 * 5 - 1024, "params": 32 * 64 + 64 + 64 * 5 + 5 - 1024}


class Only:
    """A callback as a phase of the tests' loop."""

    def __init__(self, callback, model):
        self.model, self.callback = model, callback
        self.after_backward, self.after_step = callback.after_backward, callback.after_step
        self.finalise = callback.finalise


def test_tiles_go_on_bit_by_bit():
    def trained(state=None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 5))
        tiles = TileMasks(model, size=(8, 8), density=0.4)
        task, kept = tasks.classification(train=48, classes=5), []
        keep = type("Keep", (), {"after_epoch": staticmethod(lambda loop: kept.append(saved(loop.state())))})()
        train(model, task, Training(optimizer="adamw", lr=0.01), epochs=4, callbacks=[tiles, keep], state=state)
        return kept, model, tiles

    kept, whole, tiles = trained()
    assert tiles.density <= 0.4
    for state in kept:
        _, model, _ = trained(torch.load(io.BytesIO(state), weights_only=True))
        assert all(torch.equal(one, two) for one, two in zip(model.parameters(), whole.parameters(), strict=True))


def saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_wrong_tiles_are_refused():
    model = nn.Sequential(nn.Embedding(64, 64), nn.Linear(64, 8))
    for given, match in (({"size": (16, 0)}, "size"), ({"density": 0}, "density"), ({"until": 2}, "until")):
        with pytest.raises(ValueError, match=match):
            TileMasks(model, **given)
    with pytest.raises(ValueError, match="as large as a tile"):
        TileMasks(model)  # the embedding is no matrix, and the other is too small
