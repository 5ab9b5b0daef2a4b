"""How near a network comes to the full one, and some steps of training on the full one's answers, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...spaces import named_tensors, plain
from ..modes import modes_restored
from ..tasks.batches import joined
from ..tasks.learned import ErrorRate, divergence
from ..tasks.task import Metric, Side
from ..training.loop import Teacher
from ..training.settings import Training
from ..training.training import Diverged, train
from .pictures import Pictures
from .targets import Targets, answered

_LR, _TEMPERATURE = 0.005, 4.0
_STEP = 32  # pictures of a step, at least


@dataclass(frozen=True)
class Judgement:
    """How far a network's outputs are from the full one's.

    Attributes:
        error: squared error over the spread of the full network's.
        agreement: share of places at which the largest output is the same; None without classes.
    """

    error: float
    agreement: float | None


def judged(network: nn.Module, pictures: Pictures, targets: Targets) -> Judgement:
    """Of the pictures that no layer is solved on.

    Raises:
        Diverged: an output is not finite.
        ValueError: one has another shape than the full network's.
    """
    error, spread, same, count = 0.0, 0.0, 0, 0
    with torch.no_grad():
        for number, wanted in targets.answers.items():
            outputs = pictures.forward(network, pictures.batches[number])
            got = answered(outputs, number)
            if [one.shape for one in got] != [one.shape for one in wanted]:
                raise ValueError(
                    "the network's outputs have other shapes than the full network's; were both built alike?"
                )
            for one, other in zip(got, wanted, strict=True):
                error += float((one.double() - other.double()).square().sum())
                spread += float((other.double() - other.double().mean(0)).square().sum())
            if wanted and wanted[0].shape[1] > 1:
                same += int((got[0].argmax(1) == wanted[0].argmax(1)).sum())
                count += len(wanted[0])
    return Judgement(error / spread if spread else error, same / count if count else None)


def taught(
    network: nn.Module, full: nn.Module, pictures: Pictures, targets: Targets, before: Judgement, *, steps: int
) -> Judgement:
    """The judgement after so many steps, in which the network learns the full one's answers to what it was solved on.

    Where it is then further from the full network on the other pictures, it is as before.

    Args:
        network: trained in place.
        full: the full network.
        pictures: those of the targets.
        targets: the full network's side.
        before: of the network as it is.
        steps: how many; a whole number of passes over the pictures, at least.
    """
    kept = {name: tensor.detach().clone() for name, tensor in named_tensors(network).items()}
    task = _Answers(pictures, steps)
    training = Training(lr=_LR, distillation=1 - 2**-20, temperature=_TEMPERATURE, weight_decay=0.0)
    with modes_restored(network):
        try:
            train(network, task, training, epochs=1, teacher=Teacher(model=full))
            network.eval()
            after = judged(network, pictures, targets)
        except (Diverged, ValueError):
            after = Judgement(float("inf"), None)
    if after.error < before.error:
        return after
    with torch.no_grad():
        for name, tensor in named_tensors(network).items():
            tensor.copy_(kept[name])
    return before


class _Answers:
    """A task without labels: all there is to learn are a teacher's answers; its one epoch has a number of steps.

    Networks are in eval mode: their norms keep the full network's statistics, and nothing is dropped by chance.
    """

    def __init__(self, pictures: Pictures, steps: int) -> None:
        self._pictures, self._steps = pictures, steps
        self.fingerprint, self.preprocessing = "answers", dict[str, Any]()
        self.sizes: Mapping[str, int] = {"train": sum(pictures.sizes)}

    def loader(self, split: str, resolution: Side | None, seed: int | None) -> Iterable[Any]:
        """The batches that are solved on, over and over, some together."""
        return _Steps(self._pictures, self._steps, seed)

    def at(self, batch: _Step, resolution: Side | None) -> _Step:
        """The batch as the teacher takes it."""
        return _Step(batch.numbers, self._pictures.originals or self._pictures.batches)

    def forward(self, model: nn.Module, batch: _Step) -> tuple[Any, Any]:
        """Outputs of batches, and as many targets."""
        model.eval()
        outputs = joined([plain(self._pictures.forward(model, batch.held[number])) for number in batch.numbers])
        return outputs, torch.zeros(sum(self._pictures.sizes[number] for number in batch.numbers))

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Nothing but the teacher counts."""
        return torch.zeros((), device=_floating(outputs)[0].device)

    def error(self) -> Metric:
        """There are no labels to be wrong about."""
        return ErrorRate()

    def distill(self, outputs: Any, teacher_outputs: Any, temperature: float) -> Tensor:
        """Divergence of the answers of a classification; else squared error over the teacher's spread."""
        total = torch.zeros((), device=_floating(outputs)[0].device)
        for one, other in zip(_floating(outputs), _floating(teacher_outputs), strict=True):
            if one.ndim == 2 and one.shape[1] > 1:
                total = total + divergence(one, other, temperature)
            else:
                total = total + (one - other).square().mean() / other.var(correction=0).clamp(min=1e-12)
        return total


@dataclass(frozen=True)
class _Step:
    """Numbers of batches, and where these are."""

    numbers: list[int]
    held: tuple[Any, ...] = field(repr=False)


@dataclass(frozen=True)
class _Steps:
    """Numbers of batches, so many times some; every pass in another order."""

    pictures: Pictures
    count: int
    seed: int | None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[_Step]:
        numbers = [number for number in range(len(self.pictures.batches)) if not self.pictures.held_out(number)]
        generator = torch.Generator().manual_seed(self.seed or 0)
        left: list[int] = []
        for _ in range(self.count):
            step: list[int] = []
            while sum(self.pictures.sizes[number] for number in step) < _STEP and len(step) < len(numbers):
                left = left or [numbers[i] for i in torch.randperm(len(numbers), generator=generator).tolist()]
                step.append(left.pop())
            yield _Step(step, self.pictures.batches)


def _floating(outputs: Any) -> list[Tensor]:
    return [one for one in pytree.tree_leaves(plain(outputs)) if isinstance(one, Tensor) and one.is_floating_point()]
