"""What a pruning method may look at: batches, how a network is run on them, and the loss; and gradients from these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[nn.Module, Any], tuple[Any, Any]]
Loss = Callable[[Any, Any], Tensor]


def plain_forward(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """Outputs and targets of a batch `(inputs, targets)`; inputs are a tensor, or a tuple or dict of them."""
    inputs, targets = batch
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    inputs, targets = _moved(inputs, device), _moved(targets, device)
    if isinstance(inputs, Mapping):
        return model(**inputs), targets
    return (model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)), targets


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Training examples, and how a network is run on them.

    Attributes:
        batches: any number of batches, of the kind that `forward` takes; read several times.
        loss: `loss(outputs, targets)`, the mean over a batch; None where there are no labels.
        forward: `forward(model, batch)` gives `(outputs, targets)`; a pair of inputs and targets when not given.
    """

    batches: Sequence[Any]
    loss: Loss | None = None
    forward: Forward = plain_forward

    def __post_init__(self) -> None:
        if not len(self.batches):
            raise ValueError("examples hold no batch; give at least one")

    def loss_of(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of one batch, with its graph."""
        if self.loss is None:
            raise ValueError("examples hold no loss; give loss(outputs, targets)")
        outputs, targets = self.forward(model, batch)
        return self.loss(outputs, targets)

    def outputs_of(self, model: nn.Module, batch: Any) -> Any:
        """The outputs of one batch."""
        return self.forward(model, batch)[0]


@contextmanager
def left_as_found(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Run in train or eval mode; put modes, buffers, gradients and the global generators back on leaving.

    Inside, every floating parameter needs a gradient.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    wanted = {parameter: (parameter.requires_grad, parameter.grad) for parameter in model.parameters()}
    devices = sorted({parameter.device.index or 0 for parameter in wanted if parameter.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        try:
            model.train(training)
            for parameter in wanted:
                parameter.requires_grad_(parameter.is_floating_point())
                parameter.grad = None
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for parameter, (needed, gradient) in wanted.items():
                parameter.requires_grad_(needed)
                parameter.grad = gradient
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])


def gradients(
    model: nn.Module,
    examples: Examples,
    of: Callable[[nn.Module, Any], Tensor] | None = None,
    *,
    training: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """For each batch, the gradient of its loss by parameter name; zeros where the loss does not depend on one.

    The model is put back after the last batch.

    Args:
        model: the network.
        examples: batches and their loss.
        of: what is differentiated: `of(model, batch)` gives a scalar; the loss when None.
        training: run in train mode, batch norms with the statistics of the batch; theirs are put back.
    """
    of = examples.loss_of if of is None else of
    with left_as_found(model, training=training):
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        for batch in examples.batches:
            with torch.enable_grad():
                found = torch.autograd.grad(of(model, batch), list(named.values()), allow_unused=True)
            yield {
                name: torch.zeros_like(parameter) if gradient is None else gradient
                for (name, parameter), gradient in zip(named.items(), found, strict=True)
            }


def first_output(outputs: Any) -> Tensor:
    """The first floating tensor `(n, ...)` of a network's outputs.

    Raises:
        ValueError: there is none.
    """
    found = _first(outputs)
    if found is None:
        raise ValueError(f"the network gives {type(outputs).__name__} without a tensor (n, classes, ...) in it")
    return found


def singles(batch: Any) -> list[Any]:
    """Batches of one example each, made of a batch: every tensor is cut that is as long as the first one."""
    sizes: list[int] = []
    _tensors(batch, lambda tensor: tensor, sizes)
    if not sizes:
        return [batch]

    def row(number: int) -> Callable[[Tensor], Tensor]:
        return lambda tensor: tensor[number : number + 1] if tensor.ndim and len(tensor) == sizes[0] else tensor

    return [_tensors(batch, row(number)) for number in range(sizes[0])]


def _moved(value: Any, device: torch.device) -> Any:
    return _tensors(value, lambda tensor: tensor.to(device))


def _tensors(value: Any, change: Callable[[Tensor], Tensor], sizes: list[int] | None = None) -> Any:
    """What a batch is with every tensor changed; `sizes` is given the lengths of the tensors."""
    if isinstance(value, Tensor):
        if sizes is not None and value.ndim:
            sizes.append(len(value))
        return change(value)
    if isinstance(value, Mapping):
        return {name: _tensors(one, change, sizes) for name, one in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_tensors(one, change, sizes) for one in value)
    return value


def _first(outputs: Any) -> Tensor | None:
    if isinstance(outputs, Tensor):
        return outputs if outputs.is_floating_point() and outputs.ndim >= 2 else None
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, (list, tuple)) else []
    return next((found for found in map(_first, parts) if found is not None), None)
