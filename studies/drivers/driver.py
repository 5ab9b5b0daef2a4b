"""A run of a study: a place among its drivers, and all that a search is put together from.

Start reading at `Driver.run`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

from ...spaces import Budget
from ..disk.lock import locked
from ..disk.shelf import PROPOSALS, Shelf
from ..proposals.proxies import known
from ..runners.board import Board
from ..runners.dispatch import Dispatcher
from ..runners.executor import Executor
from ..runners.interrupts import Interrupts
from ..settings.determinism import reproducible
from ..settings.settings import SHARED, Settings
from ..trials.events import Listener
from ..trials.folder import read_study_json, storage_lock
from ..trials.front import on_front
from ..trials.ledger import Ledger
from ..trials.progress import Progress
from ..trials.storage import is_shared
from ..trials.trial import Trial
from .bounds import Bounds
from .crew import Crew
from .engine import Engine
from .joined import JoinedSearch
from .keeping import Keeping
from .loop import Search

logger = logging.getLogger("secateur")


@final
@dataclass(frozen=True, kw_only=True)
class Driver:
    """Brings a study to a number of trials, alone or with others.

    Attributes:
        engine: makes what the search is made of; knows folder, settings and trials.
        shelf: where artifacts are kept besides, if anywhere.
        bounds: turn the budget into limits.
        budget: of this run.
    """

    engine: Engine
    shelf: Shelf | None
    bounds: Bounds
    budget: Budget

    @property
    def _path(self) -> Path:
        return self.engine.path

    @property
    def _ledger(self) -> Ledger:
        return self.engine.ledger

    @property
    def _settings(self) -> Settings:
        return self.engine.settings

    def run(self, trials: int, where: Executor, progress: Listener | None, join: bool, keep_gb: float | None) -> None:
        """Go on until there are so many trials in all; the arguments and errors are those of `Study.run`."""
        if not where.apart:
            _ = self._settings.here
        beside = storage_lock(self._path, read_study_json(self._path))
        if join:
            self._check_shareable()
        with (
            locked(self._path, shared=join, also=beside),
            self._crew(join) as crew,
            reproducible(self._settings.threads, self._settings.torch_device),
        ):
            self._ledger.refresh()
            if "trials" not in self._ledger.notes():
                self._ledger.note("trials", trials)  # what `auto` chooses by; a later run changes nothing of it
            limits = self.bounds.settle(self.budget, progress)
            board = Board(self._path, goal=trials, owner=crew.id if join and crew is not None else None)
            with Interrupts() as interrupts:
                dispatcher = Dispatcher(
                    where,
                    self.engine.work(limits),
                    folder=self._path,
                    gate=self.engine.gate(limits),
                    timeout_s=where.options.timeout_s,
                    retries=where.options.retries,
                    interrupts=interrupts,
                    board=board,
                )
                tidy = self._tidying(limits, keep_gb, dispatcher.evaluation.keeps_weights, progress)
                proposer = partial(self.engine.proposer, limits, progress)
                search = Search(
                    ledger=self._ledger,
                    proposer=proposer(),
                    dispatcher=dispatcher,
                    limits=limits,
                    watch=Progress(tidy, trials, self._settings.objectives, limits, board),
                )
                try:
                    if join and crew is not None:
                        JoinedSearch(search, crew, renew=proposer, fetch=self._fetch).run(trials)
                    elif where.options.asynchronous:
                        search.run_asynchronous(trials)
                    else:
                        search.run(trials, self._settings.batch)
                finally:
                    board.close()
                    dispatcher.close()
            self._ledger.note("proxies", known(self.engine.proxies()))
            if "latency_ms" in limits and not on_front(self._ledger.trials, self._settings.objectives, limits):
                logger.warning("no network was within latency_ms=%g; the front is empty", limits["latency_ms"])

    def _check_shareable(self) -> None:
        """Refuse to join where drivers can't work together."""
        if not is_shared(self._ledger.storage):
            raise ValueError(
                f"join=True needs a database server, and the trials of {self._path} are in a file, which one driver "
                "has to itself; make the study with storage='postgresql://USER@HOST/DATABASE', or give one driver more "
                "workers"
            )
        evaluator = self.engine.fingerprint["evaluator"]
        if evaluator == SHARED or self.engine.work(self.bounds.of(self.budget)).evaluation.keeps_weights:
            raise ValueError(
                f"join=True with the sampler {self._settings.sampler!r} and the evaluator {evaluator!r}: their trials "
                "start from weights that one driver keeps in its folder; run it alone with more workers, or take a "
                "sampler that does not, such as 'tpe'"
            )

    @contextmanager
    def _crew(self, joined: bool) -> Iterator[Crew | None]:
        """This driver among those of the study; None where the folder's lock is enough."""
        if not is_shared(self._ledger.storage):
            yield None
            return
        with Crew(self._ledger, joined=joined) as crew:
            self._ledger.refresh()
            noted = self._ledger.notes()["budget"]
            if joined and crew.others() and noted != self.budget.given():
                raise ValueError(
                    f"the drivers that share {self._path} search within {noted}, and this one is given "
                    f"{self.budget.given()}; give the same budget"
                )
            self._ledger.guard = crew.check
            try:
                yield crew
            finally:
                self._ledger.guard = lambda: None

    def _tidying(
        self, limits: Mapping[str, float], keep_gb: float | None, parents: bool, progress: Listener | None
    ) -> Callable[[dict[str, Any]], None]:
        """What happens after every trial: what is new is copied, and what is too much removed."""
        keeping = Keeping(
            self._path,
            keep_gb,
            objectives=self._settings.objectives,
            ranking=self.engine.ranking,
            parents=parents,
        )
        if self.shelf is not None:
            names = self.shelf.names()
            proposals = [name for name in names if name.startswith(PROPOSALS)]
            self.shelf.pull([*keeping.needed(self._ledger.trials, limits, names), *proposals])

        def tidy(event: dict[str, Any]) -> None:
            removed = keeping(self._ledger.trials, limits)
            if self.shelf is not None:
                self.shelf.push()
                self.shelf.remove(removed)
            if progress is not None:
                progress(event)

        return tidy

    def _fetch(self, trial: Trial) -> None:
        """Have what a trial is built from in the folder, where it is kept elsewhere too."""
        if self.shelf is not None:
            self.shelf.pull(self.engine.artifacts.paths(trial.ranking, trial.weights))
