"""Trials shown in TensorBoard, MLflow, Weights & Biases or a tracker of your own; none of them breaks a search.

    with Trackers(["tensorboard"], study.path) as listener:
        study.run(50, listener)

A study's trials go into one run there, a step a trial; a study that goes on goes on there. Where the server is, and who
is asking, each of them finds out in its own way (`MLFLOW_TRACKING_URI`, `wandb login`, ...). Of what they raise,
passwords and keys are never logged.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Protocol, final

from ..settings.trackers import TRACKERS, check_trackers
from ..trials.events import Event, Listener, TrialEnded
from ..trials.folder import read_study_json
from ..trials.trial import described

logger = logging.getLogger("secateur")

_DRAIN_S = 30.0  # how long the end of a search waits for what is still to be sent
_SECRET = re.compile(r"pass|pwd|secret|token|api_?key", re.IGNORECASE)
_SHORTEST = 4  # letters of what is taken for a secret of the environment
_SAID = 300  # letters of an error that are logged
_TAG = "secateur.study"  # of a run of MLflow


class Tracker(Protocol):
    """Shows trials somewhere; all of it is called in a thread of its own."""

    def open(self, folder: Path, name: str) -> object:
        """Begin, or go on with, the run of the study in `folder`, whose `name` no other study has."""

    def tell(self, trial: int, figures: Mapping[str, float], words: Mapping[str, str]) -> object:
        """Show a trial: its number, its figures by name (error, costs, ...), and what is said of it."""

    def close(self) -> object:
        """End, whatever happened."""


_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "mlflow": ("mlflow",), "wandb": ("wandb",)}
_METHODS = {"open": "open(folder, name)", "tell": "tell(trial, figures, words)", "close": "close()"}


def trackers_of(wanted: Sequence[str | Tracker]) -> dict[str, Tracker]:
    """The trackers, by name, none of them opened.

    Raises:
        ValueError: a name is not known.
        TypeError: one lacks a method.
        ImportError: one is not installed, or the package that brings it is broken.
    """
    found = {name: _made(name) for name in check_trackers([one for one in wanted if isinstance(one, str)])}
    for own in (one for one in wanted if not isinstance(one, str)):
        name = type(own).__name__
        found[name if name not in found else f"{name} {len(found)}"] = own
    for name, tracker in found.items():
        lacking = [call for method, call in _METHODS.items() if not callable(getattr(tracker, method, None))]
        if lacking:
            raise TypeError(f"tracker {name} is a {type(tracker).__name__} without {' and '.join(lacking)}")
    return found


def _made(name: str) -> Tracker:
    packages = _PACKAGES.get(name, ())
    if packages and not any(find_spec(package) for package in packages):
        raise ImportError(f"{name} is not installed: pip install {packages[0]}")
    make = TRACKERS[name]
    try:
        tracker: Tracker = make()
    except Exception as error:  # someone else's code
        said = f"tracker {name!r} can't be made ({type(error).__name__}: {error})"
        raise ImportError(f"{said}; mend the package that adds it, or leave the tracker out") from error
    return tracker


@final
class Trackers:
    """A listener that hands every trial to trackers, each in a thread of its own.

    What goes wrong there is logged, and that tracker gets nothing more.
    """

    def __init__(self, trackers: Sequence[str | Tracker], folder: str | Path, then: Listener | None = None) -> None:
        """Nothing is opened before the first trial.

        Args:
            trackers: names, and objects of your own.
            folder: of the study.
            then: called with every event too.

        Raises:
            ValueError: a name is not known.
            TypeError: one lacks a method.
            ImportError: one is not installed, or broken.
        """
        self._trackers = trackers_of(trackers)
        self._folder, self._then = Path(folder), then
        self._threads: list[_Thread] = []

    def __call__(self, event: Event) -> None:
        """Pass on an event of a search."""
        if self._then is not None:
            self._then(event)
        if isinstance(event, TrialEnded):
            if not self._threads:
                self._threads = [_Thread(name, one, self._folder) for name, one in self._trackers.items()]
            for thread in self._threads:
                thread.events.put(event)

    def __enter__(self) -> Trackers:
        """Be ready."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is still to be sent, if that does not take long."""
        for thread in self._threads:
            thread.events.put(None)
        for thread in self._threads:
            thread.join(_DRAIN_S)
            if thread.is_alive():
                logger.warning("%s takes too long; some trials are not shown there", thread.name)
        self._threads = []


@final
class _Thread(threading.Thread):
    def __init__(self, name: str, tracker: Tracker, folder: Path) -> None:
        super().__init__(name=name, daemon=True)
        self.events: queue.SimpleQueue[TrialEnded | None] = queue.SimpleQueue()
        self._tracker, self._folder, self._warned = tracker, folder, False
        self.start()

    def run(self) -> None:
        """Open the tracker, tell it trials until None comes, and close it whatever happened."""
        if self._tried(lambda: self._tracker.open(self._folder, read_study_json(self._folder)["name"])):
            self._tried(self._tell_all)
            self._tried(self._tracker.close)

    def _tell_all(self) -> None:
        while (event := self.events.get()) is not None:
            self._tracker.tell(event.last.number, *_told(event))

    def _tried(self, action: Callable[[], object]) -> bool:
        """Whether an action went well; one warning in all where one raises."""
        try:
            action()
            return True
        except BaseException as error:  # a service and its library raise anything; some ask to exit
            if not self._warned:
                self._warned = True
                said = f"{type(error).__name__}: {without_secrets(' '.join(str(error).split()))}"
                logger.warning("%s gets no more trials (%s); the search goes on", self.name, said[:_SAID])
            return False


def without_secrets(text: str) -> str:
    """A text without passwords, keys and tokens: those of URLs and headers, and those of the environment.

    >>> without_secrets("401 from https://ann:secret@host/?token=secret (Authorization: Bearer secret)")
    '401 from https://***@host/?token=*** (Authorization: Bearer ***)'
    """
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    text = re.sub(r"://[^/@\s]*@", "://***@", text)
    text = re.sub(r"(?i)\b(bearer|basic)\s+[^\s)\"']+", r"\1 ***", text)
    return re.sub(rf"(?i)(\w*(?:{_SECRET.pattern})\w*[\"']?\s*[=:]\s*[\"']?)[^\s&,;)\"']+", r"\1***", text)


def _told(event: TrialEnded) -> tuple[dict[str, float], dict[str, str]]:
    """Figures and words of a trial that was just told."""
    last = described(event.last)
    known = last | ({} if event.best is None else {"best_error": event.best.error})
    figures = {name: float(value) for name, value in known.items() if isinstance(value, int | float)}
    figures.pop("trial")
    words = {name: value for name, value in last.items() if isinstance(value, str)}
    return {name: value for name, value in figures.items() if math.isfinite(value)}, words


# --- those that come with the package ---------------------------------------------------------------------------------


@final
class TensorBoard:
    """Event files in the study's folder; `tensorboard --logdir DIR/tensorboard` shows them."""

    def open(self, folder: Path, name: str) -> None:
        """A new file beside those of earlier runs."""
        whole = find_spec("tensorboard") is not None
        module = importlib.import_module("torch.utils.tensorboard" if whole else "tensorboardX")
        # A name of its own: tensorboardX writes over what an earlier run made in the same second.
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), filename_suffix=f".{uuid.uuid4().hex[:12]}")

    def tell(self, trial: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        """A scalar a figure."""
        for figure, value in figures.items():
            self._writer.add_scalar(figure, value, trial)
        self._writer.add_text("trial", ", ".join(f"{key}: {value}" for key, value in words.items()), trial)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


@final
class MLflow:
    """A run that is tagged with the study's name, in the experiment of `MLFLOW_EXPERIMENT_NAME` or "secateur"."""

    def open(self, folder: Path, name: str) -> None:
        """The study's run, which is made when there is none."""
        self._client = client = importlib.import_module("mlflow").MlflowClient()
        self._metric = importlib.import_module("mlflow.entities").Metric
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", "secateur")
        experiment = client.get_experiment_by_name(wanted)
        where = client.create_experiment(wanted) if experiment is None else experiment.experiment_id
        if before := client.search_runs([where], filter_string=f"tags.`{_TAG}` = '{name}'", max_results=1):
            self._run = before[0].info.run_id
            client.update_run(self._run, status="RUNNING")
        else:
            tags = {_TAG: name, "folder": str(folder)}
            self._run = client.create_run(where, run_name=folder.name, tags=tags).info.run_id

    def tell(self, trial: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        """A metric a figure."""
        now = int(1000 * time.time())
        metrics = [self._metric(figure, value, now, trial) for figure, value in figures.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """The run has ended."""
        self._client.set_terminated(self._run)


@final
class WeightsAndBiases:
    """A run of the study's name."""

    def open(self, folder: Path, name: str) -> None:
        """The study's run."""
        self._run = importlib.import_module("wandb").init(
            project="secateur",
            id=name,
            name=folder.name,
            resume="allow",
            reinit="create_new",  # a run of the user's own goes on beside it
            dir=str(folder),
            config={"folder": str(folder)},
            save_code=False,
            settings={"silent": True, "console": "off"},
        )
        self._run.define_metric("*", step_metric="trial")

    def tell(self, trial: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        """One step."""
        self._run.log({"trial": trial, **figures, **words})

    def close(self) -> None:
        """The run has ended."""
        self._run.finish()
