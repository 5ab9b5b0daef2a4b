"""A built network held against the masked one, and how much of the network that could see. Start at `compared`.

Where an output does not depend on a group, a comparison proves nothing of it. So both networks hold other numbers where
a head or a residual branch is all zero, and where all channels of a tensor are alike (`prepared`), and norms that have
seen no data take the size of what they are given (`sized`); what the outputs still do not react to is counted. Where
they do not react to all, activations leak in both (`Leaking`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..channels.layout import Layout
from ..examples import of_graph
from ..graph.modes import DrawnAlike, keeping
from ..graph.network import Examples
from ..graph.standin import in_place_of
from .masked import masked_outputs, outputs_of, relative_error
from .surgery import copied, named_tensors

Stays = npt.NDArray[np.bool_]
Build = Callable[[nn.Module], nn.Module]
_NEARLY_ZERO = 1e-3


class Difference(float):
    """A relative error that says what it saw; NaN where it saw nothing.

    Attributes:
        groups: how many groups of channels were cut.
        reached: how many of them the outputs react to; None where that is unknown, because outputs have no gradient.
    """

    groups: int
    reached: int | None

    def __new__(cls, error: float, groups: int, reached: int | None) -> Self:
        """The error, unless no group of those that were cut reaches an output."""
        found = super().__new__(cls, math.nan if groups and reached == 0 else error)
        found.groups, found.reached = groups, reached
        return found

    def __getnewargs__(self) -> tuple[float, int, int | None]:  # type: ignore[override]
        """For copies."""
        return float(self), self.groups, self.reached

    def __str__(self) -> str:
        """The error, and of how many groups."""
        return f"{float(self):.1e} ({self.seen})"

    __repr__ = __str__

    @property
    def hidden(self) -> bool:
        """Whether some group is known to reach no output."""
        return self.reached is not None and self.reached < self.groups

    def beside(self, other: Difference) -> Difference:
        """The larger error of two looks at the same network, and the more that either saw; NaN where neither did."""
        reached = max(self.reached or 0, other.reached or 0)
        errors = [float(one) for one in (self, other) if one.reached != 0]
        error = max(errors, key=lambda one: (one != one, one), default=math.nan)
        return Difference(error, self.groups, reached)

    @property
    def seen(self) -> str:
        """How much of the network an output reacts to."""
        if not self.groups:
            return "no channels are cut"
        if self.reached is None:
            return "outputs have no gradient, so how much of the network they see is unknown"
        return f"{self.reached} of {self.groups} groups that are cut reach an output"


def prepared(model: nn.Module, layout: Layout, *, double: bool = False) -> nn.Module:
    """A copy in eval mode whose zeros and equal channels are made unequal: those would hide a difference.

    Parameters that are all zero get small seeded noise; what is cut and all equal is varied by up to a tenth, about one
    where it is nearly zero.

    Args:
        model: the full network.
        layout: its units.
        double: whether floating tensors are turned to float64.
    """
    twin = copied(model).eval()
    twin = twin.double() if double else twin
    random = torch.Generator().manual_seed(0)
    parameters = {id(parameter) for parameter in twin.parameters()}
    tensors = {id(tensor): (name, tensor) for name, tensor in reversed(named_tensors(twin).items())}
    with torch.no_grad():
        for name, tensor in tensors.values():
            inside = id(tensor) in parameters
            if not tensor.is_floating_point() or not tensor.numel() or not (inside or name in layout.slots):
                continue
            first, last = tensor.flatten()[[0, -1]]
            if first != last or not bool((tensor == first).all()) or (first != 0 and name not in layout.slots):
                continue
            noise = torch.rand(tensor.shape, generator=random, dtype=torch.float64).to(tensor)
            if first == 0:
                tensor.copy_((noise - 0.5) * 2 / math.sqrt(max(1, math.prod(tensor.shape[1:]))))
            else:  # a scale of 1e-6, with which residual branches begin, hides them as zero does
                tensor.mul_((1 + noise / 10) / (abs(first) if inside and abs(first) < _NEARLY_ZERO else 1))
    return twin


def sized(twin: nn.Module, model: nn.Module, examples: Examples) -> None:
    """Norms that have seen no data take the size of what they are given: unscaled, it fades away from layer to layer.

    One forward of the copy. A norm is scaled by one number for all channels, so that none is lost where an example has
    one value a channel, its weights to one on average; running means move by up to half of it.

    Args:
        twin: of `prepared`; changed in place.
        model: the full network, whose running statistics say what has seen data.
        examples: inputs of the forward.
    """
    fresh = [
        twin.get_submodule(name)
        for name, module in model.named_modules()
        if _untouched(dict(module.named_buffers(recurse=False)))
    ]
    seen = set[nn.Module]()

    def size(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        square = given[0].square().mean() if given and norm not in seen else None
        if square is not None and bool(torch.isfinite(square)) and square > 0:
            norm.get_buffer("running_var").mul_(square)
            norm.get_buffer("running_mean").mul_(square.sqrt() / 2)
            weight = getattr(norm, "weight", None)
            if isinstance(weight, Tensor) and weight.any():  # what is far below eps stays small otherwise
                weight.mul_(((1 + float(getattr(norm, "eps", 0)) / square) / weight.square().mean()).sqrt())
        seen.add(norm)

    hooks = [norm.register_forward_pre_hook(size) for norm in fresh]
    try:
        if fresh:
            with own_randomness(twin), keeping(twin), torch.no_grad():
                outputs_of(twin, examples)
    finally:
        for hook in hooks:
            hook.remove()


def _untouched(buffers: Mapping[str, Tensor]) -> bool:
    """Whether running statistics are those that a norm is made with."""
    mean, variance = buffers.get("running_mean"), buffers.get("running_var")
    return mean is not None and variance is not None and bool((mean == 0).all()) and bool((variance == 1).all())


def compared(
    whole: nn.Module,
    layout: Layout,
    stays: Stays,
    removed: Sequence[str],
    examples: Examples,
    build: Build,
    *,
    as_graph: bool = False,
    look: bool = True,
    faint: float | None = None,
) -> Difference:
    """Relative error of a built network: largest difference / largest output, the worst of all floating outputs.

    Args:
        whole: the full network, as of `prepared`; it is put back as it was.
        layout: its units.
        stays: `(u,)` whether each unit stays.
        removed: modules that become the identity.
        examples: inputs of the forward.
        build: makes the small network from the full one.
        as_graph: whether it is a graph, which takes its inputs as one does.
        look: whether to count what reaches an output; that takes a backward pass.
        faint: the share of an output below which a group does not reach it; ten roundings when None.

    Raises:
        ValueError: the built network gives other tensors or other shapes than the full one.
    """
    cut = [number for number, group in enumerate(layout.groups) if not stays[group.slice].all()]
    inputs = of_graph(examples) if as_graph else examples
    with own_randomness(whole), keeping(whole):
        with torch.no_grad():
            small = build(whole).eval()
            got = outputs_of(small, inputs)
        reached = _reached(small, layout, stays, cut, inputs, faint) if look and cut else None
        with _without(whole, layout, removed):
            kept = {
                name: {axis: torch.from_numpy(np.flatnonzero(stays[ids])) for axis, ids in layout.slots[name].items()}
                for name in named_tensors(whole)
                if name in layout.slots
            }
            return Difference(relative_error(got, masked_outputs(whole, kept, examples)), len(cut), reached)


@contextlib.contextmanager
def _without(model: nn.Module, layout: Layout, removed: Sequence[str]) -> Iterator[None]:
    """While some blocks are skipped."""
    blocks = [(name, model.get_submodule(name)) for name in removed]
    try:
        for name, block in blocks:
            model.set_submodule(name, in_place_of(block, layout.gives.get(name)))
        yield
    finally:
        for name, block in blocks:
            model.set_submodule(name, block)


def _reached(
    small: nn.Module,
    layout: Layout,
    stays: Stays,
    numbers: Sequence[int],
    inputs: Examples,
    faint: float | None,
) -> int | None:
    """Of how many of these groups what stays reaches an output of the small network; None where that is unknown.

    It does where the parameters, each times its gradient, sum up to more than `faint`, as roots of squares, and each
    output counts by its largest number.
    """
    parameters = {
        name: parameter.requires_grad_()
        for name, parameter in small.named_parameters()
        if parameter.is_floating_point() and name in layout.slots
    }
    reacts = np.zeros(layout.units)
    with torch.enable_grad():
        try:
            outputs = [one for one in outputs_of(small, inputs) if one.is_floating_point() and one.requires_grad]
            total = _weighed(outputs)
            gradients = torch.autograd.grad(total, [*parameters.values()], allow_unused=True)
        except RuntimeError:  # no output has a gradient, nor has what a forward overwrites in place
            return None
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is not None and gradient.numel():
            for axis, ids in layout.slots[name].items():
                lines = (gradient.float() * parameter.detach().float()).movedim(axis, 0)  # halves have no small squares
                here = ids[stays[ids]]
                np.add.at(reacts, here, lines.reshape(len(here), -1).square().sum(1).double().cpu().numpy())
    least = 10 * max(torch.finfo(one.dtype).eps for one in outputs) if faint is None else faint
    moved = [math.sqrt(reacts[layout.groups[number].slice].sum()) for number in numbers]
    return sum(not one <= least for one in moved)


def _weighed(outputs: Sequence[Tensor]) -> Tensor:
    """A sum of outputs, each of size one, by numbers that are unlike."""
    random = np.random.default_rng(0)  # PyTorch's are all alike here, and what ends in a norm or a softmax has one sum
    found = torch.zeros(())
    for one in outputs:
        unlike = torch.from_numpy(np.asarray(random.normal(size=one.shape))).to(one)
        most = float(one.detach().abs().max()) if one.numel() else 0
        found = found.to(one.device) + (one * unlike).sum() / (most or 1)
    return found


@contextlib.contextmanager
def own_randomness(model: nn.Module) -> Iterator[None]:
    """What forwards draw does not move the global generators, and is the same in networks of other widths."""
    tensors = (*model.parameters(), *model.buffers())
    devices = sorted({tensor.device for tensor in tensors if tensor.device.type == "cuda"}, key=str)
    with torch.random.fork_rng(devices=devices), DrawnAlike(devices):
        yield
