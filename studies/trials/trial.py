"""One evaluation: what was tried, and what became of it: `Scored`, `Skipped`, `Stopped` or `Failed`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, SupportsFloat

from ...search import NOTE
from ...spaces import Candidate

REFERENCE, ENQUEUED = "reference", "enqueued"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One evaluation: candidate, ranking, weights, fidelity; its costs, and its outcome once there is one.

    Attributes:
        number: place in the study, from 0.
        candidate: what is built: legal, canonical, and repaired to the budget of its day.
        asked: what the sampler (or the seed) asked for, before repair.
        source: `"seed:full"`, `"seed:uniform"`, ..., `"sampler"`, `"near"` what it asked for, where that was tried,
            `"enqueued"` by the user, or `"reference"`: one that the sampler learns from, which may be over the budget.
        ranking: name and digest of the scores that say which channels stay.
        weights: where the weights come from: `"inherited"` from the full network; `"NAME:DIGEST"` of a pruning method;
            `"trial:NUMBER"`, where another trial's training ended; `"round:NUMBER"` of shared weights.
        fidelity: how well the network is trained before its error counts.
        costs: by name, by arithmetic.
        memory: what the sampler noted on this trial (Optuna's system attributes).
        outcome: None until the evaluation ended.
        timed_ms: latency of its built network that was measured apart from the evaluation, where it was.
        measured: costs of the user's own, by name, before there is an outcome.
        told: whether the outcome is final in the ledger.
        started: seconds since 1970 at which the trial was proposed.
    """

    number: int
    candidate: Candidate
    asked: Candidate
    source: str
    ranking: str
    weights: str
    fidelity: str
    costs: dict[str, float]
    memory: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None
    timed_ms: float | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    told: bool = False
    started: float | None = None

    @property
    def predicted(self) -> dict[str, float] | None:
        """`error` and its standard deviation `std` as the sampler predicted them; None where it did not."""
        found: dict[str, float] | None = self.memory.get(f"{NOTE}predicted")
        return found

    @property
    def state(self) -> str:
        """`"running"` until it is told; then `"failed"`, or `"complete"` where samplers were told an error."""
        if not self.told:
            return "running"
        return "failed" if isinstance(self.outcome, Failed) else "complete"

    @property
    def scored(self) -> bool:
        """Whether it is told and has a measured error."""
        return self.told and isinstance(self.outcome, Scored)

    @property
    def error(self) -> float | None:
        """What samplers are told: measured, predicted where it was stopped, a stand-in where it was skipped."""
        match self.outcome:
            case Scored(error=error) | Stopped(predicted=error) | Skipped(stand_in=error):
                return error
        return None

    @property
    def error_std(self) -> float | None:
        """Standard deviation of `error`, where it is known."""
        match self.outcome:
            case Scored(error_std=std) | Stopped(predicted_std=std):
                return std
        return None

    @property
    def latency_ms(self) -> float | None:
        """Measured latency of its built network, where it was measured."""
        match self.outcome:
            case Scored(latency_ms=float(found)) | Skipped(latency_ms=float(found)) | Stopped(latency_ms=float(found)):
                return found
        return self.timed_ms

    @property
    def own_costs(self) -> Mapping[str, float]:
        """Costs of the user's own, by name, where they are known."""
        match self.outcome:
            case Scored(measured=found) | Skipped(measured=found) | Stopped(measured=found):
                return found
        return self.measured

    @property
    def reason(self) -> str | None:
        """Why it has no measured error."""
        match self.outcome:
            case Skipped(reason=reason) | Stopped(reason=reason) | Failed(reason=reason):
                return reason
        return None

    @property
    def attributes(self) -> Attributes:
        """What its evaluator noted."""
        match self.outcome:
            case Scored(attributes=found) | Stopped(attributes=found) | Failed(attributes=found):
                return found
        return {}

    @property
    def measures(self) -> dict[str, float]:
        """Its costs, with the measured latency where there is one, those of the user's own, and its error."""
        also = {"latency_ms": self.latency_ms, **self.own_costs, "error": self.error}
        return self.costs | {name: value for name, value in also.items() if value is not None}

    def values(self, objectives: Sequence[str]) -> list[float]:
        """The objectives of a complete trial, in order."""
        measures = self.measures
        return [float(measures[name]) for name in objectives]

    def merit(self, objectives: Sequence[str]) -> tuple[float, ...]:
        """What the best trial has least of: its error, then the other objectives in order, then its number."""
        return self.measures["error"], *self.values([name for name in objectives if name != "error"]), self.number

    def constraints(self, limits: Mapping[str, float]) -> dict[str, float]:
        """How far each cost is above its limit, as a share of the limit; met where <= 0.

        A cost that was never measured counts as not met.
        """
        measures = self.measures
        return {name: (measures[name] - limit) / limit if name in measures else 1.0 for name, limit in limits.items()}

    def within(self, limits: Mapping[str, float]) -> bool:
        """Whether every limit is met."""
        measures = self.measures
        return all(name in measures and measures[name] <= limit for name, limit in limits.items())

    def over(self, limits: Mapping[str, float]) -> str:
        """The limits that are not met, in words; empty where all are."""
        far, measures = self.constraints(limits), self.measures
        return ", ".join(
            f"{name} {f'{measures[name]:,.6g}' if name in measures else 'not measured'} of {limits[name]:,.6g}"
            for name in limits
            if far[name] > 0
        )

    def ended(self, outcome: Outcome, memory: Mapping[str, Any] | None = None) -> Trial:
        """This trial, told."""
        return replace(self, outcome=outcome, told=True, memory=dict(memory or self.memory))


Attributes = dict[str, float | str]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """It was evaluated, and has an error.

    Attributes:
        error: validation error at the study's fidelity, minimised.
        error_std: standard error of `error` over the validation examples; None where it is unknown.
        seconds: time the evaluation took.
        latency_ms: measured latency of the built network, where the study asks for it.
        measured: costs of the user's own, by name.
        attributes: further numbers and notes of the evaluator, such as the errors of lower rungs.
        attempts: how often it was begun: more than once where a worker died.
    """

    error: float
    error_std: float | None = None
    seconds: float = 0.0
    latency_ms: float | None = None
    measured: dict[str, float] = field(default_factory=dict)
    attributes: Attributes = field(default_factory=dict)
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Its network broke the limit on a measured cost and was not trained.

    Attributes:
        reason: the cost and its limit, in words.
        latency_ms: measured latency of the built network, where it was measured.
        seconds: time the measurement took.
        stand_in: the error that samplers are told; None until it is told.
        measured: costs of the user's own, by name.
    """

    reason: str
    latency_ms: float | None = None
    seconds: float = 0.0
    stand_in: float | None = None
    measured: dict[str, float] = field(default_factory=dict)


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
        measured: costs of the user's own, by name.
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
    measured: dict[str, float] = field(default_factory=dict)
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
    """A dict of plain values, without what is None, or of no use in most studies."""
    said = {name: value for name, value in asdict(outcome).items() if value is not None}
    if not said.get("measured"):
        said.pop("measured", None)
    return {"kind": type(outcome).__name__.lower(), **said}


def outcome_from_json(values: Mapping[str, Any]) -> Outcome:
    """The outcome that `outcome_to_json` wrote, or secateur 0.1.

    Raises:
        KeyError, TypeError: it is neither.
    """
    given = dict(values)
    return _of_first_form(given) if "state" in given else _KINDS[given.pop("kind")](**given)


def outcome_of(
    result: Any, *, seconds: float, latency_ms: float | None, measured: Mapping[str, float] | None = None
) -> Scored | Failed:
    """The outcome that an evaluator's `Result` says; an error that is no finite number is a failure."""
    # numpy's and torch's numbers are numbers too
    plain = {name: getattr(value, "item", lambda value=value: value)() for name, value in result.attributes.items()}
    attributes = {name: value for name, value in plain.items() if value is not None}
    if result.state != "complete":
        return Failed(reason=result.reason or "the evaluator gave no reason", seconds=seconds, attributes=attributes)
    if not isinstance(result.error, SupportsFloat):
        reason = f"the evaluator gave the error {result.error!r}, a {type(result.error).__name__}; expected a number"
        return Failed(reason=reason, seconds=seconds, attributes=attributes)
    if not math.isfinite(result.error):
        reason = f"the error is {result.error}, not a finite number"
        return Failed(reason=reason, seconds=seconds, attributes=attributes)
    return Scored(
        error=float(result.error),
        error_std=None if result.error_std is None else float(result.error_std),
        seconds=seconds,
        latency_ms=latency_ms,
        measured=dict(measured or {}),
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


def best_within(
    trials: Iterable[Trial],
    objectives: Sequence[str],
    limits: Mapping[str, float],
    expected: Mapping[int, float] | None = None,
) -> Trial | None:
    """The best of those that have an error and are within the limits: by error, and by cost among equals.

    Where errors are `expected` of some of them, by number (see `search.expected_errors`), these decide among those.
    """
    fit = [trial for trial in trials if trial.scored and trial.within(limits)]
    hopes = expected or {}
    known = [trial for trial in fit if trial.number in hopes]
    return min(known or fit, key=lambda trial: (hopes.get(trial.number, 0.0), *trial.merit(objectives)), default=None)


def described(trial: Trial) -> dict[str, Any]:
    """A trial as plain values."""
    return {
        "trial": trial.number,
        "key": trial.candidate.key,
        "source": trial.source,
        "state": trial.state,
        "error": trial.error if trial.scored else None,
        "reason": trial.reason,
        **{name: value for name, value in trial.measures.items() if name != "error"},
    }
