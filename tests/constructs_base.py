"""How a construct is written down: a tiny network, its example inputs, and what tracing must find.

    @construct(lambda: dict(a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 4, 3)), image(2, 3, 8, 8), prunable="a")
    def straight(self, x):
        return self.b(F.relu(self.a(x)))

makes a module class `straight` whose forward is the function and whose parts are `self.a` and `self.b`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Construct:
    """A network and what must hold of its space.

    Attributes:
        make: gives the network; it is called under a fixed seed.
        example: example inputs, as `Space.trace` takes them.
        prunable: what must be cut: a module's outputs (`"name"`) or an axis of a tensor (`"name:axis"`), all of it.
        partly: as `prunable`, but some of it may have to stay.
        frozen: `{module: part of the reason}` of what must be left whole unless the network is rebuilt as a graph.
        graph: as `prunable`, of a space that is traced with `as_graph=True`.
        mixes: `{module that normalises over channels: tensor whose axis 0 tells which of them stay}`.
        error: pattern of the error that tracing must raise, where it must.
        macs: whether PyTorch's counter knows all operators of the network.
        uncounted: names of operators that are in no sum of multiply-adds.
        cast: element type of the network and of the inputs.
        tolerance: relative error.
    """

    make: Callable[[], nn.Module]
    example: Any
    prunable: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()
    frozen: dict[str, str] = field(default_factory=dict)
    graph: tuple[str, ...] = ()
    mixes: dict[str, str] = field(default_factory=dict)
    error: str = ""
    macs: bool = True
    uncounted: tuple[str, ...] = ()
    cast: torch.dtype = torch.float64
    tolerance: float = 1e-10

    def network(self) -> tuple[nn.Module, Any]:
        """The network in eval mode with random weights and statistics, and its example, both seeded."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.make()
            flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
            for module in model.modules():
                randomise(module)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(flags[name])
        return model.to(self.cast).eval(), cast(self.example, self.cast)


def randomise(module: nn.Module) -> None:
    """Weights, biases and statistics of a norm that are not the neutral ones."""
    if "Norm" not in type(module).__name__ and not isinstance(module, nn.PReLU):
        return
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if name in ("weight", "running_var"):
            tensor.data.uniform_(0.5, 1.5)
        elif name in ("bias", "running_mean"):
            tensor.data.uniform_(-0.5, 0.5)


def cast(example: Any, dtype: torch.dtype) -> Any:
    """The example with its floating tensors of another type."""
    if isinstance(example, torch.Tensor):
        return example.to(dtype) if example.is_floating_point() else example
    if isinstance(example, dict):
        return {name: cast(value, dtype) for name, value in example.items()}
    return tuple(cast(value, dtype) for value in example)


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    """Seeded noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int, below: int) -> torch.Tensor:
    """Seeded whole numbers."""
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(0))


def network_class(forward: Callable[..., Any]) -> type[nn.Module]:
    """A module class with this forward; its parts are given to the constructor by name."""

    def init(self: nn.Module, parts: dict[str, Any]) -> None:
        nn.Module.__init__(self)
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    return type(forward.__name__, (nn.Module,), {"forward": forward, "__init__": init, "__doc__": forward.__doc__})


def writer(table: dict[str, Construct]) -> Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """The decorator `construct` of a table."""

    def construct(
        parts: Callable[[], dict[str, Any]],
        example: Any,
        prunable: str = "",
        partly: str = "",
        graph: str = "",
        after: Callable[[nn.Module], Any] | None = None,
        **expected: Any,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def register(forward: Callable[..., Any]) -> Callable[..., Any]:
            cls = network_class(forward)

            def make() -> nn.Module:
                model = cls(parts())
                if after is not None:
                    after(model)
                return model

            names = {"prunable": prunable, "partly": partly, "graph": graph}
            assert forward.__name__ not in table
            table[forward.__name__] = Construct(
                make, example, **{key: tuple(text.split()) for key, text in names.items()}, **expected
            )
            return forward

        return register

    return construct


def stack(table: dict[str, Construct], name: str, layers: Callable[[], list[nn.Module]], example: Any, **expected: Any):
    """Put an `nn.Sequential` into a table."""
    assert name not in table
    for key in ("prunable", "partly", "graph"):
        expected[key] = tuple(expected.get(key, "").split())
    table[name] = Construct(lambda: nn.Sequential(*layers()), example, **expected)
