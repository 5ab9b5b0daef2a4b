"""What a study asks of an evaluator, and the default one: a ladder of fidelities, each on the one below."""

from __future__ import annotations

import gc
import inspect
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from .modes import derived_seed, threads_set
from .reconstruction.reconstruct import Origin, Reconstructor
from .tasks.batches import Unsplittable
from .tasks.learned import figures
from .tasks.task import Side, Task, check_task
from .training.loop import Distillation, Loop, Teacher, answered, teacher_for
from .training.parallel import Placement
from .training.settings import Training
from .training.training import Diverged, measure_error, rebatched, recalibrate, trained

FIDELITIES = ("zero-shot", "recalibrated", "reconstructed", "short", "long")
"""How far a candidate may be trained before its error counts, cheapest first; see `Ladder`."""

logger = logging.getLogger("secateur")

_WAY = ("zero-shot", "recalibrated", "short", "long")  # up the ladder; each goes on from the one below

_PARTS = 2  # what every batch is taken in when memory has run out

_SEEDS = {"short": 1, "long": 2}  # what a rung's training seed is derived with; another number is another training

# What PyTorch 2.13 says where the CPU's memory ends: a plain RuntimeError.
_TOO_MUCH = "out of memory"
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", _TOO_MUCH)


Report = Callable[[str, float], object]

_ARGUMENTS = ("candidate", "resolution", "fidelity", "seed", "report")
_CONTEXT = "context"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one evaluation.

    Attributes:
        error: validation error at the last rung climbed, or what the proxy said there; NaN where it failed.
        error_std: standard error of `error` over the validation examples; None for a proxy's.
        seconds: time taken.
        state: "complete" or "failed".
        reason: why it failed, in a sentence; None where it did not.
        attributes: what else was measured: `error_RUNG` of every rung climbed.
        weights: the network's state dict after the last rung, on the CPU; None where it failed or none was built.
        rung: the last rung climbed; None where it failed.
        stopped: whether it was told to end below the fidelity that was asked.
    """

    error: float
    error_std: float | None
    seconds: float
    state: str = "complete"
    reason: str | None = None
    attributes: Mapping[str, float | str] = field(default_factory=dict)
    weights: Mapping[str, Tensor] | None = None
    rung: str | None = None
    stopped: bool = False

    def __post_init__(self) -> None:
        """Refuse an end at no rung."""
        if self.stopped and self.rung is None:
            raise ValueError("the result is stopped, but has no rung; give the name of the last one that was climbed")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What surrounds an evaluation, for evaluators that train.

    Attributes:
        callbacks: what watches every fine-tuning, as in `train`.
        devices: what fine-tunings may be spread over, as in `train`; empty leaves it to the evaluator.
        origin: where the network comes from, for `"reconstructed"`.
    """

    callbacks: tuple[object, ...] = ()
    devices: tuple[torch.device, ...] = ()
    origin: Origin | None = None


ALONE = Context()
"""Nothing watches, and the evaluator's own device is all there is."""


class Evaluator(Protocol):
    """A function from a network that is yet to be built to a `Result`. What can be expected to fail is a failed one."""

    def __call__(
        self,
        build: Callable[[], nn.Module],
        *,
        candidate: Any,
        resolution: Side | None,
        fidelity: str,
        seed: int,
        report: Report | None,
        context: Context,
    ) -> Result:
        """The result of one evaluation. The parameter `context` may be missing: it is then called without.

        Args:
            build: gives a fresh small network with its inherited weights.
            candidate: which one it is.
            resolution: the side of its images; None as stored.
            fidelity: how far it is trained before its error counts.
            seed: of training.
            report: to be called with a fidelity's name and the error there; what is true ends the evaluation.
            context: what watches trainings, and where they may run.
        """
        ...


class Ladder:
    """Evaluates a candidate: by a proxy; inherited weights, recalibrated; then a short fine-tuning; then a long one.

    Each rung goes on from the one below and is measured on the validation split; the test split is never read. What a
    proxy says is no error: it ranks. NaN, divergence and memory that runs out are a failed `Result`; anything else
    (wrong labels, a bug) is raised.

    `"reconstructed"` lies beside the way up, which does not lead over it: a network with its inherited weights and
    statistics, whose layers are solved again so that they give what the full network's give; see `reconstruct`.

    Where memory runs out, the climb is begun once more with every batch taken in two parts, whose gradients make one
    step; the attribute `accumulated` says so. Batch norms then see smaller batches, so such a result is not quite that
    of a device with more memory.
    """

    def __init__(
        self,
        task: Task,
        training: Training,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        threads: int | None = None,
        teacher: Teacher | None = None,
        proxy: Callable[[Any], float] | None = None,
    ) -> None:
        """Keep the settings.

        Args:
            task: data, loss and error.
            training: how networks are fine-tuned.
            device: where.
            dtype: of the networks; None computes in their own.
            threads: of PyTorch; None leaves their number.
            teacher: what networks learn from beside the labels, in short and long fine-tuning.
            proxy: from a candidate to a number to minimise, without building it; None leaves out the lowest rung.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; expected at least 1")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}; expected a floating one")
        check_task(task, "loader", "forward", "loss", "error")
        self.task, self.training = task, training
        self.device, self.dtype, self.threads = torch.device(device), dtype, threads
        self.teacher, self.proxy = teacher_for(task, training.distillation, teacher), proxy
        self._distillations: dict[torch.device, Distillation] = {}
        self._reconstructor = Reconstructor(task, images=training.recalibration_images)

    def rungs(self, fidelity: str) -> tuple[str, ...]:
        """The rungs that are climbed to a fidelity, lowest first."""
        if fidelity not in FIDELITIES:
            raise ValueError(f"fidelity is {fidelity!r}; expected one of {', '.join(FIDELITIES)}")
        if fidelity == "zero-shot" and self.proxy is None:
            raise ValueError("fidelity is 'zero-shot', but there is no proxy; give the ladder one, or another fidelity")
        found = FIDELITIES[0 if self.proxy is not None else 1 : FIDELITIES.index(fidelity) + 1]
        return tuple(rung for rung in found if rung in (fidelity, *_WAY))

    def __call__(
        self,
        build: Callable[[], nn.Module],
        *,
        candidate: object,
        resolution: Side | None,
        fidelity: str = "short",
        seed: int = 0,
        report: Report | None = None,
        context: Context = ALONE,
    ) -> Result:
        """The result of climbing to `fidelity`, or as far as `report` lets it.

        Args:
            build: gives a fresh small network with its inherited weights.
            candidate: which one it is; for the proxy and the log.
            resolution: the side of its images; None as stored.
            fidelity: the rung to stop at, one of `FIDELITIES`.
            seed: of training.
            report: called with every rung's name and error as soon as it is known; what is true ends the climb there.
            context: what watches fine-tunings, and the devices they are spread over; recalibration and measuring take
                the first of these.
        """
        rungs, start = self.rungs(fidelity), time.perf_counter()
        reason, noted = "", dict[str, float | str]()
        for parts in (1, _PARTS):
            if parts > 1:
                logger.warning("%s: %s; once more, with every batch in %d parts", candidate, reason, parts)
                noted = {"accumulated": float(parts)}
            try:
                with threads_set(self.threads):
                    result = self._climb(rungs, build, candidate, resolution, seed, report, context, parts)
                attributes = {**result.attributes, **noted}
                return replace(result, seconds=time.perf_counter() - start, attributes=attributes)
            except Unsplittable as problem:
                reason = f"{reason}; {problem}"
            except (Diverged, MemoryError, RuntimeError) as problem:
                found = _expected(problem)
                if found is None:
                    raise
                reason = found
            # Out of the handler, whose traceback would keep the network's memory alive.
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if not reason.startswith(_TOO_MUCH):
                break
        logger.warning("%s failed: %s", candidate, reason)
        return Result(
            error=float("nan"),
            error_std=float("nan"),
            seconds=time.perf_counter() - start,
            state="failed",
            reason=reason,
            attributes=noted,
        )

    def _climb(
        self,
        rungs: tuple[str, ...],
        build: Callable[[], nn.Module],
        candidate: object,
        resolution: Side | None,
        seed: int,
        report: Report | None,
        context: Context,
        parts: int,
    ) -> Result:
        model: nn.Module | None = None
        errors: dict[str, float | str] = {}
        for rung in rungs:
            if rung == "zero-shot":
                error, error_std = self._guess(candidate), None
            else:
                if model is None or rung not in _WAY:
                    model = build().to(device=self.device, dtype=self.dtype)
                self._train(model, rung, resolution, seed, context, parts)
                measured = measure_error(model, self.task, resolution=resolution, parts=parts)
                error, error_std = figures(measured)
            errors[f"error_{rung}"] = error
            if report is not None and report(rung, error):
                break
        return Result(
            error=error,
            error_std=error_std,
            seconds=0.0,
            attributes=errors,
            weights=None if model is None else {name: w.detach().cpu() for name, w in model.state_dict().items()},
            rung=rung,
            stopped=rung != rungs[-1],
        )

    def _guess(self, candidate: object) -> float:
        """What the proxy says."""
        assert self.proxy is not None
        value = float(self.proxy(candidate))
        if not math.isfinite(value):
            raise Diverged(f"the proxy says {value}, not a finite number")
        return value

    def _train(
        self, model: nn.Module, rung: str, resolution: Side | None, seed: int, context: Context, parts: int
    ) -> None:
        """Climb one rung, with every batch in so many parts."""
        if rung == "recalibrated":
            images = self.training.recalibration_images
            recalibrate(model, self.task, images=images, resolution=resolution, parts=parts)
            return
        if rung == "reconstructed":
            if context.origin is None:
                raise ValueError(
                    "fidelity is 'reconstructed', but nobody says what the network was cut from; give "
                    "context=Context(origin=Origin(model=..., space=..., candidate=...))"
                )
            self._reconstructor(model, context.origin)
            return
        epochs = self.training.short_epochs if rung == "short" else self.training.long_epochs
        placement = Placement(devices=context.devices or (self.device,), accumulate=parts)
        distillation = self._taught(placement) if epochs else None
        loop = Loop(
            model=model,
            task=self._rebatched,
            training=self.training,
            epochs=epochs,
            resolution=resolution,
            seed=derived_seed(seed, _SEEDS[rung]),
            placement=placement,
            callbacks=context.callbacks,
            distillation=distillation,
        )
        trained(loop)

    @cached_property
    def _rebatched(self) -> Task:
        """The task in batches of trainings."""
        return rebatched(self.task, self.training.batch)

    def _taught(self, placement: Placement) -> Distillation | None:
        """What the teacher adds to the loss: made once for all trials on a device."""
        device = placement.devices[0]
        if self.teacher is not None and device not in self._distillations:
            if placement.accumulate == 1:
                self.teacher = answered(self.task, self.teacher, self.device)
            self._distillations[device] = Distillation(self._rebatched, self.teacher, self.training, placement)
        return self._distillations.get(device)

    def __getstate__(self) -> dict[str, Any]:
        """Without copies of the teacher, which belong to devices of this process."""
        return self.__dict__ | {"_distillations": {}}


def _expected(problem: Exception) -> str | None:
    """Why a trial failed, in a sentence; None where the problem is not a trial's but ours or the user's."""
    if isinstance(problem, Diverged):
        return f"diverged: {problem}"
    text = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    memory = isinstance(problem, MemoryError | torch.OutOfMemoryError)
    if memory or any(words in str(problem).lower() for words in _OUT_OF_MEMORY):
        return f"{_TOO_MUCH}: {text.partition(' GPU ')[0]}"  # from there on it depends on what else runs
    return None


def checked_evaluator(evaluator: Callable[..., Any]) -> Evaluator:
    """The evaluator, called as `Evaluator` says: one that has no parameter `context` is called without.

    Raises:
        TypeError: it can't be called like that; the sentence names what is off.
    """
    form = f"evaluator(build, *, {', '.join(_ARGUMENTS)}, {_CONTEXT}=...)"
    if not callable(evaluator):
        raise TypeError(f"evaluator is a {type(evaluator).__name__}; expected a function or object called as {form}")
    signature = inspect.signature(evaluator)
    takes_context = _CONTEXT in signature.parameters
    try:
        signature.bind(None, **dict.fromkeys(_ARGUMENTS), **({_CONTEXT: None} if takes_context else {}))
    except TypeError as problem:
        raise TypeError(
            f"evaluator {_name(evaluator)}{signature}: {problem}; expected a function or object that can be "
            f"called as {form}, where {_CONTEXT} may be missing"
        ) from None
    return evaluator if takes_context else _WithoutContext(evaluator)


@final
@dataclass(frozen=True)
class _WithoutContext:
    """An evaluator that has no use for the context."""

    evaluator: Callable[..., Result]

    def __call__(self, build: Callable[[], nn.Module], *, context: Context, **asked: Any) -> Result:
        return self.evaluator(build, **asked)


def _name(evaluator: Callable[..., Any]) -> str:
    return str(getattr(evaluator, "__name__", type(evaluator).__name__))
