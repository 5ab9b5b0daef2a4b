"""Least-squares reconstruction: a smaller network without training, from some pictures without labels.

Start at `reconstruct`; `reconstructed` is the same for whoever has the full network's side already.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...spaces import Candidate, Scores, Space, channel_map, copied, device_of, dtype_of, named_tensors
from ..modes import modes_restored
from ..tasks.task import Task
from .clock import Clock
from .layers import Solved, Solving
from .learning import Judgement, judged, taught
from .pictures import Pictures, given, of_task
from .solving import RIDGES
from .targets import Targets, observed

logger = logging.getLogger("secateur")

MEMORY = 2**31
"""Bytes that reconstruction may keep, where nothing else is said."""
ROWS = 8192
"""Places that a layer is solved on; more where it has very many inputs, fewer where it has few."""
_Z = 1.96  # of a normal distribution, 95 in 100 lie within so many deviations


@dataclass(frozen=True, kw_only=True, eq=False)
class Origin:
    """Where a small network comes from.

    Attributes:
        model: the full network.
        space: the traced space.
        candidate: which network it is.
        scores: by which it was cut; those of the space when None.
    """

    model: nn.Module
    space: Space
    candidate: Candidate
    scores: Scores | None = None


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What was done. Errors and agreements are on pictures that no layer was solved on.

    Attributes:
        solved: layers that have new weights, by name.
        left: why others have not.
        error_before: squared error of the network's outputs beside the full network's, over the spread of these.
        error: the same afterwards; never more.
        agreement_before: share of places (pictures, pixels) at which the largest output is the full network's; None
            where there are no classes.
        agreement: the same afterwards.
        pictures: that layers were solved on.
        held_out: that were not, and judged.
        doubts: sentences on what seems wrong with the pictures, or was not done.
        strange: those of them that say that the pictures are not of the network's kind.
        seconds: "full" and "small" for the forwards of the full network and of this one, "gather" for reading what
            layers saw and gave and summing it up, "solve", "distill".
    """

    solved: Mapping[str, Solved]
    left: Mapping[str, str]
    error_before: float
    error: float
    agreement_before: float | None
    agreement: float | None
    pictures: int
    held_out: int
    doubts: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def few(self) -> tuple[str, ...]:
        """Layers with fewer places than unknowns: their ridge takes over."""
        return tuple(name for name, one in self.solved.items() if one.rows < one.unknowns)

    @property
    def agreement_interval(self) -> tuple[float, float] | None:
        """Where the agreement lies on pictures like those held out, by 95 in 100: Wilson's interval over pictures."""
        if self.agreement is None:
            return None
        n, share, z = self.held_out, self.agreement, _Z
        center, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        low, high = ((center + sign * half) / (1 + z * z / n) for sign in (-1, 1))
        return max(0.0, low), min(1.0, high)

    def __str__(self) -> str:
        """In a few lines."""
        lines = [
            f"{len(self.solved)} layers solved on {self.pictures} pictures, {len(self.left)} left",
            f"error beside the full network on {self.held_out} others: {self.error_before:.4f} -> {self.error:.4f}",
        ]
        if self.agreement_before is not None and self.agreement_interval is not None:
            low, high = self.agreement_interval
            lines.append(
                f"agreement with it on these: {self.agreement_before:.1%} -> {self.agreement:.1%} "
                f"({low:.1%} to {high:.1%} by 95 in 100 on pictures like them)"
            )
        if self.few:
            lines.append(f"fewer places than unknowns, so that the ridge takes over: {', '.join(self.few)}")
        lines += [f"left {name}: {reason}" for name, reason in self.left.items()]
        return "\n".join([*lines, *self.doubts])


def reconstruct(
    network: nn.Module,
    *,
    model: nn.Module,
    space: Space,
    candidate: Candidate,
    images: Tensor | Iterable[Any],
    scores: Scores | None = None,
    most: int = 1024,
    memory: int = MEMORY,
    ridge: float | None = None,
    distill: int = 0,
) -> Reconstruction:
    """What was done to make `network` give what the full one gives, without labels; its weights are changed in place.

    In the order of the forward, the weights of every convolution and linear layer are solved by least squares, so that
    its outputs are those of the full network's channels that stayed. Its inputs are what the layers before it, solved
    already, now give; a ridge draws towards the inherited weights. Batch norms keep the full network's statistics: do
    not recalibrate before or afterwards. A layer that is called several times is solved once, over all calls.

    One picture of eight is not solved on. On these a layer's ridge is chosen, or the layer keeps its weights, and in
    the end so does the network, whatever is better.

    What the full network gave takes up to half of `memory`, forwards that wait for a layer the other half: where
    pictures are large, the first layers are solved on fewer of them. Beside it there are the pictures, one batch's
    forward, and twice the square of a layer's inputs, in double precision; a layer for which that is more than
    `memory` is left.

    Kin: He 2017 (arXiv 1707.06168), Luo 2017 (arXiv 1707.06342), which choose channels by it too.

    Args:
        network: of `build(model, space, candidate, scores)`, on the device where it is to be solved.
        model: the full network, with the weights that `network` was cut from.
        space: the traced space.
        candidate: which network it is.
        images: `(n, c, *sides)` pictures, or batches of them, as the networks take them: a batch is a tensor, a tuple
            or list whose first tensors are the inputs (what comes behind, such as labels, is not read), or a dict.
        scores: by which it was cut; those of the space when None.
        most: pictures that are used, where there are more.
        memory: bytes, as above.
        ridge: share of the mean square of a layer's inputs; None tries some.
        distill: steps of training on the full network's answers that follow.

    Raises:
        ValueError: a picture does not fit the network, is not finite, or there are fewer than two; a setting is off.
    """
    _check(most=most, memory=memory, distill=distill)
    if ridge is not None and not ridge >= 0:
        raise ValueError(f"ridge is {ridge}; expected a share of at least 0, or None")
    origin = Origin(model=model, space=space, candidate=space.check(candidate), scores=scores)
    pictures = given(network, space, origin.candidate, images, most=most, memory=memory)
    full = beside(network, model)
    clock = Clock()
    targets = observed(full, pictures, space.layers, memory=memory // 2, rows=ROWS, clock=clock)
    shares = RIDGES if ridge is None else (ridge,)
    found = reconstructed(network, origin, pictures, targets, shares=shares, memory=memory, clock=clock)
    if distill:
        with clock("distill"):
            judgement = taught(network, full, pictures, targets, Judgement(found.error, found.agreement), steps=distill)
        found = replace(found, error=judgement.error, agreement=judgement.agreement)
    return replace(found, seconds=dict(clock.seconds))


def reconstructed(
    network: nn.Module,
    origin: Origin,
    pictures: Pictures,
    targets: Targets,
    *,
    shares: Sequence[float] = RIDGES,
    memory: int = MEMORY,
    clock: Clock | None = None,
) -> Reconstruction:
    """As `reconstruct`, with the full network's side of the same pictures.

    Args:
        network: changed in place.
        origin: where it comes from.
        pictures: of the targets.
        targets: the full network's side.
        shares: ridges to choose from.
        memory: bytes.
        clock: goes on; a new one when None.
    """
    clock = clock or Clock()
    kept = channel_map(origin.space, origin.candidate, origin.scores)
    inherited = {name: tensor.detach().clone() for name, tensor in named_tensors(network).items()}
    doubts = list(targets.doubts)
    with modes_restored(network), torch.no_grad(), clock("small"):
        network.eval()
        before = judged(network, pictures, targets)
        progress = Solving(
            network, pictures, targets, origin.space.layers, kept, shares=shares, memory=memory, clock=clock
        ).run()
        after = judged(network, pictures, targets) if progress.solved else before
        if not after.error <= before.error:
            for name, tensor in named_tensors(network).items():
                tensor.copy_(inherited[name])
            doubts.append("all layers keep their weights: together the new ones are worse on pictures not solved on")
            after, progress.solved = before, {}
    if not progress.solved and not progress.left:
        doubts.append("nothing is solved: the network has no convolution or linear layer that the space knows")
    for doubt in doubts:
        logger.warning("%s", doubt)
    held_out = sum(pictures.sizes[number] for number in pictures.judges)
    return Reconstruction(
        solved=progress.solved,
        left=progress.left,
        error_before=before.error,
        error=after.error,
        agreement_before=before.agreement,
        agreement=after.agreement,
        pictures=sum(pictures.sizes) - held_out,
        held_out=held_out,
        doubts=tuple(doubts),
        strange=targets.doubts,
        seconds=dict(clock.seconds),
    )


class Reconstructor:
    """Reconstructs networks of one full network with a task's training pictures, whose side it computes once a side."""

    def __init__(self, task: Task, *, images: int, memory: int = MEMORY) -> None:
        """Compute nothing yet.

        Args:
            task: whose pictures they are; the labels are not used.
            images: how many, where there are as many.
            memory: bytes, as of `reconstruct`; half of it is kept between networks.
        """
        self._task, self._images, self._memory = task, images, memory
        self._known: tuple[tuple[Any, ...], Pictures, Targets] | None = None

    def __call__(self, network: nn.Module, origin: Origin) -> Reconstruction:
        """What was done to a network, in place, on its device.

        Raises:
            Diverged: outputs of the full network or of this one are not finite.
            ValueError: the task has fewer than two pictures.
        """
        model, space = origin.model, origin.space
        key = (model, space.side(origin.candidate), device_of(network), dtype_of(network))
        if self._known is None or self._known[0] != key:
            self._known = None  # the memory of one is free before another is made
            device = device_of(network)
            pictures = of_task(
                self._task, space, origin.candidate, most=self._images, memory=self._memory, device=device
            )
            full = beside(network, model)
            self._known = key, pictures, observed(full, pictures, space.layers, memory=self._memory // 2, rows=ROWS)
        return reconstructed(network, origin, *self._known[1:], memory=self._memory)


def beside(network: nn.Module, model: nn.Module) -> nn.Module:
    """The full network where the small one is, and of its dtype: a copy where it is not."""
    device, dtype = device_of(network), dtype_of(network)
    if device_of(model) == device and dtype_of(model) == dtype:
        return model
    return copied(model).to(device=device, dtype=dtype)


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        least = 0 if name == "distill" else 2
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}")
