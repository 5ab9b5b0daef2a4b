"""A study: one search, on disk. Start reading at `Study.run`."""

from __future__ import annotations

import copy
import logging
import platform
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import pandas as pd
import torch
from torch import nn

from .. import __version__
from ..evaluators import Evaluator, Latency, Task, Training, checked_evaluator
from ..search import SamplerFactory, sampler_factory
from ..spaces import Budget, Scores, Space, build
from .disk.files import new_folder, to_json, write
from .disk.lock import locked
from .disk.shelf import Shelf
from .disk.weights import ModelSource, digest, read_tensors, state_of, with_kept_weights, write_tensors
from .drivers.engine import Engine
from .drivers.limits import Limits
from .drivers.own_loop import OwnLoop
from .drivers.run import running
from .exports.finalists import finalists as finalists_of
from .runners.executor import Executor
from .runners.kinds import executor
from .settings.determinism import reproducible
from .settings.identity import evaluator_name, fingerprint, ranking_name
from .settings.runner import Runner
from .settings.settings import DEFAULT, EVALUATORS, LADDER, Settings, settle
from .trials.events import Listener
from .trials.folder import (
    BASE,
    DATABASE,
    FORMAT,
    SCORES,
    STUDY_JSON,
    VERSION,
    check_same,
    described_storage,
    read_study_json,
    storage_url,
)
from .trials.front import front_table, on_front, trial_table
from .trials.ledger import Ledger, make_ledger
from .trials.outcome import Outcome
from .trials.patience import Patience
from .trials.storage import connect, disconnect, make_sqlite, sqlite_url
from .trials.trial import Trial
from .trials.urls import without_password
from .views.view import standing

logger = logging.getLogger("secateur")


@final
class Study:
    """One search for smaller networks, on disk; made by `create`, found again by `open`.

    The folder (or the storage) holds everything: a process may be killed at any time, and the next one goes on where it
    stood, with the same proposals.

    Attributes:
        path: the study's folder.
        model: the full network with the base weights; a copy of what was given.
        task: data, loss and error.
        space: what may be chosen.
        budget: what the pruned model may cost; may differ from one run to the next.
        settings: everything else that decides how the study searches.
        fingerprint: what must be the same to go on, part by part.
    """

    def __init__(
        self,
        path: Path,
        *,
        model: nn.Module,
        task: Task,
        space: Space,
        budget: Budget,
        scores: Scores | None,
        settings: Settings,
        fingerprint: Mapping[str, Any],
        factory: SamplerFactory,
        evaluator: Evaluator | None,
        ledger: Ledger,
        shelf: Shelf | None = None,
    ) -> None:
        """Use `Study.create` or `Study.open`."""
        self.path = path
        self.model = model.to(settings.torch_dtype) if settings.torch_dtype is not None else model
        self.task = task
        self.space = space
        self.budget = budget
        self.settings = settings
        self.fingerprint = dict(fingerprint)
        self._ledger = ledger
        self._shelf = shelf
        self._engine = Engine(
            path=path,
            model=self.model,
            task=task,
            space=space,
            settings=settings,
            given_scores=scores,
            fingerprint=self.fingerprint,
            factory=factory,
            given_evaluator=evaluator,
            ledger=ledger,
        )
        self._limits_of = Limits(self._engine)
        self._looping: OwnLoop | None = None

    # --- making and finding -------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        model: nn.Module,
        task: Task,
        space: Space,
        budget: Budget,
        objectives: Sequence[str] | None = None,
        sampler: str | SamplerFactory = "auto",
        fidelity: str | None = None,
        seeds: Sequence[str] = DEFAULT,
        scores: Scores | None = None,
        batch: int = 4,
        early_stopping: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
        threads: int | None = None,
        dtype: str | torch.dtype | None = None,
        storage: str | None = None,
        artifacts: str | None = None,
        training: Training | None = None,
        latency: Latency | None = None,
        evaluator: str | Callable[..., Any] | None = None,
    ) -> Study:
        """A new study in the folder `path`, which appears whole or not at all.

        Args:
            path: the folder; must not exist.
            model: the trained full network; its weights are kept, and it is left as it is.
            task: data, loss and error; the search sees its train and validation splits only.
            space: `Space.trace` of `model`.
            budget: hard limits on the pruned model.
            objectives: what is minimised: `"error"` and costs; the error and the budget's first cost when None.
            sampler: a name in `search.SAMPLERS` (`"auto"`, `"polynomial"`, `"three-dimensions"`, `"joint"`, `"random"`,
                `"qmc"`, `"tpe"`, `"nsga2"`, `"nsga3"`, `"gp"`), or a factory `(seed, problem) -> Optuna sampler`.
            fidelity: `"zero-shot"` (nothing is built: the share of the ranking that is lost), `"recalibrated"`,
                `"short"` or `"long"`: how well a candidate is trained before its error counts. When None,
                `"recalibrated"` with shared weights and `"short"` otherwise.
            seeds: what is tried first: `"full"`, `"compound"`, `"magnitude"`, and any of `pruners.METHODS`.
            scores: which channels stay; the space's own L2 norms when None.
            batch: trials proposed together.
            early_stopping: end a trial at a lower fidelity where it is not promising; its error is then foretold.
            seed: of everything random.
            device: where networks are trained and measured.
            threads: of PyTorch; as many as it has now when None.
            dtype: of the networks; their own when None.
            storage: URL of where the trials are kept; an SQLite file in the folder when None. `"journal:PATH"` is a
                file for network file systems, a relative path in the folder; `"postgresql://USER@HOST/DATABASE"` and
                `mysql` are servers, which several drivers may share. A password in it is used and never written down.
            artifacts: a path that fsspec knows, such as `"s3://bucket/study"`: weights and rankings that trials name
                are copied there too, and fetched from there where the folder lacks them.
            training: how networks are trained; `Training()` when None.
            latency: how networks are timed; `Latency()` when None: one example, the study's threads and dtype.
            evaluator: `"ladder"`, every candidate trained from the full network's weights; `"shared-weights"`, all
                cut from one set of weights that was trained so that its parts are good too; or your own, called like
                `Ladder`, which `open` must be given again. When None, `"shared-weights"` for the sampler `"joint"`,
                which needs them, and `"ladder"` for all others.

        Raises:
            FileExistsError: the folder exists.
            ValueError: a setting is off, a budget is out of reach, or the space is not of this model.
            TypeError: an argument of another type.
        """
        path = Path(path)
        _check_types(model, task, space, budget)
        own = None if evaluator is None or isinstance(evaluator, str) else checked_evaluator(evaluator)
        settings, factory, evaluator = settle(
            budget,
            objectives=objectives,
            sampler=sampler,
            fidelity=fidelity,
            seeds=seeds,
            batch=batch,
            early_stopping=early_stopping,
            seed=seed,
            device=device,
            threads=threads,
            dtype=dtype,
            training=training,
            latency=latency,
            evaluator=evaluator,
        )
        space.check_limits(budget.limits(space))
        shelf = None if artifacts is None else Shelf(path, artifacts)
        model, base = copy.deepcopy(model), state_of(model)
        build(model, space, space.smallest, scores)  # refuses a space or scores that are not of this model
        kept = fingerprint(base, space, scores, task, evaluator, settings)
        study_name = f"secateur-{uuid.uuid4().hex[:12]}"
        with new_folder(path) as making:
            write_tensors(making / BASE, base)
            if scores is not None:
                write_tensors(making / SCORES, scores)
            if storage is None:
                make_sqlite(making / DATABASE)
            opened = connect(sqlite_url(making / DATABASE) if storage is None else storage, making)
            make_ledger(opened, study_name, settings.objectives, budget.given())
            disconnect(opened)
            described = {
                "format": FORMAT,
                "format_version": VERSION,
                "name": study_name,
                "storage": None if storage is None else without_password(storage),
                "artifacts": artifacts,
                "scores": None if scores is None else digest(scores),
                "settings": settings.to_json(),
                "space": space.settings,
                "axes": [[axis.name, list(axis.choices)] for axis in space.axes],
                "full_costs": space.full_costs,
                "fingerprint": kept,
                "versions": {"secateur": __version__, "torch": torch.__version__, "python": platform.python_version()},
            }
            write(making / STUDY_JSON, to_json(described))
        return cls(
            path,
            model=model,
            task=task,
            space=space,
            budget=budget,
            scores=scores,
            settings=settings,
            fingerprint=kept,
            factory=factory,
            evaluator=own,
            ledger=_ledger(path, described, space, settings, storage),
            shelf=shelf,
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        model: ModelSource,
        task: Task,
        budget: Budget | None = None,
        sampler: SamplerFactory | None = None,
        evaluator: Callable[..., Any] | None = None,
        storage: str | None = None,
    ) -> Study:
        """The study in the folder `path`, ready to go on; nothing is written before it runs.

        Args:
            path: the study's folder.
            model: the network with the weights that the study started from; or a function without arguments that makes
                the network, into which the kept weights are loaded.
            task: the same as at the start.
            budget: other limits from now on; all trials are used again. The last ones when None.
            sampler: the same factory as at the start, where it was no name.
            evaluator: the same as at the start, where there was one.
            storage: the URL of the start again, with the password that it needs; None where the database knows the
                user without, or PostgreSQL finds the password in `PGPASSWORD` or `~/.pgpass`.

        Raises:
            FileNotFoundError: there is no study.
            ValueError: it is another study's folder, damaged or read-only, or the budget is out of reach.
        """
        path = Path(path)
        found = read_study_json(path)
        settings, kept = Settings.from_json(found["settings"]), found["fingerprint"]
        if evaluator is not None or kept["evaluator"] not in EVALUATORS:
            check_same(kept, {"evaluator": evaluator_name(evaluator or LADDER)}, path)
        own = None if evaluator is None else checked_evaluator(evaluator)
        check_same(kept, {"task": task.fingerprint}, path)
        name, factory = sampler_factory(settings.sampler if sampler is None else sampler)
        check_same(kept, {"sampler": name}, path)
        base = read_tensors(path / BASE, kept["weights"])
        scores = None if found["scores"] is None else read_tensors(path / SCORES, found["scores"])
        model = with_kept_weights(model, base)
        space = Space.from_settings(model, found["space"])
        check_same(kept, {"space": space.fingerprint, "ranking": ranking_name(space, scores)}, path)
        ledger = _ledger(path, found, space, settings, storage)
        budget = Budget(**ledger.notes()["budget"]) if budget is None else budget
        space.check_limits(budget.limits(space))
        return cls(
            path,
            model=model,
            task=task,
            space=space,
            budget=budget,
            scores=scores,
            settings=settings,
            fingerprint=kept,
            factory=factory,
            evaluator=own,
            ledger=ledger,
            shelf=None if found.get("artifacts") is None else Shelf(path, found["artifacts"]),
        )

    # --- searching ----------------------------------------------------------------------------------------------------

    def run(
        self,
        trials: int,
        progress: Listener | None = None,
        *,
        runner: str | Runner | Executor = "serial",
        keep_gb: float | None = None,
    ) -> None:
        """Search until there are so many trials in all; safe to kill and to call again.

        An interrupt (Ctrl-C) lets the trials that run end first; a second one leaves at once.

        Args:
            trials: the total, those of earlier runs included.
            progress: called with an event after every trial; see `Progress`.
            runner: where trials run: a kind, such as `"processes"`, or a `Runner` with its settings.
            keep_gb: how much weights and rankings of trials, and trainings of exported networks, may take in the
                folder, in 10^9 bytes; the oldest go first that neither the front nor any trial needs. None keeps all.

        Raises:
            ValueError: another process runs this study, the folder can't be written, or the runner asks for more than
                there is.
            ConnectionError: the storage stayed away; nothing that was told is lost.
            RuntimeError: the last ten trials all failed, or workers can't start.
        """
        if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
            raise ValueError(f"trials={trials!r}: expected an integer of at least 1, the total of all runs")
        runner = Runner(kind=runner) if isinstance(runner, str) else runner
        where = runner if isinstance(runner, Executor) else executor(runner)
        limits = partial(self._limits_of.resolve, self.budget, progress)
        with running(self._engine, limits, trials, where, shelf=self._shelf, progress=progress, keep_gb=keep_gb) as run:
            for left in run.unfinished():
                run.submit(left)
            while True:
                while run.free and (trial := run.ask()) is not None:
                    run.submit(trial)
                if not run.busy:
                    break
                run.tell(*run.next())

    def ask(self) -> Trial | None:
        """A new trial, for a loop of your own; None where every network within the budget was tried.

        The trial is in the study before this returns, running until `tell` is called, also by another process: calls
        of several processes (a cluster's jobs, workers on other machines with the same database) wait for one another.
        A process may be killed anywhere. Samplers see the outcomes of a batch (`Search.batch`) when it is told whole.

            while (trial := study.ask()) is not None and trial.number < 100:
                study.tell(trial, study.evaluate(trial))

        Raises:
            ValueError: another process held the study for a minute, such as one that runs it.
        """
        return self._own_loop.ask()

    def tell(self, trial: Trial | int, outcome: Outcome | float) -> Trial:
        """What became of a trial, final; returns the trial as it is kept.

        Args:
            trial: what `ask` gave, or its number.
            outcome: the error to minimise, or an outcome with more to say, such as `evaluate` gives.

        Raises:
            ValueError: there is no such trial, or it was told already.
            TypeError: the outcome is neither.
        """
        return self._own_loop.tell(trial, outcome)

    def enqueue(self, candidate: Sequence[int]) -> None:
        """Have a candidate tried before anything else is proposed, by `run` too; the same one is tried once.

        Raises:
            ValueError: it is no choice of this space, or over the budget.
        """
        self._own_loop.enqueue(candidate)

    def evaluate(self, trial: Trial | int) -> Outcome:
        """What becomes of a running trial, found here as `run` would; nothing is told.

        Its latency is measured where the budget limits it, its network built, trained as far as the study's fidelity
        asks, and judged on the validation split. What goes wrong is a failed outcome.
        """
        return self._own_loop.evaluate(trial)

    @property
    def _own_loop(self) -> OwnLoop:
        if self._looping is None or self._looping.budget != self.budget:
            self._looping = OwnLoop(self._engine, self._limits_of, self.budget)
        return self._looping

    def _limits(self) -> dict[str, float]:
        """The budget in absolute numbers."""
        return self._limits_of.of(self.budget)

    # --- looking ------------------------------------------------------------------------------------------------------

    def trials(self) -> pd.DataFrame:
        """A row a trial, in number order, running ones included."""
        self._ledger.refresh()
        return trial_table(self._ledger.trials, self.space.axes, self._limits())

    def front(self) -> pd.DataFrame:
        """The non-dominated trials within the budget, cheapest first; empty where none is."""
        self._ledger.refresh()
        front = on_front(self._ledger.trials, self.settings.objectives, self._limits())
        return front_table(front, self.space.axes)

    def status(self) -> dict[str, Any]:
        """Where the study stands, as plain values."""
        self._ledger.refresh()
        return standing(
            self.path,
            self._ledger.trials,
            self.budget,
            self._limits(),
            self.settings.to_json(),
            self._ledger.notes().get("proxies", []),
        )

    def report(self, to: str | Path | None = None, *, pictures: str | Path | None = None) -> Path:
        """The report of this study, one HTML page, and where it lies; see `pages.report`.

        Args:
            to: the file; `report.html` in the study's folder when None.
            pictures: a folder for PNG files of the charts; none are drawn when None.

        Raises:
            FileExistsError: the file is there and is no report.
            ImportError: plotly or jinja2 is missing; the extra `report` brings them.
        """
        from .pages import report

        return report(self.path, to, model=self.model, pictures=pictures).page

    def proxies(self, methods: Sequence[str] = ()) -> pd.DataFrame:
        """How well rankings foretell the errors of the trials so far, best first; see `proxies.proxy_table`.

        A ranking's guess for a network is the share of all scores that it retains, known without building it.

        Args:
            methods: pruning methods that are asked for their scores now; those among the seeds are known already.
        """
        return self._engine.proxies(methods)

    def export(
        self,
        to: str | Path,
        pick: str | int | Budget = "best",
        finetune_epochs: int | None = None,
        progress: Listener | None = None,
        formats: Sequence[str] | None = None,
        *,
        finalists: int = 1,
    ) -> list[Path]:
        """Train the picked networks to the end, write each to its own folder in `to`, and return those folders.

        Training is kept in the study: after a kill, the next call goes on from the last whole epoch.

        Args:
            to: a new folder.
            pick: `"best"` (lowest validation error within the budget), `"all"` (the front), a trial's number, or a
                `Budget`: the best that meets it.
            finetune_epochs: epochs of the last training; the study's `long_epochs` when None.
            progress: called with an event after every epoch and every network.
            formats: some of `"safetensors"`, `"pt2"` (both always written) and `"onnx"`; all that can be when None.
            finalists: how many trials that meet the budget, the best of every resolution in turn, are trained for
                `short_epochs`, the better half of them four times as long, and so on while that is no more than half
                of the last training, to find the best of them. More than 1 is worth it where a search has scored
                networks with shared weights, which favour some resolutions. For `"best"` and a `Budget`.

        Raises:
            FileExistsError: `to` exists; nothing was trained.
            ValueError: no trial fits the pick.
        """
        to = Path(to)
        if to.exists():
            raise FileExistsError(f"{to} exists already; remove it or choose another folder")
        self._ledger.refresh()
        limits = self._limits()
        front = on_front(self._ledger.trials, self.settings.objectives, limits)
        if "latency_ms" in limits and front:
            front = self._still_fast(front, limits["latency_ms"])
        exporter = self._engine.exporter(limits)
        wanted = self._limits_of.of(pick) if isinstance(pick, Budget) else pick
        picked = exporter.pick(self._ledger.trials, front, wanted)
        tried = self._finalists(finalists, limits if pick == "best" else wanted)
        with locked(self.path), reproducible(self.settings.threads, self.settings.torch_device):
            if self._shelf is not None:
                for trial in [*picked, *tried]:
                    self._shelf.pull(self._engine.artifacts.paths(trial.ranking, trial.weights))
            if tried:
                picked = [exporter.best_of(tried, finetune_epochs, progress)]
            return exporter.export(to, picked, front, finetune_epochs, progress, formats)

    def _finalists(self, count: int, within: object) -> list[Trial]:
        """The trials within absolute limits that are tried before one is exported; none where the best is taken."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"finalists={count!r}: expected an integer of at least 1")
        if count == 1:
            return []
        if not isinstance(within, Mapping):
            raise ValueError(f"finalists={count} with pick={within!r}, which says what to export; expected pick='best'")
        fit = [trial for trial in self._ledger.trials if trial.scored and trial.within(within)]
        found = finalists_of(fit, self.space, self.settings.objectives, count)
        return self._still_fast(found, within["latency_ms"]) if "latency_ms" in within else found

    def _still_fast(self, front: list[Trial], limit_ms: float) -> list[Trial]:
        """The trials of a front that are within the latency budget also when they are measured again."""
        with locked(self.path), reproducible(self.settings.threads, self.settings.torch_device):
            again = self._engine.latencies.measure([trial.candidate for trial in front])
        for trial, timing in zip(front, again, strict=True):
            if timing.ms > limit_ms:
                logger.warning(
                    "trial %d is left out: measured again it takes %.3g ms, and the budget is %.3g ms",
                    trial.number,
                    timing.ms,
                    limit_ms,
                )
        return [trial for trial, timing in zip(front, again, strict=True) if timing.ms <= limit_ms]

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}, trials={len(self._ledger.trials)}, budget={self.budget})"


def _ledger(path: Path, found: Mapping[str, Any], space: Space, settings: Settings, given: str | None) -> Ledger:
    patience = Patience(described_storage(path, found["storage"]))
    storage = connect(storage_url(path, found, given), path)
    return Ledger(storage, found["name"], space.axes, settings.objectives, patience=patience)


def _check_types(model: object, task: object, space: object, budget: object) -> None:
    for name, value, kind in (("model", model, nn.Module), ("space", space, Space), ("budget", budget, Budget)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} is a {type(value).__name__}; expected a {kind.__name__}")
    if not isinstance(getattr(task, "fingerprint", None), str):
        raise TypeError(f"task is a {type(task).__name__}; expected a Task such as Classification")
