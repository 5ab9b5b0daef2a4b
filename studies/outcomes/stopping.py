"""Whether a trial that climbs the fidelities goes on, told by the trials of earlier batches alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...search import Halving
from ..trials.trial import Stopped, Trial


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Ends trials that are not promising, and says what they would have come to.

    Attributes:
        objectives: names of what is minimised.
        batch: trials that are proposed together; mates of a batch never decide over one another.
        fidelity: where a trial ends by itself.
        halving: the rule.
        trials: the trial is compared with those of earlier batches among these.
    """

    objectives: Sequence[str]
    batch: int
    fidelity: str
    halving: Halving = field(default_factory=Halving)
    trials: Sequence[Trial] = ()

    def stops(self, trial: Trial, rung: str, error: float) -> bool:
        """Whether the trial ends at a rung where it has this error."""
        if rung == self.fidelity:
            return False
        told = [self._values(other, known) for other, known in self._known(trial, rung)]
        mine = np.array(self._values(trial, error))
        return not self.halving.goes_on(np.array(told).reshape(-1, len(mine)), mine)

    def outcome(
        self, trial: Trial, rung: str, error: float, seconds: float, attributes: dict[str, float | str]
    ) -> Stopped:
        """What is told of a trial that was stopped at a rung: a predicted error, and no measured one."""
        climbed = [(known, other) for other, known in self._known(trial, rung) if other.scored]
        finals = [other.measures["error"] for _, other in climbed]
        predicted, std = self.halving.predicted([known for known, _ in climbed], finals, error)
        return Stopped(
            reason=f"stopped at {rung}, where its error was {error:.4f}; {predicted:.4f} is predicted, not measured",
            rung=rung,
            error=error,
            predicted=predicted,
            predicted_std=std,
            seconds=seconds,
            latency_ms=trial.latency_ms,
            measured=dict(trial.own_costs),
            attributes=attributes,
        )

    def _known(self, trial: Trial, rung: str) -> list[tuple[Trial, float]]:
        """Earlier trials with their errors at a rung."""
        first = trial.number // self.batch * self.batch
        found = []
        for other in self.trials[:first]:
            error = other.attributes.get(f"error_{rung}")
            if other.told and other.fidelity == trial.fidelity and isinstance(error, float):
                found.append((other, error))
        return found

    def _values(self, trial: Trial, error: float) -> list[float]:
        known = trial.measures | {"error": error}
        return [float(known.get(name, np.nan)) for name in self.objectives]
