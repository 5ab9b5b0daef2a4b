"""Costs as the authors of RANP count them, to compare with their tables. Never mixed with ours (`costs`).

Xu 2020 (arXiv 2010.02488) counts by module: what a forward does outside modules costs nothing there. One multiply-add
is one FLOP, but a batch norm has 4 for each element it takes, an average pooling one for each element of its kernel and
one more, a linear layer `2 inputs - 1` for each output, and activations and maxima none. A transposed convolution has
as many for each output as a plain one, though `1 / stride^axes` of them are real. Memory is what all leaf modules give,
in-place ones too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.spaces.cutting.surgery import Cut
from secateur.spaces.graph.modes import quietly
from secateur.spaces.graph.network import Examples, as_call
from secateur.spaces.tracing.dryrun import sketch

MIB = 2**20


@dataclass(frozen=True)
class Line:
    """What one leaf module costs in all its calls.

    Attributes:
        name: path of the module.
        kind: its class.
        calls: how often the forward uses it.
        neurons: its outputs, for a convolution, transposed convolution or linear layer; 0 otherwise.
        flops: as the authors count.
        outputs: elements it gives.
        params: elements of its parameters.
    """

    name: str
    kind: str
    calls: int
    neurons: int
    flops: int
    outputs: int
    params: int


@dataclass(frozen=True)
class Tally:
    """Costs of a network by the conventions of RANP's authors.

    Attributes:
        lines: one for each leaf module that was called, in the order of the first calls.
        unnamed: those with parameters for which these conventions have no FLOPs; they count as 0, as there.
    """

    lines: tuple[Line, ...]
    unnamed: tuple[str, ...]

    @property
    def layers(self) -> tuple[Line, ...]:
        """Convolutions, transposed convolutions and linear layers."""
        return tuple(line for line in self.lines if line.neurons)

    @property
    def neurons(self) -> int:
        """Outputs of all layers."""
        return sum(line.neurons for line in self.lines)

    @property
    def gflops(self) -> float:
        """Billions of FLOPs."""
        return sum(line.flops for line in self.lines) / 1e9

    @property
    def memory_mib(self) -> float:
        """MiB of what all leaf modules give, four bytes an element."""
        return 4 * sum(line.outputs for line in self.lines) / MIB

    @property
    def params_mib(self) -> float:
        """MiB of parameters, four bytes each."""
        return 4 * sum(line.params for line in self.lines) / MIB


def count_as_ranp(model: nn.Module, example_inputs: Examples) -> Tally:
    """What a network costs by the conventions of RANP's authors; it runs without contents, on the meta device.

    Args:
        model: the network; it is left alone.
        example_inputs: a tensor, or a tuple or dict of tensors, as the forward takes them; only the shapes matter.

    Raises:
        ValueError: the forward fails without contents: it reads values, or does not fit the examples.
    """
    twin = sketch(model, Cut({}, {}, ()), "meta").eval()
    args, kwargs = as_call(example_inputs)
    args, kwargs = tree_map(lambda x: x.to("meta") if isinstance(x, Tensor) else x, (args, kwargs))
    calls: dict[nn.Module, list[tuple[int, int]]] = {}

    def heard(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.setdefault(module, []).append((_flops(module, inputs, output), _elements([output])))

    leaves = {module: name for name, module in twin.named_modules() if not next(module.children(), None)}
    handles = [module.register_forward_hook(heard) for module in leaves]
    try:
        with torch.no_grad(), quietly():
            twin(*args, **kwargs)
    except RuntimeError as error:
        raise ValueError(
            f"{type(model).__name__} cannot run without contents: {error}; "
            "its forward must fit the examples, and not read values"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    lines = tuple(
        Line(
            name=leaves[module],
            kind=type(module).__name__,
            calls=len(made),
            neurons=_neurons(module),
            flops=sum(flops for flops, _ in made),
            outputs=sum(outputs for _, outputs in made),
            params=sum(parameter.numel() for parameter in module.parameters()),
        )
        for module, made in calls.items()
    )
    known = (*_LAYERS, *_NORMS)
    return Tally(lines, tuple(leaves[m] for m in calls if list(m.parameters()) and not isinstance(m, known)))


_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (nn.modules.batchnorm._BatchNorm,)
_MEANS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def _flops(module: nn.Module, inputs: Iterable[Any], output: Any) -> int:
    if isinstance(module, nn.modules.conv._ConvNd):
        terms = module.in_channels // module.groups * math.prod(module.kernel_size) + (module.bias is not None)
        return _elements([output]) * terms
    if isinstance(module, nn.Linear):
        return _elements([output]) * (2 * module.in_features - 1 + (module.bias is not None))
    if isinstance(module, _NORMS):
        return 4 * _elements(inputs)
    if isinstance(module, _MEANS):
        kernel = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,)
        axes = next(int(c) for c in type(module).__name__ if c.isdigit())
        return _elements([output]) * (math.prod(kernel * (axes if len(kernel) == 1 else 1)) + 1)
    return 0


def _neurons(module: nn.Module) -> int:
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels
    return module.out_features if isinstance(module, nn.Linear) else 0


def _elements(values: Iterable[Any]) -> int:
    return sum(leaf.numel() for leaf in tree_leaves(list(values)) if isinstance(leaf, Tensor))
