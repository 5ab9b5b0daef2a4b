"""SynFlow: which units carry the flow from an input of ones to the outputs, by the magnitudes of the weights alone."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Scores, Space, copied
from ..examples import Examples
from .criteria import Criterion
from .filters import by_group, completed, unit_totals

logger = logging.getLogger("secateur")


def synaptic_flow(rounds: int = 100, keep: float = 0.1) -> Criterion:
    """The criterion `w dR/dw` of Tanaka 2020 (arXiv 2006.05467), summed over all that leaves with a unit.

    `R` is the sum of the outputs when every weight is its magnitude and the input is all ones. Batch norms scale by
    their running variance and neither shift nor centre, all other norms only scale, biases are zero: so each layer
    passes on the same `R`. In float64 where the network can. Groups whose flow is zero, such as those before a
    saturated gate, are ranked by their L2 norms on the scale of the others.

    Args:
        rounds: the weakest units are taken out in so many steps and the flow is measured again after each, which keeps
            layers from collapsing; the scores are the order in which the units went. One round: the flow itself.
        keep: share of the units that is left after the last round.
    """
    if rounds < 1 or not 0 < keep <= 1:
        raise ValueError(f"rounds={rounds}, keep={keep}: expected at least 1, and a share in (0, 1]")

    def score(model: nn.Module, space: Space, examples: Examples | None = None) -> Scores:
        linear = _linear(model)
        try:
            flow = _flow(linear.double(), space)
        except RuntimeError as error:
            logger.info("synflow: the network does not run in float64 (%s)", str(error).partition("\n")[0])
            linear = _linear(model)
            flow = _flow(linear, space)
        flow = _scaled(space, flow)
        if rounds == 1 or not any(bool(values.any()) for values in flow.values()):
            return flow
        return _in_rounds(linear, space, flow, rounds, keep)

    return Criterion("synflow", "nothing", score)


synflow = synaptic_flow()


def _in_rounds(linear: nn.Module, space: Space, flow: Scores, rounds: int, keep: float) -> Scores:
    size = space.units - 1
    alive = np.ones(size + 1, bool)
    order = np.zeros(size + 1)
    gone = 0
    for number in range(1, rounds + 1):
        values = np.concatenate([[np.inf], *[flow[group.name].cpu().numpy() for group in space.groups]])
        for group in space.groups:  # the best unit of a group stays to the end
            units = group.slice
            best = group.first + int(np.argmax(np.where(alive[units], values[units], -np.inf)))
            values[best] = np.inf
        target = size - round(size * keep ** (number / rounds))
        weakest = [unit for unit in np.argsort(values, kind="stable") if alive[unit] and np.isfinite(values[unit])]
        leaving = weakest[: max(target - gone, 0)]
        order[leaving] = np.arange(gone, gone + len(leaving))
        alive[leaving] = False
        gone += len(leaving)
        _silence(linear, space, alive)
        flow = _scaled(space, _flow(linear, space))
    values = np.concatenate([[np.inf], *[flow[group.name].cpu().numpy() for group in space.groups]])
    rest = [unit for unit in np.argsort(values, kind="stable") if alive[unit] and unit]
    order[rest] = np.arange(gone, gone + len(rest))
    return by_group(space, (order + 1) / size)


def _silence(model: nn.Module, space: Space, alive: npt.NDArray[np.bool_]) -> None:
    """Zero all that leaves with the units that are gone."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for axis, ids in space.slots.get(name, {}).items():
                shape = [-1 if other == axis else 1 for other in range(parameter.ndim)]
                parameter.mul_(torch.from_numpy(alive[ids]).to(parameter).reshape(shape))


def _scaled(space: Space, flow: Scores) -> Scores:
    """Scores of which the largest is 1: flows of deep networks leave the range of float32."""
    largest = max((float(values.max()) for values in flow.values()), default=0.0)
    if largest == 0:
        return flow
    scores = {name: values / largest for name, values in flow.items()}
    unknown = [name for name, values in scores.items() if not bool((values > 0).any())]
    return completed("synflow", space, scores, unknown, "pass on no flow")


def _flow(model: nn.Module, space: Space) -> Scores:
    """`w dR/dw` of each unit, up to one factor."""
    named = dict(model.named_parameters())
    called, example = space.call(model, space.full)
    inputs = [torch.ones_like(tensor) if tensor.is_floating_point() else tensor for tensor in example]
    for exponent in (0, -150, -300):  # the flow of a deep network overflows; it is linear
        scaled = [tensor * 10.0**exponent if tensor.is_floating_point() else tensor for tensor in inputs]
        with torch.enable_grad():
            total = _total(called(*scaled))
            if not total.requires_grad:
                break
            found = torch.autograd.grad(total * 10.0**exponent, list(named.values()), allow_unused=True)
        products = {
            name: parameter.detach() * gradient
            for (name, parameter), gradient in zip(named.items(), found, strict=True)
            if gradient is not None
        }
        if bool(total.isfinite()) and all(bool(value.isfinite().all()) for value in products.values()):
            return unit_totals(space, products)
    return {group.name: torch.zeros(group.units, dtype=torch.float64) for group in space.groups}


def _total(outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs.sum() if outputs.is_floating_point() else torch.zeros(())
    parts = list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
    totals = [_total(part) for part in parts if isinstance(part, (Tensor, dict, list, tuple))]
    return sum(totals[1:], totals[0]) if totals else torch.zeros(())


_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _linear(model: nn.Module) -> nn.Module:
    """A copy in eval mode of which every layer is linear on inputs that are not negative."""
    linear = copied(model).eval()
    with torch.no_grad():
        for module in linear.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.zero_()
            elif isinstance(module, _NORMS):
                module.register_forward_hook(_scale_only)
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                bias.zero_()
        for parameter in linear.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
            parameter.abs_()
    return linear


def _scale_only(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    weight: Tensor | None = getattr(module, "weight", None)
    if weight is None:
        return inputs[0]
    if not isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        weight = weight.reshape(-1, *[1] * (inputs[0].ndim - 2))
    return inputs[0] * weight
