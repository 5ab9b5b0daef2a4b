"""Criteria that look at gradients, on networks whose derivatives are known.

`pair(a, b)` is `y = sum of a_i b_i x`: two hidden units, no biases. `dy/da = b x`, `dy/db = a x`.
"""

import pytest
import torch
from networks import network
from pruning import examples_for
from torch import nn
from torch.autograd.function import once_differentiable

from secateur.pruners import Examples
from secateur.pruners.criteria.gradients import (
    _differences,
    _twice,
    anpyc,
    entropy,
    grasp,
    mean_gradient,
    optimal_brain_damage,
    snip,
    taylor,
)
from secateur.pruners.criteria.synflow import synaptic_flow, synflow
from secateur.pruners.examples import first_output, singles
from secateur.spaces import Space


def pair(a, b):
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(a)[:, None])
        model[1].weight.copy_(torch.tensor(b)[None])
    return model, Space.trace(model, torch.ones(1, 1).double(), divisor=1)


def inputs(*values, loss):
    return Examples(batches=[(torch.tensor([[value]]).double(), None) for value in values], loss=loss)


def mean(outputs, targets):
    return outputs.mean()


def half_square(outputs, targets):
    return 0.5 * outputs.square().mean()


def test_taylor_squares_the_sum_of_each_batch():
    # a * dL/da = a b x = (10, -21) x; squares for x = 1 and 3: (100 + 900) / 2, (441 + 3969) / 2
    model, space = pair([2.0, -3.0], [5.0, 7.0])
    assert taylor(model, space, inputs(1.0, 3.0, loss=mean))["0"].tolist() == [500, 2205]


def test_taylor_is_the_derivative_by_the_gate_behind_the_norm():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=1)
    examples = examples_for(model, example, batches=1)
    scores = taylor(model, space, examples)["conv1"]

    def loss_at(gate):
        gated = network("plain")[0]
        with torch.no_grad():
            gated.bn1.weight[3] *= gate
            gated.bn1.bias[3] *= gate
            return examples.loss_of(gated, examples.batches[0]).item()

    step = 1e-5
    slope = (loss_at(1 + step) - loss_at(1 - step)) / (2 * step)
    assert scores[3].item() == pytest.approx(slope**2, rel=1e-5)


def test_snip_sums_magnitudes_on_both_sides():
    # |a b x| at the filter and at the column that reads it, for the mean x = 2 of two batches
    model, space = pair([2.0, -3.0], [5.0, 7.0])
    assert snip(model, space, inputs(1.0, 3.0, loss=mean))["0"].tolist() == [40, 84]


def test_grasp_is_weight_times_hessian_times_gradient():
    # L = y^2/2, y = a.b = 3 - 2 = 1, S = 1 + 4 + 9 + 1 = 15. H = dy dy' + y P, P swaps a and b; g = y dy.
    # H g = y S dy + y^2 P dy, so unit i has 2 y S a b + y^2 (a^2 + b^2): 90 + 10 and -60 + 5. Higher = keep: no minus.
    model, space = pair([1.0, 2.0], [3.0, -1.0])
    scores = grasp(model, space, inputs(1.0, loss=half_square))["0"]
    torch.testing.assert_close(scores, torch.tensor([100.0, -55.0]).double())


def test_obd_estimates_the_diagonal():
    # H_aa = b^2, H_bb = a^2 at x = 1, so 0.5 (b^2 a^2 + a^2 b^2) = a^2 b^2: 9 and 4
    model, space = pair([1.0, 2.0], [3.0, -1.0])
    scores = optimal_brain_damage(probes=1000, seed=1)(model, space, inputs(1.0, loss=half_square))["0"]
    torch.testing.assert_close(scores, torch.tensor([9.0, 4.0]).double(), rtol=0.1, atol=0)
    again = optimal_brain_damage(probes=3, seed=1)(model, space, inputs(1.0, loss=half_square))["0"]
    assert torch.equal(again, optimal_brain_damage(probes=3, seed=1)(model, space, inputs(1.0, loss=half_square))["0"])
    assert not torch.equal(
        again, optimal_brain_damage(probes=3, seed=2)(model, space, inputs(1.0, loss=half_square))["0"]
    )
    with pytest.raises(ValueError, match="probes=0"):
        optimal_brain_damage(probes=0)


@pytest.mark.parametrize("name", ["plain", "residual3d", "unet1d"])
def test_differences_of_gradients_agree_with_two_backward_passes(name):
    model, example = network(name)
    examples = examples_for(model, example)
    vector = mean_gradient(model, examples)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    exact, near = _twice(model, examples, vector), _differences(model, examples, vector)
    scale = max(float(value.abs().max()) for value in exact.values())
    for key, value in exact.items():
        torch.testing.assert_close(near[key] / scale, value / scale, rtol=0, atol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Once(torch.autograd.Function):
    """The identity, which has no second derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient.clone()


def test_an_operator_without_a_second_derivative_is_no_obstacle(caplog):
    model, space = pair([1.0, 2.0], [3.0, -1.0])
    examples = inputs(1.0, loss=lambda outputs, targets: half_square(Once.apply(outputs), targets))
    with caplog.at_level("INFO", "secateur"):
        scores = grasp(model, space, examples)["0"]
    torch.testing.assert_close(scores, torch.tensor([100.0, -55.0]).double(), rtol=1e-6, atol=0)
    assert "no second derivative" in caplog.text


def test_synflow_is_the_flow_through_each_unit():
    # R = 2*5 + 3*7 with magnitudes; each unit's share counts at its filter and at its reader; the largest score is 1
    model, space = pair([2.0, -3.0], [-5.0, 7.0])
    torch.testing.assert_close(synaptic_flow(1)(model, space)["0"], torch.tensor([10 / 21, 1.0]).double())


def test_every_layer_passes_on_the_same_flow():
    model, example = network("plain")  # filter, norm and reader: three times R in both groups, whatever the statistics
    scores = synaptic_flow(1)(model, Space.trace(model, example, divisor=1))
    assert scores["conv1"].sum().item() == pytest.approx(scores["conv2"].sum().item() * 1.0, rel=0.2)
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 6), nn.Linear(6, 3)).eval()
    plain[2].running_mean.fill_(3.0)
    scores = synaptic_flow(1)(plain, Space.trace(plain, torch.zeros(1, 4), divisor=1))
    assert scores["0"].sum().item() / 3 == pytest.approx(scores["3"].sum().item() / 2)


def test_synflow_of_a_deep_network_neither_overflows_nor_vanishes():
    # 100 layers of gain 8 * 1000: a flow of 10^390, out of the range of float64
    model = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(100)])
    for layer in model:
        nn.init.constant_(layer.weight, 1000.0)
    space = Space.trace(model, torch.zeros(1, 8), divisor=1)
    for values in synaptic_flow(1)(model, space).values():
        torch.testing.assert_close(values, torch.ones(8).double())


def test_synflow_in_rounds_orders_all_units_and_empties_no_group():
    model, example = network("plain")
    with torch.no_grad():
        model.conv1.weight *= 1e-6  # one round would rank all of these last
    space = Space.trace(model, example, divisor=1)
    scores = synaptic_flow(rounds=10, keep=0.1)(model, space)
    order = torch.cat([scores[group.name] for group in space.groups])
    assert sorted((order * 24).round().int().tolist()) == list(range(1, 25))  # 8 + 16 units
    late = 24 - round(24 * 0.9)  # the last tenth
    assert all((scores[group.name] * 24).max() > 24 - late for group in space.groups)
    with pytest.raises(ValueError, match="keep=0"):
        synaptic_flow(keep=0)


def test_layer_norms_only_scale():
    model, example = network("unet2d")  # its instance norm would make zeros of a constant map
    scores = synflow(model, Space.trace(model, example, divisor=1))
    assert all((values > 0).all() for values in scores.values())


def test_anpyc_by_hand():
    # one class: H(z) = entropy of sigmoid(z), dH/dz = -z p (1 - p); z = 0.5 - 0.2 = 0.3.
    # w g = dH/dz a b for both weights of a unit: negative for the first (0 after the maximum), t > 0 for the second
    model, space = pair([1.0, 2.0], [0.5, -0.1])
    scores = anpyc(model, space, inputs(1.0, loss=None))["0"]
    p = torch.tensor(0.3).double().sigmoid()
    t = -0.3 * p * (1 - p) * 2 * -0.1
    torch.testing.assert_close(scores, torch.stack([0 * t, 2 * (t + t**2 / 2)]))


def test_anpyc_takes_one_example_at_a_time():
    model, space = pair([1.0, 2.0], [0.5, -0.1])
    rows = torch.tensor([[1.0], [-2.0], [0.5]]).double()
    whole = anpyc(model, space, Examples(batches=[(rows, None)]))["0"]
    each = [anpyc(model, space, Examples(batches=[(row[None], None)]))["0"] for row in rows]
    torch.testing.assert_close(whole, torch.stack(each).mean(0))


def test_batches_of_one_example():
    a, b = torch.arange(6).reshape(3, 2), torch.arange(3)
    assert [len(one) for one in (singles((a, b)), singles({"a": a, "b": [b, None]}), singles("none"))] == [3, 3, 1]
    (first, scale), label = singles(([a, torch.tensor(2.0)], b))[1]
    assert first.tolist() == [[2, 3]] and scale == 2 and label.tolist() == [1]


def test_entropy_of_maps_and_of_several_outputs():
    even = torch.zeros(2, 4, 3, 3)
    assert entropy(even).item() == pytest.approx(torch.tensor(4.0).log().item())
    assert entropy(torch.tensor([[1000.0, 0.0]])).item() == pytest.approx(0)
    assert entropy(torch.zeros(2, 1)).item() == pytest.approx(torch.tensor(2.0).log().item())
    assert first_output({"a": [torch.ones(2, dtype=torch.int64), even]}) is even
    with pytest.raises(ValueError, match="without a tensor"):
        first_output({"a": None})


@pytest.mark.parametrize("score", [taylor, snip, grasp, optimal_brain_damage(), synflow, anpyc])
def test_float32_works_and_the_model_is_left_as_found(score):
    model, example = network("residual")
    model, example = model.float().train(), example.float()
    model.stem.weight.requires_grad_(False)
    space = Space.trace(model, example, divisor=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.random.get_rng_state()
    scores = score(model, space, examples_for(model, example))
    assert all(values.isfinite().all() for values in scores.values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not model.stem.weight.requires_grad and model.head.weight.requires_grad
    assert torch.equal(generator, torch.random.get_rng_state())
