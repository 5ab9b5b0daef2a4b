"""A study seen from its folder alone: no model, no data, nothing traced. For `secateur status` and `front`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import pandas as pd

from ..spaces import Axis, Budget
from .folder import DATABASE, read_study_json
from .front import front_table, on_front
from .insight import foresight, seeds_worth
from .ledger import Ledger
from .progress import better, described
from .storage import check_sqlite, connect, sqlite_url
from .trial import Trial


@final
class View:
    """What a study's folder says of its trials, as of now.

    Attributes:
        path: the folder.
        full: costs of the full network, by name.
        resolutions: sides that the resolution axis is an index into.
        storage: URL of the Optuna storage that holds the trials.
        budget: the one of the last run.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the folder.

        Raises:
            FileNotFoundError: there is no study.
            ValueError: it is damaged.
        """
        self.path = Path(path)
        found = read_study_json(self.path)
        self._settings: dict[str, Any] = found["settings"]
        self._axes = tuple(Axis(name, tuple(choices)) for name, choices in found["axes"])
        self.full: dict[str, float] = found["full_costs"]
        self.resolutions: list[list[int]] = found["space"]["resolutions"]
        self.storage: str = found["storage"] or sqlite_url(self.path / DATABASE)
        if found["storage"] is None:
            check_sqlite(self.path / DATABASE)
        ledger = Ledger(connect(self.storage), found["name"], self._axes, self._settings["objectives"])
        notes = ledger.notes()
        self.budget = Budget(**notes["budget"])
        self._trials: Sequence[Trial] = ledger.trials
        self._proxies = notes.get("proxies", [])
        full = self.full | {name: notes[f"full_{name}"] for name in ("latency_ms",) if f"full_{name}" in notes}
        known = {n: limit for n, limit in self.budget.asked().items() if n in full or not self.budget.needs_full(n)}
        self._limits = Budget(**known, reserve=self.budget.reserve).limits(full)

    def front(self) -> pd.DataFrame:
        """As `Study.front`."""
        return front_table(on_front(self._trials, self._settings["objectives"], self._limits), self._axes)

    def status(self) -> dict[str, Any]:
        """As `Study.status`."""
        return standing(self.path, self._trials, self.budget, self._limits, self._settings, self._proxies)


def standing(
    path: Path,
    trials: Sequence[Trial],
    budget: Budget,
    limits: Mapping[str, float],
    settings: Mapping[str, Any],
    proxies: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Where a study stands, as plain values; `settings` as in study.json, `proxies` as at the end of its last run."""
    best: Trial | None = None
    for trial in trials:
        best = trial if trial.told and better(trial, best, settings["objectives"], limits) else best
    told = [trial for trial in trials if trial.told]
    complete = [trial for trial in told if trial.outcome is not None and trial.outcome.complete]
    return {
        "path": str(path),
        "trials": len(trials),
        "told": len(told),
        "running": len(trials) - len(told),
        "failed": len(told) - len(complete),
        "skipped": sum(not trial.scored for trial in complete),
        "front": len(on_front(trials, settings["objectives"], limits)),
        "best": None if best is None else described(best),
        "budget": budget.given(),
        "limits": dict(limits),
        "objectives": list(settings["objectives"]),
        "sampler": settings["sampler"],
        "fidelity": settings["fidelity"],
        "seeds": seeds_worth(trials, settings["objectives"], limits),
        "foresight": foresight(trials),
        "proxies": [dict(proxy) for proxy in proxies],
        "seconds": sum(trial.outcome.seconds for trial in told if trial.outcome is not None),
    }
