"""A study: one search, on disk. Start reading at `Study.run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, final

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from ..evaluators import Latency, Task, Training
    from ..pruners import Method
    from ..search import SamplerFactory
    from ..spaces import Budget, Space
    from .disk.weights import ModelSource
    from .drivers.ask_tell import OwnLoop
    from .drivers.making import Again, Further, Parts
    from .look import Look
    from .proposals.seeds import Seed
    from .runners.executor import Executor
    from .settings.runner import Runner
    from .settings.search import Search
    from .trials.events import Listener
    from .trials.trial import Outcome, Trial
    from .views.progress import Asked
    from .views.status import Status


# What a method needs is imported when it is called: the name `secateur.Study` alone loads a few files, not the house.


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
        search: how it searches, with nothing left open.
        training: how networks are trained.
        latency: how networks are timed.
        fingerprint: what must be the same to go on, part by part.
    """

    def __init__(self, parts: Parts) -> None:
        """Use `Study.create` or `Study.open`."""
        engine = parts.engine
        self.path, self.model, self.task, self.space = engine.path, engine.model, engine.task, engine.space
        self.search, self.training, self.latency = engine.search, engine.training, engine.latency
        self.fingerprint, self.budget = engine.fingerprint, parts.budget
        self._engine, self._ledger, self._mirror = engine, engine.ledger, parts.mirror
        self._looping: OwnLoop | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        model: nn.Module,
        task: Task,
        space: Space,
        budget: Budget,
        search: Search | None = None,
        training: Training | None = None,
        latency: Latency | None = None,
        storage: str | None = None,
        artifacts: str | None = None,
        **further: Unpack[Further],
    ) -> Study:
        """A new study in the folder `path`, which appears whole or not at all.

        Args:
            path: the folder; must not exist.
            model: the trained full network; left as it is.
            task: data, loss and error; the search sees its train and validation splits only.
            space: `Space.trace` of `model`.
            budget: hard limits on the pruned model.
            search: how it is searched: sampler, seeds, fidelity, device and more; `Search()` when None.
            training: how networks are trained; `Training()` when None.
            latency: how networks are timed; `Latency()` when None: one example, the study's threads and dtype.
            storage: URL of where the trials are kept; an SQLite file in the folder when None. `"journal:PATH"` is a
                file for network file systems, a relative path in the folder; `"postgresql://USER@HOST/DATABASE"` and
                `mysql` are servers, shared by `ask` and `tell`. A password in it is used and never written down.
            artifacts: an fsspec path, as `"s3://bucket/study"`: trials' weights and rankings are copied to and from it.
            further: `expect_error`, its validation error as you know it, to be held against ours; or `"untrained"`.

        Raises:
            FileExistsError: the folder exists.
            ValueError, TypeError: an argument is off, a budget is out of reach, the space is not of this model, or the
                full network only guesses, or is far from `expect_error`.
        """
        from .drivers.making import made

        parts = made(
            Path(path),
            model=model,
            task=task,
            space=space,
            budget=budget,
            search=search,
            training=training,
            latency=latency,
            storage=storage,
            artifacts=artifacts,
            **further,
        )
        return cls(parts)

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
        training: Training | None = None,
        storage: str | None = None,
        device: str | None = None,
        **again: Unpack[Again],
    ) -> Study:
        """The study in the folder `path`, ready to go on; nothing is written before it runs.

        Args:
            path: the study's folder.
            model: the network with the weights of the start; or a function that makes it, to have them loaded.
            task: the same as at the start.
            budget: other limits from now on; all trials are used again. The last ones when None.
            sampler: the same factory as at the start, where it was no name.
            evaluator: the same as at the start, where there was one.
            training: the same as at the start, where it has an optimizer or a schedule that is no name.
            storage: the URL of the start again, with its password; None where it needs none or knows it (`~/.pgpass`).
            device: another of the same kind, such as `"cuda:1"`; that of the start when None.
            again: `costs`, those of your own that it has (`Search.costs`), by the same names.

        Raises:
            OSError, ValueError: there is no study, it is another's or damaged, or the budget is out of reach.
        """
        from .drivers.making import found

        asked: dict[str, Any] = {"budget": budget, "sampler": sampler, "evaluator": evaluator, "training": training}
        return cls(found(Path(path), model=model, task=task, storage=storage, device=device, **asked, **again))

    @staticmethod
    def look(path: str | Path, *, storage: str | None = None, connect: bool = False) -> Look:
        """The study in the folder `path` as its folder says, without model and task: nothing is written, run or sent.

        Args:
            path: the study's folder.
            storage: as of `open`.
            connect: whether a database server that only the folder names may be connected to.

        Raises:
            FileNotFoundError: there is no study.
            ValueError: it is damaged, or of another version.
        """
        from .look import Look

        return Look(path, storage=storage, connect=connect)

    # --- searching ----------------------------------------------------------------------------------------------------

    def run(
        self,
        trials: int | None = None,
        progress: Asked = "auto",
        *,
        seconds: float | None = None,
        until: float | None = None,
        patience: int | None = None,
        runner: str | Runner | Executor = "serial",
        keep_gb: float | None = None,
    ) -> None:
        """Search until the first of what is given ends it, which `status` names; safe to kill and to call again.

        An interrupt (Ctrl-C) lets the trials that run end first; a second one leaves at once.

        Args:
            trials: how many in all, those of earlier runs included.
            seconds: how long all runs take together; then no trial begins, and those that run are told.
            until: an error, that a trial within the budget comes to or below, seen when a batch of trials is told.
            patience: so many trials in a row that add less than a thousandth to the front's hypervolume, as `until`.
            progress: told of every `TrialEnded`, and of what else happens; see `trials/events.py`. "auto" is a bar in
                terminals and notebooks, None nothing; the log `secateur` has a line a trial at INFO.
            runner: where trials run: a kind, such as `"processes"`, or one with settings, as `Processes(workers=4)`.
            keep_gb: how many 10^9 bytes weights and rankings of trials, and trainings of exported networks, may take in
                the folder; the oldest go first that neither front nor trials need. None keeps all.

        Raises:
            ValueError: nothing ends it, another process runs it, or the runner asks for too much.
            ConnectionError: the storage stayed away; nothing that was told is lost.
            RuntimeError: the last ten trials all failed, or workers can't start.
        """
        from .drivers.run import Ending, running
        from .runners.dispatch import executor
        from .views.progress import listening

        ending, where = Ending(trials=trials, seconds=seconds, until=until, patience=patience), executor(runner)
        further: dict[str, Any] = {"mirror": self._mirror, "keep_gb": keep_gb}
        with (
            listening(progress) as told,
            running(self._engine, self.budget, ending, where, progress=told, **further) as run,
        ):
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

        The trial is in the study before this returns, running until `tell` is called, also by another process: their
        calls wait for one another, and any may be killed. Samplers see a batch (`Search.batch`) when it is told whole.

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
            outcome: the error to minimise, or an outcome with more to say, such as `evaluate` gives. Costs that only
                a built network has, latency and those of your own, are measured here where a `Scored` has none.

        Raises:
            ValueError: there is no such trial, or it was told already.
            TypeError: the outcome is neither.
        """
        return self._own_loop.tell(trial, outcome)

    def enqueue(self, wanted: Seed | Sequence[int]) -> None:
        """Have a candidate tried before anything else is proposed, by `run` too; the same one is tried once.

        Args:
            wanted: a candidate, or what `propose` gave.

        Raises:
            ValueError: it is no choice of this space, or over the budget.
        """
        self._own_loop.enqueue(wanted)

    def propose(
        self, method: str | Method, limits: Mapping[str, float] | None = None, progress: Listener | None = None
    ) -> Seed:
        """The network that a pruning method makes, with its ranking and weights, which the study keeps; asked once.

        Args:
            method: a name in `pruners.METHODS`, or a method of your own.
            limits: absolute, by cost name; the study's own, but for latency and costs of your own, when None.
            progress: called with an `Epoch` after every epoch of a method that trains, and with what it `Proposed`.

        Raises:
            ValueError: the method is unknown or can't do what is asked.
        """
        from ..evaluators.modes import reproducible
        from .proposals.pruning import method_named
        from .proposals.seeds import Aim

        known = {name: limit for name, limit in self.limits().items() if name in self.space.full_costs}
        aim = Aim(limits=known if limits is None else limits)
        asked = method_named(method) if isinstance(method, str) else method
        with reproducible(self.search.threads, self._engine.device):
            return self._engine.seed_maker(progress).ask(asked, aim)

    def evaluate(self, trial: Trial | int) -> Outcome:
        """What becomes of a running trial, found here as `run` would; nothing is told. A fault is an outcome."""
        return self._own_loop.evaluate(trial)

    @property
    def _own_loop(self) -> OwnLoop:
        from .drivers.ask_tell import OwnLoop

        if self._looping is None or self._looping.budget != self.budget:
            self._looping = OwnLoop(self._engine, self.budget)
        return self._looping

    def limits(self) -> dict[str, float]:
        """The budget in absolute numbers."""
        return self._engine.limits(self.budget)

    # --- looking ------------------------------------------------------------------------------------------------------

    def trials(self) -> pd.DataFrame:
        """A row a trial, in number order, running ones included."""
        from .trials.front import trial_table

        self._ledger.refresh()
        return trial_table(self._ledger.trials, self.space.axes, self.limits())

    def front(self) -> pd.DataFrame:
        """The non-dominated trials within the budget and of use (`max_error`), cheapest first; empty where none is."""
        from .trials.front import counting
        from .views.notebook import front_of

        self._ledger.refresh()
        counts = counting(self._ledger.trials, self.limits(), self.search.max_error)
        return front_of(self.path, self._ledger.trials, self.space.axes, self.search.objectives, counts)

    def status(self) -> Status:
        """Where the study stands."""
        from .trials.folder import read_study_json
        from .views.status import status_of

        self._ledger.refresh()
        found, ledger = read_study_json(self.path, to_write=False), self._ledger
        return status_of(self.path, ledger.trials, self.budget, self.limits(), found, ledger.notes)

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
        """How well the share of a ranking's scores that networks retain predicts their errors, best first.

        Args:
            methods: pruning methods that are asked for their scores now; those among the seeds are known already.
        """
        return self._engine.proxies(methods)

    def export(
        self,
        to: str | Path,
        pick: str | int | Budget | Mapping[str, float] = "best",
        finetune_epochs: int | None = None,
        progress: Asked = "auto",
        formats: Sequence[str] | None = None,
        *,
        finalists: int = 1,
        pictures: bool = False,
        any_side: bool = False,
        notes: Mapping[str, Any] | None = None,
    ) -> list[Path]:
        """Train the picked networks to the end, write each to its own folder in `to`, and return those folders.

        Training is kept in the study: after a kill, the next call goes on from the last whole epoch.

        Args:
            to: a new folder.
            pick: `"best"` (lowest error expected within the budget), `"all"` (the front), `"knee"` (where it bends),
                a trial's number, a `Budget`: the best within it, or `{"error": 0.03}`: the cheapest with that.
            finetune_epochs: epochs of the last training; the study's `long_epochs` when None.
            progress: told of every `Epoch` and of every network `Trained` and `Exported`; as of `run`.
            formats: some of `"safetensors"` (always), `"pt2"`, `"onnx"`; all that can be when None, as the record says.
            finalists: how many trials within the budget, the best of every resolution in turn, are trained a little,
                the better half four times as long, and so on, to find the best: worth it after shared weights.
            pictures: the programs (`"pt2"`, `"onnx"`) take pictures, uint8 `(batch, *side, channels)` of 0..255, and
                scale and normalise them as the task's `preprocessing` says; they do not resize.
            any_side: the programs take every side that the network takes, not that of the candidate alone.
            notes: further entries of every `config.json`, plain values; its `errors` join, a `license` is on the card.

        Raises:
            FileExistsError: `to` exists; nothing was trained.
            ValueError: no trial fits the pick, or programs cannot be as asked, which is tried before any training.
        """
        from .drivers.exporting import Export
        from .exports.conversion import Wanted
        from .views.progress import listening

        export, wanted = Export(self._engine, self.budget, self._mirror), Wanted(formats, pictures, any_side)
        with listening(progress) as told:
            return export(Path(to), pick, finetune_epochs, told, wanted, finalists, notes or {})

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}, trials={len(self._ledger.trials)}, budget={self.budget})"

    def _repr_html_(self) -> str:
        from .views.notebook import study_html

        return study_html(self)
