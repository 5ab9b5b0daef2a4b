"""One evaluation: what was tried, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...search import NOTE
from ...spaces import Candidate
from .outcome import Attributes, Failed, Outcome, Scored, Skipped, Stopped

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
    told: bool = False
    started: float | None = None

    @property
    def identity(self) -> tuple[Candidate, str, str, str]:
        """Equal for trials that would measure the same thing."""
        return self.candidate, self.ranking, self.weights, self.fidelity

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
            case Scored(latency_ms=float(found)) | Skipped(latency_ms=found) | Stopped(latency_ms=float(found)):
                return found
        return self.timed_ms

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
        """Its costs, with the measured latency where there is one, and its error."""
        also = {"latency_ms": self.latency_ms, "error": self.error}
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
