"""The one training loop. `train` runs it as `Training` (`settings.py`) says, callbacks change what happens inside.

Everything that trains in Secateur comes through here: the base network, short and long fine-tuning, an export's last
epochs, and the pruning methods that train. The loop is deterministic in (model, task, settings, seed) and can stop
after any epoch: `Loop.state()` is all that the rest of it needs.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor, nn

from ...spaces import device_of
from ..modes import derived_seed, generators_restored, modes_restored, seed_generators, train_mode
from ..tasks.splitting import in_parts, joined
from ..tasks.spoiled import refuse_spoiled
from ..tasks.task import Side, Task, abilities, check_task
from .distillation import Distillation, Teacher, distillation_for
from .gradients import PrunedGradients
from .optimising import Average, lay_out, optimizer_of, scheduler_of
from .parallel import Parallel, Placement
from .settings import OPTIMIZERS, Training
from .thinning import thinned, weighted

_CHECK_EVERY = 16  # steps between looks at the loss: each look makes the host wait for the device


class Diverged(ValueError):
    """Training, or the outputs of a network, left the finite numbers."""


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
        """Stand before the first step."""
        self.callbacks, self.distillation = tuple(callbacks), distillation
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
        return self.training.lr * self.training.factor(self.step, max(1, self.steps))

    def _settings(self) -> dict[str, Any]:
        settings = self.training.saved()
        # Without a teacher these two change nothing.
        asked = {name: settings.pop(name) for name in ("distillation", "temperature")}
        taught = self.distillation
        teacher = None if taught is None else asked | {"resolution": _listed(taught.resolution)}
        run = {"epochs": self.epochs, "seed": self.seed, "resolution": _listed(self.resolution), "teacher": teacher}
        parts = {"accumulate": self.accumulate, "devices": len(self.devices)}
        return settings | run | {name: count for name, count in parts.items() if count > 1}


def train(
    model: nn.Module,
    task: Task,
    training: Training,
    *,
    epochs: int,
    resolution: Side | None = None,
    seed: int = 0,
    device: torch.device | str | Placement | None = None,
    callbacks: Sequence[object] = (),
    state: Mapping[str, Any] | None = None,
    teacher: Teacher | None = None,
) -> list[float]:
    """Mean loss of every epoch, after training `model` in place; its modes are put back as they were.

    A callback is any object with some of these methods, each called with the `Loop`, in the order given: `prepare`
    (once, before the first step or before a state is restored; it may add parameters to the optimizer), `extra_loss`
    (with outputs and targets too: a scalar that is added to the loss), `after_backward` (gradients are there, unscaled,
    not yet clipped), `after_step`, `after_epoch`, `finalise` (once, after the last epoch). One that also has `state()`
    and `restore(state)` is part of `Loop.state()`. Global generators are left untouched.

    Args:
        model: the network; it is moved to `device`. Frozen norms and parameters stay as they are.
        task: data and loss.
        training: the settings.
        epochs: how many; the schedule spans them.
        resolution: the side of the images; None as stored.
        seed: of order, augmentation and dropout.
        device: where to train; None where the model is; a `Placement` for several devices or for batches in parts. The
            teacher is on the first.
        callbacks: what happens between the steps.
        state: a `Loop.state()` of the same training: goes on from there, bit by bit as if never interrupted. That the
            teacher is the same network is not checked.
        teacher: a network to learn from beside the labels, where `training.distillation` is not 0 and the task has
            `distill`; it is copied to `device` and left as it is.

    Raises:
        Diverged: the loss or a weight is no longer finite.
        Spoiled: it is no longer finite because a batch is not.
        Unsplittable: a batch is to be taken in parts, and can't be.
        ValueError: nothing to train, or `state` is another training's.
    """
    check_task(task, "loader", "forward", "loss")
    placement = _placement(model, device)
    model.to(placement.devices[0])
    if training.channels_last:
        lay_out(model, channels_last=True)
    if training.batch is not None:
        task = _with_batch(task, training.batch)
    if training.gradients_pruned:
        callbacks = (*callbacks, PrunedGradients(training.gradients_pruned))
    loop = Loop(
        model=model,
        task=task,
        training=training,
        epochs=epochs,
        resolution=resolution,
        seed=seed,
        placement=placement,
        callbacks=callbacks,
        distillation=distillation_for(task, teacher, training.distillation, training.temperature, placement)
        if epochs
        else None,
    )
    _call(callbacks, "prepare", loop)
    if training.ema is not None:
        loop.average = Average(model, training.ema)
    if state is not None:
        loop.restore(state)
    if len(loop.devices) > 1:
        loop.network = Parallel(model, loop.devices)  # after the callbacks, which may have changed the model
    with modes_restored(model), generators_restored(*loop.devices):
        while loop.epoch < epochs:
            _epoch(loop, callbacks)
            _call(callbacks, "after_epoch", loop)
        if loop.average is not None:
            loop.average.apply(model)
        _call(callbacks, "finalise", loop)
    if training.channels_last:
        lay_out(model, channels_last=False)
    loop.optimizer.zero_grad(set_to_none=True)
    return loop.losses


def _placement(model: nn.Module, device: torch.device | str | Placement | None) -> Placement:
    given = device if isinstance(device, Placement) else Placement()
    if given.accumulate < 1:
        raise ValueError(f"accumulate is {given.accumulate}; expected at least 1")
    if given.devices:
        return given
    where = device_of(model) if device is None or isinstance(device, Placement) else torch.device(device)
    return dataclasses.replace(given, devices=(where,))


def _epoch(loop: Loop, callbacks: Sequence[object]) -> None:
    train_mode(loop.model)
    seed = derived_seed(loop.seed, loop.epoch)
    for number, device in enumerate(loop.devices[1:], start=1):
        if device != loop.device:
            seed_generators(device, derived_seed(seed, number))
    seed_generators(loop.device, seed)
    total, count = torch.zeros((), device=loop.device), 0
    for batch in loop.task.loader("train", loop.resolution, seed):
        _step(loop, batch, callbacks)
        total, count = total + loop.loss, count + 1
        if count % _CHECK_EVERY == 0:
            _refuse_infinite(total, loop, seed, count)
    if not count:
        raise ValueError("the task's training split gave no batch; give at least one")
    _refuse_infinite(total, loop, seed, count)
    if not all(bool(parameter.isfinite().all()) for parameter in loop.model.parameters()):
        raise Diverged(f"a weight is no longer finite after epoch {loop.epoch + 1}; lower lr ({loop.training.lr})")
    loop.epoch += 1
    loop.losses.append(float(total) / count)


def _step(loop: Loop, batch: Any, callbacks: Sequence[object]) -> None:
    training, optimizer = loop.training, loop.optimizer
    loop.set_rate()
    optimizer.zero_grad(set_to_none=True)
    amp = None if training.amp is None else getattr(torch, training.amp)
    factors: Sequence[Tensor] = ()
    with torch.autocast(loop.device.type, dtype=amp, enabled=amp is not None):
        if training.examples_kept < 1:
            batch, kept = thinned(loop.task, loop.model, batch, training.examples_kept)
            factors = [kept]
    parts = [(batch, 1)] if loop.accumulate == 1 else in_parts(loop.task, batch, loop.accumulate)
    if factors and len(parts) > 1:
        factors = torch.split(factors[0], [size for _, size in parts])
    examples, total, seen = sum(size for _, size in parts), torch.zeros((), device=loop.device), []
    for number, (part, size) in enumerate(parts):
        with torch.autocast(loop.device.type, dtype=amp, enabled=amp is not None):
            outputs, targets = loop.task.forward(loop.network, part)
            if factors:
                weighted(outputs, factors[number])
            loss = loop.task.loss(outputs, targets)
            if loop.distillation is not None:
                loss = loop.distillation.loss(loss, outputs, part)
            for callback in callbacks:
                if hasattr(callback, "extra_loss"):
                    loss = loss + callback.extra_loss(loop, outputs, targets).to(loss.device)
        loss = loss if len(parts) == 1 else loss * (size / examples)
        loop.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total = total + loss.detach().float()
        seen.append(_detached(outputs))
        del outputs, targets, loss  # the graph's memory is free for the next part
    loop.scaler.unscale_(optimizer)
    loop.loss, loop.batch, loop.outputs = total, batch, seen[0] if len(seen) == 1 else joined(seen)
    _call(callbacks, "after_backward", loop)
    if training.clip is not None:
        nn.utils.clip_grad_norm_(loop.model.parameters(), training.clip)
    loop.scaler.step(optimizer)
    loop.scaler.update()
    loop.step += 1
    if loop.scheduler is not None:
        loop.scheduler.step()
    _call(callbacks, "after_step", loop)
    if loop.average is not None:
        loop.average.update(loop.model, loop.step)


def _detached(outputs: Any) -> Any:
    if isinstance(outputs, tuple | list):
        return tuple(_detached(output) for output in outputs)
    if isinstance(outputs, Mapping):
        return {name: _detached(output) for name, output in outputs.items()}
    return outputs.detach() if isinstance(outputs, Tensor) else outputs


def _listed(side: Side | None) -> list[int] | None:
    return None if side is None else list(side)


def _length(task: Task, resolution: Side | None) -> int:
    """Batches an epoch, counted where the loader has no length."""
    loader: Iterable[Any] = task.loader("train", resolution, 0)
    return len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)


def _with_batch(task: Task, batch: int) -> Task:
    rebatched = abilities(task).with_batch
    if rebatched is None:
        raise ValueError(
            f"training asks for batch={batch}, but {type(task).__name__} has no with_batch(batch); "
            "leave `batch` out and set it in the task"
        )
    return rebatched(batch)


def _refuse_infinite(total: Tensor, loop: Loop, seed: int, batches: int) -> None:
    if not bool(total.isfinite()):
        refuse_spoiled(loop.task, loop.model, "train", loop.resolution, seed, batches=batches)
        raise Diverged(f"the loss is no longer finite in epoch {loop.epoch + 1}; lower lr ({loop.training.lr})")


def _call(callbacks: Sequence[object], hook: str, loop: Loop) -> None:
    for callback in callbacks:
        method = getattr(callback, hook, None)
        if method is not None:
            method(loop)
