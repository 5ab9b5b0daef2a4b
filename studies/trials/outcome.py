"""What became of a trial: `Scored`, `Skipped`, `Stopped` or `Failed`; `match` on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Attributes = dict[str, float | str]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """It was evaluated, and has an error.

    Attributes:
        error: validation error at the study's fidelity, minimised.
        error_std: standard error of `error` over the validation examples; None where it is unknown.
        seconds: time the evaluation took.
        latency_ms: measured latency of the built network, where the study asks for it.
        attributes: further numbers and notes of the evaluator, such as the errors of lower rungs.
        attempts: how often it was begun: more than once where a worker died.
    """

    error: float
    error_std: float | None = None
    seconds: float = 0.0
    latency_ms: float | None = None
    attributes: Attributes = field(default_factory=dict)
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Its network broke the latency budget and was not trained.

    Attributes:
        reason: the latency and its limit, in words.
        latency_ms: measured latency of the built network.
        seconds: time the measurement took.
        stand_in: the error that samplers are told; None until it is told.
    """

    reason: str
    latency_ms: float
    seconds: float = 0.0
    stand_in: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """It was not promising at a lower rung, and its training ended there.

    Attributes:
        reason: in words.
        rung: where it ended.
        error: its error there; None where there was none yet.
        predicted: the error it would have come to, which samplers are told; None until it is told.
        predicted_std: standard deviation of `predicted`; None where it is unknown.
        seconds: time the evaluation took.
        latency_ms: measured latency of the built network, where the study asks for it.
        attributes: further numbers and notes of the evaluator.
        attempts: how often it was begun.
    """

    reason: str
    rung: str
    error: float | None = None
    predicted: float | None = None
    predicted_std: float | None = None
    seconds: float = 0.0
    latency_ms: float | None = None
    attributes: Attributes = field(default_factory=dict)
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class Failed:
    """It gave no error.

    Attributes:
        reason: in words.
        seconds: time it took.
        attributes: further numbers and notes of the evaluator.
        attempts: how often it was begun.
    """

    reason: str
    seconds: float = 0.0
    attributes: Attributes = field(default_factory=dict)
    attempts: int = 1


Evaluated = Scored | Stopped | Failed  # where an evaluation began
Outcome = Scored | Skipped | Stopped | Failed

_KINDS: dict[str, type[Outcome]] = {"scored": Scored, "skipped": Skipped, "stopped": Stopped, "failed": Failed}


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """A dict of plain values, without what is None."""
    said = {name: value for name, value in asdict(outcome).items() if value is not None}
    return {"kind": type(outcome).__name__.lower(), **said}


def outcome_from_json(values: Mapping[str, Any]) -> Outcome:
    """The outcome that `outcome_to_json` wrote, or secateur 0.1.

    Raises:
        KeyError, TypeError: it is neither.
    """
    given = dict(values)
    return _of_first_form(given) if "state" in given else _KINDS[given.pop("kind")](**given)


def outcome_of(result: Any, *, seconds: float, latency_ms: float | None) -> Scored | Failed:
    """The outcome that an evaluator's `Result` says; an error that is no finite number is a failure."""
    attributes = {name: value for name, value in result.attributes.items() if value is not None}
    if result.state != "complete":
        return Failed(reason=result.reason or "the evaluator gave no reason", seconds=seconds, attributes=attributes)
    if not math.isfinite(result.error):
        reason = f"the error is {result.error}, not a finite number"
        return Failed(reason=reason, seconds=seconds, attributes=attributes)
    return Scored(
        error=float(result.error),
        error_std=None if result.error_std is None else float(result.error_std),
        seconds=seconds,
        latency_ms=latency_ms,
        attributes=attributes,
    )


def _of_first_form(given: dict[str, Any]) -> Outcome:
    """Secateur 0.1 wrote one form for all: a `state`, whether it was `evaluated`, and the rung among the attributes."""
    state, evaluated, error, std, reason = (
        given.pop(name, None) for name in ("state", "evaluated", "error", "error_std", "reason")
    )
    if state == "failed":
        given.pop("latency_ms", None)
        return Failed(reason=reason or "no reason is known", **given)
    if evaluated:
        return Scored(error=error, error_std=std, **given)
    attributes = dict(given.pop("attributes"))
    if "stopped" not in attributes:
        return Skipped(reason=reason, latency_ms=given["latency_ms"], seconds=given["seconds"], stand_in=error)
    rung = str(attributes.pop("stopped"))
    at_rung = attributes.get(f"error_{rung}")
    return Stopped(
        reason=reason, rung=rung, error=at_rung, predicted=error, predicted_std=std, attributes=attributes, **given
    )
