"""The default evaluator: a ladder of fidelities, each rung standing on the one below."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .images import Side
from .measures import measure_error
from .metrics import Metric
from .modes import derived_seed
from .recalibration import recalibrate
from .task import Task
from .training import Diverged, Training, train

FIDELITIES = ("recalibrated", "short", "long")

_log = logging.getLogger("secateur")

# What PyTorch 2.13 says where the CPU's memory ends: a plain RuntimeError.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one evaluation.

    Attributes:
        error: Validation error at the fidelity that was asked; NaN where it failed.
        error_std: Standard error of `error` over the validation examples.
        seconds: Time taken.
        state: "complete" or "failed".
        reason: Why it failed, in a sentence; None where it did not.
        attributes: What else was measured, lower rungs' errors among them.
        weights: The network's state dict after the last rung, on the CPU; None where it failed.
    """

    error: float
    error_std: float
    seconds: float
    state: str = "complete"
    reason: str | None = None
    attributes: Mapping[str, float | str] = field(default_factory=dict)
    weights: Mapping[str, Tensor] | None = None


class Ladder:
    """Evaluates a candidate: inherited weights, recalibrated; then a short fine-tuning; then a long one.

    Each rung goes on from the one below and is measured on the validation split; the test split is never read. NaN,
    divergence and memory that runs out are a failed `Result`; anything else (wrong labels, a bug) is raised.
    """

    def __init__(
        self,
        task: Task,
        training: Training,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        threads: int | None = None,
    ) -> None:
        """Keep the settings; `dtype` None computes in the network's own, `threads` None in PyTorch's number."""
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; expected at least 1")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}; expected a floating one")
        self.task, self.training = task, training
        self.device, self.dtype, self.threads = torch.device(device), dtype, threads

    def __call__(
        self,
        build: Callable[[], nn.Module],
        *,
        candidate: object,
        resolution: Side | None,
        fidelity: str = "short",
        seed: int = 0,
        report: Callable[[str, float], object] | None = None,
    ) -> Result:
        """The result of climbing to `fidelity`.

        Args:
            build: Gives a fresh small network with its inherited weights.
            candidate: Which one it is; for the log.
            resolution: The side of its images; None as stored.
            fidelity: The rung to stop at, one of `FIDELITIES`.
            seed: Of training.
            report: Called with every rung's name and error as soon as it is known.
        """
        if fidelity not in FIDELITIES:
            raise ValueError(f"fidelity is {fidelity!r}; expected one of {', '.join(FIDELITIES)}")
        start = time.perf_counter()
        try:
            with _threads(self.threads):
                error, errors, weights = self._climb(build, resolution, fidelity, seed, report)
        except (Diverged, MemoryError, RuntimeError) as problem:
            reason = _expected(problem)
            if reason is None:
                raise
        else:
            return Result(
                error=error.compute(),
                error_std=error.std(),
                seconds=time.perf_counter() - start,
                attributes=errors,
                weights=weights,
            )
        # Out of the handler, whose traceback would keep the network's memory alive.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        _log.warning("%s failed: %s", candidate, reason)
        seconds = time.perf_counter() - start
        return Result(error=float("nan"), error_std=float("nan"), seconds=seconds, state="failed", reason=reason)

    def _climb(
        self,
        build: Callable[[], nn.Module],
        resolution: Side | None,
        fidelity: str,
        seed: int,
        report: Callable[[str, float], object] | None,
    ) -> tuple[Metric, dict[str, float | str], dict[str, Tensor]]:
        model = build().to(device=self.device, dtype=self.dtype)
        rungs = FIDELITIES[: FIDELITIES.index(fidelity) + 1]
        errors: dict[str, float | str] = {}
        for rung in rungs:
            self._train(model, rung, resolution, seed)
            error = measure_error(model, self.task, resolution=resolution)
            errors[f"error_{rung}"] = error.compute()
            if report is not None:
                report(rung, error.compute())
        return error, errors, {name: value.detach().cpu() for name, value in model.state_dict().items()}

    def _train(self, model: nn.Module, rung: str, resolution: Side | None, seed: int) -> None:
        """Climb one rung."""
        if rung == "recalibrated":
            recalibrate(model, self.task, images=self.training.recalibration_images, resolution=resolution)
            return
        epochs = self.training.short_epochs if rung == "short" else self.training.long_epochs
        seed = derived_seed(seed, FIDELITIES.index(rung))
        train(model, self.task, self.training, epochs=epochs, resolution=resolution, seed=seed)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def _expected(problem: Exception) -> str | None:
    """Why a trial failed, in a sentence; None where the problem is not a trial's but ours or the user's."""
    if isinstance(problem, Diverged):
        return f"diverged: {problem}"
    text = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    memory = isinstance(problem, MemoryError | torch.OutOfMemoryError)
    if memory or any(words in str(problem).lower() for words in _OUT_OF_MEMORY):
        return f"out of memory: {text}"
    return None
