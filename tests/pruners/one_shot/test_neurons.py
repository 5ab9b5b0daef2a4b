"""RANP's formulas, on the worked example of a bias-free linear chain and on made-up scores."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from secateur.pruners.examples import Examples, gradients
from secateur.pruners.one_shot.neurons import (
    balanced,
    bisected,
    kappa_max,
    kept_by,
    mask_gradients,
    multipliers,
    neuron_scores,
    rank_of,
    reweighted,
    threshold,
)

# |mask gradients| of the first sample; the second gives twice these, so the mean over both is 1.5 times
FIRST = [[[-1], [2]], [[-1, 2], [-1, -1], [1, 1]], [[1, -2, 2]]]


def example_scores(reduce="sum"):
    return [neuron_scores(1.5 * torch.tensor(rows, dtype=torch.float64).abs(), reduce=reduce) for rows in FIRST]


def close(found, expected, rel=1e-6):
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=rel)


def chain():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(12, 2)
    )
    return model.double()


def test_the_gradient_of_a_mask_is_weight_times_gradient():
    torch.manual_seed(0)
    model = chain()
    batch = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 1])
    weights = dict(model.named_parameters())
    masks = {name: torch.ones_like(weight, requires_grad=True) for name, weight in weights.items()}
    outputs = functional_call(
        model, {name: weight.detach() * masks[name] for name, weight in weights.items()}, batch[0]
    )
    torch.nn.functional.cross_entropy(outputs, batch[1]).backward()
    examples = Examples(batches=[batch], loss=torch.nn.functional.cross_entropy)
    found = mask_gradients(weights, next(gradients(model, examples, training=True)))
    for name, mask in masks.items():
        assert torch.allclose(found[name], mask.grad, rtol=1e-10, atol=1e-12), name


def test_scores_of_neurons_by_their_reduction():
    close(example_scores("sum"), [[1.5, 3], [4.5, 3, 3], [7.5]])
    close(example_scores("mean"), [[1.5, 3], [2.25, 1.5, 1.5], [2.5]])
    close(example_scores("max"), [[1.5, 3], [3, 1.5, 1.5], [3]])


def test_a_signed_sum_takes_its_magnitude_at_the_end():
    signed = [1.5 * torch.tensor(rows, dtype=torch.float64) for rows in FIRST]
    close([neuron_scores(rows) for rows in signed], [[1.5, 3], [1.5, 3, 3], [1.5]])


def test_a_bias_is_one_more_term_and_no_maximum():
    weight, bias = torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([5.0, 0.5])
    assert neuron_scores(weight, bias).tolist() == [9.0, 4.5]
    assert neuron_scores(weight, bias, reduce="mean").tolist() == [3.0, 1.5]  # over three terms
    assert neuron_scores(weight, bias, reduce="max").tolist() == [3.0, 2.0]


def test_a_transposed_convolution_is_scored_along_its_outputs():
    weight = torch.ones(4, 3, 2, 2, 2)  # inputs first
    assert neuron_scores(weight, axis=1).tolist() == [32.0, 32.0, 32.0]  # 4 inputs x 8 positions


def test_balanced_layers_have_the_largest_mean():
    # means 2.25, 3.5, 7.5: factors 3.33333, 2.142857, 1
    close(balanced(example_scores()), [[5, 10], [9.642857, 6.428571, 6.428571], [7.5]])


def test_a_layer_of_zeros_stays_one():
    close(balanced([np.zeros(2), np.array([1.0, 3.0])]), [[0, 0], [1, 3]])


def test_multipliers_of_costs():
    # exp(-1/3), exp(-1), exp(-1/2) over their sum: 0.423747, 0.217559, 0.358694; times 11, plus 1
    assert multipliers([2, 6, 3], 11) == pytest.approx([5.661217, 3.393148, 4.945635], rel=1e-6)
    # exp(-2/3), exp(-1), exp(-1/3) over their sum
    assert multipliers([2, 3, 1], 1) - 1 == pytest.approx([0.321322, 0.230237, 0.448441], rel=1e-5)
    # exp(-1/4) / (exp(-1/4) + exp(-1)) = 0.67918
    assert multipliers([2, 8], 11) == pytest.approx([8.4710, 4.5290], abs=5e-5)
    assert multipliers([2, 8], 0).tolist() == [1, 1]


def test_reweighted_scores_of_the_example():
    found = reweighted(balanced(example_scores()), [2, 6, 3], 11)
    close(found, [[28.306084, 56.612167], [32.719646, 21.813097, 21.813097], [37.092261]], rel=1e-7)


def test_equal_costs_keep_the_ranking():
    s = example_scores()
    once, again = np.concatenate(s), np.concatenate(reweighted(s, [4, 4, 4], 11))
    assert np.argsort(once, kind="stable").tolist() == np.argsort(again, kind="stable").tolist()


@pytest.mark.parametrize(
    "kappa, vanilla, weighted, flops",
    [
        (1 / 3, [[0, 1], [1, 1, 1]], [[0, 1], [1, 1, 1]], [[1, 1], [1, 0, 0]]),  # k = 4; vanilla keeps 5 by ties
        (1 / 2, [[0, 1], [1, 1, 1]], [[0, 1], [1, 0, 0]], [[0, 1], [1, 0, 0]]),  # k = 3
    ],
)
def test_masks_of_the_example(kappa, vanilla, weighted, flops):
    s = example_scores()
    w = balanced(s)
    for scores, expected in ((s, vanilla), (w, weighted), (reweighted(w, [2, 6, 3], 11), flops)):
        theta = threshold(scores, kept_by(kappa, 6))
        assert [(layer >= theta).astype(int).tolist() for layer in scores[:-1]] == expected


def test_k_is_not_moved_by_rounding():
    assert [kept_by(1 / 3, 6), kept_by(0.5, 6), kept_by(0.9, 10), kept_by(0.7824, 2386)] == [4, 3, 1, 519]
    assert int(10 * (1 - 0.9)) == 0  # what the plain product gives
    assert kept_by(0.99, 10) == 1


def test_the_largest_sparsity_of_the_example():
    s = example_scores()
    w = balanced(s)
    f = reweighted(w, [2, 6, 3], 11)
    # the worst best neuron ranks 3rd, 2nd and 3rd of 6
    assert [kappa_max(one) for one in (s, w, f)] == pytest.approx([1 / 2, 2 / 3, 1 / 2])
    assert bisected(lambda kappa: alive(w, kappa)) == pytest.approx(0.666626, abs=1e-6)


def alive(s, kappa):
    theta = threshold(s, kept_by(kappa, sum(map(len, s))))
    return all((layer >= theta).any() for layer in s[:-1])


@pytest.mark.parametrize("seed", range(20))
def test_bisection_ends_just_below_the_closed_form(seed):
    random = np.random.default_rng(seed)
    s = [random.exponential(random.uniform(0.5, 3), size=random.integers(2, 40)) for _ in range(6)]
    if seed % 2:
        s = [layer.round(1) for layer in s]  # ties
    exact = kappa_max(s)
    assert exact - 1e-4 <= bisected(lambda kappa: alive(s, kappa)) <= exact + 1e-9


def test_the_rank_of_a_layer_is_the_least_k_that_keeps_so_many():
    random = np.random.default_rng(0)
    s = [random.integers(0, 9, size=12).astype(float) for _ in range(4)]
    for layer in s:
        for needed in (1, 2, 5):
            enough = [k for k in range(1, 49) if (layer >= threshold(s, k)).sum() >= needed]
            assert rank_of(s, layer, needed) == enough[0]


def test_a_layer_s_scale_matters_until_layers_are_balanced():
    s = example_scores()
    scaled = [layer * factor for layer, factor in zip(s, (100, 1, 1), strict=True)]
    order = [np.argsort(np.concatenate(one), kind="stable").tolist() for one in (s, scaled)]
    assert order[0] != order[1]
    masks = [[layer >= threshold(one, 3) for layer in one] for one in (balanced(s), balanced(scaled))]
    for one, other in zip(*masks, strict=True):
        assert one.tolist() == other.tolist()
