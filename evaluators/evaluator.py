"""What a study asks of an evaluator, and what it is given back. `Ladder` is ours; others are called like it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from .tasks.task import Side

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
    """

    callbacks: tuple[object, ...] = ()
    devices: tuple[torch.device, ...] = ()


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
