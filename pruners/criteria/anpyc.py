"""The label-free score of ANPyC: what a network's certainty about its own answers depends on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...spaces import Scores, Space
from ..examples import Examples, first_output, gradients
from .criteria import criterion
from .filters import unit_totals


@criterion("anpyc", needs="images")
def anpyc(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
    """Change of the outputs' entropy, to second order, when weights go: the score of ANPyC (Peng 2021, IEEE TNNLS).

    The mean over samples of `max(0, g w + 0.5 g^2 w^2)`, summed over all that leaves with a unit; `g` is the gradient
    of the entropy of the softmax. Deviations: a batch counts as one sample, its gradient the mean (give batches of one
    image for the exact score); of several outputs the first counts. The paper's continual learning is left out.
    """
    assert examples is not None
    weights = dict(model.named_parameters())
    total: dict[str, Tensor] = {}

    def entropy_of(network: nn.Module, batch: Any) -> Tensor:
        return entropy(first_output(examples.outputs_of(network, batch)))

    for found in gradients(model, examples, entropy_of):
        for name, gradient in found.items():
            product = weights[name].detach() * gradient
            importance = (product + 0.5 * product.square()).clamp_min(0) / len(examples.batches)
            total[name] = total[name] + importance if name in total else importance
    return unit_totals(space, total)


def entropy(outputs: Tensor) -> Tensor:
    """Mean entropy, in nats, of the softmax over axis 1 of `(n, classes, ...)`; of the sigmoid of a single class."""
    if outputs.shape[1] == 1:
        outputs = torch.cat([outputs, torch.zeros_like(outputs)], dim=1)
    logarithms = outputs.log_softmax(1)
    return -(logarithms.exp() * logarithms).sum(1).mean()
