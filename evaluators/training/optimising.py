"""What moves the weights: the optimiser and its learning rate, and the average of the weights over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..tasks.own import name_of
from .settings import OPTIMIZERS, SCHEDULES, Training


def optimizer_of(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimiser of the settings; norms, biases and all else of one dimension have no weight decay.

    Raises:
        ValueError: nothing needs a gradient, or the user's function makes none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter that needs a gradient; there is nothing to train")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, nesterov=training.momentum > 0)
    if training.optimizer in OPTIMIZERS:
        kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, lr=training.lr, betas=(training.momentum, 0.999))
    groups = [group for group in groups if group["params"]]
    made = _made("optimizer", training.optimizer, "(groups, lr=...)", groups, lr=training.lr)
    if not all(hasattr(made, name) for name in ("step", "zero_grad", "param_groups", "state_dict")):
        raise ValueError(f"optimizer {name_of(training.optimizer)} gave a {type(made).__name__}; expected an optimizer")
    for group in made.param_groups:
        group.setdefault("initial_lr", group["lr"])
    found: torch.optim.Optimizer = made
    return found


def scheduler_of(optimizer: torch.optim.Optimizer, training: Training, steps: int) -> Any:
    """The user's scheduler, stepped after every step; None where the schedule is one of ours."""
    if training.schedule in SCHEDULES or not steps:
        return None
    made = _made("schedule", training.schedule, "(optimizer, steps)", optimizer, steps)
    if not all(hasattr(made, name) for name in ("step", "state_dict", "load_state_dict")):
        raise ValueError(f"schedule {name_of(training.schedule)} gave a {type(made).__name__}; expected a scheduler")
    return made


def _made(what: str, factory: Any, form: str, *given: Any, **named: Any) -> Any:
    if not callable(factory):
        raise ValueError(f"{what}={factory!r} is for study files; give the function itself")
    try:
        return factory(*given, **named)
    except Exception as problem:  # of the user's function
        said = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise ValueError(f"{what} {name_of(factory)} raised {said}; it is called as {what}{form}") from problem


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
