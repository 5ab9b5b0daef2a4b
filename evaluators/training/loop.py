"""A training under way, and what its steps are made of: the optimiser, its rate, and what a teacher adds to the loss.

A `Teacher`, usually the full network, sees every batch as the student does, augmentation included, but at its own
resolution. Where nothing is augmented it answers once for all epochs, and for all trials of a `Ladder`. Its time is
part of the training's.

outputs, teacher_outputs  (n, classes, *sides)  of student and teacher, before any softmax
temperature               T                     what both are divided by
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...spaces import copied
from ..tasks.batches import in_parts
from ..tasks.own import name_of
from ..tasks.task import Side, Task, abilities
from .averaging import Average, lay_out
from .gradients import PrunedGradients
from .parallel import Placement
from .settings import OPTIMIZERS, SCHEDULES, Training

logger = logging.getLogger("secateur")

_MOST = 2**26  # numbers that a teacher's answers may have, to be kept (a quarter of a gibibyte)
_STEP_AT, _STEP_FACTOR = (0.5, 0.75), 0.1  # schedule="step": where in the training the lr falls, and by how much


class Loop:
    """A training under way: what callbacks see, and may change.

    Attributes:
        model: the network, trained in place.
        task: data and loss.
        training: the settings.
        optimizer: made from the settings; a callback may add to it.
        epochs: epochs in all.
        epoch: epochs finished.
        step: steps finished.
        steps: steps in all.
        lr: the rate of the present step.
        batch: the present batch, as the task's loader gave it, or what is kept of it; None before the first.
        outputs: the network's outputs on it, detached; None before the first.
        loss: the loss of the present batch, detached.
        losses: the mean loss of every finished epoch.
        resolution: the side of the images; None as stored.
        seed: of order, augmentation and dropout.
        device: where the model is.
        devices: what every batch is spread over; the first is `device`.
        accumulate: parts that every batch is taken in, one after another.
        callbacks: what is called between the steps.
        distillation: what a teacher adds to the loss; None without one.
        network: what computes the outputs: the model, or the model on several devices.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        task: Task,
        training: Training,
        epochs: int,
        resolution: Side | None,
        seed: int,
        placement: Placement,
        callbacks: Sequence[object] = (),
        distillation: Distillation | None = None,
    ) -> None:
        """Stand before the first step, the model on its device."""
        model.to(placement.devices[0])
        if training.channels_last:
            lay_out(model, channels_last=True)
        pruned = (PrunedGradients(training.gradients_pruned),) if training.gradients_pruned else ()
        self.callbacks, self.distillation = (*callbacks, *pruned), distillation
        self.model, self.task, self.training, self.epochs = model, task, training, epochs
        self.accumulate, self.devices, self.network = placement.accumulate, placement.devices, model
        self.resolution, self.seed, self.device = resolution, seed, placement.devices[0]
        self.optimizer = optimizer_of(model, training)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=training.amp == "float16")
        self.epoch, self.step, self.steps = 0, 0, epochs * _length(task, resolution)
        self.scheduler = scheduler_of(self.optimizer, training, self.steps)
        self.average: Average | None = None
        self.lr, self.losses = self._rate(), list[float]()
        self.loss = torch.zeros((), device=self.device)
        self.batch: Any = None
        self.outputs: Any = None

    def state(self) -> dict[str, Any]:
        """All that is needed to go on after the last finished epoch, as copies: tensors, numbers, strings, lists.

        It survives `torch.save` and `torch.load(weights_only=True)`. Generators are not in it: every epoch seeds its
        own from `seed` and its number.
        """
        state = {
            "settings": self._settings(),
            "epoch": self.epoch,
            "step": self.step,
            "losses": self.losses,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "callbacks": [callback.state() for callback in self._stateful()],
        }
        if self.scheduler is not None:
            state["scheduler"] = self.scheduler.state_dict()
        if self.average is not None:
            state["average"] = self.average.kept
        return copy.deepcopy(state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken; ValueError where it belongs to another training."""
        mine, given = self._settings(), dict(state["settings"])
        differing = [name for name in mine if mine[name] != given.get(name)]
        if differing:
            raise ValueError(
                f"the saved training state differs in {', '.join(differing)} "
                f"({', '.join(f'{given.get(name)} there, {mine[name]} here' for name in differing)}); "
                "go on with the same settings, or start without the state"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None:
            self.average.restore(state["average"])
        for callback, kept in zip(self._stateful(), state.get("callbacks", []), strict=True):
            callback.restore(kept)
        self.epoch, self.step, self.losses = state["epoch"], state["step"], list(state["losses"])

    def _stateful(self) -> list[Any]:
        return [callback for callback in self.callbacks if hasattr(callback, "state") and hasattr(callback, "restore")]

    def set_rate(self) -> None:
        """Set the rate of the next step in the optimizer; a scheduler of the user's has done so."""
        self.lr = self._rate()
        if self.scheduler is None:
            share = self.lr / self.training.lr
            own = self.training.optimizer not in OPTIMIZERS
            for group in self.optimizer.param_groups:  # those of the user's optimizer may have rates of their own
                group["lr"] = group.get("initial_lr", self.training.lr) * share if own else self.lr

    def _rate(self) -> float:
        if self.scheduler is not None:
            return float(self.optimizer.param_groups[0]["lr"])
        return self.training.lr * factor(self.training, self.step, max(1, self.steps))

    def _settings(self) -> dict[str, Any]:
        settings = self.training.saved()
        # Without a teacher these two change nothing.
        asked = {name: settings.pop(name) for name in ("distillation", "temperature")}
        taught = self.distillation
        teacher = None if taught is None else asked | {"resolution": _listed(taught.resolution)}
        run = {"epochs": self.epochs, "seed": self.seed, "resolution": _listed(self.resolution), "teacher": teacher}
        parts = {"accumulate": self.accumulate, "devices": len(self.devices)}
        return settings | run | {name: count for name, count in parts.items() if count > 1}


def optimizer_of(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimiser of the settings; norms, biases and all else of one dimension have no weight decay.

    Raises:
        ValueError: nothing needs a gradient, or the user's function makes none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter that needs a gradient; there is nothing to train")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, nesterov=training.momentum > 0)
    if training.optimizer in OPTIMIZERS:
        kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, lr=training.lr, betas=(training.momentum, 0.999))
    groups = [group for group in groups if group["params"]]
    made = _made("optimizer", training.optimizer, "(groups, lr=...)", groups, lr=training.lr)
    if not all(hasattr(made, name) for name in ("step", "zero_grad", "param_groups", "state_dict")):
        raise ValueError(f"optimizer {name_of(training.optimizer)} gave a {type(made).__name__}; expected an optimizer")
    for group in made.param_groups:
        group.setdefault("initial_lr", group["lr"])
    found: torch.optim.Optimizer = made
    return found


def scheduler_of(optimizer: torch.optim.Optimizer, training: Training, steps: int) -> Any:
    """The user's scheduler, stepped after every step; None where the schedule is one of ours."""
    if training.schedule in SCHEDULES or not steps:
        return None
    made = _made("schedule", training.schedule, "(optimizer, steps)", optimizer, steps)
    if not all(hasattr(made, name) for name in ("step", "state_dict", "load_state_dict")):
        raise ValueError(f"schedule {name_of(training.schedule)} gave a {type(made).__name__}; expected a scheduler")
    return made


def _made(what: str, factory: Any, form: str, *given: Any, **named: Any) -> Any:
    if not callable(factory):
        raise ValueError(f"{what}={factory!r} is for study files; give the function itself")
    try:
        return factory(*given, **named)
    except Exception as problem:  # of the user's function
        said = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise ValueError(f"{what} {name_of(factory)} raised {said}; it is called as {what}{form}") from problem


def factor(training: Training, step: int, steps: int) -> float:
    """What the rate is multiplied by at a step of so many; above 0 at every one of them."""
    warm = training.warmup * steps
    if step < warm:
        return (step + 1) / (math.floor(warm) + 1)
    if training.schedule == "constant":
        return 1.0
    if training.schedule == "step":
        return float(_STEP_FACTOR ** sum(step >= at * steps for at in _STEP_AT))
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


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
        training: Training,
        placement: Placement,
    ) -> None:
        """Have the teacher's answers, asked for in as many parts a batch as the student, or a copy of it there."""
        able = abilities(task)
        if able.distill is None:
            raise TypeError(f"{type(task).__name__} has no distill(outputs, teacher_outputs, temperature); give it one")
        device = placement.devices[0]
        self.weight, self.temperature, self.resolution = training.distillation, training.temperature, teacher.resolution
        teacher = answered(task, teacher, device, placement.accumulate)
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


def _listed(side: Side | None) -> list[int] | None:
    return None if side is None else list(side)


def _length(task: Task, resolution: Side | None) -> int:
    """Batches an epoch, counted where the loader has no length."""
    loader: Iterable[Any] = task.loader("train", resolution, 0)
    return len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)
