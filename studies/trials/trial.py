"""One evaluation: what was tried, and what came out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...search import NOTE
from ...spaces import Candidate

REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an evaluation gave; JSON-able through `to_json` and `from_json`.

    Attributes:
        state: `"complete"` or `"failed"`.
        error: validation error at the study's fidelity, minimised. Where `evaluated` is false, a stand-in for samplers.
        error_std: standard error of `error` over the validation examples.
        seconds: time the evaluation took.
        evaluated: false for a network that broke the latency budget and was therefore not trained.
        latency_ms: measured latency of the built network, where the study asks for it.
        reason: why it failed, or was not evaluated.
        attributes: further numbers and notes of the evaluator, such as the errors of lower rungs.
        attempts: how often it was begun: more than once where a worker died.
    """

    state: str
    error: float | None = None
    error_std: float | None = None
    seconds: float = 0.0
    evaluated: bool = True
    latency_ms: float | None = None
    reason: str | None = None
    attributes: dict[str, float | str] = field(default_factory=dict)
    attempts: int = 1

    @property
    def complete(self) -> bool:
        """Whether there is an error to tell."""
        return self.state == "complete"

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values, without what is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` wrote."""
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One evaluation: candidate, ranking, weights, fidelity; its costs, and its outcome once there is one.

    Attributes:
        number: place in the study, from 0.
        candidate: what is built: legal, canonical, and repaired to the budget of its day.
        asked: what the sampler (or the seed) asked for, before repair.
        source: `"seed:full"`, `"seed:uniform"`, ..., `"sampler"`, `"near"` what it asked for, where that was tried, or
            `"reference"`: one that the sampler learns from, which may be over the budget.
        ranking: name and digest of the scores that say which channels stay.
        weights: where the weights come from: `"inherited"` from the full network; `"NAME:DIGEST"` of a pruning method;
            `"trial:NUMBER"`, where another trial's training ended; `"round:NUMBER"` of shared weights.
        fidelity: how well the network is trained before its error counts.
        costs: by name, by arithmetic.
        memory: what the sampler noted on this trial (Optuna's system attributes).
        outcome: None until the evaluation ended.
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
    told: bool = False
    started: float | None = None

    @property
    def identity(self) -> tuple[Candidate, str, str, str]:
        """Equal for trials that would measure the same thing."""
        return self.candidate, self.ranking, self.weights, self.fidelity

    @property
    def predicted(self) -> dict[str, float] | None:
        """`error` and its standard deviation `std` as the sampler foretold them; None where it did not."""
        found: dict[str, float] | None = self.memory.get(f"{NOTE}predicted")
        return found

    @property
    def scored(self) -> bool:
        """Whether it was evaluated and ended with an error."""
        return self.outcome is not None and self.outcome.complete and self.outcome.evaluated

    @property
    def measures(self) -> dict[str, float]:
        """Its costs, with the measured latency where there is one, and its error."""
        found = dict(self.costs)
        if self.outcome is not None and self.outcome.latency_ms is not None:
            found["latency_ms"] = self.outcome.latency_ms
        if self.outcome is not None and self.outcome.error is not None:
            found["error"] = self.outcome.error
        return found

    def values(self, objectives: Sequence[str]) -> list[float]:
        """The objectives of a complete trial, in order."""
        measures = self.measures
        return [float(measures[name]) for name in objectives]

    def merit(self, objectives: Sequence[str]) -> tuple[float, ...]:
        """What the best trial has least of: its error, then the other objectives in order, then its number."""
        return self.measures["error"], *self.values([name for name in objectives if name != "error"]), self.number

    def constraints(self, limits: Mapping[str, float]) -> dict[str, float]:
        """How far each cost is above its limit, as a share of the limit; met where <= 0.

        A latency that was never measured counts as not met.
        """
        measures = self.measures
        return {name: (measures[name] - limit) / limit if name in measures else 1.0 for name, limit in limits.items()}

    def within(self, limits: Mapping[str, float]) -> bool:
        """Whether every limit is met."""
        return all(value <= 0 for value in self.constraints(limits).values())

    def ended(self, outcome: Outcome, memory: Mapping[str, Any] | None = None) -> Trial:
        """This trial, told."""
        return replace(self, outcome=outcome, told=True, memory=dict(memory or self.memory))


def failed(reason: str, seconds: float = 0.0) -> Outcome:
    """The outcome of a trial that gave no error."""
    return Outcome(state="failed", reason=reason, seconds=seconds)


def outcome_of(result: Any, *, seconds: float, latency_ms: float | None) -> Outcome:
    """The outcome that an evaluator's `Result` says; an error that is no finite number is a failure."""
    attributes = {name: value for name, value in result.attributes.items() if value is not None}
    if result.state != "complete":
        return replace(failed(result.reason or "the evaluator gave no reason", seconds), attributes=attributes)
    if not math.isfinite(result.error):
        return replace(failed(f"the error is {result.error}, not a finite number", seconds), attributes=attributes)
    return Outcome(
        state="complete",
        error=float(result.error),
        error_std=None if result.error_std is None else float(result.error_std),
        seconds=seconds,
        latency_ms=latency_ms,
        attributes=attributes,
    )
