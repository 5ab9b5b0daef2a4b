"""Whether what was written gives the same outputs as the network in memory."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...spaces import as_call, copied, plain
from ...spaces.graph.network import BATCH, Examples
from .taking import Side, Taking, rows

BATCHES = (1, 3)
# Largest difference allowed, as a part of the largest output. Lower precisions round at every layer, and a runtime
# that adds in another order rounds elsewhere: about ten to twenty units in the last place.
TOLERANCES = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
TOLERANCE = 1e-4
_DRAWS = 32  # of weights moved by a part of the tolerance, so that outputs move more than by rounding
_PART = 1 / 3
_UNSTEADY = 0.5  # of an output's elements, at most, may differ as they do between these draws

_log = logging.getLogger("secateur")


class Verification:
    """The network's outputs at each batch size, and how far every format's are from them."""

    def __init__(self, taking: Taking, sides: Sequence[Side] = ()) -> None:
        """Run a network.

        Args:
            taking: the network, in eval mode on the CPU.
            sides: others at which formats are compared too, with the first of the batches.

        Raises:
            ValueError: its outputs are not finite, or it does not take one of the sides.
        """
        self._network, run = taking.network, called(taking.network)
        self.batches = tuple(size for size in BATCHES if _takes(run, taking.example, size)) or (BATCH,)
        examples = {str(size): (taking.example, size) for size in self.batches}
        examples |= {_at(self.batches[0], side): (taking.at(side), self.batches[0]) for side in sides}
        for noise in (True, False):  # noise may be outside of what the network takes
            self.inputs = {name: batch_of(example, size, noise=noise) for name, (example, size) in examples.items()}
            self.expected = {name: self._run(run, name) for name in self.inputs}
            if finite := all(torch.isfinite(leaf).all() for leaves in self.expected.values() for leaf in leaves):
                break
        if not finite:
            raise ValueError("the network's outputs for its own example are NaN or infinite; it cannot be verified")
        kinds = {tensor.dtype for tensor in [*self._network.parameters(), *self.expected[str(self.batches[0])]]}
        self.tolerance = max((TOLERANCES.get(kind, TOLERANCE) for kind in kinds), default=TOLERANCE)
        self.found: dict[str, Any] = {"tolerance": self.tolerance, "batches": list(self.batches)}

    def _run(self, run: Callable[[Examples], list[Tensor]], name: str) -> list[Tensor]:
        try:
            return run(self.inputs[name])
        except Exception as error:
            if name.isdecimal():
                raise
            raise ValueError(
                f"any_side=True: the network itself does not run with a batch of {name}: {error}"
            ) from error

    def check_draws(self) -> None:
        """Raise a ValueError where the forward draws random numbers: ONNX Runtime draws others."""
        name = self.cases(None)[0]
        if not _difference(called(self._network, seed=1)(self.inputs[name]), self.expected[name]) <= self.tolerance:
            raise ValueError("the forward draws random numbers, and ONNX Runtime draws others: nothing can be compared")

    def cases(self, batch: int | None) -> list[str]:
        """The names of the inputs that a program of this batch (None: any) takes."""
        return [name for name in self.inputs if batch is None or name.split()[0] == str(batch)]

    def compare(self, form: str, run: Callable[[Examples], list[Tensor]], batch: int | None = None) -> None:
        """Record how far the outputs of `run` are from the network's; a RuntimeError where that is too far.

        Args:
            form: its name.
            run: what was read back.
            batch: the only batch that it takes; None: any.
        """
        found: dict[str, Any] = {}
        for name in self.cases(batch):
            outputs, expected = run(self.inputs[name]), self.expected[name]
            difference = _difference(outputs, expected)
            if not difference <= self.tolerance:
                difference, share = self._beside_jumps(outputs, name)
                found["unsteady"] = max(found.get("unsteady", 0.0), share)
            if not difference <= self.tolerance:
                raise RuntimeError(
                    f"the {form} export is wrong: at batch {name} its outputs differ by {difference:.2g} of the "
                    f"largest (allowed: {self.tolerance:g})"
                )
            found[name] = difference
        self.found[form] = found if batch is None else found | {"fixed_batch": batch}

    def _beside_jumps(self, found: list[Tensor], name: str) -> tuple[float, float]:
        """The difference without elements that jump as far where weights move a little, and the share of these.

        Such as those of a detector that gives its best boxes in order: two that are as good change places.
        """
        expected = self.expected[name]
        if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
            return float("inf"), 0.0
        calm, share = [], 0.0
        for one, other, jumps in zip(found, expected, self._jumps(name), strict=True):
            apart = (one.double() - other.double()).abs()
            unsteady = (apart > self.tolerance * _largest(other)) & (apart <= jumps)
            share = max(share, float(unsteady.float().mean()) if other.numel() else 0.0)
            calm.append(torch.where(unsteady, other, one))
        return (_difference(calm, expected) if share <= _UNSTEADY else float("inf")), share

    def _jumps(self, name: str) -> list[Tensor]:
        """How far each element of the outputs goes at most, over some draws of weights that are moved a little."""
        expected = self.expected[name]
        farthest = [torch.zeros(one.shape, dtype=torch.float64) for one in expected]
        moved, generator = copied(self._network), torch.Generator().manual_seed(0)
        weights = [one for one in moved.parameters() if one.is_floating_point()]
        originals = [one.detach().clone() for one in weights]
        for _ in range(_DRAWS):
            with torch.no_grad():
                for weight, original in zip(weights, originals, strict=True):
                    noise = torch.randn(weight.shape, generator=generator).to(weight.dtype)
                    weight.copy_(original * (1 + _PART * self.tolerance * noise))
            for far, one, other in zip(farthest, called(moved)(self.inputs[name]), expected, strict=True):
                if one.shape == other.shape:
                    torch.maximum(far, (one.double() - other.double()).abs(), out=far)
        return farthest

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Log how long the format took."""
        start = time.perf_counter()
        yield
        _log.debug("%s: written and verified in %.2f s", name, time.perf_counter() - start)


def _at(batch: int, side: Side) -> str:
    return f"{batch} at {'x'.join(map(str, side))}"


def called(network: nn.Module, seed: int = 0) -> Callable[[Examples], list[Tensor]]:
    """The network as a function from inputs to its output tensors in order; what it draws is seeded."""

    def run(inputs: Examples) -> list[Tensor]:
        # Clones: a forward may write to its inputs, and every format has to see the same ones.
        args, kwargs = pytree.tree_map_only(Tensor, torch.clone, as_call(inputs))
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return [leaf for leaf in pytree.tree_leaves(plain(network(*args, **kwargs))) if isinstance(leaf, Tensor)]

    return run


def _takes(run: Callable[[Examples], list[Tensor]], example: Examples, size: int) -> bool:
    """Whether the network can be called with a batch of this size: some have theirs written in."""
    try:
        run(batch_of(example, size, noise=False))
    except Exception as error:  # whatever the user's forward raises
        _log.debug("the network takes no batch of %d: %s", size, error)
        return False
    return True


def batch_of(example: Any, size: int, *, noise: bool) -> Any:
    """`size` examples: those given in turn, floating ones with seeded noise of deviation 1 added."""
    generator, given = torch.Generator().manual_seed(size), rows(example)

    def resize(tensor: Tensor) -> Tensor:
        if not tensor.ndim:
            return tensor
        tensor = tensor[torch.arange(size) % given] if len(tensor) == given else tensor
        if noise and tensor.is_floating_point():
            tensor = tensor + torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        return tensor

    return pytree.tree_map_only(Tensor, resize, example)


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest absolute difference as a part of the largest output, of the worst tensor; infinite when shapes differ."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return float("inf")
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if other.numel():
            gap = float((one.double() - other.double()).abs().max())
            worst = max(worst, gap / _largest(other)) if gap == gap else float("inf")
    return worst


def _largest(tensor: Tensor) -> float:
    """Of the absolute values; 1 where all are zero or there are none."""
    return float(tensor.double().abs().max()) or 1.0 if tensor.numel() else 1.0
