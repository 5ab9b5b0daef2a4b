"""When a run of a study ends, and what ended it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ...search import hypervolume
from ...spaces.checked import AT_LEAST_1, FINITE, POSITIVE, check
from ..trials.front import counting
from ..trials.ledger import Ledger
from ..trials.trial import Trial
from ..trials.words import duration, percent

ENDED = "ended"  # the study's note of what ended its last run
NOTHING_LEFT = {"by": "space", "said": "every network within the budget was tried"}
_SPENT, _EVERY_S = "run_seconds", 5.0  # the note of how long all runs took; it is written no more often

_GAIN = 1e-3  # of the hypervolume: a front that grew by less stands still


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What ends a run, whichever comes first; at least one is given. See `Study.run`.

    Trials that were begun are told. What ends a batch of trials is looked at when the whole of it is told, so that a
    study has the same trials on every runner and after every kill; `seconds` alone depend on the clock.
    """

    trials: Annotated[int, AT_LEAST_1] | None = None
    seconds: Annotated[float, POSITIVE, FINITE] | None = None
    until: Annotated[float, FINITE] | None = None
    patience: Annotated[int, AT_LEAST_1] | None = None

    def __post_init__(self) -> None:
        """Refuse what ends nothing."""
        for name in ("seconds", "until"):
            given = getattr(self, name)
            if isinstance(given, int) and not isinstance(given, bool):
                object.__setattr__(self, name, float(given))
        check(self)
        if (self.trials, self.seconds, self.until, self.patience) == (None,) * 4:
            raise ValueError("nothing says when the run ends; expected trials, seconds, until or patience")

    def enough(self, count: int) -> bool:
        """Whether there are as many trials as were asked for."""
        return self.trials is not None and count >= self.trials

    def met(
        self,
        trials: Sequence[Trial],
        objectives: Sequence[str],
        limits: Mapping[str, float],
        *,
        max_error: float | None,
        spent_s: float,
    ) -> dict[str, str] | None:
        """What ends the run now, `by` which argument and `said` in words; None where it goes on.

        Args:
            trials: so far, those of earlier runs included.
            objectives: what is minimised.
            limits: absolute, by cost name.
            max_error: of trials that count.
            spent_s: seconds that all runs took so far.
        """
        if self.enough(len(trials)):
            return {"by": "trials", "said": f"{len(trials)} trials were asked for"}
        fit = [trial for trial in trials if trial.scored and trial.within(limits)]
        best = min(fit, key=lambda trial: trial.merit(objectives), default=None)
        if self.until is not None and best is not None and best.measures["error"] <= self.until:
            found = percent(best.measures["error"])
            return {
                "by": "until",
                "said": f"trial {best.number} has an error of {found}, and {percent(self.until)} was asked for",
            }
        told = sum(trial.told for trial in trials)
        counts = counting(trials, limits, max_error)
        fit = [trial for trial in fit if trial.within(counts)]
        if self.patience is not None and fit and told > self.patience and self._stands(fit, trials, objectives):
            return {"by": "patience", "said": f"{self.patience} trials in a row brought the front no further"}
        if self.seconds is not None and spent_s >= self.seconds:
            return {"by": "seconds", "said": f"{duration(self.seconds)} were asked for, all runs together"}
        return None

    def _stands(self, fit: Sequence[Trial], trials: Sequence[Trial], objectives: Sequence[str]) -> bool:
        """Whether the last trials that were told added next to nothing to the front's hypervolume."""
        last = [trial.number for trial in trials if trial.told][-(self.patience or 0) :]
        values = np.array([trial.values(objectives) for trial in fit])
        worst = values.max(axis=0)
        corner = worst + 0.1 * (worst - values.min(axis=0))  # the ends of a front count for something
        before = np.array([trial.number < last[0] for trial in fit])
        if not before.any():
            return False
        whole = hypervolume(values, corner)
        return not math.isfinite(whole) or hypervolume(values[before], corner) >= (1 - _GAIN) * whole


class Clock:
    """How long all runs of a study took, this one included; after a kill, up to its last trial or five seconds less.

    Args:
        ledger: remembers it.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._before = float(ledger.notes.get(_SPENT, 0.0))
        self._began = self._kept = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return self._before + time.monotonic() - self._began

    def moment(self, seconds: float | None) -> float:
        """When so many have passed, of `time.monotonic`."""
        return math.inf if seconds is None else self._began + seconds - self._before

    def told(self) -> None:
        """Remember it, where the last time is a while ago."""
        if time.monotonic() - self._kept >= _EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Remember it."""
        self._kept = time.monotonic()
        self._ledger.note(_SPENT, round(self.seconds, 3))
