"""An export, with what it needs of a study: what `Study.export` does; see there."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ...evaluators.modes import reproducible
from ...spaces import Budget
from ..disk.artifact_mirror import ArtifactMirror
from ..disk.files import locked
from ..exports.conversion import Wanted
from ..exports.exporter import finalists as finalists_of
from ..trials.events import Listener
from ..trials.front import counting, on_front
from ..trials.trial import Trial, best_within
from .engine import Engine

logger = logging.getLogger("secateur")


@final
@dataclass(frozen=True)
class Export:
    """Picks trials of a study, and writes their networks.

    Attributes:
        engine: what the study searches with.
        budget: of the study.
        mirror: where artifacts are kept besides, if anywhere.
    """

    engine: Engine
    budget: Budget
    mirror: ArtifactMirror | None

    def __call__(
        self,
        to: Path,
        pick: str | int | Budget | Mapping[str, float],
        finetune_epochs: int | None,
        progress: Listener | None,
        wanted: Wanted,
        finalists: int,
        notes: Mapping[str, Any],
    ) -> list[Path]:
        """The folders of the networks; arguments and errors are those of `Study.export`."""
        if to.exists():
            raise FileExistsError(f"{to} exists already; remove it or choose another folder")
        ledger, search = self.engine.ledger, self.engine.search
        ledger.refresh()
        limits = self.engine.limits(self.budget)
        counts = counting(ledger.trials, limits, search.max_error)
        kept = on_front(ledger.trials, search.objectives, counts)
        front = self._still_within(kept, limits)
        exporter = self.engine.exporter(limits)
        within, named = self._absolute(pick), front
        if pick == "best":  # what is expected to be the best may have been measured worse than the front
            best = best_within(ledger.trials, search.objectives, counts, exporter.expected)
            named = [*front, *self._still_within([] if best is None or best in front else [best], limits)]
        if kept and not named and pick in ("all", "best", "knee"):
            raise ValueError(
                "measured again, no trial is within the budget, so the front is empty; measure where nothing else "
                "runs, run more trials or raise the budget"
            )
        picked = exporter.pick(ledger.trials, named, within)
        tried = self._finalists(finalists, limits if pick == "best" else within)
        with locked(self.engine.path), reproducible(search.threads, self.engine.device):
            if self.mirror is not None:
                for trial in [*picked, *tried]:
                    self.mirror.pull(self.engine.artifacts.paths(trial.ranking, trial.weights))
            if tried:
                picked = [exporter.best_of(tried, finetune_epochs, progress)]
            for trial in picked:
                if over := trial.over(limits):
                    logger.warning("trial %d, exported as asked, is over the study's budget: %s", trial.number, over)
            return exporter.export(to, picked, front, finetune_epochs, progress, wanted, notes)

    def _absolute(self, pick: str | int | Budget | Mapping[str, float]) -> str | int | Mapping[str, float]:
        """What is to be picked, limits as absolute numbers."""
        if isinstance(pick, Budget):
            return self.engine.limits(pick)
        if not isinstance(pick, Mapping):
            return pick
        error = pick.get("error")
        if isinstance(error, bool) or not isinstance(error, int | float) or not 0 < error < math.inf:
            raise ValueError(f"pick={pick!r}: expected an error above 0, as {{'error': 0.03}}, costs beside it if any")
        costs = {name: limit for name, limit in pick.items() if name != "error"}
        return self.engine.limits(Budget(**costs)) | {"error": float(error)}

    def _finalists(self, count: int, within: object) -> list[Trial]:
        """The trials within absolute limits that are tried before one is exported; none where the best is taken."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"finalists={count!r}: expected an integer of at least 1")
        if count == 1:
            return []
        if not isinstance(within, Mapping) or "error" in within:
            raise ValueError(f"finalists={count} with pick={within!r}, which says what to export; expected pick='best'")
        fit = [trial for trial in self.engine.ledger.trials if trial.scored and trial.within(within)]
        found = finalists_of(fit, self.engine.space, self.engine.search.objectives, count)
        return self._still_within(found, within)

    def _still_within(self, front: list[Trial], limits: Mapping[str, float]) -> list[Trial]:
        """The trials of a front that are within the limits on measured costs also when they are measured again."""
        for name, measured in self.engine.measured(limits).items():
            if name in limits and front:
                with locked(self.engine.path), reproducible(self.engine.search.threads, self.engine.device):
                    again = measured.measure([trial.candidate for trial in front])
                unit = " ms" if name == "latency_ms" else ""
                for trial, timing in zip(front, again, strict=True):
                    if timing.ms > limits[name]:
                        logger.warning(
                            "trial %d is left out: measured again it %s %.3g%s, and the budget is %.3g%s",
                            trial.number,
                            "takes" if name == "latency_ms" else f"has {name}",
                            timing.ms,
                            unit,
                            limits[name],
                            unit,
                        )
                front = [trial for trial, one in zip(front, again, strict=True) if one.ms <= limits[name]]
        return front
