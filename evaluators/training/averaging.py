"""The average of a network's weights over the steps of a training, and how they lie in memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a network's weights and statistics, which it ends with.

    Its decay grows with the steps, as (1 + steps) / (10 + steps), up to the one that is asked: a short training is not
    held to where it began.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the weights as they are."""
        self.decay = decay
        self.kept = {name: tensor.detach().clone() for name, tensor in _floating(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights after so many steps."""
        now = _floating(model)
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.kept.values()), [now[name] for name in self.kept], share)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Give the network its average."""
        for name, tensor in _floating(model).items():
            tensor.copy_(self.kept[name])

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go back to what `kept` was."""
        for name, tensor in kept.items():
            self.kept[name].copy_(tensor)


def _floating(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def lay_out(model: nn.Module, *, channels_last: bool) -> None:
    """Put the weights of convolutions in memory with their channels last, as some kernels are faster, or back."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.ndim in last:
            form = last[tensor.ndim] if channels_last else torch.contiguous_format
            tensor.data = tensor.data.contiguous(memory_format=form)
