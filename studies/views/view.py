"""A study seen from its folder alone: no model, no data, nothing traced. For `secateur status` and `front`."""

from __future__ import annotations

import platform
import subprocess
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from ...spaces import Budget
from ..disk.files import as_written, read_whole
from ..runners.slots import drivers
from ..trials.folder import STUDY_JSON, axes_of, described_storage, part_of, read_study_json
from ..trials.front import counting, front_table, on_front, trial_table
from ..trials.ledger import Ledger, Retry
from ..trials.looking import Glimpse
from ..trials.trial import Trial
from .status import Status, status_of

if TYPE_CHECKING:
    import pandas as pd

_RETRY_S = 10.0  # only to look, storage that is away is not waited for long
_SHARE = 4  # so many times as long as a look took, none follows
_QUERY = "index,uuid,name,utilization.gpu,memory.used,memory.total"
_TIMEOUT_S = 10.0


@final
class View:
    """What a study's folder says of its trials, as of now.

    Attributes:
        path: the folder.
        axes: of the space.
        full: costs of the full network, by name.
        resolutions: sides that the resolution axis is an index into.
        storage: file or URL of the storage that holds the trials, without a password.
        name: of the study there.
        glimpse: gives that storage, as of now.
        budget: the one of the last run.
        limits: that in absolute numbers.
        objectives: what is minimised.
        found: what its study.json holds.
        notes: what the study noted of its runs.
        all_trials: in number order.
    """

    def __init__(self, path: str | Path, *, storage: str | None = None, connect: bool = False) -> None:
        """Read the folder.

        Args:
            path: the folder.
            storage: the study's storage URL again, with the password that it needs; see `Study.open`.
            connect: whether a database server that the folder names may be connected to.

        Raises:
            FileNotFoundError: there is no study.
            ValueError: it is damaged.
        """
        self.path = Path(path)
        if not (self.path / STUDY_JSON).exists() and part_of(self.path).is_dir():
            raise FileNotFoundError(
                f"{path} is not made yet: its network is still to be trained; go on with `secateur resume {path}`, "
                f"or wait until it is"
            )
        self.found = found = read_study_json(self.path, to_write=False)
        with as_written(self.path):
            self._settings: dict[str, Any] = found["settings"]
            self.resolutions: list[list[int]] = found["space"]["resolutions"]
            self.axes = axes_of(found)
            self.full: dict[str, float] = found["full_costs"]
            self.storage = described_storage(self.path, found["storage"])
            self.name: str = found["name"]
            self.objectives: list[str] = self._settings["objectives"]
            self.glimpse = Glimpse(self.path, found, given=storage, ask=connect)
            retry = Retry(self.storage, seconds=_RETRY_S)
            self._ledger = Ledger(self.glimpse.storage(), self.name, self.axes, self.objectives, retry=retry)
            self._look()

    def refresh(self) -> None:
        """Look again."""
        with as_written(self.path):
            self._ledger.storage = self.glimpse.storage()
            self._ledger.refresh()
            self._look()

    def _look(self) -> None:
        self.notes = notes = self._ledger.notes
        self.budget = Budget(**notes["budget"])
        self.all_trials: Sequence[Trial] = tuple(self._ledger.trials)
        self.limits = self.budget.limits(self.full, notes.get("full_latency_ms"))

    def trials(self) -> pd.DataFrame:
        """As `Study.trials`."""
        with as_written(self.path):
            return trial_table(self.all_trials, self.axes, self.limits)

    def front(self) -> pd.DataFrame:
        """As `Study.front`."""
        with as_written(self.path):
            counts = counting(self.all_trials, self.limits, self._settings.get("max_error"))
            return front_table(on_front(self.all_trials, self.objectives, counts), self.axes)

    def status(self) -> Status:
        """As `Study.status`, with what runs now: `goal`, `left_s`, `drivers` and `gpus`."""
        with as_written(self.path):
            found = status_of(self.path, self.all_trials, self.budget, self.limits, self.found, self.notes)
            found = replace(found, drivers=drivers(self.path))
            goal = max((one["goal"] for one in found.drivers or () if one["goal"]), default=None) or self._goal()
            return replace(found, goal=goal, left_s=_left(found, goal, self.all_trials), gpus=self._gpus(found))

    def _goal(self) -> int | None:
        """Of the last run."""
        try:
            given = tomllib.loads(read_whole(self.path / "study.toml").decode())["study"]["trials"]
        except (OSError, ValueError, KeyError, TypeError):  # a study that Python made has no such file
            given = self.notes.get("trials")
        return max(given, len(self.all_trials)) if isinstance(given, int) else None

    def _gpus(self, found: Status) -> list[dict[str, Any]]:
        here = [one for one in found.active if one["host"] == platform.node()]
        slots = [slot for one in here for slot in one["slots"] if slot.get("host", one["host"]) == one["host"]]
        if not slots or not str(self._settings["device"]).startswith("cuda"):
            return []
        return gpu_use({name for slot in slots for name in slot.get("gpus") or ()})


def watch(path: str | Path, every_s: float, say: Callable[[str], object], *, connect: bool = False) -> Iterator[Status]:
    """`View.status` again and again, until no one runs the study.

    Args:
        path: the study's folder; waited for while its network is being trained.
        every_s: seconds between two looks; more where a look takes long, so that the search has its storage to itself.
        say: told why there is nothing to see for now.
        connect: as of `View`.
    """
    folder, seen, idle, before = Path(path), None, 0, ""
    while True:
        started = time.monotonic()
        training = not (folder / STUDY_JSON).exists() and _active(drivers(part_of(folder)))
        # No one runs it for a moment when its network is trained and the search begins: so look twice.
        idle = 0 if training or _active(drivers(folder)) else idle + 1
        found, trouble = None, ""
        try:
            if training:
                trouble = f"{path} is not made yet: its network is being trained"
            elif seen is None:
                seen = View(folder, connect=connect)
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


def _active(known: Sequence[Mapping[str, Any]]) -> bool:
    return any(driver["state"] == "running" for driver in known)


def _left(found: Status, goal: int | None, trials: Sequence[Trial]) -> float | None:
    """Seconds to the goal: at the pace of this run, or at that of earlier trials until each busy slot has ended one."""
    if goal is None or not found.active:
        return None
    pace = 0.0
    known = [trial.outcome.seconds for trial in trials if trial.scored and trial.outcome]
    for one in found.active:
        busy = sum(slot["state"] == "busy" for slot in one["slots"])
        if one["told"] and one["told"] >= busy:
            pace += one["told"] / (one["elapsed_s"] + one["heard_s"])
        elif known and sum(known) > 0:
            pace += busy * len(known) / sum(known)
    return max(0, goal - found.told) / pace if pace else None


def gpu_use(names: Collection[str] = ()) -> list[dict[str, Any]]:
    """A row a GPU: `{"gpu", "name", "busy" (0 to 1), "used_bytes", "total_bytes"}`; none where none can be seen.

    Args:
        names: those that are asked for, as `CUDA_VISIBLE_DEVICES` names them; all when empty. Numbers are those of
            `CUDA_DEVICE_ORDER=PCI_BUS_ID`, which differ from CUDA's own only where a machine has unlike GPUs.
    """
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parsed(said.stdout, names) if said.returncode == 0 else []


def parsed(text: str, names: Collection[str] = ()) -> list[dict[str, Any]]:
    r"""The rows that `nvidia-smi` wrote; what it does not know is None.

    >>> parsed("0, GPU-5a, NVIDIA H200, 87, 1024, 143771\n1, GPU-5b, NVIDIA H200, [N/A], 0, 143771", ["1"])
    [{'gpu': '1', 'name': 'NVIDIA H200', 'busy': None, 'used_bytes': 0, 'total_bytes': 150754820096}]
    """
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(_QUERY.split(",")):
            continue
        index, uuid, name, *figures = cells
        if names and not any(index == asked or uuid.startswith(asked) for asked in names):
            continue
        busy, used, total = (int(figure) if figure.isdecimal() else None for figure in figures)
        rows.append(
            {
                "gpu": index,
                "name": name,
                "busy": None if busy is None else busy / 100,
                "used_bytes": None if used is None else used * 2**20,
                "total_bytes": None if total is None else total * 2**20,
            }
        )
    return rows
