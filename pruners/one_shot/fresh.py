"""A network's weights drawn again, as before its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Draw = Literal["xavier", "orthogonal"]

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (nn.modules.batchnorm._NormBase,)  # batch and instance norms
_DRAWS: dict[str, Callable[..., Tensor]] = {"xavier": nn.init.xavier_normal_, "orthogonal": nn.init.orthogonal_}


def fresh(model: nn.Module, seed: int, *, draw: Draw = "xavier") -> tuple[str, ...]:
    """Draw all weights of a network again, in place; gives the names of the parameters that could not be drawn.

    Convolutions, transposed ones and linear layers get Xavier-normal or orthogonal weights and biases of 0; the scales
    of batch and instance norms come from `Normal(1, 0.02)`, their shifts are 0 and their running statistics those of a
    new one (Xu 2020, arXiv 2010.02488). Any other module draws by its own `reset_parameters`; the parameters of one
    that has none stay, as do weights that are computed from others (`parametrizations`). The same seed gives the same
    layers and norms on every device; the global generators are left alone.

    Args:
        model: the network.
        seed: of all draws.
        draw: how layers are drawn: `"xavier"` or `"orthogonal"`.

    Raises:
        ValueError: another `draw`.
    """
    if draw not in _DRAWS:
        raise ValueError(f"draw={draw!r}: expected one of {', '.join(_DRAWS)}")
    generator = torch.Generator().manual_seed(seed)
    devices = sorted({tensor.device.index or 0 for tensor in model.parameters() if tensor.device.type == "cuda"})
    left: list[str] = []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for path, module in model.named_modules():
            own = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if isinstance(module, _LAYERS) and "weight" in own:
                _layer(own, lambda tensor: _DRAWS[draw](tensor, generator=generator))
            elif isinstance(module, _NORMS):
                module.reset_running_stats()
                _norm(own, generator)
            elif own and reset is not None and not hasattr(module, "parametrizations"):
                reset()
            else:
                left += [f"{path}.{name}" if path else name for name in own]
    return tuple(left)


def _layer(own: dict[str, Tensor], draw: Callable[[Tensor], Tensor]) -> None:
    own["weight"].copy_(draw(torch.empty(own["weight"].shape)))
    if "bias" in own:
        own["bias"].zero_()


def _norm(own: dict[str, Tensor], generator: torch.Generator) -> None:
    if "weight" in own:
        own["weight"].copy_(torch.empty(own["weight"].shape).normal_(1.0, 0.02, generator=generator))
    if "bias" in own:
        own["bias"].zero_()
