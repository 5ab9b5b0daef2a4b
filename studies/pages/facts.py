"""What a report says, as plain values: read from a study's folder alone, or together with its network."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from ... import __version__
from ...spaces import Axis
from ..disk.files import read_json, read_whole
from ..trials.folder import EXPORTS
from ..trials.front import counting, on_front
from ..trials.trial import Trial
from ..views.status import Status
from ..views.view import View
from .anatomy import Anatomy, anatomy, remade
from .learned import importance, predicted, proxies, said_of_model

PACKAGES = ("torch", "optuna", "numpy", "scikit-learn", "scipy")
DERIVED = ("param_bytes", "activation_bytes")  # costs that follow from others: on no chart
MOST_CHOICES = 12  # networks of the front whose widths can be chosen on the page


@dataclass(frozen=True, eq=False)
class Facts:
    """One study.

    Attributes:
        name: of its folder.
        state: `"empty"`, `"running"`, `"stopped"` short of its goal, or `"done"`.
        status: as of `View.status`.
        trials: all of them, in number order.
        front: the trials that no other one beats within the budget, cheapest first.
        best: as of `Status.best`, which may be beside the front; None where the front is empty.
        axes: of the space.
        full: costs of the full network, by name; `latency_ms` where it was measured.
        full_error: of the full network under the study's conditions; None where that was not tried.
        tested: of the networks that were exported, the figures after their last training, by trial; see `_tested`.
        resolutions: sides that the resolution axis is an index into.
        costs: names of the costs that a chart may have as its axis, the objective first.
        predicted: trials whose error was predicted; see `learned.predicted`.
        models: what the sampler said of its model, trial by trial; see `learned.said_of_model`.
        proxies: rank correlations with the errors, best first.
        importance: see `learned.importance`.
        anatomy: layer by layer; None where the network is not there, and `no_anatomy` says why.
        no_anatomy: the reason, or empty.
        origin: how to make the study again; see `_origin`.
    """

    name: str
    state: str
    status: Status
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    best: Trial | None
    axes: tuple[Axis, ...]
    full: dict[str, float]
    full_error: float | None
    tested: dict[int, dict[str, Any]]
    resolutions: list[list[int]]
    costs: tuple[str, ...]
    predicted: list[dict[str, float]]
    models: list[dict[str, Any]]
    proxies: list[dict[str, Any]]
    importance: dict[str, Any]
    anatomy: Anatomy | None
    no_anatomy: str
    origin: dict[str, Any]

    @property
    def objectives(self) -> list[str]:
        """What is minimised."""
        return self.status.objectives

    @property
    def limits(self) -> dict[str, float]:
        """Absolute, by cost."""
        return self.status.limits

    @property
    def scored(self) -> list[Trial]:
        """Trials with a measured error."""
        return [trial for trial in self.trials if trial.scored]

    @property
    def on_front(self) -> frozenset[int]:
        """Numbers of the trials on the front."""
        return frozenset(trial.number for trial in self.front)

    @property
    def shown(self) -> list[Trial]:
        """Networks whose widths can be looked at: the best one first, then the front from the dearest to the cheapest.

        A long front is thinned out evenly.
        """
        others = [trial for trial in reversed(self.front) if trial is not self.best]
        step = max(1, -(-len(others) // (MOST_CHOICES - 1)))
        return ([] if self.best is None else [self.best]) + others[::step]


def facts(
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    storage: str | None = None,
    connect: bool = False,
    timed: bool = True,
    remake: bool = False,
) -> Facts:
    """What is known of the study in a folder.

    Args:
        folder: the study's.
        model: the full network, with any weights.
        storage: the storage's URL again, with a password that it needs; see `Study.open`.
        connect: whether a database server that only the folder names may be connected to.
        timed: whether the full network and the best one are timed layer by layer, for a few seconds. They never are
            while the study runs.
        remake: whether the network is made as the study file says where none is given, which runs code.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: it is damaged, or of another version.
    """
    folder = Path(folder)
    view = View(folder, storage=storage, connect=connect)
    found, status, trials, axes = view.found, view.status(), tuple(view.all_trials), view.axes
    counts = counting(trials, status.limits, status.max_error)
    front, running = on_front(trials, status.objectives, counts), bool(status.active)
    whole = [trial for trial in trials if trial.scored and _is_full(trial, axes)]
    timings = [trial.measures["latency_ms"] for trial in whole if "latency_ms" in trial.measures]
    latency_ms = view.notes.get("full_latency_ms", timings[0] if timings else None)
    full = view.full | ({} if latency_ms is None else {"latency_ms": float(latency_ms)})
    made: Anatomy | None = None
    try:
        untimed = "not asked for" if not timed else "not measured, because the study runs" if running else ""
        if model is None:
            model = remade(folder, remake)
        made = anatomy(found, model, picked=status.best, front=front, untimed=untimed)
        reason = ""
    except Exception as error:  # a user's code may raise anything, and the rest of the report needs none of it
        reason = str(error).strip() or type(error).__name__
    return Facts(
        name=folder.resolve().name,
        state=_state(status),
        status=status,
        trials=trials,
        front=tuple(front),
        best=status.best,
        axes=axes,
        full=full,
        full_error=whole[0].measures["error"] if whole else None,
        tested=_tested(folder),
        resolutions=view.resolutions,
        costs=_cost_names(status, trials),
        predicted=predicted(trials),
        models=said_of_model(trials),
        proxies=proxies(trials, status.proxies),
        importance=importance(trials, axes),
        anatomy=made,
        no_anatomy=reason,
        origin=_origin(folder, found, status),
    )


def _tested(folder: Path) -> dict[int, dict[str, Any]]:
    """Figures of the networks that were trained to the end, `kept` where; of several trainings the longest.

    What can't be read is left out: an export that was killed leaves half a folder.
    """
    found: dict[int, dict[str, Any]] = {}
    for path in sorted((folder / EXPORTS).glob("trial-*-epochs-*/finished.json")):
        number = path.parent.name.split("-")[1]
        if "-tried-" in path.parent.name or not number.isdigit():
            continue
        try:
            figures = dict(read_json(path)["figures"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if figures.get("epochs", 0) >= found.get(int(number), {}).get("epochs", 0):
            found[int(number)] = figures | {"kept": f"{EXPORTS}/{path.parent.name}"}
    return found


def _is_full(trial: Trial, axes: Sequence[Axis]) -> bool:
    return list(trial.candidate) == [axis.choices[-1] for axis in axes]


def _state(status: Status) -> str:
    if status.active:
        return "running"
    if not status.told:
        return "empty"
    if status.ended is not None and status.ended["by"] not in ("interrupt", "error", "trials"):
        return "done"
    return "stopped" if status.goal and status.told < status.goal else "done"


def _cost_names(status: Status, trials: Sequence[Trial]) -> tuple[str, ...]:
    """The objectives' costs, then the limited ones; the multiply-adds where there is neither."""
    names = [name for name in (*status.objectives, *status.limits) if name != "error"]
    known = {name for trial in trials for name in trial.measures} or set(names)
    return tuple(dict.fromkeys(name for name in names if name in known)) or ("macs",)


def _origin(folder: Path, found: Mapping[str, Any], status: Status) -> dict[str, Any]:
    """How to make the study again: `command`, its `file`, `fingerprint`, `settings`, `versions` and `made_with`.

    `file` is the text of the study file; None for a study that Python made. `made_with` are the versions that the study
    noted at its beginning, `versions` those of now.
    """
    try:
        text: str | None = read_whole(folder / "study.toml").decode()
    except (OSError, ValueError):
        text = None
    command = f"secateur search study.toml --out {shlex.quote(folder.name)}"
    return {
        "command": command if text is not None else None,
        "file": text,
        "trials": status.told,
        "fingerprint": found["fingerprint"],
        "settings": found["settings"],
        "made_with": found.get("versions"),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    known = {"secateur": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known
