"""A study seen from its folder alone: no model, no data, nothing traced. For `secateur status` and `front`."""

from __future__ import annotations

import platform
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from ...spaces import Axis, Budget
from ..runners.slots import drivers
from ..trials.archive import open_to_look
from ..trials.folder import STUDY_JSON, described_storage, part_of, read_study_json
from ..trials.front import front_table, on_front
from ..trials.ledger import Ledger
from ..trials.outcome import Failed, Skipped, Stopped
from ..trials.progress import better, described
from ..trials.retry import Retry
from ..trials.trial import Trial
from .gpus import gpu_use
from .insight import foresight, history, seeds_worth

if TYPE_CHECKING:
    import pandas as pd

_RETRY_S = 10.0  # a view does not wait for long


@final
class View:
    """What a study's folder says of its trials, as of now.

    Attributes:
        path: the folder.
        full: costs of the full network, by name.
        resolutions: sides that the resolution axis is an index into.
        storage: file or URL of the storage that holds the trials, without a password.
        name: of the study there.
        database: that storage.
        budget: the one of the last run.
        limits: that in absolute numbers.
        objectives: what is minimised.
    """

    def __init__(self, path: str | Path, *, storage: str | None = None) -> None:
        """Read the folder.

        Args:
            path: the folder.
            storage: the study's storage URL again, with the password that it needs; see `Study.open`.

        Raises:
            FileNotFoundError: there is no study.
            ValueError: it is damaged.
        """
        self.path = Path(path)
        if not (self.path / STUDY_JSON).exists() and part_of(self.path).is_dir():
            raise FileNotFoundError(
                f"{path} is not made yet: its network is still to be trained; go on with `secateur resume {path}`, "
                f"or wait for whoever does"
            )
        self._found = found = read_study_json(self.path, to_write=False)
        self._given = storage
        self._settings: dict[str, Any] = found["settings"]
        self._axes = tuple(Axis(name, tuple(choices)) for name, choices in found["axes"])
        self.full: dict[str, float] = found["full_costs"]
        self.resolutions: list[list[int]] = found["space"]["resolutions"]
        self.storage = described_storage(self.path, found["storage"])
        self.name: str = found["name"]
        self.objectives: list[str] = self._settings["objectives"]
        self._open()
        self._look()

    def refresh(self) -> None:
        """Look again."""
        if self._copied:
            self._open()
        else:
            self._ledger.refresh()
        self._look()

    def _open(self) -> None:
        self.database, self._copied = open_to_look(self.path, self._found, self._given)
        retry = Retry(self.storage, seconds=_RETRY_S)
        self._ledger = Ledger(self.database, self.name, self._axes, self.objectives, retry=retry)

    def _look(self) -> None:
        self._notes = notes = self._ledger.notes()
        self.budget = Budget(**notes["budget"])
        self._trials: Sequence[Trial] = self._ledger.trials
        self._proxies = notes.get("proxies", [])
        self.limits = self.budget.limits(self.full, notes.get("full_latency_ms"))

    def front(self) -> pd.DataFrame:
        """As `Study.front`."""
        return front_table(on_front(self._trials, self.objectives, self.limits), self._axes)

    def status(self) -> dict[str, Any]:
        """As `Study.status`, and what runs now.

        Beside it: `drivers` with their slots (see `slots.drivers`), the `goal` of the run, or of the study file where
        none runs, `left_s` seconds that it may still take (None where nobody knows), and the `gpus` that slots of this
        machine use (see `gpus.gpu_use`).
        """
        found = standing(self.path, self._trials, self.budget, self.limits, self._settings, self._proxies)
        running = drivers(self.path)
        goal = max((one["goal"] for one in running if one["goal"]), default=None) or self._goal()
        left_s = _left(running, goal, found["told"], self._trials)
        return found | {"goal": goal, "left_s": left_s, "drivers": running, "gpus": self._gpus(running)}

    def _goal(self) -> int | None:
        """Of the last run."""
        try:
            given = tomllib.loads((self.path / "study.toml").read_text(encoding="utf-8"))["study"]["trials"]
        except (OSError, ValueError, KeyError, TypeError):  # a study that Python made has no such file
            given = self._notes.get("trials")
        return max(given, len(self._trials)) if isinstance(given, int) else None

    def _gpus(self, running: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        here = [one for one in running if one["host"] == platform.node() and one["state"] == "running"]
        slots = [slot for one in here for slot in one["slots"] if slot.get("host", one["host"]) == one["host"]]
        if not slots or not str(self._settings["device"]).startswith("cuda"):
            return []
        return gpu_use({name for slot in slots for name in slot.get("gpus") or ()})


def watch(path: str | Path, every_s: float, say: Callable[[str], object]) -> Iterator[dict[str, Any]]:
    """`View.status` again and again, until nobody runs the study.

    Args:
        path: the study's folder; waited for while its network is being trained.
        every_s: seconds between two looks; more where a look takes long, so that the search has its storage to itself.
        say: told why there is nothing to see for now.
    """
    folder, seen, idle, before = Path(path), None, 0, ""
    while True:
        started = time.monotonic()
        training = not (folder / STUDY_JSON).exists() and _active(drivers(part_of(folder)))
        # Nobody runs it for a moment when its network is trained and the search begins: so look twice.
        idle = 0 if training or _active(drivers(folder)) else idle + 1
        found, trouble = None, ""
        try:
            if training:
                trouble = f"{path} is not made yet: its network is being trained"
            elif seen is None:
                seen = View(folder)
            else:
                seen.refresh()
            found = None if seen is None else seen.status()
        except ConnectionError as error:  # storage that is away comes back
            trouble = str(error)
        pause = max(every_s, _SHARE * (time.monotonic() - started))
        if found is not None:
            yield found
        if trouble and trouble != before:
            say(trouble)
        before = trouble
        if idle == 2:
            return
        time.sleep(pause)


_SHARE = 4  # so many times as long as a look took, none follows


def _active(known: Sequence[Mapping[str, Any]]) -> bool:
    return any(driver["state"] == "running" for driver in known)


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
        best = trial if better(trial, best, settings["objectives"], limits) else best
    told = [trial for trial in trials if trial.told]
    failed = [trial for trial in told if isinstance(trial.outcome, Failed)]
    return {
        "path": str(path),
        "trials": len(trials),
        "told": len(told),
        "running": len(trials) - len(told),
        "failed": len(failed),
        "failures": failures(failed),
        "skipped": sum(isinstance(trial.outcome, Skipped | Stopped) for trial in told),
        "front": len(on_front(trials, settings["objectives"], limits)),
        "best": None if best is None else described(best),
        "budget": budget.given(),
        "limits": dict(limits),
        "objectives": list(settings["objectives"]),
        "sampler": settings["sampler"],
        "fidelity": settings["fidelity"],
        "history": history(trials, settings["objectives"], limits),
        "seeds": seeds_worth(trials, settings["objectives"], limits),
        "foresight": foresight(trials),
        "proxies": [dict(proxy) for proxy in proxies],
        "seconds": sum(trial.outcome.seconds for trial in told if trial.outcome),
    }


def failures(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Why failed trials did, the reason of the newest one first: `{"reason", "count", "trials" (the last five)}`.

    Reasons that differ in numbers only are one, told in the newest one's words.
    """
    found: dict[str, dict[str, Any]] = {}
    for trial in reversed(trials):
        reason = trial.reason or "no reason is known"
        row = found.setdefault(re.sub(r"\d+(\.\d+)?", "#", reason), {"reason": reason, "count": 0, "trials": []})
        row["count"] += 1
        if len(row["trials"]) < _LAST:
            row["trials"].insert(0, trial.number)
    return list(found.values())


_LAST = 5  # trials that are named beside a reason


def _left(running: Sequence[Mapping[str, Any]], goal: int | None, told: int, trials: Sequence[Trial]) -> float | None:
    """Seconds to the goal: at the pace of this run, or at that of earlier trials until each busy slot has ended one."""
    active = [one for one in running if one["state"] == "running"]
    if goal is None or not active:
        return None
    pace = 0.0
    known = [trial.outcome.seconds for trial in trials if trial.scored and trial.outcome]
    for one in active:
        busy = sum(slot["state"] == "busy" for slot in one["slots"])
        if one["told"] and one["told"] >= busy:
            pace += one["told"] / (one["elapsed_s"] + one["heard_s"])
        elif known and sum(known) > 0:
            pace += busy * len(known) / sum(known)
    return max(0, goal - told) / pace if pace else None
