"""Trials shown in TensorBoard, MLflow or Weights & Biases: listeners of a search that never break it.

    with Trackers(["tensorboard"], study.path) as listener:
        study.run(50, listener)

A study's trials go into one run there, a step a trial; a study that goes on goes on there. Where the server is, and who
is asking, each of them finds out in its own way (`MLFLOW_TRACKING_URI`, `wandb login`, ...). Of what they raise,
passwords and keys are never logged.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import logging
import math
import os
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, final

from ..trials.events import Event, Listener, TrialEnded
from ..trials.folder import read_study_json
from ..trials.progress import described

logger = logging.getLogger("secateur")

Tell = Callable[[int, Mapping[str, float], Mapping[str, str]], object]
"""Takes the number of a trial, its figures by name, and what is said of it."""

_DRAIN_S = 30.0  # how long the end of a search waits for what is still to be sent


@final
class Trackers:
    """A listener that hands every trial to trackers, each in a thread of its own.

    What goes wrong there is logged, and that tracker gets nothing more.
    """

    def __init__(self, names: Sequence[str], folder: str | Path, then: Listener | None = None) -> None:
        """Nothing is opened before the first trial.

        Args:
            names: some of `TRACKERS`.
            folder: of the study.
            then: called with every event too.

        Raises:
            ValueError: a name is not known.
            ImportError: a tracker is not installed.
        """
        self._names = check_known(names)
        check_installed(self._names)
        self._folder, self._then = Path(folder), then
        self._threads: list[_Thread] | None = None

    def __call__(self, event: Event) -> None:
        """Pass on an event of a search."""
        if self._then is not None:
            self._then(event)
        if not isinstance(event, TrialEnded):
            return
        if self._threads is None:
            self._threads = [_Thread(name, self._folder) for name in self._names]
        for thread in self._threads:
            thread.queue.put(event)

    def __enter__(self) -> Trackers:
        """Be ready."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is still to be sent, if that does not take long."""
        for thread in self._threads or ():
            thread.queue.put(None)
        for thread in self._threads or ():
            thread.join(_DRAIN_S)
            if thread.is_alive():
                logger.warning("%s takes too long; some trials are not shown there", thread.name)
        self._threads = None


@final
class _Thread(threading.Thread):
    def __init__(self, tracker: str, folder: Path) -> None:
        super().__init__(name=tracker, daemon=True)
        self._warned = False
        self.queue: queue.SimpleQueue[TrialEnded | None] = queue.SimpleQueue()
        self._folder = folder
        self.start()

    def run(self) -> None:
        """Open the tracker, tell it trials until None comes, and close it whatever happened."""
        opened: tuple[Tell, Callable[[], object]] | None = self._tried(self._open)
        if opened is not None:
            tell, close = opened
            self._tried(lambda: self._tell_all(tell))
            self._tried(close)

    def _open(self) -> tuple[Tell, Callable[[], object]]:
        return TRACKERS[self.name][1](self._folder, str(read_study_json(self._folder)["name"]))

    def _tell_all(self, tell: Tell) -> None:
        while (event := self.queue.get()) is not None:
            tell(event.last.number, *_told(event))

    def _tried(self, action: Callable[[], Any]) -> Any:
        """What an action gives; None, and one warning in all, where it raises."""
        try:
            return action()
        except BaseException as error:  # a service and its library raise whatever they like; some ask to exit
            if not self._warned:
                self._warned = True
                said = f"{type(error).__name__}: {without_secrets(' '.join(str(error).split()))}"
                logger.warning("%s gets no more trials (%s); the search goes on", self.name, said[:_SAID])
            return None


def check_known(names: Sequence[str]) -> tuple[str, ...]:
    """The names of trackers, each once.

    Raises:
        ValueError: one is not known.
    """
    for name in names:
        if name not in TRACKERS:
            near = difflib.get_close_matches(name, TRACKERS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(TRACKERS)}"
            raise ValueError(f"tracker {name!r} is not known; {hint}")
    return tuple(dict.fromkeys(names))


def check_installed(names: Sequence[str]) -> None:
    """Refuse what is not installed.

    Raises:
        ImportError: a tracker is not installed.
    """
    for name in names:
        if not any(importlib.util.find_spec(module) for module in TRACKERS[name][0]):
            raise ImportError(f"{name} is not installed: pip install {TRACKERS[name][0][0]}")


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


_SECRET = re.compile(r"pass|pwd|secret|token|api_?key", re.IGNORECASE)
_SHORTEST = 4  # letters of what is taken for a secret of the environment
_SAID = 300  # letters of an error that are logged


def _told(event: TrialEnded) -> tuple[dict[str, float], dict[str, str]]:
    """Figures and words of a trial that was just told."""
    last = described(event.last)
    known = last | ({} if event.best is None else {"best_error": event.best.error})
    figures = {name: float(value) for name, value in known.items() if isinstance(value, int | float)}
    figures.pop("trial")
    words = {name: value for name, value in last.items() if isinstance(value, str)}
    return {name: value for name, value in figures.items() if math.isfinite(value)}, words


def _tensorboard(folder: Path, name: str) -> tuple[Tell, Callable[[], object]]:
    """Event files in the study's folder; `tensorboard --logdir DIR/tensorboard` shows them."""
    if importlib.util.find_spec("tensorboard") is not None:
        module = importlib.import_module("torch.utils.tensorboard")
    else:
        module = importlib.import_module("tensorboardX")
    # A name of its own: tensorboardX writes over what an earlier run made in the same second.
    writer = module.SummaryWriter(str(folder / "tensorboard"), filename_suffix=f".{uuid.uuid4().hex[:12]}")

    def tell(number: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        for figure, value in figures.items():
            writer.add_scalar(figure, value, number)
        writer.add_text("trial", ", ".join(f"{key}: {value}" for key, value in words.items()), number)
        writer.flush()

    return tell, writer.close


def _mlflow(folder: Path, name: str) -> tuple[Tell, Callable[[], object]]:
    """A run that is tagged with the study's name, in the experiment of `MLFLOW_EXPERIMENT_NAME` or "secateur"."""
    mlflow = importlib.import_module("mlflow")
    metric = importlib.import_module("mlflow.entities").Metric
    client = mlflow.MlflowClient()
    wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", "secateur")
    experiment = client.get_experiment_by_name(wanted)
    where = client.create_experiment(wanted) if experiment is None else experiment.experiment_id
    before = client.search_runs([where], filter_string=f"tags.`{_TAG}` = '{name}'", max_results=1)
    if before:
        run = before[0].info.run_id
        client.update_run(run, status="RUNNING")
    else:
        run = client.create_run(where, run_name=folder.name, tags={_TAG: name, "folder": str(folder)}).info.run_id

    def tell(number: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        now = int(1000 * time.time())
        client.log_batch(run, metrics=[metric(figure, value, now, number) for figure, value in figures.items()])

    return tell, lambda: client.set_terminated(run)


def _wandb(folder: Path, name: str) -> tuple[Tell, Callable[[], object]]:
    """A run of the study's name."""
    wandb = importlib.import_module("wandb")
    run = wandb.init(
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
    run.define_metric("*", step_metric="trial")

    def tell(number: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        run.log({"trial": number, **figures, **words})

    return tell, run.finish


_TAG = "secateur.study"  # of a run of MLflow

TRACKERS: dict[str, tuple[tuple[str, ...], Callable[[Path, str], tuple[Tell, Callable[[], object]]]]] = {
    "tensorboard": (("tensorboard", "tensorboardX"), _tensorboard),
    "mlflow": (("mlflow",), _mlflow),
    "wandb": (("wandb",), _wandb),
}
