"""Learning from the full network while fine-tuning: the answers of the network a small one was cut from.

The teacher sees every batch as the student does, augmentation included, but at its own resolution. Where nothing is
augmented it answers once for all epochs, and for all trials of a `Ladder`. Its time is part of the training's.

outputs, teacher_outputs  (n, classes, *sides)  of student and teacher, before any softmax
temperature               T                     what both are divided by
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...spaces import copied
from ..tasks.splitting import in_parts
from ..tasks.task import Side, Task, abilities
from .parallel import Placement

logger = logging.getLogger("secateur")

_MOST = 2**26  # numbers that a teacher's answers may have, to be kept (a quarter of a gibibyte)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A network to learn from; it is never changed.

    Attributes:
        model: the network.
        resolution: the side of its images; None as stored.
        answers: `(n, classes)` outputs on all training examples, on the device of the training; None asks the model.
    """

    model: nn.Module
    resolution: Side | None = None
    answers: Tensor | None = None


def teacher_for(task: Task, weight: float, teacher: Teacher | None) -> Teacher | None:
    """The teacher, where there is one, its part of the loss is not 0, and the task distils; what does not is logged."""
    if teacher is None or weight == 0:
        return None
    if abilities(task).distill is None:
        logger.info("%s has no distill(outputs, teacher_outputs, temperature): training without", type(task).__name__)
        return None
    return teacher


def distillation_for(
    task: Task, teacher: Teacher | None, weight: float, temperature: float, placement: Placement
) -> Distillation | None:
    """What the teacher adds to the loss; None where there is no use for it."""
    teacher = teacher_for(task, weight, teacher)
    if teacher is None:
        return None
    device, parts = placement.devices[0], placement.accumulate
    return Distillation(task, teacher, weight=weight, temperature=temperature, device=device, parts=parts)


def answered(task: Task, teacher: Teacher, device: torch.device, parts: int = 1) -> Teacher:
    """The teacher with its answers, where training shows every example as stored and the answers are few.

    Args:
        task: whose examples they are.
        teacher: without answers, or with.
        device: where it is asked.
        parts: how many parts every batch is taken in.
    """
    stored = None if teacher.answers is not None else abilities(task).stored
    batches = None if stored is None else stored(teacher.resolution)
    if batches is None:
        return teacher
    model, answers = _still(teacher.model, device), list[Tensor]()
    with torch.no_grad():
        for batch in batches if parts == 1 else (part for whole in batches for part, _ in in_parts(task, whole, parts)):
            outputs, _ = task.forward(model, batch)
            if not answers and outputs[0].numel() * task.sizes["train"] > _MOST:
                return teacher
            answers.append(outputs.float())
    return replace(teacher, answers=torch.cat(answers))


class Distillation:
    """The loss of a batch with a teacher: (1 - a) of the task's own and a of the distance to the teacher's outputs.

    Attributes:
        weight: a, of the teacher's part, 0..1.
        temperature: of both softmaxes.
        resolution: the side of the teacher's images; None as stored.
    """

    def __init__(
        self,
        task: Task,
        teacher: Teacher,
        *,
        weight: float,
        temperature: float,
        device: torch.device,
        parts: int = 1,
    ) -> None:
        """Have the teacher's answers, asked for in so many parts a batch, or a copy of it on `device`."""
        able = abilities(task)
        if able.distill is None:
            raise TypeError(f"{type(task).__name__} has no distill(outputs, teacher_outputs, temperature); give it one")
        self.weight, self.temperature, self.resolution = weight, temperature, teacher.resolution
        teacher = answered(task, teacher, device, parts)
        self._answers = teacher.answers
        self._model = None if teacher.answers is not None else _still(teacher.model, device)
        self._task, self._distill, self._at = task, able.distill, able.at

    def loss(self, loss: Tensor, outputs: Any, batch: Any) -> Tensor:
        """The loss to lower, given the task's own and the student's outputs."""
        distance = self._distill(outputs, self._answer(batch), self.temperature)
        return (1 - self.weight) * loss + self.weight * distance

    def _answer(self, batch: Any) -> Any:
        """The teacher's outputs."""
        if self._answers is not None:
            return self._answers[batch.indices.to(self._answers.device)]
        assert self._model is not None, "a teacher without answers is a network"
        seen = batch if self._at is None else self._at(batch, self.resolution)
        with torch.no_grad():
            return self._task.forward(self._model, seen)[0]


def _still(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy in eval mode: trials may train side by side, and the caller's network keeps its modes and its place."""
    return copied(model).to(device).eval().requires_grad_(False)
