"""Criteria that look at gradients of the loss, of the entropy of the answers, and one at the flow through the weights.

Symbols: `w` a weight, `g` the gradient of the loss with respect to it, `H` the Hessian of the loss.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...spaces import Scores, Space
from ..examples import Examples, first_output, gradients, left_as_found, singles
from .criteria import Criterion, criterion
from .filters import unit_totals
from .gates import gate_gradients

logger = logging.getLogger("secateur")


@criterion("taylor", needs="labels")
def taylor(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Squared change of the loss, to first order, when a unit is switched off: Molchanov 2019 (arXiv 1906.10771).

    The mean over batches of `(sum of w g)^2`, the sum over the tensors that switch the unit: scale and shift of its
    batch norm, or its own filter and bias (equation 8, and the gate of section 3.2). In eval mode.
    """
    assert examples is not None
    weights = dict(model.named_parameters())
    total = {group.name: torch.zeros(group.units, dtype=torch.float64) for group in space.groups}
    for found in gradients(model, examples):
        for name, change in gate_gradients(space, weights, found).items():
            total[name] += change.square() / len(examples.batches)
    return total


@criterion("snip", needs="labels")
def snip(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Connection sensitivity: the sum of `|w g|` of all that leaves with a unit; Lee 2019 (arXiv 1810.02340).

    `g` is the mean over all batches, in eval mode; the paper takes one batch and single weights.
    """
    assert examples is not None
    mean = mean_gradient(model, examples)
    weights = dict(model.named_parameters())
    return unit_totals(space, {name: (weights[name].detach() * value).abs() for name, value in mean.items()})


@criterion("grasp", needs="labels")
def grasp(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """How much of the gradient's flow leaves with a unit: the sum of `w (H g)`; Wang 2020 (arXiv 2002.07376).

    The paper's score is `-w (H g)` and the highest go; ours has the other sign: higher = keep. It may be negative. Over
    all batches, in eval mode, without the paper's temperature.
    """
    assert examples is not None
    product = hessian_product(model, examples, mean_gradient(model, examples))
    weights = dict(model.named_parameters())
    return unit_totals(space, {name: weights[name].detach() * value for name, value in product.items()})


def optimal_brain_damage(probes: int = 4, seed: int = 0) -> Criterion:
    """The criterion `0.5 h w^2`, summed over all that leaves with a unit: LeCun 1990 (Optimal Brain Damage).

    `h` is the diagonal of the Hessian by Hutchinson's estimate, the mean of `v * (H v)` over random signs `v`; LeCun
    back-propagates an approximation that is never negative, this one can be.

    Args:
        probes: random sign vectors; each costs two backward passes over the examples.
        seed: of the signs.
    """
    if probes < 1:
        raise ValueError(f"probes={probes}: expected at least 1")

    def score(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
        assert examples is not None
        generator = torch.Generator().manual_seed(seed)
        weights = {name: weight for name, weight in model.named_parameters() if weight.is_floating_point()}
        saliency = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for _ in range(probes):
            signs = {
                name: (2 * torch.randint(0, 2, weight.shape, generator=generator) - 1).to(weight)
                for name, weight in weights.items()
            }
            for name, product in hessian_product(model, examples, signs).items():
                saliency[name] += 0.5 / probes * signs[name] * product * weights[name].detach().square()
        return unit_totals(space, saliency)

    return Criterion("obd", "labels", score)


obd = optimal_brain_damage()


def mean_gradient(model: nn.Module, examples: Examples) -> dict[str, Tensor]:
    """The gradient of the loss by parameter name, the mean over batches, in eval mode."""
    total: dict[str, Tensor] = {}
    for found in gradients(model, examples):
        for name, value in found.items():
            share = value / len(examples.batches)
            total[name] = total[name] + share if name in total else share
    return total


def hessian_product(model: nn.Module, examples: Examples, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`H v` by parameter name, the mean over batches, in eval mode.

    By two backward passes; where an operator has no second derivative, by central differences of the gradient.
    """
    try:
        return _twice(model, examples, vector)
    except RuntimeError as error:
        logger.info("no second derivative (%s); differences of gradients are taken", str(error).partition("\n")[0])
        return _differences(model, examples, vector)


def _twice(model: nn.Module, examples: Examples, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with left_as_found(model):
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        for batch in examples.batches:
            with torch.enable_grad():
                loss = examples.loss_of(model, batch)
                first = torch.autograd.grad(loss, list(named.values()), create_graph=True, allow_unused=True)
                dots = [
                    (gradient * vector[name]).sum()
                    for name, gradient in zip(named, first, strict=True)
                    if gradient is not None and gradient.requires_grad
                ]
            if dots:  # no `grad(..., inputs)`: it would pass by an operator that refuses to be differentiated twice
                torch.autograd.backward(sum(dots[1:], dots[0]))
        return {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad / len(examples.batches)
            for name, parameter in named.items()
        }


def _differences(model: nn.Module, examples: Examples, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {name: parameter for name, parameter in model.named_parameters() if name in vector}
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    weight_norm = sum(float(value.double().square().sum()) for value in before.values()) ** 0.5
    vector_norm = sum(float(value.double().square().sum()) for value in vector.values()) ** 0.5
    precision = max((torch.finfo(value.dtype).eps for value in before.values()), default=1e-7)
    step = precision**0.5 * max(weight_norm, 1e-30) / max(vector_norm, 1e-30)  # small: a kink of a ReLU is rarely met
    sides = []
    try:
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for name, parameter in named.items():
                    parameter.copy_(before[name] + sign * step * vector[name])
            sides.append(mean_gradient(model, examples))
    finally:
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(before[name])
    return {name: (sides[0][name] - sides[1][name]) / (2 * step) for name in sides[0]}


@criterion("anpyc", needs="images")
def anpyc(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Change of the outputs' entropy, to second order, when weights go: the score of ANPyC (Peng 2021, IEEE TNNLS).

    The mean over examples of `max(0, g w + 0.5 g^2 w^2)`, summed over all that leaves with a unit; `g` is the gradient
    of the entropy of the softmax. Of several outputs the first counts. The paper's continual learning is left out.
    """
    assert examples is not None
    weights = dict(model.named_parameters())
    total: dict[str, Tensor] = {}

    def entropy_of(network: nn.Module, batch: Any) -> Tensor:
        return entropy(first_output(examples.outputs_of(network, batch)))

    alone = replace(examples, batches=[one for batch in examples.batches for one in singles(batch)])
    for found in gradients(model, alone, entropy_of):
        for name, gradient in found.items():
            product = weights[name].detach() * gradient
            importance = (product + 0.5 * product.square()).clamp_min(0) / len(alone.batches)
            total[name] = total[name] + importance if name in total else importance
    return unit_totals(space, total)


def entropy(outputs: Tensor) -> Tensor:
    """Mean entropy, in nats, of the softmax over axis 1 of `(n, classes, ...)`; of the sigmoid of a single class."""
    if outputs.shape[1] == 1:
        outputs = torch.cat([outputs, torch.zeros_like(outputs)], dim=1)
    logarithms = outputs.log_softmax(1)
    return -(logarithms.exp() * logarithms).sum(1).mean()
