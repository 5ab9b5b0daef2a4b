"""RANP on networks: its worked example end to end, its allocation under limits, and what it keeps intact."""

import copy
import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from networks import network
from networks3d import unet3d
from pruning import examples_for
from torch import nn

from secateur.pruners import METHODS, Examples, Request, realised
from secateur.pruners.criteria.retained import retained
from secateur.pruners.examples import gradients
from secateur.pruners.one_shot.neurons import balanced, kept_by, mask_gradients, threshold
from secateur.pruners.one_shot.ranp import Ranp
from secateur.spaces import Space, build, within

VARIANTS = ("ranp", "ranp-w", "ranp-f", "ranp-m", "ranp-p")


@functools.cache
def linear_chain():
    """The worked example: three bias-free layers, batches of one, L = (y - t)^2 / 2."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False))
    weights = [[[1], [2]], [[1, -1], [0.5, 0.25], [2, 1]], [[1, 2, -0.5]]]
    for layer, weight in zip(model, weights, strict=True):
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
    batches = [(torch.tensor([[x]]).double(), torch.tensor([[t]]).double()) for x, t in ((1, 0), (-2, 1))]
    examples = Examples(batches=batches, loss=lambda y, t: (y - t).square().sum() / 2)
    return model, Space.trace(model, batches[0][0], divisor=1), examples


@functools.cache
def traced(name, divisor=1):
    model, example = network(name)
    return model, Space.trace(model, example, divisor=divisor), examples_for(model, example)


def share(space, ratio, cost="macs"):
    low, high = (float(space.costs([c])[cost].iloc[0]) for c in (space.smallest, space.full))
    return {cost: low + ratio * (high - low)}


@functools.cache
def volumes(side=8, classes=3):
    """A 3D U-Net of four levels and labelled noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = unet3d(1, classes, base=4).eval()
        batches = [(torch.randn(2, 1, side, side, side), torch.randint(0, classes, (2, side, side, side)))]
    examples = Examples(batches=batches, loss=nn.functional.cross_entropy)
    return model, Space.trace(model, batches[0][0], divisor=1), examples


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ranp", [[1.5, 3], [4.5, 3, 3], [7.5]]),
        ("ranp-w", [[5, 10], [9.642857, 6.428571, 6.428571], [7.5]]),
        ("ranp-f", [[28.306084, 56.612167], [32.719646, 21.813097, 21.813097], [37.092261]]),  # tau 2, 6, 3
        ("ranp-p", [[28.306084, 56.612167], [32.719646, 21.813097, 21.813097], [37.092261]]),  # the same here
        # tau 2, 3, 1: 1 + 11 softmax = 4.534541, 3.532609, 5.932850
        ("ranp-m", [[22.672706, 45.345412], [34.064448, 22.709632, 22.709632], [44.496371]]),
    ],
)
def test_scores_of_the_worked_example(name, expected):
    model, space, examples = linear_chain()
    for found, wanted in zip(METHODS[name]().neurons(model, space, examples), expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name, third, half", [("ranp", [1, 3], [1, 3]), ("ranp-w", [1, 3], [1, 1]),
                                               ("ranp-f", [2, 1], [1, 1])])  # fmt: skip
def test_widths_of_the_worked_example(name, third, half):
    model, space, examples = linear_chain()
    for kappa, widths in ((1 / 3, third), (1 / 2, half)):
        proposal = METHODS[name](kappa=kappa).propose(Request(model, space, {}, examples=examples))
        assert list(proposal.candidate) == widths
        assert proposal.notes["kappa"] == pytest.approx(kappa)
    assert proposal.notes["kappa_max"] == pytest.approx(2 / 3 if name == "ranp-w" else 1 / 2)
    assert proposal.notes["neurons"] == 6
    assert proposal.notes["neurons_kept"] == sum(half) + 1
    assert proposal.notes["one_neuron"] == [str(layer) for layer, width in enumerate(half) if width == 1]


def test_the_largest_sparsity_keeps_one_neuron_of_some_layer():
    model, space, examples = linear_chain()
    proposal = METHODS["ranp-w"](kappa="max").propose(Request(model, space, {}, examples=examples))
    assert list(proposal.candidate) == [1, 1]  # k = 2: scores 10 and 9.64
    assert "held" not in proposal.notes


def test_beyond_the_largest_sparsity_every_group_is_held():
    model, space, examples = linear_chain()
    proposal = METHODS["ranp-w"](kappa=0.9).propose(Request(model, space, {}, examples=examples))
    assert list(proposal.candidate) == [1, 1]  # k = 1 keeps a neuron of the first layer alone
    assert proposal.notes["held"] == ["1"]


def test_signed_mask_gradients_sum_to_the_same_in_every_layer():
    model, space, examples = linear_chain()
    sums = [
        [float(product.sum()) for product in mask_gradients(dict(model.named_parameters()), found).values()]
        for found in gradients(model, examples)
    ]
    assert np.mean(sums, axis=0) == pytest.approx([1.5, 1.5, 1.5])  # 1 and 2
    # an ReLU changes nothing: it is homogeneous too
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv1d(2, 5, 3, bias=False), nn.ReLU(), nn.Conv1d(5, 4, 2, bias=False), nn.ReLU(),
                            nn.Flatten(), nn.Linear(8, 3, bias=False)).double()  # fmt: skip
        batch = torch.randn(4, 2, 5).double(), torch.tensor([0, 1, 2, 1])
    found = next(gradients(net, Examples(batches=[batch], loss=nn.functional.cross_entropy)))
    sums = [float(product.sum()) for product in mask_gradients(dict(net.named_parameters()), found).values()]
    assert sums == pytest.approx([sums[0]] * 3) and abs(sums[0]) > 1e-3


def test_raw_scores_are_the_gradient_of_one_mask_on_a_neuron():
    model, space, examples = linear_chain()
    for found, wanted in zip(
        Ranp(raw=True).neurons(model, space, examples), [[1.5, 3], [1.5, 3, 3], [1.5]], strict=True
    ):
        assert found == pytest.approx(wanted)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("cost", ["macs", "params", "activation_bytes"])
def test_the_widest_network_within_the_limits(name, cost):
    model, space, examples = volumes()
    limits = share(space, 0.3, cost)
    pruner = METHODS[name](least=1)
    proposal = pruner.propose(Request(model, space, limits, examples=examples))
    assert within(space, space.encode([proposal.candidate]), limits).all()
    # one neuron more is too many
    k = round((1 - proposal.notes["kappa"]) * proposal.notes["neurons"])
    s = pruner.neurons(model, space, examples)
    wider = [
        int((layer >= threshold(s, k + 1)).sum())
        for layer in s[: len(space.groups)]  # one layer a group, in order
    ]
    assert not within(space, np.array([np.maximum(wider, 1)]), limits).any()


def test_the_last_layer_keeps_all_though_its_scores_count():
    model, space, examples = volumes()
    s = METHODS["ranp-w"]().neurons(model, space, examples)
    assert len(s) == 15 and len(s[-1]) == 3 and len(space.groups) == 14
    kappa = 0.6
    neurons = sum(map(len, s))
    theta = threshold(s, math.floor(neurons * (1 - kappa)))
    proposal = METHODS["ranp-w"](kappa=kappa, least=1).propose(Request(model, space, {}, examples=examples))
    assert list(proposal.candidate) == [max(1, int((layer >= theta).sum())) for layer in s[:-1]]
    assert realised(model, space, proposal).head.out_channels == 3


@pytest.mark.parametrize("name", ["ranp", "ranp-f"])
def test_a_pruned_unet_is_wired_as_the_full_one(name):
    model, space, examples = volumes()
    proposal = METHODS[name]().propose(Request(model, space, share(space, 0.1), examples=examples))
    small = realised(model, space, proposal)
    down = [level[3].out_channels for level in small.down]
    up = [level[3].out_channels for level in small.up]
    # each level above reads the skip of its size and what comes from below
    assert [level[0].in_channels for level in small.up] == [
        skip + below for skip, below in zip(down[-2::-1], [down[-1], *up[:-1]], strict=True)
    ]
    x = torch.randn(2, 1, 9, 11, 13)  # odd sides
    outputs = small.train()(x)
    assert outputs.shape == (2, 3, 9, 11, 13)
    outputs.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in small.parameters())


@pytest.mark.parametrize("unify", ["max", "min"])
def test_layers_that_an_addition_joins_keep_the_most_or_the_least(unify):
    model, space, examples = traced("residual")
    pruner = Ranp(balance=True, unify=unify, kappa=0.5)
    s = dict(zip((layer.name for layer in space.layers), pruner.neurons(model, space, examples), strict=True))
    theta = threshold(list(s.values()), sum(map(len, s.values())) // 2)
    proposal = pruner.propose(Request(model, space, {}, examples=examples))
    joined = [i for i, group in enumerate(space.groups) if len(set(group.members) & set(s)) > 1]
    assert joined
    for number in joined:
        counts = [int((s[name] >= theta).sum()) for name in space.groups[number].members if name in s]
        assert len(set(counts)) > 1  # else the two rules agree
        assert proposal.candidate[number] == max(1, (max if unify == "max" else min)(counts))
        scores = np.array([s[name] for name in space.groups[number].members if name in s])
        best = scores.max(0) if unify == "max" else scores.min(0)
        assert proposal.scores[space.groups[number].name].numpy() == pytest.approx(best, rel=1e-6)


def test_a_depthwise_layer_follows_its_input():
    model, space, examples = traced("mobile")
    s = dict(zip((layer.name for layer in space.layers), Ranp().neurons(model, space, examples), strict=True))
    number = next(i for i, group in enumerate(space.groups) if group.name == "features.0.expand")
    assert "features.0.depthwise" in space.groups[number].members
    differ = 0
    for kappa in (0.2, 0.4, 0.6):
        proposal = Ranp(kappa=kappa).propose(Request(model, space, {}, examples=examples))
        theta = threshold(list(s.values()), kept_by(kappa, sum(map(len, s.values()))))
        assert proposal.candidate[number] == max(1, (s["features.0.expand"] >= theta).sum())
        differ += int((s["features.0.depthwise"] >= theta).sum() != proposal.candidate[number])
    assert differ


def test_balanced_layers_have_one_mean():
    model, space, examples = traced("plain")
    s = Ranp().neurons(model, space, examples)
    w = Ranp(balance=True).neurons(model, space, examples)
    assert np.ptp([layer.mean() for layer in s]) > 0.1 * s[0].mean()
    assert [layer.mean() for layer in w] == pytest.approx([max(layer.mean() for layer in s)] * len(s))
    for one, other in zip(w, balanced(s), strict=True):
        assert one.tolist() == other.tolist()


def test_a_strength_of_nothing_is_weighting_alone():
    model, space, examples = traced("plain")
    w = Ranp(balance=True).neurons(model, space, examples)
    f = Ranp(balance=True, resource="flops", strength=0).neurons(model, space, examples)
    for one, other in zip(w, f, strict=True):
        assert one.tolist() == other.tolist()


def test_the_expensive_layers_lose_more():
    model, space, examples = volumes(side=16)
    pruned = {
        name: METHODS[name](kappa=0.6, strength=50.0).propose(Request(model, space, {}, examples=examples))
        for name in ("ranp-w", "ranp-f", "ranp-m", "ranp-p")
    }
    costs = space.costs([proposal.candidate for proposal in pruned.values()]).set_index(np.array(list(pruned)))
    assert costs["macs"].idxmin() in ("ranp-f", "ranp-m") and costs["macs"]["ranp-f"] < 0.8 * costs["macs"]["ranp-w"]
    assert costs["activation_bytes"].idxmin() == "ranp-m"
    assert costs["params"].idxmin() == "ranp-p"


def test_fresh_weights_are_those_of_the_small_network():
    model, space, examples = traced("residual")
    limits = share(space, 0.3)
    before = torch.random.get_rng_state()
    one, again, other = (
        Ranp(weights="fresh", initialise=True).propose(Request(model, space, limits, examples=examples, seed=seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.candidate == again.candidate and all(torch.equal(one.weights[k], again.weights[k]) for k in one.weights)
    assert any(not torch.equal(one.weights[k], other.weights.get(k, one.weights[k])) for k in one.weights
               if one.weights[k].shape == other.weights[k].shape)  # fmt: skip
    small = realised(model, space, one)
    drawn = []
    for conv in (module for module in small.modules() if isinstance(module, nn.Conv2d)):
        fans = (conv.in_channels + conv.out_channels) * math.prod(conv.kernel_size)
        drawn.append(conv.weight.detach().flatten() * math.sqrt(fans / 2))  # Xavier's deviation, of the small network
    assert float(torch.cat(drawn).std()) == pytest.approx(1, rel=0.1)  # some 500 numbers
    assert (one.weights["bn.running_mean"] == 0).all()


def test_a_graph_gets_fresh_weights_too():
    model, example = network("literal")
    space = Space.trace(model, example, divisor=1, as_graph=True)
    examples = examples_for(model, example)
    proposal = Ranp(weights="fresh").propose(Request(model, space, share(space, 0.3), examples=examples))
    small = realised(model, space, proposal)
    inherited = realised(model, space, dataclasses.replace(proposal, weights=None))
    weights = dict(small.named_parameters())
    assert set(weights) == {"a.weight", "a.bias", "b.weight", "b.bias", "c.weight", "c.bias"}
    for name, parameter in inherited.named_parameters():
        assert parameter.shape == weights[name].shape and not torch.equal(parameter, weights[name])
    assert not any(weights[f"{layer}.bias"].any() for layer in "abc")


def test_scores_of_new_weights_are_not_those_of_the_given_ones():
    model, space, examples = traced("plain")
    weights = copy.deepcopy(model.state_dict())
    given, drawn = (Ranp(initialise=new).neurons(model, space, examples) for new in (False, True))
    assert all(not np.allclose(one, other) for one, other in zip(given, drawn, strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_batch_statistics_change_the_gradients_and_are_put_back():
    model, space, examples = traced("plain")
    before = copy.deepcopy(model.state_dict())
    batch, running = (Ranp(batch_statistics=on).neurons(model, space, examples) for on in (True, False))
    assert not np.allclose(batch[0], running[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_batch_without_statistics_uses_the_running_ones():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 2))
    example = torch.ones(1, 1, 4, 4)
    examples = Examples(batches=[(example, torch.tensor([1]))], loss=nn.functional.cross_entropy)
    space = Space.trace(model.eval(), example, divisor=1)
    proposal = Ranp().propose(Request(model, space, share(space, 0.5), examples=examples))
    assert "running" in proposal.notes["statistics"]
    assert not model.training


def test_a_group_without_a_layer_stays_whole():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(5, 6), nn.Linear(6, 2)
            self.wide, self.narrow = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.words(x).mean(1)
            return self.out(x) + self.narrow(torch.relu(self.wide(x)))

    model = Embedded().eval()
    example = torch.tensor([[1, 2, 3]])
    examples = Examples(batches=[(example, torch.tensor([1]))], loss=nn.functional.cross_entropy)
    space = Space.trace(model, example, divisor=1)
    assert [group.name for group in space.groups] == ["words", "wide"]
    proposal = Ranp(kappa=0.9, least=1).propose(Request(model, space, {}, examples=examples))
    assert list(proposal.candidate) == [6, 1]
    assert set(proposal.notes["whole"]) == {"words"}
    # a limit that the others cannot meet takes from it too
    tight = Ranp().propose(Request(model, space, share(space, 0.05, "params"), examples=examples))
    assert tight.candidate[0] < 6 and "repaired" in tight.notes
    assert within(space, space.encode([tight.candidate]), share(space, 0.05, "params")).all()


def test_no_group_is_narrower_than_asked_for():
    model, space, examples = traced("plain")
    proposal = Ranp(kappa=0.95, least=3).propose(Request(model, space, {}, examples=examples))
    assert min(proposal.candidate) >= 3
    macs = float(space.costs([space.check([3] * len(space.groups))])["macs"].iloc[0])
    assert min(Ranp(least=3).propose(Request(model, space, {"macs": macs}, examples=examples)).candidate) == 3
    with pytest.raises(ValueError, match="at least 3 channels"):
        Ranp(least=3).propose(Request(model, space, {"macs": macs - 1}, examples=examples))


def test_by_itself_no_group_of_eight_is_left_fewer_than_four_unless_the_limits_ask_for_it(caplog):
    model, space, examples = traced("plain")  # 8 and 16 channels
    alone, paper = (
        Ranp(kappa=0.95, least=least).propose(Request(model, space, {}, examples=examples)) for least in (None, 1)
    )
    assert min(alone.candidate) == 4 and min(paper.candidate) < 4 and "narrow" not in alone.notes
    limits = {"macs": float(space.costs([space.check([4, 4])])["macs"].iloc[0]) - 1}
    tight = Ranp().propose(Request(model, space, limits, examples=examples))
    assert within(space, space.encode([tight.candidate]), limits).all()
    assert tight.notes["narrow"] and "less than 4 channels" in caplog.text


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"reduce": "median"}, "reduce='median': expected 'sum', 'mean' or 'max'"),
        ({"resource": "latency"}, "resource='latency': expected 'flops', 'memory' or 'params'"),
        ({"unify": "mean"}, "unify='mean': expected 'max' or 'min'"),
        ({"raw": True, "reduce": "max"}, "no meaningful maximum"),
        ({"kappa": 1.0}, "kappa=1.0: expected less than 1 or 'max'"),
        ({"strength": -1.0}, "strength=-1.0"),
        ({"least": 0}, "least=0"),
        ({"weights": "merged"}, "weights='merged'"),
    ],
)
def test_settings_are_checked(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Ranp(**settings)


def test_the_share_of_the_score_that_candidates_keep():
    model, space, examples = linear_chain()
    scores = {"0": torch.tensor([1.0, 3.0]), "1": torch.tensor([4.0, 1.0, 1.0])}
    candidates = space.encode([space.check(c) for c in ([2, 3], [1, 3], [1, 1], [2, 2])])
    assert retained(space, scores, candidates) == pytest.approx([1, 9 / 10, 7 / 10, 9 / 10])
    assert retained(space, scores, space.decode(candidates)) == pytest.approx([1, 9 / 10, 7 / 10, 9 / 10])
    with pytest.raises(ValueError, match="negative or all 0"):
        retained(space, {**scores, "0": torch.tensor([-1.0, 3.0])}, candidates)


def test_removed_blocks_keep_no_score():
    model, space, examples = traced("residual")
    assert space.stages
    scores = Ranp(balance=True).propose(Request(model, space, {}, examples=examples)).scores
    whole, shallow, narrow = retained(space, scores, [space.full, space.uniform(1, 0.01), space.uniform(0.5)])
    assert whole == pytest.approx(1) and shallow < 0.9 and narrow < 1
    gone = [group for group in space.groups
            if all(name.startswith(space.removed(space.uniform(1, 0.01))) for name in group.members)]  # fmt: skip
    lost = sum(float(scores[group.name].sum()) for group in gone) / sum(float(v.sum()) for v in scores.values())
    assert gone and shallow == pytest.approx(1 - lost)


def test_the_campaign_chooses_the_weights_that_a_proposal_begins_with():
    model, space, examples = traced("plain")
    method = METHODS["ranp"](weights="fresh", draw="campaign")
    request = Request(model, space, share(space, 0.5), examples=examples)
    proposal = method.propose(request)
    assert any("candidates" in said for said in proposal.notes["campaign"].values())
    small = build(model, space, proposal.candidate, proposal.scores)
    campaign_only = METHODS["ranp"](weights="fresh").propose(request).weights
    changed = [name for name in campaign_only if not torch.equal(campaign_only[name], proposal.weights[name])]
    assert changed and set(changed) <= set(small.state_dict())
    with pytest.raises(ValueError, match="give weights='fresh' too"):
        METHODS["ranp"](draw="campaign")
