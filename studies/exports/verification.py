"""Whether what was written gives the same outputs as the network in memory."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...spaces import as_call

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
BATCHES = (1, 3)
# Largest difference allowed, as a part of the largest output. Lower precisions round at every layer, and a runtime
# that adds in another order rounds elsewhere: about ten to twenty units in the last place.
TOLERANCES = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
TOLERANCE = 1e-4

_log = logging.getLogger("secateur")


class Verification:
    """The network's outputs at each batch size, and how far every format's are from them."""

    def __init__(self, network: nn.Module, example: Example) -> None:
        """Run `network`, in eval mode on the CPU; a ValueError where its outputs are not finite."""
        run = called(network)
        self.inputs = [_batch(example, size, noise=True) for size in BATCHES]
        self.expected = [run(inputs) for inputs in self.inputs]
        if not _finite(self.expected):  # noise was outside of what the network takes
            self.inputs = [_batch(example, size, noise=False) for size in BATCHES]
            self.expected = [run(inputs) for inputs in self.inputs]
        if not _finite(self.expected):
            raise ValueError("the network's outputs for its own example are NaN or infinite; it cannot be verified")
        kinds = {tensor.dtype for tensor in [*network.parameters(), *self.expected[0]]}
        self.tolerance = max((TOLERANCES.get(kind, TOLERANCE) for kind in kinds), default=TOLERANCE)
        self.found: dict[str, Any] = {"tolerance": self.tolerance, "batches": list(BATCHES)}

    def compare(self, name: str, run: Callable[[Example], list[Tensor]]) -> None:
        """Record how far the outputs of `run` are from the network's; a RuntimeError where that is too far."""
        found = {}
        for size, inputs, expected in zip(BATCHES, self.inputs, self.expected, strict=True):
            found[str(size)] = difference = _difference(run(inputs), expected)
            if not difference <= self.tolerance:
                raise RuntimeError(
                    f"the {name} export is wrong: at batch {size} its outputs differ by {difference:.2g} of the "
                    f"largest (allowed: {self.tolerance:g}); nothing was written"
                )
        self.found[name] = found

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Log how long the format took."""
        start = time.perf_counter()
        yield
        _log.debug("%s: written and verified in %.2f s", name, time.perf_counter() - start)


def called(network: nn.Module) -> Callable[[Example], list[Tensor]]:
    """The network as a function from inputs to its output tensors in order."""

    def run(inputs: Example) -> list[Tensor]:
        # Clones: a forward may write to its inputs, and every format has to see the same ones.
        args, kwargs = pytree.tree_map_only(Tensor, torch.clone, as_call(inputs))
        with torch.no_grad():
            return [leaf for leaf in pytree.tree_leaves(network(*args, **kwargs)) if isinstance(leaf, Tensor)]

    return run


def _batch(example: Example, size: int, *, noise: bool) -> Example:
    """`size` examples: those given in turn, floating ones with seeded noise of deviation 1 added."""
    generator = torch.Generator().manual_seed(size)

    def resize(tensor: Tensor) -> Tensor:
        if not tensor.ndim:
            return tensor
        tensor = tensor[torch.arange(size) % len(tensor)]
        if noise and tensor.is_floating_point():
            tensor = tensor + torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        return tensor

    batch: Example = pytree.tree_map_only(Tensor, resize, example)
    return batch


def _finite(outputs: list[list[Tensor]]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensors in outputs for tensor in tensors)


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest absolute difference as a part of the largest output, of the worst tensor; infinite when shapes differ."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return float("inf")
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if other.numel():
            largest = float(other.double().abs().max())
            gap = float((one.double() - other.double()).abs().max())
            worst = max(worst, gap / (largest or 1.0)) if gap == gap else float("inf")
    return worst
