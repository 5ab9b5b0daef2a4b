"""What is done with a network and data: the one training loop, statistics of batch norms that fit, and the error.

Everything that trains in Secateur comes through `train`: the base network, short and long fine-tuning, an export's last
epochs, and the pruning methods that train. It runs as `Training` (`settings.py`) says, callbacks change what happens
inside. The loop is deterministic in (model, task, settings, seed) and can stop after any epoch: `Loop.state()`
(`loop.py`) is all that the rest of it needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...spaces import device_of
from ..modes import (
    derived_seed,
    generators_restored,
    modes_restored,
    norms_with_statistics,
    seed_generators,
    train_mode,
)
from ..tasks.batches import in_parts, joined, refuse_spoiled
from ..tasks.task import Metric, Side, Task, abilities, check_task
from .averaging import Average, lay_out
from .loop import Distillation, Loop, Teacher, teacher_for
from .parallel import Parallel, Placement
from .settings import Training
from .thinning import thinned, weighted

_CHECK_EVERY = 16  # steps between looks at the loss: each look makes the host wait for the device


class Diverged(ValueError):
    """Training, or the outputs of a network, left the finite numbers."""


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
    task, placement = rebatched(task, training.batch), _placement(model, device)
    teacher = teacher_for(task, training.distillation, teacher) if epochs else None
    loop = Loop(
        model=model,
        task=task,
        training=training,
        epochs=epochs,
        resolution=resolution,
        seed=seed,
        placement=placement,
        callbacks=callbacks,
        distillation=None if teacher is None else Distillation(task, teacher, training, placement),
    )
    return trained(loop, state)


def trained(loop: Loop, state: Mapping[str, Any] | None = None) -> list[float]:
    """Mean loss of every epoch, after a training that stands before its first step; see `train`."""
    model, training, callbacks = loop.model, loop.training, loop.callbacks
    _call(callbacks, "prepare", loop)
    if training.ema is not None:
        loop.average = Average(model, training.ema)
    if state is not None:
        loop.restore(state)
    if len(loop.devices) > 1:
        loop.network = Parallel(model, loop.devices)  # after the callbacks, which may have changed the model
    elif training.compile_from is not None and loop.steps >= training.compile_from:
        torch.compiler.reset()  # it keeps few versions of a forward, and every trial's network is another
        loop.network = cast(nn.Module, torch.compile(model))
    with modes_restored(model), generators_restored(*loop.devices):
        while loop.epoch < loop.epochs:
            _epoch(loop, callbacks)
            _call(callbacks, "after_epoch", loop)
        if loop.average is not None:
            loop.average.apply(model)
        _call(callbacks, "finalise", loop)
    if training.channels_last:
        lay_out(model, channels_last=False)
    loop.optimizer.zero_grad(set_to_none=True)
    return loop.losses


def measure_error(
    model: nn.Module,
    task: Task,
    *,
    split: str = "validation",
    resolution: Side | None = None,
    device: torch.device | str | None = None,
    parts: int = 1,
) -> Metric:
    """The task's error accumulated over a whole split, in eval mode and without gradients; modes are put back.

    Args:
        model: the network.
        task: data and error.
        split: of the task.
        resolution: the side of the images; None as stored.
        device: where the model is moved to; None leaves it.
        parts: how many parts every batch is taken in, to save memory.

    Raises:
        Spoiled: a batch is not finite.
        Diverged: an output is not finite: an error computed from it would be a number all the same.
    """
    if device is not None:
        model.to(device)
    error, finite = task.error(), list[Tensor]()
    # Not inference_mode: what a module caches in it could not be trained with afterwards.
    with modes_restored(model), torch.no_grad():
        model.eval()
        for whole in task.loader(split, resolution, None):
            for batch, _ in [(whole, 1)] if parts == 1 else in_parts(task, whole, parts):
                outputs, targets = task.forward(model, batch)
                for one in [outputs] if isinstance(outputs, Tensor) else _boxes(outputs):
                    finite.append(one.isfinite().all())
                error.update(outputs, targets)
    if finite and not bool(torch.stack(finite).all()):
        refuse_spoiled(task, model, split, resolution, None)
        raise Diverged(f"the outputs on the {split} split are not finite")
    return error


def _boxes(outputs: Any) -> list[Tensor]:
    """Numbers of the boxes that a network gave; other outputs may hold what they like."""
    answers = outputs if isinstance(outputs, list) else []
    return [tensor for one in answers if isinstance(one, Mapping) for tensor in one.values() if _floating(tensor)]


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def recalibrate(
    model: nn.Module,
    task: Task,
    *,
    images: int = 2048,
    resolution: Side | None = None,
    device: torch.device | str | None = None,
    parts: int = 1,
) -> int:
    """Number of images the running statistics were taken from, in place of those that `model` came with.

    The statistics are reset, then averaged over un-augmented training images at the resolution, every batch counting
    alike (momentum None), with all else in eval mode. Whole batches are taken until `images` are reached. Frozen norms
    (no statistics, or eval mode and no gradient) are left; modes and momenta are put back. What the model held before
    leaves no trace.

    Args:
        model: the network, changed in place; it is moved to `device`.
        task: whose training images, with the seed None: as stored.
        images: how many, at least.
        resolution: the side of the images; None as stored.
        device: where to compute; None where the model is.
        parts: how many parts every batch is taken in, to save memory: the statistics are then those of smaller batches.
    """
    if images < 1:
        raise ValueError(f"images is {images}; expected at least 1")
    if device is not None:
        model.to(device)
    norms = norms_with_statistics(model)
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    seen = 0
    with modes_restored(model), torch.no_grad():
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            for whole in task.loader("train", resolution, None):
                for batch, _ in [(whole, 1)] if parts == 1 else in_parts(task, whole, parts):
                    _, targets = task.forward(model, batch)
                    seen += len(targets)
                if seen >= images:
                    break
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if not all(norm.running_mean is None or bool(norm.running_mean.isfinite().all()) for norm in norms):
        refuse_spoiled(task, model, "train", resolution, None)
    return seen


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
    loop.set_rate()
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


def rebatched(task: Task, batch: int | None) -> Task:
    """The task with so many examples a batch, or with its own.

    Raises:
        ValueError: it can't have others.
    """
    if batch is None:
        return task
    with_batch = abilities(task).with_batch
    if with_batch is None:
        raise ValueError(
            f"training asks for batch={batch}, but {type(task).__name__} has no with_batch(batch); "
            "leave `batch` out and set it in the task"
        )
    return with_batch(batch)


def _refuse_infinite(total: Tensor, loop: Loop, seed: int, batches: int) -> None:
    if not bool(total.isfinite()):
        refuse_spoiled(loop.task, loop.model, "train", loop.resolution, seed, batches=batches)
        raise Diverged(f"the loss is no longer finite in epoch {loop.epoch + 1}; lower lr ({loop.training.lr})")


def _call(callbacks: Sequence[object], hook: str, loop: Loop) -> None:
    for callback in callbacks:
        method = getattr(callback, hook, None)
        if method is not None:
            method(loop)
